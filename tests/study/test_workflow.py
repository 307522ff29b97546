"""The study's workflow, as a dry run: every training of the configurations is asked for."""

import csv
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

STUDY = Path(__file__).parents[2] / "examples" / "study"


@pytest.mark.longer
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Snakemake needs Python 3.11")
@pytest.mark.parametrize("study", ["config.yaml", "full.yaml", "screen.yaml", "seeds.yaml", "confirmation.yaml"])
def test_every_run_is_trained_once(study, tmp_path):
    command = f"-m snakemake -s {STUDY / 'Snakefile'} -n --cores 2 --config study={STUDY / study} work={tmp_path}"
    for name in ("hippocampus", "acdc"):
        (tmp_path / name).mkdir()
        command += f" {name}={tmp_path / name}"
    done = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True, check=True)
    content = yaml.safe_load((STUDY / study).read_text())
    runs = content["runs"]
    expected = sum(len(run["arms"]) * len(run["folds"]) for run in runs)
    counts = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2 and line[0].isalpha())
    assert int(counts["train"]) == expected
    assert int(counts["preprocess"]) == len(content["data"])


@pytest.mark.longer
@pytest.mark.skipif(sys.version_info < (3, 11), reason="Snakemake needs Python 3.11")
def test_what_is_collected_is_not_trained_again(tmp_path):
    (tmp_path / "hippocampus").mkdir()
    command = f"-m snakemake -s {STUDY / 'Snakefile'} -n --cores 2 --config study={STUDY / 'screen.yaml'} "
    command += f"work={tmp_path} hippocampus={tmp_path / 'hippocampus'} missing_in={STUDY / 'results'}"
    done = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True, check=True)
    with open(STUDY / "results" / "runs.csv", newline="") as file:
        there = [row for row in csv.DictReader(file) if row["dataset"] == "hippocampus_screen"]
    assert set(re.findall(r"^train +(\d+)$", done.stdout, re.MULTILINE)) == {str(70 - len(there))}
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
    command = f"-m snakemake -s {STUDY / 'Snakefile'} -n --cores 2 --config study={study} work={tmp_path} {settings}"
    done = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True)
    assert done.returncode == 1
    for line in expected:
        assert f"\n{line}" in done.stdout + done.stderr
