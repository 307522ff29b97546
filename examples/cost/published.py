"""The published formulation, written plainly with autograd: what the library's losses are measured against.

Zhu et al., SelfReg-UNet, MICCAI 2024: the same values and gradients as `nnunetv2_selfreg.losses`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import choose_students


def internal_feature_distillation(feature: Tensor) -> Tensor:
    """Normalise, rank, permute, compare the halves. `(B, C, *spatial)`, C even."""
    normalised = functional.normalize(feature.flatten(2), dim=2)
    ranking = normalised.mean(dim=(0, 2)).argsort(descending=True)
    better, worse = feature[:, ranking].chunk(2, dim=1)
    return functional.mse_loss(better, worse)


def semantic_consistency(student: Tensor, teacher: Tensor) -> Tensor:
    """Pool the finer map, draw channels of both, compare. `(B, C, *spatial)` each."""
    pool = getattr(functional, f"adaptive_avg_pool{student.ndim - 2}d")
    grid = [min(sizes) for sizes in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    student, teacher = pool(student, grid), pool(teacher.detach(), grid)
    k = min(student.shape[1], teacher.shape[1])
    drawn = [torch.randperm(feature.shape[1], device=feature.device)[:k] for feature in (student, teacher)]
    return functional.mse_loss(student[:, drawn[0]], teacher[:, drawn[1]])


def selfreg(encoder: list[Tensor], decoder: list[Tensor], final: Tensor) -> Tensor:
    """SCR (mean over all students) plus IFD (mean over the encoder's plus mean over the decoder's), unweighted."""
    students = encoder + decoder
    scr = sum(semantic_consistency(student, final) for student in students) / len(students)
    ifd = sum(sum(map(internal_feature_distillation, group)) / len(group) for group in (encoder, decoder) if group)
    return scr + ifd


class PublishedCriterion(nn.Module):
    """nnU-Net's loss plus the published formulation on the same maps, hooks included.

    Args:
        loss: nnU-Net's loss.
        network: The network; its hooks keep the maps with their graph.
    """

    def __init__(self, loss: nn.Module, network: nn.Module) -> None:
        super().__init__()
        self.loss, self.maps = loss, {}
        self.stages = choose_students(network, SelfRegSettings())
        for part in self.stages:
            for name, module in part.items():
                module.register_forward_hook(lambda module, inputs, output, name=name: self.maps.update({name: output}))

    def forward(self, output, target):
        encoder, decoder, (teacher,) = ([self.maps[name] for name in part] for part in self.stages)
        self.maps.clear()
        return self.loss(output, target) + 0.015 * selfreg(encoder, decoder, teacher)
