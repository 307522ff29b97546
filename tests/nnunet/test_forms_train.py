"""The study's forms in nnU-Net: found by name in `nnUNet_extTrainer`, with a length of their own, and trained."""

from pathlib import Path

import numpy as np
import pytest
from trainings import build_trainer, logged

from nnunetv2_selfreg.compat import find_external_trainer

TRAINERS = Path(__file__).parents[2] / "examples" / "study" / "trainers"


@pytest.mark.parametrize(
    ("form", "term"),
    [
        ("Probe", "probe"),
        *(pytest.param(form, form.lower(), marks=pytest.mark.slow) for form in ("Attention", "CKA", "Decorrelation")),
    ],
)
def test_a_form_trains_for_2500_steps(form, term, dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("nnUNet_extTrainer", str(TRAINERS))
    if find_external_trainer("nnUNetTrainer_2500steps") is None:
        pytest.skip("nnU-Net reads nnUNet_extTrainer since 2.8")
    trainer = build_trainer(tmp_path, dataset.raw.name, "2d", f"nnUNetTrainerSelfReg{form}_2500steps", "Small")
    assert trainer.num_epochs * trainer.num_iterations_per_epoch == 2500
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
    trainer.disable_checkpointing = True
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    trainer.run_training()
    (value,) = logged(trainer)[term]
    assert np.isfinite(value)
    assert value > 0
