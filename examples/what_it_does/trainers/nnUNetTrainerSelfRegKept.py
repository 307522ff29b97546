"""SelfReg in 4 epochs of 150 steps, with a checkpoint before the first and after each."""

from os.path import join

from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg


class nnUNetTrainerSelfRegKept(nnUNetTrainerSelfReg):
    """Leaves `checkpoint_after_N.pth` for N of 0 to 4 epochs, the first half of a training of 8."""

    def __init__(self, plans, configuration, fold, dataset_json, device) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 8, 150, 10

    def on_train_start(self) -> None:
        super().on_train_start()
        self.num_epochs = 4  # the learning rate was planned for 8 by now
        self._keep()

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        self._keep()

    def _keep(self) -> None:
        self.save_checkpoint(join(self.output_folder, f"checkpoint_after_{self.current_epoch}.pth"))
