"""Two real trainings compared by the command, from what nnU-Net's own validation left."""

import json

import pytest
from trainings import build_trainer

from nnunetv2_selfreg.cli import main


@pytest.mark.longer
def test_stock_and_selfreg_are_compared_by_what_their_validation_left(dataset, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    dice = []
    for name in ("nnUNetTrainer", "nnUNetTrainerSelfReg"):
        trainer = build_trainer(tmp_path, dataset.raw.name, "2d", name, "Small")
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
        trainer.run_training()
        trainer.perform_actual_validation()
        found = json.loads(
            (tmp_path / dataset.raw.name / f"{name}__Small__2d/fold_0/validation/summary.json").read_text()
        )
        dice.append(100 * found["foreground_mean"]["Dice"])
    models = [
        str(tmp_path / dataset.raw.name / f"{name}__Small__2d") for name in ("nnUNetTrainer", "nnUNetTrainerSelfReg")
    ]
    assert main(["compare", *models, "--pictures", "2", "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    # nnU-Net's mean over classes of the mean over cases, as printed with two digits
    row = next(line for line in shown.splitlines() if line.startswith("| mean"))
    a, b, difference = (float(cell) for cell in row.split("|")[2:5])
    assert (a, b, difference) == pytest.approx((*dice, dice[1] - dice[0]), abs=0.0051)
    assert "With one fold there is no interval over folds" in shown
    assert len(list((tmp_path / "out" / "pictures").glob("*.png"))) >= 1
