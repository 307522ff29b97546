"""Scored runs as `leaderboard score` writes them, with drawn scores."""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

COLUMNS = "benchmark,protocol,rule,trainer,plans,configuration,fold,seed,case,cluster,class,metric,value".split(",")
Scores = Mapping[tuple[str, str, str], Sequence[float]]  # by rule, metric and class: one per case
ACDC = ["RV", "Myo", "LV"]
ACDC_MEASURES = [
    ("published", "dice"),
    ("published", "hd95"),
    ("nnunet", "dice"),
    ("nnunet", "iou"),
    ("nnunet", "hd95_mm"),
]


def acdc_cases(patients: int) -> list[tuple[str, str]]:
    return [(f"patient{n:03d}_frame{f:02d}", f"patient{n:03d}") for n in range(1, patients + 1) for f in (1, 12)]


def write_run(
    folder: Path,
    trainer: str,
    cases: Sequence[tuple[str, str]],
    scores: Scores,
    benchmark: str = "acdc",
    protocol: str = "ensemble of folds",
    fold: str = "ensemble",
    seed: str = "",
    plans: str = "nnUNetPlans",
    configuration: str = "2d",
    **described: Any,
) -> Path:
    """Writes one run's CSV and JSON, as older versions did: without a digest; `described` goes into the JSON."""
    folder.mkdir(exist_ok=True)
    path = folder / f"{benchmark}_{trainer}_{plans}_{fold}_{seed}.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for (rule, metric, name), values in scores.items():
            for (case, cluster), value in zip(cases, values, strict=True):
                shown = "" if np.isnan(value) else repr(float(value))
                arm = [trainer, plans, configuration, fold, seed]
                writer.writerow([benchmark, protocol, rule, *arm, case, cluster, name, metric, shown])
    folds = [str(n) for n in range(5)] if fold == "ensemble" else [fold]
    description = {
        "benchmark": benchmark,
        "protocol": protocol,
        "fold": fold,
        "seed": int(seed) if seed else None,
        "trainer": trainer,
        "plans": plans,
        "configuration": configuration,
        "dataset": "Dataset027_ACDC",
        "network": "0123456789abcdef",
        "selfreg": {"lambda_scr": 0.015, "lambda_ifd": 0.015} if "SelfReg" in trainer else None,
        "epochs": dict.fromkeys(folds, 1000),
        "versions": {"nnunetv2": "2.8.1", "nnunetv2-selfreg": "0.1.0", "torch": "2.13.0"},
        "cases": len(cases),
        "clusters": len({cluster for _, cluster in cases}),
        "incomplete": [],
        "missing": {"train": [], "test": [], "predictions": []},
    }
    path.with_suffix(".json").write_text(json.dumps(description | described))
    return path


def drawn_acdc(cases: Sequence[Any], level: float, seed: int) -> dict[tuple[str, str, str], list[float]]:
    """Dice near `level`, and HD95 that fits it, for every class and measure of ACDC."""
    rng, difficulty = np.random.default_rng(seed), np.random.default_rng(0)
    scores = {}
    for number, name in enumerate(ACDC):
        dice = level + 0.02 * number - difficulty.gamma(2, 0.015, len(cases)) + rng.normal(0, 0.01, len(cases))
        dice = np.clip(dice, 0, 1)
        for rule, metric in ACDC_MEASURES:
            value = {"dice": dice, "iou": dice / (2 - dice), "hd95": 60 * (1 - dice), "hd95_mm": 80 * (1 - dice)}[
                metric
            ]
            scores[rule, metric, name] = [float(one) for one in value]
    return scores


@pytest.fixture
def acdc_run() -> Callable[..., Path]:
    """Writes a run of ACDC with drawn scores around a level."""

    def run(folder: Path, trainer: str, level: float = 0.9, seed: int = 1, patients: int = 20, **more: Any) -> Path:
        cases = acdc_cases(patients)
        return write_run(folder, trainer, cases, drawn_acdc(cases, level, seed), **more)

    return run


@pytest.fixture
def given_run() -> Callable[..., Path]:
    """Writes a run with given scores."""
    return write_run
