"""Grad-CAM of a class at a stage of a segmentation network, and how much of it lies inside the class.

Selvaraju et al., Grad-CAM, ICCV 2017; for segmentation Vinogradova et al., Towards Interpretable Semantic Segmentation
via Gradient-Weighted Class Activation Mapping, AAAI 2020: the score that is explained is the sum of the class's logit
over a set of voxels.
"""

from typing import NamedTuple

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from numpy.typing import NDArray
from torch import Tensor, nn

from nnunetv2_selfreg.layouts import Layout

CHANNELS_SECOND = Layout()


class GradCamView(NamedTuple):
    """Grad-CAM of one class in one slice of one case."""

    place: str  # which slice it is; empty where the image has only one
    image: NDArray[np.float32]  # (rows, columns) grey or (rows, columns, 3) RGB, 0 to 1
    reference: NDArray[np.bool_] | None  # where the class is, (rows, columns)
    prediction: NDArray[np.bool_]  # where the network sees it
    heat: dict[str, NDArray[np.float32] | None]  # by stage the map over its mean in the patch; None without mass
    area: float  # the class's share of the patch, 0 to 1
    size: tuple[float, float]  # rows and columns in the image's unit of length


def grad_cam(
    network: nn.Module, stage: nn.Module, patch: Tensor, head: int, mask: Tensor, layout: Layout = CHANNELS_SECOND
) -> Tensor:
    """Grad-CAM of one class at one stage, for its logit summed over the mask.

    Args:
        network: Gives logits `(B, heads, *spatial)`.
        stage: The module of the network whose output is weighted.
        patch: `(1, channels, *spatial)`.
        head: Which logit.
        mask: The voxels whose logits are summed, bool `(*spatial)`.
        layout: How the stage lays out its map.

    Returns:
        The map, at least 0, brought to the patch's grid by linear interpolation, `(*spatial)`.
    """

    def score(image: Tensor) -> Tensor:
        return (network(image)[:, head] * mask).flatten(1).sum(1)

    # captum reads channels from the second axis, so it gets a layer through which the map goes as it expects it
    seen = nn.Identity()
    handle = stage.register_forward_hook(lambda _, inputs, output: layout.from_map(seen(layout.to_map(output))))
    try:
        with torch.enable_grad():
            attribution = LayerGradCam(score, seen).attribute(patch, relu_attributions=True).detach()
    finally:
        handle.remove()
    return LayerAttribution.interpolate(attribution, mask.shape, "bilinear" if mask.ndim == 2 else "trilinear")[0, 0]


def in_class_share(heat: NDArray[np.float32], mask: NDArray[np.bool_], counted: NDArray[np.bool_]) -> float:
    """The share of a map's mass that lies inside the class, 0 to 1; NaN for a map without mass.

    The map is at least 0, the mask is where the class is, and counted is where the reference says anything at all.
    """
    total = heat[counted].sum(dtype=np.float64)
    return float(heat[mask & counted].sum(dtype=np.float64) / total) if total > 0 else np.nan


def telling_slices(areas: NDArray[np.int64]) -> list[int]:
    """By the voxels of a class in each slice, the slice with most of it and those at the thirds of all that show it."""
    showing = np.flatnonzero(areas)
    return sorted({int(areas.argmax()), int(showing[len(showing) // 3]), int(showing[2 * len(showing) // 3])})
