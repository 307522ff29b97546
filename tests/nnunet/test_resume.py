"""Checkpoints of trainings that did not log SelfReg's terms."""

import json
import math

import pytest
import torch
from commands import run
from nnunetv2.run.run_training import get_trainer_from_args


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
