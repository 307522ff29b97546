"""Which slice a picture shows, how, and which files it is made of."""

from copy import deepcopy
from itertools import pairwise

import numpy as np
import pytest
import SimpleITK
from matplotlib.colors import to_rgb
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image

from nnunetv2_selfreg.compare.pictures import COLOURS, class_colours, draw_case, find_images
from nnunetv2_selfreg.errors import SelfRegError

TITLES = "A, Dice 80.00", "B, Dice 80.00"
LABELS = {"background": 0, "liver": 1, "tumour": 2}
SIZE = 30  # around masks in the middle the whole of such an image is shown


def masks(*shape):
    return [np.zeros(shape, np.uint8) for _ in range(3)]


def grey(rows, columns):
    """An image of 100 with some 0 and some 200 in the middle, so that 100 is drawn as 127."""
    image = np.full((1, rows, columns), 100, np.float32)
    image[0, rows // 2 - 1 - rows // 100 : rows // 2, columns // 4 : -columns // 4] = 0
    image[0, rows // 2 : rows // 2 + 1 + rows // 100, columns // 4 : -columns // 4] = 200
    return image


def draw_volume(folder, image, maps, labels=LABELS, spacing=(1, 1, 1)):
    """Draws an image (slices, rows, columns) and its maps; spacing in the same order."""
    files = []
    for name, values in zip(("case_0000", "case", "a", "b"), (image, *maps), strict=True):
        volume = SimpleITK.GetImageFromArray(values)
        volume.SetSpacing(spacing[::-1])
        files.append(folder / f"{name}.nii.gz")
        SimpleITK.WriteImage(volume, str(files[-1]))
    return draw(files, labels, SimpleITKIO, folder / "case.png")


def draw(files, labels, reader, path, titles=TITLES):
    draw_case(files[:1], files[1], tuple(files[2:]), titles, labels, reader, path)
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def panels(picture, colour):
    """The boxes (top, bottom, left, right) of the three images, whose edges have that colour, give or take rounding."""
    found = np.abs(picture - np.array(colour)).max(-1) <= 2
    rows, ends = (np.flatnonzero(found.sum(axis) > 20) for axis in (1, 0))  # letters have fewer such pixels
    starts = [ends[0], *(after for before, after in pairwise(ends) if after - before > 5)]
    stops = [*(before for before, after in pairwise(ends) if after - before > 5), ends[-1]]
    assert len(starts) == 3
    return [(rows.min(), rows.max() + 1, left, right + 1) for left, right in zip(starts, stops, strict=True)]


def outlined(picture, box, colour):
    """Where the colour is in a panel, (top, bottom, left, right) from 0 to 1; None where it is not."""
    top, bottom, left, right = box
    part = picture[top:bottom, left:right]
    rows, columns = np.nonzero(np.abs(part - 255 * np.array(to_rgb(colour))).max(-1) < 12)
    if not len(rows):
        return None
    return rows.min() / len(part), rows.max() / len(part), columns.min() / part.shape[1], columns.max() / part.shape[1]


def test_the_slice_is_the_one_with_most_disagreement_outside_of_what_is_ignored(tmp_path):
    image = np.broadcast_to(np.float32([0, 50, 100, 150])[:, None, None], (4, SIZE, SIZE))
    reference, a, b = masks(4, SIZE, SIZE)
    reference[3] = 9
    a[:, 12:18, 12:18] = 1
    b[0, 12:18, 12:18] = 1
    b[1, 12:17, 12:18] = 1
    b[2, 12:14, 12:18] = 1
    picture = draw_volume(tmp_path, image, (reference, a, b), LABELS | {"ignore": 9})
    assert panels(picture, [170] * 3)  # slice 3's grey: 100 of 0 to 150


def test_each_map_is_outlined_in_its_panel_in_its_class_s_colour(tmp_path):
    image = grey(SIZE, SIZE)
    reference, a, b = masks(1, SIZE, SIZE)
    reference[0, 9:21, 6:24] = a[0, 9:21, 6:24] = 1
    b[0, 12:15, 9:15] = 2
    picture = draw_volume(tmp_path, image, (reference, a, b))
    boxes = panels(picture, [127] * 3)
    liver, tumour = ([outlined(picture, box, colour) for box in boxes] for colour in COLOURS[:2])
    for found in liver[:2]:
        np.testing.assert_allclose(found, (9 / 30, 21 / 30, 6 / 30, 24 / 30), atol=0.01)
    np.testing.assert_allclose(tumour[2], (12 / 30, 15 / 30, 9 / 30, 15 / 30), atol=0.01)
    assert [liver[2], *tumour[:2]] == [None] * 3


def test_a_region_is_outlined_as_one(tmp_path):
    image = grey(SIZE, SIZE)
    maps = masks(1, SIZE, SIZE)
    for values in maps:
        values[0, 9:15, 9:21], values[0, 15:21, 9:21] = 1, 2
    picture = draw_volume(tmp_path, image, maps, {"background": 0, "whole": [1, 2], "core": [2]})
    for box in panels(picture, [127] * 3):
        whole, core = (outlined(picture, box, colour) for colour in COLOURS[:2])
        np.testing.assert_allclose(whole[:1] + core, (9 / 30, 15 / 30, 21 / 30, 9 / 30, 21 / 30), atol=0.01)


def test_voxels_have_their_true_shape(tmp_path):
    maps = masks(1, 10, SIZE)
    for values in maps:
        values[0, 4:7, 12:18] = 1
    image = grey(10, SIZE)
    picture = draw_volume(tmp_path, image, maps, spacing=(5, 4, 1))
    for top, bottom, left, right in panels(picture, [127] * 3):
        assert (bottom - top) / (right - left) == pytest.approx(10 * 4 / 30, rel=0.02)


def test_of_a_large_image_what_is_marked_is_shown_with_half_of_its_extent_around(tmp_path):
    maps = masks(1, 400, 400)
    for values in maps:
        values[0, 200:260, 100:150] = 1
    picture = draw_volume(tmp_path, grey(400, 400), maps)
    for box in panels(picture, [127] * 3):
        top, bottom, left, right = outlined(picture, box, COLOURS[0])
        assert bottom - top == pytest.approx(60 / 120, abs=0.01)
        assert right - left == pytest.approx(50 / 110, abs=0.01)


def natural(folder, colour):
    files = [folder / f"{name}.png" for name in ("case_0000", "case", "a", "b")]
    maps = masks(SIZE, SIZE)
    maps[0][9:21, 9:21] = maps[1][9:21, 9:21] = maps[2][9:15, 9:15] = 1
    for path, values in zip(files, (np.full((SIZE, SIZE, 3), colour, np.uint8), *maps), strict=True):
        Image.fromarray(values).save(path)
    return files


def test_a_natural_image_is_shown_in_its_colours(tmp_path):
    files = natural(tmp_path, (180, 90, 150))
    picture = draw(files, {"background": 0, "gland": 1}, NaturalImage2DIO, tmp_path / "drawn.png", ("same", "same"))
    boxes = panels(picture, (180, 90, 150))
    ends = [outlined(picture, box, COLOURS[0])[1] for box in boxes]
    np.testing.assert_allclose(ends, (21 / 30, 21 / 30, 15 / 30), atol=0.01)


@pytest.mark.parametrize("classes", [1, 7, 8, 40])
def test_every_class_has_a_colour_of_its_own(classes):
    assert len(set(class_colours(classes))) == classes


@pytest.mark.parametrize("maps", ["empty", "equal"])
def test_predictions_that_do_not_differ(tmp_path, maps):
    files = natural(tmp_path, (180, 90, 150))
    values = np.zeros((SIZE, SIZE), np.uint8) if maps == "empty" else np.ones((SIZE, SIZE), np.uint8)
    for path in files[1:]:
        Image.fromarray(values).save(path)
    picture = draw(files, {"background": 0, "gland": 1}, NaturalImage2DIO, tmp_path / "drawn.png")
    assert len(panels(picture, (180, 90, 150))) == 3


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("cut", "b.png cannot be read"),
        ("shape", "b.png has 1 x 20 x 30 voxels, the image 1 x 30 x 30"),
        ("label", "b.png holds 7, no label of dataset.json"),
        ("missing", "b.png cannot be read: No such file or directory"),
    ],
)
def test_a_map_that_is_not_whole_or_of_other_data_is_refused(tmp_path, broken, message):
    files = natural(tmp_path, (180, 90, 150))
    if broken == "cut":
        files[3].write_bytes(files[3].read_bytes()[:-20])
    elif broken == "missing":
        files[3].unlink()
    else:
        values = np.full((20 if broken == "shape" else SIZE, SIZE), 7 if broken == "label" else 1, np.uint8)
        Image.fromarray(values).save(files[3])
    with pytest.raises(SelfRegError, match=message):
        draw(files, {"background": 0, "gland": 1}, NaturalImage2DIO, tmp_path / "out" / "drawn.png")
    assert not (tmp_path / "out").exists()


DATASET = {"channel_names": {"0": "T1", "1": "T2"}, "labels": LABELS, "file_ending": ".nii.gz"}


@pytest.fixture
def raw(tmp_path):
    for name in (
        "imagesTr/p_1_0000 imagesTr/p_1_0001 imagesTr/p_10_0000 imagesTr/p_10_0001 imagesTr/p_1_0000_0000 "
        "imagesTs/t[1]_0001 imagesTs/t[1]_0000 imagesTr/half_0001 imagesTr/twice_0000 imagesTs/twice_0000"
    ).split():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.nii.gz").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("folder", "case", "names"),
    [
        ("", "p_1", "imagesTr/p_1_0000 imagesTr/p_1_0001"),
        ("", "t[1]", "imagesTs/t[1]_0000 imagesTs/t[1]_0001"),
        ("imagesTr", "p_10", "imagesTr/p_10_0000 imagesTr/p_10_0001"),
        ("imagesTs", "twice", "imagesTs/twice_0000"),
        ("", "p_1_0000", "imagesTr/p_1_0000_0000"),
    ],
)
def test_the_images_of_a_case_and_of_no_other(raw, folder, case, names):
    assert find_images(raw / folder, case, DATASET) == [raw / f"{name}.nii.gz" for name in names.split()]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("p_2", "no image p_2_0000.nii.gz"),
        ("half", "the case half has half_0001.nii.gz; dataset.json names 2 channels"),
        ("twice", "imagesTr and .*imagesTs each have images of the case twice"),
    ],
)
def test_images_that_are_not_all_there_or_not_certain_are_refused(raw, case, message):
    with pytest.raises(SelfRegError, match=message):
        find_images(raw, case, DATASET)


def test_the_files_that_dataset_json_names(raw, monkeypatch):
    monkeypatch.setenv("ELSEWHERE", "/elsewhere")
    images = ["imagesTs/t[1]_0000.nii.gz", "$ELSEWHERE/t2.nii.gz"]
    dataset = DATASET | {"dataset": {"q": {"images": images, "label": "labelsTr/q.nii.gz"}}}
    before = deepcopy(dataset)
    found = find_images(raw, "q", dataset)
    assert [str(path) for path in found] == [str(raw / images[0]), "/elsewhere/t2.nii.gz"]
    assert dataset == before
    assert len(find_images(raw, "p_1", dataset)) == 2  # not named there
