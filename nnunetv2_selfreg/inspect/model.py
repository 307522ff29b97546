"""A trained model as the inspection needs it: its network's stages, its classes and its training log."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nnunetv2_selfreg.checkpoints import load_checkpoint
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.prediction import load_predictor
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.stages import StageTaps, named_stages

MODEL_FILES = ("plans.json", "dataset.json")
LOGGED = ("scr", "ifd", "selfreg_share", "mean_fg_dice", "ema_fg_dice")


@dataclass(frozen=True)
class Target:
    """One class, or one region of a region-based model.

    Attributes:
        name: Its name in `dataset.json`.
        head: Which of the network's logits is its.
        labels: The reference's labels that belong to it.
    """

    name: str
    head: int
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """A trained model.

    Attributes:
        name: Its folder's name, `TRAINER__PLANS__CONFIGURATION`.
        dataset: The name of the folder around it.
        fold: The fold, without `fold_`.
        epochs: How many epochs the checkpoint was trained.
        predictor: nnU-Net's predictor.
        stages: The network's stages by name, in the order of the forward pass.
        targets: The foreground classes or regions.
        students: What SelfReg regularises with the settings of the plans: stages, or first blocks of stages as well.
        logging: Values per epoch by name, as far as the training logged them.
    """

    name: str
    dataset: str
    fold: str
    epochs: int
    predictor: Any
    stages: dict[str, nn.Module]
    targets: Sequence[Target]
    students: dict[str, nn.Module]
    logging: dict[str, list[float]]

    @property
    def final(self) -> str:
        """The teacher's name: the last decoder stage."""
        return list(self.stages)[-1]

    def maps(self, patch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the network on one patch, in evaluation mode and without mirroring.

        Args:
            patch: `(1, channels, *spatial)`.

        Returns:
            The logits, `(heads, *spatial)`, and the map of each stage and student, `(1, C, *spatial)`, by name.
        """
        maps: dict[str, Tensor] = {}
        tapped = self.stages | self.students
        handles = [module.register_forward_hook(partial(_keep, maps, name)) for name, module in tapped.items()]
        try:
            with torch.no_grad():
                logits = self.predictor.network(patch)[0]
        finally:
            for handle in handles:
                handle.remove()
        for name, feature in maps.items():
            if not feature.isfinite().all():
                raise SelfRegError(f"{self.name}: the map of {name} is not finite; this model cannot be inspected")
        return logits, maps

    def predicted(self, logits: Tensor, target: Target) -> Tensor:
        """Where the network sees the class, bool `(*spatial)`, from its logits `(heads, *spatial)`."""
        if self.predictor.label_manager.has_regions:
            return logits[target.head] > 0  # a sigmoid above 0.5
        return logits.argmax(0) == target.head

    def referenced(self, labels: Tensor, target: Target) -> Tensor:
        """Where the class is, bool, in a reference of any shape."""
        return torch.isin(labels, torch.tensor(target.labels, dtype=labels.dtype))

    def ignored(self, labels: Tensor) -> Tensor:
        """Where the reference says nothing, bool, in a reference of any shape."""
        label = self.predictor.label_manager.ignore_label
        return torch.zeros_like(labels, dtype=torch.bool) if label is None else labels == label


def open_model(folder: Path, fold: str | None, checkpoint: str, device: str) -> Model:
    """Loads one fold of a model folder.

    Args:
        folder: `nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION`.
        fold: Its name (`0`, `all`); the first that has the checkpoint when left out.
        checkpoint: The checkpoint's file name.
        device: Where to run the network.

    Raises:
        SelfRegError: The folder is no model with that checkpoint, or its network has no stages to look at.
    """
    folder = folder.resolve()
    path = _checkpoint(folder, fold, checkpoint)
    predictor = load_predictor(folder, path, device)
    configuration = predictor.configuration_manager
    if configuration.previous_stage_name is not None:
        raise SelfRegError(
            f"{folder.name} also takes the prediction of {configuration.previous_stage_name}; inspect that one instead"
        )
    network = predictor.network.eval().requires_grad_(False)
    encoder, decoder = named_stages(network, "encoder"), named_stages(network, "decoder")
    settings = SelfRegSettings.from_plans(configuration.configuration)
    taps = StageTaps(network, settings.taps, settings.encoder_stages, settings.decoder_stages)
    taps.remove()
    content = load_checkpoint(path)
    logging = content.get("logging") or {}
    return Model(
        name=folder.name,
        dataset=folder.parent.name,
        fold=path.parent.name.removeprefix("fold_"),
        epochs=int(content.get("current_epoch", 0)),
        predictor=predictor,
        stages=encoder | decoder,
        targets=_targets(predictor),
        students=taps.encoder | taps.decoder,
        logging={name: [float(value) for value in logging[name]] for name in LOGGED if logging.get(name)},
    )


def common_fold(folders: Sequence[Path], checkpoint: str) -> str | None:
    """The first fold for which every one of the models has the checkpoint; None when a model has it for no fold.

    Raises:
        SelfRegError: Each has some, but none in common, or a folder is no model.
    """
    each = [_folds(folder.resolve(), checkpoint) for folder in folders]
    if not all(each):
        return None
    common = [fold for fold in each[0] if all(fold in folds for folds in each)]
    if not common:
        names = " and ".join(str(folder) for folder in folders)
        has = " and ".join(", ".join(folds) for folds in each)
        raise SelfRegError(
            f"{names} have no fold with a {checkpoint} in common ({has}); train one that both have and name it with -f"
        )
    return common[0]


def check_comparable(first: Model, second: Model) -> None:
    """Refuses two models whose figures have no common rows.

    Raises:
        SelfRegError: They differ in classes, image channels or stages.
    """
    for what, one, other in (
        ("classes", _described(first), _described(second)),
        ("image channels", *(model.predictor.dataset_json["channel_names"] for model in (first, second))),
        ("stages", list(first.stages), list(second.stages)),
    ):
        if one != other:
            raise SelfRegError(
                f"{first.name} and {second.name} cannot be compared: their {what} differ, {one} and {other}"
            )


def _described(model: Model) -> str:
    return ", ".join(f"{target.name} {list(target.labels)}" for target in model.targets)


def _checkpoint(folder: Path, fold: str | None, checkpoint: str) -> Path:
    folds = _folds(folder, checkpoint)
    if folds if fold is None else fold in folds:
        return folder / f"fold_{fold or folds[0]}" / checkpoint
    where = "no fold" if fold is None else f"no fold_{fold}"
    raise SelfRegError(f"{folder} has {where} with a {checkpoint}; choose another fold with -f or checkpoint with -chk")


def _folds(folder: Path, checkpoint: str) -> list[str]:
    """A model's folds that have the checkpoint."""
    missing = [name for name in MODEL_FILES if not (folder / name).is_file()]
    if missing:
        raise SelfRegError(
            f"{folder} is not a model folder, it has no {missing[0]}; "
            "give nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION"
        )
    folds = sorted(folder.glob("fold_*"), key=lambda path: (len(path.name), path.name))
    return [path.name.removeprefix("fold_") for path in folds if (path / checkpoint).is_file()]


def _targets(predictor: Any) -> list[Target]:
    manager = predictor.label_manager
    heads = manager.foreground_regions if manager.has_regions else manager.all_labels
    targets = []
    for name, value in predictor.dataset_json["labels"].items():
        region = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if name == "ignore" or set(region) == {0}:
            continue
        key = (region if isinstance(value, (list, tuple)) else value) if manager.has_regions else int(region[0])
        targets.append(Target(name, list(heads).index(key), tuple(int(label) for label in region)))
    return targets


def _keep(maps: dict[str, Tensor], name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
    maps[name] = output
