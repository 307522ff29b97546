"""The command from end to end: its numbers against independent computations, and what it refuses."""

import base64
import json
import re
import shutil
import weakref
import zlib
from dataclasses import replace
from html import unescape

import numpy as np
import pytest
import SimpleITK
import torch
from PIL import Image
from reference import importance, internal_feature_distillation, pooled

pytest.importorskip("captum", reason="needs the extra [inspect]")
from inspecting import command_line, inspect, measure, opened, value
from model_folders import CLASSES, write_model, write_phantoms

from nnunetv2_selfreg.compat import find_external_trainer
from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.inspect import run
from nnunetv2_selfreg.inspect.cases import _check, evenly, find_cases, prepare
from nnunetv2_selfreg.inspect.measure import Inspection, stage_draws
from nnunetv2_selfreg.inspect.measure import measure as measure_models
from nnunetv2_selfreg.inspect.model import InspectedModel, told_apart
from nnunetv2_selfreg.inspect.plots import draw_grad_cam
from nnunetv2_selfreg.inspect.report import Report
from nnunetv2_selfreg.losses import draw_channels
from nnunetv2_selfreg.model_folder import ModelFolder
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import StageTaps

OWN_TERM = """
from nnunetv2_selfreg.terms import own_term
from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg


def mine(student, teacher):
    return (student.mean() - teacher.mean()).abs()


class nnUNetTrainerSelfRegMine(nnUNetTrainerSelfReg):
    terms = (
        own_term("mine", mine, weight=1.0, average="parts", title="My term"),
        own_term("redundancy", mine, 0.1),
        own_term("area", lambda student, teacher, labels: student.mean(), 0.1, reads_labels=True),
    )
"""
STAGES = ["encoder.stages.0", "encoder.stages.1", "encoder.stages.2", "decoder.stages.0", "decoder.stages.1"]


@pytest.fixture(scope="module")
def flat_report(flat, tmp_path_factory):
    output = tmp_path_factory.mktemp("flat_report") / "out"
    return output, inspect(flat, output)


@pytest.fixture(scope="module")
def slices(flat):
    return maps_of(flat, "case1")


def maps_of(flat, case_name):
    """Each stage's maps of a case, patch by patch, straight from the network."""
    model = opened(flat.folder)
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
    pictures = {path.read_bytes() for path in (output / "plots").iterdir()}
    shown = {base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)}
    assert shown == pictures
    assert len(re.findall("src=", page)) == len(pictures)
    assert not re.search(r"https?:|<script|<link|@import|url\(", page)
    for path in (output / "plots").iterdir():
        assert Image.open(path).info["dpi"][0] == pytest.approx(200, abs=1)
    names = {path.stem for path in (output / "plots").iterdir()}
    assert {"in_class_share", "channel_similarity", "channels", "losses", "ranking", "training"} <= names
    assert sum(name.startswith("grad_cam") for name in names) == 2 * 3  # two cases shown, three classes
    assert sorted(path.name for path in output.iterdir()) == ["plots", "report.html", "values.json"]


def test_the_json_says_what_was_done(flat_report, flat):
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
    assert model.pop("path") == str(flat.folder)
    assert model["weights"] == {}  # trained without SelfReg
    assert str(flat.folder.parent.parent) not in json.dumps(content)


@pytest.mark.parametrize("stage", STAGES)
def test_channel_figures_are_those_of_all_patches(flat_report, slices, stage):
    (model,) = flat_report[1]["models"]
    voxels = np.concatenate([feature[0].reshape(feature.shape[1], -1) for feature in slices[stage]], 1)
    expected = np.corrcoef(voxels.astype(np.float64))
    channels = len(expected)
    off_diagonal = np.abs(expected[~np.eye(channels, dtype=bool)])
    assert value(model, "redundancy", stage)["by_case"]["case1"] == pytest.approx(off_diagonal.mean(), rel=1e-4)
    weights = np.mean([importance(feature) for feature in slices[stage]], 0)
    ranked = np.argsort(-weights)
    half = channels // 2
    pairs = expected[ranked[:half], ranked[channels - half :]]
    found = value(model, "partner_correlation", stage)["by_case"]["case1"]
    assert found == pytest.approx(pairs.mean(), rel=1e-4)


def test_ranking_and_similarity_are_means_over_the_cases(flat):
    model = opened(flat.folder)
    inspection = Inspection(model)
    for files in find_cases(flat.images, None, ".nii.gz", 1)[:2]:
        inspection.add(prepare(files, model.predictor))
    each = [maps_of(flat, name) for name in ("case0", "case1")]
    for stage in STAGES:
        voxels = [np.concatenate([m[0].reshape(m.shape[1], -1) for m in maps[stage]], 1) for maps in each]
        expected = np.mean([np.corrcoef(part.astype(np.float64)) for part in voxels], 0)
        np.testing.assert_allclose(inspection.correlation[stage].value(), expected, atol=1e-4)
        means = [[m[0].mean((1, 2)) / np.sqrt((m[0] ** 2).mean((1, 2))) for m in maps[stage]] for maps in each]
        expected = np.mean([np.mean(part, 0) for part in means], 0)
        np.testing.assert_allclose(inspection.importance[stage].value(), expected, atol=1e-4)
        assert inspection.ranking(stage).tolist() == sorted(range(len(expected)), key=lambda i: -expected[i])


def test_the_losses_are_the_slow_reference_s(flat_report, slices):
    (model,) = flat_report[1]["models"]
    ifd = {name: np.mean([internal_feature_distillation(m)[0] for m in maps]) for name, maps in slices.items()}
    for name in STAGES[:-1]:
        assert value(model, "ifd", name)["by_case"]["case1"] == pytest.approx(ifd[name], rel=1e-4)
    students = value(model, "ifd", "students")["by_case"]["case1"]
    assert students == pytest.approx((ifd[STAGES[1]] + ifd[STAGES[2]]) / 2 + ifd[STAGES[3]], rel=1e-4)
    scr = {name: [] for name in STAGES[:-1]}
    for number, patch in enumerate(zip(*slices.values(), strict=True)):
        *students, teacher = patch
        for name, student in zip(scr, students, strict=True):
            generator = torch.Generator().manual_seed(zlib.crc32(f"case1 {number} {name}".encode()))
            (drawn,) = draw_channels([student.shape[1]], teacher.shape[1], generator)
            grid = tuple(map(min, student.shape[2:], teacher.shape[2:]))
            difference = pooled(student[:, drawn[0]], grid) - pooled(teacher[:, drawn[1]], grid)
            scr[name].append((difference**2).mean())
    for name, values in scr.items():
        assert value(model, "scr", name)["by_case"]["case1"] == pytest.approx(np.mean(values), rel=1e-4)
    expected = np.mean([scr[name] for name in STAGES[1:-1]])
    assert value(model, "scr", "students")["by_case"]["case1"] == pytest.approx(expected, rel=1e-4)
    assert not [f for f in model["values"] if f["measure"] in ("scr", "ifd") and f["stage"] == STAGES[-1]]


def test_the_students_are_those_of_the_plans_as_the_training_sees_them(flat, tmp_path):
    settings = {"taps": "first_and_last", "encoder_stages": [0, 2]}
    folder = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES, selfreg=settings)
    trained = replace(flat, folder=folder)
    content, page = measure(trained, "--cases", "1")
    (model,) = content["models"]
    trained_model = opened(folder)
    network = trained_model.predictor.network.train().requires_grad_(True)  # neither dropout nor batch norm
    taps = StageTaps(network, SelfRegSettings.from_plans({"selfreg": settings}))
    criterion = SelfRegCriterion(lambda output, target: 0 * output.sum(), taps, SelfRegSettings(), torch.device("cpu"))
    (files,) = find_cases(flat.images / "case0", None, ".nii.gz", 1)
    case = prepare(files, trained_model.predictor)
    for slicer in case.slicers:
        criterion(network(case.image[slicer][None]), None)
    means = criterion.take_means()
    assert value(model, "ifd", "students")["by_case"]["case0"] == pytest.approx(means["ifd"], rel=1e-4)
    # the report draws channels for the other stages as well: the same up to the draw, which is worth some percent here
    assert value(model, "scr", "students")["by_case"]["case0"] == pytest.approx(means["scr"], rel=0.05)
    students = [name for stage in ("encoder.stages.0", "encoder.stages.2", "decoder.stages.0")
                for name in (f"{stage} first block", stage)]  # fmt: skip
    each = [value(model, "scr", name)["by_case"]["case0"] for name in students]
    assert value(model, "scr", "students")["by_case"]["case0"] == pytest.approx(np.mean(each))
    first_block = value(model, "ifd", "encoder.stages.0 first block")["by_case"]["case0"]
    assert first_block != value(model, "ifd", "encoder.stages.0")["by_case"]["case0"]
    assert [name for name in ("E0*", "E1*", "E2*", "D0*", "E2 first block*") if f"<td>{name}</td>" in page] == [
        "E0*", "E2*", "D0*", "E2 first block*",
    ]  # fmt: skip


def test_a_student_that_is_no_stage_is_measured_under_its_own_name(flat, tmp_path):
    name = "encoder.stages.1.0.convs.0"
    folder = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES, selfreg={"encoder_stages": [name, 2]})
    content, page = measure(replace(flat, folder=folder), "--cases", "1")
    assert value(content["models"][0], "ifd", name)["mean"] > 0
    assert f"<td>{name}*</td>" in page


def test_a_class_that_is_larger_than_the_labels_of_a_case(flat, tmp_path):
    """nnU-Net hands a reference without labels above 127 over as int8."""
    folder = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES | {"LV": 200})
    raw = write_phantoms(tmp_path / "raw", 1, relabel=lambda labels: np.where(labels == 3, 0, labels))
    content, _ = measure(replace(flat, folder=folder, images=raw[0], labels=raw[1]), "--cases", "1")
    seen = {each["class"] for each in content["models"][0]["values"] if each["measure"] == "in_class_share"}
    assert seen == {"", "RV", "myocardium"}  # the first is the mean of the classes


def test_draws_of_a_stage_do_not_hang_on_what_else_is_tapped(flat_report, flat, tmp_path):
    """Both models of a comparison meet the same draws, whatever their students, and other ones in each patch."""
    more = {"taps": "first_and_last", "encoder_stages": [0, 2]}
    folder = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES, selfreg=more)
    (model,) = measure(replace(flat, folder=folder))[0]["models"]
    for name in STAGES[:-1]:
        expected = value(flat_report[1]["models"][0], "scr", name)["by_case"]
        assert value(model, "scr", name)["by_case"] == expected
    wide = torch.device("cpu")
    each = [draw_channels([64], 64, stage_draws("case0", number, "s", wide)) for number in range(4)]
    draws = {tuple(drawn[0].tolist()) for (drawn,) in each}
    assert len(draws) == 4


@pytest.mark.parametrize(("target", "label"), [("RV", 1), ("LV", 3)])
def test_in_class_shares_by_autograd(flat_report, flat, target, label):
    """At the full resolution of the last stage no interpolation comes between."""
    (model,) = flat_report[1]["models"]
    predictor, kept = opened(flat.folder).predictor, {}
    network = predictor.network
    network.decoder.stages[1].register_forward_hook(
        lambda module, inputs, output: kept.update(map=output.requires_grad_())
    )
    (files,) = find_cases(flat.images / "case1", flat.labels, ".nii.gz", 1)
    case = prepare(files, predictor)
    patches = [(case.labels[slicer[1:]] == label, case.image[slicer][None]) for slicer in case.slicers]
    shares = []
    for mask, patch in sorted(patches, key=lambda pair: -int(pair[0].sum()))[:3]:
        network(patch)[0, label][mask].sum().backward()
        weights = kept["map"].grad.mean((2, 3), keepdim=True)
        cam = (weights * kept["map"]).sum(1)[0].clamp(min=0).detach()
        shares += [float(cam[mask].sum() / cam.sum())] if cam.any() else []
    assert shares
    found = value(model, "in_class_share", STAGES[-1], target)["by_case"]["case1"]
    assert found == pytest.approx(np.mean(shares), rel=1e-4)


def test_the_reference_lies_where_the_file_has_it(flat):
    model = opened(flat.folder)
    (files,) = find_cases(flat.images / "case1", flat.labels, ".nii.gz", 1)
    case = prepare(files, model.predictor)
    image = SimpleITK.ReadImage(files.label)
    raw, spacing = SimpleITK.GetArrayFromImage(image), image.GetSpacing()[::-1]
    assert case.spacing == (2.5, 2.5)
    for target in model.targets:
        found = np.isin(case.labels.numpy(), target.labels)
        expected = raw == target.labels[0]
        in_mm = [(np.argwhere(mask).mean(0) + 0.5) * size
                 for mask, size in ((found, (spacing[0], 2.5, 2.5)), (expected, spacing))]  # fmt: skip
        np.testing.assert_allclose(in_mm[0], in_mm[1], atol=1)
        # a mirrored or transposed reference would not lie there
        assert not np.allclose(in_mm[1], np.array(raw.shape) * spacing / 2, atol=2)


@pytest.mark.parametrize("trained", ["flat", "deep"])
def test_the_predicted_classes_are_those_of_nnunet(trained, request):
    model = opened(request.getfixturevalue(trained).folder)
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
            found = value(model, "in_class_share", stage, target)
            assert found["cases"] + found["missing"] == 3
            assert all(0 <= share <= 1 for share in found["by_case"].values() if share is not None)
    mean = value(model, "in_class_share", STAGES[2])["by_case"]["case0"]
    each = [value(model, "in_class_share", STAGES[2], t)["by_case"]["case0"] for t in ("RV", "myocardium", "LV")]
    assert mean == pytest.approx(np.mean([share for share in each if share is not None]))


def test_chance_is_the_class_s_share_of_the_patches_that_show_most_of_it(flat_report, flat):
    (model,) = flat_report[1]["models"]
    predictor = opened(flat.folder).predictor
    (files,) = find_cases(flat.images / "case2_0000.nii.gz", flat.labels, ".nii.gz", 1)
    case = prepare(files, predictor)
    areas = sorted(float((case.labels[slicer[1:]] == 3).double().mean()) for slicer in case.slicers)
    assert value(model, "class_area", "input", "LV")["by_case"]["case2"] == pytest.approx(np.mean(areas[-3:]))


@pytest.mark.longer
def test_a_model_differs_from_itself_by_nothing(flat, tmp_path):
    content = inspect(flat, tmp_path / "out", "--compare", flat.folder, "--cases", "1")
    assert content["cases"] == ["case0"]
    assert len(content["differences"]) > 40
    for difference in content["differences"]:
        assert all(value == 0 for value in difference["by_case"].values())
        assert difference["mean"] in (0, None)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "B's channels are as alike as A's" in unescape(page)
    assert page.count("differs at no stage.") == 4  # shares, redundancy, SCR and IFD
    assert (tmp_path / "out" / "plots" / "differences.png").is_file()


def test_cases_are_paired_with_another_model_of_other_plans(flat, tmp_path):
    other = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES, seed=1, patch_size=[40, 48])
    content, _ = measure(flat, "--compare", other, "--cases", "2")
    assert content["cases"] == ["case0", "case2"]
    first, second = content["models"]
    assert (first["stages"][0]["grid"], second["stages"][0]["grid"]) == ([32, 32], [40, 48])
    (found,) = (d for d in content["differences"] if (d["measure"], d["stage"]) == ("redundancy", "encoder.stages.2"))
    by_case = [value(model, "redundancy", "encoder.stages.2")["by_case"] for model in (first, second)]
    expected = [by_case[1][case] - by_case[0][case] for case in ("case0", "case2")]
    assert list(found["by_case"].values()) == pytest.approx(expected)
    assert found["mean"] == pytest.approx(np.mean(expected))
    assert found["sd"] == pytest.approx(np.std(expected, ddof=1))


def test_two_models_are_compared_on_the_first_fold_that_both_have(flat, tmp_path):
    folders = []
    for name, folds in (("a", (1, 2, 4)), ("b", (2, 3, 4))):
        folder = write_model(tmp_path / name / "Dataset001_Flat", 2, CLASSES)
        for fold in folds:
            shutil.copytree(folder / "fold_0", folder / f"fold_{fold}")
        shutil.rmtree(folder / "fold_0")
        folders.append(folder)
    content, _ = measure(replace(flat, folder=folders[0]), "--compare", folders[1], "--cases", "1")
    assert [model["fold"] for model in content["models"]] == ["2", "2"]


def test_scr_of_a_stock_model_is_measured_as_that_of_the_other(flat, tmp_path):
    """The same network twice, so SCR cannot differ: of the other it is the expectation, by its plans."""
    _, plans, configuration = flat.folder.name.split("__")
    folder = tmp_path / "Dataset001_Flat" / f"nnUNetTrainerSelfReg__{plans}__{configuration}"
    shutil.copytree(flat.folder, folder)
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["2d"]["selfreg"] = {"scr_channels": "expected"}
    (folder / "plans.json").write_text(json.dumps(plans))
    path = folder / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(path, weights_only=False) | {"trainer_name": "nnUNetTrainerSelfReg"}, path)
    content, page = measure(flat, "--compare", folder, "--cases", "1")
    found = [row["mean"] for row in content["differences"] if row["measure"] == "scr"]
    assert len(found) > 2
    assert found == pytest.approx([0] * len(found))
    assert "SCR is its expectation over all draws" in " ".join(page.split())


@pytest.fixture(scope="module")
def trainings(flat, tmp_path_factory):
    """Two repetitions of a model, of two folds each; every network has other weights."""
    root = tmp_path_factory.mktemp("trainings")
    folders = []
    for number in range(2):
        folder = write_model(root / f"run{number}" / "Dataset001_Flat", 2, CLASSES, seed=2 * number)
        other = write_model(root / f"other{number}" / "Dataset001_Flat", 2, CLASSES, seed=2 * number + 1)
        folders.append(replace(flat, folder=folder))
        shutil.move(other / "fold_0", folder / "fold_1")
        (folder / "fold_1" / "validation").mkdir()
        summary = {"foreground_mean": {"Dice": 0.625 + number / 10}}
        (folder / "fold_1" / "validation" / "summary.json").write_text(json.dumps(summary))
    return folders


def test_folds_of_two_models_are_measured_each_alone_and_paired(trainings):
    first, second = trainings
    content, page = measure(first, "--compare", second.folder, "-f", "0", "1", "--cases", "1")
    assert [(model["run"], model["validation_dice"]) for model in content["models"]] == [
        ("fold 0", None), ("fold 1", 0.625), ("fold 0", None), ("fold 1", 0.725),
    ]  # fmt: skip
    each = []
    for trained in trainings:
        alone = [measure(trained, "-f", fold, "--cases", "1")[0]["models"][0] for fold in "01"]
        each.append([value(model, "redundancy", STAGES[1])["by_case"]["case0"] for model in alone])
    found = [value(model, "redundancy", STAGES[1])["by_case"]["case0"] for model in content["models"]]
    assert found == pytest.approx([*each[0], *each[1]])
    (difference,) = (x for x in content["differences"] if (x["measure"], x["stage"]) == ("redundancy", STAGES[1]))
    expected = np.subtract(each[1], each[0])
    assert list(difference["by_fold"].values()) == pytest.approx(expected)
    assert (difference["mean"], difference["sd"]) == pytest.approx((expected.mean(), expected.std(ddof=1)))
    # models of one name are told apart
    assert {
        "A: run0/Dataset001_Flat/nnUNetTrainer__Tiny__2d",
        "B: run1/Dataset001_Flat/nnUNetTrainer__Tiny__2d",
    } <= set(re.findall("<td>(.*?)</td>", page.replace("<wbr>", "")))


def test_repetitions_of_a_model_are_its_trainings(trainings):
    first, second = trainings
    both = [str(first.folder), *command_line(second, "nowhere", "--cases", "1")]
    content = Report(*measure_models(run.parse(both))).as_json()
    assert [model["run"] for model in content["models"]] == ["repetition 1, fold 0", "repetition 2, fold 0"]
    (found,) = (x for x in content["over_runs"][""] if (x["measure"], x["stage"]) == ("redundancy", STAGES[1]))
    each = [value(model, "redundancy", STAGES[1])["mean"] for model in content["models"]]
    assert list(found["by_training"].values()) == each
    assert found["mean"] == pytest.approx(np.mean(each))


def test_a_link_has_the_name_that_was_given(trainings, tmp_path):
    first, second = trainings
    link = tmp_path / second.folder.name
    link.symlink_to(shutil.copytree(second.folder, tmp_path / "run17"))
    line = command_line(first, "nowhere", "--cases", "1")
    inspections, _ = measure_models(run.parse([str(link), *line]))
    assert [each.run for each in inspections] == ["repetition 1, fold 0", "repetition 2, fold 0"]
    assert told_apart([link, link.with_name("U__P__2d")]) == [link.name, "U__P__2d"]


def test_a_validation_of_other_weights_or_of_training_cases_is_not_shown(trainings, tmp_path):
    folder = shutil.copytree(trainings[0].folder, tmp_path / trainings[0].folder.name)
    fold = folder / "fold_1"
    shutil.copy(fold / "checkpoint_final.pth", fold / "checkpoint_best.pth")
    assert InspectedModel(folder, "1", "checkpoint_final.pth", "cpu").dice == 0.625
    assert InspectedModel(folder, "1", "checkpoint_best.pth", "cpu").dice is None
    fold.rename(folder / "fold_all")
    assert InspectedModel(folder, "all", "checkpoint_final.pth", "cpu").dice is None


def test_one_file_may_hold_all_channels(deep, tmp_path):
    """As nnU-Net's reader of NIfTI takes it: the channels are the fourth dimension."""
    channels = [SimpleITK.ReadImage(str(deep.images / f"case0_000{number}.nii.gz")) for number in range(2)]
    SimpleITK.WriteImage(SimpleITK.JoinSeries(channels), str(tmp_path / "case0_0000.nii.gz"))
    prepared = []
    for folder in (deep.images, tmp_path):
        (files,) = find_cases(folder / "case0", deep.labels, ".nii.gz", 2)
        prepared.append(prepare(files, opened(deep.folder).predictor))
    assert torch.equal(prepared[0].image, prepared[1].image)
    with pytest.raises(SelfRegError, match="case case0 has 2 image channels; the model takes 1"):
        _check("case0", prepared[0].image, None, {"channel_names": {"0": "MRI"}})


def test_labels_are_read_as_nnunet_reads_them():
    description = {"channel_names": {"0": "MRI"}, "labels": {"background": 0, "RV": [1], "LV": "2"}}
    _check("case0", [0], np.arange(3), description)
    with pytest.raises(SelfRegError, match=r"holds 3; the model.s dataset\.json knows 0, 1, 2"):
        _check("case0", [0], np.arange(4), description)


def test_as_much_of_the_paths_as_tells_them_apart(tmp_path):
    paths = [tmp_path / name for name in ("a/Dataset/T__P__2d", "b/Dataset/T__P__2d")]
    assert told_apart(paths) == ["a/Dataset/T__P__2d", "b/Dataset/T__P__2d"]
    assert told_apart([paths[0], paths[0].with_name("U__P__2d")]) == ["T__P__2d", "U__P__2d"]
    assert told_apart([paths[0], paths[0]]) == ["T__P__2d", "T__P__2d"]


def test_without_references_the_prediction_is_explained(flat):
    content, page = measure(flat, "--cases", "1", labels=False)
    assert content["settings"]["reference"] is False
    assert "own prediction" in page
    (case,), model = content["cases"], opened(flat.folder)
    (files,) = find_cases(flat.images / case, None, ".nii.gz", 1)
    prepared = prepare(files, model.predictor)
    with torch.no_grad():
        seen = [model.predictor.network(prepared.image[slicer][None])[0].argmax(0) for slicer in prepared.slicers]
    for name, label in list(CLASSES.items())[1:]:
        areas = sorted(float((each == label).float().mean()) for each in seen)
        largest = [area for area in areas if area > 0][-3:]  # the patches that are explained
        if largest:
            found = value(content["models"][0], "class_area", "input", name)["by_case"][case]
            assert found == pytest.approx(np.mean(largest))
    assert any((each > 0).any() for each in seen)


def test_a_picture_of_heat_is_in_units_of_an_even_map(flat):
    model = opened(flat.folder)
    inspection = Inspection(model)
    files = find_cases(flat.images, flat.labels, ".nii.gz", 1)[0]
    inspection.add(prepare(files, model.predictor), show=True)
    heats = [heat for view in inspection.views.values() for heat in view.heat.values() if heat is not None]
    assert heats
    assert [float(heat.mean()) for heat in heats] == pytest.approx([1.0] * len(heats), rel=1e-5)


def test_three_dimensions_regions_channels_and_the_ignore_label(deep):
    content, page = measure(deep, "--cases", "1")
    (model,) = content["models"]
    assert content["classes"] == ["heart", "LV"]
    assert model["stages"][2]["grid"] == [4, 8, 8]
    heart, ventricle = (value(model, "class_area", "input", name)["by_case"]["case0"] for name in ("heart", "LV"))
    assert heart > ventricle > 0  # a region is the union of its labels
    assert "the first is shown" in page


def test_an_rgb_picture_is_one_file(pictures):
    content, page = measure(pictures)
    assert content["cases"] == ["disc0", "disc1"]
    assert (content["settings"]["channels"], content["settings"]["shown_as"]) == (3, "RGB")
    area = value(content["models"][0], "class_area", "input", "disc")["by_case"]["disc0"]
    labels = np.asarray(Image.open(pictures.labels / "disc0.png"))
    windows = [labels[row : row + 32, column : column + 32].mean() for row in (0, 8) for column in (0, 16)]
    assert area == pytest.approx(np.mean(sorted(windows)[-3:]))
    assert "shown as RGB" in page


def test_a_volume_is_shown_in_up_to_three_slices_of_each_class(deep):
    model = opened(deep.folder)
    inspection = Inspection(model)
    (files,) = find_cases(deep.images / "case0", deep.labels, ".nii.gz", 2)
    case = prepare(files, model.predictor)
    inspection.add(case, show=True)
    for target in model.targets:
        shown = {number: view for (_, name, number), view in inspection.views.items() if name == target.name}
        assert list(shown) == [0, 1, 2]
        masks = [np.isin(case.labels[slicer[1:]].numpy(), target.labels) for slicer in case.slicers]
        largest = max(masks, key=np.sum)
        sizes = [int(view.reference.sum()) for view in shown.values()]
        assert min(sizes) > 0
        assert max(sizes) == largest.sum((1, 2)).max()
        assert len({view.place for view in shown.values()}) == 3
    plot = draw_grad_cam([inspection], ("case0", "LV", 2))
    assert sum(axis.get_visible() and bool(axis.images) for axis in plot.axes) == len(STAGES) + 2


def test_the_ignored_slice_counts_nowhere(deep):
    """Neither in a class's share of the area nor, at the last stage, in a map's mass."""
    model = opened(deep.folder)
    inspection = Inspection(model)
    (files,) = find_cases(deep.images / "case0", deep.labels, ".nii.gz", 2)
    case = prepare(files, model.predictor)
    inspection.add(case)
    ignored = [case.labels[slicer[1:]].numpy() == 4 for slicer in case.slicers]
    assert any(mask.any() for mask in ignored)
    for target in model.targets:
        masks = [np.isin(case.labels[slicer[1:]].numpy(), target.labels) for slicer in case.slicers]
        largest = sorted(range(len(masks)), key=lambda i: -masks[i].sum())[:3]
        areas = [masks[i].sum() / (~ignored[i]).sum() for i in largest]
        values = inspection.values
        found = values[(values["measure"] == "class_area") & (values["class"] == target.name)]["value"]
        assert found.to_list() == [pytest.approx(np.mean(areas))]


def test_a_term_of_one_s_own_is_measured_like_the_built_in_ones(flat, tmp_path, monkeypatch):
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "nnUNetTrainerSelfRegMine.py").write_text(OWN_TERM)
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path / "trainers"))
    if find_external_trainer("nnUNetTrainerSelfRegMine") is None:
        pytest.skip("nnU-Net reads nnUNet_extTrainer since 2.8")
    folder = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES)
    folder = folder.rename(folder.with_name("nnUNetTrainerSelfRegMine__Tiny__2d"))
    path = folder / "fold_0" / "checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    changes = {"trainer_name": "nnUNetTrainerSelfRegMine", "logging": {"mine": [2.0, 1.0]}}
    torch.save(checkpoint | changes, path)
    content, page = measure(flat, "--compare", folder, "--cases", "1")
    stock, model = content["models"]
    assert model["logging"]["mine"] == [2, 1]
    assert "area" not in {each["measure"] for each in model["values"]}  # it reads labels
    maps = maps_of(flat, "case0")
    for name in STAGES[:-1]:
        expected = [
            abs(student.mean() - teacher.mean()) for student, teacher in zip(maps[name], maps[STAGES[-1]], strict=True)
        ]
        assert value(model, "mine", name)["by_case"]["case0"] == pytest.approx(np.mean(expected), rel=1e-4)
        assert value(model, "scr", name)["by_case"] == value(stock, "scr", name)["by_case"]
    each = [value(model, "mine", name)["by_case"]["case0"] for name in STAGES[1:-1]]
    expected = np.mean(each[:2]) + each[2]  # average="parts"
    assert value(model, "mine", "students")["by_case"]["case0"] == pytest.approx(expected)
    assert "SCR, IFD, My term, redundancy as the losses see them" in page
    assert "<td>My term 1, redundancy 0.1, area 0.1</td>" in page
    assert "Left out of this report, as their losses read the reference: area." in page
    # a name that another measure has
    assert value(model, "redundancy_term", STAGES[1])["by_case"] == value(model, "mine", STAGES[1])["by_case"]
    assert value(model, "redundancy", STAGES[1])["by_case"] == value(stock, "redundancy", STAGES[1])["by_case"]
    assert "<th>My term, A</th><th>My term, B</th>" in page


def test_one_patch_at_a_time(deep, monkeypatch):
    """As prediction does: no forward pass, Grad-CAM's included, sees more than one patch or begins with old maps."""
    shapes, kept = set(), []
    original = ModelFolder.predictor

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

    monkeypatch.setattr(ModelFolder, "predictor", watched)
    measure(deep, "--cases", "1")
    assert shapes == {(1, 2, 8, 32, 32)}


def test_the_cases_are_spread_over_the_names():
    assert evenly(list("abcdefghij"), 4) == ["a", "d", "g", "j"]
    assert evenly(list("abc"), 20) == ["a", "b", "c"]
    assert evenly(list("abc"), 1) == ["a"]
