"""Writes a data set's folds before its first training, so that several trainings can begin at once: folds.py DATASET

They are the folds that nnU-Net would write; those that a converter has written stay.
"""

import json
import sys
from pathlib import Path

from nnunetv2.paths import nnUNet_preprocessed, nnUNet_raw
from nnunetv2.utilities.crossval_split import generate_crossval_split
from nnunetv2.utilities.utils import get_identifiers_from_splitted_dataset_folder

dataset = sys.argv[1]
splits = Path(str(nnUNet_preprocessed)) / dataset / "splits_final.json"
if not splits.is_file():
    raw = Path(str(nnUNet_raw)) / dataset
    ending = json.loads((raw / "dataset.json").read_text())["file_ending"]
    cases = get_identifiers_from_splitted_dataset_folder(str(raw / "imagesTr"), ending)
    partial = splits.with_suffix(".partial")
    partial.write_text(json.dumps(generate_crossval_split(sorted(cases)), indent=4))
    partial.replace(splits)
