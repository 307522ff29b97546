"""The cascade as nnU-Net's users train and predict it: low resolution on all cases, then full resolution."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from commands import model_folder, quoted, run
from trainings import cascade_plans

TRAINER = "nnUNetTrainerSelfReg_1epoch"
pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Cascade:
    """Both stages trained."""

    low: Path
    full: Path


@pytest.fixture(scope="module")
def cascade(dataset, tmp_path_factory):
    """Its results lie in a folder of their own, which is nnU-Net's as long as this module runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_results", str(tmp_path_factory.mktemp("results")))
        plans = cascade_plans(dataset)
        for configuration, fold in (("3d_lowres", "all"), ("3d_cascade_fullres", 0)):
            run(f"nnUNetv2_train {dataset.number} {configuration} {fold} -tr {TRAINER} -p {plans} -device cpu")
        yield Cascade(*(model_folder(TRAINER, plans, name) for name in ("3d_lowres", "3d_cascade_fullres")))


def checkpoint(fold: Path) -> dict:
    return torch.load(fold / "checkpoint_final.pth", weights_only=False)


def test_both_stages_log_the_terms(cascade):
    for fold in (cascade.low / "fold_all", cascade.full / "fold_0"):
        for name in ("scr", "ifd", "selfreg_share"):
            (value,) = checkpoint(fold)["logging"][name]
            assert math.isfinite(value)
            assert value > 0


def test_the_first_stage_hands_on_every_case(cascade, dataset):
    handed = {path.name.split(".")[0] for path in (cascade.low / "predicted_next_stage/3d_cascade_fullres").iterdir()}
    assert handed == {path.name.split(".")[0] for path in (dataset.raw / "labelsTr").iterdir()}


def test_the_second_stage_reads_the_first_ones_labels(cascade):
    labels = len(checkpoint(cascade.full / "fold_0")["init_args"]["dataset_json"]["labels"])
    first = checkpoint(cascade.full / "fold_0")["network_weights"]["encoder.stages.0.0.convs.0.conv.weight"]
    assert first.shape[1] == 1 + labels - 1  # the image and a map for each label but the background


def test_both_stages_predict_unseen_cases(cascade, dataset, tmp_path):
    low, full = tmp_path / "low", tmp_path / "full"
    predict = f"nnUNetv2_predict -d {dataset.number} -i {quoted(dataset.raw / 'imagesTs')} -tr {TRAINER} -p Cascade"
    quick = "-device cpu -npp 1 -nps 1"
    run(f"{predict} -c 3d_lowres -f all -o {quoted(low)} {quick}")
    run(f"{predict} -c 3d_cascade_fullres -f 0 -o {quoted(full)} -prev_stage_predictions {quoted(low)} {quick}")
    references = {path.name: SimpleITK.ReadImage(path) for path in (dataset.raw / "labelsTs").iterdir()}
    for output in (low, full):
        predictions = {path.name: SimpleITK.ReadImage(path) for path in output.glob("*.nii.gz")}
        assert predictions.keys() == references.keys()
        for name, prediction in predictions.items():
            for ask in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
                assert getattr(prediction, ask)() == pytest.approx(getattr(references[name], ask)()), (name, ask)
            assert np.isin(SimpleITK.GetArrayFromImage(prediction), (0, 1, 2, 3)).all()
