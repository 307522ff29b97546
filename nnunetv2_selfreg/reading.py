"""Images and label maps as nnU-Net's reader classes read them: whole, or refused by name.

What the readers do with a file that was cut off, at any byte: SimpleITK fills the missing end of NIfTI and GIPL with
other values; tifffile leaves out the missing slices and says so in its log; nibabel, Pillow, and SimpleITK with
MetaImage and NRRD, refuse it. None looks at the check sums of PNG, or of gzip behind the last voxel. SimpleITK takes a
NIfTI file's NaN and infinite values for 0, and says nothing when it writes one to a disk that is full.
"""

import gzip
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from math import prod
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK
from numpy.typing import NDArray
from PIL import Image

from nnunetv2_selfreg.errors import SelfRegError

Volume = NDArray[np.float32]  # as nnU-Net's readers give it, (channels, slices, rows, columns)

NOT_FINITE = "it holds NaN or infinite values"
_GZIP, _PNG = b"\x1f\x8b", b"\x89PNG"
_GIPL_HEADER = 256  # bytes


class UnreadableError(SelfRegError):
    """A file cannot be read whole, for a reason."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} cannot be read: {reason}")
        self.reason = reason


def channel_names(dataset_json: Mapping[str, Any]) -> Mapping[str, str]:
    """A data set's image channels by number; like nnU-Net, it also takes version 1's key `modality`."""
    names: Mapping[str, str] = dataset_json.get("channel_names") or dataset_json.get("modality") or {}
    return names


def read_images(reader: Any, paths: Sequence[Path]) -> tuple[Volume, dict[str, Any]]:
    """Reads the images of one case by one of nnU-Net's readers; gives them and nnU-Net's properties of the case.

    Raises:
        UnreadableError: A file is damaged, was cut off, holds a value that is not finite, or does not fit the others.
    """
    for path in paths:
        check_whole(path)
    try:
        images, properties = _read(reader.read_images, [str(path) for path in paths], paths[0])
    except UnreadableError:
        if len(paths) == 1:
            raise
        for path in paths:
            _read(reader.read_images, [str(path)], path)  # one that cannot be read alone is named
        raise UnreadableError(paths[0], "it differs in shape or spacing from the case's other images") from None
    for path, channels in zip(paths, np.array_split(images, len(paths)), strict=True):
        if not np.isfinite(channels).all():
            raise UnreadableError(path, NOT_FINITE)
    return images, properties


def read_labels(reader: Any, path: Path) -> tuple[Volume, dict[str, Any]]:
    """Reads a label map by one of nnU-Net's readers; as `read_images`, but which values it holds is the caller's."""
    check_whole(path)
    labels: tuple[Volume, dict[str, Any]] = _read(reader.read_seg, str(path), path)
    return labels


def check_whole(path: Path) -> None:
    """Refuses what a reader would take although it was cut off, its check sums are wrong, or NaN would count as 0.

    Raises:
        UnreadableError: It is such a file, or cannot be read at all.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
        if start == _PNG:
            with Image.open(path) as picture:
                picture.verify()
            return
        kind = SimpleITK.ImageFileReader.GetImageIOFromFileName(str(path))
        with gzip.open(path) if start.startswith(_GZIP) else path.open("rb") as content:
            if kind == "NiftiImageIO":
                _check_nifti(content, path)
            end = content.seek(0, os.SEEK_END)  # unpacks a gzip file and checks it
        if kind == "GiplImageIO" and end < _gipl_bytes(path):
            raise UnreadableError(path, "it ends before its last voxel")
    except SelfRegError:
        raise
    except Exception as error:  # each library has its own
        raise UnreadableError(path, last_line(error)) from None


def write_nifti(volume: SimpleITK.Image, path: Path) -> None:
    """Writes a compressed NIfTI file and reads it back.

    Raises:
        OSError: It cannot be written, or not whole.
    """
    try:
        SimpleITK.WriteImage(volume, str(path), True)
        check_whole(path)
    except UnreadableError:
        raise OSError(f"{path.name} was not written whole, as happens on a full disk") from None
    except RuntimeError as error:
        raise OSError(last_line(error)) from None


def last_line(error: Exception) -> str:
    """What an error says, in a line: ITK's come with where in its code they were raised."""
    return (getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).splitlines()[-1].strip()


def _check_nifti(content: Any, path: Path) -> None:
    """Reads all voxels of an open NIfTI file."""
    kind: Any = nibabel.Nifti2Image if content.read(8).endswith(b"n+2\0") else nibabel.Nifti1Image
    content.seek(0)
    image = kind.from_file_map({"image": nibabel.FileHolder(fileobj=content)})
    values = image.dataobj.get_unscaled()
    if values.dtype.kind in "fc" and not np.isfinite(values).all():
        raise UnreadableError(path, NOT_FINITE)


def _gipl_bytes(path: Path) -> int:
    """How long a GIPL file is by its header."""
    reader = SimpleITK.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return (
        _GIPL_HEADER + prod(reader.GetSize()) * SimpleITK.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    )


def _read(read: Callable[[Any], Any], files: Any, path: Path) -> Any:
    """What one of nnU-Net's readers gives; what it prints is shown if it can read the files."""
    printed = StringIO()
    try:
        with redirect_stdout(printed), _errors_of_tifffile() as errors:
            result = read(files)
    except Exception as error:  # each of nnU-Net's readers has its own
        raise UnreadableError(path, last_line(error)) from None
    if lines := errors.getvalue().splitlines():
        raise UnreadableError(path, lines[-1])
    print(printed.getvalue(), end="")
    return result


@contextmanager
def _errors_of_tifffile() -> Iterator[StringIO]:
    handler = logging.StreamHandler(errors := StringIO())
    handler.setLevel(logging.ERROR)
    logger = logging.getLogger("tifffile")
    logger.addHandler(handler)
    try:
        yield errors
    finally:
        logger.removeHandler(handler)
