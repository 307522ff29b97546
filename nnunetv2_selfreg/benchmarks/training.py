"""What a model folder says about how its model was trained, as it stands beside the model's scores."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunetv2_selfreg.benchmarks.protocol import ENSEMBLE
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import listed, read_json
from nnunetv2_selfreg.model_folder import CHECKPOINT, ModelFolder, load_checkpoint


def describe_training(model: Path, fold: str, folds: Sequence[int] | None = None) -> dict[str, Any]:
    """Reads how a model was trained.

    Args:
        model: The model folder, `DATASET/TRAINER__PLANS__CONFIGURATION`.
        fold: The fold that predicted, or `ensemble`.
        folds: The folds of the ensemble; None for every numbered fold of the model.

    Returns:
        `trainer`, `plans`, `configuration`, `dataset`; `stock`, the name of the stock trainer that a SelfReg trainer is
        made of, None for a stock trainer; `network`, a digest of the configuration without SelfReg's settings, equal
        for models that differ in these alone; `selfreg`, the settings that the training used, None for a stock trainer;
        `epochs` by fold, None where there is no final checkpoint; `torch` versions of the training.

    Raises:
        SelfRegError: The folder is not a model folder, lacks the fold, a file in it cannot be read, or its trainer is
            not installed.
    """
    folder = ModelFolder.open(model)
    ours = ("selfreg", "inherits_from")
    network = {key: value for key, value in folder.resolved.items() if key not in ours}
    dataset = folder.plans.get("dataset_name")
    digest = hashlib.sha256(json.dumps({"dataset": dataset, **network}, sort_keys=True).encode()).hexdigest()
    places = _fold_folders(folder, fold, folds)
    logs = [read_json(path, "log of nnU-Net") for place in places if (path := place / "debug.json").is_file()]
    settings = folder.settings
    return {
        "trainer": folder.trainer,
        "plans": folder.plans_name,
        "configuration": folder.configuration,
        "dataset": dataset or folder.dataset,
        "stock": folder.stock_name,
        "network": digest[:16],
        "selfreg": settings.as_plans() if settings else None,
        "epochs": {place.name.removeprefix("fold_"): _epochs(place / CHECKPOINT) for place in places},
        "torch": sorted({log["torch_version"] for log in logs if "torch_version" in log}),
    }


def _fold_folders(folder: ModelFolder, fold: str, folds: Sequence[int] | None) -> list[Path]:
    there = sorted((path for path in folder.path.glob("fold_*") if path.is_dir()), key=lambda path: path.name)
    numbers = sorted(int(number) for path in there if (number := path.name.removeprefix("fold_")).isdecimal())
    wanted = (numbers if folds is None else folds) if fold == ENSEMBLE else [fold]
    found = [folder.path / f"fold_{name}" for name in wanted]
    if missing := [path.name for path in found if path not in there] or ([] if found else ["fold"]):
        names = listed([path.name for path in there], 10)
        raise SelfRegError(f"--fold {fold}: {folder.path} has no {missing[0]}; folds there: {names}")
    return found


def _epochs(checkpoint: Path) -> int | None:
    return int(load_checkpoint(checkpoint)["current_epoch"]) if checkpoint.is_file() else None
