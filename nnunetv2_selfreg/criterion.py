"""nnU-Net's loss plus the weighted regularisation terms, and their running means."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import StageTaps
from nnunetv2_selfreg.terms import BUILT_IN, Step, Term


class NonFinite(NamedTuple):
    """Feature maps that turned NaN or infinite.

    Attributes:
        stages: The first maps that were not finite; if it may be the student or the teacher, both.
        iteration: The training step, counted from 0.
        every_step: Whether no step at all was finite.
    """

    stages: list[str]
    iteration: int
    every_step: bool


class SelfRegCriterion(nn.Module):
    """The training loss: nnU-Net's plus the sum of the terms, each times its weight.

    Outside training the taps are empty and the value is nnU-Net's own loss. A term of weight 0 is not computed.

    Args:
        loss: nnU-Net's own loss, deep supervision included.
        taps: The taps on the network that makes `output`.
        settings: The weights.
        device: Where the features lie; channels are drawn there, by a generator of the criterion's own.
        terms: The terms.
        seed: Seeds that generator, once: every process of a multi-GPU training draws the same channels.

    Attributes:
        settings: As given.
        weights: The weights of the terms that are computed, by name. A subclass of a trainer may change them between
            epochs.
    """

    def __init__(
        self,
        loss: nn.Module,
        taps: StageTaps,
        settings: SelfRegSettings,
        device: torch.device,
        terms: Sequence[Term] = BUILT_IN,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.loss = loss
        self.taps = taps
        self.settings = settings
        self.terms = [term for term in terms if settings.weights[term.name] > 0]
        self.weights = {term.name: settings.weights[term.name] for term in self.terms}
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
            SelfRegError: A training step whose forward pass did not fill each tap once.
        """
        loss: Tensor = self.loss(output, target)
        features = self.taps.take()
        if features is None:
            if loss.requires_grad:
                raise SelfRegError("SelfReg: no feature map reached the loss in a training step; train without SelfReg")
            return loss
        students = [*features.encoder, *features.decoder]
        step = Step(features.teacher, self._generator)
        means, values = {}, {}
        # in reverse, since IFD's gradient fills a whole map, to which SCR's adds in some channels
        for term in reversed(self.terms):
            stage_losses = [term.compute(student, step) for student in students]
            values[term.name] = torch.stack([each.value for each in stage_losses])
            means[term.name] = term.mean(values[term.name], len(features.encoder))
            shares = term.student_weights(len(features.encoder), len(features.decoder))
            for anchor, stage_loss, share in zip(features.anchors, stage_losses, shares, strict=True):
                anchor.add(stage_loss, self.weights[term.name] * share)
        step.pyramid.forget()
        self._count({"loss": loss.detach().abs(), **means}, values)
        # the values have no graph: the maps get their gradients by the anchors
        for name, mean in means.items():
            loss = loss + self.weights[name] * mean
        return loss + torch.stack([anchor.zero for anchor in features.anchors]).sum()

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
        stages = self.taps.stages
        names, teacher = [*stages.encoder, *stages.decoder], list(stages.teacher)
        bad_steps = {term.name: self._first_bad[term.name].tolist() for term in self.terms if self._first_bad}
        iteration = min((step for steps in bad_steps.values() for step in steps if step >= 0), default=None)
        if iteration is None:
            return None
        every_step = int(self._finite_steps) == 0
        found = {
            name: [stage for stage, step in zip(names, steps, strict=True) if step == iteration]
            for name, steps in bad_steps.items()
        }
        alone = [found[term.name] for term in self.terms if not term.reads_teacher]
        if any(alone):  # the first of them in the forward pass: those after it only pass it on
            first = min((stage for each in alone for stage in each), key=names.index)
            return NonFinite([first], iteration, every_step)
        if alone:  # the students were finite, so the teacher was not
            return NonFinite(teacher, iteration, every_step)
        seen = next(each for each in found.values() if each)
        # all of them: the first student, or the teacher that all are compared with
        return NonFinite([*seen[:1], *teacher] if seen == names else seen, iteration, every_step)

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
