"""`nnUNetv2_selfreg doctor`: is this installation right, and if not, which command mends it."""

import argparse
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, version
from io import StringIO
from pathlib import Path
from typing import Literal
from urllib.parse import urlparse
from urllib.request import url2pathname

TRAINER = "nnUNetTrainerSelfReg"
EXT_TRAINER = "nnUNet_extTrainer"
REINSTALL_TORCH = (
    "python -m pip install --force-reinstall torch torchvision   # with your machine's options from "
    "https://pytorch.org/get-started/locally"
)
PRINT_PREFIX = "import sys; print(sys.prefix)"


@dataclass(frozen=True)
class Check:
    """What one look at the installation found.

    Attributes:
        name: What was looked at.
        status: `problem` is what makes the exit code 1; `note` is worth knowing and nothing more.
        text: The finding, on one line.
        remedy: What to do about it, one line each; empty unless there is a problem.
    """

    name: str
    status: Literal["ok", "problem", "note"]
    text: str
    remedy: tuple[str, ...] = ()

    def __str__(self) -> str:
        # as wide as the longest name, dynamic-network-architectures
        return "\n".join([f"{self.status:<7}  {self.name:<29}  {self.text}", *(f"{'':9}-> {do}" for do in self.remedy)])


def main(arguments: Sequence[str]) -> int:
    """Prints every check as soon as it is done.

    Args:
        arguments: The command line after `nnUNetv2_selfreg doctor`.

    Returns:
        The exit code: 0 when nothing is wrong, else 1.
    """
    argparse.ArgumentParser(
        prog="nnUNetv2_selfreg doctor",
        description="Looks whether this installation is right, and names the command that mends what is not.",
    ).parse_args(arguments)
    problems = 0
    for look in checks():
        check = look()
        print(check, flush=True)
        problems += check.status == "problem"
    print("everything is in order" if not problems else f"{problems} problem{'s' if problems > 1 else ''}")
    return 1 if problems else 0


def checks() -> list[Callable[[], Check]]:
    """Every check, in the order in which they are printed."""
    return [
        check_python,
        check_selfreg,
        check_nnunet,
        check_torch,
        check_torchvision,
        *(partial(check_package, name) for name in ("timm", "dynamic-network-architectures", "batchgenerators")),
        check_device,
        check_train_command,
        check_ext_trainer,
        check_trainers,
        partial(check_folder, "nnUNet_raw", writable=False),
        partial(check_folder, "nnUNet_preprocessed"),
        partial(check_folder, "nnUNet_results"),
    ]


def check_python() -> Check:
    return Check("Python", "ok", f"{platform.python_version()}  {sys.executable}")


def check_selfreg() -> Check:
    where = Path(__file__).parents[1]
    found = _version("nnunetv2-selfreg")
    if found is None:
        return Check("nnunetv2-selfreg", "note", f"not installed, used from {where}")
    return Check("nnunetv2-selfreg", "ok", f"{found}  {where}")


def check_nnunet() -> Check:
    remedy: tuple[str, ...] = ('python -m pip install "nnunetv2>=2.6"',)
    folder, found = nnunet_folder(), _version("nnunetv2")
    if folder is None and found is not None:
        checkout = _installed_from("nnunetv2") or "/path/to/nnUNet"
        remedy = (
            f"python -m pip install -e {shlex.quote(checkout)} --config-settings editable_mode=compat",
            f"then {_export(installed_trainer_folder() or '/path/to/nnunetv2-selfreg/trainers')}",
        )
        return Check(
            "nnunetv2", "problem", f"{found}, an editable checkout that the folder of our trainers hides", remedy
        )
    if folder is None:
        return Check("nnunetv2", "problem", "cannot be imported by this Python", remedy)
    if found is None:
        return Check("nnunetv2", "note", f"of unknown version, used from {folder}")
    if _numbers(found) < (2, 6):
        return Check("nnunetv2", "problem", f"{found} is older than 2.6.0  {folder}", remedy)
    return Check("nnunetv2", "ok", f"{found}  {folder}")


def check_torch() -> Check:
    found = _version("torch")
    if found is None:
        return Check("torch", "problem", "not installed", ("follow https://pytorch.org/get-started/locally",))
    if _numbers(found)[:2] == (2, 9):
        remedy = 'python -m pip install --force-reinstall "torch!=2.9.*" torchvision'
        return Check("torch", "problem", f"{found} is refused by nnU-Net", (remedy,))
    return Check("torch", "ok", found)


def check_torchvision() -> Check:
    found = _version("torchvision")
    error = _import_error("torchvision")
    if error is None:
        return Check("torchvision", "ok", f"{found or 'of unknown version'}, imports with torch {_version('torch')}")
    text = f"{found or 'of unknown version'} does not import with torch {_version('torch')}: {error}"
    if error.endswith("No module named 'torchvision'"):
        text = "not installed"
    if not _needs_torchvision():
        return Check("torchvision", "note", f"{text}; not needed by this nnU-Net")
    remedy = (
        REINSTALL_TORCH,
        "until then nnU-Net's Primus trainers fail, and each search for a trainer that comes across them;",
        "SelfReg made of the default trainer or of one in nnU-Net's variants works without torchvision",
    )
    return Check("torchvision", "problem", text, remedy)


def check_package(name: str) -> Check:
    found = _version(name)
    if found is not None:
        return Check(name, "ok", found)
    if name == "timm":
        return Check(name, "note", "not installed; this nnU-Net needs it only if it brings Primus trainers")
    return Check(name, "problem", "not installed", (f"python -m pip install {name}",))


def check_device() -> Check:
    try:
        import torch

        with warnings.catch_warnings(record=True) as warned:  # such as of a driver that is too old
            if torch.cuda.is_available():
                return Check("CUDA", "note", f"{torch.version.cuda}, {torch.cuda.get_device_name(0)}")
        reason = "this torch is built without it" if torch.version.cuda is None else "no device is seen"
        reason = str(warned[-1].message).strip().splitlines()[0] if warned else reason
    except Exception as error:
        return Check("CUDA", "problem", f"torch cannot tell: {_one_line(error)}", (REINSTALL_TORCH,))
    return Check("CUDA", "note", f"not available, {reason}; nnUNetv2_train needs -device cpu (or mps)")


def check_train_command() -> Check:
    """Is the nnUNetv2_train that a shell starts from here the one of this Python?"""
    name = "nnUNetv2_train"
    found = shutil.which(name)
    if found is None:
        return Check(name, "note", "not on the PATH of this shell")
    interpreter = _interpreter(Path(found))
    if interpreter is None:
        return Check(name, "note", f"{found}, cannot tell of which Python")
    if _prefix(interpreter) == sys.prefix:
        return Check(name, "ok", found)
    remedy = (
        f"{shlex.quote(interpreter)} -m pip install {shlex.quote(_source())}",
        "or activate the environment you want",
    )
    return Check(name, "problem", f"{found} belongs to another Python, {interpreter}", remedy)


def check_ext_trainer() -> Check:
    name, folders = EXT_TRAINER, _ext_folders()
    if not folders:
        return Check(name, "note", "not set; needed only if nnU-Net's own folder lacks the trainers")
    if not _reads_ext_trainer():
        return Check(name, "note", f"set, but nnU-Net {_version('nnunetv2')} does not read it (2.8.0 does)")
    missing = [folder for folder in folders if not os.path.isdir(folder)]
    if missing:
        return Check(name, "note", f"names what is not there: {', '.join(missing)}")
    return Check(name, "ok", os.pathsep.join(folders))


def check_trainers() -> Check:
    """Does nnU-Net's own search find the trainers, and by which way?"""
    folder = trainer_folder()
    if folder is None:
        return Check("trainers", "note", "not looked for, as there is no nnU-Net")
    error = look_up_error(folder)
    places = [folder, *(_ext_folders() if _reads_ext_trainer() else [])]
    place = next((place for place in places if Path(place, f"{TRAINER}.py").is_file()), None)
    if error is not None:
        return Check("trainers", "problem", error, _trainer_remedy(folder, place, error))
    if place is None:
        return Check("trainers", "note", f"{TRAINER} is found, but not in a file of nnunetv2-selfreg")
    way = "in nnU-Net's own folder" if place == folder else f"through {EXT_TRAINER}"
    return Check("trainers", "ok", f"{TRAINER} is found {way}, {place}")


def check_folder(variable: str, *, writable: bool = True) -> Check:
    """Is one of nnU-Net's three folders set, there and usable?"""
    value = os.environ.get(variable)
    if not value:
        return Check(variable, "problem", "not set", (f"export {variable}=/path/to/{variable}",))
    if not os.path.exists(value):
        return Check(variable, "problem", f"{value} does not exist", (f"mkdir -p {shlex.quote(value)}",))
    try:
        os.listdir(value)
        if writable:
            with tempfile.TemporaryFile(dir=value):
                pass
    except NotADirectoryError:
        return Check(variable, "problem", f"{value} is not a folder", (f"export {variable}=/path/to/{variable}",))
    except OSError as error:
        rights = "rwx" if writable else "rx"
        remedy = (f"chmod u+{rights} {shlex.quote(value)}", f"or export {variable}=/path/to/{variable}")
        return Check(variable, "problem", f"{value} cannot be used: {error.strerror}", remedy)
    return Check(variable, "ok", value)


def nnunet_folder() -> str | None:
    """Where nnU-Net's package lies, found without importing it; `None` when there is none."""
    spec = importlib.util.find_spec("nnunetv2")
    # without an origin it is no package but the bare folder that our wheel makes where there is no nnU-Net
    if spec is None or spec.origin is None or not spec.submodule_search_locations:
        return None
    return spec.submodule_search_locations[0]


def trainer_folder() -> str | None:
    """Where nnU-Net's search for trainers begins."""
    folder = nnunet_folder()
    return None if folder is None else os.path.join(folder, "training", "nnUNetTrainer")


def look_up_error(folder: str) -> str | None:
    """Searches the trainer as nnU-Net's commands do.

    Args:
        folder: nnU-Net's trainer folder.

    Returns:
        `None` when it is found, else what went wrong.
    """
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            found = _look_up(folder)
    except (Exception, SystemExit) as error:
        if not str(error).startswith("Could not find requested"):
            return f"nnU-Net's search for {TRAINER} fails: {_one_line(error)}"
        found = None
    return None if found is not None else f"nnU-Net does not find {TRAINER}, it is not in {folder}"


def _look_up(folder: str) -> object:
    if importlib.util.find_spec("nnunetv2.utilities.find_objects") is not None:
        return import_module("nnunetv2.utilities.find_objects").recursive_find_trainer_class_by_name(TRAINER)
    search = import_module("nnunetv2.utilities.find_class_by_name").recursive_find_python_class
    return search(folder, TRAINER, "nnunetv2.training.nnUNetTrainer")


def _trainer_remedy(folder: str, place: str | None, error: str) -> tuple[str, ...]:
    """What makes nnU-Net find the trainers.

    Args:
        folder: nnU-Net's trainer folder.
        place: The searched folder that has our file and from which it still was not loaded; `None` if none has it.
        error: Why the search failed.
    """
    if place is not None and place != folder and "torchvision" in error:
        return (f"nnU-Net did not get as far as {EXT_TRAINER}: mend torchvision, or {_copy(place, folder)}",)
    if place is not None:
        return (_reinstall(), f"if that is not enough: python -c 'from nnunetv2_selfreg.trainer import {TRAINER}'")
    installed = installed_trainer_folder()
    if installed is None:
        known = _version("nnunetv2-selfreg") is not None
        return (_reinstall() if known else "python -m pip install /path/to/nnunetv2-selfreg",)
    if _is_checkout(folder):
        upgrade = "or upgrade nnU-Net to 2.8.0 or newer and type nnUNetv2_selfreg doctor again"
        return (_export(installed),) if _reads_ext_trainer() else (_copy(installed, folder), upgrade)
    return (f"{_reinstall()}   # with the python of the environment in which nnU-Net is installed",)


def installed_trainer_folder() -> str | None:
    """Where the installer put the file with our trainers; `None` when it is not there."""
    try:
        folder = distribution("nnunetv2-selfreg").locate_file("nnunetv2/training/nnUNetTrainer")
    except PackageNotFoundError:
        return None
    return str(folder) if Path(str(folder), f"{TRAINER}.py").is_file() else None


def _is_checkout(folder: str) -> bool:
    """Is nnU-Net used from somewhere else than where installers put packages, as an editable checkout is?"""
    try:
        expected = distribution("nnunetv2").locate_file("nnunetv2/training/nnUNetTrainer")
    except PackageNotFoundError:
        return True
    return Path(str(expected)).resolve() != Path(folder).resolve()


def _export(folder: str) -> str:
    value = f'"${EXT_TRAINER}{os.pathsep}"{shlex.quote(folder)}' if _ext_folders() else shlex.quote(folder)
    return f"export {EXT_TRAINER}={value}"


def _copy(source: str, target: str) -> str:
    return f"cp {shlex.quote(os.path.join(source, f'{TRAINER}.py'))} {shlex.quote(target)}"


def _ext_folders() -> list[str]:
    return [folder for folder in os.environ.get(EXT_TRAINER, "").split(os.pathsep) if folder.strip()]


def _reads_ext_trainer() -> bool:
    return _numbers(_version("nnunetv2") or "") >= (2, 8)


def _needs_torchvision() -> bool:
    """nnU-Net's Primus trainers need it, by way of timm."""
    folder = trainer_folder()
    return _version("timm") is not None or (folder is not None and os.path.isdir(os.path.join(folder, "primus")))


def _import_error(module: str) -> str | None:
    # in a process of its own: a build that does not match can end the process that imports it
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _interpreter(script: Path) -> str | None:
    """The Python named in a script's first line, if it names one."""
    with script.open("rb") as file:
        line = file.readline().decode(errors="replace").strip()
    path = Path(line.removeprefix("#!").strip())
    is_python = line.startswith("#!") and path.name.startswith(("python", "pypy")) and path.is_file()
    return str(path) if is_python else None


def _prefix(interpreter: str) -> str:
    """The environment of a Python."""
    if interpreter == sys.executable:
        return sys.prefix
    told = subprocess.run([interpreter, "-c", PRINT_PREFIX], capture_output=True, text=True, check=False)
    return told.stdout.strip()


def _reinstall() -> str:
    return f"python -m pip install --force-reinstall --no-deps {shlex.quote(_source())}"


def _source() -> str:
    """Where this package was installed from, as pip takes it."""
    return _installed_from("nnunetv2-selfreg") or "/path/to/nnunetv2-selfreg"


def _installed_from(name: str) -> str | None:
    """The folder or address a distribution was installed from; None when it came from an index by name."""
    try:
        record = distribution(name).read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    url = json.loads(record)["url"] if record else None
    return url2pathname(urlparse(url).path) if url and url.startswith("file:") else url


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
