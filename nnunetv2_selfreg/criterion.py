"""nnU-Net's loss plus the weighted regularisation terms, and their running means."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_selfreg.anchors import weighted
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import NO_MAP, StageFeatures, StageTaps
from nnunetv2_selfreg.terms import BUILT_IN, Step, Term


class NonFinite(NamedTuple):
    """What turned NaN or infinite.

    Attributes:
        stages: The first maps that were not finite; if it may be the student or the teacher, both. Of a term, the first
            at which it was not; of the loss, none.
        iteration: The training step, counted from 0.
        every_step: Whether none of several steps was finite.
        what: `feature maps`; the term of somebody's own that was not finite although they may have been; or `the loss`.
    """

    stages: list[str]
    iteration: int
    every_step: bool
    what: str = "feature maps"


class _Added(NamedTuple):
    """What a step adds to nnU-Net's loss.

    Attributes:
        total: The weighted sum, a scalar.
        means: The terms' values, `(terms,)`.
        values: Of all students, `(terms, students)`.
    """

    total: Tensor
    means: Tensor
    values: Tensor


class SelfRegCriterion(nn.Module):
    """The training loss: nnU-Net's plus the sum of the terms, each times its weight.

    Outside training the taps are empty and the value is nnU-Net's own loss. A term of weight 0 is not computed. What a
    trainer asks of its loss, or sets there, it asks of nnU-Net's (`trainer.loss.loss.weight_ce = 0`).

    Args:
        loss: nnU-Net's own loss, deep supervision included.
        taps: The taps on the network that makes `output`.
        settings: The weights.
        device: Where the features lie; channels are drawn there, by a generator of the criterion's own.
        terms: The terms.
        seed: Seeds that generator, once: every process of a multi-GPU training draws the same channels.
        compiled: Whether `torch.compile` makes kernels of the built-in terms.

    Attributes:
        stock: nnU-Net's own loss.
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
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.taps = taps
        self.settings = settings
        self.terms = [term for term in terms if settings.weights[term.name] > 0]
        self.weights = {term.name: settings.weights[term.name] for term in self.terms}
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._compiled = compiled
        self._calls = self._steps = 0
        self._begun = 0  # the calls before the first training step of the epoch
        self._factors: tuple[Any, Tensor, Tensor] | None = None
        self.stock = loss  # last: from here on names that it has, and the criterion has not, are its own

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "stock" not in self.__dict__.get("_modules", {}):  # not built, or not yet unpickled
                raise
        return getattr(self.stock, name)

    def __setattr__(self, name: str, value: Any) -> None:
        modules = self.__dict__.get("_modules", {})
        own = name in self.__dict__ or name in modules or hasattr(type(self), name)
        if not own and hasattr(modules.get("stock"), name):
            setattr(self.stock, name, value)
        elif name == "loss" and "stock" in modules:  # which there is under deep supervision
            raise SelfRegError(
                f"SelfReg: nnU-Net's loss, a {type(self.stock).__name__}, has no {name} that could be replaced; "
                "replace self.loss.stock, all of it"
            )
        else:
            super().__setattr__(name, value)

    def forward(
        self, output: Tensor | list[Tensor], target: Tensor | list[Tensor], *others: Any, **named: Any
    ) -> Tensor:
        """nnU-Net's loss of `output` and `target`, plus the weighted terms of the features in the taps.

        Args:
            output: The network's output, as nnU-Net's loss takes it.
            target: The reference, as nnU-Net's loss takes it.
            *others: What else that loss takes.
            **named: The same, by name.

        Returns:
            The loss, a scalar.

        Raises:
            SelfRegError: A training step whose forward pass did not fill each tap once.
        """
        features = self.taps.take()
        added = None
        if features is not None and self.terms:
            self._calls += 1
            if (self._calls - 1) % self.settings.every == 0:
                # before nnU-Net's loss, which keeps maps of its own from then on
                added = self._evaluate(features, target)
        loss: Tensor = self.stock(output, target, *others, **named)
        if features is None and loss.requires_grad:
            raise SelfRegError(
                f"SelfReg: no feature map reached the loss in a training step ({NO_MAP}, or this is a second loss of "
                "one forward pass); train without SelfReg"
            )
        if added is None:
            return loss
        self._count(loss.detach().abs(), added)
        return loss + added.total

    def _evaluate(self, features: StageFeatures, target: Tensor | list[Tensor]) -> "_Added":
        students = [*features.encoder, *features.decoder]
        labels = target[0] if isinstance(target, list) else target  # under deep supervision the finest comes first
        step = Step(features.teacher, self._generator, self._compiled, self.settings.scr_channels, labels)
        with torch.autocast(features.teacher.device.type, enabled=False):
            losses = [term.compute(students, step) for term in self.terms]
            values = torch.stack([of_term.values for of_term in losses])
            shares, weights = self._shares_and_weights(len(features.encoder), len(features.decoder), values)
            gradients = [of_term.gradients for of_term in losses]
            total = weighted(values, weights, gradients, features.anchors, features.links)
        return _Added(total, (values * shares).sum(1), values)

    def take_means(self) -> dict[str, float]:
        """Means over the finite training steps since the last call: of the terms, and of the size of nnU-Net's loss.

        Returns:
            Unweighted means by name, the size under `loss`: not a number when no step was finite, none when there was
            no step.
        """
        means = {}
        if self._steps:
            names = ["loss", *(term.name for term in self.terms)]
            means = dict(zip(names, (self._sums / self._finite_steps).tolist(), strict=True))
        self._steps, self._begun = 0, self._calls
        return means

    def non_finite(self) -> NonFinite | None:
        """Where feature maps or a term were first not finite since the last `take_means`; None when they all were."""
        stages = self.taps.stages
        names, teacher = [*stages.encoder, *stages.decoder], list(stages.teacher)
        first_bad = self._first_bad.tolist() if self._steps else []
        bad_steps = {term.name: steps for term, steps in zip(self.terms, first_bad, strict=False)}
        iteration = min((step for steps in bad_steps.values() for step in steps if step >= 0), default=None)
        if iteration is None:
            return None
        every_step = self._steps > 1 and int(self._finite_steps) == 0
        found = {
            name: [stage for stage, step in zip(names, steps, strict=True) if step == iteration]
            for name, steps in bad_steps.items()
        }
        bad = [term for term in self.terms if found[term.name]]
        if not any(term in BUILT_IN for term in bad):  # those are finite on finite maps
            what = f"the term {bad[0].name}"
            if not any(term in BUILT_IN and term.reads_teacher for term in self.terms):
                what = f"feature maps or {what}"
            return NonFinite(found[bad[0].name][:1], iteration, every_step, what)
        alone = [found[term.name] for term in self.terms if not term.reads_teacher]
        if any(alone):  # the first of them in the forward pass: those after it only pass it on
            first = min((stage for each in alone for stage in each), key=names.index)
            return NonFinite([first], iteration, every_step)
        if alone:  # the students were finite, so the teacher was not
            return NonFinite(teacher, iteration, every_step)
        seen = next(each for each in found.values() if each)
        # all of them: the first student, or the teacher that all are compared with
        return NonFinite([*seen[:1], *teacher] if seen == names else seen, iteration, every_step)

    def _shares_and_weights(self, encoder: int, decoder: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """How much each student counts in its term's value, and in the training loss: `(terms, students)` each."""
        weights = [self.weights[term.name] * self.settings.every for term in self.terms]
        key = (weights, like.dtype)
        if self._factors is None or self._factors[0] != key:  # made on the host: once, not in every step
            shares = torch.tensor([term.student_weights(encoder, decoder) for term in self.terms], dtype=like.dtype)
            whole = shares * torch.tensor(weights, dtype=like.dtype)[:, None]
            self._factors = key, shares.to(like.device), whole.to(like.device)
        return self._factors[1:]

    def _count(self, size: Tensor, added: _Added) -> None:
        """Adds one step, and the size of its nnU-Net loss, to the running sums; a step never waits for the host."""
        step = torch.cat([size[None].float(), added.means.float()])
        finite = step.isfinite().all()
        if self._steps == 0:
            self._sums = torch.zeros_like(step)
            self._finite_steps = torch.zeros_like(finite, dtype=torch.int64)
            self._first_bad = torch.full_like(added.values, -1, dtype=torch.int64)
        self._finite_steps += finite
        self._sums += torch.where(finite, step, 0.0)
        iteration = self._calls - 1 - self._begun
        self._first_bad.masked_fill_((self._first_bad < 0) & ~added.values.isfinite(), iteration)
        self._steps += 1
