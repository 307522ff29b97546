"""The report's folder: one HTML page that holds its plots, the plots themselves, and all values as JSON."""

import base64
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import style
from matplotlib.figure import Figure

import nnunetv2_selfreg.inspect.values as tables
from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import write_json, write_text
from nnunetv2_selfreg.inspect.measure import PATCHES_PER_CLASS, Inspection
from nnunetv2_selfreg.inspect.plots import draw_by_stage, draw_grad_cam, draw_ranking, draw_similarity, draw_training
from nnunetv2_selfreg.terms import SHARE

MADE_BY = "nnUNetv2_selfreg inspect"
PAGE, VALUES, PLOTS = "report.html", "values.json", "plots"
OLD_VALUES, OLD_PLOTS = "figures.json", "figures"  # as reports were made at first
PACKAGES = ("nnunetv2", "torch", "captum")  # whose versions a report names
LOGGED = {
    SHARE: "share of the weighted terms in the loss [%]",
    "mean_fg_dice": "pseudo Dice, mean of the foreground classes",
}


def may_replace(folder: Path, overwrite: bool) -> bool:
    """Whether a folder that is there may be replaced.

    Raises:
        SelfRegError: It may not, or it holds anything but a report.
    """
    if not overwrite:
        raise SelfRegError(f"-o {folder} exists already; name another, or replace a report with --overwrite")
    for values, plots in ((folder / VALUES, folder / PLOTS), (folder / OLD_VALUES, folder / OLD_PLOTS)):
        content = set(folder.rglob("*")) - set(plots.glob("*.png"))
        is_complete = content == {folder / PAGE, values, plots} and plots.is_dir() and values.is_file()
        if is_complete and f'"made_by": "{MADE_BY}"' in values.read_text(encoding="utf-8", errors="replace"):
            return True
    raise SelfRegError(f"-o {folder} is not a report and nothing else, so --overwrite leaves it alone; name another")


class Report:
    """What is reported of one model, or of the two of a comparison; `settings` is what was asked for, by name."""

    def __init__(self, inspections: Sequence[Inspection], settings: Mapping[str, Any]) -> None:
        self.inspections, self.settings = inspections, settings
        self._stages = list(inspections[0].model.stages)
        self._classes = [target.name for target in inspections[0].model.targets]
        self._terms = {name: term.title for each in inspections for name, term in each.model.terms.items()}
        values = pd.concat([each.values for each in inspections], ignore_index=True)
        self.values = tables.with_class_means(values)
        if len(inspections) == 2:
            # the mean over all students says something only where both models have the same
            first, second = (list(each.model.students) for each in inspections)
            differences = tables.differences(values, () if first == second else (tables.STUDENTS,))
            self.values = pd.concat([self.values, differences], ignore_index=True)
        self._summary = tables.summarise(self.values)

    def as_json(self) -> dict[str, Any]:
        """Every value of the report, by case and summarised."""
        content: dict[str, Any] = {
            "made_by": MADE_BY,
            "versions": {"nnunetv2-selfreg": __version__} | {name: version(name) for name in PACKAGES},
            "settings": dict(self.settings),
            "cases": list(self.inspections[0].patches),
            "classes": self._classes,
            "models": [self._model(each) for each in self.inspections],
        }
        if len(self.inspections) == 2:
            content["differences"] = self._records(tables.DIFFERENCE, "higher")
        # pandas writes null for NaN, which JSON has not
        return json.loads(pd.Series(content).to_json(double_precision=15))

    def as_html(self, pictures: Mapping[str, str]) -> str:
        """The report as one page that needs no other file; `pictures` are the plots by name, in base64."""
        templates = PackageLoader("nnunetv2_selfreg.inspect", ".")
        pages = Environment(loader=templates, undefined=StrictUndefined, autoescape=True, trim_blocks=True)
        pages.filters["short"] = tables.short
        return pages.get_template("report.html.jinja").render(
            self.as_json(),
            inspections=self.inspections,
            terms=self._terms,
            compared=tables.COMPARED | self._terms,
            patches_per_class=PATCHES_PER_CLASS,
            contrasts=tables.contrasts(self.values, self._stages),
            changes=tables.changes(self._summary, self._stages),
            equal=tables.EQUAL,
            summary={tuple(row[:4]): row for row in self._summary.itertuples(index=False)},
            pictures=pictures,
        )

    def write(self, folder: Path) -> None:
        """Writes `report.html`, `plots/*.png` and `values.json` into an empty folder."""
        (folder / PLOTS).mkdir()
        pictures = {}
        with style.context("default"):  # nnU-Net's own plot changes the global style
            for name, plot in self._plots().items():
                plot.savefig(folder / PLOTS / f"{name}.png", dpi=200)
                pictures[name] = base64.b64encode((folder / PLOTS / f"{name}.png").read_bytes()).decode("ascii")
        write_json(folder / VALUES, self.as_json(), indent=1)
        write_text(folder / PAGE, self.as_html(pictures))

    def _model(self, inspection: Inspection) -> dict[str, Any]:
        model = inspection.model
        stages = [
            {
                "name": stage,
                "channels": inspection.grids[stage][0],
                "grid": list(inspection.grids[stage][1:]),
                "student": stage in model.students,
                "ranking": inspection.ranking(stage).tolist(),
                "importance": inspection.importance[stage].value().tolist(),
            }
            for stage in self._stages
        ]
        return {
            "name": model.folder.name,
            "dataset": model.folder.dataset,
            "fold": model.fold,
            "epochs": model.epochs,
            "patches": inspection.patches,
            "stages": stages,
            "values": self._records(inspection.letter, "missing"),
            "logging": model.logging,
        }

    def _records(self, letter: str, counted: str) -> list[dict[str, Any]]:
        columns = [*tables.KEYS, "mean", "sd", "cases", counted, "by_case"]
        return self._summary.loc[self._summary["model"] == letter, columns].to_dict("records")

    def _plots(self) -> dict[str, Figure]:
        """All plots by file name without suffix; those by stage have a panel for what at least one case has."""
        inspections = self.inspections
        # without references a class may be predicted by one of the models only
        views = sorted(set().union(*(each.views for each in inspections)))
        plots = {f"grad_cam_{number:02d}": draw_grad_cam(inspections, which) for number, which in enumerate(views)}
        label = "{}: share of the map's mass inside the class"
        shares = {(tables.IN_CLASS, name): label.format(name) for name in self._classes}
        compared = {(name, ""): title for name, title in tables.COMPARED.items()}
        mean_share = {(tables.IN_CLASS, ""): compared.pop((tables.IN_CLASS, "")) + ", mean of the classes"}
        terms = {(name, ""): title for name, title in self._terms.items()}
        panels = {"in_class_share": shares, "channels": compared}
        panels["losses"] = {key: f"{title}, unweighted" for key, title in terms.items()}
        panels["differences"] = {key: f"B minus A: {title}" for key, title in (mean_share | compared | terms).items()}
        known, is_difference = self.values.dropna(subset="value"), self.values["model"] == tables.DIFFERENCE
        for name, titles in panels.items():
            values = known[is_difference[known.index] == (name == "differences")]
            there = set(zip(values["measure"], values["class"], strict=True))
            if shown := {key: title for key, title in titles.items() if key in there}:
                plots[name] = draw_by_stage(inspections, values, shown, 3 if name == "in_class_share" else 1)
        plots |= {"channel_similarity": draw_similarity(inspections), "ranking": draw_ranking(inspections)}
        if any(each.model.logging for each in inspections):
            curves = {name: f"{title}, mean over the epoch, unweighted" for name, title in self._terms.items()}
            plots["training"] = draw_training(inspections, curves | LOGGED)
        return plots
