"""How nnU-Net goes on with a fold: prints --c where its latest or final checkpoint is there, else nothing.

python examples/resume.py nnUNet_results/DATASET/MODEL/fold_0

The checkpoint that is best on the validation fold is left alone: a training that went on from it would be chosen by its
score. nnU-Net writes a checkpoint in place. One that was cut off, by a full disk or a kill, would end each further run,
so it is renamed to *.damaged, and said.
"""

import sys
import zipfile
from pathlib import Path


def main(fold: Path) -> None:
    found = []
    for path in (fold / f"checkpoint_{name}.pth" for name in ("final", "latest")):
        if path.is_file() and not zipfile.is_zipfile(path):  # torch.save writes a zip archive
            aside = path.replace(path.with_suffix(".damaged"))
            print(f"{path} was cut off while it was written; it is now {aside.name}", file=sys.stderr)
        elif path.is_file():
            found.append(path)
    print("--c" if found else "")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
