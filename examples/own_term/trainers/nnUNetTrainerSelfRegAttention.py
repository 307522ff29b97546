"""A term of one's own: every stage looks where the last decoder stage looks.

Attention transfer: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, arXiv 1612.03928.
"""

from torch import Tensor
from torch.nn.functional import interpolate, normalize

from nnunetv2_selfreg.terms import own_term
from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    maps = [feature.square().mean(1, keepdim=True) for feature in (student, teacher)]
    grid = [min(sizes) for sizes in zip(student.shape[2:], teacher.shape[2:], strict=True)]
    one, other = (normalize(interpolate(feature, grid, mode="area").flatten(1)) for feature in maps)
    return (one - other).square().sum(1).mean()


class nnUNetTrainerSelfRegAttention(nnUNetTrainerSelfReg):
    terms = (own_term("attention", attention, weight=0.15),)
