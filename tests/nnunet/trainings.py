"""Trainings of two steps in this process, and data sets drawn for one purpose."""

import json
import math
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import torch
from commands import folder, run
from nnunetv2 import paths
from nnunetv2.run.run_training import get_trainer_from_args
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from reference import internal_feature_distillation

from nnunetv2_selfreg.commands.phantom import make_phantom

CPU = torch.device("cpu")


def build_trainer(results: Path, dataset: str, configuration: str, trainer: str | type, plans: str):
    """A trainer that writes to `results`, so that the suite's own results stay as its commands left them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_results", str(results))
        if isinstance(paths.nnUNet_results, str):  # nnU-Net 2.6 reads the environment once, at the import
            patch.setattr(f"{nnUNetTrainer.__module__}.nnUNet_results", str(results))
        if isinstance(trainer, str):
            return get_trainer_from_args(dataset, configuration, 0, trainer, plans, device=CPU)
        preprocessed = folder("preprocessed") / dataset
        description, content = (json.loads((preprocessed / f"{name}.json").read_text()) for name in ("dataset", plans))
        return trainer(content | {"continue_training": False}, configuration, 0, description, CPU)


def logged(trainer) -> dict[str, list]:
    return getattr(trainer.logger, "local_logger", trainer.logger).my_fantastic_logging


def short_training(
    results: Path, dataset: str, configuration: str, plans: str, trainer_name: str = "nnUNetTrainerSelfReg"
):
    """Trains two steps, validates one, and shows what holds for every SelfReg training, whatever the network."""
    trainer = build_trainer(results, dataset, configuration, trainer_name, plans)
    trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
    trainer.disable_checkpointing = True
    trainer.initialize()
    # a forward pass outside of the training leaves nothing; nnU-Net's plot of the network makes one
    trainer.network(torch.zeros(2, trainer.num_input_channels, *trainer.configuration_manager.patch_size))
    encoder, decoder = trainer.network.encoder.stages[1:], trainer.network.decoder.stages[:-1]
    parts = [[record(stage) for stage in part] for part in (encoder, decoder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_n_proc_DA", "0")
        trainer.run_training()
    for name in ("scr", "ifd", "selfreg_share"):
        (value,) = logged(trainer)[name]
        assert math.isfinite(value)
        assert value > 0, name
    # IFD has nothing random, so the logged mean must be the slow reference's on what the stages gave
    students = [[np.mean([distilled(step) for step in student]) for student in part] for part in parts]
    assert all(len(student) == 2 for part in parts for student in part)
    assert logged(trainer)["ifd"] == [pytest.approx(sum(map(np.mean, students)), rel=1e-3)]
    assert trainer.loss.taps.take() is None
    for stage in (*encoder, *decoder, trainer.network.decoder.stages[-1]):
        assert_trained(stage)
    return trainer


def record(stage: torch.nn.Module) -> list[np.ndarray]:
    """What the stage will give in each training step."""
    maps: list[np.ndarray] = []

    def keep(module, inputs, output):
        if torch.is_grad_enabled():
            maps.append(output.detach().numpy().copy())

    stage.register_forward_hook(keep)
    return maps


def distilled(feature: np.ndarray) -> float:
    return internal_feature_distillation(feature)[0]


def assert_trained(module: torch.nn.Module) -> None:
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        if parameter.ndim > 1:  # what is added before a normalisation has no effect, so no gradient either
            assert parameter.grad.any(), name


def write_phantoms(
    name: str,
    labels: dict,
    regions_class_order: list[int] | None = None,
    channels: int = 1,
    relabel: Callable[[np.ndarray], np.ndarray] = lambda labels: labels,
) -> None:
    """Five phantoms in nnU-Net's raw format; the second channel is the first one's negative."""
    raw = folder("raw") / name
    for part in ("imagesTr", "labelsTr"):
        (raw / part).mkdir(parents=True)
    for number in range(5):
        phantom = make_phantom(1, number)
        images = (phantom.image, phantom.image.max() - phantom.image)[:channels]
        files = {f"imagesTr/case{number}_{i:04d}": image for i, image in enumerate(images)}
        files[f"labelsTr/case{number}"] = relabel(phantom.labels)
        for path, array in files.items():
            image = SimpleITK.GetImageFromArray(array)
            image.SetSpacing(phantom.spacing[::-1])
            SimpleITK.WriteImage(image, raw / f"{path}.nii.gz")
    description = {
        "channel_names": {str(i): f"MRI{i}" for i in range(channels)},
        "labels": labels,
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    if regions_class_order:
        description["regions_class_order"] = regions_class_order
    (raw / "dataset.json").write_text(json.dumps(description))


def plan_and_preprocess(datasets: Iterable[str], configuration: str) -> None:
    numbers = " ".join(name[7:10] for name in datasets)
    run(f"nnUNetv2_plan_and_preprocess -d {numbers} -c {configuration} -npfp 1 -np 1")


def edit_plans(
    dataset: str,
    source: str,
    target: str,
    edit: Callable[[dict], object],
    whole: Callable[[dict], object] = lambda plans: None,
) -> str:
    """Writes the plans `target`: those of `source`, their configurations edited, or the plans as a whole."""
    preprocessed = folder("preprocessed") / dataset
    plans = json.loads((preprocessed / f"{source}.json").read_text())
    plans["plans_name"] = target
    edit(plans["configurations"])
    whole(plans)
    (preprocessed / f"{target}.json").write_text(json.dumps(plans))
    return target


def narrow(configuration: dict, features: int = 4) -> None:
    architecture = configuration["architecture"]["arch_kwargs"]
    architecture["features_per_stage"] = [features * 2**i for i in range(architecture["n_stages"])]
    configuration["batch_size"] = 2


@cache
def cascade_plans(dataset) -> str:
    """Plans with a cascade of three-stage networks, as nnU-Net's documentation adds one by hand; preprocessed.

    The planner plans none here: the images are too small to need it.
    """

    def edit(configurations: dict) -> None:
        full = configurations["3d_fullres"]
        full["batch_size"], full["patch_size"] = 2, [8, 32, 32]
        architecture = full["architecture"]["arch_kwargs"]
        architecture |= {
            "n_stages": 3,
            "features_per_stage": [4, 8, 16],
            "kernel_sizes": [[3, 3, 3]] * 3,
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
            "n_conv_per_stage": [2, 2, 2],
            "n_conv_per_stage_decoder": [2, 2],
        }
        spacing = np.array(full["spacing"])
        configurations["3d_lowres"] = {
            "inherits_from": "3d_fullres",
            "data_identifier": "Cascade_3d_lowres",
            "spacing": np.where(spacing > 2 * spacing.min(), spacing, 2 * spacing).tolist(),
            "next_stage": "3d_cascade_fullres",
        }
        configurations["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}

    name = edit_plans(dataset.raw.name, "nnUNetPlans", "Cascade", edit)
    run(f"nnUNetv2_preprocess -d {dataset.number} -plans_name {name} -c 3d_lowres -np 1")
    return name
