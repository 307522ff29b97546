"""Whether a data set is a benchmark's, and whether a model was trained on it."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nnunetv2_selfreg.benchmarks.protocol import Protocol
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.model_folder import ModelFolder

SAME_DATA = ("labels", "channel_names", "file_ending")  # in dataset.json, for a model and what it is scored on


def masks_of(benchmark: Protocol, converted: Mapping[str, Any]) -> str | None:
    """The reference masks of a converted data set, if they have a table of their own."""
    masks = converted.get("masks")
    return masks if masks in list(benchmark.masks) else None


def _converted(path: Path, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What our converter says of a data set; empty of one that was not converted here."""
    found = dataset.get("benchmark", {})
    parts = [found.get(name, {}) for name in ("missing", "problems")] if isinstance(found, dict) else [found]
    lists = [value for part in parts if isinstance(part, dict) for value in part.values()]
    if not all(isinstance(part, dict) for part in parts) or not all(isinstance(value, list) for value in lists):
        raise SelfRegError(
            f"{path}: the key 'benchmark' does not hold what nnUNetv2_selfreg convert writes there; convert the data "
            "set again, or remove the key if another tool wrote it"
        )
    return dict(found)


def check_model(model: Path, dataset_json: Path, dataset: Mapping[str, Any], benchmark: Protocol) -> None:
    """Raises SelfRegError for a model that was trained on another data set, or other masks, than the one scored."""
    folder = ModelFolder.open(model)
    trained, scored = folder.plans.get("dataset_name") or folder.dataset, dataset_json.absolute().parent.name
    wrong = [name for name in SAME_DATA if folder.dataset_json.get(name) != dataset.get(name)]
    if wrong or (re.fullmatch(r"Dataset\d{3}_.+", scored) and scored != trained):
        reason = f"; their {wrong[0]} differ" if wrong else ""
        raise SelfRegError(
            f"{folder.path} was trained on {trained}, but {dataset_json} is the data set {scored}{reason}; give the "
            "model that made the predictions, and the data set that it was trained on"
        )
    files = [(folder.path / "dataset.json", folder.dataset_json), (dataset_json, dataset)]
    converted = [_converted(path, content) for path, content in files]
    mine, other = map(_training_part, converted)
    if mine and other and mine != other:
        raise SelfRegError(
            f"{folder.path} was trained on another conversion of {trained}: "
            f"{next(key for key in mine if mine[key] != other[key])} is not the same; score it on the data set that it "
            "was trained on, or train it on this one"
        )
    learnt, masks = (masks_of(benchmark, content) for content in converted)
    if learnt != masks:
        raise SelfRegError(
            f"{folder.path} was trained on {learnt or 'other masks'}, but {dataset_json} has {masks or 'other masks'}; "
            "score it on the data set that it was trained on"
        )


def _training_part(converted: Mapping[str, Any]) -> dict[str, Any]:
    """What a conversion says of the training cases; empty of a data set that was not converted here.

    Where the split is drawn over what is there, what is missing or extra may be of either part.
    """
    missing = {part: names for part, names in converted.get("missing", {}).items() if part != "test" and names}
    found = {"size": converted.get("size"), "missing": missing, "extra": converted.get("problems", {}).get("extra")}
    return found if converted else {}


def check_dataset(path: Path, key: str, benchmark: Protocol, dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Checks that the data set can be this benchmark's, and gives what its converter says of it.

    Args:
        path: Its dataset.json.
        key: The benchmark's, in `PROTOCOLS`.
        benchmark: The benchmark.
        dataset: What the file holds.

    Raises:
        SelfRegError: It is no data set of nnU-Net, or one of other labels or of another benchmark.
    """
    if not isinstance(dataset.get("labels"), dict) or not isinstance(dataset.get("file_ending"), str):
        raise SelfRegError(f"{path} is not a dataset.json of nnU-Net: it lacks labels or file_ending")
    labels = list(dataset["labels"].values())
    expected = list(range(len(benchmark.classes) + 1))
    if not all(type(label) is int for label in labels) or sorted(labels) != expected:
        raise SelfRegError(f"{path} has labels {labels}, but {key} has {expected}; choose another benchmark")
    converted = _converted(path, dataset)
    names = [str(name) for name, value in sorted(dataset["labels"].items(), key=lambda item: item[1]) if value]
    mine, theirs = ([name.lower() for name in order] for order in (names, benchmark.classes))
    if mine != theirs and sorted(mine) == sorted(theirs):
        raise SelfRegError(
            f"{path} has the labels {', '.join(names)} in this order, but {key} has "
            f"{', '.join(benchmark.classes)}; convert the data set with nnUNetv2_selfreg convert"
        )
    name = converted.get("name", benchmark.dataset)
    if name != benchmark.dataset:
        raise SelfRegError(f"{path} is the data set of {name}, not of {key}; choose another benchmark")
    missing = converted.get("missing", {})
    if "test" in missing:
        converted["missing"] = {**missing, "test": list(filter(benchmark.counts, missing["test"]))}
    return converted
