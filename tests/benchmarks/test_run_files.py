"""Scores that were cut, repeated, mixed or half deleted are refused in one line that names the file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from nnunetv2_selfreg.benchmarks.run_files import read_runs, write_run
from nnunetv2_selfreg.errors import SelfRegError

Runs = Callable[..., Path]
PAPER = Path(__file__).parents[2] / "examples/leaderboard/results/paper"


@pytest.fixture
def old(tmp_path: Path, acdc_run: Runs) -> Path:
    """A run without digest, as older versions wrote it."""
    return acdc_run(tmp_path / "old", "nnUNetTrainer", patients=2)


@pytest.fixture
def new(tmp_path: Path, old: Path) -> Path:
    """The same run with a digest."""
    ((scores, description),) = read_runs(old.parent).values()
    write_run(tmp_path / "new" / "run.csv", scores, description)
    return tmp_path / "new" / "run.csv"


def refusal(path: Path) -> str:
    with pytest.raises(SelfRegError) as caught:
        read_runs(path.parent)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path.with_suffix("")) in text
    return text


def test_what_is_written_is_read_back(old: Path, new: Path) -> None:
    ((before, described),), ((after, again),) = (read_runs(path.parent).values() for path in (old, new))
    pd.testing.assert_frame_equal(before, after)
    assert len(again.pop("sha256")) == 64
    assert again == described


def test_committed_scores_without_digest_are_still_read() -> None:
    runs = read_runs(PAPER)
    assert len(runs) >= 4
    # GlaS, its test A, and MoNuSeg
    assert {len(scores) for scores, _ in runs.values()} == {80 * 4, 60 * 3, 14 * 4}


def test_a_csv_that_was_cut_anywhere_is_refused(old: Path, new: Path) -> None:
    for path in (old, new):
        content = path.read_bytes()
        header, second = content.index(b"\n") + 1, content.index(b"\n", 200) + 1
        # within the header, in every field of the last line, and behind a whole line
        cuts = [0, 20, header - 1, header, second, *range(len(content) - 120, len(content)), len(content) // 2]
        for cut in cuts:
            path.write_bytes(content[:cut])
            refusal(path)
        path.write_bytes(content)
        read_runs(path.parent)


def _row(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return damage


def _described(**more: Any) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        beside = path.with_suffix(".json")
        content = json.loads(beside.read_text()) | more
        beside.write_text(json.dumps({name: value for name, value in content.items() if value != "gone"}))

    return damage


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_row(lambda lines: [*lines, lines[-1]]), "it repeats 1 rows, such as nnunet hd95_mm LV patient002_frame12"),
        (_row(lambda lines: [*lines, *lines[1:]]), "it repeats 60 rows"),
        (_row(lambda lines: lines[:-1]), "it lacks 1 rows, such as nnunet hd95_mm LV patient002_frame12"),
        (_row(lambda lines: [line.replace(",LV,", ",LW,") for line in lines]), "it lacks 20 rows, such as published"),
        (_row(lambda lines: [*lines, lines[-1].replace(",LV,", ",LW,")]), "it has 1 rows, such as nnunet hd95_mm LW"),
        (_row(lambda lines: [line for line in lines if "patient002_frame12" not in line]), "it holds 3 cases of 4"),
        (_row(lambda lines: [lines[0].replace("metric", "measure"), *lines[1:]]), "is not what leaderboard score"),
        (_row(lambda lines: [*lines[:-1], lines[-1].replace("nnUNetTrainer", "other")]), "than one trainer: nnUNetTr"),
        (_row(lambda lines: [*lines[:-1], lines[-1].rpartition(",")[0] + ",high\n"]), "a value is no number"),
        (_row(lambda lines: [line.replace("acdc", "atlas") for line in lines]), "more than one benchmark: acdc, atlas"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
        (Path.unlink, "has no"),
        (lambda path: path.with_suffix(".json").unlink(), "has no"),
        (lambda path: path.with_suffix(".json").write_text('{"benchmark": "ac'), "is not a description of a run"),
        (lambda path: path.with_suffix(".json").write_text("[]"), "is not a description of a run: it holds a list"),
        (_described(trainer="nnUNetTrainerSelfReg"), "more than one trainer: nnUNetTrainer, nnUNetTrainerSelfReg"),
        (_described(fold="gone"), "more than one fold: , ensemble"),
        (_described(epochs=[1000]), "does not describe a run: epochs is [1000]"),
        (_described(missing="gone"), "does not describe a run: missing is None"),
    ],
)
@pytest.mark.parametrize("age", ["old", "new"])
def test_what_was_changed_is_refused_by_name(
    age: str, damage: Callable[[Path], Any], expected: str, request: pytest.FixtureRequest
) -> None:
    path: Path = request.getfixturevalue(age)
    damage(path)
    assert expected in refusal(path)


def test_a_changed_value_is_noticed(new: Path) -> None:
    content = new.read_text()
    for path, changed in (
        (new, content.replace("0.9", "0.8", 1)),
        (new.with_suffix(".json"), new.with_suffix(".json").read_text().replace("1000", "10")),
    ):
        before = path.read_text()
        assert changed != before
        path.write_text(changed)
        assert "it or its JSON file was changed since; score it again" in refusal(new)
        path.write_text(before)
    read_runs(new.parent)


def test_files_of_others_beside_the_scores(new: Path) -> None:
    for name in ("dataset.json", "predict_from_raw_data_args.json"):  # where scores lie among nnU-Net's predictions
        (new.parent / name).write_text('{"labels": {}}')
    for name in ("._run.csv", "._run.json"):  # macOS
        (new.parent / name).write_bytes(b"\x00\x05\x16\x07")
    assert list(read_runs(new.parent)) == [new]
