"""A data set is there whole or not at all, and none is replaced unasked."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from archives import convert, names, snapshot
from nnunetv2.utilities import dataset_name_id_conversion

from nnunetv2_selfreg.benchmarks import pictures
from nnunetv2_selfreg.errors import SelfRegError


def refusal(*arguments: object) -> str:
    with pytest.raises(SelfRegError) as caught:
        convert(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def start(*arguments: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "nnunetv2_selfreg.cli", "convert", *map(str, arguments)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job ignores SIGINT, and its children with it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_cases(process: "subprocess.Popen[str]", raw: Path, count: int) -> None:
    begin = time.monotonic()
    while len(list(raw.glob(".*/Dataset027_ACDC/imagesTr/*"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - begin < 60
        time.sleep(0.002)


def test_a_killed_conversion_leaves_nothing_that_nnunet_takes_for_a_data_set(archive, raw, monkeypatch):
    process = start("acdc", archive("acdc"))
    wait_for_cases(process, raw, 5)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    (left,) = raw.iterdir()
    assert left.name.startswith(".")

    listed = subprocess.run(
        [
            sys.executable,
            "-c",
            f"from {dataset_name_id_conversion.__name__} import find_candidate_datasets as f; print(list(f(27)))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.strip().splitlines()[-1] == "[]"

    (left / "Dataset027_ACDC" / "imagesTr" / "left over").write_text("by the killed one")
    assert convert("acdc", archive("acdc")) == 0
    assert names(raw) == ["Dataset027_ACDC"]
    killed = snapshot(raw / "Dataset027_ACDC")
    shutil.rmtree(raw / "Dataset027_ACDC")
    convert("acdc", archive("acdc"))
    assert snapshot(raw / "Dataset027_ACDC") == killed


def test_an_interrupted_conversion_leaves_nothing(archive, raw):
    process = start("acdc", archive("acdc"))
    wait_for_cases(process, raw, 5)
    process.send_signal(signal.SIGINT)
    dropped, said = False, ""
    for line in process.stderr:
        if line.startswith("Exception ignored"):  # by Python, where it fell into a destructor: press the keys again
            dropped = True
            process.send_signal(signal.SIGINT)
        elif line.startswith("KeyboardInterrupt") and dropped:  # the last line of Python's report
            dropped = False
        elif not dropped:
            said += line
    process.communicate()
    assert (process.returncode, said) == (130, "nnUNetv2_selfreg convert: interrupted\n")
    assert list(raw.glob("*")) == []


def test_a_finished_data_set_is_replaced_only_when_asked(archive, raw, monkeypatch):
    convert("glas", archive("glas"))
    dataset = raw / "Dataset227_GlaS"
    (dataset / "mine").write_text("kept until the new one is whole")
    before = snapshot(dataset)
    assert refusal("glas", archive("glas")) == (
        f"{dataset} exists already; replace it with --overwrite, or choose another id with -d"
    )

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", str(raw))

    with monkeypatch.context() as broken:
        broken.setattr(pictures, "write_pair", fail)
        said = refusal("glas", archive("glas"), "--overwrite")
    assert said == f"{dataset} cannot be written: No space left on device; nothing was left behind"
    assert snapshot(dataset) == before
    assert names(raw) == ["Dataset227_GlaS"]

    there = raw.parent / "nnUNet_preprocessed" / "Dataset227_GlaS"
    there.mkdir(parents=True)
    for name in ("splits_final.json", "dataset_fingerprint.json", "nnUNetPlans.json"):
        (there / name).write_text("of the data set before")
    convert("glas", archive("glas"), "--overwrite")
    assert names(raw) == ["Dataset227_GlaS"]
    assert names(there) == ["nnUNetPlans.json"]
    del before["mine"]
    assert snapshot(dataset) == before


@pytest.mark.parametrize("place", ["", "Warwick_QU"])
def test_an_archive_in_the_data_set_that_it_would_replace_stays(place, archive, raw):
    source = raw / "Dataset227_GlaS" / place
    shutil.copytree(archive("glas"), source)
    before = snapshot(raw)
    said = f"{source} lies in {raw / 'Dataset227_GlaS'}, which this data set would replace; move it out of there"
    assert refusal("glas", source, "--overwrite") == said
    assert snapshot(raw) == before


def test_files_of_the_data_set_that_they_would_replace_stay(archive, raw):
    """Found through the folder above, or through a link."""
    inside = raw / "Dataset227_GlaS" / "Warwick_QU"
    shutil.copytree(archive("glas"), inside)
    before = snapshot(raw)
    link = raw.parent / "link"
    link.symlink_to(inside)
    for source in (raw, link):
        assert "lies in " in refusal("glas", source, "--overwrite")
        assert snapshot(raw) == before


def test_endings_may_be_in_capitals(archive, copy_of, raw):
    for benchmark, number in (("glas", 227), ("monuseg", 327), ("glas_passed_on", 227)):
        source = copy_of(benchmark)
        for path in [path for path in source.rglob("*") if path.is_file() and path.suffix != ".csv"]:
            path.rename(path.with_suffix(path.suffix.upper()))
        convert(benchmark.removesuffix("_passed_on"), source, "--overwrite")
        assert len(list(raw.glob(f"Dataset{number}*/labelsT*/*"))) == {227: 165, 327: 44}[number]


@pytest.mark.parametrize("name", ["splits_final.json", "dataset_fingerprint.json"])
def test_what_a_removed_data_set_left_for_nnunet_is_not_gone_on_with(name, archive, raw, capsys):
    left = raw.parent / "nnUNet_preprocessed" / "Dataset227_GlaS" / name
    left.parent.mkdir(parents=True)
    left.write_text("of the data set before")
    said = f"{left} is of an earlier data set of this name, and nnU-Net would go on with it; remove it, or let"
    assert refusal("glas", archive("glas")) == f"{said} --overwrite remove it"
    assert names(raw) == []
    convert("glas", archive("glas"), "--overwrite")
    assert f"removed {left}, which was of the data set before" in capsys.readouterr().out
    assert not left.exists()


def test_what_to_remove_is_said_where_the_folder_is_not_known(archive, raw, monkeypatch, capsys):
    monkeypatch.delenv("nnUNet_preprocessed")
    for benchmark, old in (
        ("glas", "dataset_fingerprint.json and splits_final.json of Dataset227_GlaS"),
        ("acdc", "dataset_fingerprint.json of Dataset027_ACDC"),  # its folds are ours
    ):
        convert(benchmark, archive(benchmark))
        capsys.readouterr()
        convert(benchmark, archive(benchmark), "--overwrite")
        assert f"nnUNet_preprocessed is not set: remove the old {old} there" in capsys.readouterr().out


@pytest.mark.parametrize("place", ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"])
def test_an_id_belongs_to_one_data_set(place, archive, raw):
    other = raw.parent / place / "Dataset227_Other"
    other.mkdir(parents=True)
    assert refusal("glas", archive("glas"), "--overwrite") == (
        f"id 227 belongs to {other} already; choose another with -d"
    )
    assert convert("glas", archive("glas"), "-d", "230") == 0
    assert (raw / "Dataset230_GlaS").is_dir()


def test_other_folds_where_nnunet_reads_them_are_kept(archive, raw):
    path = raw.parent / "nnUNet_preprocessed" / "Dataset027_ACDC" / "splits_final.json"
    path.parent.mkdir(parents=True)
    path.write_text("[]")
    said = refusal("acdc", archive("acdc"))
    assert said == f"{path} holds other folds; remove it, or replace it with --overwrite"
    assert path.read_text() == "[]"
    assert names(raw) == []
    convert("acdc", archive("acdc"), "--overwrite")
    assert len(json.loads(path.read_text())) == 5
    shutil.rmtree(raw)
    assert convert("acdc", archive("acdc")) == 0  # the same folds are no obstacle
    assert names(path.parent) == ["splits_final.json"]


def test_nnunet_raw_must_be_set(archive, monkeypatch):
    monkeypatch.delenv("nnUNet_raw")
    assert refusal("glas", archive("glas")) == "nnUNet_raw is not set; export nnUNet_raw=/path/to/nnUNet_raw"


@pytest.mark.parametrize("number", ["0", "1000", "-3"])
def test_ids_are_three_digits(number, capsys):
    with pytest.raises(SystemExit):
        convert("glas", ".", "-d", number)
    assert "must be from 1 to 999" in capsys.readouterr().err


def test_a_zip_is_unpacked_beside_the_data_set_and_gone_afterwards(archive, raw, tmp_path):
    path = shutil.make_archive(str(tmp_path / "glas"), "zip", archive("glas"))
    assert convert("glas", path) == 0
    assert names(raw) == ["Dataset227_GlaS"]
    expected = ["dataset.json", "imagesTr", "imagesTs", "labelsTr", "labelsTs"]
    assert sorted(os.listdir(raw / "Dataset227_GlaS")) == expected


def test_without_defusedxml_the_way_out_is_named(archive, raw, monkeypatch):
    monkeypatch.setitem(sys.modules, "defusedxml.ElementTree", None)
    assert refusal("monuseg", archive("monuseg")) == (
        'defusedxml is not installed: pip install "/path/to/nnunetv2-selfreg[leaderboard]"'
    )
