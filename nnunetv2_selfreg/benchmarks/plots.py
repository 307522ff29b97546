"""Plots of scores and their differences, as SVG that needs no other file."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunetv2_selfreg.benchmarks.metrics import Metric
from nnunetv2_selfreg.comparison import MEAN
from nnunetv2_selfreg.statistics import case_means, is_beyond

# Okabe and Ito's palette, told apart by colour-blind readers; stock first
COLOURS = ("#999999", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
MARKERS = "osD^vPX"
NARROW = 5.6  # inches; wider where the values above the points need it
BETTER, WORSE, SAME = "#0072B2", "#D55E00", "#999999"


def means(values: pd.DataFrame, metric: Metric, classes: Sequence[str]) -> bytes:
    """Draws the mean of each class, and of them all, one point for each row of the table, as SVG.

    The axis covers what is drawn, and at least twice the margin that counts as a difference: from 0 on, two good
    trainings would look the same.

    Args:
        values: Columns `name` (of the row), `class`, `value` and `sd`; an error bar is drawn where there is an `sd`.
        metric: What the values are.
        classes: What to draw, from left to right.
    """
    rows = [(name, part.set_index("class").loc[classes]) for name, part in values.groupby("name", sort=False)]
    width = 0.8 / len(rows)
    with new_plot(max(NARROW, 1.2 + 0.36 * len(rows) * len(classes)), 3.2 + 0.2 * len(rows)) as plot:
        axis = plot.subplots()
        for number, (name, row) in enumerate(rows):
            places = np.arange(len(classes)) + (number - (len(rows) - 1) / 2) * width
            colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
            mean, spread = row["value"].to_numpy(float), row["sd"].fillna(0).to_numpy(float)
            axis.errorbar(places, mean, color=colour, marker=marker, linestyle="none", markersize=6, label=name)
            if spread.any():
                axis.errorbar(places, mean, spread, color=colour, linestyle="none", capsize=3, linewidth=1)
            for place, middle, top in zip(places, mean, mean + spread, strict=True):
                if np.isfinite(middle):
                    axis.annotate(
                        f"{middle:.2f}", (place, top), (0, 5), textcoords="offset points", ha="center", fontsize=7
                    )
        axis.set_xticks(range(len(classes)), classes, rotation=0 if len(classes) <= 5 else 30)
        axis.set_xlim(-0.5, len(classes) - 0.5)
        axis.set_ylabel(f"{metric.title} [{metric.unit}]")
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.set_axisbelow(True)
        low, high = axis.get_ylim()
        half = max(0.6 * (high - low), metric.margin)
        axis.set_ylim(max((low + high) / 2 - half, 0), (low + high) / 2 + half)
        plot.legend(loc="outside upper left", frameon=False)
        return svg(plot)


def differences(gains: pd.DataFrame, metric: Metric, summary: pd.DataFrame) -> bytes:
    """Draws the difference of every case, with the mean and its confidence interval, as SVG.

    Args:
        gains: SelfReg minus stock (cases x classes).
        metric: What was measured.
        summary: What to draw, from left to right: by class, or `mean` of a case's classes, `mean`, `low` and `high`.
    """
    margin, unit, classes = metric.margin, metric.difference_unit, list(summary.index)
    with new_plot(max(NARROW, 1.5 + 0.7 * len(classes)), 3.8) as plot:
        axis = plot.subplots()
        axis.axhspan(-margin, margin, color="#eeeeee", zorder=0, label=f"within {margin:g} {unit.removesuffix('s')}")
        axis.axhline(0, color="black", linewidth=0.8, zorder=1)
        label = "mean and 95 % CI" if summary["low"].notna().any() else "mean"
        jitter = np.random.default_rng(0).uniform(-0.25, 0.1, len(gains))
        for place, name in enumerate(classes):
            values = case_means(gains.to_numpy()) if name == MEAN else gains[name].to_numpy()
            colours = colours_of(values if metric.higher_is_better else -values, margin)
            axis.scatter(place + jitter, values, c=colours, s=14, alpha=0.75, linewidths=0, zorder=2)
            interval(axis, place + 0.27, summary.loc[name], "black", None if place else label)
        axis.scatter([], [], c=BETTER, s=14, label="better with SelfReg")
        axis.scatter([], [], c=WORSE, s=14, label="worse")
        axis.set_xticks(range(len(classes)), classes, rotation=0 if len(classes) <= 5 else 30)
        axis.set_xlim(-0.5, len(classes) - 0.5)
        axis.set_ylabel(f"SelfReg minus stock, {metric.title} [{unit}]")
        plot.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8, columnspacing=1, handletextpad=0.3)
        return svg(plot)


def colours_of(gains: Any, margin: float) -> Any:
    """The colour of each gain: better or worse by more than the margin, or neither."""
    return np.where(is_beyond(gains, margin), BETTER, np.where(is_beyond(-gains, margin), WORSE, SAME))


def interval(
    axis: Axes, place: float, found: Mapping[str, Any] | pd.Series, colour: str, label: str | None = None
) -> None:
    """Draws a mean with its interval, if it has one."""
    axis.plot([place], numbers([found["mean"]]), "D-", color=colour, markersize=4, linewidth=1.2, label=label)
    axis.plot([place, place], numbers([found["low"], found["high"]]), "_-", color=colour, markersize=7, linewidth=1.2)


def numbers(values: Iterable[float | None]) -> list[float]:
    """NaN, which is not drawn, in place of None."""
    return [np.nan if value is None else value for value in values]


@contextmanager
def new_plot(width: float, height: float) -> Iterator[Figure]:
    """A plot, its size in inches, drawn in matplotlib's default style whatever nnU-Net or the user set."""
    with style.context(["default", {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}]):
        yield Figure(figsize=(width, height), layout="constrained")


def svg(plot: Figure, description: str | None = None) -> bytes:
    """The plot as SVG, the same bytes in every run; the description stands in its metadata."""
    picture = BytesIO()
    with rc_context({"svg.hashsalt": "nnunetv2-selfreg", "svg.fonttype": "path"}):
        plot.savefig(picture, format="svg", metadata={"Date": None, "Creator": None, "Description": description})
    return picture.getvalue()
