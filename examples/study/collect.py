"""Writes the scores, curves and settings of every finished run of a study to its results: collect.py WORK

A run that is not finished in WORK, the workflow's folder, is named; what the results hold of it stays. Beside the
scores go the plans and folds of the data sets, and the versions that are installed here.
"""

import argparse
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
from comparison import RUN
from reading import COLUMNS

from nnunetv2_selfreg.checkpoints import load_checkpoint
from nnunetv2_selfreg.leaderboard.model import describe_model

HERE = Path(__file__).parent
PACKAGES = ["nnunetv2-selfreg", "nnunetv2", "torch", "numpy", "dynamic-network-architectures", "batchgeneratorsv2"]
Key = tuple[str, ...]  # the columns of RUN
CURVES = {  # the columns of curves.csv after the epoch, by nnU-Net's and SelfReg's names
    "train_loss": "train_losses",
    "val_loss": "val_losses",
    "pseudo_dice": "mean_fg_dice",
    "scr": "scr",
    "ifd": "ifd",
    "share": "selfreg_share",
}
STARTED = COLUMNS["runs"].index("started")


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


def copy_origin(config: dict[str, Any], work: Path, results: Path) -> None:
    """The plans and folds of every data set, as nnU-Net read them, and the versions."""
    for data in config["data"].values():
        folder = work / "nnUNet_preprocessed" / data["folder"]
        target = results / data["folder"]
        for path in [*folder.glob("Study*.json"), *folder.glob("splits_final.json")]:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target / path.name)
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    (results / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


def read_rows(path: Path) -> dict[Key, list[list[Any]]]:
    """The rows of a table by run; none where there is no file."""
    rows: dict[Key, list[list[Any]]] = {}
    if path.is_file():
        with open(path, newline="") as file:
            for row in list(csv.reader(file))[1:]:
                rows.setdefault(tuple(row[: len(RUN)]), []).append(row)
    return rows


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the workflow's folder")
    parser.add_argument("--study", type=Path, default=HERE / "config.yaml", help="the study; default: config.yaml")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where to write; default: results")
    parser.add_argument("--replace", action="store_true", help="replace runs that another training stands there for")
    parsed = parser.parse_args(arguments)
    work, results = parsed.work, parsed.results
    config = yaml.safe_load(parsed.study.read_text())
    known = {name: read_rows(results / f"{name}.csv") for name in COLUMNS}
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
        stands = known["runs"].get(key, rows["runs"][key])[0][STARTED]
        if stands != rows["runs"][key][0][STARTED] and not parsed.replace:
            sys.exit(f"{results} holds another training of {' '.join(key)}; add --replace, or --results FOLDER")
    results.mkdir(parents=True, exist_ok=True)
    for name, columns in COLUMNS.items():
        with open(results / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            elsewhere = (its_rows for key, its_rows in known[name].items() if key not in rows[name])
            for its_rows in (*rows[name].values(), *elsewhere):
                writer.writerows(its_rows)
    copy_origin(config, work, results)


if __name__ == "__main__":
    main()
