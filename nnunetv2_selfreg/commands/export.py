"""`nnUNetv2_selfreg export`: a trained model for people who do not have this package.

SelfReg adds nothing to the network, so the model is a stock one as soon as its checkpoints name the stock trainer.
"""

import argparse
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.checkpoints import load_checkpoint
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.names import stock_name
from nnunetv2_selfreg.settings import SelfRegSettings

ORIGIN = "selfreg_origin.json"
LOGGED = ("scr", "ifd", "selfreg_share")
MODEL_FILES = ("plans.json", "dataset.json")
# what nnU-Net's own export takes along when it is there
COMPANIONS = ("dataset_fingerprint.json", "crossval_results_folds_*/summary.json", "crossval_results_folds_*/post*")
FOLD_COMPANIONS = ("progress.png", "selfreg.png", "validation/summary.json")


def main(arguments: Sequence[str]) -> int:
    """Exports one model folder.

    Args:
        arguments: The command line after `nnUNetv2_selfreg export`.

    Returns:
        The exit code, 0.

    Raises:
        SelfRegError: The folder is not a finished SelfReg model, or the export cannot be written or differs from it.
    """
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_selfreg export",
        description="Writes a model trained with SelfReg under nnU-Net's stock trainer name, for people who do not "
        "have this package, and checks that both predict the same.",
    )
    parser.add_argument(
        "model", type=Path, metavar="MODEL_FOLDER", help="nnUNet_results/DATASET/TRAINER__PLANS__CONFIG"
    )
    parser.add_argument(
        "output", type=Path, metavar="OUT", help="new folder, laid out like nnUNet_results; or zip file"
    )
    parser.add_argument(
        "--zip", action="store_true", help="write OUT as a zip for nnUNetv2_install_pretrained_model_from_zip"
    )
    parser.add_argument("-f", dest="folds", nargs="+", metavar="FOLD", help="default: every fold of the model")
    parser.add_argument("-chk", dest="checkpoint", default="checkpoint_final.pth", help="default: checkpoint_final.pth")
    parser.add_argument(
        "--without-optimizer", action="store_true", help="leave out the optimizer's state: smaller, but not for --c"
    )
    parsed = parser.parse_args(arguments)
    output = parsed.output.with_suffix(".zip") if parsed.zip and not parsed.output.suffix else parsed.output
    sizes = export(parsed.model, output, parsed.folds, parsed.checkpoint, not parsed.without_optimizer, parsed.zip)
    before, after = (f"{size / 2**20:.1f} MiB" for size in sizes)
    print(f"wrote {output}; checkpoints {before} before, {after} now; both models predict the same")
    if parsed.zip:
        print(f"install it with\n  nnUNetv2_install_pretrained_model_from_zip {output}")
    return 0


def export(
    model: Path,
    output: Path,
    folds: Sequence[str] | None = None,
    checkpoint: str = "checkpoint_final.pth",
    optimizer: bool = True,
    zipped: bool = False,
) -> tuple[int, int]:
    """Writes a SelfReg model under its stock trainer's name, whole or not at all.

    Args:
        model: The model folder, `DATASET/TRAINER__PLANS__CONFIGURATION`.
        output: A folder that does not exist yet, which is laid out like `nnUNet_results`, or a zip file.
        folds: Names of the folds (`0`, `all`); every fold of the model when left out.
        checkpoint: Which checkpoint of each fold.
        optimizer: Whether to keep the optimizer's state, which only going on with the training needs.
        zipped: Whether `output` is a zip file.

    Returns:
        Bytes of the checkpoints before and after.

    Raises:
        SelfRegError: The folder is not a finished SelfReg model, or the export cannot be written or differs from it.
    """
    model = model.resolve()
    parts = model.name.split("__")
    if len(parts) != 3 or not all((model / name).is_file() for name in MODEL_FILES):
        raise SelfRegError(
            f"{model} is not a model folder TRAINER__PLANS__CONFIGURATION with {' and '.join(MODEL_FILES)}"
        )
    trainer, plans, configuration = parts
    stock = _stock_name(trainer)
    sources = _checkpoints(model, folds, checkpoint)
    if output.exists():
        raise SelfRegError(f"{output} exists already; name another")

    with _partial(output) as partial:
        target = partial / model.parent.name / f"{stock}__{plans}__{configuration}"
        origin: dict[str, Any] = {
            "trainer": trainer,
            "settings": _settings(model, trainer, configuration),
            "dataset": model.parent.name,
            "plans": plans,
            "configuration": configuration,
            "exported": date.today().isoformat(),
            "versions": {"nnunetv2-selfreg": __version__, "nnunetv2": version("nnunetv2"), "torch": torch.__version__},
            "cite": "Zhu et al., SelfReg-UNet, MICCAI 2024, doi 10.1007/978-3-031-72111-3_56",
            "folds": {},
        }
        _copy(model, target, (*MODEL_FILES, *COMPANIONS))
        sizes = [0, 0]
        for fold, source in sources.items():
            content = load_checkpoint(source)
            if content["trainer_name"] != trainer:
                raise SelfRegError(f"{source} was trained by {content['trainer_name']}, not by {trainer}")
            logging = content.get("logging", {})
            origin["folds"][fold] = {
                "epochs": int(content["current_epoch"]),
                **{name: [float(value) for value in logging.pop(name)] for name in LOGGED if name in logging},
            }
            if not optimizer:
                content["optimizer_state"] = None
            _copy(model / fold, target / fold, FOLD_COMPANIONS)
            torch.save(content | {"trainer_name": stock}, target / fold / checkpoint)
            sizes = [
                size + path.stat().st_size
                for size, path in zip(sizes, (source, target / fold / checkpoint), strict=True)
            ]
            _check_same(model, target, fold, checkpoint)
        (target / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        if zipped:
            _zip(partial, output)
        else:
            os.replace(partial, output)
    return sizes[0], sizes[1]


def _stock_name(trainer: str) -> str:
    name = stock_name(trainer)
    if name is None:
        raise SelfRegError(f"{trainer} is not a SelfReg trainer; its model can be shared as it is")
    return name


def _settings(model: Path, trainer: str, configuration: str) -> dict[str, Any]:
    """The settings that the training used: those of the plans, with what the trainer fixes."""
    from nnunetv2_selfreg.settings import read_plans, resolve
    from nnunetv2_selfreg.trainer import find_trainer

    found: Any = find_trainer(trainer)
    if found is None:
        raise SelfRegError(f"{trainer} is not known here; install what brings {_stock_name(trainer)}")
    settings = SelfRegSettings.from_plans(resolve(read_plans(model / "plans.json"), configuration))
    return asdict(replace(settings, **found.fixed_settings))


def _checkpoints(model: Path, folds: Sequence[str] | None, checkpoint: str) -> dict[str, Path]:
    """The chosen checkpoint of each fold, by the fold's folder."""
    names = [f"fold_{fold}" for fold in folds] if folds else sorted(path.name for path in model.glob("fold_*"))
    if not names:
        raise SelfRegError(f"{model} has no fold; train it first")
    for name in names:
        if not (model / name / checkpoint).is_file():
            raise SelfRegError(
                f"{model / name} has no {checkpoint}: its training has not finished; choose folds with -f or another "
                "checkpoint with -chk"
            )
    return {name: model / name / checkpoint for name in names}


def _copy(source: Path, target: Path, patterns: Sequence[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for pattern in patterns:
        for path in source.glob(pattern):
            destination = target / path.relative_to(source)
            destination.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, destination)


def _check_same(model: Path, exported: Path, fold: str, checkpoint: str) -> None:
    """Predicts a case with both and compares.

    Raises:
        SelfRegError: The logits differ in any voxel.
    """
    from nnunetv2_selfreg.prediction import load_predictor

    logits = []
    for folder in (model, exported):
        predictor = load_predictor(folder, folder / fold / checkpoint)
        patch = list(predictor.configuration_manager.patch_size)
        shape = [1, *patch] if len(patch) == 2 else patch  # a 2d network gets slices
        channels = next(predictor.network.parameters()).shape[1]
        case = torch.randn(channels, *(size + size // 2 for size in shape), generator=torch.Generator().manual_seed(0))
        logits.append(predictor.predict_logits_from_preprocessed_data(case))
    if not torch.equal(*logits):
        raise SelfRegError(f"{fold} predicts differently as a stock model; nothing was written, please report this")


@contextmanager
def _partial(output: Path) -> Iterator[Path]:
    """A folder beside `output` that is gone afterwards unless it was renamed."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".selfreg_export_", dir=output.parent) as name:
            folder = Path(name, "results")
            folder.mkdir()
            yield folder
    except OSError as error:
        raise SelfRegError(f"{output} cannot be written: {error.strerror or error}; nothing was left behind") from None


def _zip(folder: Path, output: Path) -> None:
    partial = folder.parent / "partial.zip"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
    os.replace(partial, output)
