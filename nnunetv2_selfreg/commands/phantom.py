"""A short-axis cardiac phantom: right ventricle, myocardium and left ventricle in an anisotropic stack of slices.

The labels are those of ACDC. Shape, position, contrast, the tissue around the heart, the bias field and the noise
vary from case to case, and each case depends on nothing but the seed and its number.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.random import Generator
from numpy.typing import NDArray

from nnunetv2_selfreg.files import new_folder

DATASET = "Dataset927_CardiacPhantom"
LABELS = {"background": 0, "RV": 1, "myocardium": 2, "LV": 3}
TRAINING_CASES = range(1, 21)
UNSEEN_CASES = range(21, 27)

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

# Each voxel is drawn as this many squared points and averaged, which gives the partial volume effect at edges.
_POINTS = 3


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


class _Heart:
    """The shape of one heart, drawn at random: lengths in mm, angles in radians, the rest relative."""

    def __init__(self, rng: Generator) -> None:
        self.septum = np.pi + rng.uniform(-0.6, 0.6)  # direction from the left ventricle (LV) to the right (RV)
        # The pair of ventricles sits in the middle, so the LV moves away from the RV.
        middle = -11 * np.array([np.sin(self.septum), np.cos(self.septum)])
        self.centre = middle + rng.normal(0, 3.5, 2)  # of the LV, row and column from the image's centre
        first = rng.uniform(-0.4, 0.4)
        self.papillary = (first + 1.0, first - 1.2)  # directions of the two papillary muscles
        self.length = rng.uniform(60, 82)  # of the LV, base to apex
        self.radius = rng.uniform(15, 24)  # of the LV's blood pool at the base
        self.wall = rng.uniform(6.5, 11)  # mean thickness of the myocardium at the base
        self.thicker_side = rng.uniform(0, 2 * np.pi)
        self.fat_side = rng.uniform(0, 2 * np.pi)  # the fat around the heart covers the half that faces this way
        self.oval = (rng.uniform(0, 0.09), rng.uniform(0, np.pi))  # size and angle of the outline's second harmonic
        self.bump = (rng.uniform(0, 0.04), rng.uniform(0, np.pi))  # and of its third
        self.rv_size = (rng.uniform(0.72, 1.0), rng.uniform(0.95, 1.2))  # across and along, in LV outer radii
        self.rv_offset = rng.uniform(0.72, 0.92)  # from the LV's centre to the RV's, in LV outer radii
        self.rv_bend = rng.uniform(0.1, 0.4)  # how far the RV curls around the LV
        self.rv_end = rng.uniform(0.75, 0.97)  # where the RV ends between the base (0) and the apex (1)


def _cosines(rng: Generator, y: Floats, x: Floats, reach: float, order: int) -> Floats:
    """A smooth random field around 0 with a spread of about 1, on points whose coordinates are in mm."""
    field: Floats = np.zeros(np.broadcast_shapes(y.shape, x.shape))
    for i in range(order + 1):
        for j in range(order + 1):
            if i + j:
                phase, other = rng.uniform(0, 2 * np.pi, 2)
                wave = np.cos(np.pi * i * y / reach + phase) * np.cos(np.pi * j * x / reach + other)
                field += rng.normal() / (i + j) / np.sqrt(order + 1) * wave
    return field


def _disc(y: Floats, x: Floats, row: float, column: float, radius: float) -> Mask:
    return np.hypot(y - row, x - column) < radius


def _parts(heart: _Heart, depth: float, y: Floats, x: Floats) -> dict[str, Mask]:
    """The heart's tissues in one slice.

    Args:
        heart: The shape.
        depth: Where the slice lies between the base (0) and the apex (1); beyond 1 there is no heart.
        y: Rows in mm from the LV's centre, (rows, 1).
        x: Columns in mm from the LV's centre, (1, columns).

    Returns:
        Masks of (rows, columns), to be painted in this order, later over earlier.
    """
    empty = np.zeros(np.broadcast_shapes(y.shape, x.shape), bool)
    names = ("fat", "rv_wall", "rv", "myocardium", "lv", "papillary")
    if depth >= 1:
        return dict.fromkeys(names, empty)
    distance, angle = np.hypot(y, x), np.arctan2(y, x)
    outline = (
        1 + heart.oval[0] * np.cos(2 * (angle - heart.oval[1])) + heart.bump[0] * np.cos(3 * angle - heart.bump[1])
    )
    inner = heart.radius * np.sqrt(1 - depth**2.2) * outline
    outer = inner + heart.wall * (1 - 0.25 * depth) * (1 + 0.18 * np.cos(angle - heart.thicker_side))
    size = float(outer.mean())

    across = np.cos(heart.septum) * x + np.sin(heart.septum) * y
    along = -np.sin(heart.septum) * x + np.cos(heart.septum) * y
    across = across + heart.rv_bend / size * along**2
    shrink = np.sqrt(max(0.0, 1 - (depth / heart.rv_end) ** 2))
    half_across, half_along = (max(1e-6, float(part * size * shrink)) for part in heart.rv_size)

    def right(margin: float | Floats) -> Mask:
        ellipse = np.hypot((across - heart.rv_offset * size) / (half_across + margin), along / (half_along + margin))
        return (ellipse < 1) & (shrink > 0)

    muscles = empty
    if 0.15 < depth < 0.75:
        for direction in heart.papillary:
            reach = 0.68 * heart.radius * np.sqrt(1 - depth**2.2)
            muscles = muscles | _disc(y, x, reach * np.sin(direction), reach * np.cos(direction), 3.2)
    lv = distance < inner
    myocardium = (distance < outer) & ~lv
    heart_and_wall = right(2.5) | (distance < outer)
    fat = np.maximum(0, 5 * np.cos(angle - heart.fat_side) + 1)
    return {
        "fat": (right(2.5 + fat) | (distance < outer + fat)) & ~heart_and_wall,
        "rv_wall": right(2.5) & (distance >= outer),
        "rv": right(0.0) & (distance >= outer),
        "myocardium": myocardium,
        "lv": lv,
        "papillary": muscles & lv,
    }


def _surroundings(rng: Generator, y: Floats, x: Floats, reach: float) -> Floats:
    """Lung, chest wall, liver and descending aorta, the same in all slices.

    Args:
        rng: Source of the variation.
        y: Rows in mm from the image's centre, (rows, 1).
        x: Columns in mm from the image's centre, (1, columns).
        reach: Half the image's size in mm.

    Returns:
        Signal relative to blood, (rows, columns).
    """
    signal = np.full(np.broadcast_shapes(y.shape, x.shape), rng.uniform(0.06, 0.3))
    tilt, sag = rng.uniform(-0.25, 0.25), rng.uniform(0.001, 0.004)
    chest = -y + tilt * x - sag * x**2 - reach + rng.uniform(8, 18)
    signal = np.where(chest > 0, rng.uniform(0.65, 0.95), signal)
    signal = np.where(chest > rng.uniform(4, 8), rng.uniform(0.3, 0.45), signal)
    side = rng.choice([-1.0, 1.0])
    liver = y + rng.uniform(0.2, 0.7) * side * x - 0.003 * x**2 - reach + rng.uniform(12, 24)
    signal = np.where(liver > 0, rng.uniform(0.35, 0.55), signal)
    for _ in range(3):
        row, column = rng.uniform(0.4, 1, 1)[0] * reach, rng.uniform(-1, 1) * reach
        signal = np.where((liver > 2) & _disc(y, x, row, column, rng.uniform(1.5, 3.5)), rng.uniform(0.7, 1), signal)
    aorta = (rng.uniform(0.6, 0.9) * reach, rng.uniform(0.4, 0.9) * reach)
    radius = rng.uniform(7, 11)
    signal = np.where(_disc(y, x, *aorta, radius + 1.5), 0.35, signal)
    return np.where(_disc(y, x, *aorta, radius), rng.uniform(0.85, 1.05), signal)


def make_phantom(seed: int, number: int) -> Phantom:
    """Draws one case, which depends on the two arguments only.

    Args:
        seed: The data set's seed, at least 0.
        number: The case's number, at least 0.

    Returns:
        The case: 6 to 10 slices of 58 to 65 voxels each way.
    """
    rng = np.random.default_rng([seed, number])
    heart = _Heart(rng)
    thickness = float(rng.choice([8.0, 9.0, 10.0]))
    pixel = round(float(rng.uniform(1.75, 1.95)), 2)
    slices = int(np.clip(round(heart.length / thickness) + rng.integers(-1, 2), 6, 10))
    rows, columns = rng.integers(58, 66, 2).tolist()
    reach = pixel * max(rows, columns) / 2

    y = ((np.arange(rows * _POINTS) + 0.5) / _POINTS - rows / 2)[:, None] * pixel
    x = ((np.arange(columns * _POINTS) + 0.5) / _POINTS - columns / 2)[None, :] * pixel
    around = _surroundings(rng, y, x, reach) * (1 + 0.12 * _cosines(rng, y, x, reach, 4))
    bias = np.exp(rng.uniform(0.12, 0.3) * _cosines(rng, y, x, 1.6 * reach, 1))
    blood, muscle, fat = rng.uniform(0.85, 1.1), rng.uniform(0.32, 0.58), rng.uniform(0.5, 0.9)
    noise = rng.uniform(0.05, 0.12)
    first = rng.uniform(0.0, 0.6) * thickness

    def averaged(points: Floats | Mask) -> Floats:
        return points.reshape(rows, _POINTS, columns, _POINTS).mean((1, 3))

    signal = np.empty((slices, rows, columns))
    labels = np.empty((slices, rows, columns), np.uint8)
    for z in range(slices):
        # Each slice is a breath-hold of its own, so the heart is never in quite the same place.
        row, column = heart.centre + rng.normal(0, 0.9, 2)
        parts = _parts(heart, (first + z * thickness) / heart.length, y - row, x - column)
        flow = 1 + 0.06 * _cosines(rng, y, x, reach / 2, 2)
        paint: dict[str, float | Floats] = {
            "fat": fat,
            "rv_wall": muscle,
            "rv": rng.uniform(0.88, 1.0) * blood * flow,
            "myocardium": muscle * (1 + 0.06 * _cosines(rng, y, x, reach / 3, 2)),
            "lv": rng.uniform(0.95, 1.05) * blood * flow,
            "papillary": 1.1 * muscle,
        }
        points: Floats = around
        for name, mask in parts.items():
            points = np.where(mask, paint[name], points)
        signal[z] = averaged(points * bias)
        shares = np.stack([averaged(parts[name]) for name in ("rv", "myocardium", "lv")])
        labels[z] = np.argmax([1 - shares.sum(0), *shares], axis=0)

    # Magnitude images have Rician noise: Gaussian in both channels of the complex signal.
    real, imaginary = rng.normal(0, noise, (2, *signal.shape))
    image = rng.uniform(150, 700) * np.hypot(signal + real, imaginary)
    return Phantom(np.rint(image).astype(np.int16), labels, (thickness, pixel, pixel))


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
            images, labels = folder / f"images{kind}", folder / f"labels{kind}"
            images.mkdir()
            labels.mkdir()
            for number in cases:
                phantom, name = make_phantom(seed, number), case_name(number)
                _write(phantom.image, phantom.spacing, images / f"{name}_0000.nii.gz")
                _write(phantom.labels, phantom.spacing, labels / f"{name}.nii.gz")
        generate_dataset_json(
            str(folder),
            channel_names={0: "cineMRI"},
            labels=dict(LABELS),
            num_training_cases=len(TRAINING_CASES),
            file_ending=".nii.gz",
            dataset_name=DATASET,
            description=f"Synthetic short-axis cardiac phantom, seed {seed}",
            reference="nnunetv2-selfreg",
            license="Apache-2.0",
            converted_by="nnUNetv2_selfreg demo",
        )
    return raw / DATASET


def _write(array: NDArray[np.generic], spacing: tuple[float, float, float], path: Path) -> None:
    """Writes (slices, rows, columns) with its spacing in mm as NIfTI."""
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(spacing[::-1])
    SimpleITK.WriteImage(image, str(path), useCompression=True)
