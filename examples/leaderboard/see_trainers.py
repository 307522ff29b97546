"""Where nnU-Net looks for trainers beside its own; the study uses it, too."""

import os
from pathlib import Path

VARIABLE = "nnUNet_extTrainer"
# for an editable nnU-Net, which the file that our wheel puts into nnU-Net's folder does not reach
CHECKOUT = Path(__file__).resolve().parents[2] / "trainers"


def see_trainers(*folders: Path) -> None:
    """Puts folders before those that nnU-Net searches already, and this project's trainers behind them."""
    places = os.environ.get(VARIABLE, "").split(os.pathsep)
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys(filter(None, [*map(str, folders), *places, str(CHECKOUT)])))
