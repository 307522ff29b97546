"""A trained model as the inspection needs it: its network's stages, its terms, its classes and its training log."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import read_json
from nnunetv2_selfreg.inspect.values import MEASURES
from nnunetv2_selfreg.layouts import Layout
from nnunetv2_selfreg.model_folder import CHECKPOINT, ModelFolder, load_checkpoint
from nnunetv2_selfreg.networks import known_stages
from nnunetv2_selfreg.reading import channel_names
from nnunetv2_selfreg.settings import KEY, PLACES, SelfRegSettings
from nnunetv2_selfreg.taps import FIRST_BLOCK, ChosenStages, choose_students, read_layouts
from nnunetv2_selfreg.terms import BUILT_IN, SHARE


class Target(NamedTuple):
    """One class or region: its name, which of the network's logits is its, and its labels in a reference."""

    name: str
    head: int
    labels: tuple[int, ...]


class InspectedModel:
    """One fold of a trained model, loaded: by default the first that has the checkpoint; SelfRegError if none has."""

    def __init__(self, path: Path, fold: str | None, checkpoint: str, device: str) -> None:
        self.given = path.as_posix()  # as the user wrote it
        self.folder = folder = ModelFolder.open(path)
        if previous := folder.resolved.get("previous_stage"):
            raise SelfRegError(f"{folder.name} also takes the prediction of {previous}; inspect that one instead")
        # without a fold that has the checkpoint, this says what is missing
        files = folder.checkpoints([fold] if fold else folder.folds(checkpoint)[:1], checkpoint)
        ((self.fold, file),) = files.items()
        self.predictor = folder.predictor(file, device)
        network = self.predictor.network.eval().requires_grad_(False)
        # else the students that SelfReg would have; the weights in the plans may be of any term
        given = {name: value for name, value in folder.resolved.get(KEY, {}).items() if name in PLACES}
        chosen = choose_students(network, folder.settings or SelfRegSettings.from_plans({KEY: given}))
        known = known_stages(network)
        # of a network that is not known, the stages are what its settings name
        encoder, decoder = known.encoder or chosen.encoder, known.decoder or (chosen.decoder | chosen.teacher)
        parts = {"encoder": encoder, "decoder": decoder}
        # by the names that they have in a U-Net, whatever the network calls them
        self.stages = {f"{part}.stages.{i}": parts[part][name] for part in parts for i, name in enumerate(parts[part])}
        # the stages' names in the network
        self.modules = dict(zip(self.stages, [*encoder, *decoder], strict=True))
        self.chosen = ChosenStages._make(self._as_stages(modules) for modules in chosen)
        self.students = self.chosen.encoder | self.chosen.decoder
        self._tapped = self.stages | self.students | self.chosen.teacher
        terms = {term.name: term for term in (*BUILT_IN, *getattr(folder.trainer_class, "terms", ()))}
        # of the terms that the training added, by their titles; empty without SelfReg
        weights = folder.settings.weights if folder.settings else {}
        self.weights = {terms[name].title: weight for name, weight in weights.items() if name in terms}
        # those of them that cannot be measured here, by their titles
        self.left_out = [terms[name].title for name in weights if name in terms and terms[name].reads_labels]
        terms = {name: term for name, term in terms.items() if not term.reads_labels}
        # by the measure's name, which another measure may have
        self.terms = {f"{name}_term" if name in MEASURES else name: term for name, term in terms.items()}
        # those of the terms that pull by the measure's name; without SelfReg as it would pull by default
        pulling = weights or SelfRegSettings().weights
        self.pulling = {name: pulling[term.name] for name, term in self.terms.items() if pulling.get(term.name)}
        self.scr_channels = (folder.settings or SelfRegSettings()).scr_channels
        self.targets = _targets(self.predictor)
        content = load_checkpoint(file)
        self.epochs = int(content.get("current_epoch", 0))
        # nnU-Net validates the final checkpoint; the validation of a fold "all" is on cases that it was trained on
        validated = checkpoint == CHECKPOINT and self.fold != "all"
        self.dice = _validation_dice(file.parent / "validation" / "summary.json") if validated else None
        names = {measure: term.name for measure, term in self.terms.items()}
        names |= {name: name for name in (SHARE, "mean_fg_dice", "ema_fg_dice")}
        logged = content.get("logging") or {}
        self.logging = {
            measure: [float(x) for x in logged[name]] for measure, name in names.items() if logged.get(name)
        }
        self.channels = len(channel_names(folder.dataset_json))
        patch = self.predictor.configuration_manager.patch_size
        self.layouts = read_layouts(network, self._tapped, torch.zeros(1, self.channels, *patch, device=device))
        self.is_natural = self.predictor.plans_manager.image_reader_writer_class.__name__ == "NaturalImage2DIO"
        self.is_rgb = self.is_natural and self.channels == 3

    def maps(self, patch: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the network on one patch `(1, channels, *spatial)`, in evaluation mode and without mirroring.

        Returns:
            The logits, `(heads, *spatial)`, and the map of each stage, student and teacher by name, each
            `(1, C, *spatial)`; SelfRegError if one is not finite.
        """
        maps: dict[str, Tensor] = {}
        handles = [
            module.register_forward_hook(partial(_keep, maps, name, self.layouts[name]))
            for name, module in self._tapped.items()
        ]
        try:
            with torch.no_grad():
                logits = self.predictor.network(patch)[0]
        finally:
            for handle in handles:
                handle.remove()
        if wrong := [name for name, feature in maps.items() if not feature.isfinite().all()]:
            raise SelfRegError(f"{self.folder.name}: the map of {wrong[0]} is not finite; it cannot be inspected")
        return logits, maps

    def _as_stages(self, chosen: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
        """Modules by the names of the stages that they are, or whose first blocks they are."""
        names = {name: stage for stage, name in self.modules.items()}
        names |= {f"{name}{FIRST_BLOCK}": f"{stage}{FIRST_BLOCK}" for name, stage in names.items()}
        return {names.get(name, name): module for name, module in chosen.items()}

    def predicted(self, logits: Tensor, target: Target) -> Tensor:
        """Where the network sees the class, bool `(*spatial)`, from its logits `(heads, *spatial)`."""
        if self.predictor.label_manager.has_regions:
            return logits[target.head] > 0  # a sigmoid above 0.5
        return logits.argmax(0) == target.head


def common_fold(paths: Sequence[Path], checkpoint: str) -> str | None:
    """The first fold for which all have the checkpoint; None when one has no fold, SelfRegError if none in common."""
    each = [ModelFolder.open(path).folds(checkpoint) for path in paths]
    common = [fold for fold in each[0] if all(fold in folds for folds in each)]
    if all(each) and not common:
        names = " and ".join(str(path) for path in paths)
        has = " and ".join(", ".join(folds) for folds in each)
        raise SelfRegError(
            f"{names} have no fold with a {checkpoint} in common ({has}); train one that both have and name it with -f"
        )
    return common[0] if common else None


def check_comparable(first: InspectedModel, second: InspectedModel) -> None:
    """SelfRegError for two models of other classes, image channels or stages, which cannot stand in one table."""
    models = (first, second)
    compared: dict[str, list[Any]] = {
        "classes": [", ".join(f"{name} {list(labels)}" for name, _, labels in model.targets) for model in models],
        "image channels": [channel_names(model.folder.dataset_json) for model in models],
        "stages": [list(model.stages) for model in models],
    }
    for what, (one, other) in compared.items():
        if one != other:
            names = " and ".join(model.folder.name for model in models)
            raise SelfRegError(f"{names} cannot be compared: their {what} differ, {one} and {other}")


def told_apart(paths: Sequence[Path]) -> list[str]:
    """The ends of the paths, with as many folders in front of the last as it takes to tell them apart."""
    parts = [Path(os.path.abspath(path)).parts for path in paths]
    most = max(map(len, parts))
    counts = (count for count in range(1, most) if len({each[-count:] for each in parts}) == len(set(parts)))
    shown = next(counts, most)
    return ["/".join(each[-shown:]) for each in parts]


def _validation_dice(summary: Path) -> float | None:
    """The mean Dice over classes that nnU-Net's validation of the fold wrote; None where it has not run."""
    return read_json(summary).get("foreground_mean", {}).get("Dice") if summary.is_file() else None


def _targets(predictor: Any) -> list[Target]:
    manager = predictor.label_manager
    targets: list[Target] = []
    for name, value in predictor.dataset_json["labels"].items():
        labels = tuple(int(label) for label in np.atleast_1d(value))
        if name != "ignore" and set(labels) != {0}:
            # nnU-Net's heads are the regions in this order, or else all labels with the background
            head = len(targets) if manager.has_regions else manager.all_labels.index(labels[0])
            targets.append(Target(name, head, labels))
    return targets


def _keep(maps: dict[str, Tensor], name: str, layout: Layout, module: nn.Module, inputs: Any, output: Tensor) -> None:
    maps[name] = layout.to_map(output)
