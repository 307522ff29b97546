"""The report's folder: one HTML page that holds its plots, the plots themselves, and all values as JSON."""

import base64
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
from nnunetv2_selfreg.files import read_json, write_json, write_text
from nnunetv2_selfreg.inspect.findings import findings
from nnunetv2_selfreg.inspect.maps import draw_grad_cam, draw_similarity
from nnunetv2_selfreg.inspect.measure import PATCHES_PER_CLASS, Inspection
from nnunetv2_selfreg.inspect.model import short
from nnunetv2_selfreg.inspect.plots import draw_by_stage, draw_ranking, draw_training
from nnunetv2_selfreg.inspect.values import (
    AREA,
    DIFFERENCE,
    IN_CLASS,
    INPUT,
    KEYS,
    NO_MASS,
    STUDENTS,
    differences,
    summarise,
    with_class_means,
)
from nnunetv2_selfreg.terms import SHARE

MADE_BY = "nnUNetv2_selfreg inspect"
PAGE, VALUES, PLOTS = "report.html", "values.json", "plots"
OLD_VALUES, OLD_PLOTS = "figures.json", "figures"  # as reports were made at first


def may_replace(folder: Path, overwrite: bool) -> bool:
    """Whether a folder that is there may be replaced.

    Raises:
        SelfRegError: It may not, or it holds anything but a report.
    """
    if not overwrite:
        raise SelfRegError(f"-o {folder} exists already; name another, or replace a report with --overwrite")
    if not (_is_report(folder, VALUES, PLOTS) or _is_report(folder, OLD_VALUES, OLD_PLOTS)):
        raise SelfRegError(
            f"-o {folder} is not a report and nothing else, so --overwrite leaves it alone; name another"
        )
    return True


def as_json(inspections: Sequence[Inspection], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every value of the report, by case and summarised.

    Args:
        inspections: One model, or the two of a comparison.
        settings: What was asked for, by name.
    """
    versions = {name: version(name) for name in ("nnunetv2", "torch", "captum")}
    content = {
        "made_by": MADE_BY,
        "versions": {"nnunetv2-selfreg": __version__} | versions,
        "settings": dict(settings),
        "cases": list(inspections[0].patches),
        "classes": [target.name for target in inspections[0].model.targets],
        "models": [_model_as_json(inspection) for inspection in inspections],
    }
    if len(inspections) == 2:
        content["differences"] = _records(_frames(inspections)[1], "higher")
    return content


def as_html(inspections: Sequence[Inspection], settings: Mapping[str, Any], pictures: Mapping[str, str]) -> str:
    """The report as one page that needs no other file; arguments as `as_json`, and base64 of the plots by name."""
    values, paired = _frames(inspections)
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, autoescape=True, trim_blocks=True
    )
    return pages.get_template("report.html.jinja").render(
        as_json(inspections, settings),
        inspections=inspections,
        terms=_terms(inspections),
        patches_per_class=PATCHES_PER_CLASS,
        findings=findings(inspections, paired, _compared(inspections)),
        letters=[inspection.letter for inspection in inspections],
        cells=_cells(inspections, values) | _cells(inspections, paired),
        **_tables(inspections),
        pictures=pictures,
    )


def write_report(folder: Path, inspections: Sequence[Inspection], settings: Mapping[str, Any]) -> None:
    """Writes `report.html`, `plots/*.png` and `values.json` into an empty folder; arguments as `as_json`."""
    (folder / PLOTS).mkdir()
    pictures = {}
    with style.context("default"):  # nnU-Net's own plot changes the global style
        for name, plot in _plots(inspections).items():
            plot.savefig(folder / PLOTS / f"{name}.png", dpi=200)
            pictures[name] = base64.b64encode((folder / PLOTS / f"{name}.png").read_bytes()).decode("ascii")
    write_json(folder / VALUES, as_json(inspections, settings), indent=1)
    write_text(folder / PAGE, as_html(inspections, settings, pictures))


def _is_report(folder: Path, values: str, plots: str) -> bool:
    """Whether a folder holds the page, the values and a folder of PNGs, and nothing else."""
    found = {path.relative_to(folder) for path in folder.rglob("*")}
    pictures = {path for path in found if path.parent == Path(plots) and path.suffix == ".png"}
    if found - pictures != {Path(PAGE), Path(values), Path(plots)} or not (folder / plots).is_dir():
        return False
    try:
        return read_json(folder / values).get("made_by") == MADE_BY
    except SelfRegError:
        return False


def _frames(inspections: Sequence[Inspection]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The values of all models, and their differences, of which one model has none."""
    values = pd.concat([inspection.values for inspection in inspections], ignore_index=True)
    if len(inspections) == 1:
        return values, values.iloc[:0]
    # the mean over all students says something only where both models have the same
    first, second = (list(inspection.model.students) for inspection in inspections)
    return values, differences(values, () if first == second else (STUDENTS,))


def _terms(inspections: Sequence[Inspection]) -> dict[str, str]:
    """The titles of the terms of all models, by measure."""
    return {name: term.title for inspection in inspections for name, term in inspection.model.terms.items()}


def _compared(inspections: Sequence[Inspection]) -> dict[str, str]:
    """The titles of what two models are compared by; they may differ in their numbers of channels."""
    titles = {IN_CLASS: "in-class share", "redundancy": "redundancy"}
    titles |= {"effective_rank_share": "effective rank / channels", "partner_correlation": "correlation of IFD's pairs"}
    return titles | _terms(inspections)


def _plots(inspections: Sequence[Inspection]) -> dict[str, Figure]:
    """All plots by file name without suffix."""
    (values, paired), terms = _frames(inspections), _terms(inspections)
    # without references a class may be predicted by one of the models only
    views = sorted(set().union(*(inspection.views for inspection in inspections)))
    plots = {f"grad_cam_{number:02d}": draw_grad_cam(inspections, which) for number, which in enumerate(views)}
    is_seen = IN_CLASS in set(values["measure"])
    if is_seen:
        classes = [target.name for target in inspections[0].model.targets]
        shares = [(f"{name}: share of the map's\nmass inside the class", IN_CLASS, name) for name in classes]
        plots["in_class_share"] = draw_by_stage(inspections, values, shares, min(3, len(classes)))
    channels = [
        ("redundancy: mean absolute\noff-diagonal correlation", "redundancy", ""),
        ("effective rank\nover the number of channels", "effective_rank_share", ""),
        ("mean correlation of the\nchannel pairs that IFD compares", "partner_correlation", ""),
    ]
    losses = [(f"{title},\nunweighted", name, "") for name, title in terms.items()]
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
        titles = {name: title.replace(" / ", "\nover ") for name, title in _compared(inspections).items()}
        titles[IN_CLASS] += ",\nmean of the classes"
        panels = [(f"B minus A:\n{titles[name]}", name, "") for name in titles if name != IN_CLASS or is_seen]
        plots["differences"] = draw_by_stage(inspections, paired, panels)
    return plots


def _tables(inspections: Sequence[Inspection]) -> dict[str, dict[str, Any]]:
    """By table the rows' titles by stage, and the columns' titles, measures and classes."""
    compared = _compared(inspections)
    stages = {stage: short(stage) for stage in inspections[0].model.stages}
    students: dict[str, str] = {}
    for stage in (*stages, *(student for each in inspections for student in each.model.students)):
        of = [inspection.letter for inspection in inspections if stage in inspection.model.students]
        everywhere = len(of) == len(inspections)
        students[stage] = short(stage) + ("*" if everywhere else f"* ({of[0]} only)" if of else "")
    classes = [(target.name, IN_CLASS, target.name) for target in inspections[0].model.targets]
    channels = {"channels": "channels", "redundancy": "redundancy", "effective_rank": "effective rank"}
    channels |= {"partner_correlation": compared["partner_correlation"], "constant_channels": "constant channels"}
    paired = compared | {IN_CLASS: "in-class share, mean of the classes"}
    return {
        "rows": {
            "stages": stages,
            "differences": stages | {STUDENTS: "all students"},
            "shares": stages | {INPUT: "share of the area"},
            "losses": students | {STUDENTS: "all students, as in the training"},
        },
        "columns": {
            "differences": [(f"in-class share, {name}", *key) for name, *key in classes]
            + [(title, name, "") for name, title in paired.items()],
            "shares": classes,
            "channels": [(title, name, "") for name, title in channels.items()],
            "losses": [(title, name, "") for name, title in _terms(inspections).items()],
        },
    }


def _cells(inspections: Sequence[Inspection], values: pd.DataFrame) -> dict[Any, str]:
    """The tables' texts by model, measure, stage and class: mean and standard deviation, and what is counted."""
    cells: dict[Any, str] = {
        (i.letter, "channels", stage, ""): str(grid[0]) for i in inspections for stage, grid in i.grids.items()
    }
    # the share of the area stands below the in-class shares
    for key, row in summarise(values.replace({"measure": {AREA: IN_CLASS}})).set_index(["model", *KEYS]).iterrows():
        signed = key[0] == DIFFERENCE
        mean = "none" if pd.isna(row["mean"]) else f"{row['mean']:{'+' if signed else ''}.3f}"
        sd = "" if pd.isna(row["sd"]) else f" ± {row['sd']:.3f}"
        cells[key] = mean + sd + (f"\n{row['higher']:.0f} of {row['cases']:.0f} up" if signed else "")
    without_mass = values[values["measure"] == NO_MASS].groupby(["model", "stage", "class"])["value"].sum()
    for (letter, stage, target), count in without_mass[without_mass > 0].items():
        if letter != DIFFERENCE:
            cells[letter, IN_CLASS, stage, target] += f" ({count:.0f})"
    return cells


def _model_as_json(inspection: Inspection) -> dict[str, Any]:
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
                "importance": inspection.importance[stage].value().tolist(),
            }
            for stage in model.stages
        ],
        "values": _records(with_class_means(inspection.values), "missing"),
        "logging": {name: [x if np.isfinite(x) else None for x in curve] for name, curve in model.logging.items()},
    }


def _records(values: pd.DataFrame, counted: str) -> list[dict[str, Any]]:
    """Each measure, stage and class with its summary and its values by case; None where there is none."""
    summary = summarise(values)[[*KEYS, "mean", "sd", "cases", counted]]
    by_case = {key: _or_none(group.set_index("case")["value"]).to_dict() for key, group in values.groupby(KEYS)}
    rows = _or_none(summary).to_dict("records")
    return [row | {"by_case": by_case[row["measure"], row["stage"], row["class"]]} for row in rows]


def _or_none(values: Any) -> Any:
    return values.astype(object).where(values.notna(), None)
