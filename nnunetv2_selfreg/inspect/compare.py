"""Means and spreads over cases, and the paired differences of two models."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nnunetv2_selfreg.inspect.measure import STUDENTS, Inspection, Key, Values

SHARE = "in_class_share"


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


def compare(first: Inspection, second: Inspection) -> dict[Key, Difference]:
    """The paired differences of two models; those of all students only where both have the same."""
    found = differences(first.values, second.values)
    same = list(first.model.students) == list(second.model.students)
    return {key: difference for key, difference in found.items() if same or key.stage != STUDENTS}


def differences(first: Values, second: Values) -> dict[Key, Difference]:
    """The paired differences of each figure that both models have, second minus first.

    Of the in-class share also the mean of the differences over the classes of which both models have a map.
    """
    paired: Values = {}
    for key, values in first.items():
        others = second.get(key, {})
        paired[key] = {
            case: other - value
            for case, value in values.items()
            if value is not None and (other := others.get(case)) is not None
        }
    found = {}
    for key, values in with_class_means(paired).items():
        by_case = {case: value for case, value in values.items() if value is not None}
        each = list(by_case.values())
        found[key] = Difference(*_mean_and_sd(each), len(each), sum(value > 0 for value in each), by_case)
    return found


def with_class_means(values: Values) -> Values:
    """The figures, and without a class the mean of each in-class share over the classes that have it."""
    stages = dict.fromkeys(key.stage for key in values if key.measure == SHARE)
    return values | {Key(SHARE, stage): mean_over_targets(values, SHARE, stage) for stage in stages}


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
