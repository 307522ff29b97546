"""A trainer that builds MONAI's SegResNet whatever the plans say, without any word of SelfReg.

With this file in a folder of `nnUNet_extTrainer`, `nnUNetTrainerSelfRegSegResNet` is the same with SelfReg.
"""

from typing import Any

from monai.networks.nets import SegResNet
from nnunetv2.training.nnUNetTrainer.variants.network_architecture.nnUNetTrainerNoDeepSupervision import (
    nnUNetTrainerNoDeepSupervision,
)


class nnUNetTrainerSegResNet(nnUNetTrainerNoDeepSupervision):
    @staticmethod
    def build_network_architecture(
        plans_manager: Any, configuration_manager: Any, channels: int, heads: int, enable_deep_supervision: bool = False
    ) -> SegResNet:
        dimensions = len(configuration_manager.patch_size)
        return SegResNet(dimensions, 8, channels, heads, blocks_down=(1, 1, 1), blocks_up=(1, 1))

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """SegResNet has none to switch."""
