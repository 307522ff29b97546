"""Every test case of a benchmark scored by the benchmark's rule and by nnU-Net's, with what made the predictions."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.benchmarks.datasets import check_dataset, check_model, masks_of
from nnunetv2_selfreg.benchmarks.metrics import Labels, scores
from nnunetv2_selfreg.benchmarks.protocol import ENSEMBLE, NATIVE, SMALL, Protocol
from nnunetv2_selfreg.benchmarks.registry import PROTOCOLS
from nnunetv2_selfreg.benchmarks.run_files import RUN_COLUMNS, check_new, write_run
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import listed, read_json
from nnunetv2_selfreg.model_folder import CHECKPOINT, ModelFolder, load_checkpoint
from nnunetv2_selfreg.reading import read_labels

FOLDS = 5
GEOMETRY_TOLERANCE = 1e-3  # mm; files keep spacing and origin in single precision


@dataclass(frozen=True)
class Run:
    """Predictions of one model for one benchmark."""

    benchmark: str  # a key of PROTOCOLS
    predictions: Path  # folder of label maps
    references: Path
    dataset_json: Path  # of the data set that these belong to
    model: Path | None = None  # its folder; without one the run is named after the results file, and compared with none
    fold: str = ENSEMBLE  # that predicted
    folds: Sequence[int] | None = None  # of the ensemble; None for every one that the model has
    seed: int | None = None  # of the training, where several of the same fold are compared


def write_scores(run: Run, output: Path, allow_incomplete: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Scores a run into a tidy CSV, and into the JSON file beside it what made the predictions.

    Args:
        run: What to score.
        output: The CSV; its name is the run's name.
        allow_incomplete: Whether references without prediction are left out and recorded instead of refused.
        overwrite: Whether files of an earlier run may be replaced.

    Returns:
        What is written to the JSON file.

    Raises:
        SelfRegError: A file is missing, one too many, unreadable, or does not fit its reference or the benchmark; the
            model was trained on other data; or the output exists already.
    """
    if not overwrite:
        check_new(output)
    benchmark = PROTOCOLS[run.benchmark]
    dataset = read_json(run.dataset_json, "dataset.json")
    converted = check_dataset(run.dataset_json, run.benchmark, benchmark, dataset)
    reader = _reader(dataset)
    training: dict[str, Any] = {"trainer": output.stem, "plans": "", "configuration": "", "epochs": {}, "torch": []}
    if run.model is not None:
        check_model(run.model, run.dataset_json, dataset, benchmark)
        training = describe_training(run.model, run.fold, run.folds)
    ending = dataset["file_ending"]
    cases, unpredicted = _cases(run, benchmark, ending, allow_incomplete)
    clusters = {case: benchmark.cluster_of(case) for case in cases}

    sizes, rows = set(), []
    for case in cases:
        pair = _read_pair(reader, run, case + ending, len(benchmark.classes))
        sizes.add(_size(run.benchmark, case, pair[1]))
        found = scores(benchmark.metrics, benchmark.classes, *pair)
        rows += [(case, clusters[case], *values) for values in found]
    if len(sizes) > 1:
        raise SelfRegError(f"{run.references} mixes images of {SMALL} with others; score each size alone")
    folds = {ENSEMBLE: "ensemble of folds", "all": "one model of all training cases"}.get(run.fold, "each fold alone")
    torch = ", ".join(training.pop("torch") or [version("torch")])
    masks = masks_of(benchmark, converted)
    sidecar = {
        "benchmark": run.benchmark,
        "protocol": ", ".join(filter(None, (folds, *sizes, masks))),
        "masks": masks,
        "fold": run.fold,
        "seed": run.seed,
        **training,
        "versions": {"nnunetv2": version("nnunetv2"), "nnunetv2-selfreg": __version__, "torch": torch},
        "cases": len(cases),
        "clusters": len(set(clusters.values())),
        "missing": {**converted.get("missing", {}), "predictions": unpredicted},
    }
    sidecar["incomplete"] = _incomplete(benchmark, sidecar, converted.get("complete", True))
    table = pd.DataFrame(rows, columns=["case", "cluster", "rule", "metric", "class", "value"])
    return write_run(output, table.assign(**{name: sidecar[name] for name in RUN_COLUMNS}), sidecar)


def describe_training(model: Path, fold: str, folds: Sequence[int] | None = None) -> dict[str, Any]:
    """Reads how a model was trained.

    Args:
        model: The model folder, `DATASET/TRAINER__PLANS__CONFIGURATION`.
        fold: The fold that predicted, or `ensemble`.
        folds: The folds of the ensemble; None for every numbered fold that is finished, or, where none is, begun.

    Returns:
        `trainer`, `plans`, `configuration`, `dataset`; `stock`, the name of the trainer that a SelfReg trainer adds
        SelfReg to, None for a trainer without SelfReg; `network`, a digest of the configuration without SelfReg's
        settings, equal for models that differ in these alone; `selfreg`, the settings that the training used, None for
        a stock trainer; `epochs` by fold, None where there is no final checkpoint; `torch` versions of the training.

    Raises:
        SelfRegError: The folder is not a model folder, lacks the fold, a file in it cannot be read, or its trainer is
            not installed.
    """
    folder = ModelFolder.open(model)
    dataset = folder.plans.get("dataset_name")
    network = {key: value for key, value in folder.resolved.items() if key not in ("selfreg", "inherits_from")}
    digest = hashlib.sha256(json.dumps({"dataset": dataset, **network}, sort_keys=True).encode()).hexdigest()
    places = _fold_folders(folder, fold, folds)
    logs = [read_json(path, "log of nnU-Net") for place in places if (path := place / "debug.json").is_file()]
    epochs = {
        place.name.removeprefix("fold_"): int(load_checkpoint(path)["current_epoch"]) if path.is_file() else None
        for place in places
        for path in [place / CHECKPOINT]
    }
    return {
        "trainer": folder.trainer,
        "plans": folder.plans_name,
        "configuration": folder.configuration,
        "dataset": dataset or folder.dataset,
        "stock": folder.base_name,
        "network": digest[:16],
        "selfreg": folder.settings.as_plans() if folder.settings else None,
        "epochs": epochs,
        "torch": sorted({log["torch_version"] for log in logs if "torch_version" in log}),
    }


def _fold_folders(folder: ModelFolder, fold: str, folds: Sequence[int] | None) -> list[Path]:
    there = folder.folds(None)
    finished, begun = (list(filter(str.isdecimal, names)) for names in (folder.folds(CHECKPOINT), there))
    numbers = list(map(str, folds)) if folds is not None else finished or begun
    wanted = numbers if fold == ENSEMBLE else [fold]
    if missing := [f"fold_{name}" for name in wanted if name not in there] or ["numbered fold"] * (not wanted):
        asked = f"--fold {fold}" if folds is None else f"--folds {' '.join(numbers)}"
        raise SelfRegError(f"{asked}: {folder.path} has no {missing[0]}; folds there: {listed(there, 10)}")
    return [folder.path / f"fold_{name}" for name in wanted]


def _cases(run: Run, benchmark: Protocol, ending: str, allow_incomplete: bool) -> tuple[list[str], list[str]]:
    """Names the cases to score, and those that have no prediction."""
    predicted, there = (_names(folder, ending, benchmark) for folder in (run.predictions, run.references))
    if not there:
        raise SelfRegError(f"{run.references} holds no {ending} file to score for {run.benchmark}")
    if benchmark.cases is not None and len(there) > benchmark.cases:
        raise SelfRegError(
            f"{run.references} holds {len(there)} cases, but {run.benchmark} has {benchmark.cases}; give its test set"
        )
    if trained := sorted(there & _names(run.dataset_json.parent / "labelsTr", ending, benchmark, needed=False)):
        raise SelfRegError(f"{run.references} holds training cases: {listed(trained)}; give the test set, labelsTs")
    if extra := sorted(predicted - there):
        raise SelfRegError(f"{run.predictions} holds predictions without reference: {listed(extra)}; remove them")
    missing = sorted(there - predicted)
    if missing and not allow_incomplete:
        raise SelfRegError(
            f"{run.predictions} lacks {len(missing)} of {len(there)} predictions: {listed(missing)}; predict them, or "
            "give --allow-incomplete"
        )
    if not predicted:
        raise SelfRegError(f"{run.predictions} holds no {ending} file to score for {run.benchmark}")
    return sorted(predicted), missing


def _names(folder: Path, ending: str, benchmark: Protocol, needed: bool = True) -> set[str]:
    if needed and not folder.is_dir():
        raise SelfRegError(f"{folder} is not a folder")
    names = {path.name.removesuffix(ending) for path in folder.glob(f"*{ending}") if not path.name.startswith(".")}
    return set(filter(benchmark.counts, names))


def _reader(dataset: Mapping[str, Any]) -> Any:
    with redirect_stdout(StringIO()):  # nnU-Net before 2.8 prints about every folder that is not set
        from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
    try:
        return determine_reader_writer_from_dataset_json(dict(dataset), verbose=False)()
    except RuntimeError as error:
        raise SelfRegError(f"file_ending {dataset['file_ending']!r} of dataset.json: {error}") from None


def _read_pair(reader: Any, run: Run, file: str, classes: int) -> tuple[Labels, Labels, list[float]]:
    """Reads a prediction and its reference, both (slices, height, width), and their spacing in mm."""
    maps, places = [], []
    for path in (run.predictions / file, run.references / file):
        labels, properties = read_labels(reader, path)
        if len(labels) != 1:
            raise SelfRegError(f"{path} has {len(labels)} channels; a label map has one")
        unknown = sorted(set(np.unique(labels).tolist()) - set(range(classes + 1)))
        if unknown:
            raise SelfRegError(f"{path} holds the value {unknown[0]:g}, which is no label of {run.benchmark}")
        maps.append(labels[0].astype(np.uint8))
        # SimpleITK's own spacing, in the order of its axes, would hide nnU-Net's
        places.append({**properties.get("sitk_stuff", {}), "spacing": properties["spacing"]})
    if maps[0].shape != maps[1].shape:
        raise SelfRegError(f"{run.predictions / file} has shape {maps[0].shape}, its reference {maps[1].shape}")
    for name in places[1]:
        if not np.allclose(places[0][name], places[1][name], rtol=0, atol=GEOMETRY_TOLERANCE):
            raise SelfRegError(
                f"{run.predictions / file} has {name} {places[0][name]}, its reference {places[1][name]}"
            )
    return maps[0], maps[1], list(places[1]["spacing"])


def _size(name: str, case: str, reference: Labels) -> str | None:
    benchmark = PROTOCOLS[name]
    if not benchmark.sizes:
        return None
    size = SMALL if reference.shape[-2:] == (224, 224) else NATIVE
    if size not in benchmark.sizes:
        raise SelfRegError(f"case {case} is of {size}; {name} is scored at {benchmark.sizes[0]}")
    return size


def _incomplete(benchmark: Protocol, sidecar: Mapping[str, Any], complete: bool) -> list[str]:
    """Says everything in which a run falls short of its protocol; `complete` is what its converter says."""
    missing, cases = sidecar["missing"], sidecar["cases"]
    wanted = [(sidecar["clusters"], benchmark.clusters, benchmark.unit), (cases, benchmark.cases, benchmark.volumes)]
    unconverted, unpredicted = len(missing.get("test", [])), len(missing["predictions"])
    if benchmark.unit != benchmark.volumes and benchmark.cases is None:  # what a converter lacks are whole units
        wanted.append((sidecar["clusters"], sidecar["clusters"] + unconverted, benchmark.unit))
    else:
        unpredicted += unconverted
    wanted.append((cases, cases + unpredicted, benchmark.volumes))
    lines = [f"{total - have} of {total} {unit} missing" for have, total, unit in wanted if total and have < total][:1]
    if missing.get("train"):
        lines.append(f"missing in training: {listed(missing['train'])}")
    for lack in missing.get("train or test", []):  # of a split that is drawn over what is there
        lines.append(f"{lack} missing in training or test, so another split was drawn")
    if not lines and not complete:
        lines.append("converted data set incomplete")
    if sidecar["fold"] == ENSEMBLE and sidecar["epochs"] and len(sidecar["epochs"]) != FOLDS:
        lines.append(f"{len(sidecar['epochs'])} of {FOLDS} folds in the ensemble")
    unfinished = [fold for fold, epochs in sidecar["epochs"].items() if epochs is None]
    return lines + [f"fold {fold} has no final checkpoint" for fold in unfinished]
