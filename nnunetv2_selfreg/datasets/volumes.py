"""Volumes with labels, from NIfTI to what nnU-Net's SimpleITK reader takes; the geometry stays."""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import SimpleITK

from nnunetv2_selfreg.datasets.benchmark import MISMATCHING, UNREADABLE, WRONG_VALUES, Case, CaseError, Staging
from nnunetv2_selfreg.errors import SelfRegError

MAX_VOXELS = 2**30


def write_volume(case: Case, staging: Staging, values: Mapping[int, int]) -> list[str]:
    """Writes an image as it is, and its labels with other values as uint8.

    Image and labels must have the same size, and the same spacing, origin and direction as far as nnU-Net's check
    goes (`numpy.allclose`); the labels are written with the image's geometry, which ends a difference in the last
    digits.

    Args:
        case: The case.
        staging: Where to.
        values: The new value of every label value that may occur.

    Returns:
        The case's name.

    Raises:
        CaseError: A file cannot be read, the two do not match, or another label value occurs.
        SelfRegError: It cannot be written.
    """
    assert case.label is not None
    image, labels = read_volume(case.image), read_volume(case.label)
    for what in ("Size", "Spacing", "Origin", "Direction"):
        of_image, of_labels = (getattr(volume, f"Get{what}")() for volume in (image, labels))
        if not np.allclose(of_image, of_labels):
            raise CaseError(MISMATCHING, f"{case.name} ({what.lower()} {of_image}, labels {of_labels})")
    array = SimpleITK.GetArrayViewFromImage(labels)
    found = np.unique(array)
    wrong = [f"{value:g}" for value in found if value not in values]
    if wrong:
        raise CaseError(WRONG_VALUES, f"{case.label.name} ({', '.join(wrong[:10])})")
    new = np.array([values[value] for value in found.tolist()], np.uint8)[np.searchsorted(found, array)]
    result = SimpleITK.GetImageFromArray(new)
    result.CopyInformation(image)
    try:
        SimpleITK.WriteImage(image, staging.image(case.part, case.name), True)
        SimpleITK.WriteImage(result, staging.label(case.part, case.name), True)
    except RuntimeError as error:
        raise SelfRegError(f"{staging.folder} cannot be written: {_last_line(error)}") from None
    return [case.name]


def read_volume(path: Path) -> SimpleITK.Image:
    """Reads a volume of one channel.

    Raises:
        CaseError: It cannot be read, has other than three axes, more than one channel or more than 2**30 voxels.
    """
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        if reader.GetDimension() != 3 or reader.GetNumberOfComponents() != 1 or np.prod(size, dtype=float) > MAX_VOXELS:
            raise CaseError(MISMATCHING, f"{path.name} (size {size}, {reader.GetNumberOfComponents()} channels)")
        expected = np.prod(size, dtype=float) * int(reader.GetMetaData("bitpix")) / 8
        if _bytes_in(path) < expected:
            raise CaseError(UNREADABLE, f"{path.name} (it ends before its last voxel)")
        return reader.Execute()
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise CaseError(UNREADABLE, f"{path.name} ({_last_line(error)})") from None


def _bytes_in(path: Path) -> int:
    """Counts the bytes of a file, unpacked; SimpleITK takes a file that was cut off, or damaged, for whole."""
    if path.suffix != ".gz":
        return path.stat().st_size
    count = 0
    with gzip.open(path) as content:
        while chunk := content.read(2**20):
            count += len(chunk)
    return count


def _last_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1].strip()
