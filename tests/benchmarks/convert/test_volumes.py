"""Volumes: what is refused of an image and its labels, and what is written."""

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from archives import volume, write_volume

from nnunetv2_selfreg.benchmarks import volumes
from nnunetv2_selfreg.benchmarks.benchmark import ArchiveCase, CaseError, Staging

VALUES = {0: 0, 1: 2, 2: 1}
Convert = Callable[..., tuple[SimpleITK.Image, SimpleITK.Image]]


@pytest.fixture
def convert(tmp_path: Path) -> Convert:
    """Writes the case of image.nii.gz and labels.nii.gz, good ones where a test wrote none, and reads it back."""

    def write() -> tuple[SimpleITK.Image, SimpleITK.Image]:
        for name, array in zip(("image", "labels"), volume(0, 3), strict=True):
            if not (tmp_path / f"{name}.nii.gz").exists():
                write_volume(tmp_path / f"{name}.nii.gz", array)
        (tmp_path / "staging").mkdir()
        staging = Staging(tmp_path / "staging", ".nii.gz")
        case = ArchiveCase("case", "test", tmp_path / "image.nii.gz", tmp_path / "labels.nii.gz")
        volumes.write_volume(case, staging, VALUES)
        written = ("imagesTs/case_0000.nii.gz", "labelsTs/case.nii.gz")
        image, labels = (SimpleITK.ReadImage(str(staging.folder / name)) for name in written)
        return image, labels

    return write


def refused(convert: Convert, kind: str, said: str) -> None:
    with pytest.raises(CaseError) as caught:
        convert()
    assert caught.value.kind == kind
    assert str(caught.value).startswith(said)


def test_images_arrive_unchanged_and_labels_renumbered(convert):
    image, labels = convert()
    before, values = volume(0, 3)
    assert np.array_equal(SimpleITK.GetArrayFromImage(image), before)
    assert SimpleITK.GetArrayFromImage(labels).tolist() == np.array([0, 2, 1])[values].tolist()
    assert labels.GetPixelID() == SimpleITK.sitkUInt8


@pytest.mark.parametrize(
    ("what", "changed"),
    [
        ("spacing", {"spacing": (1.4, 1.5, 9)}),
        ("origin", {"origin": (3, -4, 6)}),
        ("direction", {"direction": (-1, 0, 0, 0, -1, 0, 0, 0, 1)}),
    ],
)
def test_labels_on_another_grid(what, changed, convert, tmp_path):
    write_volume(tmp_path / "labels.nii.gz", volume(0, 3)[1], **changed)
    refused(convert, "mismatching", f"case ({what} (")


def test_labels_of_another_size(convert, tmp_path):
    write_volume(tmp_path / "labels.nii.gz", volume(0, 3)[1][:2])
    refused(convert, "mismatching", "case (size (5, 4, 3), labels (5, 4, 2))")


def test_labels_whose_grid_differs_in_the_last_digits_get_the_image_s(convert, tmp_path):
    write_volume(tmp_path / "labels.nii.gz", volume(0, 3)[1], spacing=(1.400001, 1.5, 10))
    image, labels = convert()
    assert labels.GetSpacing() == image.GetSpacing()


def test_a_series_is_no_volume(convert, tmp_path):
    series = SimpleITK.GetImageFromArray(np.zeros((2, 3, 4, 5), np.int16), isVector=False)
    SimpleITK.WriteImage(series, str(tmp_path / "image.nii.gz"))
    refused(convert, "mismatching", "image.nii.gz (size (5, 4, 3, 2), 1 channels)")


def test_a_volume_of_vectors_is_no_volume(convert, tmp_path):
    vectors = SimpleITK.GetImageFromArray(np.zeros((3, 4, 5, 3), np.int16), isVector=True)
    SimpleITK.WriteImage(vectors, str(tmp_path / "image.nii.gz"))
    refused(convert, "mismatching", "image.nii.gz (size (5, 4, 3), 3 channels)")


def test_volumes_of_too_many_voxels_are_not_read(convert, tmp_path, monkeypatch):
    write_volume(tmp_path / "image.nii.gz", np.zeros((5, 5, 5), np.int16))
    monkeypatch.setattr(volumes, "MAX_VOXELS", 124)
    refused(convert, "mismatching", "image.nii.gz (size (5, 5, 5), 1 channels)")


@pytest.mark.parametrize("which", ["cut off", "ends early", "damaged", "foreign"])
def test_what_cannot_be_read_whole(which, convert, tmp_path):
    path = tmp_path / "image.nii.gz"
    write_volume(path, np.random.default_rng(0).integers(-1000, 1000, (30, 60, 60), np.int16))
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 0xFF
    path.write_bytes(
        {
            "cut off": content[:-1000],
            "ends early": gzip.compress(gzip.decompress(content)[:-1]),
            "damaged": bytes(damaged),
            "foreign": b"no volume",
        }[which]
    )
    refused(convert, "unreadable", "image.nii.gz (")


def test_other_label_values(convert, tmp_path):
    write_volume(tmp_path / "labels.nii.gz", volume(0, 5)[1])
    refused(convert, "with wrong label values", "labels.nii.gz (3, 4)")


def test_labels_between_whole_numbers(convert, tmp_path):
    write_volume(tmp_path / "labels.nii.gz", volume(0, 3)[1].astype(np.float32) / 2)
    refused(convert, "with wrong label values", "labels.nii.gz (0.5)")
