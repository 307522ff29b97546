"""What only a GPU shows: AMP with the gradient scaler, compile, and steps that never wait for the host."""

import gc

import pytest
import torch
from networks import anchored, plain_unet
from test_criterion import BaseLoss

from nnunetv2_selfreg.compat import compile_with_hooks
from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import StageTaps

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def training(dimensions=2, compiled=False, settings=None):
    """A step as nnU-Net's `train_step` does it: autocast to fp16, scaled backward, clipping, scaler step."""
    device = torch.device("cuda")
    network = plain_unet(dimensions, features=(8, 16, 32)).to(device)
    called = torch.compile(network) if compiled else network
    if compiled:
        compile_with_hooks()  # as the trainer does
    optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True)
    scaler = torch.GradScaler("cuda")
    criterion = SelfRegCriterion(
        BaseLoss(), StageTaps(network), settings or SelfRegSettings(), device, compiled=compiled
    )
    images = torch.randn(2, 1, *[32] * dimensions, device=device)
    target = torch.randint(3, (2, *[32] * dimensions), device=device)

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda"):
            loss = criterion(called(images), target)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
        scaler.step(optimizer)
        scaler.update()
        return loss

    return step, criterion


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("dimensions", [2, 3])
def test_training_with_amp_lowers_the_loss(dimensions, compiled):
    step, criterion = training(dimensions, compiled)
    losses = [step().item() for _ in range(60)]
    assert losses[-1] < losses[0]
    assert criterion.non_finite() is None
    assert all(mean > 0 for mean in criterion.take_means().values())


@pytest.mark.parametrize("compiled", [False, True])
def test_the_criterion_does_not_wait_for_the_host(compiled):
    step, criterion = training(compiled=compiled)
    step()
    features = torch.randn(2, 16, 16, 16, device="cuda", dtype=torch.float16, requires_grad=True)
    final = torch.randn(2, 8, 32, 32, device="cuda", dtype=torch.float16)
    criterion.taps.take = lambda: anchored([features], [features], final)
    output, target = [torch.zeros(2, 3, 4, 4, device="cuda")], torch.zeros(2, 4, 4, device="cuda", dtype=torch.int64)
    criterion(output, target).backward()  # what is made, or compiled, once
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            criterion(output, target).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("compiled", [False, True])
def test_memory_is_flat(compiled):
    step, _ = training(compiled=compiled)
    for _ in range(5):
        step()
    gc.collect()  # networks of earlier tests
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        step()
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("compiled", [False, True])
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
    assert losses[-1] < losses[0]
    assert criterion.take_means()["scr"] > 0
