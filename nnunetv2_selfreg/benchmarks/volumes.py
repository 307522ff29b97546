"""Volumes with labels, from NIfTI to what nnU-Net's SimpleITK reader takes; the geometry stays."""

from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import SimpleITK

from nnunetv2_selfreg.benchmarks.benchmark import ArchiveCase, CaseError, Staging
from nnunetv2_selfreg.reading import UnreadableError, check_whole, last_line, write_nifti

MAX_VOXELS = 2**30


def write_volume(case: ArchiveCase, staging: Staging, values: Mapping[int, int]) -> None:
    """Writes an image as it is, and its labels as uint8 with the new values of `values`; no others may occur.

    Size, spacing, origin and direction of the two must be the same as far as nnU-Net's check goes (`numpy.allclose`);
    the labels are written with the image's geometry, which ends a difference in the last digits.
    """
    assert case.label is not None
    image, labels = _read(case.image), _read(case.label)
    for what in ("Size", "Spacing", "Origin", "Direction"):
        of_image, of_labels = (getattr(volume, f"Get{what}")() for volume in (image, labels))
        if not np.allclose(of_image, of_labels):
            raise CaseError("mismatching", f"{case.name} ({what.lower()} {of_image}, labels {of_labels})")
    array = SimpleITK.GetArrayViewFromImage(labels)
    found = np.unique(array)
    if wrong := [f"{value:g}" for value in found if value not in values]:
        raise CaseError("with wrong label values", f"{case.label.name} ({', '.join(wrong[:10])})")
    new = np.array([values[value] for value in found], np.uint8)
    result = SimpleITK.GetImageFromArray(new[np.searchsorted(found, array)])
    result.CopyInformation(image)
    for kind, volume in (("images", image), ("labels", result)):
        write_nifti(volume, staging.path(kind, case.part, case.name))


def _read(path: Path) -> SimpleITK.Image:
    """Reads a volume of three axes, one channel and at most `MAX_VOXELS` voxels, all of them finite."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size, channels = reader.GetSize(), reader.GetNumberOfComponents()
        if len(size) != 3 or channels != 1 or prod(size) > MAX_VOXELS:
            raise CaseError("mismatching", f"{path.name} (size {size}, {channels} channels)")
        check_whole(path)
        return reader.Execute()
    except UnreadableError as error:
        raise CaseError("unreadable", f"{path.name} ({error.reason})") from None
    except RuntimeError as error:
        raise CaseError("unreadable", f"{path.name} ({last_line(error)})") from None
