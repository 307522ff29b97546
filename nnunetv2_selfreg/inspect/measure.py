"""All figures of one model, case by case and patch by patch."""

import zlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nnunetv2_selfreg.inspect.cases import Case
from nnunetv2_selfreg.inspect.channels import (
    Floats,
    Moments,
    constant_channels,
    effective_rank,
    partner_correlation,
    redundancy,
)
from nnunetv2_selfreg.inspect.gradcam import grad_cam, in_class_share
from nnunetv2_selfreg.inspect.model import Model, Target
from nnunetv2_selfreg.losses import Consistency, Distillation, TeacherPyramid, draw_channels, importance

# Grad-CAM needs a backward pass for each stage, class and patch: only the patches that show most of a class get one
PATCHES_PER_CLASS = 3
STUDENTS = "students"
INPUT = "input"


class Key(NamedTuple):
    """What a figure is of.

    Attributes:
        measure: Its name.
        stage: The stage's name, `students` for all that SelfReg regularises, `input` for what no stage changes.
        target: The class; empty for figures of all channels.
    """

    measure: str
    stage: str
    target: str = ""


# by case; None where the figure does not exist, such as the share of a map without mass
Values = dict[Key, dict[str, float | None]]


@dataclass(frozen=True)
class Picture:
    """Grad-CAM of one class in one slice of one case.

    Attributes:
        case: The case's name.
        target: The class's name.
        number: Which of the class's pictures in this case.
        place: Which slice it is; empty where the image has only one.
        image: `(rows, columns)` grey or `(rows, columns, 3)` RGB, 0 to 1.
        reference: Where the class is, bool `(rows, columns)`; None without references.
        prediction: Where the network sees it, bool `(rows, columns)`.
        heat: By stage, the map over its mean in the patch, `(rows, columns)`; None for a map without mass.
        area: The class's share of the patch, 0 to 1.
        size: Rows and columns in the image's unit of length.
    """

    case: str
    target: str
    number: int
    place: str
    image: NDArray[np.float32]
    reference: NDArray[np.bool_] | None
    prediction: NDArray[np.bool_]
    heat: dict[str, NDArray[np.float32] | None]
    area: float
    size: tuple[float, float]


@dataclass
class _CaseSums:
    """What the patches of one case add up to: small things only."""

    areas: dict[Target, list[int]] = field(default_factory=lambda: defaultdict(list))
    moments: dict[str, Moments] = field(default_factory=lambda: defaultdict(Moments))
    importance: dict[str, list[Floats]] = field(default_factory=lambda: defaultdict(list))
    losses: dict[Key, list[float]] = field(default_factory=lambda: defaultdict(list))
    area_shares: dict[Target, list[float]] = field(default_factory=lambda: defaultdict(list))
    shares: dict[tuple[Target, str], list[float | None]] = field(default_factory=lambda: defaultdict(list))


@dataclass
class Inspection:
    """The figures of one model over the cases that were added.

    Attributes:
        model: The model.
        values: The figures, by case.
        grids: Each stage's channels and grid.
        patches: Patches of each case.
        pictures: Grad-CAM of the cases to show.
    """

    model: Model
    device: torch.device
    values: Values = field(default_factory=lambda: defaultdict(dict))
    grids: dict[str, tuple[int, ...]] = field(default_factory=dict)
    patches: dict[str, int] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)
    _correlation_sums: dict[str, Floats] = field(default_factory=dict)
    _correlation_cases: dict[str, Floats] = field(default_factory=dict)
    _importance: dict[str, Floats] = field(default_factory=dict)

    def add(self, case: Case, show: bool) -> Iterator[None]:
        """Adds a case; yields after each patch.

        Args:
            case: The case.
            show: Whether to keep its pictures.

        Raises:
            SelfRegError: A stage's map is not finite.
        """
        sums = _CaseSums()
        for number in range(len(case.slicers)):
            self._add_patch(case, number, sums)
            yield
        self.patches[case.name] = len(case.slicers)
        for key, losses in sums.losses.items():
            self.values[key][case.name] = float(np.mean(losses))
        for stage, moments in sums.moments.items():
            self._add_channels(case.name, stage, moments.correlation(), np.mean(sums.importance[stage], 0))
        for target, areas in sums.areas.items():
            largest = np.argsort(-np.array(areas), kind="stable")[:PATCHES_PER_CLASS]
            chosen = [case.slicers[i] for i in largest if areas[i] > 0]
            for number, slicer in enumerate(chosen):
                self._add_grad_cam(case, slicer, target, show and number == 0, sums)
                yield
            if chosen:
                self._add_shares(case.name, target, sums)

    def correlation(self, stage: str) -> Floats:
        """A stage's channel correlation, the mean over the cases, `(C, C)`; NaN for channels constant in all."""
        cases = self._correlation_cases[stage]
        return np.where(cases > 0, self._correlation_sums[stage] / np.maximum(cases, 1), np.nan)

    def importance(self, stage: str) -> Floats:
        """IFD's importance of a stage's channels, `(C,)`, the mean over the cases.

        It is a channel's mean over its root mean square, from -1 to 1.
        """
        return self._importance[stage] / len(self.patches)

    def ranking(self, stage: str) -> NDArray[np.int64]:
        """A stage's channels from the most to the least important, `(C,)`."""
        return np.argsort(-self.importance(stage), kind="stable")

    def _patch(self, case: Case, slicer: tuple[Any, ...]) -> Tensor:
        return case.image[slicer][None].to(self.device)

    def _mask(self, case: Case, slicer: tuple[Any, ...], logits: Tensor, target: Target) -> Tensor:
        """The reference's class in a patch, or the prediction's where there is no reference."""
        if case.labels is None:
            return self.model.predicted(logits, target)
        return self.model.referenced(case.labels[slicer[1:]], target).to(self.device)

    def _add_patch(self, case: Case, number: int, sums: _CaseSums) -> None:
        """Runs one patch; nothing of its size stays."""
        slicer = case.slicers[number]
        logits, maps = self.model.maps(self._patch(case, slicer))
        for target in self.model.targets:
            sums.areas[target].append(int(self._mask(case, slicer, logits, target).sum()))
        for stage in self.model.stages:
            feature = maps[stage]
            self.grids[stage] = tuple(feature.shape[1:])
            sums.moments[stage].add(feature)
            # over its largest possible value it is the mean of a channel over its root mean square
            largest = feature[0, 0].numel() ** 0.5
            sums.importance[stage].append(importance(feature).double().cpu().numpy() / largest)
        for key, value in self._losses(maps, case.name, number).items():
            sums.losses[key].append(value)

    def _losses(self, maps: dict[str, Tensor], case: str, number: int) -> dict[Key, float]:
        """Both losses of each map but the teacher's, and their means over the students as the training takes them."""
        pyramid, teacher = TeacherPyramid(maps[self.model.final]), maps[self.model.final]
        scr, ifd = {}, {}
        for name, feature in maps.items():
            if name != self.model.final:
                generator = stage_draws(case, number, name, self.device)
                drawn = draw_channels(feature.shape[1], teacher.shape[1], generator, self.device)
                scr[name] = float(Consistency(feature, pyramid, *drawn).value)
                ifd[name] = float(Distillation(feature).value)
        values = {Key("scr", name): value for name, value in scr.items()}
        values |= {Key("ifd", name): value for name, value in ifd.items()}
        parts = [[ifd[name] for name in self.model.students if name.startswith(part)] for part in ("enc", "dec")]
        values[Key("scr", STUDENTS)] = float(np.mean([scr[name] for name in self.model.students]))
        values[Key("ifd", STUDENTS)] = float(sum(np.mean(part) for part in parts if part))
        return values

    def _add_channels(self, case: str, stage: str, correlation: Floats, relative: Floats) -> None:
        order = np.argsort(-relative, kind="stable")
        rank = effective_rank(correlation)
        for measure, value in (
            ("redundancy", redundancy(correlation)),
            ("effective_rank", rank),
            ("effective_rank_share", None if rank is None else rank / len(correlation)),
            ("partner_correlation", partner_correlation(correlation, order)),
            ("constant_channels", float(constant_channels(correlation))),
        ):
            self.values[Key(measure, stage)][case] = value
        self._correlation_sums[stage] = self._correlation_sums.get(stage, 0) + np.nan_to_num(correlation)
        self._correlation_cases[stage] = self._correlation_cases.get(stage, 0) + ~np.isnan(correlation)
        self._importance[stage] = self._importance.get(stage, 0) + relative

    def _add_grad_cam(self, case: Case, slicer: tuple[Any, ...], target: Target, show: bool, sums: _CaseSums) -> None:
        patch = self._patch(case, slicer)
        logits = self.model.maps(patch)[0]
        mask = self._mask(case, slicer, logits, target)
        counted = np.ones(mask.shape, bool)
        if case.labels is not None:
            counted = ~self.model.ignored(case.labels[slicer[1:]]).numpy()
        inside = mask.cpu().numpy()
        area = float(inside[counted].mean())
        sums.area_shares[target].append(area)
        heat = {}
        for name, stage in self.model.stages.items():
            heat[name] = grad_cam(self.model.predictor.network, stage, patch, target.head, mask).cpu().numpy()
            sums.shares[target, name].append(in_class_share(heat[name], inside, counted))
        if show:
            prediction = self.model.predicted(logits, target).cpu().numpy()
            found = [...] if inside.ndim == 2 else telling_slices(inside.sum((1, 2)))
            for number, at in enumerate(found):
                self.pictures.append(self._picture(case, target, number, slicer, at, inside, prediction, heat, area))

    def _add_shares(self, case: str, target: Target, sums: _CaseSums) -> None:
        self.values[Key("class_area", INPUT, target.name)][case] = float(np.mean(sums.area_shares[target]))
        for stage in self.model.stages:
            each = sums.shares[target, stage]
            found = [share for share in each if share is not None]
            self.values[Key("in_class_share", stage, target.name)][case] = float(np.mean(found)) if found else None
            self.values[Key("maps_without_mass", stage, target.name)][case] = float(len(each) - len(found))

    def _picture(
        self,
        case: Case,
        target: Target,
        number: int,
        slicer: tuple[Any, ...],
        at: Any,
        mask: NDArray[np.bool_],
        prediction: NDArray[np.bool_],
        heat: dict[str, NDArray[np.float32]],
        area: float,
    ) -> Picture:
        """The patch itself in 2D, in 3D one slice along its first axis."""
        image = case.image[slicer].numpy()
        position, slices = slicer[1] if mask.ndim == 2 else slicer[1].start + at, case.image.shape[1]
        rows, columns = mask.shape[-2:]
        return Picture(
            case.name,
            target.name,
            number,
            f"slice {position + 1} of {slices}" if slices > 1 else "",
            _shown(image if mask.ndim == 2 else image[:, at], is_rgb(self.model)),
            None if case.labels is None else mask[at],
            prediction[at],
            {name: each[at] / each.mean() if each.any() else None for name, each in heat.items()},
            area,
            (rows * case.spacing[-2], columns * case.spacing[-1]),
        )


def telling_slices(areas: NDArray[np.int64]) -> list[int]:
    """The slice that shows most of a class, and those at a third and at two thirds of the slices that show it.

    Args:
        areas: How many voxels each slice shows, at least one of them more than 0.
    """
    showing = np.flatnonzero(areas)
    return sorted({int(areas.argmax()), int(showing[len(showing) // 3]), int(showing[2 * len(showing) // 3])})


def stage_draws(case: str, number: int, stage: str, device: torch.device) -> torch.Generator:
    """SCR's draws at one stage in one patch: others in each patch, the same whatever else a model has."""
    return torch.Generator(device).manual_seed(zlib.crc32(f"{case} {number} {stage}".encode()))


def is_rgb(model: Model) -> bool:
    """Whether the model's images are natural ones with three colours."""
    reader = model.predictor.plans_manager.image_reader_writer_class.__name__
    return reader == "NaturalImage2DIO" and len(model.predictor.dataset_json["channel_names"]) == 3


def _shown(image: NDArray[np.float32], rgb: bool) -> NDArray[np.float32]:
    """The image `(channels, rows, columns)` from 0 to 1: its three colours, or else its first channel in grey."""
    shown = np.moveaxis(image, 0, -1) if rgb else image[0]
    low, high = np.percentile(shown, (0.5, 99.5))
    return np.clip((shown - low) / max(high - low, 1e-6), 0, 1)
