"""Stock trainers where nnU-Net's search finds them first."""

from collections.abc import Iterator
from pathlib import Path

import nnunetv2
import pytest

TRAINERS = Path(nnunetv2.__path__[0]) / "training/nnUNetTrainer"


@pytest.fixture(scope="session")
def stock_trainers() -> Iterator[None]:
    """nnU-Net's trainers of other lengths, also where torchvision cannot be imported.

    nnU-Net looks for these after its Primus trainers, which need torchvision, but for what lies here before them.
    """
    module = TRAINERS / "nnUNetTrainerLengthsOfTheSuite.py"
    module.write_text("from nnunetv2.training.nnUNetTrainer.variants.training_length.nnUNetTrainer_Xepochs import *\n")
    yield
    module.unlink(missing_ok=True)
