"""Writes the scores, curves and settings of every finished run of config.yaml to results/: collect.py WORK

WORK is the workflow's folder. A run that is not finished there is named; what results/ holds of it stays. Beside the
scores go the plans and folds of the data sets, and the versions that are installed here.
"""

import csv
import json
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from math import isnan
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from nnunetv2_selfreg.checkpoints import load_checkpoint
from nnunetv2_selfreg.leaderboard.model import describe_model

RESULTS = Path(__file__).parent / "results"
RUN = ["dataset", "arm", "repetition", "fold"]
PACKAGES = ["nnunetv2-selfreg", "nnunetv2", "torch", "numpy", "dynamic-network-architectures", "batchgeneratorsv2"]
Key = tuple[str, ...]  # the columns of RUN
CURVES = {  # our columns, nnU-Net's and SelfReg's names of them
    "train_loss": "train_losses",
    "val_loss": "val_losses",
    "pseudo_dice": "mean_fg_dice",
    "scr": "scr",
    "ifd": "ifd",
    "share": "selfreg_share",
}
COLUMNS = {
    "scores": [*RUN, "case", "cluster", "class", "dice"],
    "curves": [*RUN, "epoch", *CURVES],
    "runs": [
        *RUN, "registered", "trainer", "plans", "network", "lambda_scr", "lambda_ifd", "epochs", "iterations",
        "training_cases", "started", "seconds",
    ],
}  # fmt: skip


def runs(config: dict[str, Any], work: Path) -> Iterator[tuple[list[Any], dict[str, Any], str, Path]]:
    """Every run: what names it, its data set's entry in the configuration, if it was registered first, its folder."""
    for entry in config["runs"]:
        data = config["data"][entry["data"]]
        for arm in entry["arms"]:
            about = config["arms"][arm]
            model = f"{about['trainer']}{config['length']}__{about.get('plans', 'Study')}__{config['configuration']}"
            for fold in entry["folds"]:
                results = work / f"repetition_{entry['repetition']}" / data["folder"] / model
                # the low-data folds 5 to 9 validate on the cases of 0 to 4
                names = [entry["dataset"], arm, entry["repetition"], fold % 5]
                yield names, data, "no" if entry.get("added") else "yes", results / f"fold_{fold}"


def scores(data: dict[str, Any], folder: Path) -> Iterator[list[Any]]:
    summary = json.loads((folder / "validation/summary.json").read_text())
    for case in summary["metric_per_case"]:
        name = Path(case["prediction_file"]).name.removesuffix(".nii.gz")
        cluster = re.fullmatch(data["cluster"], name)[1]
        for label, title in data["classes"].items():
            dice = case["metrics"][str(label)]["Dice"]
            yield [name, cluster, title, "" if isnan(dice) else dice]


def curves(log: dict[str, list[float]]) -> Iterator[list[Any]]:
    for epoch in range(len(log["train_losses"])):
        yield [epoch, *(f"{log[name][epoch]:.6g}" if name in log else "" for name in CURVES.values())]


def run(log: dict[str, list[float]], registered: str, work: Path, folder: Path) -> list[Any]:
    about = describe_model(folder.parent, folder.name.removeprefix("fold_"))
    fold, settings = int(folder.name.removeprefix("fold_")), about["selfreg"] or {}
    splits = json.loads((work / "nnUNet_preprocessed" / about["dataset"] / "splits_final.json").read_text())
    times = zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"], strict=True)
    epochs = len(log["train_losses"])
    iterations = epochs * int(json.loads((folder / "debug.json").read_text())["num_iterations_per_epoch"])
    weights = [settings.get(name, 0) for name in ("lambda_scr", "lambda_ifd")]
    seconds = round(epochs * median(end - start for start, end in times), 1)  # a pause counts in one epoch alone
    started = datetime.fromtimestamp(log["epoch_start_timestamps"][0], UTC).isoformat(timespec="seconds")
    model = [registered, about["trainer"], about["plans"], about["network"], *weights]
    return [*model, epochs, iterations, len(splits[fold]["train"]), started, seconds]


def copy_origin(config: dict[str, Any], work: Path) -> None:
    """The plans and folds of every data set, as nnU-Net read them, and the versions."""
    for data in config["data"].values():
        folder = work / "nnUNet_preprocessed" / data["folder"]
        target = RESULTS / data["folder"]
        for path in [*folder.glob("Study*.json"), *folder.glob("splits_final.json")]:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.name)
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    (RESULTS / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


def read_rows(path: Path) -> dict[Key, list[list[Any]]]:
    """The rows of a table by run; none where there is no file."""
    rows: dict[Key, list[list[Any]]] = {}
    if path.is_file():
        with open(path, newline="") as file:
            for row in list(csv.reader(file))[1:]:
                rows.setdefault(tuple(row[: len(RUN)]), []).append(row)
    return rows


def main() -> None:
    work = Path(sys.argv[1])
    config = yaml.safe_load((Path(__file__).parent / "config.yaml").read_text())
    known = {name: read_rows(RESULTS / f"{name}.csv") for name in COLUMNS}
    rows: dict[str, dict[Key, list[list[Any]]]] = {name: {} for name in COLUMNS}
    for names, data, registered, folder in runs(config, work):
        key = tuple(map(str, names))
        if not (folder / "validation/summary.json").is_file():
            print("not finished:", *names)
            for name in COLUMNS:
                rows[name][key] = known[name].get(key, [])
            continue
        log = load_checkpoint(folder / "checkpoint_final.pth")["logging"]
        rows["scores"][key] = [names + row for row in scores(data, folder)]
        rows["curves"][key] = [names + row for row in curves(log)]
        rows["runs"][key] = [names + run(log, registered, work, folder)]
    RESULTS.mkdir(exist_ok=True)
    for name, columns in COLUMNS.items():
        with open(RESULTS / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            elsewhere = (its_rows for key, its_rows in known[name].items() if key not in rows[name])
            for its_rows in (*rows[name].values(), *elsewhere):
                writer.writerows(its_rows)
    copy_origin(config, work)


if __name__ == "__main__":
    main()
