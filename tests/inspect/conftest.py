"""Two small models and images for them to look at."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from model_folders import CLASSES, REGIONS, write_model, write_phantoms
from PIL import Image


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


@pytest.fixture
def pictures(tmp_path) -> Trained:
    """A 2d model of RGB pictures, three channels in one file, and two pictures of a disc."""
    folder = write_model(
        tmp_path / "Dataset003_Pictures", 2, {"background": 0, "disc": 1}, channels=3, spacing=[1.0, 1.0]
    )
    for name, change in (
        ("plans.json", {"image_reader_writer": "NaturalImage2DIO"}),
        ("dataset.json", {"channel_names": {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png"}),
    ):
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | change))
    images, labels = tmp_path / "imagesTs", tmp_path / "labelsTs"
    images.mkdir()
    labels.mkdir()
    rows, columns = np.mgrid[:40, :48]
    for number, row in enumerate((15, 22)):
        disc = (rows - row) ** 2 + (columns - 20) ** 2 < 100
        noise = np.random.default_rng(number).integers(0, 60, (40, 48, 3))
        colours = np.where(disc[..., None], (180, 30, 90), (20, 90, 150)) + noise
        Image.fromarray(colours.astype(np.uint8)).save(images / f"disc{number}_0000.png")
        Image.fromarray(disc.astype(np.uint8)).save(labels / f"disc{number}.png")
    return Trained(folder, images, labels)
