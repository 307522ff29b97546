"""The study's workflow, as a dry run: every training of the configurations is asked for."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "leaderboard"))

from see_trainers import see_trainers

STUDY = Path(__file__).parents[2] / "examples" / "study"
SNAKEFILE = shlex.quote(str(STUDY / "Snakefile"))


@pytest.mark.longer
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Snakemake needs Python 3.11")
@pytest.mark.parametrize("study", ["config.yaml", "screen.yaml"])
def test_every_run_is_trained_once(study, tmp_path):
    command = f"-m snakemake -s {SNAKEFILE} -n --cores 2 --config "
    command += f"study={shlex.quote(str(STUDY / study))} work={shlex.quote(str(tmp_path))}"
    for name in ("hippocampus", "acdc"):
        (tmp_path / name).mkdir()
        command += f" {name}={shlex.quote(str(tmp_path / name))}"
    done = subprocess.run([sys.executable, *shlex.split(command)], capture_output=True, text=True, check=True)
    content = yaml.safe_load((STUDY / study).read_text())
    runs = content["runs"]
    expected = sum(len(run["arms"]) * len(run["folds"]) for run in runs)
    counts = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2 and line[0].isalpha())
    assert int(counts["train"]) == expected
    assert int(counts["preprocess"]) == len(content["data"])


@pytest.mark.parametrize("study", sorted(path.name for path in STUDY.glob("*.yaml") if "schema" not in path.name))
def test_every_study_fits_the_schema_and_names_what_it_has(study):
    """Also those that no dry run is made of."""
    jsonschema = pytest.importorskip("jsonschema", reason="comes with the extra [workflow]")
    content = yaml.safe_load((STUDY / study).read_text())
    jsonschema.validate(content, yaml.safe_load((STUDY / "config.schema.yaml").read_text()))
    for run in content["runs"]:
        assert run["data"] in content["data"]
        assert set(run["arms"]) <= content["arms"].keys()
    names = [(run["dataset"], run["repetition"], fold % 5) for run in content["runs"] for fold in run["folds"]]
    assert len(names) == len(set(names)) or study == "config.yaml"  # whose later entries add arms


@pytest.mark.longer
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Snakemake needs Python 3.11")
def test_paths_may_have_spaces(tmp_path):
    """The first rule, run, and the commands of the trainings."""
    (tmp_path / "a folder").mkdir()
    cases = json.loads((STUDY / "results" / "Dataset004_Hippocampus" / "splits_final.json").read_text())[0]
    source = tmp_path / "a folder" / "source"
    for kind, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        (source / kind).mkdir(parents=True)
        for case in (*cases["train"], *cases["val"]):
            (source / kind / f"{case}{ending}").touch()
    (source / "dataset.json").write_text("{}")
    work = tmp_path / "a folder" / "work"
    command = [sys.executable, "-m", "snakemake", "-s", str(STUDY / "Snakefile"), "--cores", "2", "-p", "--config"]
    command += [f"work={work}", f"hippocampus={source}", "only=0"]
    made = work / "nnUNet_raw" / "Dataset004_Hippocampus" / "dataset.json"
    subprocess.run([*command, "--", str(made)], cwd=tmp_path, capture_output=True, check=True)
    assert json.loads(made.read_text())["numTraining"] == 200
    done = subprocess.run([*command, "-n"], cwd=tmp_path, capture_output=True, text=True, check=True)
    trained = [line for line in done.stdout.splitlines() if "on_one_core.py nnUNetv2_train" in line]
    assert trained
    for line in trained:
        assert f"nnUNet_results={work}/repetition_0" in shlex.split(line)


def test_the_plans_of_the_configuration_are_edited(tmp_path):
    folder = tmp_path / "Dataset001_Any"
    folder.mkdir()
    (folder / "splits_final.json").write_text("[]")
    plans = {"configurations": {"2d": {"batch_size": 9}, "3d_fullres": {"batch_size": 2}}}
    (folder / "nnUNetPlans.json").write_text(json.dumps(plans))
    data = json.dumps({"folder": folder.name, "plans": {"batch_size": 4}})
    environment = os.environ | {"nnUNet_preprocessed": str(tmp_path)}
    subprocess.run([sys.executable, str(STUDY / "prepare.py"), data, "3d_fullres"], env=environment, check=True)
    edited = json.loads((folder / "Study.json").read_text())["configurations"]
    assert edited["2d"] == {"batch_size": 9}
    assert edited["3d_fullres"] == {"batch_size": 4, "data_identifier": "Study_3d_fullres"}


def test_trainers_that_are_found_already_still_are(monkeypatch, tmp_path):
    monkeypatch.setenv("nnUNet_extTrainer", f"/mine{os.pathsep}/ours")
    for _ in range(2):  # each job of a workflow reads it again
        see_trainers(tmp_path)
    places = os.environ["nnUNet_extTrainer"].split(os.pathsep)
    assert places == [str(tmp_path), "/mine", "/ours", str(STUDY.parents[1] / "trainers")]


@pytest.mark.longer
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Snakemake needs Python 3.11")
def test_what_is_collected_is_not_trained_again(tmp_path):
    (tmp_path / "hippocampus").mkdir()
    command = f"-m snakemake -s {SNAKEFILE} -n --cores 2 --config study={shlex.quote(str(STUDY / 'screen.yaml'))} "
    folder = shlex.quote(str(tmp_path))
    command += f"work={folder} hippocampus={folder}/hippocampus missing_in={folder}"
    with open(STUDY / "results" / "runs.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["dataset"] == "hippocampus_screen"]
    assert len(rows) == 70
    there = [row for row in rows if row["fold"] != "3"]  # 14 of the screen's trainings are missing
    with open(tmp_path / "runs.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(there)
    done = subprocess.run([sys.executable, *shlex.split(command)], capture_output=True, text=True, check=True)
    assert re.findall(r"^train +(\d+)$", done.stdout, re.MULTILINE)[0] == "14"
    for row in there:
        model = f"{row['trainer']}__{row['plans']}__2d/fold_{row['fold']}/"
        assert f"repetition_{row['repetition']}/Dataset004_Hippocampus/{model}" not in done.stdout


@pytest.mark.longer
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Snakemake needs Python 3.11")
@pytest.mark.parametrize(
    ("change", "settings", "expected"),
    [
        (
            {},
            "device=gpu onli=0",
            ["onli: unknown; known: study, work,", "device: 'gpu' is not one of ['cuda', 'cpu', 'mps']"],
        ),
        (
            {
                "length": "_11epochs",
                "runs": [{"data": "heart", "arms": ["stok"], "dataset": "x", "folds": [0], "repetition": 0}],
            },
            "only=3",
            [
                "runs.0.data: heart is unknown; known: hippocampus, acdc",
                "runs.0.arms: stok is unknown; known: stock, selfreg",
                "only: there is no run 3; the last is 0",
                "trainers: nnU-Net finds no nnUNetTrainer_11epochs",
            ],
        ),
    ],
)
def test_what_cannot_be_run_is_said(change, settings, expected, tmp_path):
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump(yaml.safe_load((STUDY / "full.yaml").read_text()) | change, sort_keys=False))
    places = shlex.join([f"study={study}", f"work={tmp_path}"])
    command = f"-m snakemake -s {SNAKEFILE} -n --cores 2 --config {places} {settings}"
    done = subprocess.run([sys.executable, *shlex.split(command)], capture_output=True, text=True)
    assert done.returncode == 1
    for line in expected:
        assert f"\n{line}" in done.stdout + done.stderr
