"""An nnU-Net raw data set, written under a name that nnU-Net passes over and renamed when it is whole."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import PARTIAL, new_folder, write_text

RAW, PREPROCESSED, RESULTS = "nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"
SPLITS = "splits_final.json"

Splits = list[dict[str, list[str]]]


@dataclass(frozen=True)
class RawDataset:
    """A raw data set and its folds."""

    folder: Path  # where it will be; its name is nnU-Net's, `DatasetNNN_Name`
    splits: Path | None  # where nnU-Net reads its folds, if `nnUNet_preprocessed` is set
    overwrite: bool  # whether what is there already may be replaced

    @classmethod
    def claim(cls, name: str, overwrite: bool) -> "RawDataset":
        """Checks that the name and the id are free.

        Raises:
            SelfRegError: `nnUNet_raw` is not set, the data set exists, or its id belongs to another.
        """
        raw = os.environ.get(RAW)
        if not raw:
            raise SelfRegError(f"{RAW} is not set; export {RAW}=/path/to/{RAW}")
        prefix = name.split("_")[0]
        for root in filter(None, map(os.environ.get, (RAW, PREPROCESSED, RESULTS))):
            others = [path for path in sorted(Path(root).glob(f"{prefix}*")) if path.is_dir() and path.name != name]
            if others:
                number = prefix.removeprefix("Dataset")
                raise SelfRegError(f"id {number} belongs to {others[0]} already; choose another with -d")
        folder = Path(raw, name)
        if folder.exists() and not overwrite:
            raise SelfRegError(f"{folder} exists already; replace it with --overwrite, or choose another id with -d")
        preprocessed = os.environ.get(PREPROCESSED)
        return cls(folder, Path(preprocessed, name, SPLITS) if preprocessed else None, overwrite)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """A new folder that becomes the data set when the block ends well, and is removed otherwise.

        What a killed conversion of the same data set left behind is removed first.
        """
        for left in self.folder.parent.glob(f"{PARTIAL}*/{self.folder.name}"):
            shutil.rmtree(left.parent)
        with new_folder(self.folder, may_replace=lambda folder: self.overwrite) as partial:
            yield partial

    def write_splits(self, splits: Splits, staging: Path) -> None:
        """Writes the folds into the data set, and to where nnU-Net reads them.

        Raises:
            SelfRegError: Other folds lie there, and replacing was not asked for.
        """
        text = json.dumps(splits, indent=4) + "\n"
        write_text(staging / SPLITS, text)
        if self.splits is not None:
            if self.splits.exists() and not self.overwrite and self.splits.read_bytes() != text.encode():
                raise SelfRegError(f"{self.splits} holds other folds; remove it, or replace it with --overwrite")
            write_text(self.splits, text)


def make_splits(groups: Mapping[str, str]) -> Splits:
    """nnU-Net's five random folds, drawn over the groups (of patients) of the cases in place of the cases.

    Of fewer than five groups there are as many folds, and none of a single group.
    """
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    names = sorted(set(groups.values()))
    folds = generate_crossval_split(names, n_splits=min(5, len(names))) if len(names) > 1 else []
    return [
        {part: sorted(case for case, group in groups.items() if group in set(fold[part])) for part in ("train", "val")}
        for fold in folds
    ]
