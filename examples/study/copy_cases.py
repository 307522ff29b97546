"""Copies the cases of the study's folds, and no others: copy_cases.py FROM TO FOLDS

FROM and TO are data sets in nnU-Net's raw format, FOLDS is their splits_final.json.
"""

import json
import shutil
import sys
from pathlib import Path

source, target, folds = map(Path, sys.argv[1:])
cases = {case for part in json.loads(folds.read_text())[0].values() for case in part}
for kind, suffix in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
    (target / kind).mkdir(parents=True, exist_ok=True)
    for case in sorted(cases):
        if not (source / kind / (case + suffix)).is_file():
            sys.exit(f"{source / kind / (case + suffix)} is missing; the study's folds need it")
        shutil.copyfile(source / kind / (case + suffix), target / kind / (case + suffix))
description = json.loads((source / "dataset.json").read_text())
(target / "dataset.json").write_text(json.dumps(description | {"numTraining": len(cases)}, indent=4) + "\n")
