"""The demo's command line, and what it tells of what nnU-Net wrote."""

import re

import numpy as np
import pytest

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
    "epoch_start_timestamps": [100.0, 140.4],
    "epoch_end_timestamps": [140.3, 200.4],
    "lrs": [0.01, 0.008],
}


def test_an_epoch_becomes_one_line():
    assert list(epoch_lines(LOGGING)) == [
        "epoch 1 of 5: SelfReg 7.0% of the loss, pseudo Dice 0.50, 40 s",
        "epoch 2 of 5: SelfReg 5.1% of the loss, pseudo Dice nan, 60 s",
    ]


@pytest.mark.parametrize(("device", "extra"), [("cpu", {"nnUNet_n_proc_DA": "0"}), ("cuda", {})])
def test_every_part_runs_one_of_nnunets_commands_with_the_demos_folders(tmp_path, monkeypatch, device, extra):
    ran = []
    monkeypatch.setattr(
        "nnunetv2_selfreg.commands.demo.run_command",
        lambda command, settings, log, **extra: ran.append((command, settings, log, extra)),
    )
    monkeypatch.setattr("nnunetv2_selfreg.model_folder.load_checkpoint", lambda path: {"logging": LOGGING})
    for part in Demo(tmp_path, 0, device).parts()[1:5]:
        part.action()
    commands, settings, logs, extras = zip(*ran, strict=True)
    assert [command[0] for command in commands] == [
        "nnUNetv2_plan_and_preprocess",
        "nnUNetv2_train",
        "nnUNetv2_predict",
        "nnUNetv2_evaluate_folder",
    ]
    trainer = ("-p", "nnUNetPlansDemo", "-tr", "nnUNetTrainerSelfReg_5epochs", "-device", device)
    assert commands[1] == ("nnUNetv2_train", "927", "2d", "0", *trainer)
    assert extras == ({}, extra, {}, {})
    assert {log.parent for log in logs} == {tmp_path / "logs"}
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        assert {setting[name] for setting in settings} == {str(tmp_path / name)}


@pytest.mark.parametrize(("mean", "code"), [(0.1, 1), (float("nan"), 1), (0.95, 0)])
def test_a_dice_that_no_working_installation_reaches_is_an_error(tmp_path, monkeypatch, capsys, mean, code):
    monkeypatch.setattr("nnunetv2_selfreg.commands.demo.run_parts", lambda parts, marker: None)
    monkeypatch.setattr(Demo, "dice", lambda demo: {"RV": mean, "mean": mean})
    assert main(["--folder", str(tmp_path / "demo"), "--device", "cpu"]) == code
    assert ("try nnUNetv2_selfreg doctor" in capsys.readouterr().out) == (code == 1)


def test_the_report_is_aligned_and_names_what_comes_next(tmp_path):
    demo = Demo(tmp_path / "a b", 0, "cpu")
    dice = {"RV": 0.9, "myocardium": 0.85, "LV": 0.95, "mean": 0.9}
    lines = report(demo, dice).splitlines()
    assert lines[1:6] == [
        "Mean Dice of the 6 unseen cases",
        "  RV          0.90",
        "  myocardium  0.85",
        "  LV          0.95",
        "  mean        0.90",
    ]
    assert f"Overlay of a prediction: {tmp_path / 'a b' / 'overlay.png'}" in lines
    assert any(
        re.match(r"  nnUNetv2_selfreg inspect '.*/a b/nnUNet_results/.*' --images '.*/imagesTs'", x) for x in lines
    )
    assert lines[-3:] == [
        "  nnUNetv2_train YOUR_DATASET 2d 0 -tr nnUNetTrainerSelfReg",
        "  nnUNetv2_train YOUR_DATASET 2d 0 -tr nnUNetTrainer",
        "  nnUNetv2_selfreg compare MODEL_WITHOUT MODEL_WITH -o COMPARISON",
    ]
