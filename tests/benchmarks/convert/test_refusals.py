"""What is missing, too much or damaged is named and refused, or left out and marked."""

import os
import re
import shutil
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from archives import MONUSEG_TRAIN, aperio, benchmark_entry, convert, names, snapshot, volume, write_volume
from PIL import Image

from nnunetv2_selfreg.benchmarks.registry import BENCHMARKS
from nnunetv2_selfreg.errors import SelfRegError

NAMES = ["acdc", "synapse", "glas", "monuseg", "digestpath", "ebhi"]


def one(folder: Path, pattern: str) -> Path:
    (path,) = folder.rglob(pattern)
    return path


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def check(kind: str, source: Path, raw: Path, said: str, case: str, part: str) -> None:
    """Refused in one line with nothing left; then left out and marked when that is allowed."""
    with pytest.raises(SelfRegError, match=re.escape(said)) as caught:
        convert(kind, source)
    assert "\n" not in str(caught.value)
    assert "--allow-incomplete" in str(caught.value)
    assert names(raw) == []
    assert convert(kind, source, "--allow-incomplete") == 0
    (dataset,) = raw.iterdir()
    assert benchmark_entry(dataset)["complete"] is False
    assert benchmark_entry(dataset)["missing"] == {"train": [], "test": []} | ({part: [case]} if case else {})
    if case:
        assert not [path for path in dataset.rglob("*") if path.name.startswith((f"{case}_0000", f"{case}."))]


@pytest.mark.parametrize(
    ("kind", "pattern", "said", "case", "part"),
    [
        (
            "acdc",
            "patient071_frame01_gt.nii.gz",
            "1 missing: patient071_frame01_gt.nii.gz",
            "patient071_frame01",
            "train",
        ),
        pytest.param(
            "acdc",
            "patient002_frame10.nii.gz",
            "1 missing: patient002_frame10.nii.gz",
            "patient002_frame10",
            "test",
            marks=pytest.mark.longer,
        ),
        ("synapse", "label0040.nii.gz", "1 missing: label0040.nii.gz", "img0040", "train"),
        ("synapse", "img0001.nii.gz", "1 missing: img0001.nii.gz", "img0001", "test"),
        ("glas", "testB_20_anno.bmp", "1 missing: testB_20_anno.bmp", "testB_20", "test"),
        ("glas", "train_7.bmp", "1 missing: train_7.bmp", "train_7", "train"),
    ],
)
def test_a_missing_file(kind, pattern, said, case, part, copy_of, raw):
    source = copy_of(kind)
    one(source, pattern).unlink()
    check(kind, source, raw, said, case, part)


def test_a_missing_patient(copy_of, raw):
    source = copy_of("acdc")
    shutil.rmtree(one(source, "patient095"))
    check("acdc", source, raw, "1 missing: patient095;", "patient095", "test")


@pytest.mark.longer
def test_a_missing_info(copy_of, raw):
    source = copy_of("acdc")
    one(source, "patient004").joinpath("Info.cfg").unlink()
    check("acdc", source, raw, "1 missing: patient004/Info.cfg", "patient004", "train")
    assert not list(raw.rglob("patient004*"))


@pytest.mark.parametrize(
    "content",
    [
        b"ED: 1\nES: 12x\n",
        *(
            pytest.param(each, marks=pytest.mark.longer)
            for each in (b"ED: 1\nGroup: DCM\n", b"ED: 1\nED: 12\n", b"ED: 1\nES: 1")
        ),
    ],
)
def test_an_info_that_does_not_name_both_frames(content, copy_of, raw):
    source = copy_of("acdc")
    replace(one(source, "patient004") / "Info.cfg", content)
    said = "1 mismatching: patient004/Info.cfg (does not name ED and ES)"
    check("acdc", source, raw, said, "patient004", "train")
    assert not list(raw.rglob("patient004*"))


def test_missing_monuseg_files(copy_of, raw):
    source = copy_of("monuseg")
    one(source / "MoNuSeg 2018 Training Data", f"{MONUSEG_TRAIN[0]}.xml").unlink()
    check("monuseg", source, raw, f"1 missing: {MONUSEG_TRAIN[0]}.xml", MONUSEG_TRAIN[0], "train")


def test_ten_are_named_and_the_others_counted(copy_of, raw):
    source = copy_of("glas")
    for number in range(1, 13):
        one(source, f"testA_{number}.bmp").unlink()
        one(source, f"testA_{number}_anno.bmp").unlink()
    with pytest.raises(SelfRegError, match=r"12 missing: testA_1, .*, testA_10 and 2 more;"):
        convert("glas", source)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("digestpath", 660), ("ebhi", 795)])
def test_pictures_missing_from_a_set_without_published_names(kind, count, copy_of, raw):
    source = copy_of(kind)
    for path in source.rglob("2019_00004_1-1*" if kind == "digestpath" else "GT2012007-1-400-001.png"):
        path.unlink()
    said = f"1 of {count} pictures (their names are not published)"
    with pytest.raises(SelfRegError, match=re.escape(f"1 missing: {said};")):
        convert(kind, source)
    convert(kind, source, "--allow-incomplete")
    (dataset,) = raw.iterdir()
    assert benchmark_entry(dataset)["missing"] == {"train": [], "test": [], "train or test": [said]}


@pytest.mark.parametrize("packed", [False, True])
def test_a_positive_without_mask_is_no_negative(packed, copy_of, raw, tmp_path):
    """In a folder that is named after them, or in such an archive without folders."""
    source = copy_of("digestpath")
    mask = one(source, "2019_00003_1-1_mask.jpg")
    mask.unlink()
    if packed:
        packed = Path(shutil.make_archive(str(tmp_path / "tissue-train-pos-v1"), "zip", mask.parent))
        shutil.rmtree(mask.parent)
        packed.rename(source / packed.name)
        for folder in [path for path in source.iterdir() if path.is_dir()]:
            shutil.make_archive(str(source / folder.name), "zip", folder)
            shutil.rmtree(folder)
    part = "test" if 3 in np.random.default_rng(0).permutation(660)[:132] else "train"
    check("digestpath", source, raw, "1 missing: 2019_00003_1-1_mask.jpg", "2019_00003_1-1", part)


def test_a_mask_of_another_ending_is_a_mask(copy_of, raw):
    source = copy_of("digestpath")
    mask = one(source, "2019_00003_1-1_mask.jpg")
    Image.open(mask).save(mask.with_suffix(".png"))
    mask.unlink()
    image = one(source, "2019_00002_1-1.jpg")
    image.rename(image.with_suffix(".JPG"))
    convert("digestpath", source)
    labels = {
        path.name for part in ("labelsTr", "labelsTs") for path in (raw / "Dataset427_DigestPath" / part).iterdir()
    }
    assert {f"2019_0000{number}_1-1_y00000_x00000.png" for number in (2, 3)} <= labels


def test_an_archive_beside_unpacked_files_is_named(copy_of, raw, tmp_path):
    source = copy_of("glas")
    (tmp_path / "rest").mkdir()
    for name in ("testA_1.bmp", "testA_1_anno.bmp"):
        one(source, name).rename(tmp_path / "rest" / name)
    shutil.make_archive(str(source / "rest"), "zip", tmp_path / "rest")
    said = "1 missing: testA_1; not read, as it lies beside unpacked files: rest.zip (give it as a SOURCE)"
    with pytest.raises(SelfRegError, match=re.escape(said)):
        convert("glas", source)
    one(source, "testB_1_anno.bmp").unlink()
    with pytest.raises(SelfRegError, match=r"1 missing: testB_1_anno\.bmp; mend this"):  # what is read is not named
        convert("glas", source, source / "rest.zip")
    convert("glas", source, source / "rest.zip", "--allow-incomplete")
    assert benchmark_entry(raw / "Dataset227_GlaS")["missing"]["test"] == ["testB_1"]


@pytest.mark.parametrize(
    ("folder", "negative"),
    [
        ("tissue-train-neg", True),
        ("pos_neg/tissue-train-neg", True),
        ("0_tissue-train-pos-v1.zip", False),
        ("posv1/images", False),
        ("repos/composite", True),
        ("images", True),
    ],
)
def test_where_a_picture_of_digestpath_may_have_no_mask(folder, negative):
    assert BENCHMARKS["digestpath"].unlabelled(Path("/data", folder, "x.jpg")) == negative


@pytest.mark.parametrize(
    ("kind", "pattern", "copy"),
    [
        ("glas", "train_85.bmp", "train_86.bmp"),
        pytest.param("acdc", "patient001_frame01_gt.nii.gz", "patient001_frame02_gt.nii.gz", marks=pytest.mark.longer),
    ],
)
def test_an_extra_file(kind, pattern, copy, copy_of, raw):
    source = copy_of(kind)
    path = one(source, pattern)
    shutil.copy(path, path.with_name(copy))
    check(kind, source, raw, "1 extra: ", "", "train")


@pytest.mark.parametrize("allow", [[], ["--allow-incomplete"]])
@pytest.mark.parametrize(
    ("kind", "pattern", "copy"),
    [
        ("glas", "train_1.bmp", "../aaa/train_1.png"),
        ("glas", "testA_2_anno.bmp", "testA_2_anno.png"),
        ("acdc", "patient001_frame01.nii.gz", "patient001_frame01.nii"),
        ("acdc", "patient001/Info.cfg", "../../patient001/Info.cfg"),
        ("monuseg", f"{MONUSEG_TRAIN[0]}.xml", f"zzz/{MONUSEG_TRAIN[0]}.xml"),
    ],
)
def test_two_files_that_could_be_the_same_case_are_always_refused_by_name(kind, pattern, copy, allow, copy_of, raw):
    source = copy_of(kind)
    path = next(
        path for path in sorted(source.rglob(Path(pattern).name)) if path.match(pattern) and "._" not in str(path)
    )
    (path.parent / copy).parent.mkdir(exist_ok=True)
    shutil.copy(path, path.parent / copy)
    with pytest.raises(SelfRegError) as caught:
        convert(kind, source, *allow)
    first, second = sorted([path, (path.parent / copy).resolve()])
    said = " and ".join(f"{kind}/{file.relative_to(source)}" for file in (first, second))
    assert f"1 that could be the same case: {said}; " in str(caught.value)
    assert str(caught.value).endswith("; keep the right file of each case")
    assert names(raw) == []


def test_a_copy_of_an_archive_beside_it_is_refused(archive, raw, tmp_path):
    copy = shutil.copytree(archive("glas"), tmp_path / "copy")
    with pytest.raises(SelfRegError, match=r"330 that could be the same case: .* and 320 more; keep the right"):
        convert("glas", archive("glas"), copy)
    assert names(raw) == []


def test_all_kinds_of_problems_are_said_at_once(copy_of, raw):
    source = copy_of("glas")
    one(source, "train_1.bmp").unlink()
    shutil.copy(one(source, "train_2.bmp"), one(source, "train_2.bmp").with_name("train_99.bmp"))
    replace(one(source, "testA_3.bmp"), b"BM no more")
    path = one(source, "train_4_anno.bmp")
    path.unlink()
    Image.new("L", (12, 18)).save(path)
    replace(one(source, "train_5_anno.bmp"), one(source, "train_5.bmp").read_bytes())
    with pytest.raises(SelfRegError) as caught:
        convert("glas", source)
    for said in (
        "1 missing: train_1.bmp; ",
        "1 extra: train_99; ",
        "1 unreadable: testA_3.bmp (",
        "1 mismatching: train_4 (",
        "1 with wrong label values: train_5_anno.bmp (",
        "; mend this, or add --allow-incomplete",
    ):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("there", "lacking"), [("train_7.bmp", "train_7_anno.png"), ("train_7_anno.bmp", "train_7.png")]
)
def test_a_missing_file_is_asked_for_with_the_ending_of_the_other(there, lacking, copy_of, raw):
    source = copy_of("glas")
    for path in [one(source, "train_7.bmp"), one(source, "train_7_anno.bmp")]:
        if path.name == there:
            path.rename(path.with_suffix(".png"))
        else:
            path.unlink()
    with pytest.raises(SelfRegError, match=f"1 missing: {lacking};"):
        convert("glas", source)


@pytest.mark.parametrize(
    ("kind", "pattern", "cut"),
    [
        ("acdc", "patient001_frame01.nii.gz", 30),
        ("acdc", "patient001_frame01_gt.nii.gz", 5),
        ("synapse", "img0005.nii.gz", 30),
        ("synapse", "label0005.nii.gz", 30),
        ("glas", "train_3.bmp", 30),
        ("glas", "train_3_anno.bmp", 30),
        ("monuseg", f"{MONUSEG_TRAIN[0]}.tif", 30),
        ("monuseg", f"{MONUSEG_TRAIN[0]}.xml", 30),
    ],
)
def test_a_file_in_an_archive_that_was_cut_off(kind, pattern, cut, archive, raw, tmp_path):
    """The archive itself is whole: the file was cut off before it was packed."""
    path = Path(shutil.copytree(archive(kind), tmp_path / "copy"))
    (file,) = (file for file in path.rglob(pattern) if "__MACOSX" not in file.parts)
    file.write_bytes(file.read_bytes()[:-cut])
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", path)
    with pytest.raises(SelfRegError, match=re.escape(f"1 unreadable: {pattern} (")):
        convert(kind, packed)
    assert names(raw) == []


@pytest.mark.parametrize(
    ("kind", "pattern", "count"), [("digestpath", "2019_00659_1-1.jpg", 660), ("ebhi", "GT2012007-1-400-001.png", 795)]
)
def test_too_many_pictures_for_a_set_without_published_names(kind, pattern, count, copy_of, raw):
    source = copy_of(kind)
    for path in list(source.rglob(pattern)):
        shutil.copy(path, path.with_stem("one_more"))
    with pytest.raises(SelfRegError, match=rf"1 extra: 1 pictures over {count};"):
        convert(kind, source)


def test_more_monuseg_pictures_than_the_archive_has(copy_of, raw):
    source = copy_of("monuseg")
    aperio(source / "TCGA-XX-0008-01Z-00-DX1.xml", [])
    check("monuseg", source, raw, "8 extra: TCGA-XX-0000-01Z-00-DX1, ", "", "train")


def test_unreadable_volumes(copy_of, raw):
    source = copy_of("acdc")
    path = one(source, "patient001_frame01.nii.gz")
    replace(path, path.read_bytes()[:200])
    check("acdc", source, raw, "1 unreadable: patient001_frame01.nii.gz", "patient001_frame01", "train")


def test_unreadable_pictures(copy_of, raw):
    source = copy_of("glas")
    replace(one(source, "testA_3.bmp"), b"BM no more")
    check("glas", source, raw, "1 unreadable: testA_3.bmp", "testA_3", "test")


def test_unreadable_polygons(copy_of, raw):
    source = copy_of("monuseg")
    replace(one(source / "MoNuSeg 2018 Training Data", f"{MONUSEG_TRAIN[3]}.xml"), b"<Annotations>")
    check("monuseg", source, raw, f"1 unreadable: {MONUSEG_TRAIN[3]}.xml", MONUSEG_TRAIN[3], "train")


@pytest.mark.slow
def test_pictures_of_another_size_than_the_benchmark_s(copy_of, raw):
    source = copy_of("ebhi")
    for path in list(source.rglob("GT2012007-1-400-001.png")):
        path.unlink()
        Image.new("RGB" if path.parent.name == "image" else "L", (224, 223)).save(path)
    part = "test" if 7 in np.random.default_rng(0).permutation(795)[:159] else "train"
    said = "1 mismatching: GT2012007-1-400-001.png (224x223, not 224x224)"
    check("ebhi", source, raw, said, "GT2012007-1-400-001", part)


@pytest.mark.slow
def test_monuseg_pictures_of_another_size(copy_of, raw):
    source = copy_of("monuseg")
    path = one(source / "MoNuSeg 2018 Training Data", f"{MONUSEG_TRAIN[5]}.tif")
    path.unlink()
    Image.new("RGB", (1000, 999)).save(path)
    said = f"1 mismatching: {MONUSEG_TRAIN[5]}.tif (1000x999, not 1000x1000)"
    check("monuseg", source, raw, said, MONUSEG_TRAIN[5], "train")


def test_pictures_and_masks_of_other_sizes(copy_of, raw):
    source = copy_of("glas")
    path = one(source, "train_1_anno.bmp")
    path.unlink()
    Image.new("L", (12, 18)).save(path)
    check("glas", source, raw, "1 mismatching: train_1 (image 18x12, annotation 12x18)", "train_1", "train")


@pytest.mark.parametrize(
    ("kind", "name", "values"), [("acdc", "patient001_frame01", "4"), ("synapse", "label0001", "14, 15")]
)
def test_wrong_label_values_of_volumes(kind, name, values, copy_of, raw):
    source = copy_of(kind)
    path = one(source, f"{name}{'_gt' if kind == 'acdc' else ''}.nii.gz")
    path.unlink()
    write_volume(path, volume(1, 5 if kind == "acdc" else 16)[1])
    case, part = (name, "train") if kind == "acdc" else ("img0001", "test")
    check(kind, source, raw, f"1 with wrong label values: {path.name} ({values})", case, part)


def test_a_picture_in_place_of_a_mask(copy_of, raw):
    source = copy_of("glas")
    path = one(source, "train_2_anno.bmp")
    replace(path, one(source, "train_2.bmp").read_bytes())
    check("glas", source, raw, "1 with wrong label values: train_2_anno.bmp", "train_2", "train")


@pytest.mark.parametrize(("asked", "given"), list(permutations(NAMES, 2)))
def test_another_archive_is_always_refused(asked, given, archive, raw):
    with pytest.raises(SelfRegError, match=r"is not .*: no .* in it"):
        convert(asked, archive(given), "--allow-incomplete")
    assert names(raw) == []


def test_the_test_patients_of_the_challenge_are_not_the_archive(archive, raw):
    with pytest.raises(
        SelfRegError, match=r"is not ACDC's archive: no training/patient001/patient001_frame01\.nii\.gz in it"
    ):
        convert("acdc", archive("acdc") / "database" / "testing", "--allow-incomplete")


def test_nothing_to_train_on_is_refused(archive, raw, tmp_path):
    os.symlink(one(archive("acdc"), "patient002"), tmp_path / "patient002")
    (tmp_path / "source").mkdir()
    (tmp_path / "patient002").rename(tmp_path / "source" / "patient002")
    with pytest.raises(SelfRegError, match="holds no training case"):
        convert("acdc", tmp_path / "source", "--allow-incomplete")
    assert names(raw) == []


def test_a_few_patients_get_as_many_folds(archive, raw, tmp_path):
    (tmp_path / "source").mkdir()
    for number in (1, 4, 2):
        (tmp_path / "source" / f"patient{number:03d}").symlink_to(one(archive("acdc"), f"patient{number:03d}"))
    convert("acdc", tmp_path / "source", "--allow-incomplete")
    dataset = raw / "Dataset027_ACDC"
    assert len(names(dataset / "imagesTr")) == 4
    assert len(names(dataset / "imagesTs")) == 2
    splits = (dataset / "splits_final.json").read_text()
    assert splits.count("train") == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["acdc", ".", "--size", "224"], "acdc is used at its own size"),
        (["glas", ".", "--instances"], "only monuseg has instance ids"),
        (["monuseg", ".", "--instances", "--size", "224"], "at its own size"),
    ],
)
def test_options_that_do_not_fit(arguments, said, raw):
    with pytest.raises(SelfRegError, match=said):
        convert(*arguments)


def test_sources_are_only_read(copy_of, raw):
    source = copy_of("glas")
    before = snapshot(source)
    convert("glas", source)
    assert snapshot(source) == before
