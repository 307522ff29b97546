"""The registry of regularisation terms: what each is called, how it is weighted, computed, averaged and drawn.

A trainer's attribute `terms` lists those that it adds to nnU-Net's loss. A term of one's own is a function of a student
map and the teacher map, wrapped by `own_term`; examples/own_term shows one.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from nnunetv2_selfreg.anchors import AddGradient, accumulation_dtype
from nnunetv2_selfreg.compat import autograd
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.expectation import add_expected_consistency_gradient, expected_consistencies
from nnunetv2_selfreg.losses import (
    TeacherPyramid,
    add_consistency_gradient,
    add_distillation_gradient,
    consistencies,
    distillations,
    draw_channels,
    on_device,
    pooled,
)

SHARE = "selfreg_share"  # the logged share of all weighted terms in the training loss
RESERVED = ("loss", SHARE)
CHANNELS = ("drawn", "expected")  # what SCR compares: channels that it draws, or its expectation over all draws


class TermLosses(NamedTuple):
    """A term's losses of all students.

    Attributes:
        values: `(students,)`, without a graph.
        gradients: What adds each student's gradient.
    """

    values: Tensor
    gradients: list[AddGradient]


class Step:
    """What the terms of one training step have in common.

    Args:
        teacher: The teacher map, `(B, C, *spatial)`; no gradient flows back to it.
        generator: Source of the terms' random numbers, on the teacher's device.
        compiled: Whether `torch.compile` makes kernels of the functions that `run` calls.
        scr_channels: The setting, one of `CHANNELS`.
        labels: The reference of the finest output as nnU-Net's loss takes it: `(B, 1, *spatial)` of class numbers, the
            ignore label among them, or `(B, regions, *spatial)`, with one more for what is ignored where the data set
            has an ignore label; None outside a training.

    Attributes:
        teacher: The teacher map, detached.
        generator: As given.
        run: Calls the terms' functions.
        scr_channels: As given.
        labels: As given.
    """

    def __init__(
        self,
        teacher: Tensor,
        generator: torch.Generator | None = None,
        compiled: bool = False,
        scr_channels: str = CHANNELS[0],
        labels: Tensor | None = None,
    ) -> None:
        self.teacher = teacher.detach()
        self.generator = generator
        self.run = TermRunner(compiled)
        self.scr_channels = scr_channels
        self.labels = labels


@dataclass(frozen=True)
class TermRunner:
    """Calls functions of tensors; compiled, each becomes a few kernels, and must not read a tensor's value.

    Attributes:
        compiled: Whether `torch.compile` makes the kernels.
    """

    compiled: bool

    def __call__(self, function: Callable[..., Any], *arguments: Any, any_shape: bool = False, **named: Any) -> Any:
        """What the function gives.

        Args:
            function: The function.
            *arguments: As the function takes them.
            any_shape: Whether what is compiled once serves maps of every shape, instead of one compilation each.
            **named: As the function takes them.
        """
        return (_compiled(function, any_shape) if self.compiled else function)(*arguments, **named)


@cache
def _compiled(function: Callable[..., Any], any_shape: bool) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=any_shape)


@dataclass(frozen=True)
class Term:
    """One regularisation term.

    Attributes:
        name: In logs and checkpoints; its weight is the plans key `lambda_NAME`.
        title: In plots.
        compute: Works out the losses of all student maps, `(B, C, *spatial)` each.
        weight: The default weight.
        average: `all`: the mean over all students. `parts`: the mean over the encoder's students plus the mean over
            the decoder's.
        reads_labels: Whether it needs the reference, which `inspect` does not give it.
        reads_teacher: Whether a value that is not finite may be the teacher's fault.
    """

    name: str
    title: str
    compute: Callable[[Sequence[Tensor], Step], TermLosses]
    weight: float = 0.015
    average: Literal["all", "parts"] = "all"
    reads_labels: bool = False
    reads_teacher: bool = True

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

    def student_weights(self, encoder: int, decoder: int) -> list[float]:
        """How much each student counts in the term's value: the encoder's, and then the decoder's.

        Args:
            encoder: Number of the encoder's students.
            decoder: Number of the decoder's students.
        """
        groups = [encoder + decoder] if self.average == "all" else [encoder, decoder]
        return [1 / size for size in groups for _ in range(size)]


def own_term(
    name: str,
    loss: Callable[..., Tensor],
    weight: float,
    average: Literal["all", "parts"] = "all",
    title: str | None = None,
    reads_labels: bool = False,
) -> Term:
    """A term made of a plain function; autograd works out its gradient.

    Args:
        name: In logs and checkpoints; its weight is the plans key `lambda_NAME`.
        loss: `loss(student, teacher)` gives a scalar. Both maps are `(B, C, *spatial)` in float32 (float64 for float64
            maps), with channels and grids of their own, the teacher without gradient. It must not write into what it is
            given. It is called twice in a training step, for the value and for the gradient, and must give the same
            both times.
        weight: The default weight.
        average: As `Term.average`.
        title: In plots; the name when left out.
        reads_labels: `loss(student, teacher, labels)` instead, with the reference as `Step.labels`.
    """

    def evaluate(student: Tensor, others: Sequence[Tensor]) -> Tensor:
        dtype, (teacher, *labels) = accumulation_dtype(student), others
        maps = student.to(dtype), teacher.to(dtype)
        versions = [part._version for part in maps]
        with torch.autocast(student.device.type, enabled=False):
            value = loss(*maps, *labels)
        if [part._version for part in maps] != versions:
            raise SelfRegError(f"SelfReg: the term {name!r} writes into a map that it is given; work on a copy (clone)")
        return value

    def add_gradient(
        gradient: Tensor, feature: Tensor, factor: Tensor, in_place: bool, others: Sequence[Tensor]
    ) -> Tensor:
        with autograd():
            student = feature.detach().to(accumulation_dtype(feature)).requires_grad_()
            value = evaluate(student, others)
            if not value.requires_grad:  # a constant, such as 0 for a map that the loss has no use for
                return gradient if in_place else gradient.clone()
            (own,) = torch.autograd.grad(value, student, materialize_grads=True)
        return gradient.addcmul_(own, factor) if in_place else torch.addcmul(gradient, own, factor)

    def compute(students: Sequence[Tensor], step: Step) -> TermLosses:
        others = [step.teacher]
        if reads_labels:
            if step.labels is None:
                raise SelfRegError(f"SelfReg: the term {name!r} reads labels, and there are none outside a training")
            others.append(step.labels)
        with torch.no_grad():
            values = [evaluate(student, others) for student in students]
        for value in values:
            if not isinstance(value, Tensor) or value.ndim:
                raise SelfRegError(f"SelfReg: the term {name!r} must give a scalar tensor, got {value!r:.80}")
        return TermLosses(torch.stack(values), [partial(add_gradient, others=others)] * len(students))

    return Term(name, title or name, compute, weight, average, reads_labels)


def _consistency(students: Sequence[Tensor], step: Step) -> TermLosses:
    return (_expected_consistency if step.scr_channels == "expected" else _drawn_consistency)(students, step)


def _expected_consistency(students: Sequence[Tensor], step: Step) -> TermLosses:
    # one channel a grid is kept for the backward pass, which needs no more of the teacher
    values, means = step.run(expected_consistencies, students, step.teacher)
    add_gradient = partial(step.run, add_expected_consistency_gradient, any_shape=True)
    return TermLosses(values, [partial(add_gradient, mean=mean) for mean in means])


def _drawn_consistency(students: Sequence[Tensor], step: Step) -> TermLosses:
    sizes = [student.shape[1] for student in students]
    channels = draw_channels(sizes, step.teacher.shape[1], step.generator, step.teacher.device)
    run = step.run
    # the coarser grids are made again in the backward pass: kept from here on, they would add to the peak of memory,
    # while the network keeps the teacher itself beyond that
    pyramid = TeacherPyramid(step.teacher, partial(run, pooled, any_shape=True))

    def add_gradient(
        gradient: Tensor, feature: Tensor, factor: Tensor, in_place: bool, channels: tuple[Tensor, Tensor]
    ) -> Tensor:
        arguments = gradient, feature, factor, in_place, pyramid.at(feature), channels
        found: Tensor = run(add_consistency_gradient, *arguments, any_shape=True)
        return found

    values = run(consistencies, students, step.teacher, channels)
    return TermLosses(values, [partial(add_gradient, channels=drawn) for drawn in channels])


def _distillation(students: Sequence[Tensor], step: Step) -> TermLosses:
    sizes = on_device([student.shape[1] for student in students], step.teacher.device)
    values, partners = step.run(distillations, students, sizes)
    add_gradient = partial(step.run, add_distillation_gradient, any_shape=True)
    return TermLosses(values, [partial(add_gradient, partner=partner) for partner in partners])


SCR = Term("scr", "SCR", _consistency)
IFD = Term("ifd", "IFD", _distillation, average="parts", reads_teacher=False)
BUILT_IN: Sequence[Term] = (SCR, IFD)
