"""Two trainings on any data set: cases, runs and folds, with numbers worked by hand."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from nnunetv2_selfreg.comparison import by_case, compare, counted_by_both
from nnunetv2_selfreg.errors import SelfRegError

Runs = Mapping[tuple[int, int], Mapping[str, tuple[float, float]]]  # repetition and fold: case: classes a and b


def scores(runs: Runs) -> pd.DataFrame:
    columns = ["repetition", "fold", "case", "cluster", "class", "value"]
    rows = [
        [*run, case, case[0], name, value]
        for run, cases in runs.items()
        for case, values in cases.items()
        for name, value in zip("ab", values, strict=True)
    ]
    return pd.DataFrame(rows, columns=columns)


STOCK: Runs = {
    (0, 0): {"p1": (70, 50), "p2": (80, 60)},
    (0, 1): {"q1": (90, np.nan)},
    (1, 0): {"p1": (72, 52), "p2": (82, 62)},
}
MINE: Runs = {
    (0, 0): {"p1": (73, 50), "p2": (83, 60)},
    (0, 1): {"q1": (89, np.nan)},
    (1, 0): {"p1": (73, 52), "p2": (83, 62)},
}


def test_each_fold_has_cases_of_its_own_and_repetitions_are_averaged() -> None:
    found = compare(scores(MINE), scores(STOCK), ["a", "b"], margin=1)
    np.testing.assert_array_equal(by_case(scores(STOCK), ["a", "b"]), [[71, 51], [81, 61], [90, np.nan]])
    cases = found.over_cases
    # class a gains 2, 2 and -1, class b nothing in its two cases
    assert cases["mean"].to_dict() == pytest.approx({"mean": 0.5, "a": 1, "b": 0})
    assert cases.loc["a", ["mine", "other"]].tolist() == pytest.approx([245 / 3, 242 / 3])
    assert cases.loc["a", ["better", "worse", "cases", "clusters"]].tolist() == [2, 0, 3, 2]
    assert cases.loc["b", ["cases", "clusters"]].tolist() == [2, 1]
    assert np.isnan(cases.loc["b", "low"])
    assert (cases.loc["a", "low"], cases.loc["a", "high"]) == pytest.approx((-1, 2))  # twice q, and twice p

    assert found.by_run["a"].to_dict() == {(0, 0): 3, (0, 1): -1, (1, 0): 1}
    assert found.by_fold["a"].to_dict() == {0: 2, 1: -1}
    spread = found.over_folds.loc["a"]
    assert (spread["mean"], spread["sd"]) == pytest.approx((0.5, 3 / np.sqrt(2)))
    half = 12.7062 * 1.5  # Student's t of one degree of freedom, from a table
    assert (spread["low"], spread["high"]) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)


def test_runs_that_score_the_same_cases_are_averaged_by_case() -> None:
    stock = {(0, fold): {"p1": (70 + fold, 50), "q1": (80 + fold, 60)} for fold in (0, 1)}
    mine = {run: {case: (a + 2, b) for case, (a, b) in cases.items()} for run, cases in stock.items()}
    found = compare(scores(mine), scores(stock), ["a", "b"], margin=1)
    assert found.over_cases.loc["a", ["other", "mean", "low", "high", "cases"]].tolist() == [75.5, 2, 2, 2, 2]
    assert found.over_folds.loc["a", ["mean", "sd", "low", "high"]].tolist() == [2, 0, 2, 2]


def test_a_class_that_counts_for_one_of_them_alone_enters_no_number() -> None:
    """No reference of the run has class b, and one of the two predicts it once: nnU-Net counts a Dice of 0 there."""
    stock = {(0, 0): {"p1": (90, np.nan), "q1": (80, np.nan)}, (0, 1): {"r1": (70, 60)}}
    mine = {(0, 0): {"p1": (90, 0), "q1": (80, np.nan)}, (0, 1): {"r1": (70, 60)}}
    for one, other in ((mine, stock), (stock, mine)):
        first, second, names = counted_by_both(scores(one), scores(other))
        assert names == ["b"]
        found = compare(first, second, ["a", "b"], margin=1)
        assert found.over_cases.loc["mean", ["mine", "other", "mean", "low", "high"]].tolist() == [70, 70, 0, 0, 0]
        assert found.by_run["mean"].tolist() == [0, 0]
        assert found.over_cases.loc["b", "cases"] == 1


def test_a_class_cannot_be_called_as_the_mean_over_classes() -> None:
    given = scores(STOCK).replace({"class": {"b": "mean"}})
    with pytest.raises(SelfRegError, match=r"a class is called 'mean'.* rename it in dataset\.json"):
        compare(given, given, ["a", "mean"], margin=1)


def test_other_cases_are_refused() -> None:
    other = {run: cases for run, cases in STOCK.items() if run != (0, 1)}
    with pytest.raises(SelfRegError, match="comparison: the second lacks q1, which the first training has"):
        compare(scores(MINE), scores(other), ["a", "b"], margin=1)
