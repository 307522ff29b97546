"""The two SelfReg losses as plain functions of feature maps.

Zhu et al., SelfReg-UNet: Self-Regularized UNet for Medical Image Segmentation, MICCAI 2024, pp. 601-611,
arXiv 2406.14896. Where the paper is silent the functions compute what the authors' released code computes.

Feature maps have shape `(B, C, *spatial)` with one to three spatial axes of any size, in any floating dtype.
Half-precision maps are read as they are and accumulated in float32; a loss is float32, or float64 for float64 maps.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from itertools import product

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nnunetv2_selfreg.anchors import AddGradient, Anchor, accumulation_dtype, weighted

Channels = tuple[Tensor, Tensor]


def draw_channels(
    students: Sequence[int],
    teacher: int,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> list[Channels]:
    """Draws the channels that semantic consistency compares: as many as both maps have, without replacement.

    Args:
        students: Number of channels of each student map.
        teacher: Number of channels of the teacher map.
        generator: Source of the draw, on `device`; torch's own when left out.
        device: Where the indices are made, so that a step on a GPU never waits for the host.

    Returns:
        For each student the indices into its channels and into the teacher's, each int64 of shape
        `(min(student, teacher),)`, all drawn independently of each other.
    """
    sizes = (*students, *[teacher] * len(students))
    keys = torch.rand(len(sizes), max(sizes), generator=generator, device=device)
    is_beyond = torch.arange(max(sizes), device=device) >= on_device(sizes, keys.device)
    orders = (keys + is_beyond).argsort(dim=1)  # each row begins with a random order of its map's channels
    pairs = zip(students, orders[: len(students)], orders[len(students) :], strict=True)
    return [(mine[: min(size, teacher)], others[: min(size, teacher)]) for size, mine, others in pairs]


def on_device(sizes: Sequence[int], device: torch.device) -> Tensor:
    """Numbers of channels as a tensor, int64 `(maps, 1)`; brought to the device once, not in every step."""
    return _on_device(tuple(sizes), device)


@lru_cache(maxsize=16)
def _on_device(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(sizes, device=device)[:, None]


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
    channels = student_channels, teacher_channels
    values = consistencies([student.detach()], teacher.detach(), [channels])
    add_gradient = partial(add_consistency_gradient, teacher=TeacherPyramid(teacher).at(student), channels=channels)
    return _loss(student, values, add_gradient)


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
    values, partners = distillations([feature.detach()], on_device([feature.shape[1]], feature.device))
    return _loss(feature, values, partial(add_distillation_gradient, partner=partners[0]))


def _loss(feature: Tensor, value: Tensor, add_gradient: AddGradient) -> Tensor:
    anchor = Anchor()
    _, link = anchor.lay(feature)
    return weighted(value[None], torch.ones_like(value[None]), [[add_gradient]], [anchor], [link])


# Both losses are squared differences between channels of maps that the network keeps for its own backward pass anyway.
# Plain autograd would write, keep and read several copies of them. The functions below keep indices alone, and work out
# the difference once more when the gradient is wanted. `torch.compile` makes a few kernels of each.


class TeacherPyramid:
    """The teacher map on every grid that students need, each made once, from the smallest grid that allows it.

    Args:
        teacher: `(B, C, *spatial)`; no gradient flows back to it.
        pool: `pooled`, or what `torch.compile` makes of it.
    """

    def __init__(self, teacher: Tensor, pool: Callable[[Tensor, tuple[int, ...]], Tensor] | None = None) -> None:
        self._pool = pool or pooled
        self._finest = tuple(teacher.shape[2:])
        self._levels = {self._finest: teacher.detach()}

    def at(self, student: Tensor) -> Tensor:
        """The teacher, `(B, C, *grid)`, on the grid on which it meets this student."""
        grid = tuple(map(min, student.shape[2:], self._finest))
        if grid not in self._levels:
            # averages of averages are exact where all the sizes divide
            sources = [level for level in self._levels if _divide(self._finest, level) and _divide(level, grid)]
            source = min(sources, key=math.prod, default=self._finest)
            self._levels[grid] = self._pool(self._levels[source], grid)
        return self._levels[grid]


def _divide(sizes: Sequence[int], others: Sequence[int]) -> bool:
    return all(size % other == 0 for size, other in zip(sizes, others, strict=True))


def consistencies(students: Sequence[Tensor], teacher: Tensor, channels: Sequence[Channels]) -> Tensor:
    """SCR of several students: `(students,)`, without a graph.

    Args:
        students: Maps of `(B, C, *spatial)` each.
        teacher: `(B, C, *spatial)`.
        channels: The drawn channels of each student and of the teacher.
    """
    pyramid = TeacherPyramid(teacher)
    return mean_squares(
        _consistency_difference(student, pyramid.at(student), *drawn)
        for student, drawn in zip(students, channels, strict=True)
    )


def add_consistency_gradient(
    gradient: Tensor, feature: Tensor, factor: Tensor, in_place: bool, teacher: Tensor, channels: Channels
) -> Tensor:
    """The gradient of one student's SCR, as `AddGradient`.

    Args:
        gradient: As there.
        feature: As there.
        factor: As there.
        in_place: As there.
        teacher: The teacher on the grid on which it meets this student.
        channels: The drawn channels.
    """
    difference = _consistency_difference(feature, teacher, *channels)
    difference.mul_(factor * (2 / difference.numel()))
    difference = unpooled(difference, feature.shape[2:]).to(gradient.dtype)
    # a channel is drawn once, so this is a sum; index_add would have to allow for repeats
    drawn = gradient.index_select(1, channels[0]).add_(difference)
    return gradient.index_copy_(1, channels[0], drawn) if in_place else gradient.index_copy(1, channels[0], drawn)


def _consistency_difference(
    student: Tensor, teacher: Tensor, student_channels: Tensor, teacher_channels: Tensor
) -> Tensor:
    """The student's drawn channels minus the teacher's, on their common grid, in a buffer of its own."""
    drawn = student.index_select(1, student_channels).to(accumulation_dtype(student))
    return pooled(drawn, tuple(teacher.shape[2:])).sub_(teacher.index_select(1, teacher_channels))


def distillations(features: Sequence[Tensor], sizes: Tensor) -> tuple[Tensor, Tensor]:
    """IFD of several maps, without a graph.

    Args:
        features: Maps of `(B, C, *spatial)` each.
        sizes: Their numbers of channels, from `on_device`.

    Returns:
        The losses, `(maps,)`; and for each map the channel that each of its channels is compared with, int64
        `(maps, most channels)`. The middle one of an odd count is compared with itself.
    """
    scores = pad_sequence([importance(feature) for feature in features], batch_first=True, padding_value=-math.inf)
    rankings = scores.argsort(dim=1, descending=True, stable=True)
    half, rank = sizes // 2, torch.arange(scores.shape[1], device=scores.device)
    shift = torch.where(rank < half, sizes - half, torch.where(rank < sizes - half, 0, half - sizes))
    opposite = rankings.gather(1, torch.where(rank < sizes, rank + shift, rank))
    return mean_squares(map(_distillation_difference, features, rankings)), rankings.scatter(1, rankings, opposite)


def _distillation_difference(feature: Tensor, ranking: Tensor) -> Tensor:
    """The better half of the channels minus the worse half, in a buffer of its own."""
    channels, half = feature.shape[1], feature.shape[1] // 2
    better = feature.index_select(1, ranking[:half]).to(accumulation_dtype(feature))
    return better.sub_(feature.index_select(1, ranking[channels - half : channels]))


def add_distillation_gradient(
    gradient: Tensor, feature: Tensor, factor: Tensor, in_place: bool, partner: Tensor
) -> Tensor:
    """The gradient of one map's IFD, as `AddGradient`.

    Args:
        gradient: As there.
        feature: As there.
        factor: As there.
        in_place: As there.
        partner: The channel that each channel is compared with, from `distillations`.
    """
    channels, half = feature.shape[1], feature.shape[1] // 2
    difference = feature.index_select(1, partner[:channels]).to(accumulation_dtype(feature)).sub_(feature)
    factor = factor * (-2 / max(feature[:, 0].numel() * half, 1))
    return gradient.addcmul_(difference, factor) if in_place else torch.addcmul(gradient, difference, factor)


def mean_squares(differences: Iterable[Tensor]) -> Tensor:
    """The mean square of each map, `(maps,)`; 0 for a map without elements."""
    # sums per channel first: a single sum in float32 over millions of voxels would lose digits
    sums = [
        torch.linalg.vector_norm(difference.flatten(2), dim=2).square_().flatten() / max(difference.numel(), 1)
        for difference in differences
    ]
    return pad_sequence(sums, batch_first=True).sum(1)


def importance(feature: Tensor) -> Tensor:
    """Importance of each channel, shape `(C,)`: the sum over batch and space of the channel over its L2 norm."""
    flat, dtype = feature.flatten(2), accumulation_dtype(feature)
    norm = torch.linalg.vector_norm(flat, dim=2, dtype=dtype).clamp_min_(1e-12)
    return (flat.sum(2, dtype=dtype) / norm).sum(0)


def pooled(feature: Tensor, grid: tuple[int, ...]) -> Tensor:
    """The map average-pooled to `grid`, in the accumulation dtype, or itself if it has that grid."""
    sizes = feature.shape[2:]
    if sizes == grid:
        return feature
    dtype = accumulation_dtype(feature)
    if any(n not in (m, 2 * m) for n, m in zip(sizes, grid, strict=True)):
        return _along_axes(
            feature.to(dtype), [_pooling(n, m, dtype, feature.device) for n, m in zip(sizes, grid, strict=True)]
        )
    # nnU-Net's usual stride: the sum of neighbours is several times faster than torch's pooling, and a map of half
    # precision is never copied whole
    steps = [n // m for n, m in zip(sizes, grid, strict=True)]
    first, *others = [_every(feature, steps, offsets) for offsets in product(*map(range, steps))]
    total = first.to(dtype, copy=True)
    for other in others:
        total.add_(other)
    return total.mul_(1 / math.prod(steps))


def _every(feature: Tensor, steps: Sequence[int], offsets: Sequence[int]) -> Tensor:
    for axis, (step, offset) in enumerate(zip(steps, offsets, strict=True), start=2):
        feature = feature[(slice(None),) * axis + (slice(offset, None, step),)]
    return feature


def unpooled(gradient: Tensor, grid: Sequence[int]) -> Tensor:
    """The gradient of the loss for a map of this grid, from that for the map `pooled` from it."""
    if gradient.shape[2:] == tuple(grid):
        return gradient
    dtype, device = gradient.dtype, gradient.device
    return _along_axes(
        gradient, [_pooling(n, m, dtype, device).mT for n, m in zip(grid, gradient.shape[2:], strict=True)]
    )


def _along_axes(feature: Tensor, matrices: Sequence[Tensor]) -> Tensor:
    """The map with each spatial axis multiplied by its matrix, `(after, before)`."""
    for axis, matrix in enumerate(matrices, start=2):
        if matrix.shape[0] != matrix.shape[1]:
            feature = (feature.movedim(axis, -1) @ matrix.mT).movedim(-1, axis)
    return feature


def _pooling(before: int, after: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Adaptive average pooling along one axis as a matrix, `(after, before)`.

    Made of arithmetic alone: torch cannot compile its own adaptive pooling for grids of any size.
    """
    cells, positions = torch.arange(after, device=device)[:, None], torch.arange(before, device=device)
    first, end = cells * before // after, -(-(cells + 1) * before // after)
    return ((positions >= first) & (positions < end)).to(dtype) / (end - first)
