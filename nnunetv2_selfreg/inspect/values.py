"""Means and spreads over cases or trainings, and paired differences of two models; everything is a pandas frame.

A frame of values has a row for each value and the columns `model` (its letter), `run` (one training of it, such as
`fold 0`), `case`, `measure`, `stage`, `class` and `value`. The stage is `students` for all students together and
`input` for what no stage changes; the class is empty for what is of all channels. The value is NaN where there is none,
such as the share of a map without mass.
"""

import re
from collections.abc import Collection, Sequence
from itertools import zip_longest

import pandas as pd

from nnunetv2_selfreg.taps import FIRST_BLOCK

STUDENTS, INPUT = "students", "input"
IN_CLASS, AREA, NO_MASS = "in_class_share", "class_area", "maps_without_mass"
OF_CHANNELS = ("redundancy", "effective_rank", "effective_rank_share", "partner_correlation", "constant_channels")
MEASURES = (IN_CLASS, AREA, NO_MASS, *OF_CHANNELS)  # beside the terms
DIFFERENCE = "B - A"  # the model of a frame of differences
KEYS = ["measure", "stage", "class"]
# the titles of what two models are compared by, beside the terms; they may differ in their numbers of channels
COMPARED = {
    IN_CLASS: "in-class share",
    "redundancy": "redundancy",
    "effective_rank_share": "effective rank / channels",
    "partner_correlation": "correlation of IFD's pairs",
}


def with_class_means(values: pd.DataFrame) -> pd.DataFrame:
    """The values, and without a class each case's mean in-class share over the classes that have one."""
    keys = [name for name in values.columns if name not in ("class", "value")]
    shares = values[values["measure"] == IN_CLASS].groupby(keys, sort=False)["value"].mean().reset_index()
    return pd.concat([values, shares.assign(**{"class": ""})], ignore_index=True)


def units(values: pd.DataFrame) -> pd.DataFrame:
    """What the spread is over, with a column `unit` in place of `run` and `case`.

    With several runs these are the runs, each with the mean of its cases; with one run the cases.
    """
    if values["run"].nunique() == 1:
        return values.drop(columns="run").rename(columns={"case": "unit"})
    means = values.groupby(["model", "run", *KEYS], sort=False)["value"].mean().reset_index()
    return means.rename(columns={"run": "unit"})


def summarise(values: pd.DataFrame) -> pd.DataFrame:
    """Of each model's measure, stage and class a row with what the units have in common.

    Args:
        values: A frame that `units` gave.

    Returns:
        `model`, `measure`, `stage`, `class` and: `mean` and sample standard deviation `sd` over the units that have a
        value, their `count`, how many are `missing` it, and a mapping of the values `by_unit`.
    """
    grouped = values.groupby(["model", *KEYS], sort=False)
    summary = grouped["value"].agg(mean="mean", sd="std", count="count", missing="size")
    summary["missing"] -= summary["count"]
    by_unit = [dict(zip(group["unit"], group["value"], strict=True)) for _, group in grouped]
    return summary.assign(by_unit=by_unit).reset_index()


def differences(values: pd.DataFrame, left_out: Sequence[str] = ()) -> pd.DataFrame:
    """Model B minus model A, for each value that both have; of the in-class share also the mean over the classes.

    Args:
        values: Of the models A and B; they are paired by run and case.
        left_out: Stages that are not compared.

    Returns:
        A frame of values whose model is `B - A`.
    """
    values = values[~values["stage"].isin(left_out)]
    first, second = (values[values["model"] == letter] for letter in "AB")
    keys = ["run", "case", *KEYS]
    paired = first.merge(second, on=keys, suffixes=("_a", "_b"))
    paired["value"] = paired["value_b"] - paired["value_a"]
    return with_class_means(paired.dropna(subset="value").assign(model=DIFFERENCE)[["model", *keys, "value"]])


def short(stage: str) -> str:
    """A stage's name on an axis: E0 for encoder.stages.0, D0 for decoder.stages.0; another module's stays."""
    found = re.fullmatch(rf"(encoder|decoder)\.stages\.(\d+(?:{FIRST_BLOCK})?)", stage)
    return f"{found[1][0].upper()}{found[2]}" if found else stage


def stage_rows(stages: Collection[str]) -> list[list[str]]:
    """Two rows of stages in the order of the forward pass, the encoder's and the decoder's, filled up with `.`."""
    parts = ([stage for stage in stages if stage.startswith(part)] for part in ("encoder", "decoder"))
    return [list(row) for row in zip(*zip_longest(*parts, fillvalue="."), strict=True)]


def depths(stages: Collection[str]) -> dict[str, int]:
    """How often the resolution was reduced before each stage: the encoder's number, and the decoder's backwards."""
    encoder, decoder = ([stage for stage in row if stage != "."] for row in stage_rows(stages))
    return {stage: depth for part in (encoder, decoder[::-1]) for depth, stage in enumerate(part)}
