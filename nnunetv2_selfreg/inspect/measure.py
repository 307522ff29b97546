"""Everything that is measured of one model: patch by patch, put together by case as one tidy frame."""

import zlib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from nnunetv2_selfreg.inspect.cases import PreparedCase
from nnunetv2_selfreg.inspect.channels import Floats, Moments, RunningMean, channel_measures
from nnunetv2_selfreg.inspect.gradcam import GradCamView, grad_cam, in_class_share, telling_slices
from nnunetv2_selfreg.inspect.model import InspectedModel, Target
from nnunetv2_selfreg.inspect.values import AREA, IN_CLASS, INPUT, NO_MASS, STUDENTS
from nnunetv2_selfreg.losses import importance
from nnunetv2_selfreg.terms import Step

# Grad-CAM needs a backward pass for each stage, class and patch: only the patches that show most of a class get one
PATCHES_PER_CLASS = 3
# of a value: stage, class, measure and the value itself
Row = tuple[str, str, str, float]


class Inspection:
    """What was measured of one model over the cases that were added.

    Args:
        model: The model.
        letter: `A` or `B` in a comparison, else empty.

    Attributes:
        frames: A frame of values of each case.
        patches: How many patches each case has.
        grids: Each stage's channels and grid.
        correlation: Of each stage's channels, `(C, C)`; NaN for constant channels.
        importance: IFD's importance of each stage's channels, `(C,)`: a channel's mean over its root mean square, from
            -1 to 1.
        views: Grad-CAM of the cases to show, by case, class and number.
    """

    def __init__(self, model: InspectedModel, letter: str = "") -> None:
        self.model, self.letter = model, letter
        self.frames: list[pd.DataFrame] = []
        self.patches: dict[str, int] = {}
        self.grids: dict[str, tuple[int, ...]] = {}
        self.views: dict[tuple[str, str, int], GradCamView] = {}
        self.correlation: dict[str, RunningMean] = defaultdict(RunningMean)
        self.importance: dict[str, RunningMean] = defaultdict(RunningMean)

    @property
    def label(self) -> str:
        """What the model is called: in a comparison with its letter."""
        return f"{self.letter}: {self.model.folder.name}" if self.letter else self.model.folder.name

    @property
    def values(self) -> pd.DataFrame:
        """The values of all cases, a frame as `values.py` describes it."""
        return pd.concat(self.frames, ignore_index=True)

    def ranking(self, stage: str) -> NDArray[np.int64]:
        """A stage's channels from the most to the least important, `(C,)`."""
        return np.argsort(-self.importance[stage].value(), kind="stable")

    def add(self, case: PreparedCase, show: bool = False) -> None:
        """Measures a case.

        Args:
            case: The case.
            show: Whether to keep its Grad-CAM as pictures.

        Raises:
            SelfRegError: A stage's map is not finite.
        """
        rows, areas = self._read_patches(case)
        for target in self.model.targets:
            largest = areas[target.name][areas[target.name] > 0].nlargest(PATCHES_PER_CLASS).index
            for patch in tqdm(largest, desc=target.name, unit="patch", leave=False):
                rows += self._explain(case, case.slicers[patch], target, show and patch == largest[0])
        keys = ["stage", "class", "measure"]
        grouped = pd.DataFrame(rows, columns=[*keys, "value"]).groupby(keys, sort=False)["value"]
        means = grouped.mean().reset_index()
        without_mass = (grouped.size() - grouped.count()).astype(float).reset_index(name="value")
        without_mass = without_mass[without_mass["measure"] == IN_CLASS].assign(measure=NO_MASS)
        values = pd.concat([means, without_mass, self._of_all_students(means)], ignore_index=True)
        self.frames.append(values.assign(model=self.letter, case=case.name))
        self.patches[case.name] = len(case.slicers)

    def _read_patches(self, case: PreparedCase) -> tuple[list[Row], pd.DataFrame]:
        """Runs each patch once and keeps nothing of its size.

        Returns:
            The values of the terms, patch by patch, and of the channels; and the voxels of each class by patch.
        """
        rows: list[Row] = []
        areas = []
        moments: dict[str, Moments] = defaultdict(Moments)
        relative: dict[str, list[Floats]] = defaultdict(list)
        for number, slicer in enumerate(tqdm(case.slicers, desc="patches", leave=False)):
            logits, maps = self.model.maps(self._patch(case, slicer))
            areas.append(
                {target.name: int(self._mask(case, slicer, logits, target).sum()) for target in self.model.targets}
            )
            rows += self._terms(maps, case.name, number)
            for stage in self.model.stages:
                self.grids[stage] = tuple(maps[stage].shape[1:])
                moments[stage].add(maps[stage])
                # over its largest possible value it is the mean of a channel over its root mean square
                largest = maps[stage][0, 0].numel() ** 0.5
                relative[stage].append(importance(maps[stage]).double().cpu().numpy() / largest)
            del logits, maps  # before the next patch makes its own
        for stage in self.model.stages:
            correlation, mean = moments[stage].correlation(), np.mean(relative[stage], 0)
            self.correlation[stage].add(correlation)
            self.importance[stage].add(mean)
            found = channel_measures(correlation, np.argsort(-mean, kind="stable"))
            rows += [(stage, "", measure, value) for measure, value in found.items()]
        return rows, pd.DataFrame(areas)

    def _terms(self, maps: Mapping[str, Tensor], case: str, number: int) -> list[Row]:
        """Each term of each map but the teacher's."""
        (teacher,) = self.model.chosen.teacher
        rows = []
        for name, feature in maps.items():
            for measure, term in self.model.terms.items() if name != teacher else ():
                step = Step(maps[teacher], stage_draws(case, number, name, feature.device))
                rows.append((name, "", measure, float(term.compute(feature, step).value)))
        return rows

    def _of_all_students(self, means: pd.DataFrame) -> pd.DataFrame:
        """Each term as the training adds it to the loss, before its weight."""
        rows = []
        for measure, term in self.model.terms.items():
            by_stage = means[means["measure"] == measure].set_index("stage")["value"]
            students = torch.tensor(by_stage[list(self.model.students)].to_numpy())
            rows.append((STUDENTS, "", measure, float(term.mean(students, len(self.model.chosen.encoder)))))
        return pd.DataFrame(rows, columns=means.columns)

    def _patch(self, case: PreparedCase, slicer: tuple[Any, ...]) -> Tensor:
        return case.image[slicer][None].to(self.model.predictor.device)

    def _mask(self, case: PreparedCase, slicer: tuple[Any, ...], logits: Tensor, target: Target) -> Tensor:
        """The reference's class in a patch, or the prediction's where there is no reference."""
        if case.labels is None:
            return self.model.predicted(logits, target)
        labels = case.labels[slicer[1:]]
        return torch.isin(labels, torch.tensor(target.labels, dtype=labels.dtype)).to(logits.device)

    def _explain(self, case: PreparedCase, slicer: tuple[Any, ...], target: Target, show: bool) -> list[Row]:
        """Grad-CAM of a class in one patch at each stage."""
        patch = self._patch(case, slicer)
        logits = self.model.maps(patch)[0]
        mask = self._mask(case, slicer, logits, target)
        inside, counted = mask.cpu().numpy(), np.ones(mask.shape, bool)
        ignored = self.model.predictor.label_manager.ignore_label
        if case.labels is not None and ignored is not None:
            counted = case.labels[slicer[1:]].numpy() != ignored
        area = float(inside[counted].mean())
        rows, heat = [(INPUT, target.name, AREA, area)], {}
        for name, stage in self.model.stages.items():
            heat[name] = grad_cam(self.model.predictor.network, stage, patch, target.head, mask).cpu().numpy()
            rows.append((name, target.name, IN_CLASS, in_class_share(heat[name], inside, counted)))
        if show:
            prediction = self.model.predicted(logits, target).cpu().numpy()
            slices: list[Any] = telling_slices(inside.sum((1, 2))) if inside.ndim == 3 else [...]
            for number, at in enumerate(slices):
                image, place = self._shown(case, slicer, at)
                self.views[case.name, target.name, number] = GradCamView(
                    place,
                    image,
                    None if case.labels is None else inside[at],
                    prediction[at],
                    {name: each[at] / each.mean() if each.any() else None for name, each in heat.items()},
                    area,
                    (inside.shape[-2] * case.spacing[-2], inside.shape[-1] * case.spacing[-1]),
                )
        return rows

    def _shown(self, case: PreparedCase, slicer: tuple[Any, ...], at: Any) -> tuple[NDArray[np.float32], str]:
        """A slice of the patch from 0 to 1, its three colours or else its first channel in grey; and which it is."""
        image, slices = case.image[slicer].numpy(), case.image.shape[1]
        position = slicer[1] if at is ... else slicer[1].start + at
        image = image if at is ... else image[:, at]
        shown = np.moveaxis(image, 0, -1) if self.model.is_rgb else image[0]
        low, high = np.percentile(shown, (0.5, 99.5))
        place = f"slice {position + 1} of {slices}" if slices > 1 else ""
        return np.clip((shown - low) / max(high - low, 1e-6), 0, 1), place


def stage_draws(case: str, number: int, stage: str, device: torch.device) -> torch.Generator:
    """A term's draws at one stage in one patch: others in each patch, the same whatever else a model has."""
    return torch.Generator(device).manual_seed(zlib.crc32(f"{case} {number} {stage}".encode()))
