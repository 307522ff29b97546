"""The pictures of the report. Both models of a comparison share every scale."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from nnunetv2_selfreg.inspect.compare import Difference, differences, mean_over_targets, summarise
from nnunetv2_selfreg.inspect.measure import INPUT, Inspection, Key, Picture

# Okabe and Ito's colours, which stay apart for colour-blind readers
COLOURS = ("#0072B2", "#D55E00")
MARKERS = ("o", "s")
REFERENCE, PREDICTION = "#56B4E9", "#E69F00"
HEAT, SIGNED = "magma", "RdBu_r"
STAGE_AXIS = "stage (E encoder, D decoder, in the order of the forward pass)"
DENSEST = 20.0

# how a legend shows a model
MARKED: tuple[dict[str, Any], ...] = tuple({"marker": marker} for marker in MARKERS)
LINES: tuple[dict[str, Any], ...] = ({"linewidth": 2},) * 2
NAMES: tuple[dict[str, Any], ...] = ({"linestyle": ""},) * 2


def draw_all(inspections: Sequence[Inspection], unit: str) -> dict[str, Figure]:
    """Draws every picture.

    Args:
        inspections: One model, or the two of a comparison.
        unit: The images' unit of length.

    Returns:
        Figures by file name without suffix, in the order of the report.
    """
    figures = {}
    by_model = [{(picture.case, picture.target): picture for picture in i.pictures} for i in inspections]
    for number, which in enumerate(sorted(set().union(*by_model))):
        # without references a class may be predicted by one of the models only
        pictures = {model: found[which] for model, found in enumerate(by_model) if which in found}
        figures[f"grad_cam_{number:02d}"] = draw_grad_cam(inspections, pictures, unit)
    if any(key.measure == "in_class_share" for key in inspections[0].values):
        figures["in_class_share"] = draw_in_class_share(inspections)
    figures["channel_similarity"] = draw_similarity(inspections)
    figures["channels"] = draw_measures(
        inspections,
        {
            "redundancy": "redundancy: mean absolute\noff-diagonal correlation",
            "effective_rank_share": "effective rank\nover the number of channels",
            "partner_correlation": "mean correlation of the\nchannel pairs that IFD compares",
        },
    )
    figures["losses"] = draw_measures(
        inspections, {"scr": "SCR,\nmean squared difference", "ifd": "IFD,\nmean squared difference"}
    )
    figures["ranking"] = draw_ranking(inspections)
    if any(inspection.model.logging for inspection in inspections):
        figures["training"] = draw_training(inspections)
    if len(inspections) == 2:
        figures["differences"] = draw_differences(inspections)
    return figures


def short(stage: str) -> str:
    """A stage's name on an axis: E0 for encoder.stages.0, D0 for decoder.stages.0."""
    part, _, number = stage.split(".")
    return f"{part[0].upper()}{number}"


def label(inspections: Sequence[Inspection], number: int) -> str:
    """What a model is called in the pictures: A and B in a comparison."""
    name = inspections[number].model.name
    return f"{'AB'[number]}: {name}" if len(inspections) > 1 else name


def draw_grad_cam(inspections: Sequence[Inspection], pictures: Mapping[int, Picture], unit: str) -> Figure:
    """One class of one case: beside image, reference and prediction the map of each stage, encoder above decoder.

    Stages of one resolution stand in one column. The colour says how many times denser than its mean a map is; at the
    top of the scale is what a map would have that lies wholly and evenly inside the class.
    """
    first = next(iter(pictures.values()))
    rows, encoder = _grid(inspections[0])
    tall = first.size[0] / first.size[1]
    width = 1.75
    figure = Figure(
        figsize=(width * (encoder + 1) + 1.2, (width * tall + 0.32) * 2 * len(pictures) + 1.2), layout="constrained"
    )
    axes = figure.subplots(2 * len(pictures), encoder + 1, squeeze=False)
    norm = Normalize(0, float(np.clip(1 / max(*(picture.area for picture in pictures.values()), 1e-6), 2, DENSEST)))
    figure.suptitle(f"Grad-CAM of {first.target}, case {first.case}")
    for block, (number, picture) in enumerate(pictures.items()):
        top, bottom = axes[2 * block], axes[2 * block + 1]
        prefix = f"{'AB'[number]}, " if len(inspections) > 1 else ""
        for axis in (*top, *bottom):
            axis.set_visible(False)
        for axis, name, outline, colour in (
            (top[0], "reference", picture.reference, REFERENCE),
            (bottom[0], "prediction", picture.prediction, PREDICTION),
        ):
            _image(axis, picture)
            axis.set_title(f"{prefix}{name}" if outline is not None else f"{prefix}image, no reference", fontsize=9)
            _outline(axis, picture, outline, colour)
            axis.set_ylabel(f"[{unit}]", fontsize=8)
            axis.tick_params(labelsize=7)
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        for name, heat in picture.heat.items():
            row, column = rows[name]
            axis = axes[2 * block + row, column + 1]
            _image(axis, picture)
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(f"{prefix}{short(name)}", fontsize=9)
            if heat is None:
                axis.text(0.5, 0.5, "no map", transform=axis.transAxes, ha="center", va="center", color="white")
            else:
                axis.imshow(heat, cmap=HEAT, norm=norm, alpha=0.75, extent=_extent(picture), interpolation="nearest")
            if picture.reference is None:
                _outline(axis, picture, picture.prediction, PREDICTION)
            else:
                _outline(axis, picture, picture.reference, REFERENCE)
    bar = figure.colorbar(_mappable(norm, HEAT), ax=axes, location="right", shrink=0.8, aspect=30, extend="max")
    bar.set_label("map over its mean in the patch")
    handles = [
        Line2D([], [], color=colour, label=f"outline of the {name}")
        for name, colour in (("reference", REFERENCE), ("prediction", PREDICTION))
        if name == "prediction" or first.reference is not None
    ]
    _legend(figure, handles, inspections, NAMES)
    return figure


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
        _per_stage(axis, inspections, "in_class_share", target)
        area = summarise(inspections[0].values.get(Key("class_area", INPUT, target), {})).mean
        if area is not None:
            axis.axhline(area, color="0.3", linestyle=":", linewidth=1.5)
        axis.set_title(target, fontsize=10)
        axis.set_ylim(0, 1)
    figure.supylabel("share of the map's mass inside the class", fontsize=10)
    figure.supxlabel(STAGE_AXIS, fontsize=10)
    chance = Line2D([], [], color="0.3", linestyle=":", label="the class's share of the area (an even map)")
    _legend(figure, [chance], inspections, MARKED)
    return figure


def draw_similarity(inspections: Sequence[Inspection]) -> Figure:
    """Each stage's channel correlation, channels in IFD's ranking, which the lines part into its two halves."""
    places, encoder = _grid(inspections[0])
    figure = Figure(figsize=(1.75 * encoder + 1.4, 4.0 * len(inspections) + 0.6), layout="constrained")
    axes = figure.subplots(2 * len(inspections), encoder, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    norm = Normalize(-1, 1)
    for number, inspection in enumerate(inspections):
        prefix = f"{'AB'[number]}, " if len(inspections) > 1 else ""
        for stage, (row, column) in places.items():
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
            axis.set_title(f"{prefix}{short(stage)}", fontsize=9)
    bar = figure.colorbar(_mappable(norm, SIGNED), ax=axes, location="right", shrink=0.8, aspect=30)
    bar.set_label("correlation over space, mean of the cases")
    figure.supxlabel("channel, from the most to the least important in IFD's ranking", fontsize=9)
    figure.supylabel("channel", fontsize=9)
    _legend(figure, [], inspections, NAMES)
    return figure


def draw_measures(inspections: Sequence[Inspection], measures: Mapping[str, str]) -> Figure:
    """Figures of all channels by stage, one panel each."""
    figure = Figure(figsize=(9, 2.3 * len(measures) + 0.8), layout="constrained")
    axes = figure.subplots(len(measures), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (measure, text) in zip(axes, measures.items(), strict=True):
        _per_stage(axis, inspections, measure)
        axis.set_ylabel(text, fontsize=9)
        if measure != "partner_correlation":
            axis.set_ylim(bottom=0)
        else:
            axis.axhline(0, color="0.3", linewidth=0.8)
    axes[-1].set_xlabel(STAGE_AXIS)
    _legend(figure, [], inspections, MARKED)
    return figure


def draw_ranking(inspections: Sequence[Inspection]) -> Figure:
    """Each stage's channel importance, sorted: what IFD ranks the channels by."""
    places, encoder = _grid(inspections[0])
    figure = Figure(figsize=(1.75 * encoder + 0.8, 4.4), layout="constrained")
    axes = figure.subplots(2, encoder, squeeze=False, sharey=True)
    for axis in axes.flat:
        axis.set_visible(False)
    for stage, (row, column) in places.items():
        axis = axes[row, column]
        axis.set_visible(True)
        for inspection, colour in zip(inspections, COLOURS, strict=False):
            values = inspection.importance(stage)[inspection.ranking(stage)]
            axis.plot(np.arange(1, len(values) + 1), values, color=colour, linewidth=1.5)
        axis.axvline((len(values) + 1) / 2, color="black", linewidth=0.6)
        axis.axhline(0, color="0.3", linewidth=0.6, linestyle=":")
        axis.set_xticks([1, len(values)])
        axis.tick_params(labelsize=7)
        axis.set_title(short(stage), fontsize=9)
    figure.supylabel("importance: mean over\nroot mean square", fontsize=9)
    figure.supxlabel("rank of the channel; IFD compares the halves on both sides of the line", fontsize=9)
    _legend(figure, [], inspections, LINES)
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
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    _legend(figure, [], inspections, LINES)
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
    found: dict[str, dict[str, Difference]] = {}
    if any(key.measure == "in_class_share" for key in first.values):
        panels = {"in_class_share": "in-class share,\nmean of the classes"} | panels
        means = [
            {
                Key("in_class_share", stage): mean_over_targets(i.values, "in_class_share", stage)
                for stage in i.model.stages
            }
            for i in inspections
        ]
        found["in_class_share"] = {key.stage: value for key, value in differences(*means).items()}
    for key, value in differences(first.values, second.values).items():
        if key.measure in panels and not key.target:
            found.setdefault(key.measure, {})[key.stage] = value
    figure = Figure(figsize=(9, 1.9 * len(panels) + 0.8), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    stages = list(first.model.stages)
    for axis, (measure, text) in zip(axes, panels.items(), strict=True):
        axis.axhline(0, color="0.3", linewidth=0.8)
        for x, stage in enumerate(stages):
            if (each := found[measure].get(stage)) and each.mean is not None:
                _dots(axis, x, list(each.by_case.values()), "0.5")
                axis.errorbar(x, each.mean, yerr=each.sd or 0, color="black", marker="D", markersize=5, capsize=3)
        _limits_around_zero(axis)
        _stage_ticks(axis, stages)
        axis.set_ylabel(text, fontsize=9)
        axis.grid(alpha=0.3, axis="y")
    axes[-1].set_xlabel(STAGE_AXIS)
    figure.supylabel("B minus A", fontsize=10)
    handles = [
        Line2D([], [], color="0.5", marker="o", markersize=3, linestyle="", label="one case"),
        Line2D([], [], color="black", marker="D", markersize=5, label="mean and standard deviation over cases"),
    ]
    _legend(figure, handles, inspections, NAMES)
    return figure


def _grid(inspection: Inspection) -> tuple[dict[str, tuple[int, int]], int]:
    """Each stage's row and column, the encoder above the decoder's stage of the same resolution; the columns."""
    encoder = [stage for stage in inspection.model.stages if stage.startswith("encoder")]
    decoder = [stage for stage in inspection.model.stages if stage.startswith("decoder")]
    places = {stage: (0, column) for column, stage in enumerate(encoder)}
    places |= {stage: (1, len(decoder) - 1 - i) for i, stage in enumerate(decoder)}
    return places, max(len(encoder), len(decoder))


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
                    yerr=sd or 0,
                    color=COLOURS[number],
                    marker=MARKERS[number],
                    markersize=5,
                    capsize=3,
                    markeredgecolor="black",
                    markeredgewidth=0.6,
                )
    _stage_ticks(axis, stages)
    axis.grid(alpha=0.3, axis="y")


def _dots(axis: Any, x: float, values: Sequence[float], colour: str) -> None:
    spread = np.linspace(-0.08, 0.08, len(values)) if len(values) > 1 else np.zeros(1)
    axis.plot(x + spread, values, linestyle="", marker="o", markersize=2.5, color=colour, alpha=0.4)


def _stage_ticks(axis: Any, stages: Sequence[str]) -> None:
    axis.set_xticks(range(len(stages)), [short(stage) for stage in stages], fontsize=8)
    axis.set_xlim(-0.6, len(stages) - 0.4)


def _limits_around_zero(axis: Any) -> None:
    """So that a difference of nothing but rounding does not fill the panel."""
    low, high = axis.get_ylim()
    least = 1e-3
    axis.set_ylim(min(low, -least), max(high, least))


def _image(axis: Any, picture: Picture) -> None:
    axis.set_visible(True)
    axis.imshow(picture.image, cmap="gray", vmin=0, vmax=1, extent=_extent(picture), interpolation="nearest")


def _outline(axis: Any, picture: Picture, mask: Any, colour: str) -> None:
    if mask is not None and mask.any() and not mask.all():
        rows, columns = mask.shape
        height, width = picture.size
        x, y = (np.arange(columns) + 0.5) * width / columns, (np.arange(rows) + 0.5) * height / rows
        axis.contour(x, y, mask, levels=[0.5], colors=colour, linewidths=1.2)


def _extent(picture: Picture) -> tuple[float, float, float, float]:
    return 0, picture.size[1], picture.size[0], 0


def _mappable(norm: Normalize, colours: str) -> Any:
    return ScalarMappable(norm=norm, cmap=colours)


def _legend(
    figure: Figure, handles: list[Line2D], inspections: Sequence[Inspection], models: Sequence[dict[str, Any]]
) -> None:
    """The given handles and, in a comparison, what each model looks like."""
    if len(inspections) > 1:
        handles = handles + [
            Line2D([], [], color=COLOURS[number], label=label(inspections, number), **models[number])
            for number in range(len(inspections))
        ]
    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=1, frameon=False, fontsize=9)
