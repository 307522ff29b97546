"""The demo's command line, when it goes on with a training, and what it tells of what nnU-Net wrote."""

import os
import zipfile

import numpy as np
import pytest
import torch

from nnunetv2_selfreg.commands.demo import Demo, epoch_lines, main, report
from nnunetv2_selfreg.errors import SelfRegError


def test_a_device_that_is_not_there_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SelfRegError, match=r"--device cuda: PyTorch finds no such device here; use .*--device cpu"):
        main(["--folder", str(tmp_path / "demo"), "--device", "cuda"])
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("seed", ["-1", "one", "1.5"])
def test_a_seed_is_a_whole_number_from_0_on(seed, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([f"--seed={seed}"])
    assert exit_.value.code == 2
    assert "--seed" in capsys.readouterr().err


LOGGING = {
    "selfreg_share": [0.07, 0.0512],
    "mean_fg_dice": [np.float64(0.5), float("nan")],
    "dice_per_class_or_region": [[np.float32(0.5), np.float32(0.25), np.float32(0.75)], [0.0, 1e-4, float("nan")]],
    "epoch_start_timestamps": [100.0, 140.4],
    "epoch_end_timestamps": [140.3, 200.4],
}
EPOCHS_TOLD = [
    "epoch 1 of 5: SelfReg 7.0% of the loss, pseudo Dice 0.50 (RV 0.50, myocardium 0.25, LV 0.75), 40 s",
    "epoch 2 of 5: SelfReg 5.1% of the loss, pseudo Dice nan (RV 0.00, myocardium 0.00, LV nan), 60 s",
]


def test_an_epoch_becomes_one_line():
    assert list(epoch_lines(LOGGING)) == EPOCHS_TOLD


class Trained:
    """Stands for the commands: leaves what nnUNetv2_train leaves, and remembers how it was called."""

    def __init__(self, fold):
        self.commands, self._fold = [], fold

    def run(self, name, command, **extra):
        self.commands.append((command, extra))
        (self._fold / "validation").mkdir(parents=True, exist_ok=True)
        content = {"network_weights": {}, "trainer_name": "any", "init_args": {}, "logging": LOGGING}
        torch.save(content, self._fold / "checkpoint_final.pth")
        (self._fold / "validation" / "summary.json").write_text('{"foreground_mean": {"Dice": 0.876}}')


def interrupted(folder, name, *, whole=True):
    """Leaves what an interrupted training leaves: plans, and after them a checkpoint."""
    demo = Demo(folder, 0, "cpu")
    (_, preprocessed, training, *_) = demo.steps()
    (plans,), (final,) = preprocessed.products, training.products
    demo.commands = Trained(final.parent)
    for parent in (plans.parent, final.parent):
        parent.mkdir(parents=True)
    plans.write_text("{}")
    os.utime(plans, (1, 1))
    if name:
        checkpoint = final.with_name(name)
        with zipfile.ZipFile(checkpoint, "w") as archive:
            archive.writestr("data", bytes(100))
        if not whole:
            checkpoint.write_bytes(checkpoint.read_bytes()[:50])
    return demo, plans


@pytest.mark.parametrize("name", ["checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"])
def test_an_interrupted_training_continues(tmp_path, name):
    demo, _ = interrupted(tmp_path, name)
    demo.steps()[2].action()
    command, extra = demo.commands.commands[0]
    assert command[:4] == ["nnUNetv2_train", "927", "2d", "0"]
    assert command[-1] == "--c"
    assert extra == {"nnUNet_n_proc_DA": "0"}


def test_a_training_without_a_checkpoint_begins_and_is_told_by_epoch(tmp_path, capsys):
    demo, _ = interrupted(tmp_path, None)
    demo.steps()[2].action()
    assert "--c" not in demo.commands.commands[0][0]
    told = [*EPOCHS_TOLD, "mean Dice of the fold's validation cases: 0.88"]
    assert capsys.readouterr().out.splitlines() == [f"  {line}" for line in told]


def test_a_half_written_checkpoint_is_not_continued(tmp_path):
    demo, _ = interrupted(tmp_path, "checkpoint_best.pth", whole=False)
    demo.steps()[2].action()
    assert "--c" not in demo.commands.commands[0][0]


def test_a_checkpoint_older_than_the_plans_is_not_continued(tmp_path):
    demo, plans = interrupted(tmp_path, "checkpoint_best.pth")
    os.utime(plans, (2**32, 2**32))
    demo.steps()[2].action()
    assert "--c" not in demo.commands.commands[0][0]


def test_the_report_is_aligned_and_names_what_comes_next(tmp_path):
    dice = {"RV": 0.9, "myocardium": 0.85, "LV": 0.95, "mean": 0.9}
    lines = report(dice, {"data": 0.6, "training": 251.2}, {"training"}, tmp_path / "overlay.png")
    assert lines[2:6] == [f"  {name:<12}{value:10.2f}" for name, value in dice.items()]
    assert f"  {'data':<12}{'1 s':>10}  (an earlier run)" in lines
    assert f"  {'training':<12}{'4 min 11 s':>10}" in lines
    assert f"  {'total':<12}{'4 min 12 s':>10}" in lines
    assert any(str(tmp_path / "overlay.png") in line for line in lines)
    assert "-tr nnUNetTrainerSelfReg" in lines[-1]
