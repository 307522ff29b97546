"""Small U-Nets as nnU-Net builds them, and maps and settings to try the losses with."""

from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor

from nnunetv2_selfreg.anchors import Anchor
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import StageFeatures


def selfreg_settings(**given: Any) -> SelfRegSettings:
    """Settings as the plans give them."""
    return SelfRegSettings.from_plans({"selfreg": given})


def anchored(encoder: list[Tensor], decoder: list[Tensor], teacher: Tensor) -> StageFeatures:
    """Maps of no network, as taps would hand them over."""
    students = [*encoder, *decoder]
    anchors = [Anchor() for _ in students]
    links = [anchor.lay(student)[1] for anchor, student in zip(anchors, students, strict=True)]
    encoder, decoder = ([student.detach() for student in part] for part in (encoder, decoder))
    return StageFeatures(encoder, decoder, teacher, anchors, links)


def recorded(network: torch.nn.Module) -> dict[str, Tensor]:
    """What each module gave in the last forward pass, with its graph, by the module's name."""
    maps: dict[str, Tensor] = {}
    for name, module in network.named_modules():
        module.register_forward_hook(lambda module, inputs, output, name=name: maps.update({name: output}))
    return maps


def plain_unet(dimensions: int = 2, features: tuple[int, ...] = (4, 8, 16), **changes) -> PlainConvUNet:
    """A PlainConvUNet with instance norm and in-place LeakyReLU, as nnU-Net's planner configures it."""
    torch.manual_seed(0)
    arguments = {
        "input_channels": 1,
        "n_stages": len(features),
        "features_per_stage": features,
        "conv_op": {2: torch.nn.Conv2d, 3: torch.nn.Conv3d}[dimensions],
        "kernel_sizes": 3,
        "strides": [1] + [2] * (len(features) - 1),
        "n_conv_per_stage": 2,
        "num_classes": 3,
        "n_conv_per_stage_decoder": 2,
        "conv_bias": True,
        "norm_op": {2: torch.nn.InstanceNorm2d, 3: torch.nn.InstanceNorm3d}[dimensions],
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "nonlin": torch.nn.LeakyReLU,
        "nonlin_kwargs": {"inplace": True},
        "deep_supervision": True,
    }
    return PlainConvUNet(**(arguments | changes))
