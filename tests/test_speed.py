"""Benchmarks, so that a slowdown can be seen: `pytest tests/test_speed.py --benchmark-autosave`, then compare."""

import sys
from pathlib import Path

import pytest
import torch
from networks import selfreg_settings

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "cost"))

import published
from alone import step_of
from growth import maps_of
from published import selfreg

from nnunetv2_selfreg.losses import internal_feature_distillation


@pytest.fixture
def maps():
    return maps_of(patch=96, batch=4, channels=16, stages=4, device=torch.device("cpu"))


@pytest.mark.parametrize("weights", [(0.015, 0.015), (0.015, 0.0), (0.0, 0.015)], ids=["both", "scr", "ifd"])
def test_library(benchmark, maps, weights):
    benchmark(step_of(maps, selfreg_settings(lambda_scr=weights[0], lambda_ifd=weights[1])))
    assert all(feature.grad is not None for feature in maps.encoder)


def test_published(benchmark, maps):
    def step():
        maps.clear()
        selfreg(maps.encoder, maps.decoder, maps.teacher).backward()

    benchmark(step)


def test_the_yardsticks_ifd_is_ours():
    """Also its ranking: the channels have means of their own, so other pairs would give another value."""
    torch.manual_seed(0)
    feature = torch.randn(2, 16, 24, 24) + torch.linspace(-1, 1, 16)[torch.randperm(16)][:, None, None]
    expected = published.internal_feature_distillation(feature)
    assert internal_feature_distillation(feature).item() == pytest.approx(expected.item(), rel=1e-5)
    unranked = torch.nn.functional.mse_loss(*feature.chunk(2, dim=1)).item()
    assert abs(unranked / expected.item() - 1) > 1e-2


def test_the_yardstick_computes_the_same(maps):
    """SCR draws other channels, so its mean over many draws."""
    step = step_of(maps, selfreg_settings(lambda_scr=1, lambda_ifd=1))
    torch.manual_seed(0)
    ours = [step().item() for _ in range(30)]
    theirs = [selfreg(maps.encoder, maps.decoder, maps.teacher).item() for _ in range(30)]
    assert sum(ours) == pytest.approx(sum(theirs), rel=1e-2)
