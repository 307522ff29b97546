"""torch.compile, forced on the CPU through inductor: one graph, the same loss, the same gradients."""

import pytest
import torch
from networks import plain_unet, selfreg_settings
from test_criterion import BaseLoss, batch

from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.taps import StageTaps


def step(compiled: bool, taps: str = "stages"):
    """Loss and gradients of one training step, as nnU-Net compiles: the network first, then the hooks."""
    torch._dynamo.reset()
    network = plain_unet(features=(4, 6, 8))
    called = torch.compile(network) if compiled else network
    settings = selfreg_settings(taps=taps)
    criterion = SelfRegCriterion(BaseLoss(), StageTaps(network, settings), settings, torch.device("cpu"))
    images, target = batch()
    loss = criterion(called(images), target)
    loss.backward()
    # a parameter that the loss does not read: no gradient, or zeros where it was compiled
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]
    return loss.detach(), gradients, criterion.take_means()


@pytest.mark.parametrize("taps", ["stages", "first_and_last"])
def test_compiled_step_is_the_eager_step(taps):
    eager, compiled = step(False, taps), step(True, taps)
    torch.testing.assert_close(compiled[0], eager[0], rtol=1e-4, atol=1e-5)
    for found, expected in zip(compiled[1], eager[1], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert compiled[2] == pytest.approx(eager[2], rel=1e-4)


def test_hooks_do_not_break_the_graph():
    network = plain_unet()
    StageTaps(network)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(network)(batch()[0])
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_compiled_validation_fills_no_tap():
    torch._dynamo.reset()
    network = plain_unet()
    taps = StageTaps(network)
    compiled = torch.compile(network, backend="aot_eager")
    images = batch()[0]
    compiled(images)
    assert taps.take() is not None
    network.eval()
    with torch.no_grad():
        compiled(images)
    assert taps.take() is None


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_network_of_which_only_a_part_is_compiled_trains_as_the_eager_one(part):
    torch._dynamo.reset()
    network = plain_unet(features=(4, 6, 8))
    criterion = SelfRegCriterion(BaseLoss(), StageTaps(network), selfreg_settings(), torch.device("cpu"))
    setattr(network, part, torch.compile(getattr(network, part), backend="aot_eager"))
    images, target = batch()
    loss = criterion(network(images), target)
    loss.backward()
    expected, gradients, _ = step(False)
    torch.testing.assert_close(loss.detach(), expected, rtol=1e-4, atol=1e-5)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        found = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found, gradient, rtol=1e-3, atol=1e-4)
