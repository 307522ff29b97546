"""Taps on a U-Net's stages: forward hooks that keep each stage's feature map until the loss takes it."""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_selfreg.errors import SelfRegError


class StageFeatures(NamedTuple):
    """The feature maps of one training step, each `(B, C, *spatial)`.

    Attributes:
        encoder: The encoder students, from the second stage (the first is not tapped) to the bottleneck.
        decoder: The decoder students, from the bottleneck up to the last but one.
        final: The teacher: the last decoder stage's output, at full resolution.
    """

    encoder: list[Tensor]
    decoder: list[Tensor]
    final: Tensor


class StageTaps:
    """Forward hooks on `encoder.stages` and `decoder.stages` of a U-Net.

    A tap fills only while the network trains (training mode, gradients on) and is emptied by `take`. The network gets
    no module, parameter or state key. Attach before the first forward pass: `torch.compile` ignores later hooks.

    Args:
        network: A U-Net as dynamic-network-architectures builds it, itself, not wrapped by compile or DDP.

    Raises:
        SelfRegError: The network has no `encoder.stages` and `decoder.stages`, or fewer than two encoder stages.
    """

    def __init__(self, network: nn.Module) -> None:
        encoder, decoder = _stages(network, "encoder"), _stages(network, "decoder")
        self.encoder = {f"encoder.stages.{i}": stage for i, stage in enumerate(encoder) if i > 0}
        self.decoder = {f"decoder.stages.{i}": stage for i, stage in enumerate(decoder[:-1])}
        self.final = {f"decoder.stages.{len(decoder) - 1}": decoder[-1]}
        if not self.encoder:
            raise SelfRegError(f"SelfReg: {type(network).__name__} has one encoder stage; SelfReg needs at least two")
        self._features: dict[str, Tensor] = {}
        self._handles = [
            stage.register_forward_hook(partial(self._keep, name))
            for name, stage in (self.encoder | self.decoder | self.final).items()
        ]

    def take(self) -> StageFeatures | None:
        """Hands over the maps of the last training forward pass and leaves the taps empty.

        Returns:
            The maps, or None when no training forward pass came since the last call.

        Raises:
            SelfRegError: Some stages gave a map and some did not.
        """
        features, self._features = self._features, {}
        if not features:
            return None
        names = [*self.encoder, *self.decoder, *self.final]
        if missing := [name for name in names if name not in features]:
            raise SelfRegError(
                f"SelfReg: {', '.join(missing)} gave no feature map in a training step (skipped by the forward pass, "
                "or in evaluation mode); train without SelfReg"
            )
        return StageFeatures(
            encoder=[features[name] for name in self.encoder],
            decoder=[features[name] for name in self.decoder],
            final=features[next(iter(self.final))],
        )

    def remove(self) -> None:
        """Takes the hooks off the network and drops what they hold."""
        for handle in self._handles:
            handle.remove()
        self._features = {}

    def _keep(self, name: str, stage: nn.Module, inputs: Any, output: Tensor) -> None:
        if stage.training and torch.is_grad_enabled():
            self._features[name] = output

    def __str__(self) -> str:
        """The tapped stages with their channels, in the words of the training log."""
        parts = [
            f"{title} {', '.join(_named(name, stage) for name, stage in stages.items())}"
            for title, stages in (("students", self.encoder | self.decoder), ("teacher", self.final))
        ]
        return "; ".join(parts)


def _stages(network: nn.Module, part: str) -> list[nn.Module]:
    stages = getattr(getattr(network, part, None), "stages", None)
    if not isinstance(stages, (nn.ModuleList, nn.Sequential)) or len(stages) == 0:
        raise SelfRegError(
            f"SelfReg: {type(network).__name__} has no {part}.stages; SelfReg needs a U-Net such as PlainConvUNet or "
            "ResidualEncoderUNet"
        )
    return list(stages)


def _named(name: str, stage: nn.Module) -> str:
    channels = [module.output_channels for module in stage.modules() if hasattr(module, "output_channels")]
    return f"{name} ({channels[0]})" if channels else name
