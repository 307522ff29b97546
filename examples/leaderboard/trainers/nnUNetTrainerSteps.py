"""nnU-Net's trainer for a fixed number of steps in short epochs, so that a CPU's budget still ends at a low rate.

nnU-Net lowers the learning rate once an epoch. SelfReg's form of it is made by name: `nnUNetTrainerSelfReg_4000steps`.
"""

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
