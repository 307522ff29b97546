"""Means over cases and classes, and the difference of two arms paired by case.

Scores come as arrays of shape (cases, classes), with NaN for what a rule does not count.
"""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import wilcoxon

Scores = NDArray[np.float64]
RESAMPLES = 10_000


@dataclass(frozen=True)
class Difference:
    """A SelfReg arm minus its stock arm.

    Attributes:
        mean: Difference of the two arms' means.
        low: Lower end of its 95 % bootstrap confidence interval; None with fewer than two clusters.
        high: Upper end.
        p: Of the two-sided Wilcoxon signed-rank test on the clusters' mean differences; None likewise.
        better: Cases that are better by more than the margin.
        worse: Cases that are worse by more than the margin.
        cases: Cases that are counted in both arms.
        clusters: Independent units that these come from.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    better: int
    worse: int
    cases: int
    clusters: int


def mean(scores: Scores) -> float:
    """The mean over cases, then over classes; NaN where nothing is counted."""
    return float(_nanmean(_nanmean(scores, axis=0)))


def mean_and_sd(values: Scores) -> tuple[float, float | None]:
    """Mean and sample standard deviation over runs (folds or seeds); no deviation of a single run."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def over_runs(scores: Scores) -> Scores:
    """Averages each case's scores over runs: (runs, cases, classes) to (cases, classes)."""
    return _nanmean(scores, axis=0)


def difference(
    selfreg: Scores,
    stock: Scores,
    clusters: NDArray[np.str_],
    margin: float,
    higher_is_better: bool = True,
    seed: int = 0,
) -> Difference:
    """Compares two arms on the same cases.

    The interval is a percentile bootstrap that resamples clusters (patients or images) with all their cases, the same
    ones for both arms. The test is Wilcoxon's signed-rank test on the differences of the clusters' means, zeros left
    out; where every difference is 0 there is no evidence, and p is 1.

    Args:
        selfreg: Scores (cases, classes) of the arm with SelfReg.
        stock: Scores of the stock arm, same cases and classes.
        clusters: The independent unit that each case belongs to (cases).
        margin: From which difference on a case counts as better or worse, a number above 0.
        higher_is_better: Whether a higher score is better.
        seed: Of the bootstrap.

    Returns:
        The difference; its mean is NaN where one arm has no case that is counted.
    """
    per_case = _nanmean(selfreg - stock, axis=1)
    counted = ~np.isnan(per_case)
    names = np.unique(clusters[counted])
    per_cluster = np.array([per_case[counted & (clusters == name)].mean() for name in names])
    low = high = p = None
    if len(names) > 1:
        resampled = bootstrap(selfreg, stock, clusters, RESAMPLES, seed)
        low, high = (float(end) for end in np.nanpercentile(resampled, (2.5, 97.5)))
        p = float(wilcoxon(per_cluster).pvalue) if np.any(per_cluster) else 1.0
    gain = per_case[counted] if higher_is_better else -per_case[counted]
    slack = 1e-9 * margin  # 0.91 - 0.90 is above 0.01 in floating point
    return Difference(
        mean(selfreg) - mean(stock),
        low,
        high,
        p,
        int(np.sum(gain > margin + slack)),
        int(np.sum(gain < -margin - slack)),
        int(counted.sum()),
        len(names),
    )


def bootstrap(selfreg: Scores, stock: Scores, clusters: NDArray[np.str_], resamples: int, seed: int) -> Scores:
    """Differences of the means in samples of clusters drawn with replacement.

    Args:
        selfreg: Scores (cases, classes).
        stock: Scores (cases, classes).
        clusters: The unit of each case (cases).
        resamples: How many samples to draw.
        seed: Of the draws.

    Returns:
        One difference per sample (resamples).
    """
    names, index = np.unique(clusters, return_inverse=True)
    size = len(names)
    # how often each cluster is drawn: all that a mean needs to know of a sample
    draws = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=resamples)
    members = index == np.arange(size)[:, None]
    means = []
    for scores in (selfreg, stock):
        counted = ~np.isnan(scores)
        sums, counts = draws @ (members @ np.where(counted, scores, 0)), draws @ (members @ counted.astype(float))
        with np.errstate(invalid="ignore"):
            means.append(_nanmean(sums / counts, axis=1))
    return means[0] - means[1]


def _nanmean(values: Scores, axis: int | None = None) -> Scores:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mean of empty slice", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axis))
