"""Checkpoints of trainings that did not log SelfReg's terms."""

import json
import math
import shutil
import threading

import numpy as np
import pytest
import torch
from commands import run
from nnunetv2.run.run_training import get_trainer_from_args

from nnunetv2_selfreg.errors import SelfRegError


class OtherLogger:
    """Stands where nnU-Net puts wandb's."""

    def __init__(self):
        self.logged = {}

    def log(self, key, value, step):
        self.logged[key] = (value, step)

    def update_config(self, config):
        pass

    def log_summary(self, key, value):
        pass


@pytest.fixture
def trainer(dataset):
    return get_trainer_from_args(
        dataset.raw.name, "2d", 0, "nnUNetTrainerSelfRegSCR", "Small", device=torch.device("cpu")
    )


def test_an_old_checkpoint_without_the_terms_still_loads(trainer, tmp_path, monkeypatch):
    trainer.initialize()
    assert list(trainer.loss.weights) == ["scr"]
    trainer.current_epoch = 3
    logger = getattr(trainer.logger, "local_logger", trainer.logger)
    logging = logger.my_fantastic_logging
    for name in logging:
        logging[name] = [[0.5, 0.5] if "class" in name else 0.5 for _ in range(4)]
    for name in ("scr", "selfreg_share"):
        del logging[name]
    trainer.save_checkpoint(str(tmp_path / "old.pth"))
    trainer.load_checkpoint(str(tmp_path / "old.pth"))
    logging = logger.my_fantastic_logging
    assert len(logging["scr"]) == len(logging["train_losses"]) == trainer.current_epoch == 4
    assert all(math.isnan(value) for value in logging["scr"])
    trainer.num_iterations_per_epoch = trainer.num_val_iterations_per_epoch = 2
    trainer.num_epochs = 5
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    wandb = OtherLogger()
    getattr(trainer.logger, "loggers", []).append(wandb)
    trainer.run_training()
    logging = logger.my_fantastic_logging
    assert [len(logging[name]) for name in ("scr", "selfreg_share", "train_losses")] == [5, 5, 5]
    assert math.isfinite(logging["scr"][4])
    if hasattr(trainer.logger, "loggers"):  # nnU-Net 2.6 knows no other loggers
        assert {name: wandb.logged[name] for name in ("scr", "selfreg_share")} == {
            name: (logging[name][4], 4) for name in ("scr", "selfreg_share")
        }


@pytest.mark.longer
def test_wrong_settings_end_before_the_training_starts(dataset):
    plans = json.loads((dataset.preprocessed / "Small.json").read_text())
    plans["plans_name"] = "Wrong"
    plans["configurations"]["2d"]["selfreg"] = {"lambda_src": 0.1}
    (dataset.preprocessed / "Wrong.json").write_text(json.dumps(plans))
    with pytest.raises(AssertionError) as failure:
        run(f"nnUNetv2_train {dataset.number} 2d 0 -tr nnUNetTrainerSelfReg -p Wrong -device cpu")
    last = str(failure.value).strip().splitlines()
    message = "SelfReg: plans key 'selfreg.lambda_src' is unknown; known: lambda_scr, lambda_ifd, "
    assert message in last[-1]


def test_other_settings_than_those_of_the_models_folder_are_refused(trainer, dataset, tmp_path):
    """On --c, and for a further fold: the plans saved with a model say how all of it was trained."""
    trainer.output_folder_base, trainer.output_folder = str(tmp_path), str(tmp_path / "fold_0")
    for fold in ("fold_0", "fold_1"):
        (tmp_path / fold).mkdir()
    trainer._check_earlier_folds()  # nothing is there
    plans = json.loads((dataset.preprocessed / "Small.json").read_text())
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    (tmp_path / "fold_0" / "checkpoint_best.pth").touch()
    (tmp_path / "fold_1" / "checkpoint_final.pth").touch()
    trainer._check_earlier_folds()  # the same settings
    (tmp_path / "plans.json").write_text(json.dumps(plans)[:-100])
    threading.Timer(0.5, (tmp_path / "plans.json").write_text, [json.dumps(plans)]).start()
    trainer._check_earlier_folds()  # while another fold writes them
    plans["configurations"]["2d"]["selfreg"] = {"lambda_scr": 0.1}
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(SelfRegError, match=r"with lambda_scr 0\.1,.* and these plans say lambda_scr 0\.015,"):
        trainer.on_train_start()
    assert json.loads((tmp_path / "plans.json").read_text()) == plans
    shutil.rmtree(tmp_path / "fold_1")
    trainer._check_earlier_folds()  # this fold alone, and it begins anew
    trainer.current_epoch = 1
    with pytest.raises(SelfRegError, match="give other settings plans of another name"):
        trainer._check_earlier_folds()
    plans["configurations"]["2d"]["selfreg"] = {"lambda_earlier": 0.1}
    (tmp_path / "plans.json").write_text(json.dumps(plans))
    with pytest.raises(
        SelfRegError, match=r"plans\.json, of what is trained there already: .*lambda_earlier' is unknown"
    ):
        trainer._check_earlier_folds()


def test_a_term_that_was_renamed_leaves_nothing_in_the_log(trainer, tmp_path):
    """nnU-Net's plot ends at the epoch of the shortest list."""
    trainer.initialize()
    logging = getattr(trainer.logger, "local_logger", trainer.logger).my_fantastic_logging
    for name in logging:
        logging[name] = [[0.5, 0.5] if "class" in name else 0.5 for _ in range(4)]
    trainer.current_epoch = 3
    logging |= {"earlier": [0.5], "theirs": [0.5] * 4}
    trainer.save_checkpoint(str(tmp_path / "earlier.pth"))
    del logging["earlier"], logging["theirs"]
    trainer.load_checkpoint(str(tmp_path / "earlier.pth"))
    logging = getattr(trainer.logger, "local_logger", trainer.logger).my_fantastic_logging
    logging["theirs"] += [0.6]  # which a trainer of somebody's logs in each epoch
    for name in logging.keys() - {"earlier", "theirs", "epoch_end_timestamps"}:
        logging[name].append([0.5, 0.5] if "class" in name else 0.5)
    trainer.on_epoch_end()
    assert {len(values) for values in logging.values()} == {5}
    assert {"scr", "theirs"} <= logging.keys()
    assert "earlier" not in logging


def test_a_loss_that_is_not_finite_ends_the_epoch(trainer):
    """Also where the terms were not computed in that step."""
    trainer.initialize()
    losses = [{"loss": np.float32(value)} for value in (0.5, 0.5, np.nan, np.nan)]
    expected = (
        r"SelfReg: the loss turned NaN or infinite in epoch 0, iteration 2; go on from the last checkpoint \(--c\)"
    )
    with pytest.raises(RuntimeError, match=expected):
        trainer.on_train_epoch_end(losses)


def test_a_loss_that_is_replaced_is_refused(trainer):
    """Before the epoch, and behind nnU-Net's own `on_train_epoch_start`."""
    trainer.initialize()
    trainer.loss = torch.nn.Identity()
    with pytest.raises(SelfRegError, match="replaced its loss by a Identity without SelfReg"):
        trainer.on_train_epoch_start()
    with pytest.raises(SelfRegError, match="replaced its loss by a Identity without SelfReg"):
        trainer.on_train_epoch_end([{"loss": np.float32(0.5)}])


def test_a_loss_that_is_built_anew_leaves_no_hook_behind(trainer):
    def hooks():
        return sum(len(module._forward_hooks) for module in trainer.network.modules())

    trainer.initialize()
    once = hooks()
    trainer.loss = trainer._build_loss()
    assert hooks() == once > 0


def test_the_share_of_the_loss_is_one_of_sizes(trainer, monkeypatch):
    """Also of a term with negative values."""
    trainer.initialize()
    monkeypatch.setattr(trainer.loss, "take_means", lambda: {"loss": 0.5, "scr": -20.0})
    trainer.on_train_epoch_end([{"loss": np.float32(0.2)}])
    logging = getattr(trainer.logger, "local_logger", trainer.logger).my_fantastic_logging
    assert logging["scr"] == [-20]
    assert logging["selfreg_share"] == [pytest.approx(0.3 / 0.8)]  # 0.015 times 20
