"""Trained models as nnU-Net leaves them, with scores that are written here."""

import json
from pathlib import Path

from nnunetv2.evaluation.evaluate_predictions import save_summary_json

LABELS = {"background": 0, "RV": 1, "LV": 2}
# Dice of both classes by fold and case: of one model, and of another that is better in each case but one
FIRST = {
    0: {"patient1_ED": (0.80, 0.90), "patient1_ES": (0.70, 0.90), "patient2_ED": (0.60, 0.80)},
    1: {"patient3_ED": (0.50, 0.90), "patient4_ED": (0.70, float("nan"))},
}
SECOND = {
    0: {"patient1_ED": (0.84, 0.92), "patient1_ES": (0.74, 0.92), "patient2_ED": (0.50, 0.80)},
    1: {"patient3_ED": (0.60, 0.94), "patient4_ED": (0.76, float("nan"))},
}


def write_summary(path: Path, cases: dict, voxels: int = 100) -> None:
    """A summary.json with nnU-Net's own function."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scored = [
        {
            "reference_file": f"/elsewhere/labelsTr/{case}.nii.gz",
            "prediction_file": f"/elsewhere/validation/{case}.nii.gz",
            "metrics": {label: {"Dice": value, "n_ref": voxels} for label, value in enumerate(values, start=1)},
        }
        for case, values in cases.items()
    ]
    save_summary_json({"metric_per_case": scored, "mean": {}, "foreground_mean": {}}, str(path))


def write_model(folder: Path, folds: dict, plans: dict | None = None, selfreg: dict | None = None) -> Path:
    """A model folder: plans, data set, and each fold's checkpoint and scores."""
    folder.mkdir(parents=True)
    configuration = {"patch_size": [8, 8], "batch_size": 2, "data_identifier": "x"} | (plans or {})
    if selfreg:
        configuration["selfreg"] = selfreg
    content = {"plans_name": folder.name.split("__")[1], "dataset_name": "D", "configurations": {"2d": configuration}}
    (folder / "plans.json").write_text(json.dumps(content))
    dataset = {"labels": LABELS, "channel_names": {"0": "MRI"}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for fold, cases in folds.items():
        write_summary(folder / f"fold_{fold}" / "validation" / "summary.json", cases)
        (folder / f"fold_{fold}" / "checkpoint_final.pth").touch()
    return folder
