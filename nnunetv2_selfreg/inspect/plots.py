"""The report's plots: figures by stage, by channel and by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nnunetv2_selfreg.inspect.compare import SHARE, compare, summarise
from nnunetv2_selfreg.inspect.drawing import COLOURS, LINES, MARKED, MARKERS, NAMES, STAGE_AXIS, legend, places, short
from nnunetv2_selfreg.inspect.measure import INPUT, Inspection, Key


def draw_in_class_share(inspections: Sequence[Inspection]) -> Figure:
    """For each class, the share of the maps' mass inside it, by stage, beside the class's share of the area."""
    targets = [target.name for target in inspections[0].model.targets]
    columns = min(3, len(targets))
    rows = -(-len(targets) // columns)
    figure = Figure(figsize=(max(4.2 * columns, 6.5), 2.9 * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axis in axes.flat[len(targets) :]:
        axis.set_visible(False)
    for axis, target in zip(axes.flat, targets, strict=False):
        _per_stage(axis, inspections, SHARE, target)
        areas = [summarise(each.values.get(Key("class_area", INPUT, target), {})).mean for each in inspections]
        # patches of other sizes, or other predictions in place of references, show the class in another share
        colours = COLOURS if len(set(areas)) > 1 else ("0.3", "0.3")
        for area, colour in zip(areas, colours, strict=False):
            if area is not None:
                axis.axhline(area, color=colour, linestyle=":", linewidth=1.5)
        axis.set_title(target, fontsize=10)
        axis.set_ylim(-0.02, 1.02)
    for axis in axes[:, 0]:
        axis.set_ylabel("share of the map's\nmass inside the class", fontsize=9)
    figure.supxlabel(STAGE_AXIS, fontsize=10)
    chance = Line2D([], [], color="0.3", linestyle=":", label="the class's share of the area (an even map)")
    legend(figure, [chance], inspections, MARKED)
    return figure


def draw_measures(inspections: Sequence[Inspection], measures: Mapping[str, str]) -> Figure:
    """Figures of all channels by stage, one panel each."""
    figure = Figure(figsize=(9, 2.3 * len(measures) + 0.8), layout="constrained")
    axes = figure.subplots(len(measures), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (measure, text) in zip(axes, measures.items(), strict=True):
        _per_stage(axis, inspections, measure)
        axis.set_ylabel(text, fontsize=9)
        if measure == "partner_correlation":
            axis.axhline(0, color="0.3", linewidth=0.8)
        else:
            _limits_from_zero(axis)
    axes[-1].set_xlabel(STAGE_AXIS)
    figure.align_ylabels(axes)
    legend(figure, [], inspections, MARKED)
    return figure


def draw_ranking(inspections: Sequence[Inspection]) -> Figure:
    """Each stage's channel importance, sorted: what IFD ranks the channels by."""
    where, encoder = places(inspections[0])
    figure = Figure(figsize=(1.75 * encoder + 0.8, 4.4), layout="constrained")
    axes = figure.subplots(2, encoder, squeeze=False, sharey=True)
    for axis in axes.flat:
        axis.set_visible(False)
    for stage, (row, column) in where.items():
        axis = axes[row, column]
        axis.set_visible(True)
        for inspection, colour in zip(inspections, COLOURS, strict=False):
            values = inspection.importance(stage)[inspection.ranking(stage)]
            axis.plot((np.arange(len(values)) + 0.5) / len(values), values, color=colour, linewidth=1.5)
        axis.axvline(0.5, color="black", linewidth=0.6)
        axis.axhline(0, color="0.3", linewidth=0.6, linestyle=":")
        axis.set_xticks([0, 0.5, 1])
        axis.tick_params(labelsize=7)
        axis.set_title(short(stage), fontsize=9)
    figure.supylabel("importance: mean over\nroot mean square", fontsize=9)
    figure.supxlabel("rank over the number of channels; IFD compares the halves on both sides of the line", fontsize=9)
    legend(figure, [], inspections, LINES)
    return figure


def draw_training(inspections: Sequence[Inspection]) -> Figure:
    """What the folders' checkpoints logged: SCR, IFD, their share of the loss, and the pseudo Dice."""
    panels = {
        "scr": "SCR, mean over\nthe epoch, unweighted",
        "ifd": "IFD, mean over\nthe epoch, unweighted",
        "selfreg_share": "share of the weighted\nterms in the loss [%]",
        "mean_fg_dice": "pseudo Dice, mean of\nthe foreground classes",
    }
    figure = Figure(figsize=(9, 5.6), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True)
    for axis, (name, text) in zip(axes.flat, panels.items(), strict=True):
        logged = False
        for inspection, colour in zip(inspections, COLOURS, strict=False):
            if values := inspection.model.logging.get(name):
                scaled = 100 * np.array(values) if name == "selfreg_share" else np.array(values)
                axis.plot(np.arange(len(values)), scaled, color=colour, linewidth=2, marker="o", markersize=3)
                logged = True
        if not logged:
            axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", va="center", color="0.4")
        axis.set_ylabel(text, fontsize=9)
        _limits_from_zero(axis)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    figure.align_ylabels(axes)
    legend(figure, [], inspections, LINES)
    return figure


def draw_differences(inspections: Sequence[Inspection]) -> Figure:
    """Each figure of B minus that of A by stage: every case, the mean and its standard deviation over cases."""
    first, second = inspections
    panels = {
        "redundancy": "redundancy",
        "effective_rank_share": "effective rank\nover channels",
        "scr": "SCR",
        "ifd": "IFD",
    }
    if any(key.measure == SHARE for key in first.values):
        panels = {SHARE: "in-class share,\nmean of the classes"} | panels
    found = compare(first, second)
    figure = Figure(figsize=(9, 1.9 * len(panels) + 0.8), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    stages = list(first.model.stages)
    for axis, (measure, text) in zip(axes, panels.items(), strict=True):
        axis.axhline(0, color="0.3", linewidth=0.8)
        for x, stage in enumerate(stages):
            if (each := found.get(Key(measure, stage))) and each.mean is not None:
                _dots(axis, x, list(each.by_case.values()), "0.5")
                axis.errorbar(x, each.mean, yerr=each.sd or 0, color="black", marker="D", markersize=5, capsize=3)
        _limits_around_zero(axis)
        _stage_ticks(axis, stages)
        axis.set_ylabel(f"B minus A:\n{text}", fontsize=9)
        axis.grid(alpha=0.3, axis="y")
    axes[-1].set_xlabel(STAGE_AXIS)
    figure.align_ylabels(axes)
    handles = [
        Line2D([], [], color="0.5", marker="o", markersize=3, linestyle="", label="one case"),
        Line2D([], [], color="black", marker="D", markersize=5, label="mean and standard deviation over cases"),
    ]
    legend(figure, handles, inspections, NAMES)
    return figure


def _per_stage(axis: Any, inspections: Sequence[Inspection], measure: str, target: str = "") -> None:
    """Every case as a dot, and mean and standard deviation over cases, by stage; models beside each other."""
    stages = list(inspections[0].model.stages)
    for number, inspection in enumerate(inspections):
        shift = (number - (len(inspections) - 1) / 2) * 0.3
        for x, stage in enumerate(stages):
            by_case = inspection.values.get(Key(measure, stage, target), {})
            mean, sd, *_ = summarise(by_case)
            if mean is not None:
                _dots(axis, x + shift, [value for value in by_case.values() if value is not None], COLOURS[number])
                axis.errorbar(
                    x + shift,
                    mean,
                    yerr=_bar(mean, sd or 0, measure),
                    color=COLOURS[number],
                    marker=MARKERS[number],
                    markersize=5,
                    capsize=3,
                    markeredgecolor="black",
                    markeredgewidth=0.6,
                )
    _stage_ticks(axis, stages)
    axis.grid(alpha=0.3, axis="y")


def _bar(mean: float, sd: float, measure: str) -> list[list[float]]:
    """The error bar's lengths below and above the mean; a share lies between 0 and 1, and so does its bar."""
    return [[min(sd, mean)], [min(sd, 1 - mean)]] if measure == SHARE else [[sd], [sd]]


def _dots(axis: Any, x: float, values: Sequence[float], colour: str) -> None:
    spread = np.linspace(-0.08, 0.08, len(values)) if len(values) > 1 else np.zeros(1)
    axis.plot(x + spread, values, linestyle="", marker="o", markersize=2.5, color=colour, alpha=0.4)


def _stage_ticks(axis: Any, stages: Sequence[str]) -> None:
    axis.set_xticks(range(len(stages)), [short(stage) for stage in stages], fontsize=8)
    axis.set_xlim(-0.6, len(stages) - 0.4)


def _limits_from_zero(axis: Any) -> None:
    axis.margins(y=0.1)
    axis.set_ylim(bottom=0)


def _limits_around_zero(axis: Any) -> None:
    """So that a difference of nothing but rounding does not fill the panel."""
    low, high = axis.get_ylim()
    least = 1e-3
    axis.set_ylim(min(low, -least), max(high, least))
