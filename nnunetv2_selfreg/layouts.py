"""How modules lay out their feature maps, found out by running the network once.

A convolutional module gives `(B, C, *spatial)`. Transformers also give channels last, `(B, *spatial, C)`, or tokens,
`(B, N, C)`. Which it is follows from the grids that the network's convolutions give for the same image, and from the
layers inside the module. Where that leaves a doubt the module is refused: a wrong reading would train silently.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from nnunetv2_selfreg.compat import not_compiled
from nnunetv2_selfreg.errors import SelfRegError

Grid = tuple[int, ...]
# layers that read channels from the second axis, and from the last
CHANNELS_FIRST, CHANNELS_LAST = (_ConvNd, _NormBase, nn.GroupNorm), (nn.Linear, nn.LayerNorm)


class Layout(NamedTuple):
    """Where an output has its channels, and the grid of its tokens.

    Attributes:
        axis: The channels' axis, 1 or -1.
        grid: The spatial sizes that one axis holds, flattened; empty when they are axes of their own.
    """

    axis: int = 1
    grid: Grid = ()

    def to_map(self, output: Tensor) -> Tensor:
        """The output as `(B, C, *spatial)`, a view of it."""
        feature = output if self.axis == 1 else output.movedim(-1, 1)
        return torch.unflatten(feature, 2, self.grid) if self.grid else feature

    def from_map(self, feature: Tensor) -> Tensor:
        """A map `(B, C, *spatial)` as the module gives it."""
        output = feature.flatten(2) if self.grid else feature
        return output if self.axis == 1 else output.movedim(1, -1)


class Output(NamedTuple):
    """What a module gave in one call.

    Attributes:
        value: The tensor; None when it gave something else.
        kind: What it gave, in words.
        version: The tensor's version when the module gave it: a later layer that writes into it counts it up.
    """

    value: Tensor | None
    kind: str
    version: int


class Trial:
    """One forward pass of a network, in evaluation mode and without gradients; the network stays as it was.

    Args:
        network: The network.
        images: `(B, channels, *spatial)`, as large as in the training.

    Attributes:
        outputs: What each module gave, call by call, in the order of the first calls.

    Raises:
        SelfRegError: The network cannot take such images.
    """

    def __init__(self, network: nn.Module, images: Tensor) -> None:
        self.outputs: dict[nn.Module, list[Output]] = {}
        self._names = {module: name for name, module in network.named_modules()}
        self._network, self._batch, self._patch = type(network).__name__, len(images), tuple(images.shape[2:])
        handles = [module.register_forward_hook(self._record) for module in self._names]
        device = images.device.type
        try:
            with _evaluated(network), not_compiled(), torch.no_grad(), torch.autocast(device, enabled=device == "cuda"):
                network(images)
        except Exception as error:  # whatever the network's author raises
            raise SelfRegError(
                f"SelfReg: {self._network} fails for an image of shape {tuple(images.shape)}, that of the plans: "
                f"{(str(error) or type(error).__name__).splitlines()[0]}"
            ) from error
        finally:
            for handle in handles:
                handle.remove()
        self._grids = self._convolved()

    def layout(self, name: str, module: nn.Module, is_map: bool = False) -> Layout:
        """How a module lays out its map.

        Args:
            name: What to call the module in the error's text.
            module: The module.
            is_map: Whether it is known to give `(B, C, *spatial)`.

        Raises:
            SelfRegError: It gives no map or several, or one that can be read in two ways or that a later layer changes.
        """
        outputs = self.outputs.get(module, [])
        if len(outputs) != 1:
            part = next((self._names[part] for part in module.modules() if part in self.outputs), None)
            hint = "name another module" if outputs or part is None else f"name a part of it, such as {part}"
            times = f"is called {len(outputs)} times" if outputs else "is not called"
            raise SelfRegError(f"SelfReg: {name} {times} in a forward pass of {self._network}; {hint}")
        value, kind, version = outputs[0]
        if value is None or not value.is_floating_point():
            raise SelfRegError(f"SelfReg: {name} gives {kind}, which is no feature map; name another module")
        if value._version != version:
            raise SelfRegError(
                f"SelfReg: a later layer writes into the output of {name}; name that layer, or a module around both"
            )
        readings = self._readings(value.shape)
        if is_map and Layout() in readings:
            return Layout()
        if len(readings) > 1 or value.ndim < len(self._patch) + 2:
            # without a grid of its own a token may be anything, so it takes a layer that tells where the channels are
            axis = self._channels_axis(module, value.shape)
            readings = [reading for reading in readings if reading.axis == axis]
        if len(readings) == 1:
            return readings[0]
        raise SelfRegError(
            f"SelfReg: {name} gives {tuple(value.shape)} for an image of {' x '.join(map(str, self._patch))}, which is "
            "not surely (B, C, *spatial), (B, *spatial, C) or (B, N, C); name a module inside or around it"
        )

    def _record(self, module: nn.Module, inputs: Any, output: Any) -> None:
        is_tensor = isinstance(output, Tensor)
        kind = f"a tensor of {output.dtype}" if is_tensor else f"a {type(output).__name__}"
        self.outputs.setdefault(module, []).append(
            Output(output if is_tensor else None, kind, output._version if is_tensor else 0)
        )

    def _convolved(self) -> set[Grid]:
        """The grids of the image and of each convolution's map, and what pooling them by one factor can leave."""
        convolved = [outputs for module, outputs in self.outputs.items() if isinstance(module, _ConvNd)]
        shapes = {value.shape[2:] for outputs in convolved for value, *_ in outputs if value is not None}
        bases = {self._patch} | {tuple(shape) for shape in shapes if len(shape) == len(self._patch)}
        return {tuple(-(-size // factor) for size in base) for base in bases for factor in range(1, max(base) + 1)}

    def _readings(self, shape: Sequence[int]) -> list[Layout]:
        """The layouts in which a shape is a map on one of the grids."""
        shape = tuple(shape)
        if shape[:1] != (self._batch,):  # windows, say
            return []
        if len(shape) == len(self._patch) + 2:
            grids = {Layout(1): shape[2:], Layout(-1): shape[1:-1]}
            return [layout for layout, grid in grids.items() if grid in self._grids]
        if len(shape) == 3:
            return [
                Layout(axis, grid)
                for axis, tokens in ((1, shape[2]), (-1, shape[1]))
                for grid in sorted(self._grids)
                if prod(grid) == tokens
            ]
        return []

    def _channels_axis(self, module: nn.Module, shape: Sequence[int]) -> int | None:
        """Where the layers inside a module, or it itself, that give this very shape have their channels."""
        same = [
            layer
            for layer in module.modules()
            if any(value is not None and value.shape == shape for value, *_ in self.outputs.get(layer, []))
        ]
        first, last = (any(isinstance(layer, kinds) for layer in same) for kinds in (CHANNELS_FIRST, CHANNELS_LAST))
        if first == last:
            return None
        # a map of equal sizes that was turned round after the layer looks the same
        return 1 if first else -1 if shape[1] != shape[-1] else None


@contextmanager
def _evaluated(network: nn.Module) -> Iterator[None]:
    """The network in evaluation mode, and each of its modules as it was afterwards."""
    modes: Mapping[nn.Module, bool] = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
