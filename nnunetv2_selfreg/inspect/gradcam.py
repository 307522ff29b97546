"""Grad-CAM of a class at a stage of a segmentation network, and how much of it lies inside the class.

Selvaraju et al., Grad-CAM, ICCV 2017; for segmentation Vinogradova et al., Towards Interpretable Semantic Segmentation
via Gradient-Weighted Class Activation Mapping, AAAI 2020: the score that is explained is the sum of the class's logit
over a set of voxels.
"""

import numpy as np
import torch
from captum.attr import LayerGradCam
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def grad_cam(network: nn.Module, stage: nn.Module, patch: Tensor, head: int, mask: Tensor) -> Tensor:
    """Grad-CAM of one class at one stage, for its logit summed over the mask.

    Args:
        network: Gives logits `(B, heads, *spatial)`.
        stage: The module of the network whose output is weighted.
        patch: `(1, channels, *spatial)`.
        head: Which logit.
        mask: The voxels whose logits are summed, bool `(*spatial)`.

    Returns:
        The map, at least 0, brought to the patch's grid by linear interpolation, `(*spatial)`.
    """

    def score(image: Tensor) -> Tensor:
        return (network(image)[:, head] * mask).flatten(1).sum(1)

    with torch.enable_grad():
        attribution = LayerGradCam(score, stage).attribute(patch, relu_attributions=True).detach()
    grid = patch.shape[2:]
    return functional.interpolate(attribution, size=grid, mode=INTERPOLATION[len(grid)], align_corners=False)[0, 0]


def in_class_share(heat: NDArray[np.float32], mask: NDArray[np.bool_], counted: NDArray[np.bool_]) -> float | None:
    """The share of a map's mass that lies inside the class, 0 to 1; None for a map without mass.

    Args:
        heat: The map, at least 0.
        mask: Where the class is, the same shape.
        counted: Where the reference says anything at all, the same shape.
    """
    total = heat[counted].sum(dtype=np.float64)
    return float(heat[mask & counted].sum(dtype=np.float64) / total) if total > 0 else None
