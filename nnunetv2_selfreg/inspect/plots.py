"""The report's plots: values by stage, by channel and by epoch. Both models of a comparison share every scale."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nnunetv2_selfreg.inspect.measure import Inspection
from nnunetv2_selfreg.inspect.model import places, short
from nnunetv2_selfreg.inspect.values import AREA, DIFFERENCE, IN_CLASS

# Okabe and Ito's colours, which stay apart for colour-blind readers
COLOURS = {"": "#0072B2", "A": "#0072B2", "B": "#D55E00", DIFFERENCE: "black"}
MARKERS = {"": "o", "A": "o", "B": "s", DIFFERENCE: "D"}
STAGE_AXIS = "stage (E encoder, D decoder, in the order of the forward pass)"


def draw_in_class_share(inspections: Sequence[Inspection], values: pd.DataFrame) -> Figure:
    """For each class, the share of the maps' mass inside it, by stage, beside the class's share of the area."""
    targets = [target.name for target in inspections[0].model.targets]
    columns = min(3, len(targets))
    rows = -(-len(targets) // columns)
    plot = Figure(figsize=(max(4.2 * columns, 6.5), 2.9 * rows + 0.9), layout="constrained")
    axes = plot.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(targets) :]:
        axis.set_visible(False)
    for axis, target in zip(axes.flat, targets, strict=False):
        of_class = values[values["class"] == target]
        _by_stage(axis, of_class[of_class["measure"] == IN_CLASS], list(inspections[0].model.stages), (0, 1))
        # patches of other sizes, or other predictions in place of references, show the class in another share
        areas = of_class[of_class["measure"] == AREA].groupby("model")["value"].mean()
        for letter, area in areas.items():
            axis.axhline(area, color=COLOURS[letter] if areas.nunique() > 1 else "0.3", linestyle=":", linewidth=1.5)
        axis.set_title(target, fontsize=10)
        axis.set_ylim(-0.02, 1.02)
    for axis in axes[:, 0]:
        axis.set_ylabel("share of the map's\nmass inside the class", fontsize=9)
    plot.supxlabel(STAGE_AXIS, fontsize=10)
    chance = Line2D([], [], color="0.3", linestyle=":", label="the class's share of the area (an even map)")
    legend(plot, [chance], inspections, marked=True)
    return plot


def draw_measures(inspections: Sequence[Inspection], values: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Measures of all channels by stage, one panel each.

    Args:
        inspections: One model, or the two of a comparison.
        values: A frame of values.
        labels: The panels' labels by measure.
    """
    plot, axes = _panels(inspections, values, labels)
    for axis in axes:
        if axis.get_ylim()[0] < 0:
            axis.axhline(0, color="0.3", linewidth=0.8)
        else:
            axis.set_ylim(bottom=0)
    legend(plot, [], inspections, marked=True)
    return plot


def draw_differences(inspections: Sequence[Inspection], values: pd.DataFrame, labels: Mapping[str, str]) -> Figure:
    """Each measure of B minus that of A by stage; arguments as `draw_measures`, of the differences."""
    plot, axes = _panels(inspections, values, {measure: f"B minus A:\n{text}" for measure, text in labels.items()})
    for axis in axes:
        axis.axhline(0, color="0.3", linewidth=0.8)
        low, high = axis.get_ylim()
        axis.set_ylim(min(low, -1e-3), max(high, 1e-3))  # a difference of nothing but rounding does not fill the panel
    handles = [
        Line2D([], [], color="0.5", marker="o", markersize=3, linestyle="", label="one case"),
        Line2D([], [], color="black", marker="D", markersize=5, label="mean and standard deviation over cases"),
    ]
    legend(plot, handles, inspections, linestyle="")
    return plot


def draw_ranking(inspections: Sequence[Inspection]) -> Figure:
    """Each stage's channel importance, sorted: what IFD ranks the channels by."""
    plot, axes = stage_grid(inspections, 1, 0.8, 4.4, sharey=True)
    for stage, (row, column) in places(inspections[0].model.stages).items():
        axis = axes[row, column]
        for inspection in inspections:
            ranked = inspection.importance(stage)[inspection.ranking(stage)]
            ranks = (np.arange(len(ranked)) + 0.5) / len(ranked)
            axis.plot(ranks, ranked, color=COLOURS[inspection.letter], linewidth=1.5)
        axis.axvline(0.5, color="black", linewidth=0.6)
        axis.axhline(0, color="0.3", linewidth=0.6, linestyle=":")
        axis.set_xticks([0, 0.5, 1])
        axis.tick_params(labelsize=7)
        axis.set_title(short(stage), fontsize=9)
    plot.supylabel("importance: mean over\nroot mean square", fontsize=9)
    plot.supxlabel("rank over the number of channels; IFD compares the halves on both sides of the line", fontsize=9)
    legend(plot, [], inspections, linewidth=2)
    return plot


def draw_training(inspections: Sequence[Inspection], labels: Mapping[str, str]) -> Figure:
    """What the folders' checkpoints logged, by epoch; `labels` as in `draw_measures`, of the logged names."""
    rows = -(-len(labels) // 2)
    plot = Figure(figsize=(9, 2.6 * rows + 0.4), layout="constrained")
    axes = plot.subplots(rows, 2, sharex=True, squeeze=False)
    for axis in axes.flat[len(labels) :]:
        axis.set_visible(False)
    for axis, (name, text) in zip(axes.flat, labels.items(), strict=False):
        logged = {each.letter: each.model.logging[name] for each in inspections if name in each.model.logging}
        for letter, values in logged.items():
            scaled = np.array(values) * (100 if text.endswith("[%]") else 1)
            axis.plot(np.arange(len(values)), scaled, color=COLOURS[letter], linewidth=2, marker="o", markersize=3)
        if not logged:
            axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", va="center", color="0.4")
        axis.set_ylabel(text, fontsize=9)
        axis.margins(y=0.1)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    plot.supxlabel("epoch", fontsize=10)
    plot.align_ylabels(axes)
    legend(plot, [], inspections, linewidth=2)
    return plot


def stage_grid(
    inspections: Sequence[Inspection], blocks: int, width: float, height: float, **subplots: Any
) -> tuple[Figure, Any]:
    """A plot with a panel for each stage, those of one resolution in one column.

    Args:
        inspections: One model, or the two of a comparison.
        blocks: How often the stages stand below each other.
        width: What the plot is wider than its panels, in inches.
        height: The plot's height in inches.
        subplots: As matplotlib's `Figure.subplots`.

    Returns:
        The plot and its axes, `(2 * blocks, columns)`; those of no stage are hidden.
    """
    where = places(inspections[0].model.stages).values()
    columns = 1 + max(column for _, column in where)
    plot = Figure(figsize=(1.75 * columns + width, height), layout="constrained")
    axes = plot.subplots(2 * blocks, columns, squeeze=False, **subplots)
    for row, column in np.ndindex(axes.shape):
        axes[row, column].set_visible((row % 2, column) in where)
    return plot, axes


def legend(
    plot: Figure, handles: list[Line2D], inspections: Sequence[Inspection], marked: bool = False, **line: Any
) -> None:
    """Above the panels the given handles and, in a comparison, what each model looks like."""
    if len(inspections) > 1:
        handles = handles + [
            Line2D([], [], color=COLOURS[i.letter], label=i.label, marker=MARKERS[i.letter] if marked else None, **line)
            for i in inspections
        ]
    if handles:
        plot.legend(handles=handles, loc="outside upper left", ncols=1, frameon=False, fontsize=9)


def _panels(
    inspections: Sequence[Inspection], values: pd.DataFrame, labels: Mapping[str, str]
) -> tuple[Figure, Sequence[Any]]:
    """One panel by stage for each measure, below each other."""
    plot = Figure(figsize=(9, 2.2 * len(labels) + 0.8), layout="constrained")
    axes = plot.subplots(len(labels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (measure, text) in zip(axes, labels.items(), strict=True):
        of_measure = values[(values["measure"] == measure) & (values["class"] == "")]
        _by_stage(axis, of_measure, list(inspections[0].model.stages))
        axis.set_ylabel(text, fontsize=9)
        axis.margins(y=0.1)
    axes[-1].set_xlabel(STAGE_AXIS)
    plot.align_ylabels(axes)
    return plot, axes


def _by_stage(
    axis: Any, values: pd.DataFrame, stages: Sequence[str], limits: tuple[float, float] = (-np.inf, np.inf)
) -> None:
    """Every case as a dot, and mean and standard deviation over cases, by stage; models beside each other.

    The standard deviation's bar ends at the limits of the value.
    """
    letters = list(values["model"].unique())
    for (letter, stage), found in values.dropna(subset="value").groupby(["model", "stage"], sort=False)["value"]:
        if stage not in stages:
            continue
        x = stages.index(stage) + (letters.index(letter) - (len(letters) - 1) / 2) * 0.3
        spread = np.linspace(-0.08, 0.08, len(found)) if len(found) > 1 else np.zeros(1)
        axis.plot(x + spread, found, linestyle="", marker="o", markersize=2.5, color=COLOURS[letter], alpha=0.4)
        mean, sd = found.mean(), found.std() if len(found) > 1 else 0
        axis.errorbar(
            x,
            mean,
            yerr=[[min(sd, mean - limits[0])], [min(sd, limits[1] - mean)]],
            color=COLOURS[letter],
            marker=MARKERS[letter],
            markersize=5,
            capsize=3,
            markeredgecolor="black",
            markeredgewidth=0.6,
        )
    axis.set_xticks(range(len(stages)), [short(stage) for stage in stages], fontsize=8)
    axis.set_xlim(-0.6, len(stages) - 0.4)
    axis.grid(alpha=0.3, axis="y")
