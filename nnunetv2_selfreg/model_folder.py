"""A trained model's folder as nnU-Net leaves it: what made it, its folds and checkpoints, and a predictor of it.

Checkpoints are read with torch's `weights_only`: opening somebody else's model runs no code from it.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from io import StringIO
from pathlib import Path
from pickle import UnpicklingError
from textwrap import shorten
from typing import Any

import numpy as np
import torch

from nnunetv2_selfreg.errors import SelfRegError, reason
from nnunetv2_selfreg.files import listed, read_json
from nnunetv2_selfreg.settings import SelfRegSettings, read_plans, resolve

CHECKPOINT = "checkpoint_final.pth"
MODEL_FILES = ("plans.json", "dataset.json")
LAYOUT = "nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION"
CHECKPOINT_KEYS = ("network_weights", "trainer_name", "init_args")


@dataclass(frozen=True)
class ModelFolder:
    """What `nnUNetv2_train` wrote for one trainer, plans and configuration; all folds of it.

    Attributes:
        path: The folder, absolute.
        trainer: Name of the trainer.
        plans_name: Name of the plans.
        configuration: Name of the configuration.
    """

    path: Path
    trainer: str
    plans_name: str
    configuration: str

    @classmethod
    def open(cls, path: Path) -> "ModelFolder":
        """Opens a model folder.

        Args:
            path: `nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION`.

        Raises:
            SelfRegError: The folder does not exist, is not named so, or has no plans.json or dataset.json.
        """
        path = Path(os.path.abspath(path.expanduser()))  # a link has the name that nnU-Net sees
        if path.is_file():
            raise SelfRegError(f"{path} is a file; give {LAYOUT}")
        if not path.is_dir():
            beside = [other.name for other in path.parent.glob("*__*__*") if (other / MODEL_FILES[0]).is_file()]
            there = f"models in {path.parent}: {listed(sorted(beside))}" if beside else f"give {LAYOUT}"
            raise SelfRegError(f"{path} does not exist; {there}")
        missing = [name for name in MODEL_FILES if not (path / name).is_file()]
        if len(parts := path.name.split("__")) != 3 or missing:
            reason = f"it has no {missing[0]}" if missing else "its name has not three parts"
            raise SelfRegError(f"{path} is not a model folder, {reason}; give {LAYOUT}")
        return cls(path, *parts)

    @property
    def name(self) -> str:
        """`TRAINER__PLANS__CONFIGURATION`."""
        return self.path.name

    @property
    def dataset(self) -> str:
        """Name of the data set, `DatasetNNN_Name`: the folder above, or what the plans say if it is named otherwise."""
        above = self.path.parent.name
        return above if re.match(r"Dataset\d{3}_", above) else str(self.plans.get("dataset_name", above))

    @cached_property
    def plans(self) -> dict[str, Any]:
        """The plans; SelfRegError if they cannot be read."""
        return read_plans(self.path / "plans.json")

    @cached_property
    def dataset_json(self) -> dict[str, Any]:
        """The data set's description; SelfRegError if it cannot be read."""
        return read_json(self.path / "dataset.json", "dataset.json of nnU-Net")

    @cached_property
    def resolved(self) -> dict[str, Any]:
        """The configuration with what it inherits; SelfRegError if the plans lack it."""
        return resolve(self.plans, self.configuration)

    @cached_property
    def trainer_class(self) -> type[Any]:
        """The trainer's class, found as nnU-Net finds it; SelfRegError if this nnU-Net does not know it."""
        return installed_trainer(self.trainer, f"{self.path}")

    @property
    def stock_name(self) -> str | None:
        """nnU-Net's own trainer that a SelfReg trainer is made of; None if the model was not trained with SelfReg."""
        from nnunetv2_selfreg.trainer import stock_trainer

        stock = stock_trainer(self.trainer_class)
        return stock.__name__ if stock else None

    @property
    def base_name(self) -> str | None:
        """The trainer that a SelfReg trainer adds SelfReg to, nnU-Net's or somebody's; None without SelfReg."""
        from nnunetv2_selfreg.trainer import base_trainer

        base = base_trainer(self.trainer_class)
        return base.__name__ if base else None

    @property
    def builds_own_network(self) -> bool:
        """Whether a SelfReg trainer builds another network than nnU-Net's own trainer that it is made of."""
        from nnunetv2_selfreg.trainer import stock_trainer

        method = "build_network_architecture"
        return getattr(self.trainer_class, method) is not getattr(stock_trainer(self.trainer_class), method, None)

    @cached_property
    def settings(self) -> SelfRegSettings | None:
        """The settings that the training used; None if the model was not trained with SelfReg."""
        return self.trainer_class.selfreg_settings(self.plans, self.configuration) if self.stock_name else None

    def folds(self, checkpoint: str | None = CHECKPOINT) -> list[str]:
        """The folds that have the checkpoint (None: that were begun), by name without `fold_`: numbers, then `all`."""
        folders = (path for path in self.path.glob("fold_*") if path.is_dir())
        folders = (path for path in folders if re.fullmatch(r"fold_(\d+|all)", path.name))  # no fold_0.bak
        ordered = sorted(folders, key=lambda path: (len(path.name), path.name))
        have = [folder for folder in ordered if checkpoint is None or (folder / checkpoint).is_file()]
        return [folder.name.removeprefix("fold_") for folder in have]

    def checkpoints(self, folds: Sequence[str] | None = None, checkpoint: str = CHECKPOINT) -> dict[str, Path]:
        """The checkpoint of each fold.

        Args:
            folds: Names of the folds (`0`, `all`); every fold of the model that was begun when left out.
            checkpoint: The file's name.

        Returns:
            The files by the folds' names, at least one.

        Raises:
            SelfRegError: A fold does not exist or its training has not finished, or there is no fold.
        """
        there = self.folds(None)
        if not there:
            raise SelfRegError(f"{self.path} has no fold; train it first")
        for fold in folds or there:
            if fold not in there:
                raise SelfRegError(f"{self.path} has no fold_{fold}; folds there: {listed(there, 10)}")
            folder = self.path / f"fold_{fold}"
            if not (folder / checkpoint).is_file():
                others = sorted(path.name for path in folder.glob("checkpoint_*.pth"))
                why = ": its training has not finished" if checkpoint == CHECKPOINT else ""
                raise SelfRegError(
                    f"{folder} has no {checkpoint}{why}; choose folds with -f, or with -chk another checkpoint; there: "
                    f"{listed(others)}"
                )
        return {fold: self.path / f"fold_{fold}" / checkpoint for fold in folds or there}

    def predictor(self, checkpoint: Path, device: str = "cpu") -> Any:
        """nnU-Net's predictor of one checkpoint, its network built as the checkpoint's trainer builds it.

        nnU-Net's own `initialize_from_trained_model_folder` would unpickle whatever the checkpoint holds.

        Args:
            checkpoint: One of the folder's checkpoints.
            device: Where to predict.

        Raises:
            SelfRegError: A file cannot be read, the checkpoint does not fit the plans, or this nnU-Net does not know
                the trainer.
        """
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

        content = load_checkpoint(checkpoint)
        if content["trainer_name"] != self.trainer:
            raise SelfRegError(f"{checkpoint} was trained by {content['trainer_name']}, not by {self.trainer}")
        trainer, described, planned = self.trainer_class, self.dataset_json, self.plans
        check_device(device)
        try:
            plans = PlansManager(planned)
            network = planned_network(trainer, plans, self.configuration, described).to(device)
        except Exception as error:  # whatever nnU-Net or the network's author raises about a value that is wrong
            reason = shorten(f"{type(error).__name__}: {error}", 200, placeholder=" ...")
            raise SelfRegError(
                f"{self.path}: nnU-Net cannot build the network of plans.json and dataset.json: {reason}"
            ) from None
        try:
            network.load_state_dict(content["network_weights"])
        except RuntimeError as error:
            reason = shorten(str(error).splitlines()[1], 200, placeholder=" ...")
            raise SelfRegError(f"{checkpoint} does not fit {self.path / 'plans.json'}: {reason}") from None
        with redirect_stdout(StringIO()):  # a line about what only CUDA devices can do
            predictor = nnUNetPredictor(device=torch.device(device), allow_tqdm=False)
        predictor.manual_initialization(
            network,
            plans,
            plans.get_configuration(self.configuration),
            [content["network_weights"]],
            self.dataset_json,
            self.trainer,
            content.get("inference_allowed_mirroring_axes"),
        )
        predictor.network = network  # not the compiled one that nnU-Net puts there with nnUNet_compile
        return predictor


def installed_trainer(name: str, asked_by: str) -> type[Any]:
    """The trainer of this name, found as nnU-Net finds it.

    Args:
        name: The trainer's name.
        asked_by: What names it; the message begins with it.

    Raises:
        SelfRegError: This nnU-Net does not know it, or looking for it failed.
    """
    from nnunetv2_selfreg.trainer import find_trainer

    try:
        found = find_trainer(name)
    except Exception as error:  # an import in one of nnU-Net's trainer modules, or in somebody's
        raise SelfRegError(
            f"{asked_by}: looking for the trainer {name} failed: {reason(error)}; see nnUNetv2_selfreg doctor"
        ) from None
    if found is None:
        raise SelfRegError(f"{asked_by}: this nnU-Net has no trainer {name}; install what brings it")
    return found


def check_device(device: str) -> None:
    """SelfRegError for a device that PyTorch does not find here."""
    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if not usable.get(torch.device(device).type, True):
        others = " or ".join(f"--device {name}" for name, works in usable.items() if works)
        raise SelfRegError(f"--device {device}: PyTorch finds no such device here; use {others}")


def planned_network(trainer: Any, plans: Any, configuration: str, dataset_json: Mapping[str, Any]) -> torch.nn.Module:
    """Builds the network that a trainer builds for a configuration, without deep supervision.

    Args:
        trainer: The trainer's class.
        plans: nnU-Net's `PlansManager`.
        configuration: The configuration's name.
        dataset_json: The data set's description.
    """
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    from nnunetv2_selfreg.compat import build_network

    manager = plans.get_configuration(configuration)
    channels = determine_num_input_channels(plans, manager, dataset_json)
    heads = plans.get_label_manager(dataset_json).num_segmentation_heads
    return build_network(trainer, plans, manager, channels, heads, False)


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
        reason = (str(error) or "it is empty, or ends too early").splitlines()[0]
        raise SelfRegError(f"{path} cannot be read as a checkpoint: {reason}") from None
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in CHECKPOINT_KEYS):
        raise SelfRegError(f"{path} is not a checkpoint of nnU-Net: it lacks one of {', '.join(CHECKPOINT_KEYS)}")
    return checkpoint


def _numpy_scalars() -> list[Any]:
    scalar = np.float64(0).__reduce__()[0]
    # numpy 2 reads what numpy 1 wrote and the other way round
    scalars = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    dtypes = [getattr(np.dtypes, name) for name in np.dtypes.__all__]
    return [*scalars, np.dtype, *dtypes, torch.device]
