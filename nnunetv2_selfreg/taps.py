"""Taps on a U-Net's stages: forward hooks that keep each stage's feature map until the loss takes it."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_selfreg.anchors import Anchor
from nnunetv2_selfreg.compat import in_backward
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.settings import SelfRegSettings

Modules = dict[str, nn.Module]


class ChosenStages(NamedTuple):
    """The modules to tap, by name, in the order of the forward pass.

    Attributes:
        encoder: The encoder's students.
        decoder: The decoder's students.
        teacher: The one teacher, the last decoder stage.
    """

    encoder: Modules
    decoder: Modules
    teacher: Modules

    def __str__(self) -> str:
        """The stages with their channels, in the words of the training log."""
        return "; ".join(
            f"{title} {', '.join(_with_channels(name, module) for name, module in modules.items())}"
            for title, modules in (("students", self.encoder | self.decoder), ("teacher", self.teacher))
        )


class StageFeatures(NamedTuple):
    """The feature maps of one training step, each `(B, C, *spatial)`, detached, in the order of the forward pass.

    Attributes:
        encoder: The encoder's students.
        decoder: The decoder's students.
        teacher: The last decoder stage's output, at full resolution.
        anchors: Where the students get their terms' gradient, the encoder's and then the decoder's.
        links: What laying these anchors gave, for `anchors.weighted`.
    """

    encoder: list[Tensor]
    decoder: list[Tensor]
    teacher: Tensor
    anchors: list[Anchor]
    links: list[Tensor]


class StageTaps:
    """Forward hooks on the stages of a U-Net that the settings choose.

    A tap fills only while the network trains (training mode, gradients on) and is emptied by `take`. The network gets
    no module, parameter or state key. Attach before the first forward pass: `torch.compile` ignores later hooks.

    Args:
        network: A U-Net as dynamic-network-architectures builds it, itself, not wrapped by compile or DDP.
        settings: Which stages are students.

    Attributes:
        stages: The tapped modules.

    Raises:
        SelfRegError: The network has no such stages or blocks, or no student is left.
    """

    def __init__(self, network: nn.Module, settings: SelfRegSettings | None = None) -> None:
        self.stages = choose_students(network, settings or SelfRegSettings())
        self._students = self.stages.encoder | self.stages.decoder
        self._anchors = {name: Anchor() for name in self._students}
        self._empty()
        self._handles = [
            module.register_forward_hook(partial(self._keep, name))
            for name, module in (self._students | self.stages.teacher).items()
        ]

    def take(self) -> StageFeatures | None:
        """Hands over the maps of the last training forward pass and leaves the taps empty.

        Returns:
            The maps, or None when no training forward pass came since the last call.

        Raises:
            SelfRegError: Some stages gave no map, or one gave several.
        """
        features, links, repeated = self._features, self._links, self._repeated
        self._empty()
        if not features:
            return None
        if repeated:
            raise SelfRegError(
                f"SelfReg: {', '.join(sorted(repeated))} gave more than one feature map before the loss was computed; "
                "compute the loss after each forward pass, or train without SelfReg"
            )
        if missing := [name for name in (*self._students, *self.stages.teacher) if name not in features]:
            raise SelfRegError(
                f"SelfReg: {', '.join(missing)} gave no feature map in a training step (skipped by the forward pass, "
                "or in evaluation mode); train without SelfReg"
            )
        return StageFeatures(
            encoder=[features[name] for name in self.stages.encoder],
            decoder=[features[name] for name in self.stages.decoder],
            teacher=features[next(iter(self.stages.teacher))],
            anchors=list(self._anchors.values()),
            links=[links[name] for name in self._students],
        )

    def remove(self) -> None:
        """Takes the hooks off the network and drops what they hold."""
        for handle in self._handles:
            handle.remove()
        self._empty()

    def _empty(self) -> None:
        self._features: dict[str, Tensor] = {}
        self._links: dict[str, Tensor] = {}
        self._repeated: set[str] = set()

    def _keep(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        """The hook: keeps the module's map, and lets it go on through its anchor."""
        if not (module.training and torch.is_grad_enabled()):
            return None
        link = None
        if name in self._students:
            output, link = self._anchors[name].lay(output)
        if not torch.compiler.is_compiling() and in_backward():
            # activation checkpointing runs the forward pass again, anchor and all; the map was kept before
            return output
        if name in self._features:
            self._repeated.add(name)
        self._features[name] = output.detach()
        if link is not None:
            self._links[name] = link
        return output


def choose_students(network: nn.Module, settings: SelfRegSettings) -> ChosenStages:
    """Chooses students and teacher; the network is not changed.

    Args:
        network: A U-Net as dynamic-network-architectures builds it.
        settings: Which stages are students, and whether their first blocks are as well.

    Raises:
        SelfRegError: The network has no such stages or blocks, or no student is left.
    """
    encoder, decoder = named_stages(network, "encoder"), named_stages(network, "decoder")
    teacher = dict([decoder.popitem()])
    chosen = ChosenStages(
        _students(encoder, settings.taps, "encoder_stages", settings.encoder_stages, default=range(1, len(encoder))),
        _students(decoder, settings.taps, "decoder_stages", settings.decoder_stages, default=range(len(decoder))),
        teacher,
    )
    if not chosen.encoder and not chosen.decoder:
        raise SelfRegError(f"SelfReg: no stage of {type(network).__name__} is left as a student; name one in the plans")
    return chosen


def named_stages(network: nn.Module, part: str) -> Modules:
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
    stages: Modules, taps: str, setting: str, chosen: Sequence[int] | None, default: Sequence[int]
) -> Modules:
    """The modules to tap of the chosen stages, by name."""
    names = list(stages)
    students: Modules = {}
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
