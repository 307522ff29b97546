"""The examples' scripts: what they run, in a folder with a space, with commands that only note what they are given."""

import json
import os
import subprocess
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
# notes its arguments; then it makes what the next step of a script looks for
STUB = """#!/usr/bin/env python3
import json, os, sys
from pathlib import Path

name, arguments = Path(sys.argv[0]).name, sys.argv[1:]
with open(os.environ["NOTED"], "a") as file:
    file.write(json.dumps([name, *arguments]) + "\\n")
if arguments[:2] == ["convert", "acdc"]:
    Path(os.environ["nnUNet_raw"], "Dataset027_ACDC").mkdir()
if name == "nnUNetv2_train":
    model = Path(os.environ["nnUNet_results"], "Dataset027_ACDC/nnUNetTrainerSelfReg__nnUNetPlans__2d")
    validation = model / ("fold_" + arguments[2]) / "validation"
    validation.mkdir(parents=True, exist_ok=True)
    (validation / "summary.json").touch()
if name == "nnUNetv2_predict":
    Path(arguments[arguments.index("-o") + 1]).mkdir(parents=True)
if arguments[:2] == ["leaderboard", "table"]:
    Path(arguments[2]).mkdir(exist_ok=True)
    (Path(arguments[2]) / "table.md").write_text("| row |\\n\\n| another table |\\n")
"""


@pytest.mark.parametrize(
    "script", sorted(EXAMPLES.rglob("*.sh")), ids=lambda path: path.relative_to(EXAMPLES).as_posix()
)
def test_bash_can_read_it(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def run(script: str, folder: Path, *arguments: str) -> tuple[str, list[list[str]]]:
    """What the script prints, and the commands that it runs."""
    noted = folder / "noted"
    noted.unlink(missing_ok=True)
    environment = os.environ | {
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "NOTED": str(noted),
        "FOLDS": "0 1",
        "DEVICE": "cpu",
    }
    done = subprocess.run(
        ["bash", EXAMPLES / script, *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, [json.loads(line) for line in noted.read_text().splitlines()]


def test_acdc_from_the_archive_to_the_table(tmp_path: Path) -> None:
    folder = tmp_path / "a folder"
    (folder / "bin").mkdir(parents=True)
    commands = ("selfreg", "plan_and_preprocess", "train", "predict")
    for path in (folder / "bin" / f"nnUNetv2_{name}" for name in commands):
        path.write_text(STUB)
        path.chmod(0o755)
    printed, noted = run("acdc/run.sh", folder, "ACDC.zip", "the work")
    assert printed == "| row |\n"
    work = folder / "the work"
    raw, predictions = work / "nnUNet_raw/Dataset027_ACDC", noted[4][-1]
    assert predictions.startswith(f"{work}/predictions/")
    options = ["-tr", "nnUNetTrainerSelfReg", "-p", "nnUNetPlans", "-device", "cpu"]
    scores = str(work / "results/nnUNetTrainerSelfReg__nnUNetPlans__2d.csv")
    model = str(work / "nnUNet_results/Dataset027_ACDC/nnUNetTrainerSelfReg__nnUNetPlans__2d")
    assert noted == [
        ["nnUNetv2_selfreg", "convert", "acdc", "ACDC.zip"],
        ["nnUNetv2_plan_and_preprocess", "-d", "27", "-c", "2d"],
        ["nnUNetv2_train", "027", "2d", "0", *options],
        ["nnUNetv2_train", "027", "2d", "1", *options],
        [
            "nnUNetv2_predict",
            "-d",
            "27",
            "-c",
            "2d",
            "-f",
            "0",
            "1",
            *options,
            "-i",
            f"{raw}/imagesTs",
            "-o",
            predictions,
        ],
        [
            *("nnUNetv2_selfreg", "leaderboard", "score", "acdc", predictions, f"{raw}/labelsTs"),
            *(
                "--dataset-json",
                f"{raw}/dataset.json",
                "--model",
                model,
                "--folds",
                "0",
                "1",
                "-o",
                scores,
                "--overwrite",
            ),
        ],
        ["nnUNetv2_selfreg", "leaderboard", "table", f"{work}/results"],
    ]
    # run again: what is there is not made again; a training that was interrupted goes on
    fold = Path(model, "fold_1")
    (fold / "validation/summary.json").unlink()
    with (fold / "checkpoint_latest.pth").open("wb") as file:  # an empty zip archive, as far as it is looked at
        file.write(b"PK\x05\x06" + bytes(18))
    noted = run("acdc/run.sh", folder, "ACDC.zip", "the work")[1]
    assert [line[:2] for line in noted] == [["nnUNetv2_train", "027"], *2 * [["nnUNetv2_selfreg", "leaderboard"]]]
    assert noted[0] == ["nnUNetv2_train", "027", "2d", "1", *options, "--c"]
