"""What is exported under which name, and what is refused with nothing written, on small models with random weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from model_folders import CLASSES, write_model

from nnunetv2_selfreg.commands.export import export, main
from nnunetv2_selfreg.compat import find_external_trainer
from nnunetv2_selfreg.errors import SelfRegError

TRAINER = "nnUNetTrainerSelfRegSCR"
STUDY = Path(__file__).parents[2] / "examples" / "study" / "trainers"
MINE = """
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerCELoss import nnUNetTrainerCELoss
from nnunetv2_selfreg.terms import BUILT_IN, own_term
from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg


class nnUNetTrainerMine(nnUNetTrainerSelfReg, nnUNetTrainerCELoss):
    terms = (*BUILT_IN, own_term("size", lambda student, teacher: student.square().mean(), weight=0.5))
"""


def named(model, trainer, **changes):
    """The model as if this trainer had trained it; `changes` go into its first checkpoint."""
    folder = model.rename(model.with_name(f"{trainer}__Tiny__2d"))
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False) | {"trainer_name": trainer, "optimizer_state": {}}
    torch.save(content | changes, path)
    return folder


@pytest.fixture
def stock_model(tmp_path):
    return write_model(tmp_path / "results" / "Dataset001_Tiny", 2, CLASSES)


@pytest.fixture
def model(stock_model):
    """A model with two folds."""
    folder = named(stock_model, TRAINER)
    shutil.copytree(folder / "fold_0", folder / "fold_1")
    return folder


def origin(output):
    (exported,) = (output / "Dataset001_Tiny").iterdir()
    return exported.name, json.loads((exported / "selfreg_origin.json").read_text())


def needs_external_trainers(monkeypatch, folder, trainer):
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    if find_external_trainer(trainer) is None:
        pytest.skip("nnU-Net reads nnUNet_extTrainer since 2.8")


def test_names_settings_and_logged_values(model, tmp_path, capsys):
    assert main([str(model), str(tmp_path / "out"), "-f", "1"]) == 0
    assert capsys.readouterr().out.endswith("now; both models predict the same\n")
    name, told = origin(tmp_path / "out")
    assert name == "nnUNetTrainer__Tiny__2d"
    assert told["trainer"] == TRAINER
    assert told["settings"] == {
        "lambda_scr": 0.015,
        "taps": "stages",
        "encoder_stages": None,
        "decoder_stages": None,
        "teacher": None,
        "every": 1,
    }
    assert told["folds"]["fold_1"]["epochs"] == 2
    assert told["folds"]["fold_1"]["scr"] == [1.5, pytest.approx(float("nan"), nan_ok=True)]
    assert told["folds"].keys() == {"fold_1"}


def test_the_studys_subclass_is_exported_as_the_trainer_that_it_is_made_of(stock_model, tmp_path, monkeypatch):
    trainer = "nnUNetTrainerSelfRegRamped_10epochs"
    needs_external_trainers(monkeypatch, STUDY, trainer)
    export(named(stock_model, trainer), tmp_path / "out")
    name, told = origin(tmp_path / "out")
    assert name == "nnUNetTrainer_10epochs__Tiny__2d"
    assert told["trainer"] == trainer
    assert told["settings"]["lambda_ifd"] == 0.015


def test_a_trainer_of_ones_own_with_a_term_of_ones_own(stock_model, tmp_path, monkeypatch):
    external = tmp_path / "external"
    external.mkdir()
    (external / "mine.py").write_text(MINE)
    needs_external_trainers(monkeypatch, external, "nnUNetTrainerMine")
    logging = {"mean_fg_dice": [0.5], "size": [2.5], "scr": [1.5], "ifd": [1.0], "selfreg_share": [0.25]}
    export(named(stock_model, "nnUNetTrainerMine", logging=logging), tmp_path / "out")
    name, told = origin(tmp_path / "out")
    assert name == "nnUNetTrainerCELoss__Tiny__2d"
    assert told["settings"]["lambda_size"] == 0.5
    del told["folds"]["fold_0"]["epochs"]
    assert told["folds"]["fold_0"] == {name: values for name, values in logging.items() if name != "mean_fg_dice"}
    checkpoint = tmp_path / "out" / "Dataset001_Tiny" / name / "fold_0" / "checkpoint_final.pth"
    assert torch.load(checkpoint, weights_only=False)["logging"] == {"mean_fg_dice": [0.5]}


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("this ran",))


def test_a_checkpoint_that_would_run_code_is_refused(stock_model, tmp_path, capsys):
    folder = named(stock_model, TRAINER, logging=Evil())
    with pytest.raises(SelfRegError, match=r"checkpoint_final\.pth is not loaded: .*would run code from it$"):
        export(folder, tmp_path / "out")
    assert "this ran" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_half_trained_fold_is_refused(model, tmp_path):
    (model / "fold_1" / "checkpoint_final.pth").rename(model / "fold_1" / "checkpoint_latest.pth")
    with pytest.raises(SelfRegError, match=r"fold_1 has no checkpoint_final\.pth: its training has not finished"):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export(model, tmp_path / "out", folds=["0"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: model.rename(model.with_name("nnUNetTrainer__Tiny__2d")), "nnUNetTrainer is not a SelfReg"),
        (lambda model: model.rename(model.with_name("model")), "is not a model folder, its name has not three parts"),
        (lambda model: (model / "plans.json").unlink() or model, "is not a model folder, it has no plans.json"),
        (lambda model: model.rename(model.with_name("nnUNetTrainerSelfReg__Tiny__2d")), f"was trained by {TRAINER}"),
        (
            lambda model: (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"no") and model,
            "is not loaded: it is damaged",
        ),
        (lambda model: (model / "plans.json").write_text("{") and model, r"plans\.json is not a plans file"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_foreign_folder_is_refused_and_nothing_is_written(model, tmp_path, make, message, zipped):
    folder = make(model)
    with pytest.raises(SelfRegError, match=message) as refusal:
        export(folder, tmp_path / "out.zip", zipped=zipped)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_trainer_that_is_not_installed_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr("nnunetv2_selfreg.trainer.find_nnunet_trainer", lambda name: None)
    folder = model.rename(model.with_name("nnUNetTrainerSelfReg_7epochs__Tiny__2d"))
    with pytest.raises(SelfRegError, match="has no trainer nnUNetTrainerSelfReg_7epochs; install what brings it"):
        export(folder, tmp_path / "out")


def test_a_model_that_predicts_differently_is_not_written(model, tmp_path, monkeypatch):
    """As if saving had changed a weight."""
    save = torch.save

    def save_changed(content, path):
        save(content | {"network_weights": {name: w + 1 for name, w in content["network_weights"].items()}}, path)

    monkeypatch.setattr(torch, "save", save_changed)
    with pytest.raises(SelfRegError, match="fold_0 predicts differently as nnUNetTrainer; nothing was written"):
        export(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_full_disk_leaves_nothing(model, tmp_path, monkeypatch):
    def no_space(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", no_space)
    with pytest.raises(SelfRegError, match="out cannot be written: No space left on device; nothing was left behind"):
        export(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize("zipped", [False, True])
def test_an_output_that_exists_is_left_alone(model, tmp_path, zipped):
    (tmp_path / "out.zip").mkdir()
    with pytest.raises(SelfRegError, match=r"out\.zip exists already; name another"):
        export(model, tmp_path / "out.zip", zipped=zipped)
    assert list((tmp_path / "out.zip").iterdir()) == []
