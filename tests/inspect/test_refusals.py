"""What the command refuses, and what of a folder that is there it replaces."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from PIL import Image

pytest.importorskip("captum", reason="needs the extra [inspect]")
from model_folders import CLASSES, write_model

from nnunetv2_selfreg import cli
from nnunetv2_selfreg.inspect import run
from nnunetv2_selfreg.model_folder import ModelFolder


def refusal(capsys, *arguments):
    device = [] if "--device" in arguments else ["--device", "cpu"]  # a GPU's own troubles are not meant here
    assert cli.main(["inspect", *map(str, arguments), *device]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("nnUNetv2_selfreg inspect: ")
    return error[-1]


def test_a_grey_picture_is_refused_where_the_model_takes_colours(pictures, tmp_path, capsys):
    path = pictures.images / "disc0_0000.png"
    Image.open(path).convert("L").save(path)
    message = refusal(capsys, pictures.folder, "--images", pictures.images, "-o", tmp_path / "out")
    assert message.endswith("inspect: case disc0 has 1 image channel; the model takes 3")


def test_what_cannot_be_inspected_ends_in_one_line_and_leaves_nothing(flat, deep, tmp_path, capsys):
    out = tmp_path / "made" / "out"
    base = [flat.folder, "--images", flat.images, "-o", out]
    checks = [
        ([tmp_path, "--images", flat.images, "-o", out], r"is not a model folder, it has no plans\.json"),
        ([*base, "-f", "3"], "has no fold_3; folds there: 0"),
        ([*base, "-f", "0", "3"], "has no fold_3; folds there: 0"),
        ([flat.folder, *base], "is given twice; a repetition is another training, in another folder"),
        ([flat.folder, deep.folder, "--images", flat.images, "-o", out], "are not repetitions of one model"),
        (
            [flat.folder, deep.folder, "--compare", flat.folder, "--images", flat.images, "-o", out],
            "2 repetitions and --compare 1 cannot be paired; give as many of both",
        ),
        (
            [*base, "-chk", "checkpoint_best.pth"],
            r"no checkpoint_best\.pth; choose folds .*; there: checkpoint_final\.pth",
        ),
        ([*base, "--labels", tmp_path / "nowhere"], "nowhere is not a folder of references"),
        ([*base, "--labels", flat.images], r"has no case0\.nii\.gz; give every case a reference"),
        ([*base, "--cases", "0"], "--cases 0: inspect at least one case"),
        ([flat.folder, "--images", tmp_path / "x", "-o", out], "x: neither a folder nor an image named CASE_0000"),
        ([flat.folder, "--images", flat.labels, "-o", out], "no image named CASE_0000"),
        ([flat.folder, "--images", deep.images, "-o", out], "has the channels 0000, 0001; the model takes 1"),
        ([*base, "--compare", deep.folder], "cannot be compared: their classes differ"),
        ([*base, "--labels", deep.labels, "--images", flat.images / "case2"], r"has no case2\.nii\.gz"),
    ]
    if not torch.cuda.is_available():
        checks.append(([*base, "--device", "cuda"], "--device cuda: PyTorch finds no such device here"))
    for arguments, message in checks:
        assert re.search(message, refusal(capsys, *arguments)), message
        assert not out.exists()
        assert not out.parent.exists() or not list(out.parent.iterdir())


def test_models_without_a_fold_in_common_are_not_compared(flat, tmp_path, capsys):
    other = shutil.copytree(flat.folder, tmp_path / "Dataset001_Flat" / flat.folder.name)
    (other / "fold_0").rename(other / "fold_3")
    arguments = [flat.folder, "--compare", other, "--images", flat.images, "-o", tmp_path / "out"]
    message = refusal(capsys, *arguments)
    assert "have no fold with a checkpoint_final.pth in common (0 and 3); train one that both have" in message
    assert message.endswith("and name it with -f")


def test_models_of_other_stages_are_not_compared(flat, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("model_folders.FEATURES", (4, 6))
    other = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES)
    arguments = [flat.folder, "--images", flat.images, "--compare", other, "-o", tmp_path / "out"]
    assert "their stages differ" in refusal(capsys, *arguments)


def test_a_network_without_stages_is_refused(flat, tmp_path, capsys, monkeypatch):
    original = ModelFolder.predictor

    def flattened(*arguments):
        predictor = original(*arguments)
        predictor.network = torch.nn.Conv2d(1, 1, 1)
        return predictor

    monkeypatch.setattr(ModelFolder, "predictor", flattened)
    message = refusal(capsys, flat.folder, "--images", flat.images, "-o", tmp_path / "out")
    assert "Conv2d has no encoder.stages" in message


def test_a_map_that_is_not_finite_is_refused(flat, tmp_path, capsys):
    folder = tmp_path / "results" / flat.folder.name
    shutil.copytree(flat.folder, folder)
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    content["network_weights"]["encoder.stages.1.0.convs.0.conv.weight"][:] = torch.inf
    torch.save(content, path)
    message = refusal(capsys, folder, "--images", flat.images, "-o", tmp_path / "out")
    assert "the map of encoder.stages.1 is not finite" in message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["results"]


@pytest.mark.parametrize("kind", ["images", "labels"])
@pytest.mark.parametrize("trained", ["flat", "pictures"])
def test_a_file_that_was_cut_off_is_refused_by_name(trained, kind, request, tmp_path, capsys):
    trained = request.getfixturevalue(trained)
    folders = {name: shutil.copytree(getattr(trained, name), tmp_path / name) for name in ("images", "labels")}
    path = sorted(folders[kind].iterdir())[0]
    path.write_bytes(path.read_bytes()[:-50])
    places = ["--images", folders["images"], "--labels", folders["labels"], "-o", tmp_path / "out"]
    assert f"inspect: {path} cannot be read: " in refusal(capsys, trained.folder, *places)
    assert not (tmp_path / "out").exists()


def test_an_image_that_holds_nan_is_refused_by_name(flat, tmp_path, capsys):
    folder = shutil.copytree(flat.images, tmp_path / "images")
    path = sorted(folder.iterdir())[1]
    values = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)).astype(np.float32)
    values.flat[77] = np.nan
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), path)
    message = refusal(capsys, flat.folder, "--images", folder, "-o", tmp_path / "out")
    assert message.endswith(f"inspect: {path} cannot be read: it holds NaN or infinite values")


def test_a_reference_of_another_shape_is_refused(flat, tmp_path, capsys):
    shutil.copytree(flat.labels, tmp_path / "labels")
    shutil.copy(flat.labels / "case1.nii.gz", tmp_path / "labels" / "case0.nii.gz")
    arguments = [flat.folder, "--images", flat.images, "--labels", tmp_path / "labels", "-o", tmp_path / "out"]
    assert "case case0 cannot be preprocessed: " in refusal(capsys, *arguments)


@pytest.mark.parametrize("trained", ["flat", "pictures"])
def test_a_reference_with_values_that_the_data_set_does_not_know_is_refused(trained, request, tmp_path, capsys):
    trained = request.getfixturevalue(trained)
    path = sorted(trained.labels.iterdir())[0]
    shutil.copytree(trained.labels, tmp_path / "labels")
    if path.suffix == ".png":
        Image.fromarray(np.asarray(Image.open(path)) * 50).save(tmp_path / "labels" / path.name)
    else:
        image = SimpleITK.ReadImage(path)
        SimpleITK.WriteImage(image * 50, tmp_path / "labels" / path.name)
    arguments = ["--images", trained.images, "--labels", tmp_path / "labels", "-o", tmp_path / "out"]
    message = refusal(capsys, trained.folder, *arguments)
    name = path.name.split(".")[0]
    assert re.search(
        rf"inspect: the reference of case {name} holds 50(, 100, 150)?; .*dataset\.json knows 0, 1", message
    )


def test_a_checkpoint_of_another_network_is_refused(flat, tmp_path, capsys):
    folder = shutil.copytree(flat.folder, tmp_path / "Dataset001_Flat" / flat.folder.name)
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["2d"]["architecture"]["arch_kwargs"]["features_per_stage"] = [4, 6, 10]
    (folder / "plans.json").write_text(json.dumps(plans))
    message = refusal(capsys, folder, "--images", flat.images, "-o", tmp_path / "out")
    assert re.search(r"checkpoint_final\.pth does not fit .*plans\.json", message)
    assert len(message) < 500


def test_images_that_cannot_be_read_are_no_problem_of_the_output(flat, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "images"
    folder.mkdir()
    listed = Path.iterdir

    def closed(path):
        if path == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", closed)  # the superuser may read every folder
    message = refusal(capsys, flat.folder, "--images", folder, "-o", tmp_path / "out")
    assert message.endswith(f"{folder} cannot be read: Permission denied")


def test_the_second_stage_of_the_cascade_is_refused(flat, tmp_path, capsys):
    folder = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES, previous_stage="2d_lowres")
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    for name, weights in content["network_weights"].items():
        if weights.ndim == 4 and weights.shape[1] == 1:  # the image and, of each class, the first stage's prediction
            content["network_weights"][name] = weights.repeat(1, 4, 1, 1)
    torch.save(content, path)
    message = refusal(capsys, folder, "--images", flat.images, "-o", tmp_path / "out")
    assert message.endswith(f"{folder.name} also takes the prediction of 2d_lowres; inspect that one instead")


def test_without_captum_the_extra_is_named(flat, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    message = refusal(capsys, flat.folder, "--images", flat.images, "-o", tmp_path / "out")
    assert message.endswith('inspect needs captum: pip install "/path/to/nnunetv2-selfreg[inspect]"')


@pytest.fixture
def report(tmp_path):
    """A folder that holds what an earlier inspection wrote."""
    output = tmp_path / "out"
    (output / "plots").mkdir(parents=True)
    (output / "plots" / "channels.png").write_text("old")
    (output / "report.html").write_text("old")
    (output / "values.json").write_text(json.dumps({"made_by": "nnUNetv2_selfreg inspect"}))
    return output


def test_a_report_is_replaced_when_asked_for(flat, report, tmp_path, capsys):
    arguments = [flat.folder, "--images", flat.images / "case0", "-o", report]
    assert "exists already" in refusal(capsys, *arguments)
    assert (report / "report.html").read_text() == "old"
    assert cli.main(["inspect", *map(str, arguments), "--overwrite"]) == 0
    assert json.loads((report / "values.json").read_text())["cases"] == ["case0"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("thesis.txt", "mine"),
        ("plots/scan.nii.gz", "mine"),
        ("values.json", '{"made_by": "me"}'),
        ("values.json", "mine"),
        ("values.json", "[]"),
        ("report.html", None),
        ("plots", None),
    ],
)
def test_only_a_report_is_replaced(flat, report, capsys, name, text):
    path = report / name
    if text is not None:
        path.write_text(text)
    elif path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    before = {path: path.is_dir() or path.read_bytes() for path in report.rglob("*")}
    message = refusal(capsys, flat.folder, "--images", flat.images, "-o", report, "--overwrite")
    assert message.endswith(
        f"-o {report} is not a report and nothing else, so --overwrite leaves it alone; name another"
    )
    assert {path: path.is_dir() or path.read_bytes() for path in report.rglob("*")} == before


@pytest.mark.slow
def test_a_swap_that_fails_midway_leaves_the_old_report(flat, report, tmp_path, capsys, monkeypatch):
    replace_file = os.replace

    def full(source, target):
        if str(target) == str(report) and (source / "report.html").read_text() != "old":
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", full)
    message = refusal(capsys, flat.folder, "--images", flat.images / "case0", "-o", report, "--overwrite")
    assert "cannot be written: No space left on device" in message
    assert (report / "report.html").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
