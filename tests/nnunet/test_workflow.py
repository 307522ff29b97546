"""What nnU-Net users do with trained folds, with SelfReg and stock trainers side by side; slow."""

import json
import re
import shutil

import numpy as np
import pytest
import SimpleITK
import torch
from commands import folder, model_folder, quoted, run
from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import nnUNetTrainer_1epoch

from nnunetv2_selfreg.trainer import find_trainer

pytestmark = pytest.mark.slow
TRAINER, STOCK = "nnUNetTrainerSelfReg_1epoch", "nnUNetTrainer_1epoch"
PLANS, FOLDS = "Small", range(5)


@pytest.fixture(scope="module")
def model(dataset):
    """All five folds by nnU-Net's command, with probabilities for ensembles."""
    for fold in FOLDS:
        run(f"nnUNetv2_train {dataset.number} 2d {fold} -tr {TRAINER} -p {PLANS} -device cpu --npz")
    return model_folder(TRAINER, PLANS, "2d")


@pytest.fixture(scope="module")
def stock_model(dataset, monkeypatch_module):
    """The stock trainer itself: its name cannot be looked up where torch and torchvision do not match."""
    assert find_trainer(STOCK) is nnUNetTrainer_1epoch
    monkeypatch_module.setenv("nnUNet_n_proc_DA", "0")
    for fold in FOLDS:
        plans = json.loads((dataset.preprocessed / f"{PLANS}.json").read_text()) | {"continue_training": False}
        description = json.loads((dataset.preprocessed / "dataset.json").read_text())
        trainer = nnUNetTrainer_1epoch(plans, "2d", fold, description, torch.device("cpu"))
        trainer.num_iterations_per_epoch = 60
        trainer.run_training()
        trainer.perform_actual_validation(save_probabilities=True)
    return model_folder(STOCK, PLANS, "2d")


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def images(path):
    return {file.name: SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(file)) for file in path.glob("*.nii.gz")}


def test_validation_probabilities_are_written(model):
    for fold in FOLDS:
        validation = model / f"fold_{fold}" / "validation"
        names = {path.name.removesuffix(".nii.gz") for path in validation.glob("*.nii.gz")}
        assert names
        assert names == {path.stem for path in validation.glob("*.npz")}


def test_folds_are_accumulated(model, dataset):
    run(f"nnUNetv2_accumulate_crossval_results {dataset.number} -c 2d -tr {TRAINER} -p {PLANS}")
    accumulated = model / "crossval_results_folds_0_1_2_3_4"
    assert len(images(accumulated)) == len(list((dataset.raw / "labelsTr").iterdir()))
    assert 0 <= json.loads((accumulated / "summary.json").read_text())["foreground_mean"]["Dice"] <= 1


def test_five_folds_predict_as_an_ensemble(model, dataset, tmp_path):
    predict = (
        f"nnUNetv2_predict -d {dataset.number} -c 2d -tr {TRAINER} -p {PLANS} -i {quoted(dataset.raw / 'imagesTs')} "
        "-device cpu -npp 1 -nps 1 --save_probabilities"
    )
    run(f"{predict} -o {quoted(tmp_path / 'all')} -f 0 1 2 3 4")
    for fold in (0, 1):
        run(f"{predict} -o {quoted(tmp_path / str(fold))} -f {fold}")
    assert len(images(tmp_path / "all")) == len(list((dataset.raw / "imagesTs").iterdir()))
    run(f"nnUNetv2_ensemble -i {quoted(tmp_path / '0')} {quoted(tmp_path / '1')} -o {quoted(tmp_path / 'both')} -np 1")
    for name, found in images(tmp_path / "both").items():
        case = name.removesuffix(".nii.gz")
        mean = sum(np.load(tmp_path / str(fold) / f"{case}.npz")["probabilities"] for fold in (0, 1)) / 2
        assert (found == mean.argmax(0)).mean() > 0.999  # nnU-Net adds the two in its own order


def test_the_best_configuration_is_found_over_stock_and_selfreg_together(model, stock_model, dataset):
    printed = run(
        f"nnUNetv2_find_best_configuration {dataset.number} -c 2d -p {PLANS} -tr {TRAINER} {STOCK} -f 0 1 2 3 4 -np 1"
    )
    assert TRAINER in printed
    assert STOCK in printed
    results = folder("results") / dataset.raw.name
    assert (results / "inference_instructions.txt").is_file()
    assert any(TRAINER in path.name and STOCK in path.name for path in (results / "ensembles").iterdir())


def test_validation_alone_with_the_final_and_the_best_checkpoint(model, dataset):
    validation = model / "fold_0" / "validation"
    command = f"nnUNetv2_train {dataset.number} 2d 0 -tr {TRAINER} -p {PLANS} -device cpu"
    before = images(validation)
    for option in ("--val", "--val --val_best"):
        shutil.rmtree(validation)
        printed = run(f"{command} {option}")
        assert "Mean Validation Dice" in printed
        after = images(validation)
        # after one epoch the best checkpoint is the final one
        assert after.keys() == before.keys()
        assert all(np.array_equal(after[name], before[name]) for name in before)


def test_pretrained_weights_start_another_training(model, dataset):
    shutil.copy(dataset.preprocessed / f"{PLANS}.json", dataset.preprocessed / "Tuned.json")
    plans = json.loads((dataset.preprocessed / "Tuned.json").read_text()) | {"plans_name": "Tuned"}
    (dataset.preprocessed / "Tuned.json").write_text(json.dumps(plans))
    command = f"nnUNetv2_train {dataset.number} 2d 0 -tr {TRAINER} -p Tuned -device cpu"
    printed = run(f"{command} -pretrained_weights {quoted(model / 'fold_0' / 'checkpoint_final.pth')}")
    assert "Loading pretrained weights" in printed
    losses = [float(re.search(r": train_loss (\S+)", text).group(1)) for text in (log(model), printed)]
    assert losses[1] < losses[0]


def log(model):
    return "".join(path.read_text() for path in sorted((model / "fold_0").glob("training_log_*.txt"))[:1])


def test_a_model_is_exported_and_installed(model, dataset, tmp_path, monkeypatch):
    archive = tmp_path / "model.zip"
    run(
        f"nnUNetv2_export_model_to_zip -d {dataset.number} -c 2d -tr {TRAINER} -p {PLANS} -f 0 1 2 3 4 "
        f"-o {quoted(archive)}"
    )
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    run(f"nnUNetv2_install_pretrained_model_from_zip {quoted(archive)}")
    predictions = []
    for results in (tmp_path / "elsewhere", folder("results")):
        monkeypatch.setenv("nnUNet_results", str(model.parents[1] if results == folder("results") else results))
        output = tmp_path / f"predictions_{len(predictions)}"
        run(
            f"nnUNetv2_predict -d {dataset.number} -c 2d -f 0 -tr {TRAINER} -p {PLANS} "
            f"-i {quoted(dataset.raw / 'imagesTs')} -o {quoted(output)} -device cpu -npp 1 -nps 1"
        )
        predictions.append(images(output))
    assert predictions[0].keys() == predictions[1].keys()
    assert all(np.array_equal(predictions[0][name], predictions[1][name]) for name in predictions[0])
