"""The paper's baseline as the registered benchmarks have it: a plain U-Net in nnU-Net, with and without SelfReg."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import folder
from torch import nn
from trainings import build_trainer, edit_plans, logged

from nnunetv2_selfreg.compat import find_external_trainer

LEADERBOARD = Path(__file__).parents[2] / "examples" / "leaderboard"


@pytest.fixture(scope="module")
def plain(dataset):
    name = edit_plans(dataset.raw.name, "Small", "Plain", lambda configurations: None)
    path = folder("preprocessed") / dataset.raw.name / f"{name}.json"
    subprocess.run([sys.executable, LEADERBOARD / "plain_unet.py", path], check=True)
    return name


@pytest.fixture
def trainers(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(LEADERBOARD / "trainers"))
    if find_external_trainer("nnUNetTrainerPlain_4000steps") is None:
        pytest.skip("nnU-Net reads nnUNet_extTrainer since 2.8")


def test_a_plain_unet_trains_with_selfreg(dataset, plain, trainers, tmp_path, monkeypatch):
    trainer = build_trainer(tmp_path, dataset.raw.name, "2d", "nnUNetTrainerSelfRegPlain_4000steps", plain)
    assert trainer.num_epochs * trainer.num_iterations_per_epoch == 4000
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
    trainer.disable_checkpointing = True
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer.run_training()
    kinds = {type(module) for module in trainer.network.modules()}
    assert {nn.BatchNorm2d, nn.ReLU} <= kinds
    assert not kinds & {nn.InstanceNorm2d, nn.LeakyReLU}
    assert isinstance(trainer.network(torch.zeros(1, 1, 64, 64)), torch.Tensor)  # one output: no deep supervision
    for name in ("scr", "ifd"):
        (value,) = logged(trainer)[name]
        assert np.isfinite(value)
        assert value > 0


def test_flips_and_rotations_alone(dataset, plain, trainers, tmp_path):
    """What is constant stays so, and a disc keeps its area; with nnU-Net's own augmentation neither does."""
    axis = torch.arange(64) - 31.5
    disc = ((axis**2)[:, None] + axis**2 < 20**2)[None].to(torch.int16)
    image = torch.full((1, 64, 64), 2.0)
    found = {}
    for name in ("nnUNetTrainerPlain_4000steps", "nnUNetTrainer_4000steps"):
        trainer = build_trainer(tmp_path, dataset.raw.name, "2d", find_external_trainer(name), plain)
        rotation, dummy, _, axes = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
        assert axes == (0, 1)
        # of predictions
        plain_one = "Plain" in name
        assert trainer.inference_allowed_mirroring_axes == (None if plain_one else (0, 1))
        transforms = trainer.get_training_transforms(np.array([64, 64]), rotation, None, axes, dummy)
        drawn = [transforms(image=image.clone(), segmentation=disc.clone()) for _ in range(60)]
        middle = [step["image"][0, 28:36, 28:36] for step in drawn]
        areas = [int((step["segmentation"] == 1).sum()) / int(disc.sum()) for step in drawn]
        found[name] = max(float((part - 2).abs().max()) for part in middle), max(areas) - min(areas)
        assert any(not torch.equal(step["image"], image) for step in drawn)  # rotated: the corners are empty
    changes, spread = found["nnUNetTrainerPlain_4000steps"]
    assert changes < 1e-5
    assert spread < 0.02
    changes, spread = found["nnUNetTrainer_4000steps"]
    assert changes > 0.1
    assert spread > 0.1
