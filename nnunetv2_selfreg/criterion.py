"""nnU-Net's loss plus the two SelfReg terms, and their running means."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.losses import TeacherPyramid, draw_channels, internal_feature_distillation, semantic_consistency
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.stages import StageFeatures, StageTaps

TERMS = ("scr", "ifd")


class NonFinite(NamedTuple):
    """Feature maps that turned NaN or infinite.

    Attributes:
        stages: Where it began; SCR alone cannot always tell a student from the teacher, and then names both.
        iteration: The training step, counted from 0.
        every_step: Whether no step at all was finite.
    """

    stages: list[str]
    iteration: int
    every_step: bool


class SelfRegCriterion(nn.Module):
    """The training loss: `loss + lambda_scr * SCR + lambda_ifd * IFD`.

    Outside training the taps are empty and the value is nnU-Net's own loss. A term of weight 0 is not computed.

    Args:
        loss: nnU-Net's own loss, deep supervision included.
        taps: The taps on the network that makes `output`.
        settings: The weights.
        device: Where the features lie; channels are drawn there, by a generator of the criterion's own.
        seed: Seeds that generator, once: every process of a multi-GPU training draws the same channels.
    """

    def __init__(
        self, loss: nn.Module, taps: StageTaps, settings: SelfRegSettings, device: torch.device, seed: int = 0
    ) -> None:
        super().__init__()
        self.loss = loss
        self.taps = taps
        self.settings = settings
        self.weights = {name: weight for name in TERMS if (weight := getattr(settings, f"lambda_{name}")) > 0}
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._steps = 0
        self._sums: dict[str, Tensor] = {}
        self._first_bad: dict[str, Tensor] = {}

    def forward(self, output: Tensor | list[Tensor], target: Tensor | list[Tensor]) -> Tensor:
        """nnU-Net's loss of `output` and `target`, plus the weighted terms of the features in the taps.

        Args:
            output: The network's output, as nnU-Net's loss takes it.
            target: The reference, as nnU-Net's loss takes it.

        Returns:
            The loss, a scalar.

        Raises:
            SelfRegError: A training step whose forward pass filled no tap.
        """
        loss: Tensor = self.loss(output, target)
        features = self.taps.take()
        if features is None:
            if loss.requires_grad:
                raise SelfRegError("SelfReg: no feature map reached the loss in a training step; train without SelfReg")
            return loss
        students = self.student_losses(features)
        terms = {name: _term(name, values, len(features.encoder)) for name, values in students.items()}
        self._count({"loss": loss.abs(), **terms}, students)
        for name, term in terms.items():
            loss = loss + self.weights[name] * term
        return loss

    def student_losses(self, features: StageFeatures) -> dict[str, Tensor]:
        """SCR and IFD of each student, unweighted; a term of weight 0 is left out.

        Returns:
            One tensor `(students,)` for each of `scr` and `ifd`: the encoder's students, then the decoder's.
        """
        students = features.encoder + features.decoder
        losses = {}
        if "scr" in self.weights:
            teacher = TeacherPyramid(features.final)
            losses["scr"] = torch.stack([self._consistency(student, teacher.at(student)) for student in students])
        if "ifd" in self.weights:
            losses["ifd"] = torch.stack([internal_feature_distillation(student) for student in students])
        return losses

    def take_means(self) -> dict[str, float]:
        """Means over the finite training steps since the last call: of the terms, and of the size of nnU-Net's loss.

        Returns:
            Unweighted means by name, the size under `loss`: not a number when no step was finite, none when there was
            no step.
        """
        means = {name: (total / self._finite_steps).item() for name, total in self._sums.items()}
        self._sums, self._first_bad, self._steps = {}, {}, 0
        return means

    def non_finite(self) -> NonFinite | None:
        """Where feature maps were first not finite since the last `take_means`; None when they all were."""
        names = [*self.taps.encoder, *self.taps.decoder]
        seen = {}
        for term, first_bad in self._first_bad.items():
            steps = first_bad.tolist()
            if any(step >= 0 for step in steps):
                first = min(step for step in steps if step >= 0)
                seen[term] = first, [name for name, step in zip(names, steps, strict=True) if step == first]
        if not seen:
            return None
        if "ifd" in seen and seen["ifd"][0] <= seen.get("scr", seen["ifd"])[0]:
            iteration, stages = seen["ifd"]
            stages = stages[:1]  # those after it in the forward pass only pass it on
        else:
            iteration, stages = seen["scr"]
            if "ifd" in self.weights:  # which reads each student: they were finite, so the teacher was not
                stages = list(self.taps.final)
            elif stages == names:  # the first student, or the teacher that all are compared with
                stages = [*stages[:1], *self.taps.final]
        return NonFinite(stages, iteration, every_step=int(self._finite_steps) == 0)

    def _consistency(self, student: Tensor, teacher: Tensor) -> Tensor:
        channels = draw_channels(student.shape[1], teacher.shape[1], self._generator, student.device)
        return semantic_consistency(student, teacher, *channels)

    def _count(self, values: dict[str, Tensor], students: dict[str, Tensor]) -> None:
        """Adds one step to the running sums, on the device, so that a step never waits for the host."""
        values = {name: value.detach().float() for name, value in values.items()}
        finite = torch.stack(list(values.values())).isfinite().all()
        if self._steps == 0:
            self._finite_steps = torch.zeros_like(finite, dtype=torch.int64)
            self._sums = {name: torch.zeros_like(value) for name, value in values.items()}
            self._first_bad = {
                name: torch.full_like(losses, -1, dtype=torch.int64) for name, losses in students.items()
            }
        self._finite_steps += finite
        for name, value in values.items():
            self._sums[name] += torch.where(finite, value, 0.0)
        for name, losses in students.items():
            unseen = self._first_bad[name] < 0
            self._first_bad[name].masked_fill_(unseen & ~losses.detach().isfinite(), self._steps)
        self._steps += 1

    def extra_repr(self) -> str:
        return f"{self.settings}, {self.taps}"


def _term(name: str, losses: Tensor, encoder_students: int) -> Tensor:
    """SCR is the mean over all students; IFD is the mean over the encoder's plus the mean over the decoder's."""
    if name == "scr":
        return losses.mean()
    groups = losses.tensor_split([encoder_students])
    return torch.stack([group.mean() for group in groups if len(group)]).sum()
