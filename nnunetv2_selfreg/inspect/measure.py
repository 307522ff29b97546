"""Everything that is measured of one model: patch by patch, put together by case as one tidy frame."""

import argparse
import os
import zlib
from collections import defaultdict
from collections.abc import Mapping
from operator import mul
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.inspect.cases import PreparedCase, evenly, find_cases, prepare
from nnunetv2_selfreg.inspect.channels import Floats, Moments, RunningMean, channel_measures
from nnunetv2_selfreg.inspect.gradcam import GradCamView, grad_cam, in_class_share, telling_slices
from nnunetv2_selfreg.inspect.model import InspectedModel, Target, check_comparable, common_fold, told_apart
from nnunetv2_selfreg.inspect.pull import GRADIENT, LOSS, SegmentationLoss, pull_shares
from nnunetv2_selfreg.inspect.values import AREA, IN_CLASS, INPUT, KEYS, NO_MASS, STUDENTS
from nnunetv2_selfreg.losses import importance
from nnunetv2_selfreg.terms import Step

# Grad-CAM needs a backward pass for each stage, class and patch: only the patches that show most of a class get one
PATCHES_PER_CLASS = 3
SHOWN = 2  # cases whose Grad-CAM is drawn
# values of a case or a patch, by measure, stage and class
Values = dict[tuple[str, str, str], float]


class Inspection:
    """What was measured of one run of a model, a fold of a repetition, over the cases that were added.

    Args:
        model: The run's network.
        letter: `A` or `B` in a comparison.
        run: The run's name among the model's runs.
        name: The model's name; default: its folder's.
    """

    def __init__(self, model: InspectedModel, letter: str = "", run: str = "", name: str = "") -> None:
        self.model, self.letter = model, letter
        self.loss = SegmentationLoss(model)
        self.run, self.name = run or f"fold {model.fold}", name or model.folder.name
        self.prefix = f"{letter}, " if letter else ""
        self.label = f"{letter}: {self.name}" if letter else self.name
        self.full_label = f"{self.label}, {self.run}"
        self.cases: dict[str, Values] = {}
        self.patches: dict[str, int] = {}  # how many each case has
        self.grids: dict[str, tuple[int, ...]] = {}  # each stage's channels and grid
        # of each stage's channels, (C, C), NaN for constant channels
        self.correlation: dict[str, RunningMean] = defaultdict(RunningMean)
        # a channel's mean over its root mean square, (C,), from -1 to 1
        self.importance: dict[str, RunningMean] = defaultdict(RunningMean)
        # of the cases to show, by case, class and number
        self.views: dict[tuple[str, str, int], GradCamView] = {}

    @property
    def values(self) -> pd.DataFrame:
        """The values of all cases, a frame as `values.py` describes it."""
        rows = [
            (case, *key, value)
            for case, values in self.cases.items()
            for key, value in values.items()
            # a loss that failed at one patch was measured on others alone
            if not (self.loss.reason and key[0].endswith((GRADIENT, LOSS)))
        ]
        return pd.DataFrame(rows, columns=["case", *KEYS, "value"]).assign(model=self.letter, run=self.run)

    def ranking(self, stage: str) -> NDArray[np.int64]:
        """A stage's channels from the most to the least important, `(C,)`."""
        return np.argsort(-self.importance[stage].value(), kind="stable")

    def add(self, case: PreparedCase, show: bool = False) -> None:
        """Measures a case, and keeps its Grad-CAM to show; SelfRegError if a stage's map is not finite."""
        values, areas = self._read_patches(case)
        for target in self.model.targets:
            largest = areas[target.name][areas[target.name] > 0].nlargest(PATCHES_PER_CLASS).index
            found = pd.DataFrame(
                self._explain(case, case.slicers[patch], target, show and patch == largest[0])
                for patch in tqdm(largest, desc=target.name, unit="patch", leave=False)
            )
            without_mass = found.isna().sum().astype(float).drop((AREA, INPUT, target.name), errors="ignore")
            values |= found.mean().to_dict()
            values |= {(NO_MASS, stage, name): count for (_, stage, name), count in without_mass.items()}
        self.cases[case.name], self.patches[case.name] = values, len(case.slicers)

    def _read_patches(self, case: PreparedCase) -> tuple[Values, pd.DataFrame]:
        """The values of terms and channels, and the voxels of each class by patch; keeps nothing of a patch's size."""
        terms, areas, pulls = [], [], []
        moments: dict[str, Moments] = defaultdict(Moments)
        relative: dict[str, list[Floats]] = defaultdict(list)
        for number, slicer in enumerate(tqdm(case.slicers, desc="patches", leave=False)):
            pulls.append(self._pulls(case, slicer))
            logits, maps = self.model.maps(self._patch(case, slicer))
            masks = {target.name: self._mask(case, slicer, logits, target) for target in self.model.targets}
            areas.append({name: int(mask.sum()) for name, mask in masks.items()})
            of_terms, added = self._terms(maps, case.name, number)
            terms.append(of_terms)
            pulls[-1] |= added
            for stage in self.model.stages:
                self.grids[stage] = tuple(maps[stage].shape[1:])
                moments[stage].add(maps[stage])
                # over its largest possible value it is the mean of a channel over its root mean square
                largest = maps[stage][0, 0].numel() ** 0.5
                relative[stage].append(importance(maps[stage]).double().cpu().numpy() / largest)
            del logits, maps, masks  # before the next patch makes its own
        values: Values = pd.DataFrame(terms).mean().to_dict()
        values |= {} if self.loss.reason else pull_shares(pd.DataFrame(pulls).mean().to_dict())
        for stage in self.model.stages:
            correlation, mean = moments[stage].correlation(), np.mean(relative[stage], 0)
            self.correlation[stage].add(correlation)
            self.importance[stage].add(mean)
            found = channel_measures(correlation, np.argsort(-mean, kind="stable"))
            values |= {(measure, stage, ""): value for measure, value in found.items()}
        return values, pd.DataFrame(areas)

    def _terms(self, maps: Mapping[str, Tensor], case: str, number: int) -> tuple[Values, Values]:
        """Each term of each map but the teacher's, and of all students as the training adds it, before its weight.

        Returns:
            The values; and what the training adds at each student: the size of what it adds to the loss, and the norm
            of what it adds to the gradient of the loss with respect to the map.
        """
        values: Values = {}
        added: Values = {}
        (teacher,) = self.model.chosen.teacher
        for measure, term in self.model.terms.items():
            counts = term.student_weights(len(self.model.chosen.encoder), len(self.model.chosen.decoder))
            weight = self.model.pulling.get(measure, 0)
            weights = {name: weight * count for name, count in zip(self.model.students, counts, strict=True)}
            for name, feature in maps.items():
                if name != teacher:
                    draws = stage_draws(case, number, name, feature.device)
                    step = Step(maps[teacher], draws, scr_channels=self.model.scr_channels)
                    found = term.compute([feature], step)
                    values[measure, name, ""] = float(found.values[0])
                    if factor := weights.get(name):
                        added[measure + LOSS, name, ""] = factor * abs(values[measure, name, ""])
                        scale = found.values.new_tensor(factor)
                        gradient = found.gradients[0](torch.zeros_like(feature), feature, scale, True)
                        added[measure + GRADIENT, name, ""] = float(gradient.double().norm())
            students = [values[measure, name, ""] for name in self.model.students]
            values[measure, STUDENTS, ""] = sum(map(mul, counts, students))
        return values, added

    def _pulls(self, case: PreparedCase, slicer: tuple[Any, ...]) -> Values:
        """The size of nnU-Net's loss of a patch, and the norm of its gradient at each student; needs a reference."""
        if case.labels is None or self.loss.reason:
            return {}
        found = self.loss.pulls(self._patch(case, slicer), case.labels[slicer[1:]])
        if found is None:
            return {}
        size, norms = found
        return {(LOSS, STUDENTS, ""): size} | {(GRADIENT, name, ""): norm for name, norm in norms.items()}

    def _patch(self, case: PreparedCase, slicer: tuple[Any, ...]) -> Tensor:
        return case.image[slicer][None].to(self.model.predictor.device)

    def _mask(self, case: PreparedCase, slicer: tuple[Any, ...], logits: Tensor, target: Target) -> Tensor:
        """The reference's class in a patch, or the prediction's where there is no reference."""
        if case.labels is None:
            return self.model.predicted(logits, target)
        labels = case.labels[slicer[1:]]
        # nnU-Net hands small labels over as int8, which a class of the data set may exceed
        return torch.isin(labels.int(), torch.tensor(target.labels, dtype=torch.int32)).to(logits.device)

    def _explain(self, case: PreparedCase, slicer: tuple[Any, ...], target: Target, show: bool) -> Values:
        """Grad-CAM of a class in one patch at each stage."""
        patch = self._patch(case, slicer)
        logits = self.model.maps(patch)[0]
        mask = self._mask(case, slicer, logits, target)
        inside, counted = mask.cpu().numpy(), np.ones(mask.shape, bool)
        ignored = self.model.predictor.label_manager.ignore_label
        if case.labels is not None and ignored is not None:
            counted = case.labels[slicer[1:]].numpy() != ignored
        heat = {
            name: grad_cam(self.model.predictor.network, stage, patch, target.head, mask, self.model.layouts[name])
            .cpu()
            .numpy()
            for name, stage in self.model.stages.items()
        }
        area = float(inside[counted].mean())
        if show:
            self._keep_views(case, slicer, target, logits, inside, heat, area)
        shares = {(IN_CLASS, name, target.name): in_class_share(each, inside, counted) for name, each in heat.items()}
        return {(AREA, INPUT, target.name): area} | shares

    def _keep_views(
        self, case: PreparedCase, slicer: Any, target: Target, logits: Tensor, mask: Any, heat: Any, area: float
    ) -> None:
        """Keeps the slices of a patch that show most of a class; a patch of two dimensions is one slice."""
        grid = (-1, *mask.shape[-2:])
        first, slices = slicer[1] if mask.ndim == 2 else slicer[1].start, case.image.shape[1]
        image = case.image[slicer].numpy().reshape(len(case.image), *grid)
        predicted, inside = self.model.predicted(logits, target).cpu().numpy().reshape(grid), mask.reshape(grid)
        for number, at in enumerate(telling_slices(inside.sum((1, 2)))):
            shown = np.moveaxis(image[:, at], 0, -1) if self.model.is_rgb else image[0, at]
            low, high = np.percentile(shown, (0.5, 99.5))
            self.views[case.name, target.name, number] = GradCamView(
                f"slice {first + at + 1} of {slices}" if slices > 1 else "",
                np.clip((shown - low) / max(high - low, 1e-6), 0, 1),
                None if case.labels is None else inside[at],
                predicted[at],
                {name: each.reshape(grid)[at] / each.mean() if each.any() else None for name, each in heat.items()},
                area,
                (mask.shape[-2] * case.spacing[-2], mask.shape[-1] * case.spacing[-1]),
            )


def stage_draws(case: str, number: int, stage: str, device: torch.device) -> torch.Generator:
    """A term's draws at one stage in one patch: others in each patch, the same whatever else a model has."""
    return torch.Generator(device).manual_seed(zlib.crc32(f"{case} {number} {stage}".encode()))


def measure(parsed: argparse.Namespace) -> tuple[list[Inspection], dict[str, Any]]:
    """Measures each run of each model of a command line on each case.

    Returns:
        The inspections, the first model's and then the other's, in the same order of runs, and what was asked for, by
        name. Grad-CAM is kept to be shown of the first run of each. SelfRegError if something is not there or does not
        fit.
    """
    if parsed.device == "cuda" and not torch.cuda.is_available():
        raise SelfRegError("--device cuda: PyTorch finds no such device here; use --device cpu")
    device = parsed.device or ("cuda" if torch.cuda.is_available() else "cpu")
    inspections = _runs(parsed, device)
    model = inspections[0].model
    ending = model.predictor.dataset_json["file_ending"]
    images, labels = parsed.images.expanduser(), parsed.labels and parsed.labels.expanduser()
    found = find_cases(images, labels, ending, model.channels)
    cases = evenly(found, parsed.cases)
    shown = [case.name for case in evenly(cases, SHOWN)]
    with tqdm(cases, unit="case") as progress:
        for files in progress:
            progress.set_description(files.name)
            for inspection in inspections:
                show = files.name in shown and inspection.run == inspections[0].run
                inspection.add(prepare(files, inspection.model.predictor), show)
    return inspections, {
        "checkpoint": parsed.checkpoint,
        "reference": parsed.labels is not None,
        "cases_found": len(found),
        "cases_shown": shown,
        "channels": model.channels,
        "shown_as": "RGB" if model.is_rgb else "grey",
        "device": device,
    }


def _runs(parsed: argparse.Namespace, device: str) -> list[Inspection]:
    """Every fold of every repetition of each model, loaded; SelfRegError if they do not belong together."""
    sides = [parsed.model] + ([parsed.compare] if parsed.compare else [])
    if len({len(folders) for folders in sides}) > 1:
        raise SelfRegError(
            f"{len(parsed.model)} repetitions and --compare {len(parsed.compare)} cannot be paired; give as many of "
            "both"
        )
    for folders in sides:
        if len(set(map(os.path.realpath, folders))) < len(folders):
            raise SelfRegError(f"{folders[0]} is given twice; a repetition is another training, in another folder")
        # a link has the name that nnU-Net sees
        if len({os.path.basename(os.path.abspath(folder)) for folder in folders}) > 1:
            names = " and ".join(map(str, folders))
            raise SelfRegError(f"{names} are not repetitions of one model, their names differ; see --compare")
    paths = [folder for folders in sides for folder in folders]
    folds = dict.fromkeys(parsed.folds or [common_fold(paths, parsed.checkpoint)])
    letters = "AB" if len(sides) == 2 else [""]
    inspections = []
    for letter, name, folders in zip(letters, told_apart([folders[0] for folders in sides]), sides, strict=True):
        for repetition, folder in enumerate(folders):
            for fold in folds:
                model = InspectedModel(folder, fold, parsed.checkpoint, device)
                run = f"fold {model.fold}"
                run = f"repetition {repetition + 1}, {run}" if len(folders) > 1 else run
                inspections.append(Inspection(model, letter, run, name))
    for other in inspections[1:]:
        check_comparable(inspections[0].model, other.model)
    # a model without SelfReg is measured as the one that it is compared with
    trained = [each.model for each in inspections if each.model.folder.settings]
    for each in inspections:
        if trained and not each.model.folder.settings:
            each.model.scr_channels = trained[0].scr_channels
    return inspections
