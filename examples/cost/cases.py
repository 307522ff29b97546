"""Networks and batches to measure on, as nnU-Net plans them."""

from dataclasses import dataclass

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from nnunetv2.training.loss.compound_losses import DC_and_CE_loss
from nnunetv2.training.loss.deep_supervision import DeepSupervisionWrapper
from nnunetv2.training.loss.dice import MemoryEfficientSoftDiceLoss


@dataclass(frozen=True)
class Case:
    """A configuration of nnU-Net's plans.

    Attributes:
        patch: Patch size in voxels.
        batch: Patches in a batch.
        features: Channels of each encoder stage.
        strides: Strides of each stage after the first, the same on every axis unless given per axis.
        origin: Where the numbers come from.
    """

    patch: tuple[int, ...]
    batch: int
    features: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    origin: str


CASES = {
    "hippocampus-2d": Case((56, 40), 366, (32, 64, 128, 256), ((2, 2),) * 3, "nnU-Net's 2d plan"),
    "hippocampus-2d-small": Case((56, 40), 12, (16, 32, 64, 128), ((2, 2),) * 3, "the same, cut down for a CPU"),
    "small-2d": Case((96, 96), 2, (16, 32, 64, 128), ((2, 2),) * 3, "a small network, to compile on a CPU"),
    "224-2d": Case((224, 224), 4, (32, 64, 128, 256, 512, 512), ((2, 2),) * 5, "nnU-Net's 2d plan, small batch"),
    "hippocampus-3d": Case((40, 56, 40), 2, (32, 64, 128, 256), ((2, 2, 2),) * 3, "nnU-Net's 3d_fullres plan"),
    "acdc-2d": Case((256, 224), 56, (32, 64, 128, 256, 512, 512), ((2, 2),) * 5, "nnU-Net's 2d plan"),
    "128-3d": Case((128, 128, 128), 2, (32, 64, 128, 256, 320, 320), ((2, 2, 2),) * 5, "a usual 3d_fullres plan"),
}
CLASSES = 4


def build_network(case: Case) -> PlainConvUNet:
    """nnU-Net's default network for a case, always with the same weights."""
    torch.manual_seed(0)
    dimensions = len(case.patch)
    stages = len(case.features)
    network = PlainConvUNet(
        input_channels=1,
        n_stages=stages,
        features_per_stage=case.features,
        conv_op=getattr(torch.nn, f"Conv{dimensions}d"),
        kernel_sizes=3,
        strides=[(1,) * dimensions, *case.strides],
        n_conv_per_stage=2,
        num_classes=CLASSES,
        n_conv_per_stage_decoder=2,
        conv_bias=True,
        norm_op=getattr(torch.nn, f"InstanceNorm{dimensions}d"),
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    network.apply(network.initialize)
    return network


def build_loss(case: Case) -> torch.nn.Module:
    """nnU-Net's Dice and cross-entropy with deep supervision, as `nnUNetTrainer._build_loss` makes it."""
    loss = DC_and_CE_loss(
        {"batch_dice": len(case.patch) == 2, "smooth": 1e-5, "do_bg": False, "ddp": False},
        {},
        weight_ce=1,
        weight_dice=1,
        dice_class=MemoryEfficientSoftDiceLoss,
    )
    weights = [1 / 2**i for i in range(len(case.features) - 1)]
    weights[-1] = 0
    return DeepSupervisionWrapper(loss, [weight / sum(weights) for weight in weights])


def build_batch(case: Case, device: torch.device) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Random images `(B, 1, *patch)` and references for every deep supervision output."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((case.batch, 1, *case.patch), generator=generator)
    target = torch.randint(CLASSES, (case.batch, 1, *case.patch), generator=generator)
    targets = [target]
    for stride in case.strides[:-1]:
        targets.append(targets[-1][(..., *(slice(None, None, step) for step in stride))])
    return images.to(device), [part.to(device) for part in targets]
