"""Every converter on a complete generated archive, read back with nnU-Net's own readers."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from archives import (
    ACDC_TEST,
    MONUSEG_OTHERS,
    MONUSEG_TEST,
    MONUSEG_TRAIN,
    SYNAPSE_TEST,
    SYNAPSE_TRAIN,
    benchmark_entry,
    convert,
    large_picture,
    names,
    volume,
)
from nnunetv2.imageio.natural_image_reader_writer import NaturalImage2DIO
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from PIL import Image

from nnunetv2_selfreg.benchmarks.digestpath import patches


def read(dataset: Path, part: str, name: str, ending: str) -> tuple[np.ndarray, np.ndarray, dict]:
    reader = SimpleITKIO() if ending == ".nii.gz" else NaturalImage2DIO()
    image, properties = reader.read_images([str(dataset / f"images{part}" / f"{name}_0000{ending}")])
    labels, of_labels = reader.read_seg(str(dataset / f"labels{part}" / f"{name}{ending}"))
    assert of_labels == properties
    return image, labels[0], properties


def cases(dataset: Path, part: str, ending: str) -> list[str]:
    labels = [name.removesuffix(ending) for name in names(dataset / f"labels{part}")]
    assert names(dataset / f"images{part}") == sorted(f"{name}_0000{ending}" for name in labels)
    return labels


def test_acdc(archive, raw, capsys):
    assert convert("acdc", archive("acdc")) == 0
    dataset = raw / "Dataset027_ACDC"
    test = {name for name in cases(dataset, "Ts", ".nii.gz")}
    train = cases(dataset, "Tr", ".nii.gz")
    assert {name[7:10] for name in test} == set(ACDC_TEST)
    assert {name[7:10] for name in train} == {f"{number:03d}" for number in range(1, 101)} - set(ACDC_TEST)
    assert (len(train), len(test)) == (160, 40)
    for part, name in (("Tr", "patient001_frame09"), ("Ts", "patient095_frame01")):
        image, labels, properties = read(dataset, part, name, ".nii.gz")
        expected = volume(1000 * int(name[7:10]) + int(name[-2:]), 4)
        assert np.array_equal(image[0], expected[0])
        assert np.array_equal(labels, expected[1])
        assert properties["spacing"] == pytest.approx([10, 1.5, 1.4])
        assert properties["sitk_stuff"]["origin"] == pytest.approx((3, -4, 5))
    assert benchmark_entry(dataset)["complete"] is True
    assert benchmark_entry(dataset)["missing"] == {"train": [], "test": []}
    said = capsys.readouterr().out
    assert "160 training and 40 test cases" in said
    assert "left out 2 patients that are no part of this protocol: patient101, patient150\n" in said
    assert "nnUNetv2_plan_and_preprocess -d 27 -c 2d --verify_dataset_integrity" in said


def test_acdc_folds_keep_a_patient_together(archive, raw):
    from sklearn.model_selection import KFold

    convert("acdc", archive("acdc"))
    dataset = raw / "Dataset027_ACDC"
    splits = json.loads((dataset / "splits_final.json").read_text())
    patients = sorted(f"patient{number:03d}" for number in range(1, 101) if f"{number:03d}" not in ACDC_TEST)
    expected = [
        {patients[index] for index in held_out}
        for _, held_out in KFold(5, shuffle=True, random_state=12345).split(patients)
    ]
    assert [{case[:10] for case in fold["val"]} for fold in splits] == expected
    train = cases(dataset, "Tr", ".nii.gz")
    for fold in splits:
        assert sorted([*fold["train"], *fold["val"]]) == train
        assert not {case[:10] for case in fold["train"]} & {case[:10] for case in fold["val"]}
    preprocessed = raw.parent / "nnUNet_preprocessed" / "Dataset027_ACDC" / "splits_final.json"
    assert preprocessed.read_bytes() == (dataset / "splits_final.json").read_bytes()


def test_folds_are_told_about_when_there_is_no_preprocessed_folder(archive, raw, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_preprocessed")
    convert("acdc", archive("acdc"), "-d", "7")
    said = capsys.readouterr().out
    assert f"copy {raw / 'Dataset007_ACDC' / 'splits_final.json'} to nnUNet_preprocessed/Dataset007_ACDC/" in said
    assert "nnUNetv2_plan_and_preprocess -d 7 " in said


def test_synapse(archive, raw, capsys):
    assert convert("synapse", archive("synapse")) == 0
    dataset = raw / "Dataset127_Synapse"
    assert cases(dataset, "Tr", ".nii.gz") == [f"img00{number}" for number in SYNAPSE_TRAIN]
    assert cases(dataset, "Ts", ".nii.gz") == [f"img00{number}" for number in SYNAPSE_TEST]
    image, labels, _ = read(dataset, "Ts", "img0008", ".nii.gz")
    expected, btcv = volume(8, 14)
    assert np.array_equal(image[0], expected)
    # the organ's name as BTCV and as the benchmark number it
    organs = {8: "aorta", 4: "gallbladder", 3: "kidney L", 2: "kidney R", 6: "liver", 11: "pancreas"}
    organs |= {1: "spleen", 7: "stomach"}
    content = json.loads((dataset / "dataset.json").read_text())
    for value in range(14):
        assert set(labels[btcv == value]) == {content["labels"][organs.get(value, "background")]}
    assert content["labels"]["stomach"] == 8
    assert content["channel_names"] == {"0": "CT"}
    assert "left out 1 patients that are no part of this protocol: img0061\n" in capsys.readouterr().out
    assert not (dataset / "splits_final.json").exists()


def test_glas(archive, raw):
    assert convert("glas", archive("glas")) == 0
    dataset = raw / "Dataset227_GlaS"
    assert set(cases(dataset, "Tr", ".png")) == {f"train_{number}" for number in range(1, 86)}
    assert set(cases(dataset, "Ts", ".png")) == {f"testA_{number}" for number in range(1, 61)} | {
        f"testB_{number}" for number in range(1, 21)
    }
    flat = next(archive("glas").iterdir())
    for part, name in (("Tr", "train_85"), ("Ts", "testB_20")):
        image, labels, _ = read(dataset, part, name, ".png")
        assert np.array_equal(image[:, 0].transpose(1, 2, 0), np.asarray(Image.open(flat / f"{name}.bmp")))
        assert np.array_equal(labels[0], np.asarray(Image.open(flat / f"{name}_anno.bmp")) > 0)
    assert json.loads((dataset / "dataset.json").read_text())["channel_names"] == {"0": "R", "1": "G", "2": "B"}
    assert benchmark_entry(dataset)["size"] is None


def test_glas_as_the_protocol_trains_it(archive, raw, capsys):
    assert convert("glas", archive("glas"), "--size", "224") == 0
    dataset = raw / "Dataset228_GlaS224"
    image, labels, _ = read(dataset, "Ts", "testA_60", ".png")
    assert image.shape == (3, 1, 224, 224)
    assert set(np.unique(labels)) == {0, 1}
    assert benchmark_entry(dataset)["size"] == 224
    assert "resized to 224x224" in benchmark_entry(dataset)["protocol"]
    assert "-d 228 " in capsys.readouterr().out


def test_monuseg(archive, raw, capsys):
    assert convert("monuseg", archive("monuseg"), "--instances") == 0
    dataset = raw / "Dataset327_MoNuSeg"
    assert cases(dataset, "Tr", ".png") == sorted(MONUSEG_TRAIN)
    assert cases(dataset, "Ts", ".png") == sorted(MONUSEG_TEST)
    expected = np.zeros((1000, 1000), np.uint16)
    expected[20:24, 10:15] = 1
    # (-3.5, 990.25), (6.1, 990.25), (-3.5, 1002): centres below the slanted edge
    for row in range(990, 1000):
        for column in range(6):
            if row + 0.5 >= 990.25 and (column + 0.5 + 3.5) / 9.6 + (row + 0.5 - 990.25) / 11.75 <= 1:
                expected[row, column] = 2
    # (100, 100), (110, 110), (110, 100), (100, 110): the triangles left and right of the crossing, with the diagonals
    for row in range(100, 110):
        for column in range(100, 110):
            if abs(column + 0.5 - 105) >= abs(row + 0.5 - 105):
                expected[row, column] = 3
    _, labels, _ = read(dataset, "Ts", MONUSEG_TEST[0], ".png")
    instances = np.asarray(Image.open(dataset / "instancesTs" / f"{MONUSEG_TEST[0]}.png"))
    assert instances.dtype == np.uint16
    assert np.array_equal(instances, expected)
    assert np.array_equal(labels[0], expected > 0)
    said = capsys.readouterr().out
    assert "44 polygons of fewer than 3 corners skipped" in said
    assert f"left out 7 images that are no part of this protocol: {MONUSEG_OTHERS[0]}" in said


def test_monuseg_from_two_sources_at_224(archive, raw):
    training, test = (archive("monuseg") / name for name in ("MoNuSeg 2018 Training Data", "MoNuSegTestData"))
    assert convert("monuseg", training, test, "--size", 224) == 0
    dataset = raw / "Dataset328_MoNuSeg224"
    assert len(names(dataset / "imagesTr")) == 30
    image, labels, _ = read(dataset, "Ts", MONUSEG_TEST[3], ".png")
    assert image.shape == (3, 1, 224, 224)
    # Foreground are rows 20 to 23 and columns 10 to 14 of 1000. Output row r looks at rows floor and floor + 1 of
    # (r + 0.5) * 1000 / 224 - 0.5: 3 at 15, 4 at 19.6, 5 at 24.1; columns 2 at 10.7, 3 at 15.1.
    assert np.argwhere(labels[0, :10, :10]).tolist() == [[4, 2]]


def test_digestpath(archive, raw, capsys):
    assert convert("digestpath", archive("digestpath")) == 0
    dataset = raw / "Dataset427_DigestPath"
    everything = sorted(path.stem for path in archive("digestpath").rglob("*.jpg") if not path.stem.endswith("_mask"))
    order = np.random.default_rng(0).permutation(660)[:132]
    test = {everything[index] for index in order}
    assert set(cases(dataset, "TsWhole", ".png")) == test
    assert not (dataset / "imagesTrWhole").exists()
    patches = {"Tr": cases(dataset, "Tr", ".png"), "Ts": cases(dataset, "Ts", ".png")}
    for number in range(5):
        name = f"2019_{number:05d}_1-1"
        part = "Ts" if name in test else "Tr"
        # of the patches at columns 0 and 512 only the first holds lesion
        assert [patch for patch in patches[part] if patch.startswith(name)] == [f"{name}_y00000_x00000"]
        image, labels, _ = read(dataset, part, f"{name}_y00000_x00000", ".png")
        difference = image[:, 0].transpose(1, 2, 0) - large_picture(number, 1536, 2100)[:, :1536]
        assert np.abs(difference).mean() < 12  # JPEG
        assert abs(labels.sum() - 144) <= 24
        assert labels[0, :11, :11].all()
    assert sum(map(len, patches.values())) == 5
    assert "pictures with a mask gave no patch" in capsys.readouterr().out
    assert "seed 0" in benchmark_entry(dataset)["protocol"]


@pytest.mark.parametrize(
    ("low", "high", "lesion", "kept"),
    [  # rows in turn low and high: the mean is the middle of both, the deviation half of their distance
        (90, 110, 100, True),
        (91, 109, 100, False),
        (205, 255, 100, True),
        (206, 255, 100, False),
        (90, 110, 99, False),
    ],
)
def test_digestpath_patches_are_kept_by_contrast_brightness_and_lesion(low, high, lesion, kept):
    image, mask = np.full((1536, 1536, 3), low, np.uint8), np.zeros((1536, 1536), bool)
    image[::2] = high
    mask.flat[:lesion] = True
    assert list(patches(image, mask)) == ([(0, 0)] if kept else [])


def test_digestpath_patches_lie_fully_inside_at_every_stride():
    image, mask = np.full((2047, 2560, 3), 90, np.uint8), np.ones((2047, 2560), bool)
    image[::2] = 110
    assert list(patches(image, mask)) == [(0, 0), (0, 512), (0, 1024)]


def test_ebhi(archive, raw):
    assert convert("ebhi", archive("ebhi")) == 0
    dataset = raw / "Dataset527_EBHI"
    everything = sorted(f"GT2012{number:03d}-1-400-001" for number in range(795))
    test = {everything[index] for index in np.random.default_rng(0).permutation(795)[:159]}
    assert set(cases(dataset, "Ts", ".png")) == test
    assert set(cases(dataset, "Tr", ".png")) == set(everything) - test
    name = cases(dataset, "Tr", ".png")[7]
    number = int(name[6:9])
    image, labels, _ = read(dataset, "Tr", name, ".png")
    assert image[:, 0, 0, 0].tolist() == [number % 256, number // 256, 90]
    assert labels.sum() == (10 + number % 100) * 50


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["acdc", "synapse", "glas", "monuseg", "digestpath", "ebhi"])
def test_nnunet_finds_nothing_wrong(kind, archive, raw, capfd):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    convert(kind, archive(kind))
    (dataset,) = (raw / name for name in os.listdir(raw))
    verify_dataset_integrity(str(dataset), num_processes=1)
    said = capfd.readouterr().out
    assert "verify_dataset_integrity Done" in said
    assert "Warning" not in said
