"""nnU-Net's trainer for a fixed number of steps in short epochs, so that a CPU's budget still ends at a low rate.

nnU-Net lowers the learning rate once an epoch. SelfReg's forms are made by name: `nnUNetTrainerSelfReg_4000steps`,
`nnUNetTrainerSelfRegPlain_4000steps`.
"""

from typing import Any

from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


class nnUNetTrainer_4000steps(nnUNetTrainer):
    """80 epochs of 50 training and 10 validation iterations."""

    def __init__(self, plans, configuration, fold, dataset_json, device) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 80, 50, 10


class nnUNetTrainer_6000steps(nnUNetTrainer):
    """120 epochs of 50 training and 10 validation iterations."""

    def __init__(self, plans, configuration, fold, dataset_json, device) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 120, 50, 10


class nnUNetTrainerPlain(nnUNetTrainer):
    """A plain U-Net: no deep supervision, flips and rotations as the only augmentation, no mirroring in predictions."""

    def __init__(self, plans, configuration, fold, dataset_json, device) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.enable_deep_supervision = False

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> tuple[Any, ...]:  # noqa: N802
        """nnU-Net's own; the checkpoint then tells the prediction not to mirror."""
        found = super().configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        self.inference_allowed_mirroring_axes = None
        return found

    @staticmethod
    def get_training_transforms(*args: Any, **kwargs: Any) -> BasicTransform:
        """nnU-Net's own in 2d, without those of intensities, which it applies at random, and without scaling."""
        composed = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        composed.transforms = [step for step in composed.transforms if not isinstance(step, RandomTransform)]
        for step in composed.transforms:
            if isinstance(step, SpatialTransform):
                step.p_scaling = 0
        return composed


class nnUNetTrainerPlain_4000steps(nnUNetTrainerPlain):
    """As `nnUNetTrainer_4000steps`."""

    def __init__(self, plans, configuration, fold, dataset_json, device) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 80, 50, 10
