"""AMP with the gradient scaler, compile, and steps that never wait for the host: on a GPU, where there is one.

Without one the same steps run on the CPU, so that a mistake in them is seen there, too. What only a GPU can tell is
left out then: its memory, and whether a step waits.
"""

import gc
from contextlib import contextmanager

import pytest
import torch
from compiler import needs_a_compiler
from networks import anchored, plain_unet
from test_criterion import BaseLoss

from nnunetv2_selfreg.compat import compile_with_hooks
from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import StageTaps

HAS_CUDA = torch.cuda.is_available()
device = torch.device("cuda" if HAS_CUDA else "cpu")
needs_cuda = pytest.mark.skipif(not HAS_CUDA, reason="no CUDA device")
compiled_too = pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=[needs_a_compiler, *[pytest.mark.longer] * (not HAS_CUDA)])]
)


def training(dimensions=2, compiled=False, settings=None):
    """A step as nnU-Net's `train_step` does it on a GPU: autocast to fp16, scaled backward, clipping, scaler step."""
    network = plain_unet(dimensions, features=(8, 16, 32)).to(device)
    called = torch.compile(network) if compiled else network
    if compiled:
        compile_with_hooks()  # as the trainer does
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True)
    scaler = torch.GradScaler(device.type)
    criterion = SelfRegCriterion(
        BaseLoss(), StageTaps(network), settings or SelfRegSettings(), device, compiled=compiled
    )
    images = torch.randn(2, 1, *[32] * dimensions, device=device)
    target = torch.randint(3, (2, *[32] * dimensions), device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type):  # bf16 on a CPU
            loss = criterion(called(images), target)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step, criterion


@contextmanager
def never_waiting():
    """Refuses what makes the host wait for a GPU."""
    if HAS_CUDA:
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        if HAS_CUDA:
            torch.cuda.set_sync_debug_mode("default")


@compiled_too
@pytest.mark.parametrize("dimensions", [2, 3])
def test_training_with_amp_lowers_the_loss(dimensions, compiled):
    step, criterion = training(dimensions, compiled)
    losses = [step().item() for _ in range(60)]
    assert losses[-1] < losses[0]
    assert criterion.non_finite() is None
    assert all(mean > 0 for mean in criterion.take_means().values())


@compiled_too
def test_the_criterion_does_not_wait_for_the_host(compiled):
    _, criterion = training(compiled=compiled)
    features = torch.randn(2, 16, 16, 16, device=device, dtype=torch.float16, requires_grad=True)
    final = torch.randn(2, 8, 32, 32, device=device, dtype=torch.float16)
    criterion.taps.take = lambda: anchored([features], [features], final)
    output, target = [torch.zeros(2, 3, 4, 4, device=device)], torch.zeros(2, 4, 4, device=device, dtype=torch.int64)
    criterion(output, target).backward()  # what is made, or compiled, once
    with never_waiting():
        for _ in range(3):
            criterion(output, target).backward()
    assert criterion.non_finite() is None
    assert features.grad.abs().sum() > 0


@needs_cuda
@compiled_too
def test_memory_is_flat(compiled):
    step, _ = training(compiled=compiled)
    for _ in range(5):
        step()
    gc.collect()  # networks of earlier tests
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        step()
    assert torch.cuda.memory_allocated() == before


@needs_cuda
@compiled_too
def test_peak_memory_stays_near_that_of_a_step_without_the_terms(compiled):
    peaks = []
    for settings in (SelfRegSettings({"scr": 0.0, "ifd": 0.0}), SelfRegSettings()):
        step, _ = training(compiled=compiled, settings=settings)
        for _ in range(3):
            step()
        gc.collect()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert peaks[1] <= 1.1 * peaks[0]


def test_terms_in_every_second_step_train_as_well():
    step, criterion = training(settings=SelfRegSettings(every=2))
    losses = [step().item() for _ in range(60)]
    assert losses[-2] < losses[0]  # the last step has no terms
    assert criterion.take_means()["scr"] > 0
