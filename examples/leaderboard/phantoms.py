"""Archives in ACDC's and GlaS's layout with phantoms in them, for the smoke run: phantoms.py {acdc,glas} FOLDER"""

import sys
from pathlib import Path

import numpy as np
import SimpleITK
from PIL import Image
from skimage.draw import ellipse

from nnunetv2_selfreg.commands.phantom import make_phantom

ACDC_PATIENTS = [1, 4, 5, 6, 7, 10, 2, 3]  # the last two are of the test set
GLAS_PICTURES = [f"train_{number}" for number in range(1, 7)] + ["testA_1", "testA_2", "testB_1"]


def write_acdc(folder: Path) -> None:
    for patient in ACDC_PATIENTS:
        name = f"patient{patient:03d}"
        (folder / "training" / name).mkdir(parents=True)
        (folder / "training" / name / "Info.cfg").write_text("ED: 1\nES: 9\nGroup: NOR\n")
        for frame in (1, 9):
            phantom = make_phantom(0, 100 * patient + frame)
            for array, ending in ((phantom.image, ""), (phantom.labels, "_gt")):
                image = SimpleITK.GetImageFromArray(array)
                image.SetSpacing(phantom.spacing[::-1])
                SimpleITK.WriteImage(image, str(folder / "training" / name / f"{name}_frame{frame:02d}{ending}.nii.gz"))


def write_glas(folder: Path) -> None:
    """Pale glands with a dark rim in pink tissue."""
    folder.mkdir(parents=True)
    for number, name in enumerate(GLAS_PICTURES):
        rng = np.random.default_rng(number)
        picture = np.full((174, 258, 3), (200, 130, 170), np.float64)
        glands = np.zeros(picture.shape[:2], np.uint8)
        for gland in range(1, 5):
            centre, radii = rng.uniform((30, 30), (144, 228)), rng.uniform(14, 30, 2)
            for size, colour in ((1.0, (110, 60, 140)), (0.8, (235, 215, 230))):
                at = ellipse(*centre, *(size * radii), shape=glands.shape, rotation=gland)
                picture[at] = colour
                if size == 1:
                    glands[at] = gland
        noisy = (picture + rng.normal(0, 12, picture.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{name}.bmp")
        Image.fromarray(glands).save(folder / f"{name}_anno.bmp")


{"acdc": write_acdc, "glas": write_glas}[sys.argv[1]](Path(sys.argv[2]))
