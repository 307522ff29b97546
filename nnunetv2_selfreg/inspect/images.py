"""The report's pictures of maps and matrices: Grad-CAM, and the channels' similarity."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from nnunetv2_selfreg.inspect.drawing import NAMES, legend, places, prefix, short
from nnunetv2_selfreg.inspect.measure import Inspection, Picture

REFERENCE, PREDICTION = "#56B4E9", "#E69F00"
HEAT, SIGNED = "magma", "RdBu_r"
DENSEST = 20.0


def draw_grad_cam(inspections: Sequence[Inspection], pictures: Mapping[int, Picture], unit: str) -> Figure:
    """One class of one case: beside image, reference and prediction the map of each stage, encoder above decoder.

    Stages of one resolution stand in one column. The colour says how many times denser than its mean a map is, on a
    square root's scale; at its top is what a map would have that lies wholly and evenly inside the class.
    """
    first = next(iter(pictures.values()))
    where, encoder = places(inspections[0])
    tall = first.size[0] / first.size[1]
    width = 2.1
    figure = Figure(
        figsize=(width * (encoder + 1) + 1.2, ((width - 0.4) * tall + 0.7) * 2 * len(pictures) + 1.2),
        layout="constrained",
    )
    axes = figure.subplots(2 * len(pictures), encoder + 1, squeeze=False)
    # the square root keeps weak maps visible
    top_of_scale = np.clip(1 / max(picture.area for picture in pictures.values()), 2, DENSEST)
    norm = PowerNorm(0.5, 0, float(top_of_scale))
    for block, (number, picture) in enumerate(pictures.items()):
        top, bottom = axes[2 * block], axes[2 * block + 1]
        model = prefix(inspections, number)
        for axis in (*top, *bottom):
            axis.set_visible(False)
        _draw_outlines(top[0], bottom[0], picture, model, unit)
        for name, heat in picture.heat.items():
            row, column = where[name]
            axis = axes[2 * block + row, column + 1]
            axis.set_title(f"{model}{short(name)}", fontsize=9)
            _draw_map(axis, picture, heat, norm, unit)
    bar = figure.colorbar(_mappable(norm, HEAT), ax=axes, location="right", shrink=0.8, aspect=30, extend="max")
    bar.set_ticks([tick for tick in (0, 0.25, 1, 2, 4, 8, 12, 16, 20) if tick <= top_of_scale])
    bar.minorticks_off()
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.set_label("map over its mean in the patch (1: an even map)")
    places_shown = ", ".join(dict.fromkeys(picture.place for picture in pictures.values() if picture.place))
    title = f"Grad-CAM of {first.target}, case {first.case}" + (f", {places_shown}" if places_shown else "")
    handles = [Line2D([], [], linestyle="", label=title)]
    handles += [
        Line2D([], [], color=colour, label=f"outline of the {name}")
        for name, colour in (("reference", REFERENCE), ("prediction", PREDICTION))
        if name == "prediction" or first.reference is not None
    ]
    legend(figure, handles, inspections, NAMES)
    return figure


def _draw_outlines(top: Any, bottom: Any, picture: Picture, model: str, unit: str) -> None:
    """The image twice, with the reference's and with the prediction's outline, and its size."""
    for axis, name, mask, colour in (
        (top, "reference", picture.reference, REFERENCE),
        (bottom, "prediction", picture.prediction, PREDICTION),
    ):
        _image(axis, picture)
        _outline(axis, picture, mask, colour)
        axis.set_title(f"{model}{name}" if mask is not None and mask.any() else f"{model}no {name}", fontsize=9)
        _axes(axis, picture, unit)


def _draw_map(axis: Any, picture: Picture, heat: NDArray[np.float32] | None, norm: Normalize, unit: str) -> None:
    """One stage's map, opaque so that its colours are the bar's, with the outline of what it explains."""
    if heat is None:
        _image(axis, picture)
        axis.text(0.5, 0.5, "no map", transform=axis.transAxes, ha="center", va="center", backgroundcolor="white")
    else:
        axis.set_visible(True)
        axis.imshow(heat, cmap=HEAT, norm=norm, extent=_extent(picture), interpolation="nearest")
    _axes(axis, picture, unit)
    if picture.reference is None:
        _outline(axis, picture, picture.prediction, PREDICTION)
    else:
        _outline(axis, picture, picture.reference, REFERENCE)


def draw_similarity(inspections: Sequence[Inspection]) -> Figure:
    """Each stage's channel correlation, channels in IFD's ranking, which the lines part into its two halves."""
    where, encoder = places(inspections[0])
    figure = Figure(figsize=(1.75 * encoder + 1.4, 4.0 * len(inspections) + 0.6), layout="constrained")
    axes = figure.subplots(2 * len(inspections), encoder, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    norm = Normalize(-1, 1)
    for number, inspection in enumerate(inspections):
        model = prefix(inspections, number)
        for stage, (row, column) in where.items():
            axis = axes[2 * number + row, column]
            axis.set_visible(True)
            axis.set_facecolor("0.6")  # constant channels have no correlation
            order = inspection.ranking(stage)
            axis.imshow(inspection.correlation(stage)[np.ix_(order, order)], cmap=SIGNED, norm=norm, aspect="equal")
            half = len(order) / 2 - 0.5
            axis.axhline(half, color="black", linewidth=0.6)
            axis.axvline(half, color="black", linewidth=0.6)
            axis.set_xticks([0, len(order) - 1], ["1", str(len(order))], fontsize=7)
            axis.set_yticks([0, len(order) - 1], ["1", str(len(order))], fontsize=7)
            axis.set_title(f"{model}{short(stage)}", fontsize=9)
    bar = figure.colorbar(_mappable(norm, SIGNED), ax=axes, location="right", shrink=0.8, aspect=30)
    bar.set_label("correlation over space, mean of the cases")
    figure.supxlabel("channel, from the most to the least important in IFD's ranking", fontsize=9)
    figure.supylabel("channel", fontsize=9)
    legend(figure, [], inspections, NAMES)
    return figure


def _axes(axis: Any, picture: Picture, unit: str) -> None:
    axis.set_xlim(*_extent(picture)[:2])
    axis.set_ylim(*_extent(picture)[2:])
    axis.set_xlabel(f"x [{unit}]", fontsize=7, labelpad=1)
    axis.set_ylabel(f"y [{unit}]", fontsize=7, labelpad=1)
    axis.tick_params(labelsize=6, pad=1.5, length=2)
    axis.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))


def _image(axis: Any, picture: Picture) -> None:
    axis.set_visible(True)
    axis.imshow(picture.image, cmap="gray", vmin=0, vmax=1, extent=_extent(picture), interpolation="nearest")


def _outline(axis: Any, picture: Picture, mask: Any, colour: str) -> None:
    if mask is not None and mask.any() and not mask.all():
        rows, columns = mask.shape
        height, width = picture.size
        x, y = (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
        axis.contour(x, y, mask, levels=[0.5], colors=colour, linewidths=1)


def _extent(picture: Picture) -> tuple[float, float, float, float]:
    return 0, picture.size[1], picture.size[0], 0


def _mappable(norm: Normalize, colours: str) -> Any:
    return ScalarMappable(norm=norm, cmap=colours)
