"""The study's subclass whose weights rise over the first epochs."""

import importlib.util
from pathlib import Path

import pytest
from trainings import build_trainer, edit_plans, logged

FILE = Path(__file__).parents[2] / "examples" / "study" / "trainers" / "nnUNetTrainerRamped.py"


@pytest.mark.longer
@pytest.mark.parametrize("terms", [("scr", "ifd"), ("scr",)])
def test_weights_rise_and_stay(terms, dataset, tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location(FILE.stem, FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    weights = []

    class Recorded(module.nnUNetTrainerSelfRegRamped_10epochs):
        def on_train_epoch_end(self, train_outputs):
            weights.append(self.loss.weights)
            super().on_train_epoch_end(train_outputs)

    off = {f"lambda_{name}": 0 for name in {"scr", "ifd"} - set(terms)}
    plans = edit_plans(dataset.raw.name, "Small", "Ramped", lambda found: found["2d"].update(selfreg=off))
    trainer = build_trainer(tmp_path, dataset.raw.name, "2d", Recorded, plans)
    assert (trainer.num_epochs, trainer.ramp) == (10, 5)
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 4, 2, 1
    trainer.ramp, trainer.disable_checkpointing = 2, True
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer.run_training()
    assert weights == [dict.fromkeys(terms, pytest.approx(value)) for value in (0, 0.0075, 0.015, 0.015)]
    log = logged(trainer)
    assert log["selfreg_share"][0] == 0
    assert all(share > 0 for share in log["selfreg_share"][1:])
    assert all(value > 0 for name in terms for value in log[name])
