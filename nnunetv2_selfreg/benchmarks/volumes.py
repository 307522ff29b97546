"""Volumes with labels, from NIfTI to what nnU-Net's SimpleITK reader takes; the geometry stays."""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK

from nnunetv2_selfreg.benchmarks.benchmark import ArchiveCase, CaseError, Staging

MAX_VOXELS = 2**30


def write_volume(case: ArchiveCase, staging: Staging, values: Mapping[int, int]) -> None:
    """Writes an image as it is, and its labels with other values as uint8.

    Image and labels must have the same size, and the same spacing, origin and direction as far as nnU-Net's check
    goes (`numpy.allclose`); the labels are written with the image's geometry, which ends a difference in the last
    digits.

    Args:
        case: The case.
        staging: Where to.
        values: The new value of every label value that may occur.

    Raises:
        CaseError: A file cannot be read, the two do not match, or another label value occurs.
        OSError: It cannot be written.
    """
    assert case.label is not None
    image, labels = read_volume(case.image), read_volume(case.label)
    for what in ("Size", "Spacing", "Origin", "Direction"):
        of_image, of_labels = (getattr(volume, f"Get{what}")() for volume in (image, labels))
        if not np.allclose(of_image, of_labels):
            raise CaseError("mismatching", f"{case.name} ({what.lower()} {of_image}, labels {of_labels})")
    array = SimpleITK.GetArrayViewFromImage(labels)
    found = np.unique(array)
    if wrong := [f"{value:g}" for value in found if value not in values]:
        raise CaseError("with wrong label values", f"{case.label.name} ({', '.join(wrong[:10])})")
    new = np.array([values[value] for value in found], np.uint8)[np.searchsorted(found, array)]
    result = SimpleITK.GetImageFromArray(new)
    result.CopyInformation(image)
    try:
        for kind, volume in (("images", image), ("labels", result)):
            SimpleITK.WriteImage(volume, staging.path(kind, case.part, case.name), True)
    except RuntimeError as error:
        raise OSError(_last_line(error)) from None


def read_volume(path: Path) -> SimpleITK.Image:
    """Reads a volume of one channel.

    Raises:
        CaseError: It cannot be read, has other than three axes, more than one channel or more than 2**30 voxels.
    """
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size, channels = reader.GetSize(), reader.GetNumberOfComponents()
        voxels = np.prod(size, dtype=float)
        if len(size) != 3 or channels != 1 or voxels > MAX_VOXELS:
            raise CaseError("mismatching", f"{path.name} (size {size}, {channels} channels)")
        offset, bits = (float(reader.GetMetaData(key)) for key in ("vox_offset", "bitpix"))
        if _bytes_in(path) < offset + voxels * bits / 8:
            raise CaseError("unreadable", f"{path.name} (it ends before its last voxel)")
        return reader.Execute()
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise CaseError("unreadable", f"{path.name} ({_last_line(error)})") from None


def _bytes_in(path: Path) -> int:
    """Counts the bytes of a file, unpacked; SimpleITK takes a file that was cut off, or damaged, for whole."""
    if path.suffix != ".gz":
        return path.stat().st_size
    with gzip.open(path) as content:
        return sum(len(chunk) for chunk in iter(lambda: content.read(2**20), b""))


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
