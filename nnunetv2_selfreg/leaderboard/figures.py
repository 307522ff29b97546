"""Bars per class and per-case differences, as SVG."""

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib import rc_context, style
from matplotlib.figure import Figure

from nnunetv2_selfreg.leaderboard.metrics import METRICS
from nnunetv2_selfreg.leaderboard.results import MEAN, Pair
from nnunetv2_selfreg.leaderboard.statistics import over_runs

# Okabe and Ito's palette, told apart by colour-blind readers; stock first
COLOURS = ("#999999", "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
NARROW = 5.6  # inches; wider where the numbers above the bars need it
STYLE = ["default", {"font.size": 9}]  # nnU-Net's own plot changes the global style
BETTER, WORSE, SAME = "#0072B2", "#D55E00", "#999999"


def bars(rows: Sequence[dict[str, Any]], metric: str, classes: Sequence[str]) -> bytes:
    """Draws the mean of each class, and of them all, one bar for each row of the table.

    Args:
        rows: The rows: `name` and `values` with `mean` and `sd` by class.
        metric: One of `METRICS`.
        classes: What to draw, from left to right.

    Returns:
        The SVG.
    """
    about = METRICS[metric]
    width = 0.8 / len(rows)
    with style.context(STYLE):
        figure = Figure(
            figsize=(max(NARROW, 1.2 + 0.36 * len(rows) * len(classes)), 3.2 + 0.2 * len(rows)), layout="constrained"
        )
        axis = figure.subplots()
        for number, row in enumerate(rows):
            values = [row["values"][name] for name in classes]
            heights = [np.nan if value["mean"] is None else value["mean"] for value in values]
            places = np.arange(len(classes)) + (number - (len(rows) - 1) / 2) * width
            spread = [value["sd"] or 0 for value in values] if any(value["sd"] for value in values) else None
            drawn = axis.bar(
                places, heights, width * 0.92, yerr=spread, capsize=2, color=COLOURS[number % len(COLOURS)],
                label=row["name"], error_kw={"linewidth": 1},
            )  # fmt: skip
            axis.bar_label(drawn, fmt="%.1f", fontsize=7, padding=2)
        axis.set_xticks(range(len(classes)), classes, rotation=0 if len(classes) <= 5 else 30)
        axis.set_ylabel(f"{about.title} [{about.unit}]")
        if about.unit == "%":
            axis.set_yticks(range(0, 101, 20))
            axis.set_ylim(0, 108)
        else:
            axis.margins(y=0.12)
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", frameon=False)
        return _svg(figure)


def differences(pair: Pair, rule: str, metric: str, classes: Sequence[str], summary: dict[str, Any]) -> bytes:
    """Draws SelfReg minus stock of every case, with the mean and its confidence interval.

    Args:
        pair: Both arms.
        rule: One of `RULES`.
        metric: One of `METRICS`.
        classes: What to draw, from left to right; `mean` is the mean of a case's classes.
        summary: The differences by class, as the table holds them.

    Returns:
        The SVG.
    """
    about = METRICS[metric]
    selfreg, stock = pair.per_case(rule, metric)
    per_case = selfreg - stock
    margin = about.margin
    unit = "points" if about.unit == "%" else about.unit
    with style.context(STYLE):
        figure = Figure(figsize=(max(NARROW, 1.5 + 0.7 * len(classes)), 3.8), layout="constrained")
        axis = figure.subplots()
        axis.axhspan(-margin, margin, color="#eeeeee", zorder=0, label=f"within {margin:g} {unit.removesuffix('s')}")
        axis.axhline(0, color="black", linewidth=0.8, zorder=1)
        jitter = np.random.default_rng(0).uniform(-0.25, 0.1, len(per_case))
        for number, name in enumerate(classes):
            values = over_runs(per_case.to_numpy().T) if name == MEAN else per_case[name].to_numpy()
            gain = values if about.higher_is_better else -values
            colours = np.where(gain > margin, BETTER, np.where(gain < -margin, WORSE, SAME))
            axis.scatter(number + jitter, values, c=colours, s=14, alpha=0.75, linewidths=0, zorder=2)
            found = summary[name]
            if found["mean"] is not None:
                ends = (
                    [[found["mean"] - found["low"]], [found["high"] - found["mean"]]]
                    if found["low"] is not None
                    else None
                )
                axis.errorbar(
                    number + 0.27, found["mean"], ends, fmt="D", color="black", markersize=4, capsize=3, zorder=3,
                    label="mean and 95 % CI" if number == 0 else None,
                )  # fmt: skip
        axis.scatter([], [], c=BETTER, s=14, label="better with SelfReg")
        axis.scatter([], [], c=WORSE, s=14, label="worse")
        axis.set_xticks(range(len(classes)), classes, rotation=0 if len(classes) <= 5 else 30)
        axis.set_xlim(-0.5, len(classes) - 0.5)
        axis.set_ylabel(f"SelfReg minus stock, {about.title} [{unit}]")
        axis.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8, columnspacing=1, handletextpad=0.3)
        return _svg(figure)


def _svg(figure: Figure) -> bytes:
    picture = BytesIO()
    with rc_context({"svg.hashsalt": "leaderboard", "svg.fonttype": "path"}):
        figure.savefig(picture, format="svg", metadata={"Date": None})
    return picture.getvalue()
