"""The real files of ../shared/data, where they are: converted, read back by nnU-Net and compared with the originals."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from archives import ACDC_TEST, SHARED, benchmark_entry, convert, names
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image

from nnunetv2_selfreg.benchmarks.monuseg import read_polygons


def shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.mark.parametrize(
    "patients", [("001", "002", "021"), pytest.param(None, marks=pytest.mark.slow)], ids=["three", "all"]
)
def test_acdc_volumes_arrive_unchanged(patients, raw, tmp_path):
    folders = [
        path for path in sorted((shared("ACDC") / "training").iterdir()) if not patients or path.name[7:] in patients
    ]
    (tmp_path / "training").mkdir()
    for folder in folders:
        (tmp_path / "training" / folder.name).symlink_to(folder)
    assert convert("acdc", tmp_path / "training", "--allow-incomplete") == 0
    dataset = raw / "Dataset027_ACDC"
    images = [path for folder in folders for path in sorted(folder.glob("*_frame??.nii.gz"))]
    assert len(images) == 2 * len(folders)
    reader = SimpleITKIO()
    for path in images:
        name = path.name.removesuffix(".nii.gz")
        part = "Tr" if (dataset / "labelsTr" / f"{name}.nii.gz").exists() else "Ts"
        for original, read in (
            (path, reader.read_images([str(dataset / f"images{part}" / f"{name}_0000.nii.gz")])),
            (path.with_name(f"{name}_gt.nii.gz"), reader.read_seg(str(dataset / f"labels{part}" / f"{name}.nii.gz"))),
        ):
            volume = SimpleITK.ReadImage(str(original))
            assert np.array_equal(read[0][0], SimpleITK.GetArrayFromImage(volume))
            for what in ("spacing", "origin", "direction"):
                assert read[1]["sitk_stuff"][what] == getattr(volume, f"Get{what.title()}")()
    missing = {f"patient{number:03d}" for number in range(1, 101)} - {folder.name for folder in folders}
    test = {f"patient{number}" for number in ACDC_TEST}
    assert benchmark_entry(dataset)["missing"] == {"train": sorted(missing - test), "test": sorted(missing & test)}
    assert benchmark_entry(dataset)["complete"] is (not missing)
    assert len(names(dataset / "imagesTr")) + len(names(dataset / "imagesTs")) == len(images)


@pytest.mark.slow
def test_glas_pictures_arrive_unchanged(raw):
    source = shared("GlaS")
    convert("glas", source, "--allow-incomplete")
    dataset = raw / "Dataset227_GlaS"
    pictures = [path for path in sorted(source.iterdir()) if not path.stem.endswith("_anno")]
    for path in pictures:
        part = "Tr" if path.stem.startswith("train") else "Ts"
        image, _ = NaturalImage2DIO().read_images([str(dataset / f"images{part}" / f"{path.stem}_0000.png")])
        labels, _ = NaturalImage2DIO().read_seg(str(dataset / f"labels{part}" / f"{path.stem}.png"))
        assert np.array_equal(image[:, 0], np.asarray(Image.open(path)).transpose(2, 0, 1))
        ids = np.asarray(Image.open(path.with_stem(f"{path.stem}_anno")))
        assert np.array_equal(labels[0, 0], (ids > 0).astype(float))
    assert len(names(dataset / "imagesTr")) == sum(path.stem.startswith("train") for path in pictures)
    assert len(names(dataset / "imagesTs")) == sum(path.stem.startswith("test") for path in pictures)


def ray_cast(polygon: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Counts the edges to the right of every point: odd lies inside."""
    odd = np.zeros(x.shape, bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            odd ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return odd


@pytest.mark.slow
@pytest.mark.parametrize("pictures", [2, 5])
def test_monuseg_polygons_are_filled_exactly(pictures, raw, tmp_path):
    source = shared("MoNuSeg")
    annotations = sorted(source.rglob("*.xml"))
    annotations = annotations if pictures == 5 else [annotations[0], annotations[-1]]
    for path in annotations:
        (tmp_path / "source").mkdir(exist_ok=True)
        (tmp_path / "source" / path.name).symlink_to(path)
        (tmp_path / "source" / f"{path.stem}.tif").symlink_to(next(source.rglob(f"{path.stem}.tif")))
    convert("monuseg", tmp_path / "source", "--allow-incomplete")
    dataset = raw / "Dataset327_MoNuSeg"
    for path in annotations:
        part = "Tr" if (dataset / "labelsTr" / f"{path.stem}.png").exists() else "Ts"
        labels = np.asarray(Image.open(dataset / f"labels{part}" / f"{path.stem}.png")) > 0
        # Close to a centre on an edge lie points of both sides. 100 pixels around the picture are kept, too.
        some, every, corner = np.zeros((1200, 1200), bool), np.zeros((1200, 1200), bool), np.zeros((1200, 1200), bool)
        for polygon in read_polygons(path):
            if len(polygon) < 3:
                continue
            left, top = np.floor(polygon.min(0)).astype(int)
            right, bottom = np.ceil(polygon.max(0)).astype(int)
            y, x = np.mgrid[top:bottom, left:right] + 0.5
            close = [
                ray_cast(polygon, x + a, y + b) for a, b in ((1e-8, 3e-8), (-3e-8, 1e-8), (-1e-8, -3e-8), (3e-8, -1e-8))
            ]
            window = np.s_[top + 100 : bottom + 100, left + 100 : right + 100]
            some[window] |= np.any(close, axis=0)
            every[window] |= np.all(close, axis=0)
            for column, row in polygon[(polygon % 1 == 0.5).all(1)].astype(int):
                corner[row + 100, column + 100] = True
        some, every, corner = (mask[100:1100, 100:1100] for mask in (some, every, corner))
        assert every.sum() > 100_000
        assert labels[every].all()
        assert not labels[~some & ~corner].any()
        # Centres on an edge belong. In one picture the corners lie on a grid of 0.2, which no binary number holds, and
        # rounding puts centres on its diagonal edges outside.
        assert (some & ~labels).sum() < 0.001 * labels.sum()
        image = np.asarray(Image.open(dataset / f"images{part}" / f"{path.stem}_0000.png"))
        assert np.array_equal(image, np.asarray(Image.open(tmp_path / "source" / f"{path.stem}.tif"))[..., :3])
