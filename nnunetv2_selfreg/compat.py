"""Every branch on a version of nnU-Net or torch: the one module that a new release touches."""

import inspect
import os
import pkgutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from importlib.metadata import files, version
from os.path import join
from typing import TYPE_CHECKING, Any

import torch
from packaging.version import Version
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_selfreg.errors import SelfRegError

if TYPE_CHECKING:  # nnU-Net takes seconds to import: only what needs it does
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

OLDEST_NNUNET = "2.6.0"
# of an operator that reads Python objects, which the replay of a CUDA graph would not; an older torch has no such tag
NOT_IN_CUDA_GRAPHS: dict[str, Any] = (
    {"tags": torch.Tag.cudagraph_unsafe} if hasattr(torch.Tag, "cudagraph_unsafe") else {}
)


def check_nnunet(found: str | None = None) -> None:
    """Refuses an nnU-Net that is too old; a pre-release counts as the release that it leads to.

    Args:
        found: The version; that of the installed nnU-Net when left out.

    Raises:
        SelfRegError: It is older than `OLDEST_NNUNET`.
    """
    found = found or version("nnunetv2")
    if Version(Version(found).base_version) < Version(OLDEST_NNUNET):
        raise SelfRegError(f"SelfReg: nnU-Net {found} is not supported; pip install 'nnunetv2>={OLDEST_NNUNET}'")


def is_nnunets_own(trainer: type[Any]) -> bool:
    """Whether nnU-Net brings this trainer; the place alone is no proof, as people copy their own into its folder."""
    listed = {path.as_posix() for path in files("nnunetv2") or ()}  # of an editable checkout: no modules
    if "nnunetv2/training/nnUNetTrainer/nnUNetTrainer.py" in listed:
        return f"{trainer.__module__.replace('.', '/')}.py" in listed
    parts = ("nnUNetTrainer", "variants", "primus")
    return f"{trainer.__module__}.".startswith(tuple(f"nnunetv2.training.nnUNetTrainer.{part}." for part in parts))


def find_variant(name: str) -> "type[nnUNetTrainer] | None":
    """Finds one of nnU-Net's own trainers by name: the default, or a variant; None if there is none."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    return nnUNetTrainer if name == nnUNetTrainer.__name__ else _find_in_nnunet(name, "variants")


def find_nnunet_trainer(name: str, everywhere: bool = True) -> "type[nnUNetTrainer] | None":
    """Finds a trainer where nnU-Net looks for it, in its order: in its own trainer folder, then in `nnUNet_extTrainer`.

    Of nnU-Net's sub-packages all but `variants` come last: importing them takes seconds, and fails where torchvision
    does not fit.

    Args:
        name: The trainer's name.
        everywhere: Whether they are searched at all.

    Returns:
        The class; None if there is none of this name.
    """
    found = _find_directly(name) or find_variant(name) or find_external_trainer(name)
    return found or (_find_in_nnunet(name) if everywhere else None)


def _find_in_nnunet(name: str, *sub_package: str) -> "type[nnUNetTrainer] | None":
    import nnunetv2
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    place = ["training", "nnUNetTrainer", *sub_package]
    found: type[nnUNetTrainer] | None = recursive_find_python_class(
        join(nnunetv2.__path__[0], *place), name, ".".join(["nnunetv2", *place])
    )
    return found


def _find_directly(name: str) -> "type[nnUNetTrainer] | None":
    """Finds a trainer in the modules that lie directly in nnU-Net's trainer folder, where people put theirs."""
    import nnunetv2

    for module in pkgutil.iter_modules([join(nnunetv2.__path__[0], "training", "nnUNetTrainer")]):
        if not module.ispkg:
            found: type[nnUNetTrainer] | None = getattr(
                import_module(f"nnunetv2.training.nnUNetTrainer.{module.name}"), name, None
            )
            if found is not None:
                return found
    return None


def find_external_trainer(name: str) -> "type[nnUNetTrainer] | None":
    """Finds a trainer class in the folders of `nnUNet_extTrainer`, which nnU-Net reads since 2.8."""
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

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
    trainer: "type[nnUNetTrainer]", plans: Any, configuration: Any, channels: int, heads: int, deep_supervision: bool
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


def unwrapped(network: nn.Module) -> tuple[nn.Module, bool]:
    """The network without DDP and `torch.compile`, and whether it is compiled."""
    if isinstance(network, DistributedDataParallel):
        network = network.module
    if isinstance(network, OptimizedModule):
        return network.get_submodule("_orig_mod"), True
    return network, False


def compile_with_hooks() -> None:
    """Makes `torch.compile` see that two networks of the same class have other forward hooks.

    It takes a graph that it has made for one network for the next that looks alike, and does not look at hooks unless
    it is told to. What was compiled before is forgotten, and compiled again when it is called.
    """
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    torch.compiler.reset()


def not_compiled() -> AbstractContextManager[None]:
    """Networks that are compiled, or have compiled parts, run eagerly and are not compiled."""
    return torch.compiler.set_stance("force_eager")


@contextmanager
def autograd() -> Iterator[None]:
    """Autograd switched on, also inside an operator of our own, where torch switches more off than gradients."""
    keys = torch._C.DispatchKey
    with (
        torch._C._SetExcludeDispatchKeyGuard(keys.AutogradFunctionality, False),
        torch._C._SetExcludeDispatchKeyGuard(keys.ADInplaceOrView, False),
        torch.enable_grad(),
    ):
        yield


def in_backward() -> bool:
    """Whether autograd's backward pass runs now."""
    return bool(torch._C._current_graph_task_id() != -1)
