"""SelfReg with weights that rise over the first epochs: an alternative of the study, and an example of a subclass."""

from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg_10epochs


class nnUNetTrainerSelfRegRamped_10epochs(nnUNetTrainerSelfReg_10epochs):
    """Both weights rise from 0 in the first epoch to their value in the sixth, then stay there."""

    ramp = 5

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        part = min(1.0, self.current_epoch / self.ramp)
        weights = self.loss.settings.weights
        self.loss.weights = {term.name: part * weights[term.name] for term in self.loss.terms}
