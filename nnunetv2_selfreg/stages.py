"""Taps on a U-Net's stages: forward hooks that keep each stage's feature map until the loss takes it."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._dynamo import is_compiling

from nnunetv2_selfreg.anchors import Anchor
from nnunetv2_selfreg.errors import SelfRegError


class StageFeatures(NamedTuple):
    """The feature maps of one training step, each `(B, C, *spatial)`, in the order of the forward pass.

    Attributes:
        encoder: The encoder's students.
        decoder: The decoder's students.
        final: The teacher: the last decoder stage's output, at full resolution.
        anchors: The students' anchors, the encoder's and then the decoder's; None where the network was compiled.
    """

    encoder: list[Tensor]
    decoder: list[Tensor]
    final: Tensor
    anchors: list[Anchor] | None = None


class StageTaps:
    """Forward hooks on `encoder.stages` and `decoder.stages` of a U-Net.

    A tap fills only while the network trains (training mode, gradients on) and is emptied by `take`. The network gets
    no module, parameter or state key. Attach before the first forward pass: `torch.compile` ignores later hooks.

    Args:
        network: A U-Net as dynamic-network-architectures builds it, itself, not wrapped by compile or DDP.
        taps: `stages` for each student stage's output, `first_and_last` for that of its first block as well.
        encoder_stages: Indices of the student stages; None for all but the first, as published.
        decoder_stages: Indices of the student stages; None for all but the last, which is the teacher.

    Attributes:
        encoder: The encoder's tapped modules by name, in the order of the forward pass.
        decoder: The decoder's.
        final: The teacher's name and module.

    Raises:
        SelfRegError: The network has no such stages or blocks, or no student is left.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: str = "stages",
        encoder_stages: Sequence[int] | None = None,
        decoder_stages: Sequence[int] | None = None,
    ) -> None:
        encoder, decoder = named_stages(network, "encoder"), named_stages(network, "decoder")
        final_name, final = decoder.popitem()
        self.encoder = _students(encoder, taps, "encoder_stages", encoder_stages, default=range(1, len(encoder)))
        self.decoder = _students(decoder, taps, "decoder_stages", decoder_stages, default=range(len(decoder)))
        self.final = {final_name: final}
        if not self.encoder and not self.decoder:
            raise SelfRegError(
                f"SelfReg: no stage of {type(network).__name__} is left as a student; name one in the plans"
            )
        self._features: dict[str, Tensor] = {}
        self._anchors: dict[str, Anchor] = {}
        self._handles = [
            module.register_forward_hook(partial(self._keep, name))
            for name, module in (self.encoder | self.decoder | self.final).items()
        ]

    def take(self) -> StageFeatures | None:
        """Hands over the maps of the last training forward pass and leaves the taps empty.

        Returns:
            The maps, or None when no training forward pass came since the last call.

        Raises:
            SelfRegError: Some stages gave a map and some did not.
        """
        features, anchors = self._features, self._anchors
        self._features, self._anchors = {}, {}
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
            anchors=[anchors[name] for name in (*self.encoder, *self.decoder)] if anchors else None,
        )

    def remove(self) -> None:
        """Takes the hooks off the network and drops what they hold."""
        for handle in self._handles:
            handle.remove()
        self._features, self._anchors = {}, {}

    def _keep(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        if module.training and torch.is_grad_enabled():
            self._features[name] = output
            # a compiled graph cannot hold an anchor; torch.compiler.is_compiling is not in torch 2.1
            if name not in self.final and not is_compiling():
                self._anchors[name] = Anchor(output)

    def __str__(self) -> str:
        """The tapped stages with their channels, in the words of the training log."""
        return "; ".join(
            f"{title} {', '.join(_with_channels(name, module) for name, module in tapped.items())}"
            for title, tapped in (("students", self.encoder | self.decoder), ("teacher", self.final))
        )


def named_stages(network: nn.Module, part: str) -> dict[str, nn.Module]:
    """The stages of a U-Net's `encoder` or `decoder` by name, in the order of the forward pass.

    Raises:
        SelfRegError: The network has no such stages.
    """
    stages = getattr(getattr(network, part, None), "stages", None)
    if not isinstance(stages, (nn.ModuleList, nn.Sequential)) or len(stages) == 0:
        raise SelfRegError(
            f"SelfReg: {type(network).__name__} has no {part}.stages; SelfReg needs a U-Net such as PlainConvUNet or "
            "ResidualEncoderUNet"
        )
    return {f"{part}.stages.{i}": stage for i, stage in enumerate(stages)}


def _students(
    stages: dict[str, nn.Module], taps: str, setting: str, chosen: Sequence[int] | None, default: Sequence[int]
) -> dict[str, nn.Module]:
    """The modules to tap of the chosen stages, by name."""
    names = list(stages)
    students: dict[str, nn.Module] = {}
    for index in default if chosen is None else chosen:
        if index >= len(names):
            raise SelfRegError(
                f"SelfReg: plans key 'selfreg.{setting}' names stage {index}; this network's student stages are "
                f"{', '.join(map(str, range(len(names)))) or 'none'}"
            )
        name, stage = names[index], stages[names[index]]
        if taps == "first_and_last" and len(blocks := _blocks(name, stage)) > 1:
            students[f"{name} first block"] = blocks[0]
        students[name] = stage
    return students


def _blocks(name: str, stage: nn.Module) -> nn.Sequential:
    """The stage's convolution or residual blocks, one after the other."""
    for module in stage.modules():
        for attribute in ("convs", "blocks"):  # of StackedConvBlocks and StackedResidualBlocks
            blocks = getattr(module, attribute, None)
            if isinstance(blocks, nn.Sequential):
                return blocks
    raise SelfRegError(f"SelfReg: {name} is not made of blocks; set plans key 'selfreg.taps' to stages")


def _with_channels(name: str, module: nn.Module) -> str:
    channels = [part.output_channels for part in module.modules() if hasattr(part, "output_channels")]
    return f"{name} ({channels[0]})" if channels else name
