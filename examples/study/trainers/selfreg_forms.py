"""Forms of regularisation that the study tries beside the published one, and their trainers.

Each does what the paper argues for, supervision of the encoder or less redundant channels, and none can be lowered by
rescaling a stage. Maps are `(B, C, *spatial)`; a loss over positions treats each cell of the coarser grid in each image
as one observation.

Sources: attention transfer, Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928; CKA, Kornblith et al., ICML 2019,
arXiv 1905.00414; the probe, Alain and Bengio, arXiv 1610.01644, here as ridge regression; decorrelation, Zbontar et al.
(Barlow Twins), ICML 2021, arXiv 2103.03230.
"""

import os
import random

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor
from torch.nn.functional import interpolate, normalize

from nnunetv2_selfreg.terms import own_term
from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg

RIDGE = 1e-3  # of the probe, times the mean square of a channel
POSITIONS_PER_CHANNEL = 4  # below it, a linear probe fits any labels


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of the normalised energy maps of student and teacher, mean over the batch; 0 to 2."""
    maps = _on_one_grid(*(feature.square().mean(1, keepdim=True) for feature in (student, teacher)))
    one, other = (normalize(feature.flatten(1)) for feature in maps)
    return (one - other).square().sum(1).mean()


def cka(student: Tensor, teacher: Tensor) -> Tensor:
    """One minus the linear centred kernel alignment of student and teacher; 0 to 1."""
    one, other = (_observations(feature) for feature in _on_one_grid(student, teacher))
    # each divided by its norm first, so that small maps do not vanish in their fourth power
    one, other = one / _norm(one), other / _norm(other)
    return 1 - (one.mT @ other).square().sum() / (_norm(one.mT @ one) * _norm(other.mT @ other))


def probe(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """What a ridge regression on the student's channels leaves unexplained of the classes' areas; 0 to 1.

    The mean over the foreground classes that the batch has; 0 for a student with too few positions for its channels.

    Args:
        student: `(B, C, *spatial)`.
        teacher: Unused.
        labels: The reference, `(B, 1, *spatial)`, classes by number.
    """
    channels = _observations(student)
    areas = [(labels == label).to(student.dtype) for label in labels.unique() if label > 0]
    if not areas or channels.shape[0] < POSITIONS_PER_CHANNEL * channels.shape[1]:
        return student.sum() * 0
    classes = _observations(interpolate(torch.cat(areas, 1), student.shape[2:], mode="area"))
    gram, products = channels.mT @ channels, channels.mT @ classes
    ridge = RIDGE * gram.diagonal().mean().clamp_min(1e-30) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    explained = (products * torch.linalg.solve(gram + ridge, products)).sum(0)
    return (1 - explained / classes.square().sum(0).clamp_min(1e-12)).mean()


def decorrelation(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared correlation between two of the student's channels; 0 to 1, and 0 for a single channel."""
    channels = normalize(_observations(student), dim=0)
    between = (channels.mT @ channels).square()
    count = student.shape[1]
    return (between.sum() - between.diagonal().sum()) / max(count * (count - 1), 1)


def _on_one_grid(student: Tensor, teacher: Tensor) -> list[Tensor]:
    """Both maps averaged to the coarser grid."""
    grid = [min(sizes) for sizes in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    return [interpolate(feature, grid, mode="area") for feature in (student, teacher)]


def _observations(feature: Tensor) -> Tensor:
    """`(B * positions, C)`, each channel minus its mean."""
    rows = feature.movedim(1, -1).flatten(0, -2)
    return rows - rows.mean(0)


def _norm(matrix: Tensor) -> Tensor:
    return torch.linalg.vector_norm(matrix).clamp_min(1e-30)


# Chosen to make each 5 to 10 % of the segmentation's gradient on the encoder when a training begins; what they make was
# measured afterwards (results/strength.csv).
ATTENTION = own_term("attention", attention, weight=0.15, title="Attention")
CKA = own_term("cka", cka, weight=0.1, title="CKA")
PROBE = own_term("probe", probe, weight=0.05, title="Probe", reads_labels=True)
DECORRELATION = own_term("decorrelation", decorrelation, weight=2.0, title="Decorrelation")


class nnUNetTrainer_2500steps(nnUNetTrainer):
    """50 epochs of 50 training and 10 validation iterations; `nnUNetTrainerSelfRegCKA_2500steps` is made by name."""

    def __init__(self, plans, configuration, fold, dataset_json, device) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs, self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = 50, 50, 10


class nnUNetTrainerSeeded_2500steps(nnUNetTrainer_2500steps):
    """The same first weights and the same batches in every arm of a run, on a CPU; nnU-Net itself fixes no seed.

    A run is a repetition of a fold; the workflow names the repetition in `STUDY_REPETITION`. The batches must be made
    in this process (`nnUNet_n_proc_DA=0`). SelfReg draws from a generator of its own, so the batches stay the same.
    """

    def initialize(self) -> None:
        if os.environ.get("nnUNet_n_proc_DA") != "0":
            raise RuntimeError("worker processes draw batches of their own; set nnUNet_n_proc_DA=0")
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(10 * int(os.environ.get("STUDY_REPETITION", "0")) + self.fold)
        super().initialize()


class nnUNetTrainerSelfRegAttention(nnUNetTrainerSelfReg):
    terms = (ATTENTION,)


class nnUNetTrainerSelfRegCKA(nnUNetTrainerSelfReg):
    terms = (CKA,)


class nnUNetTrainerSelfRegProbe(nnUNetTrainerSelfReg):
    terms = (PROBE,)


class nnUNetTrainerSelfRegDecorrelation(nnUNetTrainerSelfReg):
    terms = (DECORRELATION,)
