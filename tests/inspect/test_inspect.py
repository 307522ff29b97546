"""The command from end to end: its numbers against independent computations, and what it refuses."""

import base64
import json
import os
import re
import shutil
import weakref
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from PIL import Image
from reference import importance, internal_feature_distillation, pooled

pytest.importorskip("captum", reason="needs the extra [inspect]")
from model_folders import CLASSES, write_model

from nnunetv2_selfreg import cli
from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.inspect import model as model_module
from nnunetv2_selfreg.inspect import run
from nnunetv2_selfreg.inspect.cases import find_cases, prepare, spread
from nnunetv2_selfreg.inspect.measure import Inspection, stage_draws, telling_slices
from nnunetv2_selfreg.inspect.model import open_model
from nnunetv2_selfreg.losses import draw_channels
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.stages import StageTaps

STAGES = ["encoder.stages.0", "encoder.stages.1", "encoder.stages.2", "decoder.stages.0", "decoder.stages.1"]


def inspect(trained, output, *more, labels=True):
    references = ["--labels", str(trained.labels)] if labels else []
    arguments = [trained.folder, "--images", trained.images, *references, "-o", output, "--device", "cpu", *more]
    assert run.main([str(argument) for argument in arguments]) == 0
    return json.loads((output / "figures.json").read_text())


def figure(model, measure, stage, target=""):
    (found,) = (f for f in model["figures"] if (f["measure"], f["stage"], f["target"]) == (measure, stage, target))
    return found


@pytest.fixture(scope="module")
def flat_report(flat, tmp_path_factory):
    output = tmp_path_factory.mktemp("flat_report") / "out"
    return output, inspect(flat, output)


@pytest.fixture(scope="module")
def slices(flat):
    return maps_of(flat, "case1")


def maps_of(flat, case_name):
    """Each stage's maps of a case, patch by patch, straight from the network."""
    model = open_model(flat.folder, None, "checkpoint_final.pth", "cpu")
    (files,) = find_cases(flat.images / case_name, flat.labels, ".nii.gz", 1)
    case = prepare(files, model.predictor)
    maps = {name: [] for name in STAGES}
    for name in STAGES:
        part, _, number = name.split(".")
        stage = getattr(model.predictor.network, part).stages[int(number)]
        stage.register_forward_hook(lambda module, inputs, output, name=name: maps[name].append(output.numpy()))
    with torch.no_grad():
        for slicer in case.slicers:
            model.predictor.network(case.image[slicer][None])
    return maps


def test_the_report_is_one_file_with_its_pictures_in_it(flat_report):
    output, _ = flat_report
    page = (output / "report.html").read_text()
    pictures = {path.read_bytes() for path in (output / "figures").iterdir()}
    shown = {base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)}
    assert shown == pictures
    assert len(re.findall("src=", page)) == len(pictures)
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    names = {path.stem for path in (output / "figures").iterdir()}
    assert {"in_class_share", "channel_similarity", "channels", "losses", "ranking", "training"} <= names
    assert sum(name.startswith("grad_cam") for name in names) == 2 * 3  # two cases shown, three classes
    assert sorted(path.name for path in output.iterdir()) == ["figures", "figures.json", "report.html"]


def test_the_json_says_what_was_done_and_not_where(flat_report, flat):
    _, content = flat_report
    assert content["cases"] == ["case0", "case1", "case2"]
    assert content["classes"] == ["RV", "myocardium", "LV"]
    assert content["settings"]["reference"] is True
    assert set(content["versions"]) == {"nnunetv2-selfreg", "nnunetv2", "torch", "captum"}
    (model,) = content["models"]
    assert (model["name"], model["dataset"], model["fold"]) == ("nnUNetTrainer__Tiny__2d", "Dataset001_Flat", "0")
    assert [stage["name"] for stage in model["stages"]] == STAGES
    assert [stage["channels"] for stage in model["stages"]] == [4, 6, 8, 6, 4]
    assert [stage["student"] for stage in model["stages"]] == [False, True, True, True, False]
    assert model["logging"] == {"mean_fg_dice": [0.25, 0.5], "ema_fg_dice": [0.25, 0.275], "scr": [1.5, None]}
    assert str(flat.folder.parent.parent) not in json.dumps(content)


@pytest.mark.parametrize("stage", STAGES)
def test_channel_figures_are_those_of_all_patches(flat_report, slices, stage):
    (model,) = flat_report[1]["models"]
    voxels = np.concatenate([feature[0].reshape(feature.shape[1], -1) for feature in slices[stage]], 1)
    expected = np.corrcoef(voxels.astype(np.float64))
    channels = len(expected)
    off_diagonal = np.abs(expected[~np.eye(channels, dtype=bool)])
    assert figure(model, "redundancy", stage)["by_case"]["case1"] == pytest.approx(off_diagonal.mean(), rel=1e-4)
    weights = np.mean([importance(feature) for feature in slices[stage]], 0)
    ranked = np.argsort(-weights)
    half = channels // 2
    pairs = expected[ranked[:half], ranked[channels - half :]]
    found = figure(model, "partner_correlation", stage)["by_case"]["case1"]
    assert found == pytest.approx(pairs.mean(), rel=1e-4)


def test_ranking_and_similarity_are_means_over_the_cases(flat):
    model = open_model(flat.folder, None, "checkpoint_final.pth", "cpu")
    inspection = Inspection(model, torch.device("cpu"))
    for files in find_cases(flat.images, None, ".nii.gz", 1)[:2]:
        for _ in inspection.add(prepare(files, model.predictor), show=False):
            pass
    each = [maps_of(flat, name) for name in ("case0", "case1")]
    for stage in STAGES:
        voxels = [np.concatenate([m[0].reshape(m.shape[1], -1) for m in maps[stage]], 1) for maps in each]
        expected = np.mean([np.corrcoef(part.astype(np.float64)) for part in voxels], 0)
        np.testing.assert_allclose(inspection.correlation(stage), expected, atol=1e-4)
        means = [[m[0].mean((1, 2)) / np.sqrt((m[0] ** 2).mean((1, 2))) for m in maps[stage]] for maps in each]
        expected = np.mean([np.mean(part, 0) for part in means], 0)
        np.testing.assert_allclose(inspection.importance(stage), expected, atol=1e-4)
        assert inspection.ranking(stage).tolist() == sorted(range(len(expected)), key=lambda i: -expected[i])


def test_the_losses_are_the_slow_reference_s(flat_report, slices):
    (model,) = flat_report[1]["models"]
    ifd = {name: np.mean([internal_feature_distillation(m)[0] for m in maps]) for name, maps in slices.items()}
    for name in STAGES[:-1]:
        assert figure(model, "ifd", name)["by_case"]["case1"] == pytest.approx(ifd[name], rel=1e-4)
    students = figure(model, "ifd", "students")["by_case"]["case1"]
    assert students == pytest.approx((ifd[STAGES[1]] + ifd[STAGES[2]]) / 2 + ifd[STAGES[3]], rel=1e-4)
    scr = {name: [] for name in STAGES[:-1]}
    for number, patch in enumerate(zip(*slices.values(), strict=True)):
        *students, teacher = patch
        for name, student in zip(scr, students, strict=True):
            generator = torch.Generator().manual_seed(zlib.crc32(f"case1 {number} {name}".encode()))
            drawn = draw_channels(student.shape[1], teacher.shape[1], generator)
            grid = tuple(map(min, student.shape[2:], teacher.shape[2:]))
            difference = pooled(student[:, drawn[0]], grid) - pooled(teacher[:, drawn[1]], grid)
            scr[name].append((difference**2).mean())
    for name, values in scr.items():
        assert figure(model, "scr", name)["by_case"]["case1"] == pytest.approx(np.mean(values), rel=1e-4)
    expected = np.mean([scr[name] for name in STAGES[1:-1]])
    assert figure(model, "scr", "students")["by_case"]["case1"] == pytest.approx(expected, rel=1e-4)
    assert not [f for f in model["figures"] if f["measure"] in ("scr", "ifd") and f["stage"] == STAGES[-1]]


def test_the_students_are_those_of_the_plans_as_the_training_sees_them(flat, tmp_path):
    settings = {"taps": "first_and_last", "encoder_stages": [0, 2]}
    folder = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES, selfreg=settings)
    trained = replace(flat, folder=folder)
    (model,) = inspect(trained, tmp_path / "out", "--cases", "1")["models"]
    opened = open_model(folder, None, "checkpoint_final.pth", "cpu")
    network = opened.predictor.network.train().requires_grad_(True)  # neither dropout nor batch norm
    taps = StageTaps(network, "first_and_last", [0, 2])
    criterion = SelfRegCriterion(lambda output, target: 0 * output.sum(), taps, SelfRegSettings(), torch.device("cpu"))
    (files,) = find_cases(flat.images / "case0", None, ".nii.gz", 1)
    case = prepare(files, opened.predictor)
    for slicer in case.slicers:
        criterion(network(case.image[slicer][None]), None)
    means = criterion.take_means()
    assert figure(model, "ifd", "students")["by_case"]["case0"] == pytest.approx(means["ifd"], rel=1e-4)
    # the report draws channels for the other stages as well: the same up to the draw, which is worth some percent here
    assert figure(model, "scr", "students")["by_case"]["case0"] == pytest.approx(means["scr"], rel=0.05)
    students = [name for stage in ("encoder.stages.0", "encoder.stages.2", "decoder.stages.0")
                for name in (f"{stage} first block", stage)]  # fmt: skip
    each = [figure(model, "scr", name)["by_case"]["case0"] for name in students]
    assert figure(model, "scr", "students")["by_case"]["case0"] == pytest.approx(np.mean(each))
    first_block = figure(model, "ifd", "encoder.stages.0 first block")["by_case"]["case0"]
    assert first_block != figure(model, "ifd", "encoder.stages.0")["by_case"]["case0"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert [name for name in ("E0*", "E1*", "E2*", "D0*", "E2 first block*") if f"<td>{name}</td>" in page] == [
        "E0*", "E2*", "D0*", "E2 first block*",
    ]  # fmt: skip


def test_draws_of_a_stage_do_not_hang_on_what_else_is_tapped(flat_report, flat, tmp_path):
    """Both models of a comparison meet the same draws, whatever their students, and other ones in each patch."""
    more = {"taps": "first_and_last", "encoder_stages": [0, 2]}
    folder = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES, selfreg=more)
    (model,) = inspect(replace(flat, folder=folder), tmp_path / "out")["models"]
    for name in STAGES[:-1]:
        expected = figure(flat_report[1]["models"][0], "scr", name)["by_case"]
        assert figure(model, "scr", name)["by_case"] == expected
    wide = torch.device("cpu")
    draws = {tuple(draw_channels(64, 64, stage_draws("case0", number, "s", wide))[0].tolist()) for number in range(4)}
    assert len(draws) == 4


@pytest.mark.parametrize(("target", "label"), [("RV", 1), ("LV", 3)])
def test_in_class_shares_by_autograd(flat_report, flat, target, label):
    """At the full resolution of the last stage no interpolation comes between."""
    (model,) = flat_report[1]["models"]
    opened = open_model(flat.folder, None, "checkpoint_final.pth", "cpu")
    network, kept = opened.predictor.network, {}
    network.decoder.stages[1].register_forward_hook(
        lambda module, inputs, output: kept.update(map=output.requires_grad_())
    )
    (files,) = find_cases(flat.images / "case1", flat.labels, ".nii.gz", 1)
    case = prepare(files, opened.predictor)
    patches = [(case.labels[slicer[1:]] == label, case.image[slicer][None]) for slicer in case.slicers]
    shares = []
    for mask, patch in sorted(patches, key=lambda pair: -int(pair[0].sum()))[:3]:
        network(patch)[0, label][mask].sum().backward()
        weights = kept["map"].grad.mean((2, 3), keepdim=True)
        cam = (weights * kept["map"]).sum(1)[0].clamp(min=0).detach()
        shares += [float(cam[mask].sum() / cam.sum())] if cam.any() else []
    assert shares
    found = figure(model, "in_class_share", STAGES[-1], target)["by_case"]["case1"]
    assert found == pytest.approx(np.mean(shares), rel=1e-4)


def test_the_reference_lies_where_the_file_has_it(flat):
    model = open_model(flat.folder, None, "checkpoint_final.pth", "cpu")
    (files,) = find_cases(flat.images / "case1", flat.labels, ".nii.gz", 1)
    case = prepare(files, model.predictor)
    image = SimpleITK.ReadImage(files.label)
    raw, spacing = SimpleITK.GetArrayFromImage(image), image.GetSpacing()[::-1]
    assert case.spacing == (2.5, 2.5)
    for target in model.targets:
        found = model.referenced(case.labels, target).numpy()
        expected = raw == target.labels[0]
        in_mm = [(np.argwhere(mask).mean(0) + 0.5) * size
                 for mask, size in ((found, (spacing[0], 2.5, 2.5)), (expected, spacing))]  # fmt: skip
        np.testing.assert_allclose(in_mm[0], in_mm[1], atol=1)
        # a mirrored or transposed reference would not lie there
        assert not np.allclose(in_mm[1], np.array(raw.shape) * spacing / 2, atol=2)


@pytest.mark.parametrize("trained", ["flat", "deep"])
def test_the_predicted_classes_are_those_of_nnunet(trained, request):
    model = open_model(request.getfixturevalue(trained).folder, None, "checkpoint_final.pth", "cpu")
    manager = model.predictor.label_manager
    logits = torch.randn(manager.num_segmentation_heads, 6, 7, generator=torch.Generator().manual_seed(0))
    if manager.has_regions:
        logits[1] = torch.minimum(*logits)  # the inner region lies inside the outer one
    expected = manager.convert_logits_to_segmentation(logits)
    for target in model.targets:
        inside = torch.isin(expected, torch.tensor(target.labels, dtype=expected.dtype))
        assert 0 < inside.sum() < inside.numel()
        assert torch.equal(model.predicted(logits, target), inside)


def test_shares_lie_between_nothing_and_all(flat_report):
    (model,) = flat_report[1]["models"]
    for target in ("RV", "myocardium", "LV"):
        for stage in STAGES:
            found = figure(model, "in_class_share", stage, target)
            assert found["cases"] + found["missing"] == 3
            assert all(0 <= share <= 1 for share in found["by_case"].values() if share is not None)
    mean = figure(model, "in_class_share", STAGES[2])["by_case"]["case0"]
    each = [figure(model, "in_class_share", STAGES[2], t)["by_case"]["case0"] for t in ("RV", "myocardium", "LV")]
    assert mean == pytest.approx(np.mean([share for share in each if share is not None]))


def test_chance_is_the_class_s_share_of_the_patches_that_show_most_of_it(flat_report, flat):
    (model,) = flat_report[1]["models"]
    opened = open_model(flat.folder, "0", "checkpoint_final.pth", "cpu")
    (files,) = find_cases(flat.images / "case2_0000.nii.gz", flat.labels, ".nii.gz", 1)
    case = prepare(files, opened.predictor)
    areas = sorted(float((case.labels[slicer[1:]] == 3).double().mean()) for slicer in case.slicers)
    assert figure(model, "class_area", "input", "LV")["by_case"]["case2"] == pytest.approx(np.mean(areas[-3:]))


def test_a_model_differs_from_itself_by_nothing(flat, tmp_path):
    content = inspect(flat, tmp_path / "out", "--compare", flat.folder, "--cases", "2")
    assert content["cases"] == ["case0", "case2"]
    assert len(content["differences"]) > 40
    for difference in content["differences"]:
        assert all(value == 0 for value in difference["by_case"].values())
        assert difference["higher"] == 0
        assert difference["mean"] in (0, None)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "redundancy: higher at 0, lower at 0, within 0.005 at 5 of 5 stages" in page
    assert (tmp_path / "out" / "figures" / "differences.png").is_file()


def test_cases_are_paired_with_another_model_of_other_plans(flat, tmp_path):
    other = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES, seed=1, patch_size=[40, 48])
    content = inspect(flat, tmp_path / "out", "--compare", other, "--cases", "2")
    first, second = content["models"]
    assert (first["stages"][0]["grid"], second["stages"][0]["grid"]) == ([32, 32], [40, 48])
    (found,) = (d for d in content["differences"] if (d["measure"], d["stage"]) == ("redundancy", "encoder.stages.2"))
    by_case = [figure(model, "redundancy", "encoder.stages.2")["by_case"] for model in (first, second)]
    expected = [by_case[1][case] - by_case[0][case] for case in ("case0", "case2")]
    assert list(found["by_case"].values()) == pytest.approx(expected)
    assert found["mean"] == pytest.approx(np.mean(expected))
    assert found["sd"] == pytest.approx(np.std(expected, ddof=1))
    assert found["higher"] == sum(value > 0 for value in expected)


def with_folds(model, *folds):
    for fold in folds:
        shutil.copytree(model / "fold_0", model / f"fold_{fold}")
    shutil.rmtree(model / "fold_0")
    return model


def test_two_models_are_compared_on_the_first_fold_that_both_have(flat, tmp_path, capsys):
    first = with_folds(write_model(tmp_path / "a" / "Dataset001_Flat", 2, CLASSES), 1, 2, 4)
    second = with_folds(write_model(tmp_path / "b" / "Dataset001_Flat", 2, CLASSES), 2, 3, 4)
    content = inspect(replace(flat, folder=first), tmp_path / "out", "--compare", second, "--cases", "1")
    assert [model["fold"] for model in content["models"]] == ["2", "2"]
    arguments = [first, "--compare", second, "--images", flat.images, "-o", tmp_path / "other"]
    for fold in (2, 4):
        shutil.rmtree(second / f"fold_{fold}")
    message = refusal(capsys, *arguments)
    assert "have no fold with a checkpoint_final.pth in common (1, 2, 4 and 3)" in message
    assert "-f" in message


def test_without_references_the_prediction_is_explained(flat, tmp_path):
    content = inspect(flat, tmp_path / "out", "--cases", "1", labels=False)
    assert content["settings"]["reference"] is False
    assert "own prediction" in (tmp_path / "out" / "report.html").read_text()


def test_three_dimensions_regions_channels_and_the_ignore_label(deep, tmp_path):
    content = inspect(deep, tmp_path / "out", "--cases", "1")
    (model,) = content["models"]
    assert content["classes"] == ["heart", "LV"]
    assert model["stages"][2]["grid"] == [4, 8, 8]
    heart, ventricle = (figure(model, "class_area", "input", name)["by_case"]["case0"] for name in ("heart", "LV"))
    assert heart > ventricle > 0  # a region is the union of its labels
    assert "the first is shown" in (tmp_path / "out" / "report.html").read_text()


def test_an_rgb_picture_is_one_file(pictures, tmp_path):
    content = inspect(pictures, tmp_path / "out")
    assert content["cases"] == ["disc0", "disc1"]
    assert (content["settings"]["channels"], content["settings"]["shown_as"]) == (3, "RGB")
    area = figure(content["models"][0], "class_area", "input", "disc")["by_case"]["disc0"]
    labels = np.asarray(Image.open(pictures.labels / "disc0.png"))
    windows = [labels[row : row + 32, column : column + 32].mean() for row in (0, 8) for column in (0, 16)]
    assert area == pytest.approx(np.mean(sorted(windows)[-3:]))
    page = (tmp_path / "out" / "report.html").read_text()
    assert "shown as RGB" in page


def test_a_grey_picture_is_refused_where_the_model_takes_colours(pictures, tmp_path, capsys):
    path = pictures.images / "disc0_0000.png"
    Image.open(path).convert("L").save(path)
    message = refusal(capsys, pictures.folder, "--images", pictures.images, "-o", tmp_path / "out")
    assert message.endswith("inspect: case disc0 has 1 image channel; the model takes 3")


def test_a_volume_is_shown_in_up_to_three_slices_of_each_class(deep):
    model = open_model(deep.folder, None, "checkpoint_final.pth", "cpu")
    inspection = Inspection(model, torch.device("cpu"))
    (files,) = find_cases(deep.images / "case0", deep.labels, ".nii.gz", 2)
    case = prepare(files, model.predictor)
    for _ in inspection.add(case, show=True):
        pass
    for target in model.targets:
        shown = [picture for picture in inspection.pictures if picture.target == target.name]
        assert [picture.number for picture in shown] == [0, 1, 2]
        masks = [torch.isin(case.labels[s[1:]], torch.tensor(target.labels, dtype=case.labels.dtype))
                 for s in case.slicers]  # fmt: skip
        largest = max(masks, key=lambda mask: int(mask.sum())).numpy()
        sizes = [int(picture.reference.sum()) for picture in shown]
        assert min(sizes) > 0
        assert max(sizes) == largest.sum((1, 2)).max()
        assert len({picture.place for picture in shown}) == 3


@pytest.mark.parametrize(
    ("areas", "slices"),
    [
        ([0, 1, 1, 5, 1, 1, 1, 0], [3, 5]),  # seen in the slices 1 to 6: a third is 3, two thirds 5
        ([0, 9, 1, 1, 1, 1, 1, 0], [1, 3, 5]),
        ([0, 0, 4, 0], [2]),
        ([1, 0, 0, 2], [0, 3]),
    ],
)
def test_slices_are_the_largest_and_those_at_the_thirds(areas, slices):
    assert telling_slices(np.array(areas)) == slices


def test_the_ignored_slice_counts_nowhere(deep):
    model = open_model(deep.folder, None, "checkpoint_final.pth", "cpu")
    (files,) = find_cases(deep.images / "case0", deep.labels, ".nii.gz", 2)
    labels = prepare(files, model.predictor).labels
    ignored = model.ignored(labels)
    assert ignored.any()
    for target in model.targets:
        assert not (model.referenced(labels, target) & ignored).any()


def test_one_patch_at_a_time(deep, tmp_path, monkeypatch):
    """As prediction does: no forward pass, Grad-CAM's included, sees more than one patch or begins with old maps."""
    shapes, kept = set(), []
    original = model_module.load_predictor

    def begin(module, inputs):
        shapes.add(tuple(inputs[0].shape))
        assert not [reference for reference in kept if reference() is not None]
        kept.clear()

    def watched(*arguments):
        predictor = original(*arguments)
        predictor.network.register_forward_pre_hook(begin)
        for stage in (*predictor.network.encoder.stages, *predictor.network.decoder.stages):
            stage.register_forward_hook(lambda module, inputs, output: kept.append(weakref.ref(output)))
        return predictor

    monkeypatch.setattr(model_module, "load_predictor", watched)
    inspect(deep, tmp_path / "out", "--cases", "1")
    assert shapes == {(1, 2, 8, 32, 32)}


def test_the_cases_are_spread_over_the_names():
    assert spread(list("abcdefghij"), 4) == ["a", "d", "g", "j"]
    assert spread(list("abc"), 20) == ["a", "b", "c"]
    assert spread(list("abc"), 1) == ["a"]


def refusal(capsys, *arguments):
    assert cli.main(["inspect", *map(str, arguments)]) == 1
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("nnUNetv2_selfreg inspect: ")
    return error[-1]


def changed(flat, tmp_path, change):
    """A copy of the model whose data set description differs."""
    folder = tmp_path / "other" / flat.folder.name
    shutil.copytree(flat.folder, folder)
    description = json.loads((folder / "dataset.json").read_text())
    change(description)
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def test_what_cannot_be_inspected_ends_in_one_line_and_leaves_nothing(flat, deep, tmp_path, capsys):
    out = tmp_path / "made" / "out"
    base = [flat.folder, "--images", flat.images, "-o", out]
    checks = [
        ([tmp_path, "--images", flat.images, "-o", out], r"is not a model folder, it has no plans\.json"),
        ([*base, "-f", "3"], r"has no fold_3 with a checkpoint_final\.pth"),
        ([*base, "-chk", "checkpoint_best.pth"], r"has no fold with a checkpoint_best\.pth"),
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


def test_models_of_other_stages_are_not_compared(flat, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("model_folders.FEATURES", (4, 6))
    other = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES)
    arguments = [flat.folder, "--images", flat.images, "--compare", other, "-o", tmp_path / "out"]
    assert "their stages differ" in refusal(capsys, *arguments)


def test_a_network_without_stages_is_refused(flat, tmp_path, capsys, monkeypatch):
    original = model_module.load_predictor

    def flattened(*arguments):
        predictor = original(*arguments)
        predictor.network = torch.nn.Conv2d(1, 1, 1)
        return predictor

    monkeypatch.setattr(model_module, "load_predictor", flattened)
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
    assert message.endswith('inspect needs captum: pip install "nnunetv2-selfreg[inspect]"')


@pytest.fixture
def report(tmp_path):
    """A folder that holds what an earlier inspection wrote, and nothing else."""
    output = tmp_path / "out"
    (output / "figures").mkdir(parents=True)
    (output / "report.html").write_text("old")
    (output / "figures.json").write_text(json.dumps({"made_by": "nnUNetv2_selfreg inspect"}))
    return output


def test_a_report_is_replaced_when_asked_for(flat, report, tmp_path, capsys):
    arguments = [flat.folder, "--images", flat.images / "case0", "-o", report]
    assert "exists already" in refusal(capsys, *arguments)
    assert (report / "report.html").read_text() == "old"
    assert cli.main(["inspect", *map(str, arguments), "--overwrite"]) == 0
    assert json.loads((report / "figures.json").read_text())["cases"] == ["case0"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("thesis.txt", "mine"),
        ("figures/scan.nii.gz", "mine"),
        ("figures.json", '{"made_by": "me"}'),
        ("figures.json", "mine"),
        ("figures.json", "[]"),
        ("report.html", None),
        ("figures", None),
    ],
)
def test_only_a_report_is_replaced(flat, report, capsys, name, text):
    if text is None:
        path = report / name
        path.rmdir() if path.is_dir() else path.unlink()
    else:
        (report / name).write_text(text)
    before = {path: path.is_dir() or path.read_bytes() for path in report.rglob("*")}
    message = refusal(capsys, flat.folder, "--images", flat.images, "-o", report, "--overwrite")
    assert message.endswith(
        f"-o {report} is not a report and nothing else, so --overwrite leaves it alone; name another"
    )
    assert {path: path.is_dir() or path.read_bytes() for path in report.rglob("*")} == before


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
