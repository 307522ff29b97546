"""Small models with random weights, as nnU-Net leaves them on disk, and phantoms for them to look at."""

import json
from pathlib import Path

import numpy as np
import SimpleITK
import torch
from networks import plain_unet
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_selfreg.commands.phantom import make_phantom

FEATURES = (4, 6, 8)
REGIONS = {"background": 0, "heart": [1, 2, 3], "LV": 3, "ignore": 4}
CLASSES = {"background": 0, "RV": 1, "myocardium": 2, "LV": 3}


def write_model(dataset: Path, dimensions: int, labels: dict, channels: int = 1, seed: int = 0, **changes) -> Path:
    """Writes plans, data set description and checkpoint of one fold; `changes` go into the configuration."""
    configuration = {2: "2d", 3: "3d_fullres"}[dimensions]
    folder = dataset / f"nnUNetTrainer__Tiny__{configuration}"
    (folder / "fold_0").mkdir(parents=True)
    description = {
        "channel_names": {str(i): f"MRI{i}" for i in range(channels)},
        "labels": labels,
        "numTraining": 5,
        "file_ending": ".nii.gz",
    }
    if labels == REGIONS:
        description["regions_class_order"] = [1, 3]
    plans = write_plans(configuration, dimensions, channels, changes)
    (folder / "dataset.json").write_text(json.dumps(description))
    (folder / "plans.json").write_text(json.dumps(plans))
    heads = PlansManager(plans).get_label_manager(description).num_segmentation_heads
    network = plain_unet(
        dimensions,
        FEATURES,
        input_channels=channels,
        num_classes=heads,
        strides=strides(dimensions),
        deep_supervision=False,
    )
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn(parameter.shape)
    content = {
        "network_weights": network.state_dict(),
        "trainer_name": "nnUNetTrainer",
        "init_args": {"configuration": configuration},
        "current_epoch": 2,
        "logging": {"mean_fg_dice": [0.25, 0.5], "ema_fg_dice": [0.25, 0.275], "scr": [1.5, float("nan")]},
        "inference_allowed_mirroring_axes": None,
    }
    torch.save(content, folder / "fold_0" / "checkpoint_final.pth")
    return folder


def strides(dimensions: int) -> list[list[int]]:
    return [[1] * dimensions, [1, 2, 2][-dimensions:], [2] * dimensions][: len(FEATURES)]


def write_plans(name: str, dimensions: int, channels: int, changes: dict) -> dict:
    resampling = {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": f"Tiny_{name}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": [8, 32, 32][-dimensions:],
        "median_image_size_in_voxels": [8, 62, 62][-dimensions:],
        "spacing": [9.0, 2.5, 2.5][-dimensions:],
        "normalization_schemes": ["ZScoreNormalization"] * channels,
        "use_mask_for_norm": [False] * channels,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling,
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True},
        "resampling_fn_probabilities_kwargs": resampling,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": len(FEATURES),
                "features_per_stage": list(FEATURES),
                "conv_op": f"torch.nn.modules.conv.Conv{dimensions}d",
                "kernel_sizes": [[3] * dimensions] * len(FEATURES),
                "strides": strides(dimensions),
                "n_conv_per_stage": [2] * len(FEATURES),
                "n_conv_per_stage_decoder": [2] * (len(FEATURES) - 1),
                "conv_bias": True,
                "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dimensions}d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
        "batch_dice": False,
    }
    return {
        "dataset_name": "Dataset001_Tiny",
        "plans_name": "Tiny",
        "original_median_spacing_after_transp": [9.0, 1.85, 1.85],
        "original_median_shape_after_transp": [8, 62, 62],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {name: configuration | changes},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(i): {} for i in range(channels)},
    }


def write_phantoms(raw: Path, count: int, channels: int = 1, relabel=lambda labels: labels) -> tuple[Path, Path]:
    """Cases in nnU-Net's raw format; the second channel is the first one's negative."""
    folders = raw / "imagesTs", raw / "labelsTs"
    for folder in folders:
        folder.mkdir(parents=True)
    for number in range(count):
        phantom = make_phantom(2, number)
        channel_images = (phantom.image, phantom.image.max() - phantom.image)[:channels]
        files = {folders[0] / f"case{number}_{i:04d}.nii.gz": image for i, image in enumerate(channel_images)}
        files[folders[1] / f"case{number}.nii.gz"] = relabel(phantom.labels)
        for path, array in files.items():
            image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array))
            image.SetSpacing(phantom.spacing[::-1])
            SimpleITK.WriteImage(image, path)
    return folders
