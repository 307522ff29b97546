"""Two small models and images for them to look at."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from model_folders import CLASSES, REGIONS, write_model, write_phantoms


@dataclass(frozen=True)
class Trained:
    """A model folder and the raw images, with references, that it can read."""

    folder: Path
    images: Path
    labels: Path


@pytest.fixture(scope="session")
def flat(tmp_path_factory) -> Trained:
    """A 2d model of three classes on one image channel, and three phantoms."""
    root = tmp_path_factory.mktemp("flat")
    return Trained(write_model(root / "Dataset001_Flat", 2, CLASSES), *write_phantoms(root / "raw", 3))


@pytest.fixture(scope="session")
def deep(tmp_path_factory) -> Trained:
    """A 3d model of two regions with an ignore label on two image channels, and two phantoms."""
    root = tmp_path_factory.mktemp("deep")

    def ignore_a_slice(labels):
        labels[-1] = 4
        return labels

    raw = write_phantoms(root / "raw", 2, channels=2, relabel=ignore_a_slice)
    return Trained(write_model(root / "Dataset002_Deep", 3, REGIONS, channels=2), *raw)
