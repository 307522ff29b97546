"""Leaves every second patient out of each fold's training cases: half_of_the_patients.py PLANS_FILE

The folds are those beside the plans file; as they were, they are kept as splits_all.json. ACDC's cases are called
patient001_frame01.
"""

import json
import sys
from pathlib import Path
from typing import Any


def half(folds: list[dict[str, list[str]]]) -> list[dict[str, list[str]]]:
    """The same folds with the training cases of every second patient."""
    found = []
    for fold in folds:
        kept = set(sorted({case.partition("_")[0] for case in fold["train"]})[::2])
        found.append({**fold, "train": [case for case in fold["train"] if case.partition("_")[0] in kept]})
    return found


def write(path: Path, content: Any) -> None:
    """Writes a JSON file whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=4) + "\n")
    partial.replace(path)


splits = Path(sys.argv[1]).with_name("splits_final.json")
whole = splits.with_name("splits_all.json")
folds = json.loads(splits.read_text())
if not whole.is_file() or folds != half(json.loads(whole.read_text())):  # not halved yet, or written anew since
    write(whole, folds)
    write(splits, half(folds))
