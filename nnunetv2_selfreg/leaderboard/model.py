"""What a model folder of nnU-Net says about how it was trained."""

import hashlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.leaderboard.protocols import ENSEMBLE
from nnunetv2_selfreg.names import ROOTS, root_name
from nnunetv2_selfreg.plans import read_json, read_plans, resolve
from nnunetv2_selfreg.settings import SelfRegSettings

CHECKPOINT = "checkpoint_final.pth"


def describe_model(model: Path, fold: str) -> dict[str, Any]:
    """Reads how a model was trained.

    Args:
        model: The model folder, `DATASET/TRAINER__PLANS__CONFIGURATION`.
        fold: The fold that predicted, or `ensemble` for every numbered fold of the model.

    Returns:
        `trainer`, `plans`, `configuration`, `dataset`; `network`, a digest of the configuration without SelfReg's
        settings, equal for models that differ in these alone; `selfreg`, the settings that the training used, None for
        a stock trainer; `epochs` by fold, None where neither checkpoint nor log say; `torch` versions of the training.

    Raises:
        SelfRegError: The folder is not a model folder, lacks the fold, or a file in it cannot be read.
    """
    model = model.resolve()
    parts = model.name.split("__")
    if len(parts) != 3 or not (model / "plans.json").is_file():
        raise SelfRegError(f"--model {model} is not a model folder TRAINER__PLANS__CONFIGURATION with plans.json")
    trainer, identifier, configuration = parts
    plans = read_plans(model / "plans.json")
    resolved = resolve(plans, configuration)
    root = root_name(trainer)
    settings = replace(SelfRegSettings.from_plans(resolved), **ROOTS[root]) if root else None
    ours = ("selfreg", "inherits_from")
    network = {"dataset": plans.get("dataset_name"), **{key: resolved[key] for key in resolved if key not in ours}}
    folds = _folds(model, fold)
    logs = [_log(folder) for folder in folds]
    return {
        "trainer": trainer,
        "plans": identifier,
        "configuration": configuration,
        "dataset": plans.get("dataset_name", model.parent.name),
        "network": hashlib.sha256(json.dumps(network, sort_keys=True).encode()).hexdigest()[:16],
        "selfreg": asdict(settings) if settings else None,
        "epochs": {
            folder.name.removeprefix("fold_"): _epochs(folder, log) for folder, log in zip(folds, logs, strict=True)
        },
        "torch": sorted({log["torch_version"] for log in logs if "torch_version" in log}),
    }


def _folds(model: Path, fold: str) -> list[Path]:
    folders = [path for path in model.glob("fold_*") if path.is_dir()]
    if fold == ENSEMBLE:
        wanted = [path for path in folders if re.fullmatch(r"fold_\d+", path.name)]
    else:
        wanted = [path for path in folders if path.name == f"fold_{fold}"]
    if not wanted:
        there = ", ".join(sorted(path.name for path in folders)) or "none"
        raise SelfRegError(f"--fold {fold}: {model} has no such fold; folds there: {there}")
    return sorted(wanted, key=lambda path: (len(path.name), path.name))


def _log(fold: Path) -> dict[str, Any]:
    path = fold / "debug.json"
    return read_json(path, "log of nnU-Net") if path.is_file() else {}


def _epochs(fold: Path, log: dict[str, Any]) -> int | None:
    if (fold / CHECKPOINT).is_file():
        from nnunetv2_selfreg.checkpoints import load_checkpoint

        return int(load_checkpoint(fold / CHECKPOINT)["current_epoch"])
    return int(log["num_epochs"]) if "num_epochs" in log else None
