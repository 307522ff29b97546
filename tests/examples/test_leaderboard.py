"""examples/leaderboard: the whole chain with its real commands, killed and resumed; SLURM's profile as a dry run."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from jsonschema import Draft202012Validator

from nnunetv2_selfreg.benchmarks.glas import RESIZED
from nnunetv2_selfreg.benchmarks.registry import BENCHMARKS, PROTOCOLS

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/leaderboard"
SNAKEMAKE = Path(sysconfig.get_path("scripts")) / "snakemake"
REGISTERED = ("paper", "paper_gpu", "acdc")
STOCK, SELFREG = "nnUNetTrainer_1epoch", "nnUNetTrainerSelfReg_1epoch"
pytestmark = pytest.mark.skipif(not SNAKEMAKE.is_file(), reason="snakemake is not installed")


def snakemake(*arguments: str, cores: int = 2) -> list[str]:
    return [str(SNAKEMAKE), "-s", str(EXAMPLE / "Snakefile"), "--cores", str(cores), *arguments]


def dry_run(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(snakemake("-n", *arguments, cores=12), cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def jobs(output: str) -> dict[str, int]:
    """How many jobs of each rule a dry run announces."""
    table = output.split("Job stats:")[1].split("total")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.MULTILINE)}


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """A folder, with a space in its name, that holds archives as far as a dry run needs them."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    for name in ("ACDC.zip", "GlaS.zip"):
        (folder / name).touch()
    return folder


@pytest.mark.longer
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "no archive is given: --config acdc=ACDC.zip"),
        (["smoke=false"], "no archive is given: --config acdc=ACDC.zip"),
        (
            ["only=[acdc,glas224]", "glas=GlaS.zip"],
            "\nonly: acdc needs its archive: --config acdc=PATH, or leave it out of only\n",
        ),
        (
            ["only=[acdcc]", "acdc=ACDC.zip", "edit_plans=mine.py", "trainers=[nnUNetTrainer,nnUNetTrainerSelfRegg]"],
            "only: acdcc is unknown; known: acdc, synapse, glas, glas224,.*\n"
            "edit_plans: .*/mine.py is no file\n"
            "trainers: nnU-Net finds no nnUNetTrainerSelfRegg[;:] .*\n",
        ),
        (
            [
                "acdc=ACDC.zip",
                "fold=0",
                "folds=[7]",
                "device=gpu",
                "trainers=[mine]",
                "allow_incomplete=maybe",
                "work=3",
            ],
            "fold: unknown; known: work, device, gpus, trainers, .*\n"
            "work: 3 is not of type 'string'\n"
            "device: 'gpu' is not one of \\['cuda', 'cpu', 'mps'\\]\n"
            "trainers.0: 'mine' does not match .*\n"
            "folds.0: 7 is not one of .*\n"
            "allow_incomplete: 'maybe' is not of type 'boolean'\n",
        ),
    ],
)
def test_what_cannot_be_run_is_said(archives: Path, settings: list[str], message: str) -> None:
    code, output = dry_run(archives, *(["--config", *settings] if settings else []))
    assert code == 1
    assert re.search(message, output), output
    assert not [path for path in archives.rglob("*") if path.is_file() and path.suffix != ".zip"]


@pytest.mark.longer
def test_a_smoke_run_takes_no_other_settings(archives: Path) -> None:
    """Snakemake lays a file that is given over smoke.yaml, also one with the keys of config.yaml."""
    copy = archives / "mine.yaml"
    copy.write_text((EXAMPLE / "config.yaml").read_text())
    code, output = dry_run(archives, "--configfile", str(copy), "--config", "smoke=true")
    assert code == 1
    assert "smoke=true has settings of its own: leave out --configfile" in output


@pytest.mark.parametrize("halved", [False, True])
@pytest.mark.parametrize("edits", [["half_resolution.py"], ["half_resolution.py", "half_of_the_patients.py"]])
def test_plans_share_their_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edits: list[str], halved: bool
) -> None:
    """So all and half of the patients are not trained in one folder; what is not preprocessed is not trained yet.

    nnU-Net plans nothing where the folds are halved already.
    """
    monkeypatch.syspath_prepend(str(EXAMPLE))
    from check_settings import mixed_folds

    folder = tmp_path / "Dataset027_ACDC"
    folder.mkdir()
    paths = [EXAMPLE / name for name in edits]
    share = "half" if halved else "all"
    line = f"edit_plans: {folder} has {share} of its patients; take another folder: --config work=FOLDER"
    (folder / "Mine.json").touch()
    if halved:
        (folder / "splits_all.json").touch()
    assert list(mixed_folds([folder], paths, "Mine")) == []
    assert list(mixed_folds([folder], paths, "Other")) == [line] * halved
    (folder / "Mine_2d.complete").touch()
    assert list(mixed_folds([folder], paths, "Mine")) == [line] * (halved != (len(edits) == 2))


def test_plans_of_a_residual_encoder_become_smaller_too(tmp_path: Path) -> None:
    stages = {"features_per_stage": [32, 64, 128], "strides": [[1, 1], [2, 2], [2, 2]], "kernel_sizes": [[3, 3]] * 3}
    blocks = {"n_stages": 3, "n_blocks_per_stage": [1, 3, 4], "n_conv_per_stage_decoder": [1, 1]}
    configuration = {"spacing": [1.0, 1.0], "patch_size": [64, 64], "batch_size": 12}
    configuration["architecture"] = {"arch_kwargs": {**stages, **blocks}}
    path = tmp_path / "plans.json"
    path.write_text(json.dumps({"configurations": {"2d": configuration}}))
    subprocess.run([sys.executable, str(EXAMPLE / "small_plans.py"), str(path)], check=True)
    network = json.loads(path.read_text())["configurations"]["2d"]["architecture"]["arch_kwargs"]
    assert network == {
        "n_stages": 2,
        "features_per_stage": [8, 16],
        "strides": [[1, 1], [2, 2]],
        "kernel_sizes": [[3, 3]] * 2,
        "n_blocks_per_stage": [1, 3],
        "n_conv_per_stage_decoder": [1],
    }


def test_every_file_of_settings_fits_the_schema() -> None:
    """Also those that a test does not run; a benchmark of the registry is known to the workflow."""
    schema = yaml.safe_load((EXAMPLE / "config.schema.yaml").read_text())
    config = yaml.safe_load((EXAMPLE / "config.yaml").read_text())
    assert config.keys() | {"smoke"} == schema["properties"].keys()
    assert {name for benchmark in config["benchmarks"].values() for name in benchmark["scores"]} == PROTOCOLS.keys()
    archives = schema["properties"]["benchmarks"]["additionalProperties"]["properties"]["archive"]["enum"]
    assert set(archives) == BENCHMARKS.keys()
    for name in ("smoke", *REGISTERED):
        assert yaml.safe_load((EXAMPLE / f"{name}.yaml").read_text()).keys() <= config.keys()


@pytest.mark.longer
def test_single_words_stand_for_lists(archives: Path) -> None:
    settings = ["acdc=ACDC.zip", "glas=GlaS.zip", "only=glas224", "folds=0", "trainers=nnUNetTrainer", "smoke=false"]
    code, output = dry_run(archives, "--config", *settings, "allow_incomplete=false", "-p")
    assert code == 0, output[-3000:]
    assert jobs(output) == {
        "convert": 1, "plan": 1, "preprocess": 1, "train": 1, "accumulate": 1, "predict": 1, "score": 2, "table": 1,
        "all": 1,
    }  # fmt: skip
    assert "--size 224  --overwrite" in output
    assert output.count("left out by only=glas224: acdc\n") == 1


def registered(name: str) -> list[list[str]]:
    """The commands that a registration names, as words."""
    text = (EXAMPLE / f"{name}.yaml").read_text()
    calls = re.findall(r"^#     (snakemake .*\n(?:#         .*\n)*)", text, re.MULTILINE)
    return [shlex.split(call.replace("\\\n#", "")) for call in calls]


def settings_of(command: list[str]) -> dict[str, Any]:
    """What stands behind --config, as the schema reads it."""
    given = dict(word.split("=", 1) for word in command[command.index("--config") + 1 :])
    lists = ("only", "trainers", "edit_plans", "glas", "monuseg", "acdc")
    values = {key: yaml.safe_load(value) for key, value in given.items()}
    return {key: [value] if key in lists and isinstance(value, str) else value for key, value in values.items()}


def test_what_is_registered_can_be_run() -> None:
    """Every command of every registration: its settings, its scripts and its trainers."""
    schema = yaml.safe_load((EXAMPLE / "config.schema.yaml").read_text())
    counts = {name: len(registered(name)) for name in REGISTERED}
    assert counts == {"paper": 9, "paper_gpu": 5, "acdc": 2}
    trainers = set()
    for name in REGISTERED:
        for command in registered(name):
            assert Path(command[command.index("--configfile") + 1]).stem == name
            settings = yaml.safe_load((EXAMPLE / f"{name}.yaml").read_text()) | settings_of(command)
            assert list(Draft202012Validator(schema).iter_errors(settings)) == []
            assert all((EXAMPLE / path).is_file() for path in settings.get("edit_plans", []))
            # plans that are edited or planned otherwise have a name of their own, which planning gives them
            named = re.findall(r"-overwrite_plans_name (\w+)", settings.get("planning", ""))
            assert named == ([] if settings["plans"] == "nnUNetPlans" else [settings["plans"]])
            trainers |= set(settings["trainers"])
    found = "from check_settings import unknown_trainers as unknown; import sys; print(*unknown(sys.argv[1:]))"
    places = os.pathsep.join(map(str, (EXAMPLE / "trainers", EXAMPLE.parent / "study/trainers", ROOT / "trainers")))
    environment = os.environ | {"PYTHONPATH": str(EXAMPLE), "nnUNet_extTrainer": places}
    run = [sys.executable, "-c", found, *sorted(trainers)]
    assert subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.longer
@pytest.mark.parametrize(
    ("name", "number", "data_set", "arms", "scores"),
    [
        # of each arm 5 folds and their ensemble predict; GlaS is scored as a whole and on its test A
        ("paper", 0, "Dataset228_GlaS224", 2, 24),
        ("paper", 2, "Dataset228_GlaS224", 2, 24),  # the plain U-Nets
        ("paper", 5, "Dataset328_MoNuSeg224", 2, 12),  # again
        ("paper_gpu", 4, "Dataset327_MoNuSeg", 2, 12),  # patches
        ("acdc", 0, "Dataset027_ACDC", 3, 18),
        ("acdc", 1, "Dataset027_ACDC", 3, 18),  # all patients
    ],
)
def test_what_is_registered_is_what_runs(
    archives: Path, name: str, number: int, data_set: str, arms: int, scores: int
) -> None:
    (archives / "examples").symlink_to(EXAMPLE.parent)
    command = registered(name)[number]
    settings = settings_of(command)
    for key in ("GLAS", "MONUSEG", "ACDC"):
        (archives / key).touch()
    done = subprocess.run([str(SNAKEMAKE), *command[1:], "-n", "-p"], cwd=archives, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = jobs(done.stdout + done.stderr)
    assert [found[rule] for rule in ("convert", "train", "predict", "score")] == [1, 5 * arms, 6 * arms, scores]
    config = yaml.safe_load((EXAMPLE / f"{name}.yaml").read_text()) | settings
    on_cpu = config["device"] == "cpu"
    trainings = re.findall(r"^.*nnUNetv2_train .*$", done.stdout + done.stderr, re.MULTILINE)
    assert len(trainings) == 5 * arms
    assert {re.search(r"-tr (\w+)", line)[1] for line in trainings} == set(config["trainers"])
    for line in trainings:
        assert f"-p {config['plans']} -device {config['device']} " in line
        assert ("on_one_core.py" in line) == on_cpu
        assert f" {int(data_set[7:10])} 2d " in line
    # scores come while others train: what is trained is predicted before the next training begins
    rules = re.findall(r"^rule (\w+):\n((?:    .*\n)*)", done.stdout + done.stderr, re.MULTILINE)
    first = {rule for rule, text in rules if "priority: 1" in text}
    assert first == {"accumulate", "predict", "score"}
    assert on_cpu == ("threads" not in next(text for rule, text in rules if rule == "predict"))


@pytest.fixture
def training(archives: Path) -> tuple[str, dict[str, str]]:
    """What the workflow runs for a training, and an environment in which `nnUNetv2_train` only notes that it ran."""
    settings = ["glas=GlaS.zip", "only=glas224", "folds=0", "trainers=nnUNetTrainer"]
    code, output = dry_run(archives, "-p", "--config", *settings)
    assert code == 0, output
    (shell,) = re.findall(r"^Shell command: (mkdir .*?logs/train.*?exit \$\?)$", output, re.MULTILINE | re.DOTALL)
    command(
        archives,
        "nnUNetv2_train",
        f"echo begin $nnUNet_n_proc_DA >> '{archives}/seen'; sleep 3; echo end >> '{archives}/seen'",
    )
    environment = {name: value for name, value in os.environ.items() if name != "nnUNet_n_proc_DA"}
    return shell, environment | {"PATH": f"{archives}/bin{os.pathsep}{os.environ['PATH']}", "GPUS": ""}


def command(folder: Path, name: str, text: str) -> None:
    """A command of this name in the folder's `bin`."""
    (folder / "bin").mkdir(exist_ok=True)
    path = folder / "bin" / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def trainings(count: int, shell: str, environment: dict[str, str]) -> list[bytes]:
    """What each of so many trainings says, started together."""
    running = [
        subprocess.Popen(["bash", "-euo", "pipefail", "-c", shell], env=environment, stdout=subprocess.PIPE)
        for _ in range(count)
    ]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * count
    return said


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock")
def test_a_fold_is_trained_once_at_a_time(archives: Path, training: tuple[str, dict[str, str]]) -> None:
    """Where Snakemake alone is killed, its training runs on; the next one waits for its end."""
    said = trainings(2, *training)
    # nnU-Net's workers are as many as the job has cores
    assert (archives / "seen").read_text().splitlines() == ["begin 12", "end"] * 2
    assert sum(b"waits: another training of this fold holds" in each for each in said) == 1


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock")
@pytest.mark.parametrize("gpus", ["", "5"])
def test_workers_that_outlive_their_training_hold_nothing(
    archives: Path, training: tuple[str, dict[str, str]], gpus: str
) -> None:
    command(archives, "nnUNetv2_train", f"sleep 60 & echo $! >> '{archives}/workers'; kill -9 $$")
    shell, environment = training
    environment |= {"GPUS": gpus, "TMPDIR": str(archives)}
    for _ in range(2):
        killed = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", shell], env=environment, stdout=subprocess.PIPE, timeout=30
        )
        assert (killed.returncode, killed.stdout) == (128 + signal.SIGKILL, b"")
    for worker in (archives / "workers").read_text().split():
        os.kill(int(worker), signal.SIGKILL)


def test_gpus_that_cannot_be_locked_are_said(tmp_path: Path) -> None:
    command(tmp_path, "flock", "exit 71")
    path = f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"GPUS": "5", "PATH": path, "TMPDIR": str(tmp_path)}
    script = [str(EXAMPLE / "on_a_free_gpu.sh"), "true"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert done.stderr.endswith("cannot be locked; leave out gpus, or set TMPDIR to a folder of this machine\n")


def test_where_nothing_can_be_locked_it_trains(archives: Path, training: tuple[str, dict[str, str]]) -> None:
    """As on some network drives, by what util-linux's flock ends with there; and somebody's own workers stay."""
    command(archives, "flock", "exit 71")
    shell, environment = training
    (said,) = trainings(1, shell, environment | {"nnUNet_n_proc_DA": "3"})
    assert (archives / "seen").read_text().splitlines() == ["begin 3", "end"]
    assert b"fold_0.log.lock cannot be locked" in said


def test_a_training_goes_on_from_what_is_whole(archives: Path, training: tuple[str, dict[str, str]]) -> None:
    """A checkpoint that was cut off while nnU-Net wrote it is set aside, and said in the training's log."""
    command(archives, "nnUNetv2_train", f"echo \"$@\" >> '{archives}/seen'")
    shell, environment = training
    fold = Path(re.findall(r"resume\.py '(.*?)'", shell)[0])
    fold.mkdir(parents=True)
    whole = fold / "checkpoint_whole"
    torch.save({"weights": torch.zeros(1000)}, whole)
    cut = whole.read_bytes()[:1000]
    for name, content in (("best", whole.read_bytes()), ("final", cut)):
        (fold / f"checkpoint_{name}.pth").write_bytes(content)
    trainings(1, shell, environment)
    assert sorted(path.name for path in fold.iterdir()) == [
        "checkpoint_best.pth",
        "checkpoint_final.damaged",
        "checkpoint_whole",
    ]
    (fold / "checkpoint_latest.pth").write_bytes(whole.read_bytes())
    trainings(1, shell, environment)
    assert [line.endswith("--c") for line in (archives / "seen").read_text().splitlines()] == [False, True]
    (log,) = archives.rglob("fold_0.log")
    assert log.read_text().count("checkpoint_final.pth was cut off") == 1


def test_half_of_the_patients_are_left_out_once(tmp_path: Path) -> None:
    """Run again it changes nothing; folds that were written anew are halved anew."""
    splits = tmp_path / "splits_final.json"

    def folds(count: int) -> list[dict[str, list[str]]]:
        names = [f"patient{number:03}_frame{frame}" for number in range(count) for frame in (1, 2)]
        return [{"train": names, "val": ["patient100_frame1"]}]

    for count, kept in ((4, [0, 2]), (8, [0, 2, 4, 6])):
        splits.write_text(json.dumps(folds(count)))
        for _ in range(2):
            script = [sys.executable, str(EXAMPLE / "half_of_the_patients.py"), str(tmp_path / "HalfResolution.json")]
            subprocess.run(script, check=True)
            (fold,) = json.loads(splits.read_text())
            assert fold["train"] == [f"patient{number:03}_frame{frame}" for number in kept for frame in (1, 2)]
            assert fold["val"] == ["patient100_frame1"]


@pytest.mark.longer
def test_a_missing_gpu_is_said_before_anything_runs(archives: Path) -> None:
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    run = snakemake("--config", "glas=GlaS.zip", "only=glas224")
    done = subprocess.run(run, cwd=archives, capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    assert "device: cuda, but torch sees no GPU here" in done.stderr
    assert "give device=cpu" in done.stderr
    assert not (archives / "leaderboard").exists()


@pytest.mark.longer
def test_scores_that_are_missing_are_made_although_a_table_is_there(archives: Path) -> None:
    """As of folds that were run one by one, and then all together."""
    work, data = archives / "leaderboard", "Dataset228_GlaS224"
    model = work / "nnUNet_results" / data / "nnUNetTrainer__nnUNetPlans__2d"
    preprocessed = work / "nnUNet_preprocessed" / data
    made = [
        work / "nnUNet_raw" / data / "dataset.json",
        preprocessed / "nnUNetPlans.json",
        preprocessed / "nnUNetPlans_2d.complete",
        model / "fold_0" / "validation" / "summary.json",
        model / "crossval_results_folds_0" / "summary.json",
        *(work / "table" / f"table{ending}" for ending in (".html", ".md", ".tex", ".csv", ".json")),
    ]
    for age, path in enumerate(reversed(made)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (time.time() - 10 * age, time.time() - 10 * age))
    code, output = dry_run(archives, "--config", "glas=GlaS.zip", "only=glas224", "folds=0", "trainers=nnUNetTrainer")
    assert code == 0, output
    assert jobs(output) == {"predict": 1, "score": 2, "table": 1, "all": 1}


@pytest.mark.longer
def test_an_ensemble_of_other_folds_makes_room(archives: Path) -> None:
    scores = archives / "leaderboard/scores"
    scores.mkdir(parents=True)
    name = "acdc__Dataset027_ACDC__nnUNetTrainer__nnUNetPlans__2d__"
    earlier = [scores / f"{name}ensemble_0_1{ending}" for ending in (".csv", ".json")]
    for path in (*earlier, scores / f"{name}0.csv"):
        path.touch()
    code, output = dry_run(archives, "-p", "--config", "acdc=ACDC.zip")
    assert code == 0, output
    # once the new scores are there; of SelfReg and of stock
    removed = [set(shlex.split(paths)) for paths in re.findall("leaderboard score .*\n *rm -f (.*)", output)]
    assert sorted(removed, key=len) == [set(), set(map(str, earlier))]


@pytest.mark.longer
def test_on_slurm_trainings_and_predictions_ask_for_a_gpu(archives: Path) -> None:
    profile = ["--profile", str(EXAMPLE / "profiles/slurm")]
    code, output = dry_run(archives, *profile, "--config", "acdc=ACDC.zip", "glas=GlaS.zip")
    assert code == 0, output[-3000:]
    # 2 trainers, 5 folds; ACDC, GlaS in two sizes. ACDC's folds predict together, those of GlaS alone; GlaS is scored
    # as a whole and on its test A
    assert jobs(output) == {
        "convert": 3, "plan": 3, "preprocess": 3, "train": 30, "accumulate": 6, "predict": 22, "score": 42, "table": 1,
        "all": 1,
    }  # fmt: skip
    resources: dict[str, set[str]] = {}
    for rule, text in re.findall(r"^rule (\w+):\n((?:    .*\n)*)", output, re.MULTILINE):
        resources.setdefault(rule, set()).update(re.findall(r"gpu=\d|slurm_partition=\w+|threads: \d+", text))
    assert resources["train"] == {"gpu=1", "slurm_partition=gpu", "threads: 12"}
    assert resources["predict"] == {"gpu=1", "slurm_partition=gpu", "threads: 8"}
    assert resources["preprocess"] == {"slurm_partition=cpu", "threads: 4"}


@pytest.mark.skipif(shutil.which("flock") is None, reason="needs flock")
def test_gpus_are_shared_out(tmp_path: Path) -> None:
    """Three commands on two GPUs: each has one for itself, and the third waits."""
    shown = 'echo "$CUDA_VISIBLE_DEVICES $(date +%s.%N)"; sleep 3; date +%s.%N'
    environment = os.environ | {"GPUS": "5 7", "TMPDIR": str(tmp_path)}
    share = [str(EXAMPLE / "on_a_free_gpu.sh"), "bash", "-c", shown]
    running = [subprocess.Popen(share, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    uses: dict[str, list[tuple[float, float]]] = {}
    for process in running:
        gpu, begin, end = process.communicate()[0].split()
        uses.setdefault(gpu, []).append((float(begin), float(end)))
    assert sorted(map(len, uses.values())) == [1, 2]
    assert set(uses) == {"5", "7"}
    first, second = sorted(max(uses.values(), key=len))
    assert first[1] < second[0]


def kill_when(condition: Callable[[], bool], run: list[str], folder: Path) -> None:
    """Kills a run with everything it started as soon as the condition holds, then unlocks its folder."""
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(run, cwd=folder, stdout=output, stderr=output, start_new_session=True)
    try:
        while not condition():
            assert process.poll() is None, log.read_text()[-3000:]
            time.sleep(0.1)
    finally:
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    subprocess.run([*run, "--unlock"], cwd=folder, capture_output=True, check=True)


def finish(run: list[str], folder: Path) -> None:
    done = subprocess.run(run, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("only", [["acdc"], ["acdc", "glas224"]], ids="-".join)
def test_smoke_run_killed_and_resumed(tmp_path: Path, stock_trainers: None, only: list[str]) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    work = folder / "leaderboard_smoke"
    settings = ["--config", "smoke=true", f"only={json.dumps(only)}"]
    run = snakemake(*settings)
    models = 2 * len(only)  # stock and SelfReg, each of two folds

    def trained() -> dict[Path, int]:
        return {
            path: path.stat().st_mtime_ns for path in work.glob("nnUNet_results/*/*/fold_*/validation/summary.json")
        }

    kill_when(lambda: "(Rule: train)" in (folder / "log").read_text(), run, folder)  # said of a job that is finished
    before = trained()
    assert len(before) < 2 * models
    finish(run, folder)
    kept = before.items() & trained().items()  # what was trained is not trained again, but for what ended with the kill
    assert len(kept) >= max(1, len(before) - 1)
    assert len(trained()) == 2 * models
    assert len(list(work.glob("nnUNet_results/*/*/crossval_results_folds_0_1/summary.json"))) == models
    table = json.loads((work / "table/table.json").read_text())
    sections = {(section["benchmark"], section["protocol"]): section for section in table["tables"]}
    each_alone = f"each fold alone, 224 x 224, {RESIZED}"
    pictures = {("glas224", each_alone), ("glas_test_a", each_alone)}
    assert set(sections) == {("acdc", "ensemble of folds")} | (pictures if "glas224" in only else set())
    for section in sections.values():
        assert [arm["trainer"] for arm in section["arms"]] == [STOCK, SELFREG]
        assert all("missing" in arm["incomplete"][0] for arm in section["arms"])
        measures = {(row["rule"], row["metric"]) for row in section["rows"]}
        differences = [row for row in section["rows"] if row["kind"] == "difference" and row["class"] == "mean"]
        assert len(differences) == len(measures) > 0
    for arm in sections["acdc", "ensemble of folds"]["arms"]:
        assert arm["runs"]["ensemble"]["epochs"] == {"0": 1, "1": 1}
        assert "2 of 5 folds in the ensemble" in arm["incomplete"]
    for arm in sections.get(("glas224", each_alone), {"arms": []})["arms"]:
        assert "2 of 5 folds" in arm["incomplete"]

    # scores and the folds' common evaluation are made anew where they lie
    made = [*(work / "scores").iterdir(), *work.glob("nnUNet_results/*/*/crossval_results_folds_0_1/summary.json")]
    times = {path: path.stat().st_mtime_ns for path in made}
    finish([*run, "--forcerun", "score", "accumulate"], folder)
    assert all(path.stat().st_mtime_ns > before for path, before in times.items())

    # a training that is killed begins anew: nnU-Net writes its latest checkpoint in every 50th epoch, and the one that
    # is best on the validation fold is left alone
    fold = work / "nnUNet_results/Dataset027_ACDC/nnUNetTrainerSelfReg_5epochs__nnUNetPlansSmoke__2d/fold_0"
    run = snakemake(str(fold / "validation/summary.json"), *settings)
    kill_when((fold / "checkpoint_best.pth").is_file, run, folder)
    finish(run, folder)
    first, second = (path.read_text() for path in sorted(fold.glob("training_log_*.txt")))
    assert "Epoch 0" in first
    assert "Epoch 4" not in first
    assert "Epoch 0" in second
    assert "Epoch 4" in second
