"""The scores that nnU-Net left: each fold's `validation/summary.json`, or that of a folder of predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import read_json
from nnunetv2_selfreg.model_folder import CHECKPOINT, ModelFolder

SUMMARY, DATASET, PLANS = "summary.json", "dataset.json", "plans.json"
TOGETHER = "all cases"  # the one fold of a folder of predictions


@dataclass(frozen=True)
class Training:
    """One training of a model, as far as it is scored.

    Attributes:
        folder: As it was given.
        scores: A row for each fold, case and class: `fold`, `case`, `class`, `value` (Dice, 0 to 1; NaN where nnU-Net
            counts nothing) and `reference` (voxels of the class in the reference).
        predictions: The predicted file of each fold and case.
        references: The reference's file of each fold and case.
        unfinished: What is missing, by fold.
        dataset: The data set's description; empty where there is none.
        plans: The plans without names, and the configuration; empty where there are none.
    """

    folder: Path
    scores: pd.DataFrame
    predictions: Mapping[tuple[str, str], Path]
    references: Mapping[tuple[str, str], Path]
    unfinished: Mapping[str, str]
    dataset: Mapping[str, Any]
    plans: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "Training":
        """Reads a trained model's folder, or a folder of predictions with nnU-Net's `summary.json`.

        Raises:
            SelfRegError: It is neither, or a file cannot be read.
        """
        if (folder / SUMMARY).is_file():
            dataset, plans = (_read(folder / name) if (folder / name).is_file() else {} for name in (DATASET, PLANS))
            return cls._of(folder, {TOGETHER: folder / SUMMARY}, {}, dataset, _comparable(plans))
        if not folder.is_dir():
            raise SelfRegError(f"{folder} does not exist")
        model = ModelFolder.open(folder)
        summaries, unfinished = {}, {}
        for fold in model.folds(None):
            summary = folder / f"fold_{fold}" / "validation" / SUMMARY
            if not (folder / f"fold_{fold}" / CHECKPOINT).is_file():
                unfinished[fold] = f"{CHECKPOINT} is missing"
            elif not summary.is_file():
                unfinished[fold] = f"{summary.relative_to(folder)} is missing; nnUNetv2_train ... --val writes it"
            else:
                summaries[fold] = summary
        plans = _comparable(model.plans) | {"configuration": _without_names(model.resolved)}
        return cls._of(folder, summaries, unfinished, model.dataset_json, plans)

    @classmethod
    def _of(
        cls,
        folder: Path,
        summaries: Mapping[str, Path],
        unfinished: Mapping[str, str],
        dataset: Mapping[str, Any],
        plans: Mapping[str, Any],
    ) -> "Training":
        rows, predictions, references = [], {}, {}
        names = {_key(value): name for name, value in dataset.get("labels", {}).items()}
        for fold, path in summaries.items():
            for scored in _cases(path):
                prediction = Path(scored["prediction_file"])
                case = prediction.name.removesuffix(dataset.get("file_ending", "".join(prediction.suffixes)))
                predictions[fold, case] = path.parent / prediction.name
                references[fold, case] = Path(scored["reference_file"])
                for label, metrics in scored["metrics"].items():
                    row = {"fold": fold, "case": case, "class": names.get(label, f"label {label}")}
                    rows.append(row | {"value": metrics["Dice"], "reference": metrics["n_ref"]})
        scores = pd.DataFrame(rows, columns=["fold", "case", "class", "value", "reference"]).astype({"value": float})
        return cls(folder, scores, predictions, references, unfinished, dataset, plans)

    @property
    def folds(self) -> list[str]:
        """The folds that are scored."""
        return list(dict.fromkeys(self.scores["fold"]))

    @property
    def cases(self) -> list[tuple[str, str]]:
        """Fold and name of each scored case."""
        return list(self.predictions)

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
                float(metrics["Dice"]), int(metrics["n_ref"])
            str(case["prediction_file"]), str(case["reference_file"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise SelfRegError(f"{path} is no summary.json of nnU-Net v2's evaluation") from None
    cases: list[Mapping[str, Any]] = content["metric_per_case"]
    if not cases:
        raise SelfRegError(f"{path} holds no case")
    return cases


def _key(value: int | Sequence[int]) -> str:
    """A label or region as nnU-Net writes it as a key."""
    return str(tuple(value)) if isinstance(value, Sequence) else str(value)


def _without_names(configuration: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in configuration.items() if key not in ("selfreg", "data_identifier")}


def _comparable(plans: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in plans.items() if key not in ("plans_name", "configurations")}
