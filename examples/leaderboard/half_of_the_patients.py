"""Leaves every second patient out of each fold's training cases: half_of_the_patients.py PLANS_FILE

The folds are those beside the plans file; as they were, they are kept as splits_all.json. ACDC's cases are called
patient001_frame01.
"""

import json
import sys
from pathlib import Path

splits = Path(sys.argv[1]).with_name("splits_final.json")
whole = splits.with_name("splits_all.json")
if not whole.is_file():
    whole.write_text(splits.read_text())
folds = json.loads(whole.read_text())
for fold in folds:
    kept = set(sorted({case.partition("_")[0] for case in fold["train"]})[::2])
    fold["train"] = [case for case in fold["train"] if case.partition("_")[0] in kept]
partial = splits.with_suffix(".partial")
partial.write_text(json.dumps(folds, indent=4) + "\n")
partial.replace(splits)
