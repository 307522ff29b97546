"""Anchors: a loss that is computed after the forward pass gives a map of its middle a gradient when its turn comes."""

from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Term(Protocol):
    """A loss of one feature map."""

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
    """Where in the backward pass a feature map gets the gradient of losses that are not known yet.

    Autograd runs what was recorded last first. Losses of all maps, recorded at the end, make all their gradients when
    the backward pass begins and every activation is still held: they raise the peak of a training's memory. An anchor
    is recorded right behind its map, so that the gradient is made when the backward pass arrives there.

    Args:
        feature: The map, `(B, C, *spatial)`.

    Attributes:
        zero: A scalar 0 to add to the loss: the way by which the backward pass arrives.
    """

    def __init__(self, feature: Tensor) -> None:
        self._terms: list[tuple[float, Term]] = []
        self.zero: Tensor = _Anchored.apply(feature, self._terms)  # type: ignore[no-untyped-call]

    def add(self, term: Term, weight: float) -> None:
        """Gives the map the gradient of `weight` times the term."""
        self._terms.append((weight, term))


class _Anchored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, feature: Tensor, terms: list[tuple[float, Term]]) -> Tensor:
        ctx.save_for_backward(feature)
        ctx.terms = terms
        return feature.new_zeros((), dtype=accumulation_dtype(feature))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None]:
        (feature,) = ctx.saved_tensors
        buffer = None
        for weight, term in ctx.terms:
            buffer = term.gradient(feature, weight, grad, buffer)
        return None if buffer is None else buffer.to(feature.dtype), None


def accumulation_dtype(feature: Tensor) -> torch.dtype:
    """float32, or float64 for float64 maps."""
    return torch.float64 if feature.dtype == torch.float64 else torch.float32
