"""Feature maps that turn infinite: an error that says where, unless the gradient scaler skips the step."""

import math

import numpy as np
import pytest
import torch
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from nnunetv2_selfreg.criterion import NonFinite


@pytest.fixture
def trainer(dataset, monkeypatch):
    """Two epochs of three steps; the map of the encoder's second stage is infinite in those named in `trainer.bad`."""
    trainer = get_trainer_from_args(
        dataset.raw.name, "2d", 1, "nnUNetTrainerSelfReg", "Small", device=torch.device("cpu")
    )
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 2, 3, 1
    trainer.initialize()
    trainer.bad, steps = set(), iter(range(100))

    def break_map(stage, inputs, output):
        if stage.training and next(steps) in trainer.bad:
            output.data[0, 0] = math.inf

    trainer.network.encoder.stages[1].register_forward_hook(break_map)
    return trainer


@pytest.mark.parametrize("scaler", [None, torch.GradScaler("cpu", enabled=False)], ids=["none", "disabled"])
def test_the_error_names_stage_epoch_and_iteration(trainer, scaler):
    trainer.grad_scaler, trainer.bad = scaler, {4, 5}
    with pytest.raises(
        RuntimeError, match=r"NaN or infinite in epoch 1, iteration 1, first at encoder\.stages\.1; go on"
    ):
        trainer.run_training()
    assert trainer.current_epoch == 1  # what checkpoints hold is from before


def test_steps_that_the_gradient_scaler_skips_are_no_error(trainer):
    trainer.grad_scaler, trainer.bad = torch.GradScaler("cpu"), {1, 5}
    trainer.run_training()
    logging = getattr(trainer.logger, "local_logger", trainer.logger).my_fantastic_logging
    assert all(math.isfinite(value) for name in ("scr", "ifd", "selfreg_share") for value in logging[name])


def test_an_epoch_without_a_single_finite_step_is_an_error_with_the_scaler_too(trainer):
    trainer.grad_scaler, trainer.bad = torch.GradScaler("cpu"), {0, 1, 2}
    with pytest.raises(RuntimeError, match="in epoch 0, iteration 0, first at encoder"):
        trainer.run_training()


def on_ranks(trainer, monkeypatch, ranks):
    """Lets the trainer gather these results of two processes; whatever nnU-Net gathers is the same on both."""

    def gather(found, mine):
        found[:] = ranks if isinstance(mine, tuple) else [mine] * 2

    monkeypatch.setattr("torch.distributed.all_gather_object", gather)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr(trainer.loss, "take_means", lambda: ranks[0][1])  # this process is the first
    trainer.is_ddp, trainer.grad_scaler = True, torch.GradScaler("cpu")
    trainer.on_train_epoch_end([{"loss": np.float32(0.5)}])


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_draws_the_same_channels(trainer, rank):
    trainer.local_rank = rank
    assert trainer._build_loss()._generator.initial_seed() == 0


def test_the_logged_means_are_those_of_all_ranks(trainer, monkeypatch):
    ranks = [(None, {"loss": 0.5, "scr": scr, "ifd": 4 * scr}) for scr in (1.0, 2.0)]
    on_ranks(trainer, monkeypatch, ranks)
    logging = getattr(trainer.logger, "local_logger", trainer.logger).my_fantastic_logging
    assert (logging["scr"][-1], logging["ifd"][-1]) == (1.5, 6.0)
    assert logging["selfreg_share"][-1] == pytest.approx(0.015 * 7.5 / (0.5 + 0.015 * 7.5))


def test_an_epoch_without_a_step_with_terms_logs_no_number(trainer, monkeypatch):
    """As with `every` and fewer training steps than that."""
    monkeypatch.setattr(trainer.loss, "take_means", dict)
    trainer.on_train_epoch_end([{"loss": np.float32(0.5)}])
    logging = getattr(trainer.logger, "local_logger", trainer.logger).my_fantastic_logging
    assert all(math.isnan(logging[name][-1]) for name in ("scr", "ifd", "selfreg_share"))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_rank_without_a_finite_step_ends_the_epoch_whatever_the_others_say(trainer, monkeypatch, order):
    """With DDP; a step that overflows now and then is no error."""
    once = NonFinite(["encoder.stages.1"], 1, False), {"loss": 0.5, "scr": 1.0, "ifd": 1.0}
    always = NonFinite(["encoder.stages.2"], 0, True), {"loss": math.nan, "scr": math.nan, "ifd": math.nan}
    with pytest.raises(RuntimeError, match=r"iteration 0, first at encoder\.stages\.2"):
        on_ranks(trainer, monkeypatch, [(once, always)[rank] for rank in order])


def test_an_override_that_leaves_out_ours_is_said_and_the_curves_go_on(trainer, monkeypatch, capsys):
    monkeypatch.setattr(type(trainer), "on_train_epoch_end", nnUNetTrainer.on_train_epoch_end)
    trainer.run_training()
    assert capsys.readouterr().out.count("SelfReg: an on_train_epoch_end left out super()'s: no curves") == 2
    logging = getattr(trainer.logger, "local_logger", trainer.logger).my_fantastic_logging
    assert {name: len(values) for name, values in logging.items()} == dict.fromkeys(logging, 2)
    assert all(map(math.isnan, logging["scr"]))


def test_a_picture_that_cannot_be_written_does_not_end_the_training(trainer, monkeypatch, capsys):
    def no_space(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", no_space, raising=True)
    monkeypatch.setattr(type(trainer.logger), "plot_progress_png", lambda *_: None)  # nnU-Net's own comes before ours
    trainer.run_training()
    printed = capsys.readouterr().out
    assert "selfreg.png cannot be written: No space left on device" in printed
    assert "; the training goes on" in printed
