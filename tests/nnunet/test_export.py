"""Models for people without this package, and what cannot be exported."""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest
import torch
from commands import model_folder
from nnunetv2.run.run_training import get_trainer_from_args

from nnunetv2_selfreg.commands import export
from nnunetv2_selfreg.checkpoints import load_checkpoint
from nnunetv2_selfreg.errors import SelfRegError

TRAINER = "nnUNetTrainerSelfRegSCR"


@pytest.fixture(scope="module")
def model(dataset, tmp_path_factory):
    """A model of one short epoch, two folds of it."""
    for fold in (0, 1):
        trainer = get_trainer_from_args(dataset.raw.name, "2d", fold, TRAINER, "Small", device=torch.device("cpu"))
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("nnUNet_n_proc_DA", "0")
            trainer.run_training()
    target = tmp_path_factory.mktemp("results") / dataset.raw.name / f"{TRAINER}__Small__2d"
    shutil.copytree(model_folder(TRAINER, "Small", "2d"), target)
    return target


def listing(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_the_export_is_a_stock_model_with_its_origin(model, tmp_path):
    before = listing(model)
    assert export.main([str(model), str(tmp_path / "out")]) == 0
    assert listing(model) == before
    (exported,) = (tmp_path / "out" / model.parent.name).iterdir()
    assert exported.name == "nnUNetTrainer__Small__2d"
    for fold in (0, 1):
        ours, theirs = (load_checkpoint(m / f"fold_{fold}" / "checkpoint_final.pth") for m in (model, exported))
        assert (ours["trainer_name"], theirs["trainer_name"]) == (TRAINER, "nnUNetTrainer")
        weights = [content["network_weights"] for content in (ours, theirs)]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
        assert theirs["optimizer_state"]["state"].keys() == ours["optimizer_state"]["state"].keys()
        assert not {"scr", "ifd", "selfreg_share"} & theirs["logging"].keys()
    origin = json.loads((exported / "selfreg_origin.json").read_text())
    assert origin["trainer"] == TRAINER
    assert (origin["settings"]["lambda_scr"], origin["settings"]["lambda_ifd"]) == (0.015, 0.0)
    assert origin["folds"]["fold_1"]["epochs"] == 1
    assert len(origin["folds"]["fold_1"]["scr"]) == 1


def test_the_zip_installs_and_predicts_without_this_package(model, dataset, tmp_path, capsys):
    export.main([str(model), str(tmp_path / "model"), "--zip", "--without-optimizer", "-f", "0"])
    assert f"wrote {tmp_path / 'model.zip'}" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        names = archive.namelist()
    assert all(name.startswith(f"{model.parent.name}/nnUNetTrainer__Small__2d/") for name in names)
    assert not any("fold_1" in name for name in names)
    results = tmp_path / "results"
    results.mkdir()
    program = (
        "import sys\n"
        "sys.modules['nnunetv2_selfreg'] = None  # as if it were not installed\n"
        "from nnunetv2.model_export.model_import import install_model_from_zip_file\n"
        f"install_model_from_zip_file({str(tmp_path / 'model.zip')!r})\n"
        "import torch\n"
        "from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor\n"
        "predictor = nnUNetPredictor(device=torch.device('cpu'))\n"
        f"predictor.initialize_from_trained_model_folder({str(results / model.parent.name)!r} + "
        "'/nnUNetTrainer__Small__2d', ('0',))\n"
        "print(type(predictor.network).__name__)\n"
    )
    environment = {"nnUNet_results": str(results), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().splitlines()[-1] == "PlainConvUNet", done.stderr


def test_leaving_out_the_optimizer_makes_it_smaller(model, tmp_path):
    before, after = export.export(model, tmp_path / "small", optimizer=False)
    assert after < 0.6 * before  # momentum takes as much as the weights


def broken(model, tmp_path, **changes):
    """A copy of the model whose first checkpoint differs."""
    copy = tmp_path / model.parent.name / model.name
    shutil.copytree(model, copy)
    path = copy / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(path, weights_only=False) | changes, path)
    return copy


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("this ran",))


def test_a_checkpoint_that_would_run_code_is_refused(model, tmp_path, capsys):
    copy = broken(model, tmp_path, logging=Evil())
    with pytest.raises(SelfRegError, match=r"checkpoint_final\.pth is not loaded: .*would run code from it$"):
        export.export(copy, tmp_path / "out")
    assert "this ran" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_half_trained_fold_is_refused(model, tmp_path):
    copy = broken(model, tmp_path)
    (copy / "fold_1" / "checkpoint_final.pth").rename(copy / "fold_1" / "checkpoint_latest.pth")
    with pytest.raises(SelfRegError, match=r"fold_1 has no checkpoint_final\.pth: its training has not finished"):
        export.export(copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export.export(copy, tmp_path / "out", folds=["0"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda copy: copy.rename(copy.with_name("nnUNetTrainer__Small__2d")),
            "nnUNetTrainer is not a SelfReg trainer",
        ),
        (lambda copy: copy.rename(copy.with_name("model")), "is not a model folder TRAINER__PLANS__CONFIGURATION"),
        (lambda copy: (copy / "plans.json").unlink() or copy, "is not a model folder"),
        (
            lambda copy: copy.rename(copy.with_name("nnUNetTrainerSelfReg__Small__2d")),
            "was trained by nnUNetTrainerSelfRegSCR",
        ),
        (
            lambda copy: (copy / "fold_0" / "checkpoint_final.pth").write_bytes(b"no") and copy,
            "is not loaded: it is damaged",
        ),
        (lambda copy: (copy / "plans.json").write_text("{") and copy, r"plans\.json is not a plans file"),
    ],
)
def test_a_foreign_folder_is_refused_and_nothing_is_written(model, tmp_path, make, message):
    folder = make(broken(model, tmp_path))
    with pytest.raises(SelfRegError, match=message) as refusal:
        export.export(folder, tmp_path / "out")
    assert "\n" not in str(refusal.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [model.parent.name]


def test_a_trainer_that_is_not_installed_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr("nnunetv2_selfreg.trainer._find_stock_trainer", lambda name: None)
    copy = broken(model, tmp_path)
    folder = copy.rename(copy.with_name("nnUNetTrainerSelfReg_7epochs__Small__2d"))
    message = "nnUNetTrainerSelfReg_7epochs is not known here; install what brings nnUNetTrainer_7epochs"
    with pytest.raises(SelfRegError, match=message):
        export.export(folder, tmp_path / "out")


def test_a_model_that_predicts_differently_is_not_written(model, tmp_path, monkeypatch):
    """As if saving had changed a weight."""
    save = torch.save

    def save_changed(content, path):
        save(content | {"network_weights": {name: w + 1 for name, w in content["network_weights"].items()}}, path)

    monkeypatch.setattr(torch, "save", save_changed)
    with pytest.raises(SelfRegError, match="fold_0 predicts differently as a stock model; nothing was written"):
        export.export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(model, tmp_path, monkeypatch):
    def no_space(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(export.shutil, "copyfile", no_space)
    with pytest.raises(SelfRegError, match="out cannot be written: No space left on device; nothing was left behind"):
        export.export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_exists_is_left_alone(model, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(SelfRegError, match="out exists already; name another"):
        export.export(model, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
