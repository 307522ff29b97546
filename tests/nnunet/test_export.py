"""Trained models for people without this package."""

import json
import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import SimpleITK
import torch
from commands import model_folder, quoted, run
from nnunetv2.run.run_training import get_trainer_from_args

from nnunetv2_selfreg.commands import export
from nnunetv2_selfreg.model_folder import load_checkpoint

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
    assert exported.name == "nnUNetTrainer__SmallSelfRegSCR__2d"
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
    defaults = {"taps": "stages", "encoder_stages": None, "decoder_stages": None, "teacher": None, "every": 1}
    assert origin["settings"] == {"lambda_scr": 0.015, **defaults, "scr_channels": "drawn"}
    assert origin["folds"]["fold_1"]["epochs"] == 1
    assert len(origin["folds"]["fold_1"]["scr"]) == 1


@pytest.mark.longer
def test_the_zip_installs_and_predicts_without_this_package(model, dataset, tmp_path, capsys):
    export.main([str(model), str(tmp_path / "model"), "--zip", "--without-optimizer", "-f", "0"])
    assert f"wrote {tmp_path / 'model.zip'}" in capsys.readouterr().out
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
    assert all(name.startswith(f"{model.parent.name}/nnUNetTrainer__SmallSelfRegSCR__2d/") for name in names)
    assert not any("fold_1" in name for name in names)
    results = tmp_path / "results"
    results.mkdir()
    program = (
        "import sys\n"
        "sys.modules['nnunetv2_selfreg'] = None  # as if it were not installed\n"
        "from nnunetv2.model_sharing.model_import import install_model_from_zip_file\n"
        f"install_model_from_zip_file({str(tmp_path / 'model.zip')!r})\n"
        "import torch\n"
        "from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor\n"
        "predictor = nnUNetPredictor(device=torch.device('cpu'))\n"
        f"predictor.initialize_from_trained_model_folder({str(results / model.parent.name)!r} + "
        "'/nnUNetTrainer__SmallSelfRegSCR__2d', ('0',))\n"
        "print(type(predictor.network).__name__)\n"
    )
    environment = os.environ | {"nnUNet_results": str(results), "PATH": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().splitlines()[-1] == "PlainConvUNet", done.stderr


@pytest.mark.slow
def test_it_installs_and_predicts_beside_a_stock_model(model, dataset, tmp_path, monkeypatch, capsys):
    results = tmp_path / "results"
    export.export(model, results, plans_name="Small")  # named as stock nnU-Net's own training of these plans is
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    assert export.main([str(model), str(tmp_path / "model.zip"), "-f", "0"]) == 0
    install, predict = (line.strip() for line in capsys.readouterr().out.splitlines()[-2:])
    monkeypatch.setenv("nnUNet_results", str(results))
    run(install)
    assert all(path.read_bytes() == content for path, content in before.items())
    models = results / dataset.raw.name
    assert {path.name for path in models.iterdir()} == {
        "nnUNetTrainer__Small__2d",
        "nnUNetTrainer__SmallSelfRegSCR__2d",
    }
    assert {path for path in (models / "nnUNetTrainer__Small__2d").rglob("*") if path.is_file()} == before.keys()
    shutil.copytree(model, models / model.name)
    ours = f"nnUNetv2_predict -d {dataset.raw.name} -c 2d -tr {TRAINER} -p Small -f 0 -i IMAGES -o PREDICTIONS"
    for command, name in ((predict, "exported"), (ours, "ours")):
        command = command.replace("IMAGES", quoted(dataset.raw / "imagesTs"))
        run(command.replace("PREDICTIONS", quoted(tmp_path / name)) + " -device cpu -npp 1 -nps 1")
    cases = sorted(path.name for path in (tmp_path / "ours").glob("*.nii.gz"))
    assert len(cases) == len(list((dataset.raw / "imagesTs").iterdir()))
    for case in cases:
        arrays = [
            SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(tmp_path / name / case)) for name in ("ours", "exported")
        ]
        assert np.array_equal(*arrays)


def test_leaving_out_the_optimizer_makes_it_smaller(model, tmp_path):
    before, after, *_ = export.export(model, tmp_path / "small", optimizer=False)
    assert after < 0.6 * before  # momentum takes as much as the weights
