"""What a model folder of nnU-Net says about how it was trained."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import read_json
from nnunetv2_selfreg.leaderboard.protocols import ENSEMBLE
from nnunetv2_selfreg.names import ROOTS, root_name
from nnunetv2_selfreg.settings import SelfRegSettings, read_plans, resolve

CHECKPOINT = "checkpoint_final.pth"


def describe_model(model: Path, fold: str, folds: Sequence[int] | None = None) -> dict[str, Any]:
    """Reads how a model was trained.

    Args:
        model: The model folder, `DATASET/TRAINER__PLANS__CONFIGURATION`.
        fold: The fold that predicted, or `ensemble`.
        folds: The folds of the ensemble; None for every numbered fold of the model.

    Returns:
        `trainer`, `plans`, `configuration`, `dataset`; `network`, a digest of the configuration without SelfReg's
        settings, equal for models that differ in these alone; `selfreg`, the settings that the training used, None for
        a stock trainer; `epochs` by fold, None where there is no final checkpoint; `torch` versions of the training.

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
    folders = _folds(model, fold, folds)
    logs = [_log(folder) for folder in folders]
    return {
        "trainer": trainer,
        "plans": identifier,
        "configuration": configuration,
        "dataset": plans.get("dataset_name", model.parent.name),
        "network": hashlib.sha256(json.dumps(network, sort_keys=True).encode()).hexdigest()[:16],
        "selfreg": asdict(settings) if settings else None,
        "epochs": {folder.name.removeprefix("fold_"): _epochs(folder) for folder in folders},
        "torch": sorted({log["torch_version"] for log in logs if "torch_version" in log}),
    }


def _folds(model: Path, fold: str, folds: Sequence[int] | None) -> list[Path]:
    there = [path for path in model.glob("fold_*") if path.is_dir()]
    numbered = sorted(int(path.name[5:]) for path in there if re.fullmatch(r"fold_\d+", path.name))
    wanted = (numbered if folds is None else folds) if fold == ENSEMBLE else [fold]
    found = [model / f"fold_{name}" for name in wanted]
    if missing := [path.name for path in found if path not in there] or ([] if found else ["fold"]):
        names = ", ".join(sorted(path.name for path in there)) or "none"
        raise SelfRegError(f"--fold {fold}: {model} has no {missing[0]}; folds there: {names}")
    return found


def _log(fold: Path) -> dict[str, Any]:
    path = fold / "debug.json"
    return read_json(path, "log of nnU-Net") if path.is_file() else {}


def _epochs(fold: Path) -> int | None:
    if not (fold / CHECKPOINT).is_file():
        return None
    from nnunetv2_selfreg.checkpoints import load_checkpoint

    return int(load_checkpoint(fold / CHECKPOINT)["current_epoch"])
