"""A short-axis cardiac phantom: right ventricle, myocardium and left ventricle in an anisotropic stack of slices.

The labels are those of ACDC. Shape, position, contrast, the tissue around the heart, the bias field and the noise
vary from case to case, and each case depends on nothing but the seed and its number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, maximum_filter

from nnunetv2_selfreg.files import new_folder
from nnunetv2_selfreg.reading import write_nifti

DATASET = "Dataset927_CardiacPhantom"
LABELS = {"background": 0, "RV": 1, "myocardium": 2, "LV": 3}
TRAINING_CASES = range(1, 21)
UNSEEN_CASES = range(21, 27)


@dataclass(frozen=True)
class Phantom:
    """One case.

    Attributes:
        image: Signal in arbitrary units, (slices, rows, columns).
        labels: ACDC's labels, (slices, rows, columns): 0 background, 1 RV, 2 myocardium, 3 LV.
        spacing: Distance between voxel centres in mm, (slices, rows, columns).
    """

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    spacing: tuple[float, float, float]


def make_phantom(seed: int, number: int) -> Phantom:
    """Draws one case, which depends on the two arguments only.

    Args:
        seed: The data set's seed, at least 0.
        number: The case's number, at least 0.

    Returns:
        The case: 6 to 10 slices of 58 to 65 voxels each way.
    """
    rng = np.random.default_rng([seed, number])
    thickness, pixel = float(rng.choice([8.0, 9.0, 10.0])), round(float(rng.uniform(1.75, 1.95)), 2)
    shape = (int(rng.integers(6, 11)), *rng.integers(58, 66, 2).tolist())
    labels = _heart(rng, shape, pixel)

    # around the heart lie patches of lung, muscle and fat, the same ones in every slice
    patches = np.digitize(_smooth(rng, shape[1:], 5), [-0.3, 0.6])
    around = rng.uniform((0.05, 0.3, 0.6), (0.25, 0.55, 0.9))[patches]
    muscle, blood = rng.uniform(0.32, 0.58), rng.uniform(0.85, 1.1)
    wall = maximum_filter(labels == LABELS["RV"], (1, 3, 3))  # thin, and not labelled in ACDC either
    signal = np.where(wall, muscle, around)
    for name, tissue in (("RV", 0.95 * blood), ("myocardium", muscle), ("LV", blood)):
        signal[labels == LABELS[name]] = tissue
    signal *= 1 + 0.05 * _smooth(rng, shape, 3)
    signal = gaussian_filter(signal, (0, 0.5, 0.5))  # a voxel at an edge sees both sides of it
    signal *= np.exp(rng.uniform(0.1, 0.25) * _smooth(rng, shape[1:], 20))  # bias field

    # magnitude images have Rician noise: Gaussian in both channels of the complex signal
    real, imaginary = rng.normal(0, rng.uniform(0.05, 0.12), (2, *shape))
    image = rng.uniform(150, 700) * np.hypot(signal + real, imaginary)
    return Phantom(np.rint(image).astype(np.int16), labels, (thickness, pixel, pixel))


def _heart(rng: Generator, shape: tuple[int, int, int], pixel: float) -> NDArray[np.uint8]:
    """The shape of one heart, drawn at random.

    Args:
        rng: Source of the variation.
        shape: Slices, from base to apex, rows and columns.
        pixel: Distance between rows and between columns in mm.

    Returns:
        The labels, of `shape`.
    """
    depth = (np.arange(shape[0]) / shape[0])[:, None, None]  # 0 at the base, 1 would be the apex
    y, x = ((np.arange(size) - (size - 1) / 2) * pixel for size in shape[1:])
    # each slice is a breath-hold of its own, so the heart is never in quite the same place
    shift = rng.normal(0, 2.5, 2) + rng.normal(0, 0.9, (shape[0], 2))
    y, x = y[None, :, None] - shift[:, :1, None], x[None, None, :] - shift[:, 1:, None]
    turn = np.pi + rng.uniform(-0.6, 0.6)  # from the LV to the RV
    across = np.cos(turn) * x + np.sin(turn) * y + 11  # the middle lies between the ventricles, 11 mm from the LV's
    along = np.cos(turn) * y - np.sin(turn) * x

    angle = np.arctan2(along, across)
    radius = rng.uniform(15, 22) * np.sqrt(1 - depth**2) * (1 + rng.uniform(0, 0.08) * np.cos(2 * angle))
    outer = radius + rng.uniform(7, 11) * (1 - 0.25 * depth) * (1 + 0.15 * np.cos(angle - rng.uniform(0, 2 * np.pi)))
    distance = np.hypot(across, along)

    # the RV is an ellipse bent around the LV and ends before the apex
    size = outer.mean((1, 2), keepdims=True)
    bent = across + rng.uniform(0.1, 0.35) / size * along**2 - rng.uniform(0.75, 0.9) * size
    short, long = rng.uniform((0.72, 0.95), (1.0, 1.2))
    shrink = size * np.sqrt(np.maximum(1e-4, 1 - (depth / rng.uniform(0.8, 0.95)) ** 2))
    right = np.hypot(bent / (short * shrink), along / (long * shrink)) < 1
    classes = [LABELS[name] for name in ("LV", "myocardium", "RV")]
    return np.select([distance < radius, distance < outer, right], classes).astype(np.uint8)


def _smooth(rng: Generator, shape: Sequence[int], voxels: float) -> NDArray[np.float64]:
    """A random field with mean 0 and spread 1, smooth over so many voxels."""
    field = gaussian_filter(rng.normal(size=shape), voxels)
    return np.asarray((field - field.mean()) / field.std())


def case_name(number: int) -> str:
    """The name that nnU-Net knows a case by."""
    return f"phantom_{number:03d}"


def write_dataset(raw: Path, seed: int) -> Path:
    """Writes the data set in nnU-Net's raw format; one of the same name that is there already is replaced.

    Args:
        raw: The folder that `nnUNet_raw` points at.
        seed: The data set's seed, at least 0.

    Returns:
        The data set's folder, with `imagesTr`, `labelsTr`, and the unseen cases in `imagesTs` and `labelsTs`.

    Raises:
        SelfRegError: It cannot be written; nothing is left behind.
    """
    from nnunetv2.dataset_conversion.generate_dataset_json import generate_dataset_json

    with new_folder(raw / DATASET, may_replace=lambda _: True) as folder:
        for cases, kind in ((TRAINING_CASES, "Tr"), (UNSEEN_CASES, "Ts")):
            (folder / f"images{kind}").mkdir()
            (folder / f"labels{kind}").mkdir()
            for number in cases:
                phantom, name = make_phantom(seed, number), case_name(number)
                files = {f"images{kind}/{name}_0000": phantom.image, f"labels{kind}/{name}": phantom.labels}
                for file, array in files.items():
                    image = SimpleITK.GetImageFromArray(array)
                    image.SetSpacing(phantom.spacing[::-1])
                    write_nifti(image, folder / f"{file}.nii.gz")
        generate_dataset_json(
            str(folder),
            channel_names={0: "cineMRI"},
            labels=dict(LABELS),
            num_training_cases=len(TRAINING_CASES),
            file_ending=".nii.gz",
            dataset_name=DATASET,
            description=f"Synthetic short-axis cardiac phantom, seed {seed}",
        )
    return raw / DATASET
