"""nnU-Net's loss plus the two SelfReg terms, and their running means."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_selfreg.anchors import Anchor, Term
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.losses import Consistency, Distillation, TeacherPyramid, draw_channels
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.stages import StageTaps

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
        maps, encoder = [*features.encoder, *features.decoder], len(features.encoder)
        terms = self._terms(maps, features.final)
        students = {name: torch.stack([term.value for term in each]) for name, each in terms.items()}
        means = {name: _mean(name, losses, encoder) for name, losses in students.items()}
        self._count({"loss": loss.detach().abs(), **means}, students)
        for name, mean in means.items():
            loss = loss + self.weights[name] * mean
        # the values have no graph: the maps get their gradients by the anchors
        anchors = features.anchors or [Anchor(feature) for feature in maps]
        for name, each in terms.items():
            for anchor, term, share in zip(anchors, each, _shares(name, len(maps), encoder), strict=True):
                anchor.add(term, self.weights[name] * share)
        return loss + torch.stack([anchor.zero for anchor in anchors]).sum()

    def take_means(self) -> dict[str, float]:
        """Means over the finite training steps since the last call: of the terms, and of the size of nnU-Net's loss.

        Returns:
            Unweighted means by name, the size under `loss`: not a number when no step was finite, none when there was
            no step.
        """
        means = {}
        if self._steps:
            means = dict(zip(self._names, (self._sums / self._finite_steps).tolist(), strict=True))
        self._first_bad, self._steps = {}, 0
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

    def _terms(self, students: list[Tensor], final: Tensor) -> dict[str, list[Term]]:
        """The terms of each student; one of weight 0 is left out."""
        terms: dict[str, list[Term]] = {}
        if "ifd" in self.weights:  # first, since its gradient fills a whole map, and the other adds to some channels
            terms["ifd"] = [Distillation(student) for student in students]
        if "scr" in self.weights:
            teacher = TeacherPyramid(final)
            terms["scr"] = [Consistency(student, teacher, *self._draw(student, final)) for student in students]
            teacher.forget()
        return terms

    def _draw(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        return draw_channels(student.shape[1], teacher.shape[1], self._generator, student.device)

    def _count(self, values: dict[str, Tensor], students: dict[str, Tensor]) -> None:
        """Adds one step to the running sums, on the device, so that a step never waits for the host."""
        step = torch.stack([value.float() for value in values.values()])
        finite = step.isfinite().all()
        if self._steps == 0:
            self._names = list(values)
            self._sums = torch.zeros_like(step)
            self._finite_steps = torch.zeros_like(finite, dtype=torch.int64)
            self._first_bad = {
                name: torch.full_like(losses, -1, dtype=torch.int64) for name, losses in students.items()
            }
        self._finite_steps += finite
        self._sums += torch.where(finite, step, 0.0)
        for name, losses in students.items():
            first_bad = self._first_bad[name]
            first_bad.masked_fill_((first_bad < 0) & ~losses.isfinite(), self._steps)
        self._steps += 1

    def extra_repr(self) -> str:
        return f"{self.settings}, {self.taps}"


# SCR is the mean over all students; IFD is the mean over the encoder's plus the mean over the decoder's


def _mean(name: str, losses: Tensor, encoder: int) -> Tensor:
    groups = [losses] if name == "scr" else [group for group in losses.tensor_split([encoder]) if len(group)]
    return torch.stack([group.mean() for group in groups]).sum()


def _shares(name: str, students: int, encoder: int) -> list[float]:
    """What each student counts in `_mean`."""
    groups = [students] if name == "scr" else [encoder, students - encoder]
    return [1 / size for size in groups for _ in range(size)]
