"""Means and spreads over cases, and the paired differences of two models."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nnunetv2_selfreg.inspect.measure import Key, Values


class Summary(NamedTuple):
    """A figure over cases.

    Attributes:
        mean: Over the cases that have it; None when none has.
        sd: The sample standard deviation over these cases; None with fewer than two.
        cases: How many have it.
        missing: How many cases show the class but have no figure.
    """

    mean: float | None
    sd: float | None
    cases: int
    missing: int


class Difference(NamedTuple):
    """A figure of the second model minus that of the first, over the cases for which both have it.

    Attributes:
        mean: Over cases; None when there is no such case.
        sd: The sample standard deviation over cases; None with fewer than two.
        cases: How many there are.
        higher: In how many of them the second model's is higher.
        by_case: The differences.
    """

    mean: float | None
    sd: float | None
    cases: int
    higher: int
    by_case: dict[str, float]


def summarise(by_case: Mapping[str, float | None]) -> Summary:
    """Mean and spread of one figure over its cases."""
    found = [value for value in by_case.values() if value is not None]
    return Summary(*_mean_and_sd(found), len(found), len(by_case) - len(found))


def differences(first: Values, second: Values) -> dict[Key, Difference]:
    """The paired differences of each figure that both models have, second minus first."""
    found = {}
    for key, values in first.items():
        others = second.get(key, {})
        by_case = {
            case: other - value
            for case, value in values.items()
            if value is not None and (other := others.get(case)) is not None
        }
        higher = sum(value > 0 for value in by_case.values())
        found[key] = Difference(*_mean_and_sd(list(by_case.values())), len(by_case), higher, by_case)
    return found


def mean_over_targets(values: Values, measure: str, stage: str) -> dict[str, float | None]:
    """By case, the mean of a figure over the classes that have it."""
    by_case: dict[str, list[float]] = {}
    for key, each in values.items():
        if (key.measure, key.stage) == (measure, stage):
            for case, value in each.items():
                by_case.setdefault(case, []).extend([] if value is None else [value])
    return {case: float(np.mean(found)) if found else None for case, found in by_case.items()}


def _mean_and_sd(values: list[float]) -> tuple[float | None, float | None]:
    mean = float(np.mean(values)) if values else None
    return mean, float(np.std(values, ddof=1)) if len(values) > 1 else None
