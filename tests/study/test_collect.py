"""Collecting keeps what is there of runs that are not in the folder."""

import json
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))

import collect
import pandas as pd
import pytest
import yaml

STUDY = Path(collect.__file__).parent


def test_runs_from_elsewhere_stay(tmp_path, capsys):
    results, work = tmp_path / "results", tmp_path / "work"
    shutil.copytree(STUDY / "results", results)
    work.mkdir()
    for name, columns in collect.COLUMNS.items():  # a run that the configuration does not have
        with open(results / f"{name}.csv", "a") as file:
            file.write(",".join(["other", "stock", "0", "7", *["1"] * (len(columns) - 4)]) + "\n")
    before = {name: (results / f"{name}.csv").read_text() for name in collect.COLUMNS}
    collect.main([str(work), "--results", str(results)])
    assert {name: (results / f"{name}.csv").read_text() for name in collect.COLUMNS} == before
    assert "not finished: hippocampus stock 0 0\n" in capsys.readouterr().out


@pytest.mark.parametrize("study", ["config.yaml", "screen.yaml"])
def test_a_study_is_collected_into_its_own_place(study, tmp_path):
    """The runs of another study stay above or below, whichever is collected again."""
    results, work = tmp_path / "results", tmp_path / "work"
    shutil.copytree(STUDY / "results", results)
    work.mkdir()
    before = (results / "runs.csv").read_text()
    collect.main([str(work), "--results", str(results), "--study", str(STUDY / study)])
    assert (results / "runs.csv").read_text() == before


def test_every_run_of_the_results_was_registered():
    """And every run of the first study is there."""
    registered = {}
    for name in ("config.yaml", "screen.yaml", "seeds.yaml", "confirmation.yaml"):
        config = yaml.safe_load((STUDY / name).read_text())
        registered[name] = {tuple(map(str, names)): yes for names, _, yes, _ in collect.runs(config, STUDY)}
    rows = pd.read_csv(STUDY / "results" / "runs.csv", dtype=str)
    keys = rows[["dataset", "arm", "repetition", "fold"]].itertuples(index=False, name=None)
    found = dict(zip(keys, rows["registered"], strict=True))
    assert found.items() <= {key: yes for runs in registered.values() for key, yes in runs.items()}.items()
    assert registered["config.yaml"].items() <= found.items()


def test_folds_are_by_patient():
    """Folds 5 to 9 train on ten patients of folds 0 to 4 and validate on the same cases."""
    folds = json.loads((STUDY / "results" / "Dataset027_ACDC" / "splits_final.json").read_text())
    patients = [{part: {case.split("_")[0] for case in cases} for part, cases in fold.items()} for fold in folds]
    assert [fold["train"] & fold["val"] for fold in patients] == [set()] * 10
    assert sum(len(fold["val"]) for fold in patients[:5]) == len(set().union(*(fold["val"] for fold in patients))) == 80
    for whole, few in zip(patients[:5], patients[5:], strict=True):
        assert few["val"] == whole["val"]
        assert few["train"] < whole["train"]
        assert len(few["train"]) == 10


def test_another_training_of_a_run_is_refused(tmp_path, monkeypatch):
    results = tmp_path / "results"
    shutil.copytree(STUDY / "results", results)
    before = {path: path.read_bytes() for path in results.rglob("*.csv")}
    key = before[results / "runs.csv"].decode().splitlines()[1].split(",")
    (tmp_path / "fold_0" / "validation").mkdir(parents=True)
    (tmp_path / "fold_0" / "validation" / "summary.json").touch()
    names, again = [*key[:2], *map(int, key[2:4])], key[4:]
    again[collect.COLUMNS["runs"].index("started") - 4] = "2030-01-01T00:00:00+00:00"
    monkeypatch.setattr(collect, "runs", lambda config, work: [(names, {}, "yes", tmp_path / "fold_0")])
    monkeypatch.setattr(collect, "load_checkpoint", lambda path: {"logging": {}})
    monkeypatch.setattr(collect, "scores", lambda data, folder: [])
    monkeypatch.setattr(collect, "curves", lambda log: [])
    monkeypatch.setattr(collect, "run", lambda *_: again)
    with pytest.raises(SystemExit, match="holds another training of hippocampus stock 0 0; add --replace"):
        collect.main([str(tmp_path), "--results", str(results)])
    assert {path: path.read_bytes() for path in results.rglob("*.csv")} == before
    collect.main([str(tmp_path), "--results", str(results), "--replace"])
    assert "2030-01-01" in (results / "runs.csv").read_text()
