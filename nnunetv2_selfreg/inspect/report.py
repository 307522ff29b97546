"""The report's files: one HTML page that holds its pictures, the pictures themselves, and all figures as JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style

from nnunetv2_selfreg.inspect.compare import compare, summarise, with_class_means
from nnunetv2_selfreg.inspect.figures import draw_all
from nnunetv2_selfreg.inspect.measure import Inspection
from nnunetv2_selfreg.inspect.output import MADE_BY, NUMBERS, PAGE, PICTURES
from nnunetv2_selfreg.inspect.page import as_html


def write_report(
    folder: Path, inspections: Sequence[Inspection], settings: Mapping[str, Any], versions: Mapping[str, str], unit: str
) -> None:
    """Writes `report.html`, `figures/*.png` and `figures.json` into an empty folder.

    Args:
        folder: Where to.
        inspections: One model, or the two of a comparison.
        settings: What was asked for, by name.
        versions: Of the packages, by name.
        unit: The images' unit of length.
    """
    (folder / PICTURES).mkdir()
    # nnU-Net's own plot changes the global style
    with style.context("default"):
        figures = draw_all(inspections, unit)
        for name, figure in figures.items():
            figure.savefig(folder / PICTURES / f"{name}.png", dpi=200)
    content = as_json(inspections, settings, versions)
    (folder / NUMBERS).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    pictures = {name: (folder / PICTURES / f"{name}.png").read_bytes() for name in figures}
    (folder / PAGE).write_text(as_html(inspections, content, pictures), encoding="utf-8")


def as_json(
    inspections: Sequence[Inspection], settings: Mapping[str, Any], versions: Mapping[str, str]
) -> dict[str, Any]:
    """Every figure of the report, by case and summarised."""
    content: dict[str, Any] = {
        "made_by": MADE_BY,
        "versions": dict(versions),
        "settings": dict(settings),
        "cases": list(inspections[0].patches),
        "classes": [target.name for target in inspections[0].model.targets],
        "models": [_model_json(inspection) for inspection in inspections],
    }
    if len(inspections) == 2:
        content["differences"] = [
            key._asdict() | difference._asdict() for key, difference in compare(*inspections).items()
        ]
    return content


def _model_json(inspection: Inspection) -> dict[str, Any]:
    model = inspection.model
    return {
        "name": model.name,
        "dataset": model.dataset,
        "fold": model.fold,
        "epochs": model.epochs,
        "patches": inspection.patches,
        "stages": [
            {
                "name": stage,
                "channels": inspection.grids[stage][0],
                "grid": list(inspection.grids[stage][1:]),
                "student": stage in model.students,
                "ranking": inspection.ranking(stage).tolist(),
                "importance": inspection.importance(stage).tolist(),
            }
            for stage in model.stages
        ],
        "figures": [
            key._asdict() | summarise(by_case)._asdict() | {"by_case": by_case}
            for key, by_case in with_class_means(inspection.values).items()
        ],
        "logging": {
            name: [value if np.isfinite(value) else None for value in values] for name, values in model.logging.items()
        },
    }
