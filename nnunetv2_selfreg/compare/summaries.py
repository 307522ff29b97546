"""The scores that nnU-Net left: each fold's `validation/summary.json`, or that of a folder of predictions."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isnan
from pathlib import Path, PureWindowsPath
from typing import Any

import pandas as pd

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import read_json
from nnunetv2_selfreg.model_folder import ModelFolder
from nnunetv2_selfreg.settings import KEY, read_plans

SUMMARY, DATASET, PLANS = "summary.json", "dataset.json", "plans.json"
LATEST = "checkpoint_latest.pth"
TOGETHER = "all cases"  # the one fold of a folder of predictions
FILES = ("prediction_file", "reference_file")
BACKGROUND = "0"  # which nnU-Net's own mean leaves out as well
NAMES = ("selfreg", "data_identifier", "inherits_from")  # what the configurations of two models may differ in


@dataclass(frozen=True)
class Training:
    """One training of a model, as far as it is scored.

    Attributes:
        folder: As it was given.
        scores: A row for each fold, case and class: `fold`, `case`, `class`, `value` (Dice, 0 to 1; NaN where nnU-Net
            counts nothing) and `reference` (voxels of the class in the reference).
        predictions: The predicted file of each fold and case.
        references: The reference's file of each fold and case.
        unusable: Why a fold cannot be compared, by fold.
        dataset: The data set's description; empty where there is none.
        plans: The plans without names, with the `configuration` that was trained, where the model is known, and all
            `configurations`; empty where there are none.
        made_by: The trainer's name and SelfReg's settings in the plans; empty where the model is not known.
    """

    folder: Path
    scores: pd.DataFrame
    predictions: Mapping[tuple[str, str], Path]
    references: Mapping[tuple[str, str], Path]
    unusable: Mapping[str, str]
    dataset: Mapping[str, Any]
    plans: Mapping[str, Any]
    made_by: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Training":
        """Reads a trained model's folder, or a folder of predictions with nnU-Net's `summary.json`.

        Raises:
            SelfRegError: It is neither, or a file cannot be read.
        """
        if (folder / SUMMARY).is_file():
            return cls._of(folder, {TOGETHER: folder / SUMMARY}, {}, *_origin(folder))
        try:
            model = ModelFolder.open(folder)
        except SelfRegError as error:
            raise SelfRegError(
                f"{error}. A folder of predictions needs the {SUMMARY} that nnUNetv2_evaluate_folder writes"
            ) from None
        summaries, unusable = {}, {}
        for fold in model.folds(None):
            summary = folder / f"fold_{fold}" / "validation" / SUMMARY
            if (folder / f"fold_{fold}" / LATEST).is_file():  # nnU-Net removes it at the end
                unusable[fold] = f"is not finished: {LATEST} is there"
            elif not summary.is_file():
                missing = summary.relative_to(folder)
                unusable[fold] = f"is not finished: {missing} is missing; nnUNetv2_train ... --val writes it"
            elif fold == "all":
                unusable[fold] = "was scored on the cases that it was trained on"
            else:
                summaries[fold] = summary
        return cls._of(folder, summaries, unusable, *_of_model(model))

    @classmethod
    def _of(
        cls,
        folder: Path,
        summaries: Mapping[str, Path],
        unusable: Mapping[str, str],
        dataset: Mapping[str, Any],
        plans: Mapping[str, Any],
        made_by: Mapping[str, Any],
    ) -> "Training":
        rows, predictions, references = [], {}, {}
        if dataset and not (isinstance(dataset.get("labels"), dict) and isinstance(dataset.get("file_ending"), str)):
            raise SelfRegError(f"{folder}: its {DATASET} is not one of nnU-Net: it lacks labels or file_ending")
        names = _names(dataset)
        ending = re.escape(dataset["file_ending"]) if dataset else r"(\.nii)?\.[^.]+"
        for fold, path in summaries.items():
            for scored in _cases(path):
                file = PureWindowsPath(scored["prediction_file"]).name  # takes both kinds of slashes
                case = re.sub(rf"{ending}$", "", file)
                if (fold, case) in predictions:
                    raise SelfRegError(f"{path} has the case {case} twice")
                predictions[fold, case] = path.parent / file
                references[fold, case] = Path(scored["reference_file"])
                for label, metrics in scored["metrics"].items():
                    if label == BACKGROUND:
                        continue
                    row = {"fold": fold, "case": case, "class": names.get(label, f"label {label}")}
                    rows.append(row | {"value": metrics["Dice"], "reference": metrics["n_ref"]})
        scores = pd.DataFrame(rows, columns=["fold", "case", "class", "value", "reference"]).astype({"value": float})
        return cls(folder, scores, predictions, references, unusable, dataset, plans, made_by)

    @property
    def folds(self) -> list[str]:
        """The folds that are scored."""
        return list(dict.fromkeys(self.scores["fold"]))

    @property
    def cases(self) -> list[tuple[str, str]]:
        """Fold and name of each scored case."""
        return list(self.predictions)

    @property
    def splits(self) -> dict[str, set[str]]:
        """The folds that scored a case, by case."""
        found: dict[str, set[str]] = {}
        for fold, case in self.predictions:
            found.setdefault(case, set()).add(fold)
        return found

    def described_by(self, dataset: Mapping[str, Any]) -> "Training":
        """The same training with the names of this data set's classes, where it has no data set of its own."""
        if self.dataset:
            return self
        names = {f"label {key}": name for key, name in _names(dataset).items()}
        return replace(self, scores=self.scores.replace({"class": names}))

    def only(self, cases: Sequence[tuple[str, str]]) -> "Training":
        """The same training with these cases alone."""
        kept = set(cases)
        pairs = zip(self.scores["fold"], self.scores["case"], strict=True)
        scores = self.scores[[pair in kept for pair in pairs]]
        return replace(self, scores=scores, predictions={pair: self.predictions[pair] for pair in cases})


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = read_json(path, "file that nnU-Net wrote")
    return content


def _cases(path: Path) -> list[Mapping[str, Any]]:
    content = _read(path)
    try:
        for case in content["metric_per_case"]:
            for metrics in case["metrics"].values():
                dice, _ = float(metrics["Dice"]), int(metrics["n_ref"])
                if not (isnan(dice) or 0 <= dice <= 1):
                    raise ValueError(f"Dice is {dice}")
            if not (case["metrics"] and all(isinstance(case[name], str) for name in FILES)):
                raise ValueError("no metrics or no files")
    except (KeyError, TypeError, ValueError, AttributeError):
        raise SelfRegError(f"{path} is no summary.json of nnU-Net v2's evaluation") from None
    cases: list[Mapping[str, Any]] = content["metric_per_case"]
    if not cases:
        raise SelfRegError(f"{path} holds no case")
    return cases


def _names(dataset: Mapping[str, Any]) -> dict[str, str]:
    """The classes' names by the keys that nnU-Net writes for them."""
    labels = dataset.get("labels", {})
    has_regions = any(isinstance(value, list) and len(value) > 1 for value in labels.values())
    return {_key(value, has_regions): name for name, value in labels.items()}


def _key(value: Any, has_regions: bool) -> str:
    """A label or region as nnU-Net writes it as a key: without regions `[1]` and `"1"` are the label 1, too."""
    if isinstance(value, list) and len(value) == 1 and not has_regions:
        (value,) = value
    return str(tuple(value)) if isinstance(value, list) else str(value)


def _origin(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What `_of_model` gives of the model's folder that predictions are in; else their own data set and plans."""
    for home in (folder.parent, folder.parent.parent):
        with suppress(SelfRegError):
            return _of_model(ModelFolder.open(home))
    dataset, plans = (
        read(folder / name) if (folder / name).is_file() else {}
        for name, read in ((DATASET, _read), (PLANS, read_plans))
    )
    return dataset, _comparable(plans) | ({"configurations": _configurations(plans)} if plans else {}), {}


def _of_model(model: ModelFolder) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The data set, the plans, and what made the model."""
    plans = _comparable(model.plans) | {
        "configuration": _without_names(model.resolved),
        "configurations": _configurations(model.plans),
    }
    return model.dataset_json, plans, {"trainer": model.trainer, KEY: model.resolved.get(KEY)}


def _configurations(plans: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _without_names(each) for name, each in plans.get("configurations", {}).items()}


def _without_names(configuration: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in configuration.items() if key not in NAMES}


def _comparable(plans: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plans.items() if key not in ("plans_name", "configurations")}
