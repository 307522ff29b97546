"""What two models' scores say, in words, tables, plots and one page."""

import os
from base64 import b64encode
from collections.abc import Sequence
from functools import cached_property
from math import isnan, sqrt
from pathlib import Path, PureWindowsPath
from typing import Any

import jinja2
import pandas as pd

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.compare import plots
from nnunetv2_selfreg.compare.summaries import TOGETHER, Training
from nnunetv2_selfreg.comparison import MEAN, by_case, compare, counted_by_both, run_means
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import listed
from nnunetv2_selfreg.reading import channel_names
from nnunetv2_selfreg.statistics import exact_mean, spread

PAGE, TEXT, CASES, PICTURES = "comparison.html", "comparison.md", "cases.csv", "pictures"
MADE_BY = '<meta name="generator" content="nnUNetv2_selfreg compare">'
MOST = 10  # cases that are listed
FEW = 10  # cases or patients, below which a bootstrap finds a difference too often where there is none
TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("nnunetv2_selfreg.compare", "."),
    autoescape=jinja2.select_autoescape(["html.jinja"]),
    trim_blocks=True,
    lstrip_blocks=True,
)


def is_report(folder: Path) -> bool:
    """Whether a folder is a report of `compare` and holds nothing else."""
    content = set(folder.rglob("*")) - set((folder / PICTURES).glob("*.png")) - {folder / PICTURES}
    is_whole = content == {folder / name for name in (PAGE, TEXT, CASES)}
    return is_whole and MADE_BY in (folder / PAGE).read_text(encoding="utf-8", errors="replace")


class ComparisonReport:
    """The comparison of two models. Dice is in points, 0 to 100, differences are the second model (B) minus the first.

    Args:
        a: The first model's trainings.
        b: The second model's, as many, on the same folds and cases.
        scores_a: Their scores, as `comparison.compare` takes them.
        scores_b: Those of the second.
        margin: Dice, 0 to 1, from which on a case counts as better or worse.
        notes: What was left out, or differs.
    """

    def __init__(
        self,
        a: Sequence[Training],
        b: Sequence[Training],
        scores_a: pd.DataFrame,
        scores_b: pd.DataFrame,
        margin: float,
        notes: Sequence[str],
    ) -> None:
        self.trainings = {"A": a, "B": b}
        scores_a, scores_b, left_out = counted_by_both(scores_a, scores_b)
        self.scores = {"A": scores_a, "B": scores_b}
        self.classes = list(dict.fromkeys(scores_a["class"]))
        self.margin, self.notes = 100 * margin, list(notes)
        if left_out:
            self.notes.append(
                f"{listed(left_out)}: left out of folds (or of the whole test set) in which no reference has it and "
                "only one model predicts it"
            )
        self.comparison = compare(scores_b, scores_a, self.classes, margin)
        self.folds = [str(fold) for fold in self.comparison.by_fold.index]
        self.repetitions = len(a)

    @cached_property
    def cases(self) -> pd.DataFrame:
        """The cases: patient, fold, Dice and difference.

        `A`, `B` and `difference` are means over the classes that both models count; each class has such columns, too.
        """
        values = {name: 100 * by_case(scores, self.classes) for name, scores in self.scores.items()}
        first = self.scores["A"].drop_duplicates("case").set_index("case")
        table = pd.DataFrame({"patient": first["cluster"], "fold": first["fold"]}).loc[values["A"].index]
        counted = values["A"].notna() & values["B"].notna()
        for name, value in values.items():
            table[name] = [exact_mean(row) for row in value.where(counted).to_numpy().tolist()]
        table["difference"] = table["B"] - table["A"]
        for of in self.classes:
            table[f"{of} A"], table[f"{of} B"] = values["A"][of], values["B"][of]
            table[f"{of} difference"] = values["B"][of] - values["A"][of]
        return table

    @cached_property
    def counted_once(self) -> int:
        """Cases with a class that one model's score counts and the other's does not."""
        a, b = (by_case(scores, self.classes).isna() for scores in self.scores.values())
        return int((a != b).any(axis=1).sum())

    @cached_property
    def by_class(self) -> pd.DataFrame:
        """A row for each class, the mean first: Dice, the difference with its intervals, cases better and worse."""
        over_cases, over_folds = self.comparison.over_cases, self.comparison.over_folds
        table = 100 * over_cases[["other", "mine", "mean", "low", "high"]]
        table = table.set_axis(["A", "B", "difference", "low", "high"], axis=1)
        table[["folds low", "folds high"]] = 100 * over_folds.loc[table.index, ["low", "high"]]
        table[["better", "worse"]] = over_cases[["better", "worse"]]
        return table

    @cached_property
    def by_fold(self) -> pd.DataFrame:
        """Each fold's mean Dice of both models, averaged over repetitions, and the difference."""
        means = self.by_run.groupby("fold", sort=False).agg(exact_mean)
        return means.assign(difference=means["B"] - means["A"])

    @cached_property
    def by_run(self) -> pd.DataFrame:
        """The mean Dice of each repetition and fold, of both models."""
        return pd.DataFrame({name: 100 * run_means(each, self.classes)[MEAN] for name, each in self.scores.items()})

    @cached_property
    def noise(self) -> float:
        """Standard deviation of trainings of the same model and fold, pooled over models and folds."""
        folds = [of_fold for _, values in self.by_run.items() for _, of_fold in values.groupby("fold")]
        variances = [spread(of_fold.tolist())["sd"] ** 2 for of_fold in folds]
        return exact_mean(variances) ** 0.5

    def most_different(self, count: int) -> pd.DataFrame:
        """So many cases that differ most, the largest difference first."""
        order = self.cases["difference"].abs().sort_values(ascending=False, kind="stable").dropna().index
        return self.cases.loc[order[:count]]

    def answers(self) -> list[str]:
        """What was found, and what it does not tell, in sentences."""
        mean = self.by_class.loc[MEAN]
        if isnan(mean["difference"]):
            return ["No class counts for both models in any case, so there is nothing to compare."]
        patients = self.cases["patient"].nunique()
        counted = self.cases.dropna(subset="difference")["patient"].nunique()
        units = "cases" if patients == len(self.cases) else "patients"
        found = [
            f"B has {mean['difference']:+.2f} Dice points against A ({mean['B']:.2f} and {mean['A']:.2f}); "
            f"{mean['better']:.0f} cases are better by more than {self.margin:g}, {mean['worse']:.0f} worse, "
            f"of {self.comparison.over_cases.loc[MEAN, 'cases']:.0f}."
        ]
        if self.counted_once:
            found.append(
                f"In {self.counted_once} of the cases a class counts for one model alone, since the reference and the "
                "other's prediction lack it. That Dice enters the means, and no case's difference."
            )
        if isnan(mean["low"]):
            found.append("With one case or patient there is no interval over cases.")
        else:
            meaning = f"{_meaning(mean['low'], mean['high'])} on other {units} like these, for these very trainings"
            found.append(
                f"Over {units} the 95 % interval is {mean['low']:+.2f} to {mean['high']:+.2f}: "
                f"{meaning if counted >= FEW else f'fewer than {FEW} {units} are too few to rely on it'}."
            )
        if len(self.folds) > 1:
            low, high = mean["folds low"], mean["folds high"]
            found.append(
                f"Over the {len(self.folds)} folds it is {low:+.2f} to {high:+.2f}: {_meaning(low, high)} for "
                "trainings on other parts of data like these."
            )
        else:
            found.append("With one fold there is no interval over folds: train more folds to see how far they differ.")
        if self.repetitions > 1:
            found.append(
                f"Two trainings of the same model differ too: by a standard deviation of {self.noise:.2f} points in a "
                f"fold's mean ({self.repetitions} trainings of each fold). By that alone, the difference above "
                f"would have one of {self.noise * sqrt(2 / self.repetitions / len(self.folds)):.2f}."
            )
        else:
            found.append(
                "With one training of each model and fold, a difference cannot be told from the noise of training: "
                "train both once more and add them with --again."
            )
        return found

    def text(self) -> str:
        """The report as Markdown, to be read in a terminal as well."""
        template = TEMPLATES.get_template("comparison.md.jinja")
        return template.render(self._content()).strip() + "\n"

    def write(self, folder: Path, pictures: int = 0, images: Path | None = None) -> None:
        """Writes the page, the Markdown, the scores of the cases and pictures into a folder.

        Args:
            folder: The folder.
            pictures: Of so many cases that differ most.
            images: Where the images are; None: in nnUNet_raw.
        """
        drawn = self._draw(folder / PICTURES, pictures, images) if pictures else {}
        (folder / TEXT).write_text(self.text(), encoding="utf-8")
        self.cases.round(6).to_csv(folder / CASES, index_label="case")
        svgs = {"cases": plots.cases(self.cases, self.margin)}
        if len(self.folds) > 1:
            svgs["folds"] = plots.folds(self.by_fold, self.by_run)
        page = TEMPLATES.get_template("comparison.html.jinja").render(self._content(), plots=svgs, pictures=drawn)
        (folder / PAGE).write_text(page, encoding="utf-8")

    def _content(self) -> dict[str, Any]:
        return {
            "a": [str(training.folder) for training in self.trainings["A"]],
            "b": [str(training.folder) for training in self.trainings["B"]],
            "answers": self.answers(),
            "notes": self.notes,
            "by_class": self.by_class.to_dict("index"),
            "by_fold": self.by_fold.to_dict("index") if self.folds != [TOGETHER] else {},
            "most_different": self.most_different(MOST).to_dict("index"),
            "several_folds": len(self.folds) > 1,
            "margin": self.margin,
            "version": __version__,
        }

    def _draw(self, folder: Path, count: int, images: Path | None) -> dict[str, str]:
        """Draws the cases that differ most; their pictures for the page, by case."""
        # nnU-Net's readers take seconds to import
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

        from nnunetv2_selfreg.compare.pictures import draw_case, find_images

        a, b = self.trainings["A"][0], self.trainings["B"][0]
        if not ({"file_ending", "labels"} <= set(a.dataset) and channel_names(a.dataset)):
            raise SelfRegError(f"--pictures: {a.folder} has no dataset.json that says how its images are read")
        if not (images or os.environ.get("nnUNet_raw")):
            raise SelfRegError(
                "--pictures: nnUNet_raw is not set; set it, or name the folder of the images with --images"
            )
        raw = images or Path(os.environ["nnUNet_raw"], a.plans.get("dataset_name", ""))
        if not raw.is_dir():
            raise SelfRegError(f"--pictures: {raw} does not exist; name the folder of the images with --images")
        labels = [place / part for place in (raw, raw.parent) for part in ("labelsTr", "labelsTs")]
        folder.mkdir()
        # as nnU-Net reads them, which may stand there as text
        values = {
            label: [*map(int, value)] if isinstance(value, list) else int(value)
            for label, value in a.dataset["labels"].items()
        }
        drawn = {}
        for name, row in self.most_different(count).iterrows():
            case, path = (row["fold"], str(name)), folder / f"{name}.png"
            files = find_images(raw, str(name), a.dataset)
            reader = determine_reader_writer_from_dataset_json(a.dataset, str(files[0]), verbose=False)
            titles = self._title("A", str(name)), self._title("B", str(name))
            predictions = a.predictions[case], b.predictions[case]
            reference = a.references[case]  # where it was when nnU-Net read it, perhaps on another machine
            moved = [place / PureWindowsPath(str(reference)).name for place in labels]
            # which may be a folder that only its owner can read, where Path.is_file raises
            reference = next(filter(os.path.isfile, (reference, *moved)), reference)
            draw_case(files, reference, predictions, titles, values, reader, path)
            drawn[str(name)] = b64encode(path.read_bytes()).decode()
        return drawn

    def _title(self, model: str, case: str) -> str:
        """What stands above the prediction that is shown: the first training's, with its own Dice."""
        first = {
            name: scores[(scores["repetition"] == 0) & (scores["case"] == case)].set_index("class")["value"]
            for name, scores in self.scores.items()
        }
        dice = 100 * exact_mean(first[model][first["A"].notna() & first["B"].notna()])
        return f"{model}, {'first training, ' if self.repetitions > 1 else ''}Dice {dice:.2f}"


def _meaning(low: float, high: float) -> str:
    if low > 0:
        return "B is better"
    return "A is better" if high < 0 else "no difference is shown"
