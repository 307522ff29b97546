"""Pictures and masks, from BMP, PNG, TIFF and JPEG to what nnU-Net's reader of natural images takes.

Pillow refuses pictures of more than 179 million pixels before it makes room for them.
"""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from nnunetv2_selfreg.datasets.benchmark import MISMATCHING, UNREADABLE, WRONG_VALUES, CaseError

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]


def read_rgb(path: Path) -> Bytes:
    """Reads a colour picture, (rows, columns, 3).

    Raises:
        CaseError: It cannot be read, has too many pixels, or is not one of 8 bits a colour.
    """
    picture = _read(path)
    if picture.mode not in ("RGB", "RGBA", "P"):
        raise CaseError(MISMATCHING, f"{path.name} (mode {picture.mode}, not an 8-bit colour picture)")
    return np.asarray(picture.convert("RGB"))


def read_mask(path: Path) -> NDArray[np.int64]:
    """Reads a mask or instance ids, (rows, columns).

    Raises:
        CaseError: It cannot be read, has too many pixels, or is a colour picture.
    """
    picture = _read(path)
    if picture.mode in ("RGB", "RGBA"):
        channels = np.asarray(picture.convert("RGB"))
        if (channels != channels[..., :1]).any():
            raise CaseError(WRONG_VALUES, f"{path.name} (a colour picture, not a mask)")
        return channels[..., 0].astype(np.int64)
    if picture.mode == "P":  # any colour but black is foreground
        return np.asarray(picture.convert("RGB")).max(-1).astype(np.int64)
    if picture.mode not in ("1", "L", "I", "I;16"):
        raise CaseError(WRONG_VALUES, f"{path.name} (mode {picture.mode}, not a mask)")
    return np.asarray(picture).astype(np.int64)


def binary(mask: NDArray[np.int64], path: Path) -> Mask:
    """Foreground of a mask of 0 and 1, or of 0 and 255 with what JPEG adds around edges: above 127.

    Raises:
        CaseError: More than a twentieth of the pixels lie between 64 and 191, so that it is no mask of two values.
    """
    if mask.max() <= 1:
        return mask > 0
    if mask.max() > 255 or ((mask > 63) & (mask < 192)).mean() > 0.05 or mask.max() < 128:
        raise CaseError(WRONG_VALUES, f"{path.name} (not a mask of two values; its highest is {mask.max()})")
    return mask > 127


def check_same_size(image: Bytes, mask: NDArray[np.int64] | Mask, name: str) -> None:
    """Refuses a mask of another size than the picture's.

    Raises:
        CaseError: The sizes differ.
    """
    if image.shape[:2] != mask.shape:
        sizes = [f"{shape[1]}x{shape[0]}" for shape in (image.shape, mask.shape)]
        raise CaseError(MISMATCHING, f"{name} (image {sizes[0]}, annotation {sizes[1]})")


def resize(picture: Bytes, size: int) -> Bytes:
    """Resizes bilinearly as OpenCV's `resize` does by default, which the published protocols call.

    Pixel centres lie at half coordinates, samples beyond the edge repeat it, nothing is smoothed before, and the
    result is rounded to 8 bits. OpenCV calculates with 11-bit weights, so single values may differ by 1.

    Args:
        picture: (rows, columns) or (rows, columns, channels).
        size: Rows and columns of the result.
    """
    import torch

    planes = torch.from_numpy(np.array(np.atleast_3d(picture))).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(
        planes, (size, size), mode="bilinear", align_corners=False, antialias=False
    )
    array: Bytes = resized[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    return array.reshape(size, size, *picture.shape[2:])


def resize_mask(mask: Mask, size: int) -> Mask:
    """Resizes a mask as the published protocols do: bilinearly as 0 and 255 in 8 bits, then all above 0.

    A pixel belongs to the result when the foreground has more than 1/510 of its weight.
    """
    return resize(mask.astype(np.uint8) * np.uint8(255), size) > 0


def write_png(array: Bytes | Mask | NDArray[np.uint16], path: Path) -> None:
    """Writes a picture, a mask as 0 and 1, or instance ids with 16 bits."""
    Image.fromarray(array.astype(np.uint8) if array.dtype == bool else array).save(path)


def _read(path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # from half of the limit on
            with Image.open(path) as picture:
                picture.load()
                return picture.copy()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "not a picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise CaseError(UNREADABLE, f"{path.name} ({reason})") from None
