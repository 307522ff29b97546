"""Differences of two arms: brute force on few cases, and what must hold of any."""

from collections.abc import Mapping
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import PermutationMethod, wilcoxon

from nnunetv2_selfreg.statistics import (
    Scores,
    bootstrap,
    case_means,
    difference,
    exact_mean,
    mean,
    spread,
)

NAN = np.nan


def names(count: int, each: int = 1) -> NDArray[np.str_]:
    return np.array([f"c{number // each}" for number in range(count)])


def arms(cases: int, classes: int, seed: int = 0, gain: float = 0.0) -> tuple[Scores, Scores]:
    rng = np.random.default_rng(seed)
    stock = rng.uniform(0.7, 1, (cases, classes))
    return stock + gain + rng.normal(0, 0.02, (cases, classes)), stock


def width(found: Mapping[str, float]) -> float:
    return found["high"] - found["low"]


def test_mean_is_over_cases_then_classes() -> None:
    assert mean(np.array([[1.0, NAN], [0.0, 0.2], [0.5, 0.4]])) == pytest.approx((0.5 + 0.3) / 2)
    assert np.isnan(mean(np.array([[NAN], [NAN]])))


def test_spread_is_over_runs() -> None:
    found = spread([1.0, 2.0, 6.0])
    deviation = np.sqrt((4 + 1 + 9) / 2)
    assert (found["mean"], found["sd"]) == (3, pytest.approx(deviation))
    half = 4.302653 * deviation / np.sqrt(3)  # Student's t of two degrees of freedom, from a table
    assert (found["low"], found["high"]) == pytest.approx((3 - half, 3 + half))
    assert spread([2.0]) == pytest.approx({"mean": 2, "sd": NAN, "low": NAN, "high": NAN}, nan_ok=True)
    assert spread([1.0, NAN, 2.0, 6.0]) == found
    assert np.isnan(spread([NAN])["mean"])
    np.testing.assert_allclose(case_means(np.array([[0.2, 0.4], [NAN, NAN], [NAN, 1]])), [0.3, NAN, 1])


def test_sums_are_exact_whatever_their_order() -> None:
    """0.1 ten times, beside numbers that take its digits away from every sum that is rounded on its way."""
    values = [1e16, *[0.1] * 10, -1e16]
    assert sum(values) == 0
    orders = [values, values[::-1], sorted(values)]
    assert exact_mean(values) == pytest.approx(1 / 12)
    assert len({exact_mean(order) for order in orders}) == 1
    assert len({mean(np.array(order)[:, None]) for order in orders}) == 1
    assert all(spread(order) == spread(values) for order in orders)


def test_bootstrap_does_not_depend_on_the_order_of_cases() -> None:
    selfreg, stock = arms(40, 3)
    selfreg[5, 1] = NAN
    clusters = names(40, each=2)
    expected = bootstrap(selfreg, stock, clusters, 500, seed=0)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(40)
        np.testing.assert_array_equal(bootstrap(selfreg[order], stock[order], clusters[order], 500, 0), expected)


def test_bootstrap_is_the_enumeration_of_every_sample() -> None:
    """Three clusters of one, two and three cases, a case not counted in one arm: 27 equally likely samples."""
    selfreg, stock = arms(6, 2)
    stock[3, 1] = NAN
    clusters = np.array(["a", "b", "b", "c", "c", "c"])
    enumerated = []
    for drawn in product("abc", repeat=3):
        rows = [row for name in drawn for row in np.flatnonzero(clusters == name)]
        enumerated.append(mean(selfreg[rows]) - mean(stock[rows]))
    ours = bootstrap(selfreg, stock, clusters, 40_000, seed=0)
    assert set(np.round(ours, 9)) == set(np.round(enumerated, 9))
    assert ours.mean() == pytest.approx(np.mean(enumerated), abs=4 * np.std(enumerated) / 200)
    # the least and the greatest of 27 are each more than 2.5 %, and less than 5 %
    found = difference(selfreg, stock, clusters, 0.01)
    assert (found["low"], found["high"]) == pytest.approx((min(enumerated), max(enumerated)))


def test_wilcoxon_is_the_enumeration_of_every_sign() -> None:
    selfreg, stock = arms(9, 1, gain=0.01)
    found = difference(selfreg, stock, names(9), 0.01)
    gain = (selfreg - stock)[:, 0]
    permuted = wilcoxon(gain, method=PermutationMethod(n_resamples=10_000))  # 2^9 signs: every one of them
    assert found["p"] == pytest.approx(permuted.pvalue)


def test_wilcoxon_tests_the_means_of_clusters() -> None:
    selfreg, stock = arms(12, 3, gain=0.01)
    gain = (selfreg - stock).mean(axis=1).reshape(6, 2).mean(axis=1)
    found = difference(selfreg, stock, names(12, each=2), 0.01)
    assert found["p"] == pytest.approx(wilcoxon(gain).pvalue)
    assert (found["cases"], found["clusters"]) == (12, 6)


def test_wilcoxon_leaves_out_clusters_that_do_not_differ() -> None:
    """The p of the nine that differ, by all signs that their ranks can have."""
    gains = np.array([1.0, 2, 3, -4, 5, -6, 7, 8, 9, 0, 0]) / 100
    stock = np.full((11, 1), 0.5)
    found = difference(stock + gains[:, None], stock, names(11), 0.01)
    ranks = np.arange(1, 10)
    sums = np.array([ranks[np.array(signs)].sum() for signs in product([False, True], repeat=9)])
    assert found["p"] == pytest.approx(2 * np.mean(sums <= 10))  # 4 and 6 are the ranks of the negative ones


def test_swapped_arms_flip_everything() -> None:
    selfreg, stock = arms(20, 3, gain=0.01)
    one, other = (difference(*pair, names(20, each=2), 0.01) for pair in ((selfreg, stock), (stock, selfreg)))
    assert one["mean"] == pytest.approx(mean(selfreg) - mean(stock))
    assert (one["mean"], one["low"], one["high"]) == pytest.approx((-other["mean"], -other["high"], -other["low"]))
    assert (one["p"], one["better"], one["worse"]) == (pytest.approx(other["p"]), other["worse"], other["better"])
    lower = difference(selfreg, stock, names(20, each=2), 0.01, higher_is_better=False)
    assert (lower["mean"], lower["better"], lower["worse"]) == (one["mean"], one["worse"], one["better"])


def test_identical_arms_differ_in_nothing() -> None:
    stock = arms(10, 2)[1]
    stock[0, 0] = NAN
    found = difference(stock.copy(), stock, names(10), 0.01)
    nothing = {"mean": 0, "low": 0, "high": 0, "p": 1, "better": 0, "worse": 0}
    assert found == nothing | {"cases": 10, "clusters": 10}


def test_duplicated_cases_do_not_narrow_the_interval() -> None:
    selfreg, stock = arms(15, 1)
    twice = [np.repeat(scores, 4, axis=0) for scores in (selfreg, stock)]
    once = difference(selfreg, stock, names(15), 0.01)
    clustered = difference(*twice, names(60, each=4), 0.01)
    naive = difference(*twice, names(60), 0.01)
    for name in ("low", "high", "p"):
        assert clustered[name] == pytest.approx(once[name])
    # four times the cases seem to halve the interval
    assert width(naive) < 0.65 * width(clustered)


def test_counts_are_of_cases_by_more_than_the_margin() -> None:
    stock = np.full((6, 1), 0.90)
    selfreg = np.array([[0.91], [0.9101], [0.89], [0.8899], [0.95], [NAN]])
    found = difference(selfreg, stock, names(6), 0.01)
    assert (found["better"], found["worse"], found["cases"]) == (2, 1, 5)


def test_one_cluster_has_no_interval_and_nothing_counted_no_mean() -> None:
    selfreg, stock = arms(4, 1)
    found = difference(selfreg, stock, names(4, each=4), 0.01)
    assert np.isnan([found["low"], found["high"], found["p"]]).all()
    assert found["clusters"] == 1
    nothing = difference(np.full((3, 1), NAN), stock[:3], names(3), 0.01)
    assert np.isnan([nothing["mean"], nothing["p"]]).all()
    assert nothing["cases"] == 0


def test_interval_covers_the_truth() -> None:
    """95 % intervals of 200 experiments with 30 cases: between 89 and 99 % hold the true difference."""
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        stock = rng.uniform(0.7, 1, (30, 1))
        selfreg = stock + rng.normal(0.01, 0.03, (30, 1))
        low, high = np.percentile(bootstrap(selfreg, stock, names(30), 1000, seed), (2.5, 97.5))
        held += low <= 0.01 <= high
    assert 178 <= held <= 198
