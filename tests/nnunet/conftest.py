"""A small data set, planned and preprocessed by nnU-Net: real MRI when it is at hand, else the phantom."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import folder, run

from nnunetv2_selfreg.commands.phantom import write_dataset

HIPPOCAMPUS = Path(__file__).parents[3] / "shared" / "data" / "Dataset004_Hippocampus"
TRAINING_CASES, UNSEEN_CASES = 10, 2


@dataclass(frozen=True)
class Dataset:
    """A preprocessed data set; its plans `Small` train in seconds."""

    number: int
    raw: Path
    preprocessed: Path


def hippocampus_slice() -> Path:
    raw = folder("raw") / HIPPOCAMPUS.name
    cases = sorted(path.name.removesuffix(".nii.gz") for path in (HIPPOCAMPUS / "labelsTr").iterdir())
    for part, chosen in (("Tr", cases[:TRAINING_CASES]), ("Ts", cases[TRAINING_CASES:][:UNSEEN_CASES])):
        for kind, suffix in (("images", "_0000"), ("labels", "")):
            (raw / f"{kind}{part}").mkdir(parents=True)
            for case in chosen:
                shutil.copy(HIPPOCAMPUS / f"{kind}Tr" / f"{case}{suffix}.nii.gz", raw / f"{kind}{part}")
    description = json.loads((HIPPOCAMPUS / "dataset.json").read_text())
    (raw / "dataset.json").write_text(json.dumps(description | {"numTraining": TRAINING_CASES}))
    return raw


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    raw = hippocampus_slice() if HIPPOCAMPUS.is_dir() else write_dataset(folder("raw"), seed=0)
    number = int(raw.name[7:10])
    run(f"nnUNetv2_plan_and_preprocess -d {number} -c 2d 3d_fullres -npfp 1 -np 1 1")
    preprocessed = folder("preprocessed") / raw.name
    plans = json.loads((preprocessed / "nnUNetPlans.json").read_text())
    plans["plans_name"] = "Small"
    for name, features, convolutions, patch in (("2d", 8, 2, None), ("3d_fullres", 6, 1, 16)):
        configuration = plans["configurations"][name]
        architecture = configuration["architecture"]["arch_kwargs"]
        stages = architecture["n_stages"]
        architecture["features_per_stage"] = [features * 2**i for i in range(stages)]
        architecture["n_conv_per_stage"] = [convolutions] * stages
        architecture["n_conv_per_stage_decoder"] = [convolutions] * (stages - 1)
        configuration["batch_size"] = 4 if name == "2d" else 2
        if patch:
            configuration["patch_size"] = [min(patch, size) for size in configuration["patch_size"]]
    (preprocessed / "Small.json").write_text(json.dumps(plans))
    return Dataset(number, raw, preprocessed)
