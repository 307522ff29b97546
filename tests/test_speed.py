"""Benchmarks, so that a slowdown can be seen: `pytest tests/test_speed.py --benchmark-autosave`, then compare."""

import sys
from pathlib import Path

import pytest
import torch
from networks import selfreg_settings

from nnunetv2_selfreg.criterion import SelfRegCriterion

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "cost"))

from growth import NoTaps, features_of
from measure import NoLoss
from published import selfreg


def clear(features):
    for feature in features.encoder + features.decoder:
        feature.grad = None


@pytest.fixture
def features():
    return features_of(patch=96, batch=4, channels=16, stages=4, device=torch.device("cpu"))


@pytest.mark.parametrize("weights", [(0.015, 0.015), (0.015, 0.0), (0.0, 0.015)], ids=["both", "scr", "ifd"])
def test_library(benchmark, features, weights):
    settings = selfreg_settings(lambda_scr=weights[0], lambda_ifd=weights[1])
    criterion = SelfRegCriterion(NoLoss(), NoTaps(features), settings, torch.device("cpu"))

    def step():
        clear(features)
        criterion(None, None).backward()

    benchmark(step)
    assert all(feature.grad is not None for feature in features.encoder)


def test_published(benchmark, features):
    def step():
        clear(features)
        selfreg(*features[:3]).backward()

    benchmark(step)


def test_the_yardstick_computes_the_same(features):
    """IFD to the last digit; SCR draws other channels, so its mean over many draws."""
    criterion = SelfRegCriterion(
        NoLoss(), NoTaps(features), selfreg_settings(lambda_scr=1, lambda_ifd=1), torch.device("cpu")
    )
    torch.manual_seed(0)
    ours = [criterion(None, None).item() for _ in range(30)]
    theirs = [selfreg(*features[:3]).item() for _ in range(30)]
    assert sum(ours) == pytest.approx(sum(theirs), rel=1e-2)
