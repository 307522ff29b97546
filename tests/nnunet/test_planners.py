"""The networks that nnU-Net's planners and trainers build, and one that a user writes into the plans."""

import pytest
import torch
from commands import run
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet, ResidualUNet
from dynamic_network_architectures.building_blocks.residual import StackedResidualBlocks
from trainings import edit_plans, short_training


@pytest.mark.longer
@pytest.mark.parametrize("size", ["M", "L", "XL"])
def test_residual_encoder_planners(size, dataset, tmp_path):
    """As planned, but for the batch size; the data are the default planner's, as nnU-Net shares them."""
    run(f"nnUNetv2_plan_experiment -d {dataset.number} -pl nnUNetPlannerResEnc{size}")
    planned = f"nnUNetResEncUNet{size}Plans"
    plans = edit_plans(
        dataset.raw.name, planned, f"ResEnc{size}", lambda configurations: configurations["2d"].update(batch_size=2)
    )
    trainer = short_training(tmp_path, dataset.raw.name, "2d", plans)
    assert type(trainer.network) is ResidualEncoderUNet
    assert trainer.preprocessed_dataset_folder == str(dataset.preprocessed / "nnUNetPlans_2d")


def test_residual_decoder(dataset, tmp_path):
    def edit(configurations: dict) -> None:
        architecture = configurations["2d"]["architecture"]
        architecture["network_class_name"] = f"{ResidualUNet.__module__}.ResidualUNet"
        architecture["arch_kwargs"]["n_blocks_per_stage"] = architecture["arch_kwargs"].pop("n_conv_per_stage")

    plans = edit_plans(dataset.raw.name, "Small", "ResidualDecoder", edit)
    trainer = short_training(tmp_path, dataset.raw.name, "2d", plans)
    assert type(trainer.network) is ResidualUNet
    assert all(isinstance(stage, StackedResidualBlocks) for stage in trainer.network.decoder.stages)


def test_batch_norm(dataset, tmp_path):
    trainer = short_training(tmp_path, dataset.raw.name, "2d", "Small", "nnUNetTrainerSelfRegBN")
    assert type(trainer.network) is PlainConvUNet
    kinds = {type(module) for module in trainer.network.modules()}
    assert torch.nn.BatchNorm2d in kinds
    assert torch.nn.InstanceNorm2d not in kinds


def test_no_deep_supervision(dataset, tmp_path):
    trainer = short_training(tmp_path, dataset.raw.name, "2d", "Small", "nnUNetTrainerSelfRegNoDeepSupervision")
    batch = next(trainer.dataloader_train)
    assert isinstance(batch["target"], torch.Tensor)
    assert trainer.network(batch["data"]).shape[2:] == batch["target"].shape[2:]
