"""Pictures and masks, from BMP, PNG, TIFF and JPEG to what nnU-Net's reader of natural images takes.

Pillow refuses pictures of more than 179 million pixels before it makes room for them. What cannot be used raises
`CaseError`.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from nnunetv2_selfreg.benchmarks.benchmark import ArchiveCase, CaseError, Staging
from nnunetv2_selfreg.reading import UnreadableError, check_whole

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Size = tuple[int, int]  # rows, columns
Foreground = Callable[[NDArray[np.int64], str], Mask]  # of a mask's values; with the case's name, for errors
Pixels = TypeVar("Pixels", Bytes, Mask)


def read_rgb(path: Path, size: Size | None = None) -> Bytes:
    """Reads a picture of 8 bits a colour, (rows, columns, 3), which must have the rows and columns of `size`."""
    picture = _read(path)
    if picture.mode not in ("RGB", "RGBA", "P"):
        raise CaseError("mismatching", f"{path.name} (mode {picture.mode}, not an 8-bit colour picture)")
    if size and picture.size != size[::-1]:
        raise CaseError("mismatching", f"{path.name} ({picture.width}x{picture.height}, not {size[1]}x{size[0]})")
    return np.asarray(picture.convert("RGB"))


def read_mask(path: Path) -> NDArray[np.int64]:
    """Reads a mask or instance ids, (rows, columns); a colour picture is refused."""
    picture = _read(path)
    if picture.mode not in ("1", "L", "I", "I;16", "P", "RGB", "RGBA"):
        raise CaseError("with wrong label values", f"{path.name} (mode {picture.mode}, not a mask)")
    if picture.mode not in ("P", "RGB", "RGBA"):
        return np.asarray(picture).astype(np.int64)
    colours = np.asarray(picture.convert("RGB"))
    if picture.mode != "P" and (colours != colours[..., :1]).any():
        raise CaseError("with wrong label values", f"{path.name} (a colour picture, not a mask)")
    return colours.max(-1).astype(np.int64)  # any colour of a palette but black is foreground


def read_pair(case: ArchiveCase, size: Size | None = None) -> tuple[Bytes, NDArray[np.int64]]:
    """Reads a picture, (rows, columns, 3), and its mask, (rows, columns): zeros for a picture without annotation."""
    image = read_rgb(case.image, size)
    mask = read_mask(case.label) if case.label else np.zeros(image.shape[:2], np.int64)
    if image.shape[:2] != mask.shape:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (image.shape, mask.shape)]
        raise CaseError("mismatching", f"{case.name} (image {sizes[0]}, annotation {sizes[1]})")
    return image, mask


def binary(mask: NDArray[np.int64], name: str) -> Mask:
    """Foreground of a mask of 0 and 1, or of 0 and 255: above 127, as JPEG adds other values around edges."""
    if mask.max() <= 1:
        return mask > 0
    if mask.max() > 255 or ((mask > 63) & (mask < 192)).mean() > 0.05 or mask.max() < 128:
        raise CaseError("with wrong label values", f"{name} (not a mask of two values; its highest is {mask.max()})")
    return mask > 127


def resize(pixels: Pixels, size: int) -> Pixels:
    """Resizes a picture or mask to (size, size) as the published protocols do: bilinearly, by OpenCV's default.

    Pixel centres lie at half coordinates, samples beyond the edge repeat it, nothing is smoothed before, and the
    result is rounded to 8 bits. OpenCV calculates with 11-bit weights, so single values may differ by 1. A mask is
    resized as 0 and 255; then all above 0 is foreground, so where it has more than 1/510 of the weight.
    """
    from skimage.transform import resize as sample

    scale = 255 if pixels.dtype == bool else 1
    floats = sample(pixels * float(scale), (size, size), order=1, mode="edge", anti_aliasing=False)
    return np.rint(floats).astype(np.uint8).astype(pixels.dtype)


def write_pair(staging: Staging, case: ArchiveCase, image: Bytes, mask: Mask, name: str = "", suffix: str = "") -> None:
    """Writes a picture and its mask at the size that the data set asks for, in folders whose names end in `suffix`."""
    if staging.size:
        image, mask = resize(image, staging.size), resize(mask, staging.size)
    for kind, array in (("images", image), ("labels", mask.astype(np.uint8))):
        Image.fromarray(array).save(staging.path(kind, case.part, name or case.name, suffix))


def write_picture(
    case: ArchiveCase,
    staging: Staging,
    foreground: Foreground,
    size: Size | None = None,
    resizes_values: bool = False,
) -> None:
    """Reads a picture and its mask and writes them.

    Args:
        case: The picture.
        staging: Where to, and at which size.
        foreground: Makes 0 and 1 of the mask's values.
        size: Rows and columns that the picture must have.
        resizes_values: Whether the mask is resized by its values, as instance ids, and not as 0 and 255: instance k
            then counts where it has at least 1/(2k) of the weight.
    """
    image, mask = read_pair(case, size)
    if staging.size and resizes_values:
        if mask.max() >= 255:  # no picture has so many instances
            raise CaseError(
                "with wrong label values", f"{case.name} (holds {mask.max()}, no instance id, which --size needs)"
            )
        mask = resize(mask.astype(np.uint8), staging.size).astype(np.int64)
        image = resize(image, staging.size)
    write_pair(staging, case, image, foreground(mask, case.name))


def _read(path: Path) -> Image.Image:
    try:
        check_whole(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from half of the limit on
            with Image.open(path) as picture:
                picture.load()
                return picture.copy()
    except UnreadableError as error:
        raise CaseError("unreadable", f"{path.name} ({error.reason})") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise CaseError("unreadable", f"{path.name} ({reason})") from None
