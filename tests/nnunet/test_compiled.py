"""Trainings whose network nnU-Net compiles, one after the other in one process, as in a notebook or a loop."""

from functools import partial

import pytest
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from trainings import build_trainer, logged

from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg


class AllWeightsAreLarge(nnUNetTrainerSelfReg):
    @classmethod
    def selfreg_settings(cls, plans, configuration):
        settings = super().selfreg_settings(plans, configuration)
        return type(settings)(dict.fromkeys(settings.weights, 0.5), settings.taps, decoder_stages=())


@pytest.fixture
def compile_on_cpu(monkeypatch):
    """nnU-Net compiles on CUDA only; here without the compiler's code generation, which takes a minute a network."""
    monkeypatch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")


@pytest.mark.longer
def test_each_training_runs_with_its_own_hooks(dataset, tmp_path, compile_on_cpu):
    trainers = ["nnUNetTrainer", "nnUNetTrainerSelfReg", AllWeightsAreLarge, "nnUNetTrainer", "nnUNetTrainerSelfReg"]
    shares = []
    for number, name in enumerate(trainers):
        trainer = build_trainer(tmp_path / str(number), dataset.raw.name, "2d", name, "Small")
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
        trainer.disable_checkpointing = True
        trainer.run_training()
        assert isinstance(trainer.network, torch._dynamo.OptimizedModule)
        shares += logged(trainer).get("selfreg_share", [])
        if name != "nnUNetTrainer":
            assert trainer.loss.taps.take() is None
    assert len(shares) == 3
    assert shares[1] > 3 * shares[0] > 0
