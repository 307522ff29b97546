"""The registry of regularisation terms: what each is called, how it is weighted, computed, averaged and drawn.

A trainer's attribute `terms` lists those that it adds to nnU-Net's loss. A term of one's own is a function of a student
map and the teacher map, wrapped by `own_term`; examples/own_term shows one.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from nnunetv2_selfreg.anchors import StageLoss, accumulation_dtype
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.losses import Consistency, Distillation, TeacherPyramid, draw_channels

SHARE = "selfreg_share"  # the logged share of all weighted terms in the training loss
RESERVED = ("loss", SHARE)


class Step:
    """What the terms of one training step have in common.

    Args:
        teacher: The teacher map, `(B, C, *spatial)`; no gradient flows back to it.
        generator: Source of the terms' random numbers, on the teacher's device.

    Attributes:
        teacher: The teacher map, detached.
        pyramid: The teacher on the coarser grids of the students.
        generator: As given.
    """

    def __init__(self, teacher: Tensor, generator: torch.Generator | None = None) -> None:
        self.teacher = teacher.detach()
        self.pyramid = TeacherPyramid(self.teacher)
        self.generator = generator


@dataclass(frozen=True)
class Term:
    """One regularisation term.

    Attributes:
        name: In logs and checkpoints; its weight is the plans key `lambda_NAME`.
        title: In plots.
        compute: Works out the loss of one student map `(B, C, *spatial)`.
        weight: The default weight.
        average: `all`: the mean over all students. `parts`: the mean over the encoder's students plus the mean over
            the decoder's.
        reads_teacher: Whether a value that is not finite may be the teacher's fault.
        colour: Of its curve.
    """

    name: str
    title: str
    compute: Callable[[Tensor, Step], StageLoss]
    weight: float = 0.015
    average: Literal["all", "parts"] = "all"
    reads_teacher: bool = True
    colour: str = "#CC79A7"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name) or self.name in RESERVED:
            raise SelfRegError(
                f"SelfReg: a term cannot be called {self.name!r}; use small letters, digits and '_', and none of "
                f"{', '.join(RESERVED)}"
            )

    @property
    def setting(self) -> str:
        """The plans key of its weight."""
        return f"lambda_{self.name}"

    def mean(self, values: Tensor, encoder: int) -> Tensor:
        """The term's value.

        Args:
            values: Of all students, the encoder's first, `(students,)`.
            encoder: Number of the encoder's students.
        """
        groups = [values] if self.average == "all" else [part for part in values.tensor_split([encoder]) if len(part)]
        return torch.stack([group.mean() for group in groups]).sum()

    def student_weights(self, encoder: int, decoder: int) -> list[float]:
        """How much each student counts in `mean`: the encoder's, and then the decoder's.

        Args:
            encoder: Number of the encoder's students.
            decoder: Number of the decoder's students.
        """
        groups = [encoder + decoder] if self.average == "all" else [encoder, decoder]
        return [1 / size for size in groups for _ in range(size)]


def own_term(
    name: str,
    loss: Callable[[Tensor, Tensor], Tensor],
    weight: float,
    average: Literal["all", "parts"] = "all",
    title: str | None = None,
) -> Term:
    """A term made of a plain function; autograd works out its gradient.

    Args:
        name: In logs and checkpoints; its weight is the plans key `lambda_NAME`.
        loss: `loss(student, teacher)` gives a scalar. Both maps are `(B, C, *spatial)` in float32 (float64 for float64
            maps), with channels and grids of their own, the teacher without gradient. It is called twice in a training
            step, for the value and for the gradient, and must give the same both times.
        weight: The default weight.
        average: As `Term.average`.
        title: In plots; the name when left out.
    """

    def compute(student: Tensor, step: Step) -> StageLoss:
        return _Differentiated(name, loss, student, step.teacher)

    return Term(name, title or name, compute, weight, average)


class _Differentiated:
    """A plain function's loss of one student map, as `StageLoss`."""

    def __init__(self, name: str, loss: Callable[[Tensor, Tensor], Tensor], student: Tensor, teacher: Tensor) -> None:
        self._loss, self._teacher = loss, teacher
        with torch.no_grad():
            self.value = self._evaluate(student)
        if not isinstance(self.value, Tensor) or self.value.ndim:
            raise SelfRegError(f"SelfReg: the term {name!r} must give a scalar tensor, got {self.value!r:.80}")

    def gradient(self, feature: Tensor, weight: float, grad: Tensor, buffer: Tensor | None) -> Tensor:
        """As `StageLoss.gradient`."""
        with torch.enable_grad():
            student = feature.detach().to(accumulation_dtype(feature)).requires_grad_()
            (gradient,) = torch.autograd.grad(self._evaluate(student), student)
        gradient = gradient * (weight * grad)
        return gradient if buffer is None else buffer.add_(gradient)

    def _evaluate(self, student: Tensor) -> Tensor:
        dtype = accumulation_dtype(student)
        with torch.autocast(student.device.type, enabled=False):
            return self._loss(student.to(dtype), self._teacher.to(dtype))


def _consistency(student: Tensor, step: Step) -> StageLoss:
    drawn = draw_channels(student.shape[1], step.teacher.shape[1], step.generator, student.device)
    return Consistency(student, step.pyramid, *drawn)


def _distillation(student: Tensor, step: Step) -> StageLoss:
    return Distillation(student)


SCR = Term("scr", "SCR", _consistency, colour="#0072B2")
IFD = Term("ifd", "IFD", _distillation, average="parts", reads_teacher=False, colour="#D55E00")
BUILT_IN: Sequence[Term] = (SCR, IFD)
