"""The report's folder: one HTML page that holds its plots, the plots themselves, and all values as JSON."""

import base64
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import style
from matplotlib.figure import Figure

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import write_json, write_text
from nnunetv2_selfreg.inspect.findings import findings
from nnunetv2_selfreg.inspect.maps import draw_grad_cam, draw_similarity
from nnunetv2_selfreg.inspect.measure import PATCHES_PER_CLASS, Inspection
from nnunetv2_selfreg.inspect.plots import draw_by_stage, draw_ranking, draw_training
from nnunetv2_selfreg.inspect.tables import compared, make_tables, term_titles
from nnunetv2_selfreg.inspect.values import IN_CLASS, KEYS, STUDENTS, differences, summarise, with_class_means
from nnunetv2_selfreg.terms import SHARE

MADE_BY = "nnUNetv2_selfreg inspect"
PAGE, VALUES, PLOTS = "report.html", "values.json", "plots"
OLD_VALUES, OLD_PLOTS = "figures.json", "figures"  # until 0.1.0


def may_replace(folder: Path, overwrite: bool) -> bool:
    """Whether a folder that is there may be replaced.

    Raises:
        SelfRegError: It may not, or it holds anything but a report.
    """
    if not overwrite:
        raise SelfRegError(f"-o {folder} exists already; name another, or replace a report with --overwrite")
    if not any(_is_report(folder, *names) for names in ((VALUES, PLOTS), (OLD_VALUES, OLD_PLOTS))):
        raise SelfRegError(
            f"-o {folder} is not a report and nothing else, so --overwrite leaves it alone; name another"
        )
    return True


def write_report(folder: Path, inspections: Sequence[Inspection], settings: Mapping[str, Any]) -> None:
    """Writes `report.html`, `plots/*.png` and `values.json` into an empty folder.

    Args:
        folder: Where to.
        inspections: One model, or the two of a comparison.
        settings: What was asked for, by name.
    """
    values = pd.concat([inspection.values for inspection in inspections], ignore_index=True)
    paired = values.iloc[:0]
    if len(inspections) == 2:
        # the mean over all students says something only where both models have the same
        first, second = (list(inspection.model.students) for inspection in inspections)
        paired = differences(values, () if first == second else (STUDENTS,))
    versions = {"nnunetv2-selfreg": __version__}
    versions |= {name: version(name) for name in ("nnunetv2", "torch", "captum")}
    (folder / PLOTS).mkdir()
    pictures = {}
    # nnU-Net's own plot changes the global style
    with style.context("default"):
        for name, plot in _plots(inspections, values, paired).items():
            plot.savefig(folder / PLOTS / f"{name}.png", dpi=200)
            pictures[name] = base64.b64encode((folder / PLOTS / f"{name}.png").read_bytes()).decode("ascii")
    content = {
        "made_by": MADE_BY,
        "versions": versions,
        "settings": dict(settings),
        "cases": list(inspections[0].patches),
        "classes": [target.name for target in inspections[0].model.targets],
        "models": [_as_json(inspection) for inspection in inspections],
    }
    if len(inspections) == 2:
        content["differences"] = _records(paired, "higher")
    write_json(folder / VALUES, content, indent=1)
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    page = pages.get_template("report.html.jinja").render(
        content,
        title=" and ".join(inspection.model.folder.name for inspection in inspections),
        terms=list(term_titles(inspections).values()),
        patches_per_class=PATCHES_PER_CLASS,
        findings=findings(inspections, paired, compared(inspections)),
        tables=make_tables(inspections, values, paired),
        pictures=pictures,
    )
    write_text(folder / PAGE, page)


def _is_report(folder: Path, values: str, plots: str) -> bool:
    if not folder.is_dir() or {path.name for path in folder.iterdir()} != {PAGE, values, plots}:
        return False
    if not (folder / plots).is_dir() or any(path.suffix != ".png" for path in (folder / plots).iterdir()):
        return False
    try:
        content = json.loads((folder / values).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("made_by") == MADE_BY


def _plots(inspections: Sequence[Inspection], values: pd.DataFrame, paired: pd.DataFrame) -> dict[str, Figure]:
    """All plots by file name without suffix."""
    terms = term_titles(inspections)
    # without references a class may be predicted by one of the models only
    views = sorted(set().union(*(inspection.views for inspection in inspections)))
    plots = {f"grad_cam_{number:02d}": draw_grad_cam(inspections, which) for number, which in enumerate(views)}
    seen = values[values["measure"] == IN_CLASS]
    if len(seen):
        targets = [target.name for target in inspections[0].model.targets]
        shares = {f"{name}: share of the map's\nmass inside the class": (IN_CLASS, name) for name in targets}
        plots["in_class_share"] = draw_by_stage(inspections, values, shares, min(3, len(targets)))
    channels = {
        "redundancy: mean absolute\noff-diagonal correlation": ("redundancy", ""),
        "effective rank\nover the number of channels": ("effective_rank_share", ""),
        "mean correlation of the\nchannel pairs that IFD compares": ("partner_correlation", ""),
    }
    losses = {f"{title},\nunweighted": (name, "") for name, title in terms.items()}
    plots |= {
        "channel_similarity": draw_similarity(inspections),
        "channels": draw_by_stage(inspections, values, channels),
        "losses": draw_by_stage(inspections, values, losses),
        "ranking": draw_ranking(inspections),
    }
    if any(inspection.model.logging for inspection in inspections):
        curves = {name: f"{title}, mean over\nthe epoch, unweighted" for name, title in terms.items()}
        curves[SHARE] = "share of the weighted\nterms in the loss [%]"
        curves["mean_fg_dice"] = "pseudo Dice, mean of\nthe foreground classes"
        plots["training"] = draw_training(inspections, curves)
    if len(inspections) == 2:
        titles = {name: title for name, title in compared(inspections).items() if name != IN_CLASS or len(seen)}
        labels = {f"B minus A:\n{title}".replace(" / ", "\nover "): (name, "") for name, title in titles.items()}
        plots["differences"] = draw_by_stage(inspections, paired, labels)
    return plots


def _as_json(inspection: Inspection) -> dict[str, Any]:
    """Every value of one model, by case and summarised."""
    model = inspection.model
    return {
        "name": model.folder.name,
        "dataset": model.folder.dataset,
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
        "values": _records(with_class_means(inspection.values), "missing"),
        "logging": {
            name: [value if np.isfinite(value) else None for value in values] for name, values in model.logging.items()
        },
    }


def _records(values: pd.DataFrame, counted: str) -> list[dict[str, Any]]:
    """Each measure, stage and class with its summary and its values by case; None where there is none."""
    summary = summarise(values)[[*KEYS, "mean", "sd", "cases", counted]]
    by_case = {key: group.set_index("case")["value"] for key, group in values.groupby(KEYS)}
    return [
        row | {"by_case": _or_none(by_case[row["measure"], row["stage"], row["class"]]).to_dict()}
        for row in _or_none(summary).to_dict("records")
    ]


def _or_none(values: Any) -> Any:
    return values.astype(object).where(values.notna(), None)
