import json
import os
import zipfile

import pytest

from nnunetv2_selfreg.commands import demo as run
from nnunetv2_selfreg.commands.demo import MARKER, Demo, Marker, Step, main, report, run_steps
from nnunetv2_selfreg.errors import SelfRegError


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
        ({"made_by": "me"}, "holds a demo made by me, not"),
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
    for folder in (tmp_path / "new" / "deep", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        Marker.claim(folder, 2)
        assert Marker.claim(folder, 2).seconds == {}


def test_a_device_that_is_not_there_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SelfRegError, match=r"--device cuda: PyTorch finds no such device here; use .*--device cpu"):
        main(["--folder", str(tmp_path / "demo"), "--device", "cuda"])
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize("seed", ["-1", "one", "1.5"])
def test_a_seed_is_a_whole_number_from_0_on(seed, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([f"--seed={seed}"])
    assert exit_.value.code == 2
    assert "--seed" in capsys.readouterr().err


class Recorder:
    def __init__(self):
        self.commands = []

    def run(self, name, command, watch, **extra):
        self.commands.append((command, extra))


def trained(folder, name, *, whole=True):
    """Leaves what an interrupted training leaves: plans, and after them a checkpoint."""
    demo = Demo(folder, 0, "cpu")
    demo.commands = Recorder()
    plans = folder / "nnUNet_preprocessed" / run.DATASET / f"{run.PLANS}.json"
    fold = folder / "nnUNet_results" / run.DATASET / f"{run.TRAINER}__{run.PLANS}__2d" / "fold_0"
    for parent in (plans.parent, fold):
        parent.mkdir(parents=True)
    plans.write_text("{}")
    os.utime(plans, (1, 1))
    if name:
        with zipfile.ZipFile(fold / name, "w") as archive:
            archive.writestr("data", bytes(100))
        if not whole:
            (fold / name).write_bytes((fold / name).read_bytes()[:50])
    return demo, plans


@pytest.mark.parametrize("name", ["checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"])
def test_an_interrupted_training_continues(tmp_path, name):
    demo, _ = trained(tmp_path, name)
    demo.steps()[2].action()
    command, extra = demo.commands.commands[0]
    assert command[:4] == ["nnUNetv2_train", "927", "2d", "0"]
    assert command[-1] == "--c"
    assert extra == {"nnUNet_n_proc_DA": "0"}


def test_a_training_without_a_checkpoint_begins(tmp_path):
    demo, _ = trained(tmp_path, None)
    demo.steps()[2].action()
    assert "--c" not in demo.commands.commands[0][0]


def test_a_half_written_checkpoint_is_not_continued(tmp_path):
    demo, _ = trained(tmp_path, "checkpoint_best.pth", whole=False)
    demo.steps()[2].action()
    assert "--c" not in demo.commands.commands[0][0]


def test_a_checkpoint_older_than_the_plans_is_not_continued(tmp_path):
    demo, plans = trained(tmp_path, "checkpoint_best.pth")
    os.utime(plans, (2**32, 2**32))
    demo.steps()[2].action()
    assert "--c" not in demo.commands.commands[0][0]


def test_the_report_is_aligned_and_names_what_comes_next(tmp_path):
    dice = {"RV": 0.9, "myocardium": 0.85, "LV": 0.95, "mean": 0.9}
    lines = report(dice, {"data": 0.6, "training": 251.2}, {"training"}, tmp_path / "overlay.png")
    assert lines[2:6] == [f"  {name:<12}{value:10.2f}" for name, value in dice.items()]
    assert f"  {'data':<12}{'1 s':>10}  (an earlier run)" in lines
    assert f"  {'training':<12}{'4 min 11 s':>10}" in lines
    assert f"  {'total':<12}{'4 min 12 s':>10}" in lines
    assert any(str(tmp_path / "overlay.png") in line for line in lines)
    assert "-tr nnUNetTrainerSelfReg" in lines[-1]
