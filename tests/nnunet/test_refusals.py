"""Trainings that would leave SelfReg out, or settings out, end before their first step."""

import pytest
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerCELoss import nnUNetTrainerCELoss
from trainings import build_trainer, edit_plans

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.terms import own_term
from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg


class LossFirst(nnUNetTrainerCELoss, nnUNetTrainerSelfReg):
    """Its loss comes from the stock trainer, which does not know of SelfReg."""


class SelfRegFirst(nnUNetTrainerSelfReg, nnUNetTrainerCELoss):
    pass


def test_a_trainer_whose_loss_hides_selfregs_is_refused(dataset, tmp_path):
    trainer = build_trainer(tmp_path, dataset.raw.name, "2d", LossFirst, "Small")
    with pytest.raises(SelfRegError, match=r"the loss of LossFirst is a .* without SelfReg; put the SelfReg "):
        trainer.initialize()


def test_the_other_order_trains_with_selfreg(dataset, tmp_path):
    trainer = build_trainer(tmp_path, dataset.raw.name, "2d", SelfRegFirst, "Small")
    trainer.initialize()
    assert trainer.loss.weights == {"scr": 0.015, "ifd": 0.015}


class Clash(nnUNetTrainerSelfReg):
    terms = (own_term("train_losses", lambda student, teacher: student.square().mean(), 0.1),)


def test_a_term_named_like_a_value_of_nnunets_log_is_refused(dataset, tmp_path):
    trainer = build_trainer(tmp_path, dataset.raw.name, "2d", Clash, "Small")
    with pytest.raises(SelfRegError, match="nnU-Net logs values called train_losses itself; rename the term"):
        trainer.initialize()


@pytest.mark.parametrize("place", ["plans", "architecture"])
def test_settings_that_would_be_ignored_are_refused(dataset, tmp_path, place):
    def edit(plans):
        target = plans if place == "plans" else plans["configurations"]["2d"]["architecture"]
        target["selfreg"] = {"lambda_scr": 1.0}

    name = edit_plans(dataset.raw.name, "Small", f"Ignored{place}", lambda configurations: None, whole=edit)
    trainer = build_trainer(tmp_path, dataset.raw.name, "2d", nnUNetTrainerSelfReg, name)
    with pytest.raises(SelfRegError, match=r"selfreg' would be ignored; move it into a configuration"):
        trainer.initialize()
