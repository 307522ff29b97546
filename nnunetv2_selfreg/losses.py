"""The two SelfReg losses as plain functions of feature maps.

Zhu et al., SelfReg-UNet: Self-Regularized UNet for Medical Image Segmentation, MICCAI 2024, pp. 601-611,
arXiv 2406.14896. Where the paper is silent the functions compute what the authors' released code computes.

Feature maps have shape `(B, C, *spatial)` with one to three spatial axes of any size, in any floating dtype.
Half-precision maps are read as they are and accumulated in float32; a loss is float32, or float64 for float64 maps.
"""

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
        teacher: `(B, C_teacher, *spatial_teacher)`, the last decoder stage's output.
        student_channels: Indices into the student's channels, int64 `(k,)`, from `draw_channels`.
        teacher_channels: Indices into the teacher's channels, int64 `(k,)`.

    Returns:
        The loss, a scalar.
    """
    grid = [min(sizes) for sizes in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return functional.mse_loss(
        _pooled(student.index_select(1, student_channels), grid),
        _pooled(teacher.detach().index_select(1, teacher_channels), grid),
    )


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
    half = feature.shape[1] // 2
    if half == 0:
        return feature[:, :0].sum(dtype=_accumulation_dtype(feature))
    ranking = _importance(feature.detach()).argsort(descending=True, stable=True)
    better = feature.index_select(1, ranking[:half])
    worse = feature.index_select(1, ranking[-half:])
    return functional.mse_loss(better.to(_accumulation_dtype(feature)), worse.to(_accumulation_dtype(feature)))


def _importance(feature: Tensor) -> Tensor:
    """Importance of each channel, shape `(C,)`: the mean over batch and space of the channel over its L2 norm."""
    wide = feature.to(_accumulation_dtype(feature)).flatten(2)
    norm = torch.linalg.vector_norm(wide, dim=2).clamp_min(1e-12)
    return (wide.mean(2) / norm).mean(0)


def _pooled(feature: Tensor, grid: list[int]) -> Tensor:
    """The map in the accumulation dtype, average-pooled to `grid` unless it has that grid already."""
    wide = feature.to(_accumulation_dtype(feature))
    if list(wide.shape[2:]) == grid:
        return wide
    pool = getattr(functional, f"adaptive_avg_pool{len(grid)}d")
    return pool(wide, grid)


def _accumulation_dtype(feature: Tensor) -> torch.dtype:
    return torch.promote_types(feature.dtype, torch.float32)
