"""Means and spreads over cases, paired differences of two models, and what they say; everything is a pandas frame.

A frame of values has a row for each value and the columns `model` (its letter), `case`, `measure`, `stage`, `class` and
`value`. The stage is `students` for all students together and `input` for what no stage changes; the class is empty for
what is of all channels. The value is NaN where there is none, such as the share of a map without mass.
"""

from collections.abc import Collection, Sequence
from itertools import zip_longest
from typing import Any

import pandas as pd

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
# values are given with three digits; mean differences smaller than this count as none
EQUAL = 0.005


def with_class_means(values: pd.DataFrame) -> pd.DataFrame:
    """The values, and without a class each case's mean in-class share over the classes that have one."""
    keys = [name for name in values.columns if name not in ("class", "value")]
    shares = values[values["measure"] == IN_CLASS].groupby(keys, sort=False)["value"].mean().reset_index()
    return pd.concat([values, shares.assign(**{"class": ""})], ignore_index=True)


def summarise(values: pd.DataFrame) -> pd.DataFrame:
    """Of each model's measure, stage and class a row with what the cases have in common.

    Returns:
        `model`, `measure`, `stage`, `class` and: `mean` and sample standard deviation `sd` over the cases that have a
        value, how many these `cases` are, in how many of them it is above 0 (`higher`), how many are `missing` it, and
        a mapping of the values `by_case`.
    """
    grouped = values.assign(higher=values["value"] > 0).groupby(["model", *KEYS], sort=False)
    summary = grouped["value"].agg(mean="mean", sd="std", cases="count", missing="size")
    summary["missing"] -= summary["cases"]
    by_case = [dict(zip(group["case"], group["value"], strict=True)) for _, group in grouped]
    return summary.assign(higher=grouped["higher"].sum(), by_case=by_case).reset_index()


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


def contrasts(values: pd.DataFrame, stages: Sequence[str]) -> list[dict[str, Any]]:
    """In-class shares in the encoder and the decoder, and how redundant deep and shallow stages are.

    Args:
        values: A frame of values with the means of the classes.
        stages: The network's stages in the order of the forward pass.

    Returns:
        Of each model and measure: `model`, `measure`, the two `parts` by name with the mean of their stages, and the
        `area` that the classes have.
    """
    column = {stage: number for row in stage_rows(stages) for number, stage in enumerate(row)}
    depth = pd.Series({stage: column[stage] for stage in stages}) - max(column.values()) / 2
    is_encoder = depth.index.str.startswith("encoder")
    halves = {"the encoder": is_encoder, "the decoder": ~is_encoder}
    depths = {"the deep stages ({})": depth > 0, "the shallow stages ({})": depth < 0}
    found: list[dict[str, Any]] = []
    for letter, of_model in values[values["model"] != DIFFERENCE].groupby("model"):
        area = of_model[of_model["measure"] == AREA].groupby("case")["value"].mean().mean()
        means = of_model[of_model["class"] == ""].groupby(["measure", "stage"])["value"].mean().dropna()
        for measure, names in {IN_CLASS: halves, "redundancy": depths, "effective_rank_share": depths}.items():
            groups = {name: means.reindex([(measure, stage) for stage in depth.index[chosen]]).dropna().droplevel(0)
                      for name, chosen in names.items()}  # fmt: skip
            if all(map(len, groups.values())):
                parts = {name.format(", ".join(map(short, each.index))): each.mean() for name, each in groups.items()}
                found.append({"model": letter, "measure": measure, "parts": parts, "area": area})
    return found


def changes(summary: pd.DataFrame, stages: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By measure of a summary: at how many `stages` B is compared, `higher` or `lower`, and the `mean` of them all."""
    found = summary[(summary["model"] == DIFFERENCE) & (summary["class"] == "") & summary["stage"].isin(stages)]
    each = found.assign(higher=found["mean"] >= EQUAL, lower=found["mean"] <= -EQUAL).groupby("measure")
    counts = {"higher": ("higher", "sum"), "lower": ("lower", "sum"), "stages": ("stage", "size")}
    return each.agg(**counts, mean=("mean", "mean")).to_dict("index")


def short(stage: str) -> str:
    """A stage's name on an axis: E0 for encoder.stages.0, D0 for decoder.stages.0."""
    part, _, number = stage.split(".")
    return f"{part[0].upper()}{number}"


def stage_rows(stages: Collection[str]) -> list[list[str]]:
    """Two rows of stages: the encoder's, and below each the decoder's of the same resolution, or `.` for none."""
    encoder, decoder = ([stage for stage in stages if stage.startswith(part)] for part in ("encoder", "decoder"))
    return [list(row) for row in zip(*zip_longest(encoder, reversed(decoder), fillvalue="."), strict=True)]
