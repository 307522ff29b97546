"""Means, spreads and paired differences worked by hand."""

import pandas as pd
import pytest

from nnunetv2_selfreg.inspect.values import KEYS, differences, summarise, units, with_class_means

NONE = float("nan")


def frame(model, measure, stage, target="", run="fold 0", **by_case):
    rows = [(model, run, case, measure, stage, target, value) for case, value in by_case.items()]
    return pd.DataFrame(rows, columns=["model", "run", "case", *KEYS, "value"])


def by_case(values, **of):
    for name, wanted in of.items():
        values = values[values[{"target": "class"}.get(name, name)] == wanted]
    return values.set_index("case")["value"].to_dict()


def approx(expected):
    return pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"a": 1.0, "b": NONE, "c": 3.0}, {"mean": 2, "sd": 2**0.5, "count": 2, "missing": 1}),
        ({"a": 1.0, "b": 0.0, "c": -4.0}, {"mean": -1, "sd": 7**0.5, "count": 3, "missing": 0}),
        ({"a": 1.0}, {"mean": 1, "sd": NONE, "count": 1, "missing": 0}),
        ({"a": NONE}, {"mean": NONE, "sd": NONE, "count": 0, "missing": 1}),
    ],
)
def test_a_missing_value_is_counted_and_not_averaged_as_zero(given, expected):
    (row,) = summarise(units(frame("A", "scr", "s", **given))).to_dict("records")
    assert {name: row[name] for name in expected} == approx(expected)
    assert row["by_unit"] == approx(given)


def test_of_several_folds_the_spread_is_over_folds():
    """A fold's value is the mean of its cases; folds 1 and 4, whose cases spread wide, are worlds apart from 2.5."""
    values = pd.concat(
        [
            frame("A", "scr", "s", run="fold 0", a=0.0, b=2.0, c=NONE),
            frame("A", "scr", "s", run="fold 1", a=-6.0, b=14.0, c=4.0),
        ]
    )
    (row,) = summarise(units(values)).to_dict("records")
    assert row["by_unit"] == {"fold 0": 1, "fold 1": 4}
    assert (row["mean"], row["sd"], row["count"]) == (2.5, pytest.approx(4.5**0.5), 2)


def test_folds_are_paired_by_fold():
    """The models differ by 1 in each fold, however far the folds lie apart."""
    values = pd.concat(
        [
            frame("A", "scr", "s", run="fold 0", a=1.0, b=3.0),
            frame("A", "scr", "s", run="fold 1", a=10.0, b=30.0),
            frame("B", "scr", "s", run="fold 1", a=11.0, b=31.0),
            frame("B", "scr", "s", run="fold 0", a=2.0, b=4.0),
        ]
    )
    (row,) = summarise(units(differences(values))).to_dict("records")
    assert row["by_unit"] == {"fold 0": 1, "fold 1": 1}
    assert row["sd"] == 0


def test_cases_are_paired():
    values = pd.concat(
        [
            frame("A", "redundancy", "encoder.stages.0", a=1.0, b=2.0, c=NONE, d=7.0),
            frame("A", "scr", "encoder.stages.0", a=1.0),
            frame("A", "scr", "students", a=1.0),
            frame("B", "redundancy", "encoder.stages.0", a=4.0, b=1.0, c=5.0),
            frame("B", "scr", "students", a=3.0),
        ]
    )
    found = differences(values)
    assert by_case(found, measure="redundancy") == {"a": 3, "b": -1}
    assert by_case(found, measure="scr") == {"a": 2}
    assert by_case(differences(values, ["students"]), measure="scr") == {}


def test_the_mean_over_classes_is_paired_by_class():
    """A class of which one model has no map would shift the mean by what the classes differ in."""
    values = pd.concat(
        [
            frame("A", "in_class_share", "s", "one", a=0.5, b=0.5),
            frame("A", "in_class_share", "s", "two", a=NONE, b=0.1),
            frame("B", "in_class_share", "s", "one", a=0.75, b=0.25),
            frame("B", "in_class_share", "s", "two", a=0.0, b=0.2),
        ]
    )
    assert by_case(differences(values), target="") == approx({"a": 0.25, "b": (-0.25 + 0.1) / 2})


def test_the_mean_over_classes_is_over_those_a_case_shows():
    values = pd.concat(
        [
            frame("A", "in_class_share", "s", "one", a=0.2, b=0.4, c=NONE),
            frame("A", "in_class_share", "s", "two", a=0.4),
            frame("A", "in_class_share", "other", "one", a=1.0),
            frame("A", "scr", "s", a=5.0),
        ]
    )
    found = with_class_means(values)
    assert by_case(found, measure="in_class_share", stage="s", target="") == approx({"a": 0.3, "b": 0.4, "c": NONE})
