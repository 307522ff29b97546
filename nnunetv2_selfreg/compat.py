"""Every branch on a version of nnU-Net or torch: the one module that a new release touches."""

import inspect
import os
from importlib.metadata import version
from os.path import join
from typing import Any

import nnunetv2
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from packaging.version import Version
from torch import nn

from nnunetv2_selfreg.errors import SelfRegError

OLDEST_NNUNET = "2.6.0"
STOCK_FOLDER, STOCK_MODULE = join(nnunetv2.__path__[0], "training", "nnUNetTrainer"), "nnunetv2.training.nnUNetTrainer"


def check_nnunet(found: str) -> None:
    """Refuses an nnU-Net that is too old; a pre-release counts as the release that it leads to.

    Raises:
        SelfRegError: It is older than `OLDEST_NNUNET`.
    """
    if Version(Version(found).base_version) < Version(OLDEST_NNUNET):
        raise SelfRegError(f"SelfReg: nnU-Net {found} is not supported; pip install 'nnunetv2>={OLDEST_NNUNET}'")


check_nnunet(version("nnunetv2"))


def find_nnunet_trainer(name: str) -> type[nnUNetTrainer] | None:
    """Finds a trainer class where nnU-Net looks for it: in its own trainer folder, and in `nnUNet_extTrainer`.

    Returns:
        The class; None if there is none of this name.
    """
    if name == nnUNetTrainer.__name__:
        return nnUNetTrainer
    # nnU-Net's other sub-packages come last: importing them takes seconds, and fails where torchvision does not fit
    return (
        recursive_find_python_class(join(STOCK_FOLDER, "variants"), name, f"{STOCK_MODULE}.variants")
        or find_external_trainer(name)
        or recursive_find_python_class(STOCK_FOLDER, name, STOCK_MODULE)
    )


def find_external_trainer(name: str) -> type[nnUNetTrainer] | None:
    """Finds a trainer class in the folders of `nnUNet_extTrainer`, which nnU-Net reads since 2.8."""
    parameters = inspect.signature(recursive_find_python_class).parameters
    if "cleanup_imports_from_base_folder" not in parameters:
        return None
    for folder in os.environ.get("nnUNet_extTrainer", "").split(os.pathsep):
        if folder.strip() and os.path.exists(folder):
            found: type[nnUNetTrainer] | None = recursive_find_python_class(
                folder, name, None, base_folder=folder, cleanup_imports_from_base_folder=True
            )
            if found is not None:
                return found
    return None


def build_network(
    trainer: type[nnUNetTrainer], plans: Any, configuration: Any, channels: int, heads: int, deep_supervision: bool
) -> nn.Module:
    """Builds a trainer's network; the signature of nnU-Net's method changed in 2.7.

    Args:
        trainer: The trainer's class.
        plans: nnU-Net's `PlansManager`.
        configuration: nnU-Net's `ConfigurationManager`.
        channels: Of the input, those of the previous stage of a cascade included.
        heads: Output channels.
        deep_supervision: Whether the network gives an output at each decoder stage.
    """
    if "plans_manager" in inspect.signature(trainer.build_network_architecture).parameters:
        architecture: tuple[Any, ...] = (plans, configuration)
    else:
        architecture = (
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
        )
    network: nn.Module = trainer.build_network_architecture(
        *architecture, channels, heads, enable_deep_supervision=deep_supervision
    )
    return network


def local_logging(logger: Any) -> dict[str, list[Any]]:
    """The values that nnU-Net logs, by name; until nnU-Net 2.6 the logger itself held them."""
    values: dict[str, list[Any]] = getattr(logger, "local_logger", logger).my_fantastic_logging
    return values


def is_compiling() -> bool:
    """Whether `torch.compile` traces the code that asks; the public name is not in torch 2.1."""
    return bool(torch._dynamo.is_compiling())
