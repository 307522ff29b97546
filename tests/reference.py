"""The losses again, slowly and on their own: loops over numpy arrays, straight from the equations.

Gradients are worked out by hand, so nothing here shares torch's autograd or the library's code.
"""

import math
from itertools import product

import numpy as np


def importance(feature: np.ndarray) -> list[float]:
    """Per channel: divided by its L2 norm over space, averaged over batch and space."""
    batch, channels = feature.shape[:2]
    result = []
    for c in range(channels):
        total = 0.0
        for b in range(batch):
            values = feature[b, c].ravel()
            norm = math.sqrt(math.fsum(v * v for v in values))
            total += math.fsum(v / max(norm, 1e-12) for v in values)
        result.append(total / (batch * feature[0, 0].size))
    return result


def internal_feature_distillation(feature: np.ndarray) -> tuple[float, np.ndarray]:
    """The loss and its gradient: rank i against rank i + C/2, the middle of an odd count left out."""
    feature = feature.astype(np.float64)
    channels = feature.shape[1]
    half = channels // 2
    gradient = np.zeros_like(feature)
    if half == 0:
        return 0.0, gradient
    weight = importance(feature)
    ranked = sorted(range(channels), key=lambda c: -weight[c])
    count = feature.shape[0] * half * feature[0, 0].size
    loss = 0.0
    for first, second in zip(ranked[:half], ranked[channels - half :], strict=True):
        difference = feature[:, first] - feature[:, second]
        loss += math.fsum((difference**2).ravel()) / count
        gradient[:, first] += 2 * difference / count
        gradient[:, second] -= 2 * difference / count
    return loss, gradient


def window(position: int, size: int, target: int) -> range:
    """The inputs that one output of adaptive average pooling averages, on one axis."""
    return range(position * size // target, -(-(position + 1) * size // target))


def pooled(feature: np.ndarray, grid: tuple[int, ...]) -> np.ndarray:
    """Adaptive average pooling of `(B, C, *spatial)` to `grid`."""
    result = np.zeros(feature.shape[:2] + grid)
    for cell in product(*map(range, grid)):
        block = np.ix_(*(window(p, n, t) for p, n, t in zip(cell, feature.shape[2:], grid, strict=True)))
        result[(..., *cell)] = feature[(slice(None), slice(None), *block)].mean(axis=tuple(range(2, feature.ndim)))
    return result


def semantic_consistency(
    student: np.ndarray, teacher: np.ndarray, student_channels: np.ndarray, teacher_channels: np.ndarray
) -> tuple[float, np.ndarray]:
    """The loss and its gradient with respect to the student."""
    student, teacher = student.astype(np.float64), teacher.astype(np.float64)
    grid = tuple(map(min, student.shape[2:], teacher.shape[2:]))
    difference = pooled(student[:, student_channels], grid) - pooled(teacher[:, teacher_channels], grid)
    gradient = np.zeros_like(student)
    for cell in product(*map(range, grid)):
        windows = [list(window(p, n, t)) for p, n, t in zip(cell, student.shape[2:], grid, strict=True)]
        share = 2 * difference[(..., *cell)] / difference.size / math.prod(map(len, windows))
        for voxel in product(*windows):
            for i, channel in enumerate(student_channels):
                gradient[(slice(None), channel, *voxel)] += share[:, i]
    return float((difference**2).mean()), gradient
