"""Which preprocessed data set of nnU-Net's a name or a number means."""

import os
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import listed

RAW, PREPROCESSED = "nnUNet_raw", "nnUNet_preprocessed"


def dataset_folder(dataset: str) -> Path:
    """Finds the preprocessed folder of a data set.

    Args:
        dataset: nnU-Net's name or number of the data set.

    Raises:
        SelfRegError: `nnUNet_preprocessed` is not set, or nothing under it has this name or number.
    """
    root = os.environ.get(PREPROCESSED)
    if not root:
        raise SelfRegError(f"{PREPROCESSED} is not set; export {PREPROCESSED}=/path/to/{PREPROCESSED}")
    with redirect_stdout(StringIO()):  # nnU-Net before 2.8 prints about every folder that is not set
        from nnunetv2.utilities.dataset_name_id_conversion import maybe_convert_to_dataset_name
    try:
        name = str(maybe_convert_to_dataset_name(dataset))
    except (ValueError, RuntimeError):  # not a number; that of no data set, or of several
        name = ""
    folder = Path(root, name)
    if name and not folder.is_dir() and os.environ.get(RAW) and Path(os.environ[RAW], name).is_dir():
        raise SelfRegError(
            f"-d {dataset}: {name} is not preprocessed yet: nnUNetv2_plan_and_preprocess -d {name[7:10]}"
        )
    if not name or not folder.is_dir():
        there = sorted(entry.name for entry in Path(root).glob("Dataset*") if entry.is_dir())
        raise SelfRegError(f"-d {dataset} fits no data set, or several; preprocessed in {root}: {listed(there)}")
    return folder
