"""The study's forms in nnU-Net: found by name in `nnUNet_extTrainer`, with a length of their own, and trained."""

from pathlib import Path

import numpy as np
import pytest
import torch
from trainings import build_trainer, logged

from nnunetv2_selfreg.compat import find_external_trainer
from nnunetv2_selfreg.trainer import find_trainer

TRAINERS = Path(__file__).parents[2] / "examples" / "study" / "trainers"


@pytest.fixture
def trainers(monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(TRAINERS))
    if find_external_trainer("nnUNetTrainer_2500steps") is None:
        pytest.skip("nnU-Net reads nnUNet_extTrainer since 2.8")


@pytest.mark.parametrize(
    ("form", "term"),
    [
        ("Probe", "probe"),
        *(pytest.param(form, form.lower(), marks=pytest.mark.slow) for form in ("Attention", "CKA", "Decorrelation")),
    ],
)
def test_a_form_trains_for_2500_steps(form, term, dataset, trainers, tmp_path, monkeypatch):
    trainer = build_trainer(tmp_path, dataset.raw.name, "2d", f"nnUNetTrainerSelfReg{form}_2500steps", "Small")
    assert trainer.num_epochs * trainer.num_iterations_per_epoch == 2500
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
    trainer.disable_checkpointing = True
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer.run_training()
    (value,) = logged(trainer)[term]
    assert np.isfinite(value)
    assert value > 0


def test_both_arms_of_a_seeded_pair_begin_alike_and_see_the_same_batches(dataset, trainers, tmp_path, monkeypatch):
    """SCR draws at random in between, from a generator of its own; another repetition begins otherwise."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    seen = {}
    for arm, repetition in (("", 0), ("SelfReg", 0), ("", 1)):
        monkeypatch.setenv("STUDY_REPETITION", str(repetition))
        name = f"nnUNetTrainer{arm}Seeded_2500steps"
        trainer = build_trainer(tmp_path, dataset.raw.name, "2d", find_trainer(name), "Small")
        trainer.disable_checkpointing = True
        trainer.on_train_start()
        found = [parameter.detach().clone() for parameter in trainer.network.parameters()]
        trainer.on_train_epoch_start()
        for _ in range(3):
            found.append(torch.get_rng_state())  # what a batch draws of torch is rare, so it may look alike by chance
            batch = next(trainer.dataloader_train)
            found.append(batch["data"].clone())
            trainer.train_step(batch)
        seen[arm, repetition] = found
    alike, other = (
        [torch.equal(one, two) for one, two in zip(seen["", 0], seen[key], strict=True)]
        for key in (("SelfReg", 0), ("", 1))
    )
    assert all(alike)
    assert not any(other[-6:])
