"""The report's folder: one HTML page that holds its plots, the plots themselves, and all values as JSON."""

import base64
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import style
from matplotlib.figure import Figure

import nnunetv2_selfreg.inspect.values as tables
from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.files import write_json, write_text
from nnunetv2_selfreg.inspect import words
from nnunetv2_selfreg.inspect.measure import PATCHES_PER_CLASS, Inspection
from nnunetv2_selfreg.inspect.plots import draw_by_stage, draw_grad_cam, draw_ranking, draw_similarity, draw_training
from nnunetv2_selfreg.inspect.pull import GRADIENT, LOSS
from nnunetv2_selfreg.terms import SHARE

MADE_BY = "nnUNetv2_selfreg inspect"
PAGE, VALUES, PLOTS = "report.html", "values.json", "plots"
PACKAGES = ("nnunetv2", "torch", "captum")  # whose versions a report names
LOGGED = {
    SHARE: "share of the weighted terms in the loss [%]",
    "mean_fg_dice": "pseudo Dice, mean of the foreground classes",
}


def is_report(folder: Path) -> bool:
    """Whether a folder is a report of `inspect` and holds nothing else."""
    values, plots = folder / VALUES, folder / PLOTS
    content = set(folder.rglob("*")) - set(plots.glob("*.png"))
    is_whole = content == {folder / PAGE, values, plots} and plots.is_dir() and values.is_file()
    return is_whole and f'"made_by": "{MADE_BY}"' in values.read_text(encoding="utf-8", errors="replace")


class Report:
    """What is reported of one model, or of the two of a comparison, of each one or several runs.

    Args:
        inspections: The first model's runs, and then the other's, in the same order.
        settings: What was asked for, by name.
    """

    def __init__(self, inspections: Sequence[Inspection], settings: Mapping[str, Any]) -> None:
        self.inspections, self.settings = inspections, settings
        runs = list(dict.fromkeys(each.run for each in inspections))
        self._several = len(runs) > 1
        self._unit = "case" if not self._several else "fold" if runs[0].startswith("fold") else "training"
        self._shown = [each for each in inspections if each.run == runs[0]]  # whose channels and maps are drawn
        self._stages = list(inspections[0].model.stages)
        self._classes = [target.name for target in inspections[0].model.targets]
        self._terms = {name: term.title for each in inspections for name, term in each.model.terms.items()}
        values = pd.concat([each.values for each in inspections], ignore_index=True)
        pulls = {f"{name}{what}": f"{title}, share of the {what.split('_')[1]} [%]"
                 for what in (GRADIENT, LOSS) for name, title in self._terms.items()}  # fmt: skip
        # by measure the titles of what was measured: with references, and of terms that the training adds
        self._pulls = {name: title for name, title in pulls.items() if name in set(values["measure"])}
        self.values = tables.with_class_means(values)
        if len(self._shown) == 2:
            # the mean over all students says something only where both models have the same
            first, second = (list(each.model.students) for each in self._shown)
            # how hard the terms pull is no effect of a training
            measured = values[~values["measure"].isin(self._pulls)]
            differences = tables.differences(measured, () if first == second else (tables.STUDENTS,))
            self.values = pd.concat([self.values, differences], ignore_index=True)
        self._units = tables.units(self.values)
        self._summary = tables.summarise(self._units)
        each_run = self.values.assign(model=self.values["model"] + ", " + self.values["run"], unit=self.values["case"])
        self._of_runs = tables.summarise(each_run)

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
        if self._several:
            content["over_runs"] = {each.letter: self._records(self._summary, each.letter) for each in self._shown}
        if len(self._shown) == 2:
            content["differences"] = self._records(self._summary, tables.DIFFERENCE)
        # pandas writes null for NaN, which JSON has not
        return json.loads(pd.Series(content).to_json(double_precision=15))

    def as_html(self, pictures: Mapping[str, str]) -> str:
        """The report as one page that needs no other file; `pictures` are the plots by name, in base64."""
        templates = PackageLoader("nnunetv2_selfreg.inspect", ".")
        pages = Environment(loader=templates, undefined=StrictUndefined, autoescape=True, trim_blocks=True)
        pages.filters |= {"short": tables.short, "rounded": words.rounded}
        findings = words.Findings(self._summary, self._stages, self._terms, self._unit)
        without_mass = self.values[self.values["measure"] == tables.NO_MASS]
        both = pd.concat([without_mass, without_mass.assign(model=without_mass["model"] + ", " + without_mass["run"])])
        summary = pd.concat([self._summary, self._of_runs])
        runs = [each.run for each in self.inspections if each.letter == self.inspections[0].letter]
        return pages.get_template("report.html.jinja").render(
            self.as_json(),
            inspections=self.inspections,
            shown=self._shown,
            runs=runs,
            unit=self._unit,
            terms=self._terms,
            pulls=self._pulls,
            without_loss=[f"{each.full_label}: {each.loss.reason}" for each in self.inspections if each.loss.reason],
            compared=tables.COMPARED | self._terms,
            patches_per_class=PATCHES_PER_CLASS,
            findings=findings.all(),
            caution=words.caution(len(self._shown), len(runs), self._unit),
            stages=self._stages,
            encoder=[stage for stage in self._stages if stage.startswith("encoder")],
            depths=tables.depths(self._stages),
            summary={tuple(row[:4]): row for row in summary.itertuples(index=False)},
            without_mass=both.groupby(["model", "stage", "class"])["value"].sum().to_dict(),
            alternatives=self._alternatives(),
            pictures=pictures,
        )

    def as_text(self) -> str:
        """How hard the terms pull at each student, a table for a terminal; empty without references."""
        found = self._summary[self._summary["measure"].isin(self._pulls)].replace({"measure": self._pulls})
        if found.empty:
            return ""
        order = [*dict.fromkeys(name for each in self.inspections for name in each.model.students), tables.STUDENTS]
        columns = ["measure"] + ["model"] * (len(self._shown) > 1)
        table = found.pivot(index="stage", columns=columns, values="mean").reindex(order)
        return table.rename_axis(index=None, columns=[None] * len(columns)).to_string(float_format="%.3f", na_rep="")

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
                "module": model.modules[stage],
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
            "path": model.given,
            "dataset": model.folder.dataset,
            "run": inspection.run,
            "fold": model.fold,
            "epochs": model.epochs,
            "validation_dice": model.dice,
            "weights": model.weights,
            "patches": inspection.patches,
            "stages": stages,
            "values": self._records(self._of_runs, f"{inspection.letter}, {inspection.run}", "case"),
            "logging": model.logging,
        }

    def _records(self, summary: pd.DataFrame, model: str, unit: str = "") -> list[dict[str, Any]]:
        unit = unit or self._unit
        names = {"count": f"{unit}s", "by_unit": f"by_{unit}"}
        return summary[summary["model"] == model].drop(columns="model").rename(columns=names).to_dict("records")

    def _plots(self) -> dict[str, Figure]:
        """All plots by file name without suffix; those by stage have a panel for what at least one case has."""
        shown = self._shown
        plots = {name: draw_grad_cam(shown, which) for name, which in self._views().items()}
        label = "{}: share of the map's mass inside the class"
        shares = {(tables.IN_CLASS, name): label.format(name) for name in self._classes}
        compared = {(name, ""): title for name, title in tables.COMPARED.items()}
        mean_share = {(tables.IN_CLASS, ""): compared.pop((tables.IN_CLASS, "")) + ", mean of the classes"}
        terms = {(name, ""): title for name, title in self._terms.items()}
        panels = {"in_class_share": shares, "channels": compared}
        panels["losses"] = {key: f"{title}, unweighted" for key, title in terms.items()}
        panels["pull"] = {(name, ""): title for name, title in self._pulls.items() if name.endswith(GRADIENT)}
        panels["differences"] = {key: f"B minus A: {title}" for key, title in (mean_share | compared | terms).items()}
        known, is_difference = self._units.dropna(subset="value"), self._units["model"] == tables.DIFFERENCE
        for name, titles in panels.items():
            values = known[is_difference[known.index] == (name == "differences")]
            there = set(zip(values["measure"], values["class"], strict=True))
            if drawn := {key: title for key, title in titles.items() if key in there}:
                columns = 3 if name == "in_class_share" else 1
                plots[name] = draw_by_stage(shown, values, drawn, self._unit, columns)
        plots |= {"channel_similarity": draw_similarity(shown), "ranking": draw_ranking(shown)}
        if any(each.model.logging for each in self.inspections):
            curves = {name: f"{title}, mean over the epoch, unweighted" for name, title in self._terms.items()}
            plots["training"] = draw_training(self.inspections, curves | LOGGED)
        return plots

    def _views(self) -> dict[str, tuple[str, str, int]]:
        """The Grad-CAM that is drawn, by the plot's name: case, class and number of the slice."""
        # without references a class may be predicted by one of the models only
        views = sorted(set().union(*(each.views for each in self._shown)))
        return {f"grad_cam_{number:02d}": which for number, which in enumerate(views)}

    def _alternatives(self) -> dict[str, str]:
        """What each plot shows, in words, for readers who do not see it."""
        share = {(tables.IN_CLASS, name): f"in-class share of {name}" for name in self._classes}
        compared = {(name, ""): title for name, title in tables.COMPARED.items() if name != tables.IN_CLASS}
        terms = {(name, ""): title for name, title in self._terms.items()}
        models = [each.letter for each in self._shown]
        texts = {
            "in_class_share": self._ranges(share, models),
            "channels": self._ranges(compared, models),
            "losses": self._ranges(terms, models),
            "pull": self._ranges({(name, ""): title for name, title in self._pulls.items()}, models),
            "differences": self._ranges(
                {(tables.IN_CLASS, ""): "in-class share"} | compared | terms, [tables.DIFFERENCE]
            ),
            "channel_similarity": "Matrices of the correlation of each two channels, one for each stage. "
            + self._ranges({("redundancy", ""): "mean size off the diagonal"}, models),
            "ranking": "Importance of each channel, sorted, a curve for each stage. "
            + "; ".join(f"{each.prefix}{tables.short(stage)} from {max(found):.2f} to {min(found):.2f}"
                        for each in self._shown for stage in self._stages
                        if len(found := each.importance[stage].value())) + ".",
            "training": "Curves by epoch. " + "; ".join(
                f"{each.prefix}{each.run}, pseudo Dice of the last epoch {logged[-1]:.2f}"
                for each in self.inspections if (logged := each.model.logging.get("mean_fg_dice"))) + ".",
        }  # fmt: skip
        for name, (case, target, number) in self._views().items():
            parts = []
            for each in self._shown:
                values = {stage: each.cases[case].get((tables.IN_CLASS, stage, target), nan) for stage in self._stages}
                shares = [f"{tables.short(stage)} {words.percent(x)}" for stage, x in values.items() if x == x]
                parts.append(f"{each.prefix}{', '.join(shares) or 'no map'}")
            place = next((v.place for each in self._shown if (v := each.views.get((case, target, number)))), "")
            where = ", ".join(filter(None, [f"case {case}", place]))
            texts[name] = (
                f"Grad-CAM of {target} at each stage beside the image, {where}. "
                f"Of the map inside the class, mean of the case's patches: {'; '.join(parts)}."
            )
        return texts

    def _ranges(self, panels: Mapping[tuple[str, str], str], models: Sequence[str]) -> str:
        """The lowest and the highest stage of each model in each panel of a plot by stage."""
        means = self._summary.set_index(["model", "measure", "class", "stage"])["mean"].dropna().sort_index()
        parts = []
        for (measure, target), title in panels.items():
            for model in models:
                found = means[means.index.droplevel("stage") == (model, measure, target)].droplevel([0, 1, 2])
                found = found.filter(items=self._stages)
                if len(found):
                    low, high = found.idxmin(), found.idxmax()
                    parts.append(f"{title}{f', {model}' * bool(model)}: {found[low]:.2f} at {tables.short(low)} to "
                                 f"{found[high]:.2f} at {tables.short(high)}")  # fmt: skip
        return f"Means by stage, lowest and highest. {'; '.join(parts)}."
