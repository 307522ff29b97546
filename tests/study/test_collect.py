"""Collecting keeps what is there of runs that are not in the folder."""

import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))

import collect

STUDY = Path(collect.__file__).parent


def test_runs_from_elsewhere_stay(tmp_path, monkeypatch, capsys):
    results, work = tmp_path / "results", tmp_path / "work"
    shutil.copytree(STUDY / "results", results)
    work.mkdir()
    for name, columns in collect.COLUMNS.items():  # a run that the configuration does not have
        with open(results / f"{name}.csv", "a") as file:
            file.write(",".join(["other", "stock", "0", "7", *["1"] * (len(columns) - 4)]) + "\n")
    before = {name: (results / f"{name}.csv").read_text() for name in collect.COLUMNS}
    monkeypatch.setattr(collect, "RESULTS", results)
    monkeypatch.setattr(sys, "argv", ["collect.py", str(work)])
    collect.main()
    assert {name: (results / f"{name}.csv").read_text() for name in collect.COLUMNS} == before
    assert "not finished: hippocampus stock 0 0\n" in capsys.readouterr().out
