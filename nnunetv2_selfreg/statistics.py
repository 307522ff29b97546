"""Means, spreads, and the difference of two trainings paired by case; the same digits on every processor.

How numpy and BLAS order a sum depends on the processor, and with it the last digit. So every sum here is exact before
it is rounded: `math.fsum`, or a sum of whole numbers.

Scores come as arrays of shape (cases, classes), with NaN for what a rule does not count.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import frexp, fsum, isnan, nan, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student
from scipy.stats import wilcoxon

Scores = NDArray[np.float64]
RESAMPLES = 10_000


def exact_mean(values: Iterable[float]) -> float:
    """The mean of what is counted; NaN where nothing is."""
    counted = [value for value in values if not isnan(value)]
    return fsum(counted) / len(counted) if counted else nan


def mean(scores: Scores) -> float:
    """The mean over cases, then over classes; NaN where nothing is counted."""
    return exact_mean(map(exact_mean, scores.T.tolist()))


def case_means(scores: Scores) -> Scores:
    """The mean of each row: (cases, classes) to (cases)."""
    return np.array([exact_mean(row) for row in scores.tolist()])


def spread(values: Sequence[float]) -> dict[str, float]:
    """The mean of several trainings, and how far they differ: over folds, repetitions or seeds.

    Returns:
        `mean`; `sd`, the sample standard deviation; `low` and `high`, the ends of the mean's 95 % interval by Student's
        t. NaN is left out; without two values all but the mean are NaN.
    """
    counted = [value for value in values if not isnan(value)]
    middle, freedom = exact_mean(counted), len(counted) - 1
    deviation = half = nan
    if freedom > 0:
        deviation = sqrt(fsum((value - middle) ** 2 for value in counted) / freedom)
        half = float(student.ppf(0.975, freedom)) * deviation / sqrt(len(counted))
    return {"mean": middle, "sd": deviation, "low": middle - half, "high": middle + half}


def is_beyond(gain: Scores, margin: float) -> NDArray[np.bool_]:
    """Whether a gain is above a margin; what floating point adds (0.91 - 0.90 > 0.01) does not count."""
    return gain > margin * (1 + 1e-9)


def difference(
    mine: Scores,
    other: Scores,
    clusters: NDArray[np.str_],
    margin: float,
    higher_is_better: bool = True,
    seed: int = 0,
) -> dict[str, float]:
    """Compares two trainings on the same cases.

    The interval is a percentile bootstrap that resamples clusters (patients or images) with all their cases, the same
    ones for both. The test is Wilcoxon's signed-rank test on the differences of the clusters' means, zeros left out;
    where every difference is 0 there is no evidence, and p is 1.

    Args:
        mine: Scores (cases, classes).
        other: Scores that are subtracted, same cases and classes.
        clusters: The independent unit that each case belongs to (cases).
        margin: From which difference on a case counts as better or worse, a number above 0.
        higher_is_better: Whether a higher score is better.
        seed: Of the bootstrap.

    Returns:
        `mean`, of `mine` minus that of `other`; `low` and `high`, the ends of its 95 % interval, and `p`, NaN with
        fewer than two clusters; how many cases are `better` and `worse` by more than the margin; how many `cases` are
        counted in both, and of how many `clusters`.
    """
    per_case = case_means(mine - other)
    counted = ~np.isnan(per_case)
    names = np.unique(clusters[counted])
    low = high = p = nan
    if len(names) > 1:
        per_cluster = [exact_mean(per_case[counted & (clusters == name)]) for name in names]
        ends = np.nanpercentile(bootstrap(mine, other, clusters, RESAMPLES, seed), (2.5, 97.5))
        low, high = float(ends[0]), float(ends[1])
        p = float(wilcoxon(per_cluster).pvalue) if any(per_cluster) else 1.0
    gain = per_case[counted] if higher_is_better else -per_case[counted]
    better, worse = (int(np.count_nonzero(is_beyond(side, margin))) for side in (gain, -gain))
    found = {"mean": mean(mine) - mean(other), "low": low, "high": high, "p": p, "better": better, "worse": worse}
    return found | {"cases": int(counted.sum()), "clusters": len(names)}


def bootstrap(mine: Scores, other: Scores, clusters: NDArray[np.str_], resamples: int, seed: int) -> Scores:
    """Differences of the means in samples of clusters drawn with replacement: one per sample (resamples)."""
    names, index = np.unique(clusters, return_inverse=True)
    draws = _draws(len(names), resamples, seed)
    members = (index == np.arange(len(names))[:, None]).astype(float)
    terms = len(names) * members.sum(axis=1).max()  # of the largest sample
    means = []
    for scores in (mine, other):
        counted = ~np.isnan(scores)
        filled = np.where(counted, scores, 0)
        # scores in whole steps so small that the sum of the largest sample is below 2^53: up to there it is exact
        step = 2.0 ** (frexp(terms * np.abs(filled).max())[1] - 52)
        sums = draws @ (members @ np.rint(filled / step)) * step
        with np.errstate(invalid="ignore"):
            by_class = sums / (draws @ (members @ counted.astype(float)))
        means.append(_mean_of_columns(by_class))
    return means[0] - means[1]


def _mean_of_columns(values: Scores) -> Scores:
    """The mean of each row; one column is added after the other, in the same order everywhere."""
    counted = ~np.isnan(values)
    total = count = np.zeros(len(values))
    for column, is_counted in zip(values.T, counted.T, strict=True):
        total, count = total + np.where(is_counted, column, 0), count + is_counted
    with np.errstate(invalid="ignore"):
        return np.asarray(total / count)


@lru_cache(maxsize=4)
def _draws(clusters: int, resamples: int, seed: int) -> Scores:
    """How often each cluster is in each sample (resamples, clusters): all that a mean needs to know of a sample."""
    chances = np.full(clusters, 1 / clusters)
    return np.random.default_rng(seed).multinomial(clusters, chances, size=resamples).astype(float)
