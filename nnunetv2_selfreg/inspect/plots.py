"""The report's plots: values by stage, channel and epoch, Grad-CAM, and the channels' similarity.

Both models of a comparison share every scale.
"""

from collections.abc import Collection, Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nnunetv2_selfreg.inspect.measure import Inspection
from nnunetv2_selfreg.inspect.values import AREA, DIFFERENCE, IN_CLASS, short, stage_rows
from nnunetv2_selfreg.progress import from_zero

# Okabe and Ito's colours, which stay apart for colour-blind readers
COLOURS = {"": "#0072B2", "A": "#0072B2", "B": "#D55E00", DIFFERENCE: "black"}
MARKERS = {"": "o", "A": "o", "B": "s", DIFFERENCE: "D"}
MARKER = {"linestyle": "", "markersize": 5, "capsize": 3, "markeredgecolor": "black", "markeredgewidth": 0.6}
OUTLINES = {"reference": "#56B4E9", "prediction": "#E69F00"}
GREY = {"cmap": "gray", "vmin": 0, "vmax": 1}
HEAT, SIGNED = "magma", "RdBu_r"
DENSEST = 20.0


def draw_by_stage(
    inspections: Sequence[Inspection],
    values: pd.DataFrame,
    panels: Mapping[tuple[str, str], str],
    unit: str = "case",
    columns: int = 1,
) -> Figure:
    """Every unit as a dot, and mean and standard deviation over units, by stage; models beside each other.

    Beside in-class shares a dotted line is the class's share of the area.

    Args:
        inspections: The runs of one model, or of the two of a comparison.
        values: A frame that `units` gave, of the models or of their differences.
        panels: The panels' titles by measure and class.
        unit: What a unit is, in a word.
        columns: How many panels stand beside each other at most.
    """
    stages, letters = list(inspections[0].model.stages), list(values["model"].unique())
    is_difference = DIFFERENCE in letters
    limits = (0, 1) if next(iter(panels))[0] == IN_CLASS and not is_difference else (-np.inf, np.inf)
    titles = {each.letter: each.label for each in inspections}
    titles[DIFFERENCE] = f"mean and standard deviation over {unit}s"
    columns = min(columns, len(panels))
    plot, axes = _panels(panels.values(), columns, max(9, 4.2 * columns), 2.3)
    for axis, (measure, target) in zip(axes, panels, strict=True):
        of_class = values[values["class"] == target].dropna(subset="value")
        for letter, found in of_class[of_class["measure"] == measure].groupby("model"):
            by_unit = found.pivot(index="stage", columns="unit", values="value").reindex(stages)
            x = np.arange(len(stages)) + 0.3 * (letters.index(letter) - (len(letters) - 1) / 2)
            dots = x[:, None] + np.linspace(-0.1, 0.1, by_unit.shape[1] + 2)[1:-1]
            axis.plot(dots, by_unit, "o", markersize=2.5, color=COLOURS[letter], alpha=0.4, label=f"one {unit}")
            mean, sd = by_unit.mean(axis=1), by_unit.std(axis=1).fillna(0)
            bars = [(mean - limits[0]).clip(0, sd), (limits[1] - mean).clip(0, sd)]
            style = MARKER | {"color": COLOURS[letter], "marker": MARKERS[letter], "label": titles[letter]}
            axis.errorbar(x, mean, bars, **style)
        low, high = axis.get_ylim()
        if limits == (0, 1):
            axis.set_ylim(-0.02, 1.02)
            # patches of other sizes, or other predictions in place of references, show the class in another share
            areas = of_class[of_class["measure"] == AREA].groupby("model")["value"].mean()
            for letter, area in areas.items():
                colour = COLOURS[letter] if areas.nunique() > 1 else "0.3"
                axis.axhline(area, color=colour, linestyle=":", label="the class's share of the area (an even map)")
        elif is_difference or low < 0:
            axis.axhline(0, color="0.3", linewidth=0.8)
            axis.set_ylim(min(low, -1e-3), max(high, 1e-3))  # what is nothing but rounding does not fill the panel
        else:
            axis.set_ylim(0, 1.05 * high)
        axis.set_xticks(range(len(stages)), [short(stage) for stage in stages], fontsize=8)
        axis.set_xlim(-0.6, len(stages) - 0.4)
    plot.supxlabel("stage (E encoder, D decoder, in the order of the forward pass)", fontsize=10)
    _legend(plot, [each.label for each in inspections] if is_difference else [])
    return plot


def draw_ranking(inspections: Sequence[Inspection]) -> Figure:
    """Each stage's channel importance, sorted: what IFD ranks the channels by."""
    plot, axes = _stage_axes([""], inspections[0].model.stages, 1.75, 1.6, sharey=True)
    for stage, axis in axes.items():
        for inspection in inspections:
            ranked = inspection.importance[stage].value()[inspection.ranking(stage)]
            ranks, colour = (np.arange(len(ranked)) + 0.5) / len(ranked), COLOURS[inspection.letter]
            axis.plot(ranks, ranked, color=colour, label=inspection.full_label)
        axis.axvline(0.5, color="black", linewidth=0.6)
        axis.axhline(0, color="0.3", linewidth=0.6, linestyle=":")
        axis.set_xticks([0, 0.5, 1])
        axis.tick_params(labelsize=7)
        axis.set_title(short(stage), fontsize=9)
    plot.supylabel("importance: mean over\nroot mean square", fontsize=9)
    plot.supxlabel("rank over the number of channels; IFD compares the halves on both sides of the line", fontsize=9)
    _legend(plot)
    return plot


def draw_training(inspections: Sequence[Inspection], titles: Mapping[str, str]) -> Figure:
    """What the checkpoints logged, by epoch, a curve for each run; a panel for each logged name, with its title."""
    plot, axes = _panels(titles.values(), 2, 9, 2.5)
    for axis, (name, title) in zip(axes, titles.items(), strict=True):
        logged = [each for each in inspections if name in each.model.logging]
        for each in logged:
            curve = np.array(each.model.logging[name]) * (100 if title.endswith("[%]") else 1)
            axis.plot(curve, color=COLOURS[each.letter], marker="o", markersize=3, label=each.label)
        if not logged:
            axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", va="center", color="0.4")
        from_zero(axis)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    plot.supxlabel("epoch", fontsize=10)
    _legend(plot)
    return plot


def draw_grad_cam(inspections: Sequence[Inspection], which: tuple[str, str, int]) -> Figure:
    """One class of one case: beside image, reference and prediction the map of each stage, encoder above decoder.

    The colour says how many times denser than its mean a map is, on a square root's scale; at its top is what a map
    would have that lies wholly and evenly inside the class.

    Args:
        inspections: One model, or the two of a comparison.
        which: Case, class and number of the view; one of the models may lack it.
    """
    views = {each.prefix: each.views[which] for each in inspections if which in each.views}
    first, unit = next(iter(views.values())), "pixels" if inspections[0].model.is_natural else "mm"
    stages, panel_height = inspections[0].model.stages, 1.7 * first.size[0] / first.size[1] + 0.7
    beside = ("prediction", ".") if first.reference is None else ("reference", "prediction")
    plot, axes = _stage_axes(list(views), stages, 2.1, panel_height, beside)
    # the square root keeps weak maps visible
    densest = float(np.clip(1 / max(view.area for view in views.values()), 2, DENSEST))
    norm = PowerNorm(0.5, 0, densest)
    for prefix, view in views.items():
        explained = "prediction" if view.reference is None else "reference"
        masks = {"prediction": view.prediction} | ({} if view.reference is None else {"reference": view.reference})
        height, width = view.size
        for name in (*masks, *stages):
            axis, heat = axes[prefix + name], view.heat.get(name)
            # opaque, so that the map's colours are the bar's
            shown, colours = (view.image, GREY) if heat is None else (heat, {"cmap": HEAT, "norm": norm})
            extent = (0, width, height, 0)
            axis.imshow(shown, extent=extent, interpolation="nearest", **colours)
            outline = name if name in masks else explained
            mask = masks[outline]
            if mask.any() and not mask.all():
                axis.contour(mask, [0.5], colors=OUTLINES[outline], linewidths=1, extent=extent, origin="upper")
                axis.plot([], [], color=OUTLINES[outline], label=f"outline of the {outline}")
            if name in masks:
                title = name if mask.any() else f"{name}: not seen here"
            else:
                title = short(name)
                if heat is None:
                    where = {"ha": "center", "va": "center", "backgroundcolor": "white"}
                    axis.text(width / 2, height / 2, "no map", **where)
            axis.set_title(prefix + title, fontsize=9)
            axis.set_xlabel(f"x [{unit}]", fontsize=7, labelpad=1)
            axis.set_ylabel(f"y [{unit}]", fontsize=7, labelpad=1)
            axis.tick_params(labelsize=6, pad=1.5, length=2)
            axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    bar = _colour_bar(plot, axes, norm, HEAT, "map over its mean in the patch (1: an even map)", extend="max")
    bar.set_ticks([tick for tick in (0, 0.25, 1, 2, 4, 8, 12, 16, 20) if tick <= densest])
    bar.minorticks_off()
    bar.ax.yaxis.set_major_formatter("{x:g}")
    places = dict.fromkeys(view.place for view in views.values() if view.place)
    title = ", ".join([f"Grad-CAM of {which[1]}", f"case {which[0]}", *places])
    _legend(plot, [title, *(each.full_label for each in inspections)])
    return plot


def draw_similarity(inspections: Sequence[Inspection]) -> Figure:
    """Each stage's channel correlation, channels in IFD's ranking, which the lines part into its two halves."""
    stages = inspections[0].model.stages
    plot, axes = _stage_axes([each.prefix for each in inspections], stages, 1.75, 2.0)
    norm = Normalize(-1, 1)
    for inspection in inspections:
        for stage in stages:
            axis, order = axes[inspection.prefix + stage], inspection.ranking(stage)
            axis.set_facecolor("0.6")  # constant channels have no correlation
            axis.imshow(inspection.correlation[stage].value()[np.ix_(order, order)], cmap=SIGNED, norm=norm)
            half = len(order) / 2 - 0.5
            axis.axhline(half, color="black", linewidth=0.6)
            axis.axvline(half, color="black", linewidth=0.6)
            ends = [0, len(order) - 1], ["1", str(len(order))]
            axis.set_xticks(*ends, fontsize=7)
            axis.set_yticks(*ends, fontsize=7)
            axis.set_title(inspection.prefix + short(stage), fontsize=9)
    _colour_bar(plot, axes, norm, SIGNED, "correlation over space, mean of the cases")
    plot.supxlabel("channel, from the most to the least important in IFD's ranking", fontsize=9)
    plot.supylabel("channel", fontsize=9)
    _legend(plot, [each.full_label for each in inspections])
    return plot


def _stage_axes(
    models: Sequence[str], stages: Collection[str], width: float, height: float, beside: Any = (), **options: Any
) -> tuple[Figure, dict[str, Any]]:
    """A plot with a panel of that size for each model and stage, in the order of the forward pass, encoder on top.

    Panels are called by what is given for the model and the stage's name. `beside` names one more panel left of the
    encoder, and one left of the decoder; `.` is none.
    """
    rows = [[*more, *row] for more, row in zip([beside[:1], beside[1:]], stage_rows(stages), strict=True)]
    panels = [[name if name == "." else model + name for name in row] for model in models for row in rows]
    size = width * len(panels[0]) + 1.2, height * len(panels) + 1.2
    plot = Figure(figsize=size, layout="constrained")
    return plot, plot.subplot_mosaic(panels, **options)


def _legend(plot: Figure, titles: Sequence[str] = ()) -> None:
    """Above the panels the titles and, each once, whatever in the panels has a label."""
    found = [pair for axis in plot.axes for pair in zip(*reversed(axis.get_legend_handles_labels()), strict=True)]
    shown = {title: Line2D([], [], linestyle="") for title in titles} | dict(sorted(dict(found[::-1]).items()))
    if shown:
        plot.legend(shown.values(), shown, loc="outside upper left", ncols=1, frameon=False, fontsize=9)


def _panels(titles: Collection[str], columns: int, width: float, height: float) -> tuple[Figure, Sequence[Any]]:
    """A plot of that width with a panel of that height, in inches, for each title."""
    rows = -(-len(titles) // columns)
    plot = Figure(figsize=(width, height * rows + 0.8), layout="constrained")
    axes = list(plot.subplots(rows, columns, squeeze=False, sharex=True).flat)
    while len(axes) > len(titles):
        axes.pop().remove()
    for axis, title in zip(axes, titles, strict=True):
        axis.set_ylabel(fill(title, 30), fontsize=9)
        axis.tick_params(labelbottom=True)
        axis.grid(alpha=0.3)
    plot.align_ylabels()
    return plot, axes


def _colour_bar(plot: Figure, axes: dict[str, Any], norm: Any, colours: str, label: str, **options: Any) -> Any:
    where: Any = {"ax": list(axes.values()), "location": "right", "shrink": 0.8, "aspect": 30}
    return plot.colorbar(ScalarMappable(norm, colours), label=label, **where, **options)
