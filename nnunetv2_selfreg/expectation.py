"""SCR's expectation over the channels that it draws, in closed form: no draw, no noise, the same expected gradient.

`losses.draw_channels` draws k channels of the student, k of the teacher, without replacement, independently, each in a
random order, and pairs them in that order. One pair alone is therefore any of the C_student * C_teacher pairs with the
same probability, whatever k is, and the mean over the k pairs has the same expectation as one pair:

    E[SCR] = mean over batch, grid, c of (s_c - t_mean)^2  +  mean over batch and grid of Var(t)

with s_c the student's channels and Var the variance over the teacher's, t_mean their mean, both maps on the grid on
which they meet. Only the first part depends on the student. documentation/what_it_does.md says what it pulls where.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nnunetv2_selfreg.anchors import accumulation_dtype
from nnunetv2_selfreg.losses import TeacherPyramid, mean_squares, pooled, unpooled


def expected_consistencies(students: Sequence[Tensor], teacher: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The expectation of SCR of several students, without a graph.

    Args:
        students: Maps of `(B, C, *spatial)` each.
        teacher: `(B, C, *spatial)`.

    Returns:
        The losses, `(students,)`; and for each student the mean of the teacher's channels on the grid on which both
        meet, `(B, 1, *grid)`.
    """
    pyramid = TeacherPyramid(teacher)
    grids: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}
    for student in students:
        level = pyramid.at(student)
        if level.shape[2:] not in grids:
            values = level.to(accumulation_dtype(level))
            variance, mean = torch.var_mean(values, 1, correction=0, keepdim=True)
            grids[tuple(level.shape[2:])] = variance.mean(), mean
    met = [grids[tuple(pyramid.at(student).shape[2:])] for student in students]
    squares = mean_squares(
        pooled(student, tuple(mean.shape[2:])) - mean for student, (_, mean) in zip(students, met, strict=True)
    )
    return squares + torch.stack([variance for variance, _ in met]), [mean for _, mean in met]


def add_expected_consistency_gradient(
    gradient: Tensor, feature: Tensor, factor: Tensor, in_place: bool, mean: Tensor
) -> Tensor:
    """The gradient of one student's expected SCR, as `AddGradient`.

    Args:
        gradient: As there.
        feature: As there.
        factor: As there.
        in_place: As there.
        mean: The mean of the teacher's channels, from `expected_consistencies`.
    """
    difference = pooled(feature, tuple(mean.shape[2:])) - mean
    factor = factor * (2 / difference.numel())
    difference = unpooled(difference, feature.shape[2:])
    return gradient.addcmul_(difference, factor) if in_place else torch.addcmul(gradient, difference, factor)
