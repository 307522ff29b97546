"""The two SelfReg losses as plain functions of feature maps.

Zhu et al., SelfReg-UNet: Self-Regularized UNet for Medical Image Segmentation, MICCAI 2024, pp. 601-611,
arXiv 2406.14896. Where the paper is silent the functions compute what the authors' released code computes.

Feature maps have shape `(B, C, *spatial)` with one to three spatial axes of any size, in any floating dtype.
Half-precision maps are read as they are and accumulated in float32; a loss is float32, or float64 for float64 maps.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from nnunetv2_selfreg.anchors import Anchor, StageLoss, accumulation_dtype


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
        teacher: `(B, C_teacher, *spatial_teacher)`, the last decoder stage's output.
        student_channels: Indices into the student's channels, int64 `(k,)`, from `draw_channels`.
        teacher_channels: Indices into the teacher's channels, int64 `(k,)`.

    Returns:
        The loss, a scalar.
    """
    return _loss(student, Consistency(student, TeacherPyramid(teacher), student_channels, teacher_channels))


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
    return _loss(feature, Distillation(feature))


def _loss(feature: Tensor, term: StageLoss) -> Tensor:
    anchor = Anchor(feature)
    anchor.add(term, 1.0)
    return anchor.zero + term.value


# Both losses are squared differences between channels of maps that the network keeps for its own backward pass anyway.
# Plain autograd would write, keep and read several copies of them. The terms below keep indices, and work out the
# difference once more when the gradient is wanted: the gradient is that difference, in one buffer for both losses.


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

    def forget(self) -> None:
        """Lets the coarser grids go: each is made again when it is asked for."""
        finest, teacher = next(iter(self._levels.items()))
        self._levels = {finest: teacher}


class Consistency:
    """SCR of one student map.

    Args:
        student: `(B, C_student, *spatial_student)`; not kept.
        pyramid: The teacher.
        student_channels: Indices into the student's channels, int64 `(k,)`.
        teacher_channels: Indices into the teacher's channels, int64 `(k,)`.

    Attributes:
        value: The loss, a scalar without a graph.
    """

    def __init__(
        self, student: Tensor, pyramid: TeacherPyramid, student_channels: Tensor, teacher_channels: Tensor
    ) -> None:
        self._pyramid, self._student_channels, self._teacher_channels = pyramid, student_channels, teacher_channels
        self.value = _mean_square(self._difference(student.detach()))

    def gradient(self, feature: Tensor, weight: float, grad: Tensor, buffer: Tensor | None) -> Tensor:
        """As `StageLoss.gradient`."""
        difference = self._difference(feature)
        difference *= grad * (2 * weight / difference.numel())
        if buffer is None:
            buffer = torch.zeros_like(feature, dtype=difference.dtype)
        return buffer.index_add_(1, self._student_channels, _unpooled(difference, feature.shape[2:]))

    def _difference(self, student: Tensor) -> Tensor:
        """The student's drawn channels minus the teacher's, on their common grid, in a buffer of its own."""
        teacher = self._pyramid.at(student)
        drawn = student.index_select(1, self._student_channels).to(accumulation_dtype(student))
        return _pooled(drawn, teacher.shape[2:]).sub_(teacher.index_select(1, self._teacher_channels))


class Distillation:
    """IFD of one map.

    Args:
        feature: `(B, C, *spatial)`; not kept.

    Attributes:
        value: The loss, a scalar without a graph.
    """

    def __init__(self, feature: Tensor) -> None:
        feature = feature.detach()
        self._half = feature.shape[1] // 2
        self._ranking = importance(feature).argsort(descending=True, stable=True)
        better, _, worse = self._parts()
        difference = feature.index_select(1, better).to(accumulation_dtype(feature))
        self.value = _mean_square(difference.sub_(feature.index_select(1, worse)))

    def gradient(self, feature: Tensor, weight: float, grad: Tensor, buffer: Tensor | None) -> Tensor:
        """As `StageLoss.gradient`."""
        better, middle, worse = self._parts()
        # each channel's partner in the other half; the middle of an odd count is its own, which makes its gradient 0
        partner = torch.empty_like(self._ranking)
        partner[self._ranking] = torch.cat([worse, middle, better])
        gradient = feature.index_select(1, partner).to(accumulation_dtype(feature)).sub_(feature)
        gradient *= grad * (-2 * weight / max(feature[:, 0].numel() * self._half, 1))
        return gradient if buffer is None else buffer.add_(gradient)

    def _parts(self) -> tuple[Tensor, ...]:
        channels = len(self._ranking)
        return torch.split(self._ranking, [self._half, channels - 2 * self._half, self._half])


def _mean_square(difference: Tensor) -> Tensor:
    # sums per channel first: a single sum in float32 over millions of voxels would lose digits
    return torch.linalg.vector_norm(difference.flatten(2), dim=2).square_().sum() / max(difference.numel(), 1)


def importance(feature: Tensor) -> Tensor:
    """Importance of each channel, shape `(C,)`: the sum over batch and space of the channel over its L2 norm."""
    flat, dtype = feature.flatten(2), accumulation_dtype(feature)
    norm = torch.linalg.vector_norm(flat, dim=2, dtype=dtype).clamp_min_(1e-12)
    return (flat.sum(2, dtype=dtype) / norm).sum(0)


def _pooled(feature: Tensor, grid: Sequence[int]) -> Tensor:
    """The map average-pooled to `grid`, in the accumulation dtype, or itself if it has that grid."""
    sizes, grid = feature.shape[2:], tuple(grid)
    if sizes == grid:
        return feature
    feature = feature.to(accumulation_dtype(feature))
    if any(n not in (m, 2 * m) for n, m in zip(sizes, grid, strict=True)):
        return getattr(functional, f"adaptive_avg_pool{len(grid)}d")(feature, grid)
    for axis, (n, m) in enumerate(zip(sizes, grid, strict=True), start=2):
        if n == 2 * m:  # nnU-Net's usual stride; sums of neighbours are several times faster than torch's pooling
            first, second = torch.unflatten(feature, axis, (m, 2)).unbind(axis + 1)
            feature = (first + second).mul_(0.5)
    return feature


def _unpooled(gradient: Tensor, grid: Sequence[int]) -> Tensor:
    """The gradient of the loss for a map of this grid, from that for the map `_pooled` from it."""
    if gradient.shape[2:] == tuple(grid):
        return gradient
    with torch.enable_grad():
        feature = gradient.new_zeros((*gradient.shape[:2], *grid), requires_grad=True)
        return torch.autograd.grad(_pooled(feature, gradient.shape[2:]), feature, gradient)[0]
