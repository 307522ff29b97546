"""Where nnU-Net looks for trainers beside its own; the study uses it, too."""

import os
from pathlib import Path

VARIABLE = "nnUNet_extTrainer"
CHECKOUT = (
    Path(__file__).resolve().parents[2] / "trainers"
)  # for an editable nnU-Net, which a wheel's file does not reach


def see_trainers(*folders: Path) -> None:
    """Adds folders, and this project's trainers, to those that nnU-Net searches; what is set already stays."""
    places = os.environ.get(VARIABLE, "").split(os.pathsep)
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys(filter(None, [*places, *map(str, folders), str(CHECKOUT)])))
