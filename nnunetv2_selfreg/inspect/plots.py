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


def draw_by_stage(
    inspections: Sequence[Inspection], values: pd.DataFrame, panels: Sequence[tuple[str, str, str]], columns: int = 1
) -> Figure:
    """Every case as a dot, and mean and standard deviation over cases, by stage; models beside each other.

    Beside in-class shares a dotted line is the class's share of the area.

    Args:
        inspections: One model, or the two of a comparison.
        values: A frame of values, of the models or of their differences.
        panels: Of each panel the label, the measure and the class.
        columns: How many panels stand beside each other.
    """
    stages = list(inspections[0].model.stages)
    plot, axes = _grid(len(panels), columns, max(9, 4.2 * columns), 2.3)
    is_difference = (values["model"] == DIFFERENCE).any()
    handles = []
    if is_difference:
        handles.append(Line2D([], [], color="0.5", marker="o", markersize=3, linestyle="", label="one case"))
        label = "mean and standard deviation over cases"
        handles.append(Line2D([], [], color="black", marker="D", markersize=5, label=label))
    for axis, (label, measure, target) in zip(axes, panels, strict=True):
        of_class = values[values["class"] == target]
        is_share = measure == IN_CLASS and not is_difference
        _draw_cases(axis, of_class[of_class["measure"] == measure], stages, (0, 1) if is_share else (-np.inf, np.inf))
        axis.set_ylabel(label, fontsize=9)
        low, high = axis.get_ylim()
        if is_share:
            axis.set_ylim(-0.02, 1.02)
            # patches of other sizes, or other predictions in place of references, show the class in another share
            areas = of_class[of_class["measure"] == AREA].groupby("model")["value"].mean()
            for letter, area in areas.items():
                axis.axhline(area, color=COLOURS[letter] if areas.nunique() > 1 else "0.3", linestyle=":")
            chance = "the class's share of the area (an even map)"
            handles = [Line2D([], [], color="0.3", linestyle=":", label=chance)]
        elif is_difference or low < 0:
            axis.axhline(0, color="0.3", linewidth=0.8)
            axis.set_ylim(min(low, -1e-3), max(high, 1e-3))  # what is nothing but rounding does not fill the panel
        else:
            axis.set_ylim(0, 1.05 * high)
    plot.supxlabel("stage (E encoder, D decoder, in the order of the forward pass)", fontsize=10)
    legend(plot, handles, inspections, coloured=not is_difference)
    return plot


def draw_ranking(inspections: Sequence[Inspection]) -> Figure:
    """Each stage's channel importance, sorted: what IFD ranks the channels by."""
    plot, axes = stage_grid(inspections, 1, 0.8, 4.4, sharey=True)
    for stage, (row, column) in places(inspections[0].model.stages).items():
        axis = axes[row, column]
        for inspection in inspections:
            ranked = inspection.importance[stage].value()[inspection.ranking(stage)]
            ranks = (np.arange(len(ranked)) + 0.5) / len(ranked)
            axis.plot(ranks, ranked, color=COLOURS[inspection.letter], linewidth=1.5)
        axis.axvline(0.5, color="black", linewidth=0.6)
        axis.axhline(0, color="0.3", linewidth=0.6, linestyle=":")
        axis.set_xticks([0, 0.5, 1])
        axis.tick_params(labelsize=7)
        axis.set_title(short(stage), fontsize=9)
    plot.supylabel("importance: mean over\nroot mean square", fontsize=9)
    plot.supxlabel("rank over the number of channels; IFD compares the halves on both sides of the line", fontsize=9)
    legend(plot, [], inspections)
    return plot


def draw_training(inspections: Sequence[Inspection], labels: Mapping[str, str]) -> Figure:
    """What the checkpoints logged, by epoch; a panel for each logged name, with its label."""
    plot, axes = _grid(len(labels), 2, 9, 2.5)
    for axis, (name, label) in zip(axes, labels.items(), strict=True):
        logged = {each.letter: each.model.logging[name] for each in inspections if name in each.model.logging}
        for letter, curve in logged.items():
            scaled = np.array(curve) * (100 if label.endswith("[%]") else 1)
            axis.plot(np.arange(len(curve)), scaled, color=COLOURS[letter], linewidth=2, marker="o", markersize=3)
        if not logged:
            axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", va="center", color="0.4")
        axis.set_ylabel(label, fontsize=9)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    plot.supxlabel("epoch", fontsize=10)
    legend(plot, [], inspections)
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


def legend(plot: Figure, handles: Sequence[Line2D], inspections: Sequence[Inspection], coloured: bool = True) -> None:
    """Above the panels the given handles and, in a comparison, the models' names, with their colours if shown so."""
    shown = list(handles)
    for inspection in inspections if len(inspections) > 1 else ():
        line, marker = ("-", MARKERS[inspection.letter]) if coloured else ("", "")
        colour = COLOURS[inspection.letter]
        shown.append(Line2D([], [], color=colour, linestyle=line, marker=marker, label=inspection.label))
    if shown:
        plot.legend(handles=shown, loc="outside upper left", ncols=1, frameon=False, fontsize=9)


def _grid(panels: int, columns: int, width: float, height: float) -> tuple[Figure, Sequence[Any]]:
    """A plot of that width with so many panels of that height, in inches."""
    rows = -(-panels // columns)
    plot = Figure(figsize=(width, height * rows + 0.8), layout="constrained")
    axes = plot.subplots(rows, columns, squeeze=False, sharex=True)
    for number, axis in enumerate(axes.flat):
        axis.set_visible(number < panels)
        axis.tick_params(labelbottom=True)
    plot.align_ylabels(axes)
    return plot, list(axes.flat[:panels])


def _draw_cases(axis: Any, values: pd.DataFrame, stages: Sequence[str], limits: tuple[float, float]) -> None:
    """The dots and, ending at the value's limits, the bars of one measure."""
    found = values[values["stage"].isin(stages)].dropna(subset="value")
    letters = list(found["model"].unique())
    for (letter, stage), group in found.groupby(["model", "stage"], sort=False)["value"]:
        colour, mean, sd = COLOURS[letter], group.mean(), group.std() if len(group) > 1 else 0
        x = stages.index(stage) + (letters.index(letter) - (len(letters) - 1) / 2) * 0.3
        spread = np.linspace(-0.08, 0.08, len(group)) if len(group) > 1 else np.zeros(1)
        axis.plot(x + spread, group, linestyle="", marker="o", markersize=2.5, color=colour, alpha=0.4)
        bar = [[min(sd, mean - limits[0])], [min(sd, limits[1] - mean)]]
        edge = {"markeredgecolor": "black", "markeredgewidth": 0.6}
        axis.errorbar(x, mean, bar, color=colour, marker=MARKERS[letter], markersize=5, capsize=3, **edge)
    axis.set_xticks(range(len(stages)), [short(stage) for stage in stages], fontsize=8)
    axis.set_xlim(-0.6, len(stages) - 0.4)
    axis.grid(alpha=0.3, axis="y")
    axis.margins(y=0.1)
