"""nnU-Net's own commands with SelfReg trainers, from the plans to evaluated predictions."""

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from commands import folder, model_folder, quoted, run

TRAINER = "nnUNetTrainerSelfReg_5epochs"


@dataclass(frozen=True)
class Training:
    """A finished training and what the user saw of it."""

    configuration: str
    plans: str
    printed: str
    folder: Path

    def checkpoint(self) -> dict:
        return torch.load(self.folder / "fold_0" / "checkpoint_final.pth", weights_only=False)


@pytest.fixture(
    scope="session",
    params=[pytest.param("2d", marks=pytest.mark.longer), pytest.param("3d_fullres", marks=pytest.mark.slow)],
)
def training(request, dataset) -> Training:
    """2d with the paper's weights, 3d_fullres with plans that our own command wrote."""
    configuration, plans = request.param, "Small"
    if configuration == "3d_fullres":
        plans = "SmallSelfReg01"
        run(f"nnUNetv2_selfreg plans -d {dataset.number} -p Small -c {configuration} --lambda-scr 0.1 -o {plans}")
    printed = run(f"nnUNetv2_train {dataset.number} {configuration} 0 -tr {TRAINER} -p {plans} -device cpu")
    return Training(configuration, plans, printed, model_folder(TRAINER, plans, configuration))


@pytest.fixture(scope="session")
def predicted(training, dataset, tmp_path_factory) -> Path:
    """The folder with the unseen cases as the SelfReg trainer predicts them."""
    folder = tmp_path_factory.mktemp("predicted")
    predict(TRAINER, training, dataset, folder)
    return folder


def predict(trainer: str, training: Training, dataset, output: Path) -> None:
    run(
        f"nnUNetv2_predict -d {dataset.number} -c {training.configuration} -f 0 -tr {trainer} -p {training.plans} "
        f"-i {quoted(dataset.raw / 'imagesTs')} -o {quoted(output)} -device cpu -npp 1 -nps 1"
    )


def images(folder: Path) -> dict[str, SimpleITK.Image]:
    return {path.name: SimpleITK.ReadImage(path) for path in sorted(folder.glob("*.nii.gz"))}


def test_the_loss_falls_and_the_terms_are_logged(training):
    logging = training.checkpoint()["logging"]
    assert logging["train_losses"][-1] < logging["train_losses"][0]
    assert logging["val_losses"][-1] < logging["val_losses"][0]
    for name in ("scr", "ifd", "selfreg_share"):
        assert len(logging[name]) == 5
        assert all(math.isfinite(value) and value > 0 for value in logging[name])
    weight = {"Small": 0.015, "SmallSelfReg01": 0.1}[training.plans]
    for epoch in range(5):
        added = weight * logging["scr"][epoch] + 0.015 * logging["ifd"][epoch]
        stock = logging["train_losses"][epoch] - added
        # the mean size of nnU-Net's loss is at least the size of its mean
        assert 0 < logging["selfreg_share"][epoch] <= added / (abs(stock) + added) * 1.0001


def test_the_user_sees_the_settings_once_and_the_terms_every_epoch(training):
    lines = [line.split(": ", 1)[1] for line in training.printed.splitlines() if ": SelfReg: " in line]
    weight = {"Small": "0.015", "SmallSelfReg01": "0.1"}[training.plans]
    assert lines[0].startswith(
        f"SelfReg: lambda_scr {weight}, lambda_ifd 0.015, taps stages; students encoder.stages.1 ("
    )
    assert "; teacher decoder.stages." in lines[0]
    assert "Please cite Zhu et al., SelfReg-UNet" in lines[0]
    epoch = (
        r"SelfReg: scr [\d.e-]+, ifd [\d.e-]+; weighted, they add [\d.e-]+ to train_loss "
        r"\(share of the loss [\d.]+%\)"
    )
    assert len(lines) == 6
    assert all(re.fullmatch(epoch, line) for line in lines[1:])
    (log,) = (training.folder / "fold_0").glob("training_log_*.txt")
    assert all(line in log.read_text() for line in lines)
    assert (training.folder / "fold_0" / "selfreg.png").read_bytes().startswith(b"\x89PNG")


def test_predictions_are_segmentations_of_the_unseen_cases(training, predicted, dataset):
    predictions, references = images(predicted), images(dataset.raw / "labelsTs")
    assert predictions.keys() == references.keys()
    labels = set(json.loads((dataset.raw / "dataset.json").read_text())["labels"].values())
    for name, prediction in predictions.items():
        for ask in ("GetSize", "GetSpacing", "GetOrigin", "GetDirection"):
            assert getattr(prediction, ask)() == pytest.approx(getattr(references[name], ask)()), (name, ask)
        assert set(np.unique(SimpleITK.GetArrayFromImage(prediction))) <= labels
    run(
        f"nnUNetv2_evaluate_folder {quoted(dataset.raw / 'labelsTs')} {quoted(predicted)} "
        f"-djfile {quoted(predicted / 'dataset.json')} -pfile {quoted(predicted / 'plans.json')} -np 1"
    )
    summary = json.loads((predicted / "summary.json").read_text())
    # 1250 steps of a few patches can leave a class unlearnt (0.24 to 0.77 were seen), but not both
    assert summary["foreground_mean"]["Dice"] > 0.1


def test_a_stock_trainer_with_the_same_weights_predicts_the_same(training, predicted, dataset, tmp_path):
    stock = model_folder("nnUNetTrainer", training.plans, training.configuration)
    (stock / "fold_0").mkdir(parents=True)
    for name in ("plans.json", "dataset.json"):
        shutil.copy(training.folder / name, stock)
    checkpoint = training.checkpoint()
    assert checkpoint["trainer_name"] == TRAINER
    torch.save(checkpoint | {"trainer_name": "nnUNetTrainer"}, stock / "fold_0" / "checkpoint_final.pth")
    predict("nnUNetTrainer", training, dataset, tmp_path)
    found, expected = images(predicted), images(tmp_path)
    assert found.keys() == expected.keys()
    for name in found:
        assert np.array_equal(*(SimpleITK.GetArrayFromImage(part[name]) for part in (found, expected)))


def test_nothing_of_ours_is_in_the_preprocessed_data(training):
    """Only the plans that our command wrote are ours."""
    written = {path.name for path in folder("preprocessed").rglob("*") if "selfreg" in path.name.lower()}
    assert written <= {"SmallSelfReg01.json"}
