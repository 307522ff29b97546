"""The report's pictures of maps and matrices: Grad-CAM, and the channels' similarity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nnunetv2_selfreg.inspect.gradcam import GradCamView
from nnunetv2_selfreg.inspect.measure import Inspection
from nnunetv2_selfreg.inspect.model import places, short
from nnunetv2_selfreg.inspect.plots import legend, stage_grid

REFERENCE, PREDICTION = "#56B4E9", "#E69F00"
HEAT, SIGNED = "magma", "RdBu_r"
DENSEST = 20.0


def draw_grad_cam(inspections: Sequence[Inspection], which: tuple[str, str, int]) -> Figure:
    """One class of one case: beside image, reference and prediction the map of each stage, encoder above decoder.

    Stages of one resolution stand in one column. The colour says how many times denser than its mean a map is, on a
    square root's scale; at its top is what a map would have that lies wholly and evenly inside the class.

    Args:
        inspections: One model, or the two of a comparison.
        which: Case, class and number of the view; one of the models may lack it.
    """
    views = [(i.letter and f"{i.letter}, ", i.views[which]) for i in inspections if which in i.views]
    first, unit = views[0][1], "pixels" if inspections[0].model.is_natural else "mm"
    where = places(inspections[0].model.stages)
    columns = 2 + max(column for _, column in where.values())
    height = 1.7 * first.size[0] / first.size[1] + 0.7
    plot = Figure(figsize=(2.1 * columns + 1.2, height * 2 * len(views) + 1.2), layout="constrained")
    axes = plot.subplots(2 * len(views), columns, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    # the square root keeps weak maps visible
    densest = np.clip(1 / max(view.area for _, view in views), 2, DENSEST)
    norm = PowerNorm(0.5, 0, float(densest))
    for (top, bottom), (model, view) in zip(axes.reshape(len(views), 2, columns), views, strict=True):
        for axis, name, mask in ((top[0], "reference", view.reference), (bottom[0], "prediction", view.prediction)):
            _show(axis, view, unit, view.image, {name: mask}, cmap="gray", vmin=0, vmax=1)
            axis.set_title(f"{model}{name}" if mask is not None and mask.any() else f"{model}no {name}", fontsize=9)
        explained = {"reference": view.reference} if view.reference is not None else {"prediction": view.prediction}
        for name, heat in view.heat.items():
            row, column = where[name]
            axis = (top, bottom)[row][column + 1]
            axis.set_title(f"{model}{short(name)}", fontsize=9)
            if heat is None:
                _show(axis, view, unit, view.image, explained, cmap="gray", vmin=0, vmax=1)
                axis.text(
                    0.5, 0.5, "no map", transform=axis.transAxes, ha="center", va="center", backgroundcolor="white"
                )
            else:
                _show(axis, view, unit, heat, explained, cmap=HEAT, norm=norm)
    bar = plot.colorbar(ScalarMappable(norm, HEAT), ax=axes, location="right", shrink=0.8, aspect=30, extend="max")
    bar.set_ticks([tick for tick in (0, 0.25, 1, 2, 4, 8, 12, 16, 20) if tick <= densest])
    bar.minorticks_off()
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.set_label("map over its mean in the patch (1: an even map)")
    shown_at = dict.fromkeys(view.place for _, view in views if view.place)
    title = ", ".join([f"Grad-CAM of {which[1]}", f"case {which[0]}", *shown_at])
    handles = [Line2D([], [], linestyle="", label=title)]
    handles += [Line2D([], [], color=REFERENCE, label="outline of the reference")] * (first.reference is not None)
    handles += [Line2D([], [], color=PREDICTION, label="outline of the prediction")]
    legend(plot, handles, inspections, coloured=False)
    return plot


def draw_similarity(inspections: Sequence[Inspection]) -> Figure:
    """Each stage's channel correlation, channels in IFD's ranking, which the lines part into its two halves."""
    plot, axes = stage_grid(inspections, len(inspections), 1.4, 4.0 * len(inspections) + 0.6)
    norm = Normalize(-1, 1)
    for block, inspection in enumerate(inspections):
        for stage, (row, column) in places(inspection.model.stages).items():
            axis = axes[2 * block + row, column]
            axis.set_facecolor("0.6")  # constant channels have no correlation
            order = inspection.ranking(stage)
            axis.imshow(
                inspection.correlation[stage].value()[np.ix_(order, order)], cmap=SIGNED, norm=norm, aspect="equal"
            )
            half = len(order) / 2 - 0.5
            axis.axhline(half, color="black", linewidth=0.6)
            axis.axvline(half, color="black", linewidth=0.6)
            axis.set_xticks([0, len(order) - 1], ["1", str(len(order))], fontsize=7)
            axis.set_yticks([0, len(order) - 1], ["1", str(len(order))], fontsize=7)
            axis.set_title((inspection.letter and f"{inspection.letter}, ") + short(stage), fontsize=9)
    bar = plot.colorbar(ScalarMappable(norm, SIGNED), ax=axes, location="right", shrink=0.8, aspect=30)
    bar.set_label("correlation over space, mean of the cases")
    plot.supxlabel("channel, from the most to the least important in IFD's ranking", fontsize=9)
    plot.supylabel("channel", fontsize=9)
    legend(plot, [], inspections, coloured=False)
    return plot


def _show(axis: Any, view: GradCamView, unit: str, image: Any, outlines: Mapping[str, Any], **colours: Any) -> None:
    """An image or a map, opaque so that its colours are the bar's, with outlines and its size."""
    height, width = view.size
    axis.set_visible(True)
    axis.imshow(image, extent=(0, width, height, 0), interpolation="nearest", **colours)
    for name, mask in outlines.items():
        if mask is not None and mask.any() and not mask.all():
            rows, columns = mask.shape
            x, y = (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
            colour = REFERENCE if name == "reference" else PREDICTION
            axis.contour(x, y, mask, levels=[0.5], colors=colour, linewidths=1)
    axis.set_xlim(0, width)
    axis.set_ylim(height, 0)
    axis.set_xlabel(f"x [{unit}]", fontsize=7, labelpad=1)
    axis.set_ylabel(f"y [{unit}]", fontsize=7, labelpad=1)
    axis.tick_params(labelsize=6, pad=1.5, length=2)
    axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
