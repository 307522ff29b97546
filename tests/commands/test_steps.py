"""Parts of the demo that are done once, its folder, and commands that are shown, run, kept and ended."""

import fcntl
import json
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from nnunetv2_selfreg.commands import demo, steps
from nnunetv2_selfreg.commands.demo import main
from nnunetv2_selfreg.commands.steps import MARKER, DemoPart, Marker, run_command, run_parts
from nnunetv2_selfreg.errors import SelfRegError


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- parts


class Parts:
    """Three parts that write a file each and remember that they ran."""

    def __init__(self, folder):
        self.folder, self.ran, self.broken = folder, [], None

    def parts(self):
        return [DemoPart(name, self.folder / name, lambda name=name: self.do(name)) for name in "abc"]

    def do(self, name):
        if name == self.broken:
            raise SelfRegError(name)
        self.ran.append(name)
        (self.folder / name).write_text(name)

    def run(self):
        self.ran.clear()
        run_parts(self.parts(), Marker.claim(self.folder, 0))
        return self.ran

    def run_broken_at(self, name):
        self.broken = name
        with pytest.raises(SelfRegError):
            self.run()
        self.broken = None


@pytest.fixture
def parts(tmp_path):
    return Parts(tmp_path)


def test_what_has_finished_is_not_done_again(parts, capsys, monkeypatch):
    clock = iter([0, 0.4, 10, 75, 100, 3700])  # when each part begins and ends
    monkeypatch.setattr(steps, "time", SimpleNamespace(monotonic=clock.__next__))
    assert parts.run() == ["a", "b", "c"]
    found = re.findall(r"done in (\d+ min \d\d s)", capsys.readouterr().out)
    assert found == ["0 min 00 s", "1 min 05 s", "60 min 00 s"]
    assert parts.run() == []
    assert capsys.readouterr().out.count("is there already") == 3


def test_a_run_that_was_cut_short_goes_on_where_it_was(parts):
    parts.run_broken_at("b")
    assert parts.run() == ["b", "c"]


def test_a_product_without_its_record_is_not_taken_for_finished(parts):
    Marker.claim(parts.folder, 0)
    (parts.folder / "a").write_text("half")
    assert parts.run() == ["a", "b", "c"]


def test_what_follows_a_missing_product_is_done_again_even_after_a_failure(parts):
    parts.run()
    (parts.folder / "a").unlink()
    parts.run_broken_at("b")
    assert parts.run() == ["b", "c"]


# -- the folder


def test_a_folder_of_someone_else_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    before = tree(tmp_path)
    with pytest.raises(SelfRegError, match="is not an empty folder and was not made by this demo: name another folder"):
        main(["--folder", str(tmp_path), "--device", "cpu"])
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "has seed 1, not 0: name another folder with --folder"),
        ({"version": "0.0.1"}, r"has version '0\.0\.1', not .*: name another folder with --folder"),
        ({"made_by": "me"}, "has made_by 'me', not 'nnUNetv2_selfreg demo': name another folder with --folder"),
    ],
)
def test_another_demo_is_refused_and_left_as_it_is(tmp_path, change, message):
    Marker.claim(tmp_path, 0)
    path = tmp_path / MARKER
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    before = tree(tmp_path)
    with pytest.raises(SelfRegError, match=message):
        main(["--folder", str(tmp_path), "--device", "cpu"])
    assert tree(tmp_path) == before


@pytest.mark.parametrize("content", ["", "[]", '"demo"', "{", "{}"])
def test_a_marker_of_something_else_is_refused(tmp_path, content):
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(SelfRegError, match=r"is not a file that this demo wrote|has made_by None, not"):
        Marker.claim(tmp_path, 0)
    assert (tmp_path / MARKER).read_text() == content


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SelfRegError, match="is not an empty folder"):
        Marker.claim(tmp_path / "file", 0)


def test_a_new_and_an_empty_folder_are_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty"):
        Marker.claim(folder, 2)
        assert Marker.claim(folder, 2).finished == 0


# -- commands


@pytest.fixture
def python(monkeypatch):
    """Makes the only command that is installed a Python interpreter."""
    monkeypatch.setattr(steps.shutil, "which", lambda name, path=None: sys.executable if name == "python" else None)


def test_a_command_is_shown_run_with_its_settings_and_kept(tmp_path, python, capfd):
    code = "import os; print(os.environ['nnUNet_raw'], os.environ['EXTRA'])"
    log = tmp_path / "logs" / "01_name.log"
    run_command(["python", "-c", code], {"nnUNet_raw": "/some where"}, log, EXTRA="0")
    shown = capfd.readouterr().out
    assert shown.startswith("$ EXTRA=0 python -c 'import os;")
    assert shown.endswith(f"\n  prints to {log}\n")
    assert log.read_text() == "/some where 0\n"


def test_a_failed_command_ends_with_its_last_lines_and_names_its_log(tmp_path, python, capfd):
    code = "for i in range(90): print('line', i)\nraise SystemExit(3)"
    with pytest.raises(SelfRegError, match=r"python ended with exit code 3; all that it printed is in .*01_name\.log"):
        run_command(["python", "-c", code], {}, tmp_path / "01_name.log")
    shown = capfd.readouterr().out
    assert "line 89" in shown
    assert "line 69" not in shown
    assert len((tmp_path / "01_name.log").read_text().splitlines()) == 90


@pytest.mark.parametrize("value", ["0", None])
def test_the_planner_never_gets_0_threads(value, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(demo, "run_command", lambda command, settings, log, **extra: given.update(extra))
    monkeypatch.delenv("nnUNet_n_proc_DA", raising=False)
    if value is not None:
        monkeypatch.setenv("nnUNet_n_proc_DA", value)
    demo.Demo(tmp_path, 0, "cpu").parts()[1].action()
    assert (int(given["nnUNet_n_proc_DA"]) >= 1) if value else not given


def test_a_missing_command_is_named(tmp_path, python):
    with pytest.raises(SelfRegError, match="nnUNetv2_train is not installed"):
        run_command(["nnUNetv2_train"], {}, tmp_path / "03_training.log")


def test_an_interrupted_command_is_ended(tmp_path):
    log, held = tmp_path / "01_name.log", tmp_path / "held"
    sleeper = (  # a lock goes with its process, also where nobody collects an orphan's exit code
        "import fcntl, time; "
        f"file = open({str(held)!r}, 'w'); fcntl.flock(file, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    )
    program = (
        "from pathlib import Path; from nnunetv2_selfreg.commands.steps import run_command; "
        f"run_command(['python', '-c', {sleeper!r}], {{}}, Path({str(log)!r}))"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        # a shell's background job ignores SIGINT, and its children with it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"))
    assert not can_lock(held)
    run.send_signal(signal.SIGINT)
    run.wait(20)
    wait_until(lambda: can_lock(held))


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def can_lock(path):
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
