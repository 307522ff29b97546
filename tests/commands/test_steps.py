"""Parts of the demo that are done once, its folder, and commands that are shown, run, kept and ended."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from nnunetv2_selfreg.commands import steps
from nnunetv2_selfreg.commands.demo import main
from nnunetv2_selfreg.commands.steps import MARKER, Commands, Marker, Step, run_steps
from nnunetv2_selfreg.errors import SelfRegError


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- parts


class Parts:
    """Three steps that write a file each and remember that they ran."""

    def __init__(self, folder):
        self.folder, self.ran, self.broken = folder, [], None

    def steps(self):
        return [Step(name, name, [self.folder / name], lambda name=name: self.do(name)) for name in "abc"]

    def do(self, name):
        if name == self.broken:
            raise SelfRegError(name)
        self.ran.append(name)
        (self.folder / name).write_text(name)


@pytest.fixture
def parts(tmp_path):
    return Parts(tmp_path)


def run_again(parts):
    parts.ran.clear()
    marker = Marker.claim(parts.folder, 0)
    return run_steps(parts.steps(), marker), parts.ran


def test_what_has_finished_is_not_done_again(parts, capsys):
    assert run_again(parts) == ({"a", "b", "c"}, ["a", "b", "c"])
    capsys.readouterr()
    assert run_again(parts) == (set(), [])
    assert capsys.readouterr().out.count("is there already") == 3


def test_a_run_that_was_cut_short_goes_on_where_it_was(parts):
    parts.broken = "b"
    with pytest.raises(SelfRegError):
        run_again(parts)
    parts.broken = None
    assert run_again(parts) == ({"b", "c"}, ["b", "c"])


def test_a_product_without_its_record_is_not_taken_for_finished(parts):
    Marker.claim(parts.folder, 0)
    (parts.folder / "a").write_text("half")
    assert run_again(parts)[1] == ["a", "b", "c"]


def test_what_follows_a_missing_product_is_done_again_even_after_a_failure(parts):
    run_again(parts)
    (parts.folder / "a").unlink()
    parts.broken = "b"
    with pytest.raises(SelfRegError):
        run_again(parts)
    parts.broken = None
    assert run_again(parts)[1] == ["b", "c"]


# -- the folder


def test_a_folder_of_someone_else_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    before = tree(tmp_path)
    with pytest.raises(SelfRegError, match="is not empty and was not made by this demo: name another folder"):
        main(["--folder", str(tmp_path), "--device", "cpu"])
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "holds a demo of seed 1, not 0: name another folder with --folder"),
        ({"version": "0.0.1"}, r"holds a demo of version 0\.0\.1, not .*: name another folder with --folder"),
        ({"made_by": "me"}, "is not a file that this demo wrote: name another folder with --folder"),
        ({"seconds": None}, "is not a file that this demo wrote"),
        ({"seconds": {"data": "long"}}, "is not a file that this demo wrote"),
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


@pytest.mark.parametrize("content", ["", "{}", "[]", '"demo"', "{"])
def test_an_unreadable_marker_is_refused(tmp_path, content):
    (tmp_path / MARKER).write_text(content)
    with pytest.raises(SelfRegError, match="is not a file that this demo wrote"):
        Marker.claim(tmp_path, 0)
    assert (tmp_path / MARKER).read_text() == content


def test_a_file_in_the_folders_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SelfRegError, match="is not a folder"):
        Marker.claim(tmp_path / "file", 0)


def test_a_new_and_an_empty_folder_are_taken(tmp_path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty"):
        Marker.claim(folder, 2)
        assert Marker.claim(folder, 2).seconds == {}


# -- commands


@pytest.fixture
def python(monkeypatch):
    """Makes the only command that is installed a Python interpreter."""
    monkeypatch.setattr(steps.shutil, "which", lambda name, path=None: sys.executable if name == "python" else None)


def test_a_command_is_shown_run_with_its_settings_and_kept(tmp_path, python, capfd):
    code = "import os; print(os.environ['nnUNet_raw'], os.environ['EXTRA'])"
    Commands({"nnUNet_raw": "/some where"}, tmp_path).run("01_name", ["python", "-c", code], EXTRA="0")
    shown = capfd.readouterr().out
    assert shown.startswith("$ EXTRA=0 python -c 'import os;")
    assert shown.endswith(f"\n  prints to {tmp_path / '01_name.log'}\n")
    assert (tmp_path / "01_name.log").read_text() == "/some where 0\n"


def test_a_failed_command_ends_with_its_last_lines_and_names_its_log(tmp_path, python, capfd):
    code = "for i in range(90): print('line', i)\nraise SystemExit(3)"
    with pytest.raises(SelfRegError, match=r"python ended with exit code 3; all that it printed is in .*01_name\.log"):
        Commands({}, tmp_path).run("01_name", ["python", "-c", code])
    shown = capfd.readouterr().out
    assert "line 89" in shown
    assert "line 69" not in shown
    assert len((tmp_path / "01_name.log").read_text().splitlines()) == 90


def test_a_missing_command_is_named(tmp_path, python):
    with pytest.raises(SelfRegError, match="nnUNetv2_train is not installed"):
        Commands({}, tmp_path).run("03_training", ["nnUNetv2_train"])


def test_a_terminal_shows_what_was_printed_last(tmp_path, python, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    code = "import time; print('1 of 9\\r2 of 9', end='', flush=True); time.sleep(2)"
    Commands({}, tmp_path).run("01_name", ["python", "-c", code])
    assert "1 s so far: 2 of 9" in capsys.readouterr().out


def test_an_interrupted_command_is_ended(tmp_path):
    sleeper = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    program = (
        "from pathlib import Path; from nnunetv2_selfreg.commands.steps import Commands; "
        f"Commands({{}}, Path({str(tmp_path)!r})).run('01_name', ['python', '-c', {sleeper!r}])"
    )
    run = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = tmp_path / "01_name.log"
    deadline = time.monotonic() + 20
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    run.wait(20)
    with pytest.raises(ProcessLookupError):
        os.kill(int(log.read_text()), 0)


def test_settings_are_shown_as_a_shell_takes_them(tmp_path, capsys):
    Commands({"nnUNet_raw": "/some where"}, tmp_path).show_settings()
    assert capsys.readouterr().out == "$ export nnUNet_raw='/some where'\n"
