"""How hard the terms pull, against a plain computation: nnU-Net's loss made by hand, and autograd for all gradients."""

import json
from dataclasses import replace

import model_folders
import pytest
import torch
from torch.nn import functional

pytest.importorskip("captum", reason="needs the extra [inspect]")
from inspecting import command_line, measure, opened, value
from model_folders import CLASSES, REGIONS, write_model
from nnunetv2.training.loss.compound_losses import DC_and_BCE_loss, DC_and_CE_loss
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss

from nnunetv2_selfreg.inspect import run
from nnunetv2_selfreg.inspect.cases import find_cases, prepare
from nnunetv2_selfreg.inspect.measure import stage_draws
from nnunetv2_selfreg.inspect.pull import SegmentationLoss
from nnunetv2_selfreg.losses import draw_channels

STUDENTS = [f"encoder.stages.{i}" for i in (1, 2, 3)] + [f"decoder.stages.{i}" for i in (0, 1)]
TEACHER = "decoder.stages.2"
WEIGHTS = {"scr": 0.3, "ifd": 0.02}


@pytest.fixture(params=[2, 3], ids=["labels", "regions"])
def trained(request, flat, deep, tmp_path, monkeypatch):
    """A model of four stages: of three outputs, deep supervision counts two."""
    dimensions = request.param
    monkeypatch.setattr(model_folders, "FEATURES", (4, 6, 8, 6))
    monkeypatch.setattr(
        model_folders, "strides", lambda d: [[1] * d, [1, 2, 2][-d:], [2] * d, [2] * d][: len(model_folders.FEATURES)]
    )
    raw, labels = (flat, CLASSES) if dimensions == 2 else (deep, REGIONS)
    given = {f"lambda_{name}": weight for name, weight in WEIGHTS.items()}
    folder = write_model(
        tmp_path / "Dataset001_Flat", dimensions, labels, channels=dimensions - 1, selfreg=given, batch_dice=True
    )
    folder = folder.rename(str(folder).replace("nnUNetTrainer__", "nnUNetTrainerSelfReg__"))
    path = folder / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(path, weights_only=False) | {"trainer_name": "nnUNetTrainerSelfReg"}, path)
    return replace(raw, folder=folder)


def scr(student, teacher, draws):
    pool = getattr(functional, f"adaptive_avg_pool{student.ndim - 2}d")
    ((mine, others),) = draw_channels([student.shape[1]], teacher.shape[1], draws)
    return functional.mse_loss(student[:, mine], pool(teacher, student.shape[2:])[:, others])


def ifd(student):
    ranking = functional.normalize(student.flatten(2), dim=2).mean((0, 2)).argsort(descending=True)
    return functional.mse_loss(*student[:, ranking].chunk(2, 1))


def own_loss(outputs, labels, regions):
    """nnU-Net's: outputs weigh 1, 1/2 and, the coarsest, nothing."""
    dice = {"batch_dice": True, "smooth": 1e-5, "ddp": False}
    total = 0
    for output, weight in zip(outputs, (2 / 3, 1 / 3, 0), strict=True):
        if regions:  # nearest of nnU-Net's downsampling; the ignore label as a last channel
            parts = [torch.isin(labels, torch.tensor(r)) for r in ([1, 2, 3], [3], [4])]
            target = nearest(torch.stack(parts)[None].float(), output.shape[2:])
            loss = DC_and_BCE_loss(
                {}, dice | {"do_bg": True}, use_ignore_label=True, dice_class=MemoryEfficientSoftDiceLoss
            )
        else:
            target = nearest(labels[None, None].float(), output.shape[2:])
            loss = DC_and_CE_loss(dice | {"do_bg": False}, {}, dice_class=MemoryEfficientSoftDiceLoss)
        total = total + weight * loss(output, target)
    return total


def nearest(target, size):
    return functional.interpolate(target, size, mode="nearest-exact")


def test_shares_of_gradient_and_loss(trained):
    content, page = measure(trained, "--cases", "1")
    (model,) = content["models"]
    inspected = opened(trained.folder)
    network = inspected.predictor.network.requires_grad_(True)
    network.decoder.deep_supervision = True
    kept = {}
    for name in (*STUDENTS, TEACHER):
        part, _, number = name.split(".")
        stage = getattr(network, part).stages[int(number)]
        stage.register_forward_hook(lambda module, inputs, output, name=name: kept.update({name: output}))
    (files,) = find_cases(trained.images / "case0", trained.labels, ".nii.gz", inspected.channels)
    case = prepare(files, inspected.predictor)
    loss_sum, sizes = (
        0.0,
        {(what, name): 0.0 for what in ("own", "scr", "ifd", "scr loss", "ifd loss") for name in STUDENTS},
    )
    for number, slicer in enumerate(case.slicers):
        outputs = network(case.image[slicer][None])
        loss = own_loss(outputs, case.labels[slicer[1:]], content["classes"] == ["heart", "LV"])
        loss_sum += abs(loss.item())
        own = torch.autograd.grad(loss, [kept[name] for name in STUDENTS])
        for name, gradient in zip(STUDENTS, own, strict=True):
            student = kept[name].detach().requires_grad_()
            draws = stage_draws("case0", number, name, torch.device("cpu"))
            terms = {
                "scr": WEIGHTS["scr"] / 5 * scr(student, kept[TEACHER].detach(), draws),
                "ifd": WEIGHTS["ifd"] / (3 if name.startswith("encoder") else 2) * ifd(student),
            }
            sizes["own", name] += gradient.norm().item()
            for term, added in terms.items():
                sizes[f"{term} loss", name] += added.item()
                sizes[term, name] += torch.autograd.grad(added, student)[0].norm().item()
    whole = loss_sum + sum(size for (what, _), size in sizes.items() if what.endswith(" loss"))
    for term in WEIGHTS:
        found = value(model, f"{term}_loss_percent", "students")["by_case"]["case0"]
        assert found == pytest.approx(100 * sum(sizes[f"{term} loss", name] for name in STUDENTS) / whole, rel=1e-3)
        for name in STUDENTS:
            found = value(model, f"{term}_gradient_percent", name)["by_case"]["case0"]
            assert found == pytest.approx(100 * sizes[term, name] / sizes["own", name], rel=1e-3)
            found = value(model, f"{term}_loss_percent", name)["by_case"]["case0"]
            assert found == pytest.approx(100 * sizes[f"{term} loss", name] / whole, rel=1e-3)
    assert "How hard they pull" in page
    assert "SCR, share of the gradient [%]" in page


def test_the_terminal_shows_the_students_and_all_of_them(flat, tmp_path, capsys):
    assert run.main(command_line(flat, tmp_path / "out", "--cases", "1")) == 0
    head, *rows, last = capsys.readouterr().out.splitlines()
    assert "SCR, share of the gradient [%]" in head
    assert [row.split()[0] for row in rows] == ["encoder.stages.1", "encoder.stages.2", "decoder.stages.0", "students"]
    assert last.startswith("wrote ")
    (model,) = json.loads((tmp_path / "out" / "values.json").read_text())["models"]
    shown = float(rows[0].split()[-2])
    assert shown == pytest.approx(value(model, "scr_gradient_percent", "encoder.stages.1")["mean"], abs=5e-4)
    assert (tmp_path / "out" / "plots" / "pull.png").is_file()


def test_without_references_the_page_says_what_is_missing(flat):
    content, page = measure(flat, "--cases", "1", labels=False)
    assert not [v for v in content["models"][0]["values"] if v["measure"].endswith("_percent")]
    assert "it takes references (--labels)" in page


def test_a_trainer_whose_loss_needs_a_training_is_named_and_the_rest_is_measured(flat, monkeypatch):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    monkeypatch.setattr(nnUNetTrainer, "_build_loss", lambda trainer: trainer.dataloader_train)
    content, page = measure(flat, "--cases", "1")
    label = "nnUNetTrainer__Tiny__2d, fold 0"
    assert f"Not measured, as the trainer's loss failed here, outside of a training: {label}: AttributeError:" in page
    assert value(content["models"][0], "scr", "encoder.stages.1")["mean"] > 0


def test_a_loss_that_takes_more_than_output_and_target_is_named_and_the_rest_is_measured(flat, monkeypatch):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    monkeypatch.setattr(nnUNetTrainer, "_build_loss", lambda trainer: lambda output, target, distances: output)
    content, page = measure(flat, "--cases", "1")
    assert "failed here, outside of a training: nnUNetTrainer__Tiny__2d, fold 0: TypeError:" in page
    assert "missing 1 required positional argument" in page
    assert value(content["models"][0], "scr", "encoder.stages.1")["mean"] > 0


def test_a_loss_that_fails_midway_is_not_measured_on_some_patches(flat, tmp_path, monkeypatch):
    """Neither its patches before nor those of the cases before; of the other model all are there."""
    real, calls = SegmentationLoss.pulls, []

    def pulls(loss, image, labels):
        calls.append(loss)
        if len(calls) == 3:
            loss.reason = "OutOfMemoryError: here"
            return None
        return real(loss, image, labels)

    monkeypatch.setattr(SegmentationLoss, "pulls", pulls)
    other = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES, seed=1)
    content, page = measure(flat, "--cases", "2", "--compare", other)
    percents = [[v for v in model["values"] if v["measure"].endswith("_percent")] for model in content["models"]]
    first, second = (bool(found) for found in percents)
    assert (first, second) == (False, True)
    assert "nnUNetTrainer__Tiny__2d, fold 0: OutOfMemoryError: here" in page
    assert "SCR, share of the gradient [%]" in page


def test_a_stock_variant_s_own_init_counts_and_nothing_is_written(flat, tmp_path, monkeypatch):
    """Without deep supervision there is one output, and a loss of it."""
    folder = write_model(tmp_path / "Dataset001_Flat", 2, CLASSES)
    folder = folder.rename(str(folder).replace("nnUNetTrainer__", "nnUNetTrainerNoDeepSupervision__"))
    path = folder / "fold_0" / "checkpoint_final.pth"
    torch.save(torch.load(path, weights_only=False) | {"trainer_name": "nnUNetTrainerNoDeepSupervision"}, path)
    monkeypatch.setenv("nnUNet_results", str(tmp_path / "results"))
    content, _ = measure(replace(flat, folder=folder), "--cases", "1")
    assert value(content["models"][0], "ifd_gradient_percent", "decoder.stages.0")["mean"] > 0
    assert not (tmp_path / "results").exists()
