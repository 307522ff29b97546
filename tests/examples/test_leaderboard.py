"""examples/leaderboard: the whole chain with its real commands, killed and resumed; SLURM's profile as a dry run."""

import json
import os
import re
import shlex
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from nnunetv2_selfreg.benchmarks.registry import BENCHMARKS, PROTOCOLS

EXAMPLE = Path(__file__).parents[2] / "examples/leaderboard"
SNAKEMAKE = Path(sysconfig.get_path("scripts")) / "snakemake"
PATCHES = "planning=-gpu_memory_target 1.5 -overwrite_plans_name Patches"
PLAIN = [
    *("only=[glas224]", "plans=PlainQuarterWidth", "edit_plans=[quarter_width.py,plain_unet.py]"),
    "planning=-overwrite_plans_name PlainQuarterWidth",
    "trainers=[nnUNetTrainerPlain_4000steps,nnUNetTrainerSelfRegPlain_4000steps]",
]
FORM = "trainers=[nnUNetTrainerSelfRegDecorrelation_4000steps]"
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
        (["only=[acdc]", "glas=GlaS.zip"], "no archive is given: --config acdc=ACDC.zip"),
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


def test_every_file_of_settings_fits_the_schema() -> None:
    """Also those that a test does not run; a benchmark of the registry is known to the workflow."""
    schema = yaml.safe_load((EXAMPLE / "config.schema.yaml").read_text())
    config = yaml.safe_load((EXAMPLE / "config.yaml").read_text())
    assert config.keys() | {"smoke"} == schema["properties"].keys()
    assert {name for benchmark in config["benchmarks"].values() for name in benchmark["scores"]} == PROTOCOLS.keys()
    archives = schema["properties"]["benchmarks"]["additionalProperties"]["properties"]["archive"]["enum"]
    assert set(archives) == BENCHMARKS.keys()
    for name in ("smoke", "paper"):
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


@pytest.mark.longer
@pytest.mark.parametrize(
    ("settings", "data_sets", "arms", "scores"),
    [
        (["glas=GlaS.zip", "monuseg=MoNuSeg.zip"], ["Dataset228_GlaS224", "Dataset328_MoNuSeg224"], 2, 30),
        (
            # the registration's call with patches on a GPU
            ["monuseg=MoNuSeg.zip", "only=[monuseg]", "plans=Patches", "edit_plans=null", "training=", PATCHES],
            ["Dataset327_MoNuSeg"],
            2,
            10,
        ),
        (["glas=GlaS.zip", *PLAIN], ["Dataset228_GlaS224"], 2, 20),  # the plain U-Nets
        (["glas=GlaS.zip", FORM], ["Dataset228_GlaS224"], 1, 10),
    ],
)  # fmt: skip
def test_the_paper_s_benchmarks(
    archives: Path, settings: list[str], data_sets: list[str], arms: int, scores: int
) -> None:
    (archives / "MoNuSeg.zip").touch()
    code, output = dry_run(archives, "--configfile", str(EXAMPLE / "paper.yaml"), "-p", "--config", *settings)
    assert code == 0, output[-3000:]
    found = jobs(output)
    # of each arm 5 folds, each of which predicts alone; GlaS is scored as a whole and on its test A
    counts = found["convert"], found["train"], found["score"]
    assert counts == (len(data_sets), 5 * arms * len(data_sets), scores)
    assert set(re.findall(r"Dataset\d{3}_\w+(?=/dataset.json)", output)) == set(data_sets)


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
    removed = [set(shlex.split(paths)) for paths in re.findall("rm -f (.*)", output)]
    assert sorted(removed, key=len) == [set(), set(map(str, earlier))]  # of SelfReg and of stock


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


def test_gpus_are_shared_out(tmp_path: Path) -> None:
    """Three commands on two GPUs: each has one for itself, and the third waits."""
    shown = 'echo "$CUDA_VISIBLE_DEVICES $(date +%s.%N)"; sleep 1; date +%s.%N'
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
    while not condition():
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
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
    assert before.items() & trained().items()  # what was trained is not trained again
    assert len(trained()) == 2 * models
    assert len(list(work.glob("nnUNet_results/*/*/crossval_results_folds_0_1/summary.json"))) == models
    table = json.loads((work / "table/table.json").read_text())
    sections = {(section["benchmark"], section["protocol"]): section for section in table["tables"]}
    each_alone = "each fold alone, 224 x 224"
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

    # scores are made anew where they lie
    scores = {path: path.stat().st_mtime_ns for path in (work / "scores").iterdir()}
    finish([*run, "--forcerun", "score"], folder)
    assert all(path.stat().st_mtime_ns > before for path, before in scores.items())

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
