"""Means, spreads and paired differences worked by hand."""

import pytest

pytest.importorskip("captum", reason="needs the extra [inspect]")
from nnunetv2_selfreg.inspect.compare import Difference, Summary, differences, mean_over_targets, summarise
from nnunetv2_selfreg.inspect.measure import Key


def test_a_missing_figure_is_counted_and_not_averaged_as_zero():
    assert summarise({"a": 1.0, "b": None, "c": 3.0}) == Summary(2.0, pytest.approx(2**0.5), 2, 1)
    assert summarise({"a": 1.0}) == Summary(1.0, None, 1, 0)
    assert summarise({"a": None}) == Summary(None, None, 0, 1)


def test_cases_are_paired():
    key, other = Key("redundancy", "encoder.stages.0"), Key("scr", "encoder.stages.0")
    first = {key: {"a": 1.0, "b": 2.0, "c": None, "d": 7.0}, other: {"a": 1.0}}
    second = {key: {"a": 4.0, "b": 1.0, "c": 5.0}}
    found = differences(first, second)
    assert found[key] == Difference(1.0, pytest.approx(8**0.5), 2, 1, {"a": 3.0, "b": -1.0})
    assert found[other] == Difference(None, None, 0, 0, {})


def test_the_mean_over_classes_is_paired_by_class():
    """A class of which one model has no map would shift the mean by what the classes differ in."""
    one, two = (Key("in_class_share", "s", target) for target in ("one", "two"))
    first = {one: {"a": 0.5, "b": 0.5}, two: {"a": None, "b": 0.1}}
    second = {one: {"a": 0.75, "b": 0.25}, two: {"a": 0.0, "b": 0.2}}
    found = differences(first, second)[Key("in_class_share", "s")]
    assert found.by_case == {"a": 0.25, "b": pytest.approx((-0.25 + 0.1) / 2)}
    assert (found.cases, found.higher) == (2, 1)


def test_the_mean_over_classes_is_over_those_a_case_shows():
    values = {
        Key("in_class_share", "s", "one"): {"a": 0.2, "b": 0.4, "c": None},
        Key("in_class_share", "s", "two"): {"a": 0.4},
        Key("in_class_share", "other", "one"): {"a": 1.0},
    }
    assert mean_over_targets(values, "in_class_share", "s") == {"a": pytest.approx(0.3), "b": 0.4, "c": None}
