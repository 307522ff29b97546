"""The two SelfReg losses as plain functions of feature maps.

Zhu et al., SelfReg-UNet: Self-Regularized UNet for Medical Image Segmentation, MICCAI 2024, pp. 601-611,
arXiv 2406.14896. Where the paper is silent the functions compute what the authors' released code computes.

Feature maps have shape `(B, C, *spatial)` with one to three spatial axes of any size, in any floating dtype.
Half-precision maps are read as they are and accumulated in float32; a loss is float32, or float64 for float64 maps.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


def draw_channels(
    student: int, teacher: int, generator: torch.Generator | None = None, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """Draws the channels that semantic consistency compares: as many as both maps have, without replacement.

    Args:
        student: Number of channels of the student map.
        teacher: Number of channels of the teacher map.
        generator: Source of the draw, on `device`; torch's own when left out.
        device: Where the indices are made, so that a step on a GPU never waits for the host.

    Returns:
        Indices into the student's and into the teacher's channels, each int64 of shape `(min(student, teacher),)`,
        drawn independently of each other.
    """
    k = min(student, teacher)
    return (
        torch.randperm(student, generator=generator, device=device)[:k],
        torch.randperm(teacher, generator=generator, device=device)[:k],
    )


def semantic_consistency(
    student: Tensor, teacher: Tensor, student_channels: Tensor, teacher_channels: Tensor
) -> Tensor:
    """Semantic consistency regularisation (SCR) of one student map to the teacher map.

    The mean squared error between the drawn channels of both maps, on one grid: per axis the finer map is brought to
    the size of the coarser one by adaptive average pooling. The teacher gets no gradient.

    Args:
        student: `(B, C_student, *spatial_student)`.
        teacher: `(B, C_teacher, *spatial_teacher)`, the last decoder stage's output, or that on a coarser grid from
            `TeacherPyramid`.
        student_channels: Indices into the student's channels, int64 `(k,)`, from `draw_channels`.
        teacher_channels: Indices into the teacher's channels, int64 `(k,)`.

    Returns:
        The loss, a scalar.
    """
    grid = tuple(map(min, student.shape[2:], teacher.shape[2:]))
    if (
        student.shape[2:] != grid
    ):  # autograd's way through the pooling; with nnU-Net no student is finer than the teacher
        student = _pooled(student.index_select(1, student_channels), grid)
        student_channels = torch.arange(len(student_channels), device=student.device)
    return _Consistency.apply(student, _pooled(teacher.detach(), grid), student_channels, teacher_channels)  # type: ignore[no-untyped-call]


class TeacherPyramid:
    """The teacher map on every grid that students need, each made once, from the smallest grid that allows it.

    Args:
        teacher: `(B, C, *spatial)`; no gradient flows back to it.
    """

    def __init__(self, teacher: Tensor) -> None:
        self._levels = {tuple(teacher.shape[2:]): teacher.detach()}

    def at(self, student: Tensor) -> Tensor:
        """The teacher, `(B, C, *grid)`, on the grid on which it meets this student."""
        finest = next(iter(self._levels))
        grid = tuple(map(min, student.shape[2:], finest))
        if grid not in self._levels:
            # averages of averages are exact where the sizes divide
            sources = [level for level in self._levels if all(n % m == 0 for n, m in zip(level, grid, strict=True))]
            source = min(sources, key=math.prod, default=finest)
            self._levels[grid] = _pooled(self._levels[source], grid)
        return self._levels[grid]


def internal_feature_distillation(feature: Tensor) -> Tensor:
    """Internal feature distillation (IFD) of one map.

    The channels are ranked by importance: each is divided by its L2 norm over the spatial axes, then averaged over
    batch and space. The loss is the mean squared error between the better and the worse half of the ranking, rank i
    against rank i + C/2. Both halves get a gradient, the ranking gets none. Of an odd number of channels the one in
    the middle of the ranking stays out; a map of one channel has no IFD, its loss is 0.

    Args:
        feature: `(B, C, *spatial)`.

    Returns:
        The loss, a scalar.
    """
    if feature.shape[1] < 2:
        return feature[:, :0].sum(dtype=_accumulation_dtype(feature))
    return _Distillation.apply(feature, _importance(feature.detach()).argsort(descending=True, stable=True))  # type: ignore[no-untyped-call]


# Both losses are squared differences between channels of maps that the network keeps for its own backward pass anyway.
# Plain autograd would write, keep and read several copies of them; these keep the maps themselves, and work out the
# gradient, which is the difference once more, in one buffer.


class _Consistency(torch.autograd.Function):
    """Mean squared error between drawn channels of two maps on one grid; a gradient for the first."""

    @staticmethod
    def forward(
        ctx: Any, student: Tensor, teacher: Tensor, student_channels: Tensor, teacher_channels: Tensor
    ) -> Tensor:
        ctx.save_for_backward(student, teacher, student_channels, teacher_channels)
        return _difference(student, student_channels, teacher, teacher_channels).square_().mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        student, teacher, student_channels, teacher_channels = ctx.saved_tensors
        difference = _difference(student, student_channels, teacher, teacher_channels)
        difference *= grad * (2 / difference.numel())
        gradient = torch.zeros_like(student).index_copy_(1, student_channels, difference.to(student.dtype))
        return gradient, None, None, None


class _Distillation(torch.autograd.Function):
    """Mean squared error between the first and the last half of the channels in the order of `ranking`."""

    @staticmethod
    def forward(ctx: Any, feature: Tensor, ranking: Tensor) -> Tensor:
        ctx.save_for_backward(feature, ranking)
        half = len(ranking) // 2
        return _difference(feature, ranking[:half], feature, ranking[-half:]).square_().mean()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        feature, ranking = ctx.saved_tensors
        half = len(ranking) // 2
        # each channel's partner in the other half; the middle of an odd count is its own, which makes its gradient 0
        partners = torch.cat([ranking[-half:], ranking[half:-half], ranking[:half]])
        partner = torch.empty_like(ranking).index_copy_(0, ranking, partners)
        gradient = feature.index_select(1, partner).to(_accumulation_dtype(feature)).sub_(feature)
        gradient *= grad * (-2 * len(ranking) / (feature.numel() * half))
        return gradient.to(feature.dtype), None


def _difference(first: Tensor, first_channels: Tensor, second: Tensor, second_channels: Tensor) -> Tensor:
    """Channels of one map minus channels of another, in a buffer of its own in the accumulation dtype."""
    wide = first.index_select(1, first_channels).to(_accumulation_dtype(first))
    return wide.sub_(second.index_select(1, second_channels))


def _importance(feature: Tensor) -> Tensor:
    """Importance of each channel, shape `(C,)`: the sum over batch and space of the channel over its L2 norm."""
    flat, dtype = feature.flatten(2), _accumulation_dtype(feature)
    norm = torch.linalg.vector_norm(flat, dim=2, dtype=dtype).clamp_min(1e-12)
    return (flat.sum(2, dtype=dtype) / norm).sum(0)


def _pooled(feature: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The map average-pooled to `grid`, in the accumulation dtype, or itself if it has that grid."""
    if feature.shape[2:] == grid:
        return feature
    pool = getattr(functional, f"adaptive_avg_pool{len(grid)}d")
    return pool(feature.to(_accumulation_dtype(feature)), grid)


def _accumulation_dtype(feature: Tensor) -> torch.dtype:
    return torch.promote_types(feature.dtype, torch.float32)
