"""Pictures: reading what the archives hold, and resizing against the definition of bilinear sampling."""

from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

from nnunetv2_selfreg.benchmarks.benchmark import ArchiveCase, CaseError, Staging
from nnunetv2_selfreg.benchmarks.pictures import binary, read_mask, read_rgb, resize, write_picture


def bilinear(plane, size):
    """One output pixel at a time: its centre in the input's coordinates, and the four pixels around it."""
    rows, columns = plane.shape
    result = np.zeros((size, size))
    for row in range(size):
        y = min(max((row + 0.5) * rows / size - 0.5, 0), rows - 1)
        for column in range(size):
            x = min(max((column + 0.5) * columns / size - 0.5, 0), columns - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            above = plane[top, left] * (1 - (x - left)) + plane[top, right] * (x - left)
            below = plane[bottom, left] * (1 - (x - left)) + plane[bottom, right] * (x - left)
            result[row, column] = above * (1 - (y - top)) + below * (y - top)
    return result


@pytest.mark.parametrize("shape", [(52, 77), (9, 30), (16, 16), (5, 3)])
def test_pictures_are_sampled_bilinearly_without_smoothing(shape):
    picture = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    result = resize(picture, 16)
    assert result.dtype == np.uint8
    for channel in range(3):
        expected = bilinear(picture[..., channel].astype(float), 16)
        assert np.abs(result[..., channel] - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("shape", [(52, 77), (9, 30), (40, 40)])
def test_any_touched_pixel_of_a_mask_counts(shape):
    mask = np.random.default_rng(1).random(shape) > 0.8
    expected = bilinear(mask.astype(float) * 255, 16) > 0.5  # rounded to 8 bits, above 0
    assert np.array_equal(resize(mask, 16), expected)
    assert resize(mask, 16).mean() > mask.mean()


def test_instances_are_resized_by_their_numbers(tmp_path):
    """As the published loader of GlaS does: cv2.resize of the numbers, then above 0."""
    ids = np.random.default_rng(2).integers(0, 5, (23, 31), np.uint8)
    Image.fromarray(np.zeros((23, 31, 3), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(ids).save(tmp_path / "mask.png")
    case = ArchiveCase("glands", "test", tmp_path / "image.png", tmp_path / "mask.png")
    found = {}
    for resizes_values in (True, False):
        (tmp_path / str(resizes_values)).mkdir()
        staging = Staging(tmp_path / str(resizes_values), ".png", 16)
        write_picture(case, staging, lambda values, _: values > 0, resizes_values=resizes_values)
        found[resizes_values] = np.asarray(Image.open(staging.path("labels", "test", "glands")))
    numbers = bilinear(ids.astype(float), 16)
    clear = np.abs(numbers - 0.5) > 1e-6
    assert np.array_equal(found[True][clear] > 0, numbers[clear] > 0.5)
    assert np.array_equal(found[False] > 0, bilinear(255.0 * (ids > 0), 16) > 0.5)
    assert found[True].sum() < found[False].sum()


def test_a_mask_of_two_values_is_not_resized_as_instances(tmp_path):
    Image.fromarray(np.zeros((23, 31, 3), np.uint8)).save(tmp_path / "image.png")
    Image.fromarray(np.full((23, 31), 255, np.uint8)).save(tmp_path / "mask.png")
    case = ArchiveCase("glands", "test", tmp_path / "image.png", tmp_path / "mask.png")
    for size in (None, 16):  # at its own size it is a mask like others
        staging = Staging(tmp_path, ".png", size)
        with pytest.raises(CaseError, match="holds 255, no instance id, which --size needs") if size else nullcontext():
            write_picture(case, staging, lambda values, _: values > 0, resizes_values=True)


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [("L", 3, 3), ("1", 1, 1), ("I;16", 300, 300), ("RGB", (7, 7, 7), 7), ("RGBA", (9, 9, 9, 255), 9)],
)
def test_masks_of_every_kind_are_read(mode, value, expected, tmp_path):
    Image.new(mode, (4, 3), value).save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[expected] * 4] * 3


def test_the_colours_of_a_palette_count_not_their_order(tmp_path):
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([128, 0, 0, 0, 0, 0])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "mask.png")
    assert read_mask(tmp_path / "mask.png").tolist() == [[128, 0]]


def test_a_colour_picture_is_no_mask(tmp_path):
    Image.new("RGB", (4, 4), (200, 100, 150)).save(tmp_path / "mask.png")
    with pytest.raises(CaseError, match=r"mask\.png \(a colour picture") as caught:
        read_mask(tmp_path / "mask.png")
    assert caught.value.kind == "with wrong label values"


@pytest.mark.parametrize("mode", ["L", "I;16"])
def test_a_grey_picture_is_no_colour_picture(mode, tmp_path):
    Image.new(mode, (4, 4)).save(tmp_path / "image.png")
    with pytest.raises(CaseError, match=r"image\.png \(mode"):
        read_rgb(tmp_path / "image.png")


def test_a_picture_must_have_the_size_that_is_asked_for(tmp_path):
    Image.new("RGB", (4, 3)).save(tmp_path / "image.png")
    assert read_rgb(tmp_path / "image.png", (3, 4)).shape == (3, 4, 3)
    with pytest.raises(CaseError, match=r"^image\.png \(4x3, not 3x4\)$") as caught:
        read_rgb(tmp_path / "image.png", (4, 3))
    assert caught.value.kind == "mismatching"


def test_transparency_is_dropped(tmp_path):
    Image.new("RGBA", (2, 2), (1, 2, 3, 0)).save(tmp_path / "image.png")
    assert read_rgb(tmp_path / "image.png").tolist() == [[[1, 2, 3]] * 2] * 2


def test_pictures_of_too_many_pixels_are_not_decoded(tmp_path):
    Image.new("1", (15_000, 15_000)).save(tmp_path / "bomb.png")
    with pytest.raises(CaseError, match=r"bomb\.png \(Image size \(225000000 pixels\) exceeds limit"):
        read_mask(tmp_path / "bomb.png")


@pytest.mark.parametrize("ending", ["png", "bmp", "tif", "jpg"])
def test_cut_off_and_foreign_files_are_unreadable(ending, tmp_path):
    path = tmp_path / f"image.{ending}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no picture"):
        path.write_bytes(damaged)
        with pytest.raises(CaseError) as caught:
            read_rgb(path)
        assert caught.value.kind == "unreadable"


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 0], [0, 0]), ([0, 1], [0, 1]), ([0, 255], [0, 1]), ([9, 240], [0, 1])]
)
def test_masks_of_two_values(values, expected):
    assert binary(np.array([values]), "case").tolist() == [[bool(value) for value in expected]]


@pytest.mark.parametrize("values", [[0, 2], [0, 128, 255], [0, 300], [100, 100]])
def test_masks_of_other_values_are_refused(values):
    with pytest.raises(CaseError, match=r"^case \(not a mask of two values"):
        binary(np.array([values]), "case")
