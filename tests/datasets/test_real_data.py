"""The real files of ../shared/data, where they are: converted, read back by nnU-Net and compared with the originals."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from archives import SHARED, about, convert, names
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image

from nnunetv2_selfreg.datasets.monuseg import read_polygons


def shared(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.mark.parametrize(
    "patients", [("001", "002", "021"), pytest.param(None, marks=pytest.mark.slow)], ids=["three", "all"]
)
def test_acdc_volumes_arrive_unchanged(patients, raw, tmp_path):
    source = shared("ACDC")
    if patients is not None:
        (tmp_path / "training").mkdir()
        for patient in patients:
            (tmp_path / "training" / f"patient{patient}").symlink_to(source / "training" / f"patient{patient}")
        source = tmp_path / "training"
    assert convert("acdc", source, "--allow-incomplete") == 0
    dataset = raw / "Dataset027_ACDC"
    images = sorted(
        path for folder in (SHARED / "ACDC" / "training").iterdir() for path in folder.glob("*_frame??.nii.gz")
    )
    images = [path for path in images if patients is None or path.name[7:10] in patients]
    assert len(images) == (180 if patients is None else 6)
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
    assert about(dataset)["complete"] is False
    if patients is None:
        assert len(names(dataset / "imagesTr")) == 160
        assert len(about(dataset)["missing"]["test"]) == 10
        assert about(dataset)["missing"]["train"] == []


@pytest.mark.slow
def test_glas_pictures_arrive_unchanged(raw):
    source = shared("GlaS")
    convert("glas", source, "--allow-incomplete")
    dataset = raw / "Dataset227_GlaS"
    for path in [path for path in sorted(source.iterdir()) if not path.stem.endswith("_anno")]:
        part = "Tr" if path.stem.startswith("train") else "Ts"
        image, _ = NaturalImage2DIO().read_images([str(dataset / f"images{part}" / f"{path.stem}_0000.png")])
        labels, _ = NaturalImage2DIO().read_seg(str(dataset / f"labels{part}" / f"{path.stem}.png"))
        assert np.array_equal(image[:, 0], np.asarray(Image.open(path)).transpose(2, 0, 1))
        ids = np.asarray(Image.open(path.with_stem(f"{path.stem}_anno")))
        assert np.array_equal(labels[0, 0], (ids > 0).astype(float))
    assert len(names(dataset / "imagesTr")) == 30
    assert len(names(dataset / "imagesTs")) == 10


def even_odd(polygon: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Ray casting from all pixel centres at once, edge by edge."""
    y, x = np.mgrid[:rows, :columns] + 0.5
    odd = np.zeros((rows, columns), bool)
    for (x0, y0), (x1, y1) in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        if y0 != y1:
            odd ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) / (y1 - y0) * (x1 - x0))
    return odd


def test_monuseg_polygons_are_filled_exactly(raw):
    source = shared("MoNuSeg")
    convert("monuseg", source, "--allow-incomplete", "--instances")
    dataset = raw / "Dataset327_MoNuSeg"
    assert len(names(dataset / "imagesTr")) == 3
    assert len(names(dataset / "imagesTs")) == 2
    for path in sorted(source.rglob("*.xml")):
        part = "Tr" if "Training" in str(path) else "Ts"
        labels = np.asarray(Image.open(dataset / f"labels{part}" / f"{path.stem}.png"))
        expected = np.zeros((1000, 1000), bool)
        on_an_edge = 0
        for polygon in read_polygons(path):
            if len(polygon) < 3:
                continue
            left, top = np.floor(polygon.min(0)).astype(int).clip(0, 1000)
            right, bottom = np.ceil(polygon.max(0)).astype(int).clip(0, 1000)
            inside = even_odd(polygon - (left, top), bottom - top, right - left)
            expected[top:bottom, left:right] |= inside
        different = labels.astype(bool) != expected
        # ray casting gives centres that lie on an edge to one side only; the rule gives them to the polygon
        assert not (different & expected).any()
        for row, column in np.argwhere(different):
            assert any(
                _on_edge(polygon, column + 0.5, row + 0.5) for polygon in read_polygons(path) if len(polygon) > 2
            )
            on_an_edge += 1
        assert on_an_edge < 0.03 * expected.sum()
        tif = next(source.rglob(f"{path.stem}.tif"))
        image = np.asarray(Image.open(dataset / f"images{part}" / f"{path.stem}_0000.png"))
        assert np.array_equal(image, np.asarray(Image.open(tif))[..., :3])


def _on_edge(polygon: np.ndarray, x: float, y: float) -> bool:
    start, way = polygon, np.roll(polygon, -1, axis=0) - polygon
    point = np.array([x, y]) - start
    length = np.maximum((way**2).sum(1), 1e-30)
    along = np.clip((point * way).sum(1) / length, 0, 1)
    return bool((np.hypot(*(point - along[:, None] * way).T) < 1e-9).any())
