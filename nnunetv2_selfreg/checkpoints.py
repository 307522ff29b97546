"""Reading nnU-Net's checkpoints without running code from them."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch

from nnunetv2_selfreg.errors import SelfRegError

KEYS = ("network_weights", "trainer_name", "init_args")


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Loads a checkpoint of nnU-Net onto the CPU with torch's `weights_only`.

    Beside tensors it takes what nnU-Net stores: numpy's scalars and dtypes, in its logs, and the device.

    Args:
        path: A `checkpoint_*.pth`.

    Raises:
        SelfRegError: The file cannot be read, holds something else, or would run code.
    """
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError as error:
        refused = next((word for word in str(error).split() if "." in word and "(" not in word), "")
        raise SelfRegError(
            f"{path} is not loaded: it is damaged, or holds more than nnU-Net stores ({refused or 'unreadable'}) "
            "and loading that would run code from it"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise SelfRegError(f"{path} cannot be read as a checkpoint: {str(error).splitlines()[0]}") from None
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in KEYS):
        raise SelfRegError(f"{path} is not a checkpoint of nnU-Net: it lacks one of {', '.join(KEYS)}")
    return checkpoint


def _numpy_scalars() -> list[Any]:
    scalar = np.float64(0).__reduce__()[0]
    # numpy 2 reads what numpy 1 wrote and the other way round
    scalars = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    dtypes = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    return [*scalars, np.dtype, *dtypes, torch.device]
