"""`nnUNetv2_selfreg doctor`: is this installation right, and if not, which command mends it.

Nothing that may be missing or broken is imported at the top, so no `compat` either.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from io import StringIO
from pathlib import Path
from shlex import quote
from typing import Literal
from urllib.parse import urlparse
from urllib.request import url2pathname

TRAINER = "nnUNetTrainerSelfReg"
EXT_TRAINER = "nnUNet_extTrainer"
TRAINER_FOLDER = "training/nnUNetTrainer"  # of nnU-Net's package, where its search begins
READS_EXT_TRAINER = (2, 8)  # nnU-Net's version since which it searches nnUNet_extTrainer
OURS = "nnunetv2-selfreg"
CHECKOUT_FOLDER = f"/path/to/{OURS}/trainers"
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
    found, place = version(OURS), Path(__file__).parents[1]
    yield Check(OURS, "ok", f"{found}  {place}") if found else Check(OURS, "note", f"not installed, used from {place}")
    yield check_nnunet()
    yield check_package("torch")
    yield check_torchvision()
    yield from map(check_package, ("timm", "dynamic-network-architectures", "batchgenerators"))
    yield check_device()
    yield check_train_command()
    yield check_ext_trainer()
    yield check_trainers()
    yield check_folder("nnUNet_raw", writable=False)
    yield check_folder("nnUNet_preprocessed")
    yield check_folder("nnUNet_results")


def check_nnunet() -> Check:
    folder, found = nnunet_folder(), version("nnunetv2")
    if folder is None and found is not None:
        editable = f"python -m pip install -e {origin('nnunetv2')} --config-settings editable_mode=compat"
        text = f"{found}, an editable checkout that the folder of our trainers hides"
        return Check("nnunetv2", "problem", text, (editable, f"then {export_ext_trainer()}"))
    if folder is None or (found and numbers("nnunetv2") < (2, 6)):
        text = f"{found} is older than 2.6.0  {folder}" if folder else "cannot be imported by this Python"
        return Check("nnunetv2", "problem", text, ('python -m pip install "nnunetv2>=2.6"',))
    return Check("nnunetv2", "ok" if found else "note", f"{found or 'of unknown version'}  {folder}")


def check_torchvision() -> Check:
    # in a process of its own: a build that does not match can end the process that imports it
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    found = f"{version('torchvision')} with torch {version('torch')}"
    if done.returncode == 0:
        return Check("torchvision", "ok", found)
    text = f"{found} does not import: {[f'exit code {done.returncode}', *done.stderr.strip().splitlines()][-1]}"
    if version("timm") is None:
        return Check("torchvision", "note", f"{text}; only timm needs it, which is not installed")
    effect = "until then trainers fail that are found only after nnU-Net's Primus trainers; SelfReg's own come before"
    return Check("torchvision", "problem", text, (REINSTALL_TORCH, effect))


def check_package(name: str) -> Check:
    found = version(name)
    if name == "torch" and numbers(name) == (2, 9):
        remedy = 'python -m pip install --force-reinstall "torch!=2.9.*" torchvision'
        return Check(name, "problem", f"{found} is refused by nnU-Net", (remedy,))
    if name == "torch" and found and numbers(name) < (2, 6):
        return Check(name, "problem", f"{found} is older than 2.6", (REINSTALL_TORCH,))
    if name == "timm" and found is None:
        return Check(name, "note", "not installed; this nnU-Net needs it only if it brings Primus trainers")
    remedy = REINSTALL_TORCH if name == "torch" else f"python -m pip install {name}"
    return Check(name, "ok", found) if found else Check(name, "problem", "not installed", (remedy,))


def check_device() -> Check:
    try:
        import torch

        if torch.cuda.is_available():
            return Check("CUDA", "note", f"{torch.version.cuda}, {torch.cuda.get_device_name(0)}")
    except Exception as error:
        return Check("CUDA", "problem", f"torch cannot tell: {error}".splitlines()[0], (REINSTALL_TORCH,))
    return Check("CUDA", "note", "not available; nnUNetv2_train needs -device cpu (or mps)")


def check_train_command() -> Check:
    """Is the nnUNetv2_train that a shell starts from here one of this Python's?"""
    found = shutil.which("nnUNetv2_train")
    if found is None:
        return Check("nnUNetv2_train", "note", "not on the PATH of this shell")
    scripts = [sysconfig.get_path("scripts"), sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user"))]
    if os.path.dirname(os.path.realpath(found)) in map(os.path.realpath, scripts):
        return Check("nnUNetv2_train", "ok", found)
    text = f"{found} may be another Python's, this one's is in {scripts[0]}; activate the environment that you want"
    return Check("nnUNetv2_train", "note", text)


def check_ext_trainer() -> Check:
    folders = ext_folders()
    if not folders:
        return Check(EXT_TRAINER, "note", "not set; needed only if nnU-Net's own folder lacks the trainers")
    if numbers("nnunetv2") < READS_EXT_TRAINER:
        return Check(EXT_TRAINER, "note", f"set, but nnU-Net {version('nnunetv2')} does not read it (2.8.0 does)")
    if missing := [folder for folder in folders if not os.path.isdir(folder)]:
        return Check(EXT_TRAINER, "note", f"names what is not there: {', '.join(missing)}")
    return Check(EXT_TRAINER, "ok", os.pathsep.join(folders))


def check_trainers() -> Check:
    """Does nnU-Net's own search find the trainers, and by which way?"""
    package = nnunet_folder()
    if package is None:
        return Check("trainers", "note", "not looked for, as there is no nnU-Net")
    folder = os.path.join(package, TRAINER_FOLDER)
    places = [place for place in (folder, *ext_folders()) if Path(place, f"{TRAINER}.py").is_file()]
    if error := search_error(folder):
        return Check("trainers", "problem", error, trainer_remedy(folder, places, error))
    way = "in nnU-Net's own folder" if folder in places else f"through {EXT_TRAINER}"
    return Check("trainers", "ok", ", ".join([f"{TRAINER} is found {way}", *places[:1]]))


def search_error(folder: str) -> str | None:
    """What goes wrong when the trainer is searched as nnU-Net does, its own folder first; None when it is found."""
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

            from nnunetv2_selfreg.compat import find_external_trainer

            found = recursive_find_python_class(folder, TRAINER, "nnunetv2.training.nnUNetTrainer")
            found = found or find_external_trainer(TRAINER)
    except (Exception, SystemExit) as error:
        return f"nnU-Net's search for {TRAINER} fails: {type(error).__name__}: {error}".splitlines()[0]
    return None if found else f"nnU-Net does not find {TRAINER}, it is not in {folder}"


def trainer_remedy(folder: str, places: Sequence[str], error: str) -> tuple[str, ...]:
    """What makes nnU-Net find the trainers.

    Args:
        folder: nnU-Net's trainer folder.
        places: The folders that have our file and from which it still was not loaded.
        error: Why the search failed.
    """
    ours = our_trainer_folder()
    source = [*places, ours or CHECKOUT_FOLDER][0]
    copy = f"cp {quote(os.path.join(source, f'{TRAINER}.py'))} {quote(folder)}"
    if "torchvision" in error and folder not in places:
        return (f"nnU-Net did not get as far as {EXT_TRAINER}: mend torchvision, or {copy}",)
    if places or ours is None:
        reinstall = f"python -m pip install --force-reinstall --no-deps {origin(OURS)}"
        return (reinstall, f"if that is not enough: python -c 'from nnunetv2_selfreg.trainer import {TRAINER}'")
    # ours is where installers put things, but this nnU-Net is somewhere else, as an editable checkout is
    if numbers("nnunetv2") >= READS_EXT_TRAINER:
        return (export_ext_trainer(),)
    return (copy, "or upgrade nnU-Net to 2.8.0 or newer and type nnUNetv2_selfreg doctor again")


def check_folder(variable: str, *, writable: bool = True) -> Check:
    """Is one of nnU-Net's three folders set, there and usable?"""
    value, choose = os.environ.get(variable), f"export {variable}=/path/to/{variable}"
    if not value:
        return Check(variable, "problem", "not set", (choose,))
    if not os.path.isdir(value):
        return Check(variable, "problem", f"{value} is not a folder", (f"mkdir -p {quote(value)}", f"or {choose}"))
    if not os.access(value, os.R_OK | os.X_OK | (os.W_OK if writable else 0)):
        remedy = (f"chmod u+{'rwx' if writable else 'rx'} {quote(value)}", f"or {choose}")
        return Check(variable, "problem", f"{value} cannot be {'written' if writable else 'read'}", remedy)
    return Check(variable, "ok", value)


# -- what is installed


def version(name: str) -> str | None:
    """A package's version; None if it is not installed."""
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return None


def numbers(name: str) -> tuple[int, ...]:
    """The first two numbers of a package's version; empty if it is not installed."""
    return tuple(int(number) for number in re.findall(r"\d+", version(name) or "")[:2])


def origin(name: str) -> str:
    """The folder or address a package was installed from, as pip in a shell takes it."""
    record = json.loads((version(name) and distribution(name).read_text("direct_url.json")) or "{}")
    url: str = record.get("url", f"/path/to/{name}")
    if "vcs_info" in record:
        url = f"{record['vcs_info']['vcs']}+{url}"
    elif url.startswith("file:"):
        url = url2pathname(urlparse(url).path)
    return quote(url + (f"#subdirectory={record['subdirectory']}" if "subdirectory" in record else ""))


def nnunet_folder() -> str | None:
    """Where nnU-Net's package lies, found without importing it; None when there is none."""
    spec = importlib.util.find_spec("nnunetv2")
    # without an origin it is no package but the bare folder that our wheel makes where there is no nnU-Net
    return os.path.dirname(spec.origin) if spec and spec.origin else None


def our_trainer_folder() -> str | None:
    """Where the installer put the file with our trainers; None when it is not there."""
    folder = str(distribution(OURS).locate_file(f"nnunetv2/{TRAINER_FOLDER}")) if version(OURS) else ""
    return folder if Path(folder, f"{TRAINER}.py").is_file() else None


def ext_folders() -> list[str]:
    """What `nnUNet_extTrainer` names."""
    return [folder for folder in os.environ.get(EXT_TRAINER, "").split(os.pathsep) if folder.strip()]


def export_ext_trainer() -> str:
    """The command that adds the folder of our trainers to `nnUNet_extTrainer`."""
    before = f'"${EXT_TRAINER}{os.pathsep}"' if ext_folders() else ""
    return f"export {EXT_TRAINER}={before}{quote(our_trainer_folder() or CHECKOUT_FOLDER)}"
