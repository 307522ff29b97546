"""The copies of GlaS and MoNuSeg that papers pass on: recognised, converted, and refused as archives are."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from archives import (
    MONUSEG_TEST,
    MONUSEG_TRAIN,
    SHARED,
    benchmark_entry,
    convert,
    names,
)
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from PIL import Image

from nnunetv2_selfreg.errors import SelfRegError


def one(folder: Path, pattern: str) -> Path:
    (path,) = (path for path in folder.rglob("*") if path.match(pattern))
    return path


def read(dataset: Path, part: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A picture, (rows, columns, 3), and its labels, (rows, columns), as nnU-Net reads them."""
    image, _ = NaturalImage2DIO().read_images([str(dataset / f"images{part}" / f"{name}_0000.png")])
    labels, _ = NaturalImage2DIO().read_seg(str(dataset / f"labels{part}" / f"{name}.png"))
    return image[:, 0].transpose(1, 2, 0), labels[0, 0]


def test_glas_takes_the_archive_s_names(archive, raw):
    source = archive("glas_passed_on")
    assert convert("glas", source) == 0
    dataset = raw / "Dataset227_GlaS"
    assert set(names(dataset / "labelsTr")) == {f"train_{number}.png" for number in range(1, 86)}
    test = [f"testA_{number}" for number in range(1, 61)] + [f"testB_{number}" for number in range(1, 21)]
    assert set(names(dataset / "labelsTs")) == {f"{name}.png" for name in test}
    entry = benchmark_entry(dataset)
    assert (entry["name"], entry["masks"], entry["complete"]) == ("glas", "masks as passed on", True)
    # two of each folder, in all three formats
    for part, name, original in [
        ("Tr", "train_1", "Train_Folder/img/1.tif"),
        ("Tr", "train_68", "Train_Folder/img/68.webp"),
        ("Tr", "train_69", "Val_Folder/img/69.png"),
        ("Tr", "train_85", "Val_Folder/img/85.tif"),
        ("Ts", "testA_60", "Test_Folder/img/60.png"),
        ("Ts", "testB_1", "Test_Folder/img/61.tif"),
        ("Ts", "testB_20", "Test_Folder/img/80.webp"),
    ]:
        path = source / "GlaS" / original
        image, labels = read(dataset, part, name)
        assert np.array_equal(image, np.asarray(Image.open(path)))
        mask = np.asarray(Image.open(path.parent.parent / "labelcol" / f"{path.stem}.png"))
        assert np.array_equal(labels, mask > 0)


@pytest.mark.parametrize("source", ["glas", "glas_passed_on"])
def test_data_sets_say_which_masks_they_hold(source, archive, raw):
    convert("glas", archive(source), "--size", 224)
    assert benchmark_entry(raw / "Dataset228_GlaS224")["masks"] == "masks resized by instance id"
    if source == "glas":
        convert("glas", archive(source))
        assert benchmark_entry(raw / "Dataset227_GlaS")["masks"] == "annotations of the archive"


def test_monuseg_is_sorted_by_name(archive, raw, capsys):
    assert convert("monuseg", archive("monuseg_passed_on")) == 0
    dataset = raw / "Dataset327_MoNuSeg"
    assert names(dataset / "labelsTr") == sorted(f"{name}.png" for name in MONUSEG_TRAIN)
    assert names(dataset / "labelsTs") == sorted(f"{name}.png" for name in MONUSEG_TEST)
    for part, name, index in (("Tr", MONUSEG_TRAIN[0], 0), ("Ts", MONUSEG_TEST[2], 32)):
        image, labels = read(dataset, part, name)
        assert image[500, 500].tolist() == [200, index, 150]
        assert labels.sum() == labels[20 : 24 + index, 10:15].sum() == (4 + index) * 5
    assert benchmark_entry(dataset)["masks"] == "masks as passed on"
    assert "TCGA-CH-5767-01Z-00-DX1, are other pictures than" in benchmark_entry(dataset)["protocol"]
    assert "30 training and 14 test cases" in capsys.readouterr().out


def test_a_packed_copy_is_resized_as_an_archive_is(archive, raw, tmp_path):
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", archive("monuseg_passed_on"))
    assert convert("monuseg", packed, "--size", 224) == 0
    # rows 20 to 23 and columns 10 to 14, as in test_benchmarks.py; this picture's mask ends at row 23
    _, labels = read(raw / "Dataset328_MoNuSeg224", "Tr", MONUSEG_TRAIN[0])
    assert np.argwhere(labels).tolist() == [[4, 2]]


@pytest.mark.parametrize("kind", ["glas", "monuseg"])
def test_both_layouts_at_once_are_refused(kind, archive, raw):
    with pytest.raises(SelfRegError, match=r": \w+ is there in two layouts, .* and Train_Folder/img/.*; give one"):
        convert(kind, archive(kind), archive(f"{kind}_passed_on"), "--allow-incomplete")
    assert names(raw) == []


def test_masks_without_pictures_are_not_passed_over_beside_an_archive(archive, copy_of, raw):
    source = copy_of("glas_passed_on")
    for folder in source.rglob("img"):
        shutil.rmtree(folder)
    with pytest.raises(SelfRegError, match="is there in two layouts"):
        convert("glas", archive("glas"), source)


def test_pictures_without_masks_are_no_copy(copy_of, raw):
    source = copy_of("monuseg_passed_on")
    for folder in source.rglob("labelcol"):
        shutil.rmtree(folder)
    with pytest.raises(SelfRegError, match=r"is not MoNuSeg's archive: no TCGA.*, nor Train_Folder/img/TCGA.* in it;"):
        convert("monuseg", source)


def test_masks_of_monuseg_have_two_values(copy_of, raw):
    source = copy_of("monuseg_passed_on")
    path = next(source.rglob("Test_Folder/labelcol/*.png"))
    Image.fromarray(np.arange(1000 * 1000, dtype=np.uint64).reshape(1000, 1000).astype(np.uint8) % 5).save(path)
    with pytest.raises(SelfRegError, match=r"1 with wrong label values: .* \(not a mask of two values"):
        convert("monuseg", source)


def test_masks_have_no_instance_ids(archive, raw):
    with pytest.raises(SelfRegError, match="--instances: the masks as passed on hold no instance ids; leave it out"):
        convert("monuseg", archive("monuseg_passed_on"), "--instances")
    assert names(raw) == []


def without(pattern):
    return lambda source: one(source, pattern).unlink()


def cut_off(pattern):
    def change(source):
        content = one(source, pattern).read_bytes()
        one(source, pattern).unlink()
        (source / "GlaS" / pattern).write_bytes(content[:-30])

    return change


def mask_of_another_size(source):
    path = source / "GlaS/Train_Folder/labelcol/7.png"
    path.unlink()
    Image.new("1", (12, 18)).save(path)


def a_number_too_many(source):
    shutil.copy(source / "GlaS/Test_Folder/img/80.webp", source / "GlaS/Test_Folder/img/81.webp")


@pytest.mark.parametrize(
    ("change", "said", "part", "case"),
    [
        (without("Test_Folder/labelcol/80.png"), "1 missing: Test_Folder/labelcol/80.", "test", "testB_20"),
        (without("Val_Folder/img/70.tif"), "1 missing: Val_Folder/img/70.", "train", "train_70"),
        (cut_off("Train_Folder/img/5.webp"), "1 unreadable: 5.webp (", "train", "train_5"),
        (cut_off("Train_Folder/img/4.tif"), "1 unreadable: 4.tif (", "train", "train_4"),
        (cut_off("Test_Folder/labelcol/3.png"), "1 unreadable: 3.png (", "test", "testA_3"),
        (mask_of_another_size, "1 mismatching: train_7 (image 18x12, annotation 12x18)", "train", "train_7"),
        (a_number_too_many, "1 extra: testB_21", "", ""),
    ],
)
def test_what_is_wrong_is_named_or_left_out_and_marked(change, said, part, case, copy_of, raw):
    source = copy_of("glas_passed_on")
    change(source)
    with pytest.raises(SelfRegError, match=re.escape(said)):
        convert("glas", source)
    assert names(raw) == []
    assert convert("glas", source, "--allow-incomplete") == 0
    entry = benchmark_entry(raw / "Dataset227_GlaS")
    assert entry["missing"] == {"train": [], "test": []} | ({part: [case]} if part else {})
    assert entry["complete"] is False


@pytest.mark.parametrize("copy", ["Train_Folder/img/1.png", "Val_Folder/img/1.tif"])
def test_a_picture_that_is_there_twice_is_always_refused(copy, copy_of, raw):
    source = copy_of("glas_passed_on")
    shutil.copy(source / "GlaS/Train_Folder/img/1.tif", source / "GlaS" / copy)
    with pytest.raises(SelfRegError, match=r"1 that could be the same case: .*; keep the right file of each case"):
        convert("glas", source, "--allow-incomplete")
    assert names(raw) == []


def test_monuseg_pictures_have_one_size(copy_of, raw):
    source = copy_of("monuseg_passed_on")
    for kind in ("img", "labelcol"):
        path = one(source, f"Test_Folder/{kind}/{MONUSEG_TEST[0]}.*")
        path.unlink()
        Image.new("RGB" if kind == "img" else "1", (999, 1000)).save(path)
    with pytest.raises(SelfRegError, match=rf"1 mismatching: {MONUSEG_TEST[0]}\.webp \(999x1000, not 1000x1000\)"):
        convert("monuseg", source)


@pytest.mark.slow
def test_the_real_copy_and_the_archive_s_polygons_agree_as_documented(raw):
    """`documentation/datasets.md` gives the same numbers with nnU-Net's own command."""
    for name in ("MoNuSeg", "MoNuSeg_masks"):
        if not (SHARED / name).is_dir():
            pytest.skip(f"{SHARED / name} is not there")
    convert("monuseg", SHARED / "MoNuSeg", "--allow-incomplete", "-d", 340)
    convert("monuseg", SHARED / "MoNuSeg_masks")
    found = {}
    for path in raw.glob("Dataset340_MoNuSeg/labels*/*.png"):
        polygons = np.asarray(Image.open(path)) > 0
        masks = np.asarray(Image.open(raw / "Dataset327_MoNuSeg" / path.parent.name / path.name)) > 0
        found[path.stem[:12]] = 2 * (polygons & masks).sum() / (polygons.sum() + masks.sum())
    assert found.pop("TCGA-21-5784") < 0.5  # another picture
    assert {name: round(float(dice), 3) for name, dice in found.items()} == {
        "TCGA-21-5786": 0.970,
        "TCGA-50-5931": 0.976,
        "TCGA-44-2665": 0.985,
        "TCGA-2Z-A9J9": 0.994,
    }
