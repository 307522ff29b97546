"""examples/leaderboard: the whole chain with its real commands, killed and resumed; SLURM's profile as a dry run."""

import json
import os
import re
import signal
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples/leaderboard"
SNAKEMAKE = Path(sysconfig.get_path("scripts")) / "snakemake"
STOCK, SELFREG = "nnUNetTrainer_1epoch", "nnUNetTrainerSelfReg_1epoch"
pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="snakemake is not installed")


def command(*arguments: str) -> list[str]:
    return [str(SNAKEMAKE), "-s", str(EXAMPLE / "Snakefile"), "--cores", "2", *arguments]


def dry_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command("-n", *arguments), cwd=folder, capture_output=True, text=True, check=False)


def jobs(output: str) -> dict[str, int]:
    """How many jobs of each rule a dry run announces."""
    table = output.split("Job stats:")[1].split("total")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


def test_without_an_archive_it_says_what_to_give(tmp_path: Path) -> None:
    done = dry_run(tmp_path)
    assert done.returncode == 1
    assert "no archive is given: --config acdc=ACDC.zip" in done.stdout + done.stderr


def test_on_slurm_trainings_and_predictions_ask_for_a_gpu(tmp_path: Path) -> None:
    (tmp_path / "ACDC.zip").touch()
    (tmp_path / "GlaS.zip").touch()
    arguments = ["--profile", str(EXAMPLE / "profiles/slurm"), "--config", "acdc=ACDC.zip", "glas=GlaS.zip"]
    done = dry_run(tmp_path, *arguments)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    # 2 trainers, 5 folds; ACDC, GlaS in two sizes. ACDC's folds predict together, those of GlaS alone; GlaS is scored
    # as a whole and on its test A
    assert jobs(output) == {
        "convert": 3, "plan": 3, "preprocess": 3, "train": 30, "accumulate": 6, "predict": 22, "score": 42, "table": 1,
        "all": 1,
    }  # fmt: skip
    resources = {rule: set() for rule in jobs(output)}
    for rule, text in re.findall(r"^(?:local)?rule (\w+):\n(?:    .*\n)*?    resources: (.*)$", output, re.MULTILINE):
        resources[rule].update(re.findall(r"gpu=\d|slurm_partition=\w+", text))
    for rule in ("train", "predict"):
        assert resources[rule] == {"gpu=1", "slurm_partition=gpu"}
    assert resources["preprocess"] == {"slurm_partition=cpu"}


def test_smoke_run_killed_and_resumed(tmp_path: Path, stock_trainers: None) -> None:
    work = tmp_path / "leaderboard_smoke"
    log = tmp_path / "log"
    with log.open("w") as output:
        first = subprocess.Popen(
            command("--config", "smoke=true"), cwd=tmp_path, stdout=output, stderr=output, start_new_session=True
        )
    while len(trained := sorted(work.glob("nnUNet_results/*/*/fold_*/validation/summary.json"))) < 1:
        assert first.poll() is None, log.read_text()[-3000:]
        time.sleep(0.2)
    logs = len(list(work.glob("logs/train/*/*/*.log")))
    while len(list(work.glob("logs/train/*/*/*.log"))) == logs:  # the second training has begun
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not list(work.glob("scores/*"))
    times = {path: path.stat().st_mtime_ns for path in trained}

    subprocess.run(command("--config", "smoke=true", "--unlock"), cwd=tmp_path, capture_output=True, check=True)
    second = subprocess.run(
        command("--config", "smoke=true"), cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert second.returncode == 0, second.stdout[-3000:]

    assert {path: path.stat().st_mtime_ns for path in trained} == times  # what was trained stayed
    assert len(list(work.glob("nnUNet_results/*/*/fold_[01]/validation/summary.json"))) == 8
    assert len(list(work.glob("nnUNet_results/*/*/crossval_results_folds_0_1/summary.json"))) == 4
    table = json.loads((work / "table/table.json").read_text())
    sections = {(section["benchmark"], section["protocol"]): section for section in table["tables"]}
    assert set(sections) == {
        ("acdc", "ensemble of folds"),
        ("glas224", "each fold alone, 224 x 224"),
        ("glas_test_a", "each fold alone, 224 x 224"),
    }
    for section in sections.values():
        assert [arm["trainer"] for arm in section["arms"]] == [STOCK, SELFREG]
        assert all("missing" in line for arm in section["arms"] for line in arm["incomplete"][:1])
        assert [len(measure["differences"]) for measure in section["measures"]] == [1] * len(section["measures"])
    ensemble = sections["acdc", "ensemble of folds"]["arms"][0]
    assert "2 of 5 folds in the ensemble" in ensemble["incomplete"]
