"""What the report's pictures have in common: colours, names and places."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nnunetv2_selfreg.inspect.measure import Inspection

# Okabe and Ito's colours, which stay apart for colour-blind readers
COLOURS = ("#0072B2", "#D55E00")
MARKERS = ("o", "s")
STAGE_AXIS = "stage (E encoder, D decoder, in the order of the forward pass)"

# how a legend shows a model
MARKED: tuple[dict[str, Any], ...] = tuple({"marker": marker} for marker in MARKERS)
LINES: tuple[dict[str, Any], ...] = ({"linewidth": 2},) * 2
NAMES: tuple[dict[str, Any], ...] = ({"linestyle": ""},) * 2


def short(stage: str) -> str:
    """A stage's name on an axis: E0 for encoder.stages.0, D0 for decoder.stages.0."""
    part, _, number = stage.split(".")
    return f"{part[0].upper()}{number}"


def label(inspections: Sequence[Inspection], number: int) -> str:
    """What a model is called in the pictures: A and B in a comparison."""
    name = inspections[number].model.name
    return f"{'AB'[number]}: {name}" if len(inspections) > 1 else name


def places(inspection: Inspection) -> tuple[dict[str, tuple[int, int]], int]:
    """Each stage's row and column, the encoder above the decoder's stage of the same resolution, and the columns."""
    encoder = [stage for stage in inspection.model.stages if stage.startswith("encoder")]
    decoder = [stage for stage in inspection.model.stages if stage.startswith("decoder")]
    where = {stage: (0, column) for column, stage in enumerate(encoder)}
    where |= {stage: (1, len(decoder) - 1 - i) for i, stage in enumerate(decoder)}
    return where, max(len(encoder), len(decoder))


def prefix(inspections: Sequence[Inspection], number: int) -> str:
    """What stands before a panel's title: the model's letter in a comparison."""
    return f"{'AB'[number]}, " if len(inspections) > 1 else ""


def legend(
    figure: Figure, handles: list[Line2D], inspections: Sequence[Inspection], models: Sequence[dict[str, Any]]
) -> None:
    """Above the panels the given handles and, in a comparison, what each model looks like."""
    if len(inspections) > 1:
        handles = handles + [
            Line2D([], [], color=COLOURS[number], label=label(inspections, number), **models[number])
            for number in range(len(inspections))
        ]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=1, frameon=False, fontsize=9)
