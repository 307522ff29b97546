"""Grad-CAM against its formula, worked by hand on a network of two linear layers."""

import numpy as np
import pytest
import torch
from networks import plain_unet

pytest.importorskip("captum", reason="needs the extra [inspect]")
from nnunetv2_selfreg.inspect.gradcam import grad_cam, in_class_share, telling_slices


class Linear(torch.nn.Module):
    """Two 1 x 1 convolutions: the stage gives (x, 2x), the head's logits are w . stage."""

    def __init__(self, weights):
        super().__init__()
        self.stage = torch.nn.Conv2d(1, 2, 1, bias=False)
        self.head = torch.nn.Conv2d(2, 2, 1, bias=False)
        self.stage.weight.data = torch.tensor([1.0, 2.0]).reshape(2, 1, 1, 1)
        self.head.weight.data = torch.tensor(weights).reshape(2, 2, 1, 1)
        self.requires_grad_(False)

    def forward(self, image):
        return self.head(self.stage(image))


def test_the_formula_by_hand():
    network = Linear([[0.0, 0.0], [3.0, -1.0]])
    image = torch.tensor([[1.0, -2.0], [4.0, 8.0]])
    mask = torch.tensor([[True, False], [True, False]])
    # the gradient of the summed logit is (3, -1) at the two voxels of the mask and 0 elsewhere: its means over the
    # four voxels are (1.5, -0.5), so the map is 1.5 x - 0.5 (2 x) = 0.5 x where that is positive
    found = grad_cam(network, network.stage, image[None, None], 1, mask)
    torch.testing.assert_close(found, torch.tensor([[0.5, 0.0], [2.0, 4.0]]))
    assert in_class_share(found.numpy(), mask.numpy(), np.ones((2, 2), bool)) == pytest.approx(2.5 / 6.5)


def test_a_negative_map_has_no_mass():
    network = Linear([[0.0, 0.0], [-3.0, 1.0]])
    found = grad_cam(network, network.stage, torch.ones(1, 1, 2, 2), 1, torch.ones(2, 2, dtype=torch.bool))
    assert not found.any()
    assert np.isnan(in_class_share(found.numpy(), np.ones((2, 2), bool), np.ones((2, 2), bool)))


@pytest.mark.parametrize("dimensions", [2, 3])
def test_a_deep_stage_by_autograd(dimensions):
    network = plain_unet(dimensions, deep_supervision=False).eval().requires_grad_(False)
    image = torch.randn(1, 1, *[16] * dimensions, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros([16] * dimensions, dtype=torch.bool)
    mask[4:9, 2:12] = True
    kept = {}

    def keep(module, inputs, output):
        kept["map"] = output.requires_grad_()

    with network.encoder.stages[2].register_forward_hook(keep):
        network(image)[0, 2][mask].sum().backward()
    spatial = tuple(range(2, 2 + dimensions))
    coarse = (kept["map"].grad.mean(spatial, keepdim=True) * kept["map"]).sum(1, keepdim=True).clamp(min=0).detach()
    found = grad_cam(network, network.encoder.stages[2], image, 2, mask)
    assert found.shape == image.shape[2:]
    assert coarse.any()
    linear = torch.nn.functional.interpolate(coarse, scale_factor=4, mode={2: "bilinear", 3: "trilinear"}[dimensions])
    torch.testing.assert_close(found, linear[0, 0])
    assert not any(parameter.grad is not None for parameter in network.parameters())


def test_the_share_of_a_hand_made_map():
    heat = np.array([[1.0, 3.0], [0.0, 4.0]], np.float32)
    mask = np.array([[True, False], [True, True]])
    everywhere = np.ones((2, 2), bool)
    assert in_class_share(heat, mask, everywhere) == 5 / 8
    ignored = np.array([[True, False], [True, True]])  # the 3 is not counted
    assert in_class_share(heat, mask, ignored) == 1
    assert in_class_share(heat, ~mask, ignored) == 0
    assert np.isnan(in_class_share(np.zeros((2, 2), np.float32), mask, everywhere))


@pytest.mark.parametrize(
    ("areas", "slices"),
    [
        ([0, 1, 1, 5, 1, 1, 1, 0], [3, 5]),  # seen in the slices 1 to 6: a third is 3, two thirds 5
        ([0, 9, 1, 1, 1, 1, 1, 0], [1, 3, 5]),
        ([0, 0, 4, 0], [2]),
        ([1, 0, 0, 2], [0, 3]),
    ],
)
def test_slices_are_the_largest_and_those_at_the_thirds(areas, slices):
    assert telling_slices(np.array(areas)) == slices
