"""Writes the scores, curves and settings of every finished run of a study to its results: collect.py WORK

A run that is not finished in WORK, the workflow's folder, is named; what the results hold of it stays. Beside the
scores go the plans and folds of the data sets, and the versions that are installed here.
"""

import argparse
import json
import platform
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from math import isnan
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "leaderboard"))

from evidence import KEY
from reading import COLUMNS
from see_trainers import see_trainers

from nnunetv2_selfreg.benchmarks.score import describe_training
from nnunetv2_selfreg.files import copy_files, read_json, write_json, write_text
from nnunetv2_selfreg.model_folder import load_checkpoint

HERE = Path(__file__).parent
PACKAGES = ["nnunetv2-selfreg", "nnunetv2", "torch", "numpy", "dynamic-network-architectures", "batchgeneratorsv2"]
CURVES = {  # the columns of curves.csv after the epoch, by nnU-Net's and SelfReg's names
    "train_loss": "train_losses",
    "val_loss": "val_losses",
    "pseudo_dice": "mean_fg_dice",
    "scr": "scr",
    "ifd": "ifd",
    "share": "selfreg_share",
}


def runs(config: dict[str, Any], work: Path) -> Iterator[tuple[list[Any], dict[str, Any], str, Path]]:
    """Every run: what names it, its data set's entry in the configuration, if it was registered first, its folder."""
    for entry in config["runs"]:
        data = config["data"][entry["data"]]
        for arm in entry["arms"]:
            named = config["arms"][arm]
            model = f"{named['trainer']}{config['length']}__{named.get('plans', 'Study')}__{config['configuration']}"
            for fold in entry["folds"]:
                results = work / f"repetition_{entry['repetition']}" / data["folder"] / model
                # the low-data folds 5 to 9 validate on the cases of 0 to 4
                names = [entry["dataset"], arm, entry["repetition"], fold % 5]
                yield names, data, "no" if entry.get("added") else "yes", results / f"fold_{fold}"


def scores(data: dict[str, Any], folder: Path) -> Iterator[list[Any]]:
    summary = read_json(folder / "validation/summary.json")
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
    fold = folder.name.removeprefix("fold_")
    training = describe_training(folder.parent, fold)
    splits = json.loads((work / "nnUNet_preprocessed" / training["dataset"] / "splits_final.json").read_text())
    times = zip(log["epoch_start_timestamps"], log["epoch_end_timestamps"], strict=True)
    epochs = len(log["train_losses"])
    iterations = epochs * int(read_json(folder / "debug.json")["num_iterations_per_epoch"])
    weights = [(training["selfreg"] or {}).get(name, 0) for name in ("lambda_scr", "lambda_ifd")]
    seconds = round(epochs * median(end - start for start, end in times), 1)  # a pause counts in one epoch alone
    started = datetime.fromtimestamp(log["epoch_start_timestamps"][0], UTC).isoformat(timespec="seconds")
    model = [registered, training["trainer"], training["plans"], training["network"], *weights]
    return [*model, epochs, iterations, len(splits[int(fold)]["train"]), started, seconds]


def stored(results: Path, name: str) -> pd.DataFrame:
    """A table of the results, as text; without rows where there is none."""
    path = results / f"{name}.csv"
    if not path.is_file():
        return pd.DataFrame(columns=COLUMNS[name], dtype=str)
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def keys(table: pd.DataFrame) -> pd.Series:
    """What names the run of each row."""
    return table[KEY].agg(" ".join, axis=1) if len(table) else pd.Series(dtype=str)


def places(stored: pd.Series, order: dict[str, int]) -> dict[str, int]:
    """Where each run belongs: a study's in its order, others above or below it, as they are stored."""
    ours = stored.isin(list(order)).to_numpy(bool)
    first = ours.argmax() if ours.any() else len(ours)
    return {key: -1 if row < first else len(order) for row, key in enumerate(stored)} | order


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="the workflow's folder")
    parser.add_argument("--study", type=Path, default=HERE / "config.yaml", help="the study; default: config.yaml")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where to write; default: results")
    parser.add_argument("--replace", action="store_true", help="replace runs that another training stands there for")
    parsed = parser.parse_args(arguments)
    work, results = parsed.work, parsed.results
    see_trainers(HERE / "trainers")  # as in the workflow
    config = yaml.safe_load(parsed.study.read_text())
    known = {name: stored(results, name) for name in COLUMNS}
    started = dict(zip(keys(known["runs"]), known["runs"]["started"], strict=True))
    rows: dict[str, list[list[Any]]] = {name: [] for name in COLUMNS}
    order: dict[str, int] = {}
    for names, data, registered, folder in runs(config, work):
        key = " ".join(map(str, names))
        order[key] = len(order)
        if not (folder / "validation/summary.json").is_file():
            print("not finished:", key)
            continue
        log = load_checkpoint(folder / "checkpoint_final.pth")["logging"]
        rows["scores"] += [names + row for row in scores(data, folder)]
        rows["curves"] += [names + row for row in curves(log)]
        rows["runs"].append(names + run(log, registered, work, folder))
        now = rows["runs"][-1][COLUMNS["runs"].index("started")]
        if started.get(key, now) != now and not parsed.replace:
            sys.exit(f"{results} holds another training of {key}; add --replace, or --results FOLDER")
    for name, columns in COLUMNS.items():
        fresh = pd.DataFrame([list(map(str, row)) for row in rows[name]], columns=columns, dtype=str)
        stays = known[name][~keys(known[name]).isin(keys(fresh)).to_numpy(bool)]
        table = pd.concat([fresh, stays], ignore_index=True)
        place = keys(table).map(places(keys(known[name]), order))
        table = table.iloc[place.argsort(kind="stable")] if len(table) else table
        write_text(results / f"{name}.csv", table.to_csv(index=False, lineterminator="\n"))
    for data in config["data"].values():
        folder = work / "nnUNet_preprocessed" / data["folder"]
        if folder.is_dir():
            copy_files(folder, results / data["folder"], ["Study*.json", "splits_final.json"])
    versions = {"python": platform.python_version()} | {name: version(name) for name in PACKAGES}
    write_json(results / "versions.json", versions, indent=1)


if __name__ == "__main__":
    main()
