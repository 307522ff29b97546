"""Two trainings compared on any data set: over cases, of each run, and over folds.

Scores come as a tidy frame with the columns `repetition`, `fold`, `case`, `cluster`, `class` and `value`. A run is one
training, named by its repetition and fold. Runs may score the same cases (a test set) or each its own (the validation
cases of a fold): a case's score is the mean over the runs that scored it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from nnunetv2_selfreg import statistics
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import listed

MEAN = "mean"
RUN = ["repetition", "fold"]


@dataclass(frozen=True)
class Comparison:
    """One training's scores minus another's, on the runs that both have; `mean` is the mean over classes.

    Attributes:
        over_cases: By class: the means `mine` and `other`, and what `statistics.difference` gives. Its interval
            speaks of other cases.
        by_run: The differences of the runs (runs x classes).
        by_fold: The same, averaged over repetitions (folds x classes).
        over_folds: By class: what `statistics.spread` gives. Its interval speaks of other trainings, too.
    """

    over_cases: pd.DataFrame
    by_run: pd.DataFrame
    by_fold: pd.DataFrame
    over_folds: pd.DataFrame


def compare(
    mine: pd.DataFrame, other: pd.DataFrame, classes: Sequence[str], margin: float, higher_is_better: bool = True
) -> Comparison:
    """Compares two trainings.

    Args:
        mine: Scores of the first.
        other: Scores that are subtracted, of the same runs and cases.
        classes: What to compare; a class that nothing was scored for is NaN.
        margin: From which difference on a case counts as better or worse.
        higher_is_better: Whether a higher score is better.

    Raises:
        SelfRegError: The two scored different cases, or a class is called `mean`.
    """
    if MEAN in classes:
        raise SelfRegError(f"a class is called {MEAN!r}, as the mean over classes is here; rename it in dataset.json")
    cases, others = by_case(mine, classes), by_case(other, classes)
    check_same_cases("comparison", {"the first training": cases.index, "the second": others.index})
    clusters = mine.drop_duplicates("case").set_index("case")["cluster"][cases.index].to_numpy(str)
    over_cases = {}
    for name, columns in _columns(classes).items():
        pair = cases[columns].to_numpy(), others[columns].to_numpy()
        means = {"mine": statistics.mean(pair[0]), "other": statistics.mean(pair[1])}
        over_cases[name] = means | statistics.difference(*pair, clusters, margin, higher_is_better)
    by_run = run_means(mine, classes) - run_means(other, classes)
    by_fold = by_run.groupby("fold").agg(statistics.exact_mean)
    return Comparison(_by_class(over_cases), by_run, by_fold, spreads(by_fold))


def counted_by_both(mine: pd.DataFrame, other: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """Two trainings' scores without the classes of a run that count for one of them alone, and the classes' names.

    nnU-Net counts the Dice of a class that is in no reference as 0 where it is predicted, and nowhere else. The means
    of the two would be over different classes.
    """
    keys = [*RUN, "class"]
    counted = [set(scores.dropna(subset="value")[keys].itertuples(index=False, name=None)) for scores in (mine, other)]
    if not (alone := counted[0] ^ counted[1]):
        return mine, other, []
    mine, other = (
        scores.assign(value=scores["value"].mask(pd.MultiIndex.from_frame(scores[keys]).isin(list(alone))))
        for scores in (mine, other)
    )
    return mine, other, sorted({name for *_, name in alone})


def by_case(scores: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Each case's scores, averaged over runs (cases x classes)."""
    by_run = scores.pivot(index="case", columns=["class", *RUN], values="value")
    known = by_run.columns.unique("class")
    nothing = np.full((len(by_run), 1), np.nan)
    means = {name: by_run[name].to_numpy() if name in known else nothing for name in classes}
    return pd.DataFrame({name: statistics.case_means(values) for name, values in means.items()}, by_run.index)


def run_means(scores: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Each run's mean over its cases (runs x classes); `mean` is the mean over classes."""
    means = {}
    for run, rows in scores.groupby(RUN):
        cases = by_case(rows, classes)
        means[run] = [statistics.mean(cases[columns].to_numpy()) for columns in _columns(classes).values()]
    index = pd.MultiIndex.from_tuples(list(means), names=RUN)
    return pd.DataFrame(list(means.values()), index, list(_columns(classes)))


def spreads(values: pd.DataFrame) -> pd.DataFrame:
    """`statistics.spread` of each column: (runs x classes) to (classes x mean, sd, low, high)."""
    return _by_class({str(name): statistics.spread(column.tolist()) for name, column in values.items()})


def check_same_cases(what: str, cases: Mapping[str, Iterable[str]]) -> None:
    """Raises SelfRegError, which begins with `what`, if the cases of two runs (by the runs' names) are not the same."""
    (first, mine), (second, other) = cases.items()
    for name, lacking, complete in ((second, set(mine) - set(other), first), (first, set(other) - set(mine), second)):
        if lacking:
            raise SelfRegError(
                f"{what}: {name} lacks {listed(sorted(lacking))}, which {complete} has; score both on the same cases"
            )


def _columns(classes: Sequence[str]) -> dict[str, list[str]]:
    return {MEAN: list(classes)} | {name: [name] for name in classes}


def _by_class(rows: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows.values()), pd.Index(list(rows), name="class"))
