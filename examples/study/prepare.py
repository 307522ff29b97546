"""Writes the study's plans and folds into a data set's folder in nnUNet_preprocessed.

prepare.py DATA CONFIGURATION, where DATA is the data set's entry in config.yaml as JSON.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.crossval_split import generate_crossval_split

Fold = dict[str, list[str]]


def merge(into: dict[str, Any], changes: dict[str, Any]) -> None:
    """Replaces values of a nested dictionary."""
    for key, value in changes.items():
        if isinstance(value, dict):
            merge(into[key], value)
        else:
            into[key] = value


def with_fewer_patients(fold: Fold, patients: int, pattern: str, seed: int) -> Fold:
    """The fold's validation cases, and of its training cases those of patients that are drawn."""
    patient_of = {case: re.fullmatch(pattern, case)[1] for case in fold["train"]}
    drawn = np.random.default_rng(seed).choice(sorted(set(patient_of.values())), patients, replace=False)
    return {"train": [case for case in fold["train"] if patient_of[case] in drawn], "val": fold["val"]}


data, name = json.loads(sys.argv[1]), sys.argv[2]
folder = Path(str(nnUNet_preprocessed)) / data["folder"]

splits = folder / "splits_final.json"
published = Path(__file__).parent / "results" / data["folder"] / splits.name
if published.is_file() or splits.is_file():
    folds = json.loads((published if published.is_file() else splits).read_text())[:5]
else:  # as nnU-Net would at the first training; here, so that several can begin at once
    labels = (Path(str(nnUNet_raw)) / data["folder"] / "labelsTr").glob("*.nii.gz")
    folds = generate_crossval_split(sorted(path.name.removesuffix(".nii.gz") for path in labels))
if "low_data" in data:
    folds += [with_fewer_patients(fold, data["low_data"], data["cluster"], seed) for seed, fold in enumerate(folds)]
splits.write_text(json.dumps(folds, indent=4))

plans = json.loads((folder / "nnUNetPlans.json").read_text())
plans["plans_name"] = "Study"
configuration = plans["configurations"][name]
configuration["data_identifier"] = f"Study_{name}"
merge(configuration, data["plans"])
(folder / "Study.json").write_text(json.dumps(plans, indent=4))
