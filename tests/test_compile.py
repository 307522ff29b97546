"""torch.compile, forced on the CPU through inductor: one graph, the same loss, the same gradients, in their place."""

import re

import numpy as np
import pytest
import reference
import torch
from compiler import needs_a_compiler
from networks import plain_unet, selfreg_settings
from test_criterion import BaseLoss, batch

from nnunetv2_selfreg.compat import compile_with_hooks
from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.losses import pooled
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import StageTaps
from nnunetv2_selfreg.terms import own_term

CPU = torch.device("cpu")


class Training:
    """A network with its criterion, as the trainer makes them: the network is compiled first, then tapped."""

    def __init__(self, compiled=True, backend="aot_eager", terms_compiled=False, **given):
        self.network = plain_unet(features=(4, 6, 8))
        self.called = torch.compile(self.network, backend=backend) if compiled else self.network
        if compiled:
            compile_with_hooks()
        settings = selfreg_settings(**given)
        taps = StageTaps(self.network, settings)
        self.criterion = SelfRegCriterion(BaseLoss(), taps, settings, CPU, compiled=terms_compiled)

    def step(self, autocast=False):
        """Loss and gradients of one training step."""
        self.network.zero_grad()
        images, target = batch()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = self.criterion(self.called(images), target)
        loss.backward()
        # a parameter that the loss does not read: no gradient, or zeros where it was compiled
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.network.parameters()]
        return loss.detach(), gradients


def assert_same(found, expected, relative=1e-3):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-5)
    for gradient, wanted in zip(found[1], expected[1], strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=relative, atol=1e-4)


@needs_a_compiler
@pytest.mark.parametrize(
    ("taps", "backend"), [pytest.param("stages", "inductor", marks=pytest.mark.longer), ("first_and_last", "aot_eager")]
)
def test_compiled_step_is_the_eager_step(taps, backend):
    eager, compiled = Training(False, taps=taps), Training(backend=backend, terms_compiled=True, taps=taps)
    assert_same(compiled.step(), eager.step())
    assert compiled.criterion.take_means() == pytest.approx(eager.criterion.take_means(), rel=1e-4)


@needs_a_compiler
@pytest.mark.longer
def test_compiled_terms_of_half_precision_maps_are_the_eager_ones():
    """The network is eager here, so both see the same rounded maps."""
    eager, compiled = Training(False), Training(False, terms_compiled=True)
    assert_same(compiled.step(autocast=True), eager.step(autocast=True))
    assert compiled.criterion.take_means() == pytest.approx(eager.criterion.take_means(), rel=1e-4)


def test_hooks_do_not_break_the_graph():
    training = Training()
    explained = torch._dynamo.explain(training.network)(batch()[0])
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


@needs_a_compiler
@pytest.mark.longer
def test_each_gradient_is_added_where_the_backward_pass_is():
    """Between the layers around its map; at the start of the pass it would add to the peak of memory."""
    training = Training(backend="inductor")
    training.step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        training.step()
    letters = {"aten::convolution_backward": "c", "nnunetv2_selfreg::add_gradients": "a"}
    events = sorted(profile.events(), key=lambda event: event.time_range.start)
    happened = "".join(letters.get(event.name, "") for event in events)
    # the decoder's last stage, its other stage, the bottleneck, the encoder's other stages
    assert re.fullmatch(r"c+ac+ac+ac+", happened), happened


@pytest.mark.longer
@pytest.mark.skipif(not hasattr(torch.Tag, "cudagraph_unsafe"), reason="this torch has no such tag")
def test_the_anchors_operator_is_kept_out_of_cuda_graphs():
    """It reads Python objects: replayed, it would add the gradients of the step that was recorded."""
    assert torch.Tag.cudagraph_unsafe in torch.ops.nnunetv2_selfreg.add_gradients.default.tags


def test_a_graph_is_not_taken_for_a_network_with_other_hooks():
    """In one process, without a reset between: stock, SelfReg, stock again, and SelfReg with other taps."""
    images = batch()[0]

    def stock():
        network = plain_unet(features=(4, 6, 8))
        called = torch.compile(network, backend="aot_eager")
        called(images)
        return called

    first = stock()
    trainings = [Training(), Training(decoder_stages=[]), Training(taps="first_and_last")]
    expected = [Training(False), Training(False, decoder_stages=[]), Training(False, taps="first_and_last")]
    second = stock()
    for _ in range(2):  # also once more, when all are compiled
        for training, eager in zip(trainings, expected, strict=True):
            assert_same(training.step(), eager.step())
            for called in (first, second):
                called(images)
        for training in trainings:
            assert training.criterion.taps.take() is None


def test_compiled_validation_fills_no_tap():
    training = Training()
    images = batch()[0]
    training.called(images)
    assert training.criterion.taps.take() is not None
    training.network.eval()
    with torch.no_grad():
        training.called(images)
    assert training.criterion.taps.take() is None


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_network_of_which_only_a_part_is_compiled_trains_as_the_eager_one(part):
    training = Training(False)
    setattr(training.network, part, torch.compile(getattr(training.network, part), backend="aot_eager"))
    assert_same(training.step(), Training(False).step())


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_that_is_compiled_before_it_is_tapped_has_the_names_that_its_author_gave(part):
    network, plain = plain_unet(), plain_unet()
    setattr(network, part, torch.compile(getattr(network, part), backend="aot_eager"))
    for settings in (None, selfreg_settings(encoder_stages=["encoder.stages.1"], teacher="decoder.stages.1")):
        found, expected = (StageTaps(each, settings).stages for each in (network, plain))
        assert [list(modules) for modules in found] == [list(modules) for modules in expected]


@needs_a_compiler
def test_a_term_of_ones_own_trains_in_a_compiled_network_as_in_an_eager_one():
    """Autograd works out its gradient, inside the operator that the compiled graph calls."""
    terms = (own_term("contrast", lambda student, teacher: (student - teacher.mean()).square().mean(), 0.7),)
    steps = []
    for compiled in (False, True):
        training = Training(compiled)
        settings = SelfRegSettings.from_plans({}, terms)
        training.criterion.taps.remove()
        taps = StageTaps(training.network, settings)
        training.criterion = SelfRegCriterion(BaseLoss(), taps, settings, CPU, terms, compiled=compiled)
        steps.append(training.step())
    assert_same(steps[1], steps[0])
    assert not all(torch.equal(a, b) for a, b in zip(steps[0][1], Training(False).step()[1], strict=True))


@needs_a_compiler
def test_pooling_compiles_for_grids_of_any_size():
    """Strides of 4, and sizes that 2 does not divide."""
    compiled = torch.compile(pooled, fullgraph=True, dynamic=True)
    for size, grid in [((16, 40), (4, 10)), ((8, 20), (4, 10)), ((9, 14), (5, 7)), ((16, 40), (8, 20))]:
        feature = torch.randn(2, 3, *size)
        expected = reference.pooled(feature.numpy(), grid)
        np.testing.assert_allclose(compiled(feature, grid).numpy(), expected, rtol=1e-5, atol=1e-6)
