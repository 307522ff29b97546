"""Anchors: the places in the network where feature maps get the gradient of their regularisation losses.

The losses of all maps are known only when the forward pass is over. If they were part of the graph there, autograd
would work out all their gradients at the start of the backward pass, while it still holds every activation: the peak
of a training's memory would rise. So each map goes through an anchor on its way to the rest of the network. In the
backward pass the anchor gets the map's gradient from there, and adds that of the map's own losses.

`torch.compile` takes an anchor into its graph as an operator that it does not look into, so the same holds there.
"""

from collections.abc import Sequence
from itertools import count
from typing import Any, Protocol
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from nnunetv2_selfreg.compat import NOT_IN_CUDA_GRAPHS


class AddGradient(Protocol):
    """Adds the gradient of one map's loss to the gradient that the map has already."""

    def __call__(self, gradient: Tensor, feature: Tensor, factor: Tensor, in_place: bool) -> Tensor:
        """The sum of both.

        Args:
            gradient: `(B, C, *spatial)`, in the map's dtype.
            feature: The map, `(B, C, *spatial)`.
            factor: The gradient of the training loss with respect to this loss, a scalar.
            in_place: Whether to write the sum into `gradient`; otherwise `gradient` must stay as it is.
        """


class Anchor:
    """A place in the network where one feature map gets the gradient of its losses.

    Attributes:
        losses: What the backward pass that runs now adds here, each loss with its factor; `weighted` sets them.
    """

    def __init__(self) -> None:
        self.losses: list[tuple[AddGradient, Tensor]] = []
        self._number = next(_numbers)
        _anchors[self._number] = self

    def lay(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        """Lays the anchor for one forward pass.

        Args:
            feature: The map, `(B, C, *spatial)`.

        Returns:
            The same map, to go on with in place of the given one, and a link: a scalar without a value of its own, by
            which `weighted` makes the training loss depend on the anchor.
        """
        laid: tuple[Tensor, Tensor] = _Anchored.apply(feature, self._number)  # type: ignore[no-untyped-call]
        return laid

    def __reduce__(self) -> tuple[type["Anchor"], tuple[()]]:
        return Anchor, ()  # the copy of a tapped network gets anchors of its own


_numbers = count()
# a compiled graph knows an anchor by its number
_anchors: WeakValueDictionary[int, Anchor] = WeakValueDictionary()


class _Anchored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, feature: Tensor, number: int) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(feature)
        ctx.number = number
        return feature.view_as(feature), feature.new_empty((), dtype=accumulation_dtype(feature))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, factor: Tensor) -> tuple[Tensor, None]:
        # `factor` is not read; it arrives from `weighted`, which has set the losses by then
        (feature,) = ctx.saved_tensors
        if torch.compiler.is_compiling():
            gradient = gradient.clone()  # the compiler leaves the copy out where it can
            add_gradients(gradient, feature, ctx.number)
            return gradient, None
        return _with_gradients(gradient, feature, ctx.number, in_place=False), None


@torch.library.custom_op("nnunetv2_selfreg::add_gradients", mutates_args={"gradient"}, **NOT_IN_CUDA_GRAPHS)
def add_gradients(gradient: Tensor, feature: Tensor, number: int) -> None:
    """Adds the gradients of the losses at the anchor of this number, in place; an operator for compiled graphs."""
    _with_gradients(gradient, feature, number, in_place=True)


@add_gradients.register_fake
def _(gradient: Tensor, feature: Tensor, number: int) -> None:
    pass


def _with_gradients(gradient: Tensor, feature: Tensor, number: int, in_place: bool) -> Tensor:
    anchor = _anchors.get(number)
    while anchor and anchor.losses:  # from the last: IFD's gradient fills the whole map, SCR's some channels of it
        add_gradient, factor = anchor.losses.pop()
        gradient = add_gradient(gradient, feature, factor, in_place)
        in_place = True
    return gradient


def weighted(
    values: Tensor,
    weights: Tensor,
    gradients: Sequence[Sequence[AddGradient]],
    anchors: Sequence[Anchor],
    links: Sequence[Tensor],
) -> Tensor:
    """The weighted sum of the maps' losses; its gradient reaches the maps at their anchors.

    Args:
        values: The losses, `(terms, maps)`.
        weights: How much each counts, `(terms, maps)`.
        gradients: What adds each loss's gradient, by term and map.
        anchors: One of each map.
        links: What laying the anchors gave.

    Returns:
        A scalar.
    """
    total: Tensor = _Weighted.apply(values, weights, gradients, anchors, *links)  # type: ignore[no-untyped-call]
    return total


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weights: Tensor,
        gradients: Sequence[Sequence[AddGradient]],
        anchors: Sequence[Anchor],
        *links: Tensor,
    ) -> Tensor:
        ctx.weights, ctx.gradients, ctx.anchors = weights, gradients, anchors
        return (values * weights).sum()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        factors = (grad * ctx.weights).unbind(1)
        gradients = zip(*ctx.gradients, strict=True)
        needed = ctx.needs_input_grad[4:]
        for anchor, of_map, factor, needs_grad in zip(ctx.anchors, gradients, factors, needed, strict=True):
            if needs_grad:  # else its backward pass, which takes the losses, does not come
                anchor.losses = list(zip(of_map, factor.unbind(), strict=True))
        return None, None, None, None, *[grad] * len(factors)


def accumulation_dtype(feature: Tensor) -> torch.dtype:
    """float32, or float64 for float64 maps."""
    return torch.float64 if feature.dtype == torch.float64 else torch.float32
