"""`nnUNetv2_selfreg doctor`: is this installation right, and if not, which command mends it."""

import argparse
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunetv2_selfreg.commands import installation
from nnunetv2_selfreg.commands.installation import EXT_TRAINER, TRAINER, TRAINER_FOLDER

TRAIN_COMMAND = "nnUNetv2_train"
REINSTALL_TORCH = (
    "python -m pip install --force-reinstall torch torchvision   # with your machine's options from "
    "https://pytorch.org/get-started/locally"
)


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
    for check in checks():
        print(check, flush=True)
        problems += check.status == "problem"
    print("everything is in order" if not problems else f"{problems} problem{'s' if problems > 1 else ''}")
    return 1 if problems else 0


def checks() -> Iterator[Check]:
    """Every check, in the order in which they are printed."""
    yield Check("Python", "ok", f"{platform.python_version()}  {sys.executable}")
    yield check_selfreg()
    yield check_nnunet()
    yield check_torch()
    yield check_torchvision()
    yield from map(check_package, ("timm", "dynamic-network-architectures", "batchgenerators"))
    yield check_device()
    yield check_train_command()
    yield check_ext_trainer()
    yield check_trainers()
    yield check_folder("nnUNet_raw", writable=False)
    yield check_folder("nnUNet_preprocessed")
    yield check_folder("nnUNet_results")


def check_selfreg() -> Check:
    name, place, found = "nnunetv2-selfreg", Path(__file__).parents[1], installation.version("nnunetv2-selfreg")
    return Check(name, "ok", f"{found}  {place}") if found else Check(name, "note", f"not installed, used from {place}")


def check_nnunet() -> Check:
    install = ('python -m pip install "nnunetv2>=2.6"',)
    folder, found = installation.nnunet_folder(), installation.version("nnunetv2")
    if folder is None and found is not None:
        checkout = installation.origin("nnunetv2", "/path/to/nnUNet")
        remedy = (
            f"python -m pip install -e {shlex.quote(checkout)} --config-settings editable_mode=compat",
            f"then {export_ext_trainer(installation.our_trainer_folder() or '/path/to/nnunetv2-selfreg/trainers')}",
        )
        text = f"{found}, an editable checkout that the folder of our trainers hides"
        return Check("nnunetv2", "problem", text, remedy)
    if folder is None:
        return Check("nnunetv2", "problem", "cannot be imported by this Python", install)
    if found is None:
        return Check("nnunetv2", "note", f"of unknown version, used from {folder}")
    if installation.numbers("nnunetv2") < (2, 6):
        return Check("nnunetv2", "problem", f"{found} is older than 2.6.0  {folder}", install)
    return Check("nnunetv2", "ok", f"{found}  {folder}")


def check_torch() -> Check:
    found = installation.version("torch")
    if found is None:
        return Check("torch", "problem", "not installed", ("follow https://pytorch.org/get-started/locally",))
    if installation.numbers("torch") == (2, 9):
        remedy = 'python -m pip install --force-reinstall "torch!=2.9.*" torchvision'
        return Check("torch", "problem", f"{found} is refused by nnU-Net", (remedy,))
    return Check("torch", "ok", found)


def check_torchvision() -> Check:
    name, found, torch = "torchvision", installation.version("torchvision"), installation.version("torch")
    found = found or "of unknown version"
    # in a process of its own: a build that does not match can end the process that imports it
    done = subprocess.run([sys.executable, "-c", f"import {name}"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return Check(name, "ok", f"{found}, imports with torch {torch}")
    error = [f"exit code {done.returncode}", *done.stderr.strip().splitlines()][-1]
    missing = error.endswith(f"No module named '{name}'")
    text = "not installed" if missing else f"{found} does not import with torch {torch}: {error}"
    if not installation.needs_torchvision():
        return Check(name, "note", f"{text}; not needed by this nnU-Net")
    remedy = (
        REINSTALL_TORCH,
        "until then nnU-Net's Primus trainers fail, and each search for a trainer that comes across them;",
        "SelfReg made of the default trainer or of one in nnU-Net's variants works without torchvision",
    )
    return Check(name, "problem", text, remedy)


def check_package(name: str) -> Check:
    if found := installation.version(name):
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
        return Check("CUDA", "problem", f"torch cannot tell: {installation.one_line(error)}", (REINSTALL_TORCH,))
    return Check("CUDA", "note", f"not available, {reason}; nnUNetv2_train needs -device cpu (or mps)")


def check_train_command() -> Check:
    """Is the nnUNetv2_train that a shell starts from here the one that was installed with this nnU-Net?"""
    found = shutil.which(TRAIN_COMMAND)
    if found is None:
        return Check(TRAIN_COMMAND, "note", "not on the PATH of this shell")
    beside, name = os.path.split(found)
    package = installation.distribution_of("nnunetv2")
    ours = [str(file.locate()) for file in (package and package.files) or () if file.name == name]
    ours.append(os.path.join(sysconfig.get_path("scripts"), name))
    if os.path.realpath(found) in map(os.path.realpath, ours):
        return Check(TRAIN_COMMAND, "ok", found)
    other = shutil.which("python", path=beside) or shutil.which("python3", path=beside)
    if other is None:
        return Check(TRAIN_COMMAND, "note", f"{found}, cannot tell of which Python")
    remedy = (f"{shlex.quote(other)} -m pip install {source()}", "or activate the environment you want")
    return Check(TRAIN_COMMAND, "problem", f"{found} belongs to another Python, {other}", remedy)


def check_ext_trainer() -> Check:
    folders, nnunet = installation.ext_folders(), installation.version("nnunetv2")
    if not folders:
        return Check(EXT_TRAINER, "note", "not set; needed only if nnU-Net's own folder lacks the trainers")
    if not installation.reads_ext_trainer():
        return Check(EXT_TRAINER, "note", f"set, but nnU-Net {nnunet} does not read it (2.8.0 does)")
    if missing := [folder for folder in folders if not os.path.isdir(folder)]:
        return Check(EXT_TRAINER, "note", f"names what is not there: {', '.join(missing)}")
    return Check(EXT_TRAINER, "ok", os.pathsep.join(folders))


def check_trainers() -> Check:
    """Does nnU-Net's own search find the trainers, and by which way?"""
    package = installation.nnunet_folder()
    if package is None:
        return Check("trainers", "note", "not looked for, as there is no nnU-Net")
    folder = os.path.join(package, TRAINER_FOLDER)
    error = installation.search_error(folder)
    places = [folder, *(installation.ext_folders() if installation.reads_ext_trainer() else [])]
    place = next((place for place in places if Path(place, f"{TRAINER}.py").is_file()), None)
    if error is not None:
        return Check("trainers", "problem", error, trainer_remedy(folder, place, error))
    if place is None:
        return Check("trainers", "note", f"{TRAINER} is found, but not in a file of nnunetv2-selfreg")
    way = "in nnU-Net's own folder" if place == folder else f"through {EXT_TRAINER}"
    return Check("trainers", "ok", f"{TRAINER} is found {way}, {place}")


def check_folder(variable: str, *, writable: bool = True) -> Check:
    """Is one of nnU-Net's three folders set, there and usable?"""
    value, choose = os.environ.get(variable), f"export {variable}=/path/to/{variable}"
    if not value:
        return Check(variable, "problem", "not set", (choose,))
    if not os.path.exists(value):
        return Check(variable, "problem", f"{value} does not exist", (f"mkdir -p {shlex.quote(value)}",))
    try:
        os.listdir(value)
        if writable:
            with tempfile.TemporaryFile(dir=value):
                pass
    except NotADirectoryError:
        return Check(variable, "problem", f"{value} is not a folder", (choose,))
    except OSError as error:
        remedy = (f"chmod u+{'rwx' if writable else 'rx'} {shlex.quote(value)}", f"or {choose}")
        return Check(variable, "problem", f"{value} cannot be used: {error.strerror}", remedy)
    return Check(variable, "ok", value)


def trainer_remedy(folder: str, place: str | None, error: str) -> tuple[str, ...]:
    """What makes nnU-Net find the trainers.

    Args:
        folder: nnU-Net's trainer folder.
        place: The searched folder that has our file and from which it still was not loaded; `None` if none has it.
        error: Why the search failed.
    """
    reinstall = f"python -m pip install --force-reinstall --no-deps {source()}"
    place_of_ours = place or installation.our_trainer_folder()
    if place_of_ours is None:
        known = installation.version("nnunetv2-selfreg")
        return (reinstall if known else "python -m pip install /path/to/nnunetv2-selfreg",)
    copy = f"cp {shlex.quote(os.path.join(place_of_ours, f'{TRAINER}.py'))} {shlex.quote(folder)}"
    if place is not None and place != folder and "torchvision" in error:
        return (f"nnU-Net did not get as far as {EXT_TRAINER}: mend torchvision, or {copy}",)
    if place is not None:
        return (reinstall, f"if that is not enough: python -c 'from nnunetv2_selfreg.trainer import {TRAINER}'")
    if not installation.is_checkout(folder):
        return (f"{reinstall}   # with the python of the environment in which nnU-Net is installed",)
    if installation.reads_ext_trainer():
        return (export_ext_trainer(place_of_ours),)
    return (copy, "or upgrade nnU-Net to 2.8.0 or newer and type nnUNetv2_selfreg doctor again")


def source() -> str:
    """Where this package was installed from, as a shell takes it."""
    return shlex.quote(installation.origin("nnunetv2-selfreg", "/path/to/nnunetv2-selfreg"))


def export_ext_trainer(folder: str) -> str:
    """The command that adds a folder to `nnUNet_extTrainer`."""
    value = f'"${EXT_TRAINER}{os.pathsep}"{shlex.quote(folder)}' if installation.ext_folders() else shlex.quote(folder)
    return f"export {EXT_TRAINER}={value}"
