import numpy as np
import SimpleITK
from matplotlib.image import imread

from nnunetv2_selfreg.commands.overlay import write_overlay
from nnunetv2_selfreg.commands.phantom import make_phantom


def test_one_picture_even_of_an_empty_prediction(tmp_path):
    case = make_phantom(0, 21)
    arrays = {"image": case.image, "reference": case.labels, "prediction": np.zeros_like(case.labels)}
    for name, array in arrays.items():
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(tmp_path / f"{name}.nii.gz"))
    write_overlay(*(tmp_path / f"{name}.nii.gz" for name in arrays), tmp_path / "overlay.png")
    picture = imread(tmp_path / "overlay.png")
    assert min(picture.shape[:2]) > 600
    # the legend is below the panels; the left ventricle is red in the reference and nowhere else
    red, green, blue = (picture[: int(0.88 * len(picture)), :, channel] for channel in range(3))
    marked = np.flatnonzero(((red > green + 0.2) & (red > blue + 0.2)).any(axis=1)) / len(picture)
    assert len(marked) > 20
    assert 1 / 3 < marked.min() < marked.max() < 2 / 3
    assert len(list(tmp_path.iterdir())) == 4
