"""Folders and files that are whole or not there, whatever ends the run that writes them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import copy_files, new_file, new_folder, read_json, write_json

WRITER = """
import sys, time
from pathlib import Path
from nnunetv2_selfreg.files import new_file, new_folder
with {how}(Path(sys.argv[1])) as partial:
    ((partial / "half") if partial.is_dir() else partial).write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["new_file", "new_folder"])
def writer(request, tmp_path):
    """Another process in the middle of writing `theirs`."""
    command = [sys.executable, "-c", WRITER.format(how=request.param), str(tmp_path / "theirs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def write_something(folder):
    with new_folder(folder / "mine") as partial:
        write_json(partial / "a.json", {})
    write_json(folder / "b.json", {})


def test_what_a_killed_run_left_is_removed_by_the_next_one(writer, tmp_path):
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".selfreg_")
    assert list(left.rglob("half")) or (left / "theirs").read_text() == "half"
    write_something(tmp_path)
    assert names(tmp_path) == ["b.json", "mine"]
    assert names(tmp_path / "mine") == ["a.json"]


def test_a_folder_that_a_killed_run_had_moved_aside_comes_back(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "old").write_text("the only copy")
    program = """
import os, sys
from pathlib import Path
from nnunetv2_selfreg.files import new_folder
replace, calls = os.replace, []
def killed(*paths):
    if str(paths[1]) == sys.argv[1]:
        os.kill(os.getpid(), 9)
    replace(*paths)
os.replace = killed
with new_folder(Path(sys.argv[1]), lambda _: True):
    pass
"""
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path / "theirs")], check=False)
    assert run.returncode == -signal.SIGKILL
    assert not (tmp_path / "theirs").exists()
    write_something(tmp_path)
    assert names(tmp_path) == ["b.json", "mine", "theirs"]
    assert names(tmp_path / "theirs") == ["old"]


def test_what_a_living_run_writes_is_left_alone(writer, tmp_path):
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*")}
    write_something(tmp_path)
    assert before.items() <= {path: path.stat().st_ino for path in tmp_path.rglob("*")}.items()
    assert len(names(tmp_path)) == 3


def test_a_file_that_is_being_written_is_read_when_it_is_whole(tmp_path):
    path = tmp_path / "plans.json"
    path.write_text('{"a": ')
    with pytest.raises(SelfRegError, match="is not a plans file"):
        read_json(path, "plans file", patience=0.3)
    writer = threading.Timer(0.3, path.write_text, ['{"a": 1}'])
    writer.start()
    assert read_json(path, "plans file", patience=30) == {"a": 1}


def test_json_is_ascii_as_nnunets_own(tmp_path):
    write_json(tmp_path / "plans.json", {"dataset_name": "Dataset010_Köpfe"})
    assert (tmp_path / "plans.json").read_bytes().isascii()
    assert read_json(tmp_path / "plans.json") == {"dataset_name": "Dataset010_Köpfe"}


def test_many_runs_side_by_side_do_not_hinder_each_other(tmp_path):
    program = """
import sys
from pathlib import Path
from nnunetv2_selfreg.files import new_folder
for number in range(150):
    with new_folder(Path(sys.argv[1], f"{sys.argv[2]}_{number}")) as partial:
        (partial / "content").write_text("whole")
"""
    runs = [subprocess.Popen([sys.executable, "-c", program, tmp_path, name]) for name in "abc"]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    assert names(tmp_path) == sorted(f"{name}_{number}" for name in "abc" for number in range(150))
    assert all((folder / "content").read_text() == "whole" for folder in tmp_path.iterdir())


def test_folders_of_others_with_such_a_name_stay(tmp_path):
    (tmp_path / ".selfreg_notes").mkdir()
    (tmp_path / ".selfreg_notes" / "thesis.txt").write_text("years of work")
    write_something(tmp_path)
    assert names(tmp_path) == [".selfreg_notes", "b.json", "mine"]


@pytest.mark.parametrize("write", [new_file, new_folder])
def test_a_full_disk_names_what_could_not_be_written(write, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")  # as a write reports it, with no file's name

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SelfRegError) as caught, write(tmp_path / "out"):
        pass
    assert (
        str(caught.value) == f"{tmp_path / 'out'} cannot be written: No space left on device; nothing was left behind"
    )
    assert names(tmp_path) == []


def test_a_block_that_fails_leaves_the_former_file(tmp_path):
    def fail():
        with new_file(tmp_path / "a.json") as partial:
            partial.write_text("half")
            raise KeyError

    write_json(tmp_path / "a.json", {"old": 1})
    with pytest.raises(KeyError):
        fail()
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}
    assert names(tmp_path) == ["a.json"]


def test_a_folder_that_was_made_for_a_file_goes_if_the_file_does_not_come(tmp_path):
    def fail():
        with new_file(tmp_path / "results" / "tables" / "a.json"):
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert names(tmp_path) == []


def test_what_a_run_left_that_was_killed_while_it_removed_its_files_is_removed(tmp_path):
    """The lock goes last, and an old folder that is half removed is not put back."""
    program = """
import os, shutil, sys
from pathlib import Path
from nnunetv2_selfreg.files import new_folder
target = Path(sys.argv[1])
shutil.rmtree = lambda *_, **__: os._exit(9)  # as the first folder is to be removed
with new_folder(target, may_replace=lambda _: True) as folder:
    (folder.parent / "beside").mkdir()
    (folder / "content").write_text("new")
"""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "content").write_text("old")
    assert subprocess.run([sys.executable, "-c", program, tmp_path / "theirs"], check=False).returncode == 9
    (left,) = tmp_path.glob(".selfreg_*")
    assert (left / ".lock").exists()
    shutil.rmtree(tmp_path / "theirs")
    write_something(tmp_path)
    assert names(tmp_path) == ["b.json", "mine"]


def test_a_link_to_a_folder_stays_and_what_it_leads_to_is_replaced(tmp_path):
    there, link = tmp_path / "disk" / "report", tmp_path / "report"
    there.mkdir(parents=True)
    (there / "old").touch()
    link.symlink_to(there)
    with new_folder(link, may_replace=lambda _: True) as folder:
        (folder / "new").touch()
    assert link.is_symlink()
    assert [path.name for path in there.iterdir()] == ["new"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["disk", "new", "report", "report"]


def test_a_file_that_cannot_be_copied_is_named(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "broken.json").symlink_to("/proc/self/mem")  # reading it is an input/output error
    with pytest.raises(SelfRegError, match=r"broken\.json cannot be read: Input/output error$"):
        copy_files(tmp_path / "source", tmp_path / "target", ["*.json"])
