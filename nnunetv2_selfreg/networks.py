"""Where the stages of a network are: those of networks that are known, and any module by its name."""

import re
from difflib import get_close_matches
from typing import NamedTuple

from torch import nn

from nnunetv2_selfreg.errors import SelfRegError

Modules = dict[str, nn.Module]
LIST_MODULES = "nnUNetv2_selfreg plans -d DATASET -p PLANS -c CONFIGURATION -tr TRAINER --list-modules"
HOW_TO_NAME = f"name encoder_stages, decoder_stages and teacher in the plans ({LIST_MODULES})"


class Pattern(NamedTuple):
    """The names of a network's stages, as regular expressions; each stage gives a map `(B, C, *spatial)`.

    Attributes:
        encoder: From full resolution to the bottleneck, in the order in which the network defines them.
        decoder: From the bottleneck on; the last is the teacher.
        single: Of stages that are one block, where other stages of the network have several.
    """

    encoder: str
    decoder: str
    single: str = ""


# by the network's class or one that it inherits from
KNOWN = {
    # monai.networks.nets
    "SwinUNETR": Pattern(r"swinViT\.(patch_embed|layers\d\.0)", r"decoder\d", r"swinViT\.patch_embed|decoder\d"),
    "DynUNet": Pattern(r"input_block|downsamples\.\d+|bottleneck", r"upsamples\.\d+"),
    # its last stage gives the classes, so the one before it is the last that has features
    "UNet": Pattern(r"model(\.1\.submodule)*(\.0)?", r"model(\.1\.submodule)+\.2"),
    # monai.networks.nets, and the package nnunet_mednext with blocks in place of stages
    "MedNeXt": Pattern(r"enc_(stages\.|block_)\d|bottleneck", r"dec_(stages\.|block_)\d"),
}
# dynamic-network-architectures
UNETS = Pattern(r"encoder\.stages\.\d+", r"decoder\.stages\.\d+")
# by class as well: what to name in a network that has no stages
WITHOUT_STAGES = {
    "Primus": "has one resolution and no decoder stages that SCR could compare; name, say, encoder_stages "
    '["eva.blocks.3", "eva.blocks.7"], decoder_stages ["up_projection.decode.0"] and teacher "up_projection.decode.1" '
    "in the plans",
}


class Stages(NamedTuple):
    """The stages of a network by name, in the order of the forward pass; empty for a network that is not known.

    Attributes:
        encoder: From full resolution to the bottleneck.
        decoder: From the bottleneck on.
        single: The names of those that are one block, where others have several.
        are_maps: Whether the network's class says that they give maps `(B, C, *spatial)`.
    """

    encoder: Modules
    decoder: Modules
    single: frozenset[str] = frozenset()
    are_maps: bool = False


def known_stages(network: nn.Module) -> Stages:
    """The stages of a network of dynamic-network-architectures, or of one that is known."""
    classes = [base.__name__ for base in type(network).__mro__]
    for pattern in (UNETS, *(KNOWN[name] for name in classes if name in KNOWN)):
        encoder, decoder = (_innermost(network, names) for names in (pattern.encoder, pattern.decoder))
        if encoder and decoder:
            single = frozenset(name for name in encoder | decoder if re.fullmatch(pattern.single, name))
            return Stages(encoder, decoder, single, are_maps=pattern is not UNETS)
    return Stages({}, {})


def without_stages(network: nn.Module) -> str:
    """What to do about a network whose stages are not known, in words for its user."""
    classes = [base.__name__ for base in type(network).__mro__]
    reason = next((WITHOUT_STAGES[name] for name in classes if name in WITHOUT_STAGES), None)
    return f"SelfReg: {classes[0]} {reason or 'has no encoder.stages and decoder.stages; ' + HOW_TO_NAME}"


def find_module(network: nn.Module, setting: str, name: str) -> nn.Module:
    """The module of this dotted name.

    Args:
        network: Whose module it is.
        setting: The setting that names it, for the error's text.
        name: As `get_submodule` takes it.

    Raises:
        SelfRegError: There is none.
    """
    modules = {_written(known): module for known, module in network.named_modules(remove_duplicate=False)}
    if name in modules:
        return modules[name]
    ending = [known for known in modules if known.endswith(f".{name}")]
    nearest = ending[:5] or get_close_matches(name, modules, 3, cutoff=0.4)
    close = f"; the nearest: {', '.join(nearest)}" if nearest else ""
    raise SelfRegError(
        f"SelfReg: plans key 'selfreg.{setting}' names {name!r}, which is no module of "
        f"{type(network).__name__}{close} (all: {LIST_MODULES})"
    )


def first_block(name: str, stage: nn.Module) -> nn.Module | None:
    """The first of a stage's convolution, residual or attention blocks; None if the stage is a single block.

    Raises:
        SelfRegError: The stage is not made of blocks.
    """
    for module in stage.modules():
        for attribute in ("convs", "blocks"):  # of StackedConvBlocks; of StackedResidualBlocks and Swin's layers
            blocks = getattr(module, attribute, None)
            if isinstance(blocks, (nn.Sequential, nn.ModuleList)):
                return blocks[0] if len(blocks) > 1 else None
    raise SelfRegError(f"SelfReg: {name} is not made of blocks; set plans key 'selfreg.taps' to stages")


def _written(name: str) -> str:
    """A module's name as the network's author wrote it, whether a part around it is compiled or not."""
    return name.replace("_orig_mod.", "")


def _innermost(network: nn.Module, pattern: str) -> Modules:
    """The modules whose names match, without those that hold another of them."""
    named = {_written(name): module for name, module in network.named_modules()}
    found = {name: module for name, module in named.items() if re.fullmatch(pattern, name)}
    return {name: found[name] for name in found if not any(other.startswith(f"{name}.") for other in found)}
