"""MONAI's networks as nnU-Net builds networks: the plans name one of these functions as `network_class_name`.

nnU-Net calls what the plans name with `input_channels`, `num_classes`, `deep_supervision` and the plans' `arch_kwargs`.
"""

from typing import Any

from monai.networks.nets import MedNeXt, SegResNet, SwinUNETR, UNet
from monai.networks.nets.dynunet import DynUNet
from torch import nn


def swin_unetr(input_channels: int, num_classes: int, deep_supervision: bool = False, **arguments: Any) -> SwinUNETR:
    """`arguments` are SwinUNETR's: `spatial_dims`, `feature_size`, ..."""
    return _ready(SwinUNETR(in_channels=input_channels, out_channels=num_classes, **arguments), deep_supervision)


def dyn_unet(input_channels: int, num_classes: int, deep_supervision: bool = False, **arguments: Any) -> DynUNet:
    """`arguments` are DynUNet's: `spatial_dims`, `kernel_size`, `strides`, `upsample_kernel_size`, ..."""
    return _ready(DynUNet(in_channels=input_channels, out_channels=num_classes, **arguments), deep_supervision)


def unet(input_channels: int, num_classes: int, deep_supervision: bool = False, **arguments: Any) -> UNet:
    """`arguments` are UNet's: `spatial_dims`, `channels`, `strides`, ..."""
    return _ready(UNet(in_channels=input_channels, out_channels=num_classes, **arguments), deep_supervision)


def mednext(input_channels: int, num_classes: int, deep_supervision: bool = False, **arguments: Any) -> MedNeXt:
    """`arguments` are MedNeXt's: `spatial_dims`, `init_filters`, `kernel_size`, ..."""
    return _ready(MedNeXt(in_channels=input_channels, out_channels=num_classes, **arguments), deep_supervision)


def segresnet(input_channels: int, num_classes: int, deep_supervision: bool = False, **arguments: Any) -> SegResNet:
    """`arguments` are SegResNet's: `spatial_dims`, `init_filters`, ..."""
    return _ready(SegResNet(in_channels=input_channels, out_channels=num_classes, **arguments), deep_supervision)


def _ready(network: Any, deep_supervision: bool) -> Any:
    if deep_supervision:
        raise ValueError("MONAI's networks give one output; train with a trainer that ends in NoDeepSupervision")
    # nnU-Net sets network.decoder.deep_supervision before training and validation
    network.decoder = nn.Identity()
    return network
