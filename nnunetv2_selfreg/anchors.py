"""Anchors: the places in the backward pass where feature maps get the gradient of their regularisation terms."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class StageLoss(Protocol):
    """A loss of one feature map that works out its own gradient.

    Attributes:
        value: The loss, a scalar without a graph.
    """

    value: Tensor

    def gradient(self, feature: Tensor, weight: float, grad: Tensor, buffer: Tensor | None) -> Tensor:
        """The gradient of the weighted loss, added to `buffer`, or in a buffer of its own for None.

        Args:
            feature: The map, `(B, C, *spatial)`.
            weight: The loss counts this much.
            grad: The gradient of the whole with respect to the weighted loss, a scalar.
            buffer: `(B, C, *spatial)`, in the dtype in which the map accumulates; written to.
        """


class Anchor:
    """Gives one feature map the gradient of its losses when the backward pass arrives at that map.

    The losses of all maps are known only when the forward pass is over. If they were part of the graph there, autograd
    would work out all their gradients at the start of the backward pass, while it still holds every activation: the
    peak of a training's memory would rise. So each map gets an anchor as soon as it is made: a scalar 0 that depends on
    the map. The zeros are added to the training loss. Autograd goes through the graph from its newest operation to its
    oldest, so it calls the anchor just before the map's own backward pass, and only then is the gradient made.

    Args:
        feature: The map, `(B, C, *spatial)`.

    Attributes:
        zero: The scalar 0 to add to the training loss.
    """

    def __init__(self, feature: Tensor) -> None:
        self._losses: list[tuple[float, StageLoss]] = []
        self.zero: Tensor = _Anchored.apply(feature, self._losses)  # type: ignore[no-untyped-call]

    def add(self, loss: StageLoss, weight: float) -> None:
        """Gives the map the gradient of `weight` times the loss."""
        self._losses.append((weight, loss))


class _Anchored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, feature: Tensor, losses: list[tuple[float, StageLoss]]) -> Tensor:
        ctx.save_for_backward(feature)
        ctx.losses = losses
        return feature.new_zeros((), dtype=accumulation_dtype(feature))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        (feature,) = ctx.saved_tensors
        buffer = None
        for weight, loss in ctx.losses:
            buffer = loss.gradient(feature, weight, grad, buffer)
        return None if buffer is None else buffer.to(feature.dtype), None


def accumulation_dtype(feature: Tensor) -> torch.dtype:
    """float32, or float64 for float64 maps."""
    return torch.float64 if feature.dtype == torch.float64 else torch.float32
