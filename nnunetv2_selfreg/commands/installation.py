"""What is installed and where: found without importing what may be missing or broken, so without compat, too."""

import importlib.util
import json
import os
import re
from contextlib import redirect_stderr, redirect_stdout
from importlib import import_module
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from io import StringIO
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

TRAINER = "nnUNetTrainerSelfReg"
EXT_TRAINER = "nnUNet_extTrainer"
TRAINER_FOLDER = os.path.join("training", "nnUNetTrainer")  # of nnU-Net's package, where its search begins


def distribution_of(name: str) -> Distribution | None:
    """The installed package of this name; None if there is none."""
    try:
        return distribution(name)
    except PackageNotFoundError:
        return None


def version(name: str) -> str | None:
    """Its version; None if it is not installed."""
    found = distribution_of(name)
    return found.version if found else None


def numbers(name: str) -> tuple[int, ...]:
    """The first two numbers of a package's version; empty if it is not installed."""
    return tuple(int(number) for number in re.findall(r"\d+", version(name) or "")[:2])


def origin(name: str, otherwise: str) -> str:
    """The folder or address a package was installed from, as pip takes it."""
    found = distribution_of(name)
    record = found.read_text("direct_url.json") if found else None
    url: str = json.loads(record)["url"] if record else otherwise
    return url2pathname(urlparse(url).path) if url.startswith("file:") else url


def nnunet_folder() -> str | None:
    """Where nnU-Net's package lies, found without importing it; `None` when there is none."""
    spec = importlib.util.find_spec("nnunetv2")
    # without an origin it is no package but the bare folder that our wheel makes where there is no nnU-Net
    return os.path.dirname(spec.origin) if spec and spec.origin else None


def our_trainer_folder() -> str | None:
    """Where the installer put the file with our trainers; `None` when it is not there."""
    found = distribution_of("nnunetv2-selfreg")
    folder = str(found.locate_file(f"nnunetv2/{TRAINER_FOLDER}")) if found else None
    return folder if folder and Path(folder, f"{TRAINER}.py").is_file() else None


def is_checkout(folder: str) -> bool:
    """Is this trainer folder somewhere else than where installers put nnU-Net, as that of an editable checkout is?"""
    found = distribution_of("nnunetv2")
    expected = str(found.locate_file(f"nnunetv2/{TRAINER_FOLDER}")) if found else ""
    return os.path.realpath(expected) != os.path.realpath(folder)


def needs_torchvision() -> bool:
    """nnU-Net's Primus trainers need it, by way of timm."""
    folder = nnunet_folder()
    return version("timm") is not None or (folder is not None and Path(folder, TRAINER_FOLDER, "primus").is_dir())


def ext_folders() -> list[str]:
    """What `nnUNet_extTrainer` names."""
    return [folder for folder in os.environ.get(EXT_TRAINER, "").split(os.pathsep) if folder.strip()]


def reads_ext_trainer() -> bool:
    """Whether this nnU-Net searches `nnUNet_extTrainer`."""
    return numbers("nnunetv2") >= (2, 8)


def search_error(folder: str) -> str | None:
    """What goes wrong when the trainer is searched as nnU-Net's commands do; None when it is found."""
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            if importlib.util.find_spec("nnunetv2.utilities.find_objects"):
                import_module("nnunetv2.utilities.find_objects").recursive_find_trainer_class_by_name(TRAINER)
                return None
            search = import_module("nnunetv2.utilities.find_class_by_name").recursive_find_python_class
            if search(folder, TRAINER, "nnunetv2.training.nnUNetTrainer"):
                return None
    except (Exception, SystemExit) as error:
        if not str(error).startswith("Could not find requested"):
            return f"nnU-Net's search for {TRAINER} fails: {one_line(error)}"
    return f"nnU-Net does not find {TRAINER}, it is not in {folder}"


def one_line(error: BaseException) -> str:
    """The exception's type and the first line of its text."""
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
