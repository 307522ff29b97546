"""Means and spreads over cases, and the paired differences of two models; everything is a pandas frame.

A frame of values has a row for each value and the columns `model` (its letter), `case`, `stage`, `class`, `measure` and
`value`. The stage is `students` for all students together and `input` for what no stage changes; the class is empty for
what is of all channels. The value is NaN where there is none, such as the share of a map without mass.
"""

from collections.abc import Sequence

import pandas as pd

STUDENTS, INPUT = "students", "input"
IN_CLASS, AREA, NO_MASS = "in_class_share", "class_area", "maps_without_mass"
# what is measured beside the terms
CHANNEL_MEASURES = ("redundancy", "effective_rank", "effective_rank_share", "partner_correlation", "constant_channels")
MEASURES = (IN_CLASS, AREA, NO_MASS, *CHANNEL_MEASURES)
DIFFERENCE = "B - A"  # the model of a frame of differences
KEYS = ["measure", "stage", "class"]


def with_class_means(values: pd.DataFrame) -> pd.DataFrame:
    """The values, and without a class each case's mean in-class share over the classes that have one."""
    keys = [name for name in values.columns if name not in ("class", "value")]
    shares = values[values["measure"] == IN_CLASS].groupby(keys, sort=False)["value"].mean().reset_index()
    return pd.concat([values, shares.assign(**{"class": ""})], ignore_index=True)


def summarise(values: pd.DataFrame) -> pd.DataFrame:
    """Of each model's measure, stage and class a row with what the cases have in common.

    Returns:
        `model`, `measure`, `stage`, `class` and: `mean` and sample standard deviation `sd` over the cases that have a
        value, how many these `cases` are, in how many of them it is above 0 (`higher`), and how many are `missing` it.
    """
    grouped = values.assign(higher=values["value"] > 0).groupby(["model", *KEYS], sort=False)
    summary = grouped["value"].agg(mean="mean", sd="std", cases="count", missing="size")
    summary["missing"] -= summary["cases"]
    return summary.assign(higher=grouped["higher"].sum()).reset_index()


def differences(values: pd.DataFrame, left_out: Sequence[str] = ()) -> pd.DataFrame:
    """Model B minus model A, for each value that both have; of the in-class share also the mean over the classes.

    Args:
        values: Of the models A and B.
        left_out: Stages that are not compared.

    Returns:
        A frame of values whose model is `B - A`.
    """
    values = values[~values["stage"].isin(left_out)]
    first, second = (values[values["model"] == letter] for letter in "AB")
    paired = first.merge(second, on=["case", *KEYS], suffixes=("_a", "_b"))
    paired["value"] = paired["value_b"] - paired["value_a"]
    return with_class_means(paired.dropna(subset="value").assign(model=DIFFERENCE)[["model", "case", *KEYS, "value"]])
