"""What the demo is made of: parts that are done once, and nnU-Net's commands, shown as a reader would type them."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import read_json, write_json

MARKER = "demo.json"
MADE_BY = "nnUNetv2_selfreg demo"
LAST_LINES = 20


@dataclass(frozen=True)
class DemoPart:
    """One part of the demo.

    Attributes:
        title: What the reader is told.
        product: What is there when it has finished.
        action: Makes the product.
    """

    title: str
    product: Path
    action: Callable[[], None]


@dataclass
class Marker:
    """`demo.json`: says that a folder is this demo's, and how many of its parts have finished."""

    path: Path
    origin: Mapping[str, str | int]
    finished: int = 0

    @classmethod
    def claim(cls, folder: Path, seed: int) -> "Marker":
        """Takes a folder that is new, empty, or this demo's own, and changes nothing in any other.

        Raises:
            SelfRegError: The folder holds something else, or a demo of another seed or version.
        """
        marker = cls(folder / MARKER, {"made_by": MADE_BY, "version": __version__, "seed": seed})
        way_out = "name another folder with --folder"
        if marker.path.is_file():
            found = read_json(marker.path, "file that this demo wrote")
            for key, wanted in marker.origin.items():
                if found.get(key) != wanted:
                    raise SelfRegError(f"{marker.path} has {key} {found.get(key)!r}, not {wanted!r}: {way_out}")
            marker.finished = found["finished"]
        elif folder.is_file() or any(folder.glob("*")):
            raise SelfRegError(f"{folder} is not an empty folder and was not made by this demo: {way_out}")
        else:
            marker.save(0)
        return marker

    def save(self, finished: int) -> None:
        """Writes the file, whole or not at all, with this number of finished parts."""
        self.finished = finished
        write_json(self.path, {**self.origin, "finished": finished})


def run_parts(parts: Sequence[DemoPart], marker: Marker) -> None:
    """Runs the first part that has not finished, or whose product is gone, and all that follow it.

    Args:
        parts: The parts in their order.
        marker: Knows how many have finished; is saved after each.
    """
    for done, part in enumerate(parts):
        print(f"\n[{done + 1}/{len(parts)}] {part.title}", flush=True)
        if done < marker.finished and part.product.exists():
            print(f"  is there already: {part.product}")
            continue
        marker.save(done)  # what follows is made anew, even if this run is cut short
        begin = time.monotonic()
        part.action()
        marker.save(done + 1)
        minutes, seconds = divmod(round(time.monotonic() - begin), 60)
        print(f"  done in {minutes} min {seconds:02d} s", flush=True)


def run_command(command: Sequence[str], settings: Mapping[str, str], log: Path, **extra: str) -> None:
    """Runs one of nnU-Net's commands to its end; what it prints goes to its log.

    Args:
        command: The console script's name and its arguments.
        settings: Environment variables that the reader knows already.
        log: The file.
        **extra: Environment variables of this command alone.

    Raises:
        SelfRegError: The command is not installed, or it failed.
    """
    shown = [*(f"{name}={shlex.quote(value)}" for name, value in extra.items()), shlex.join(command)]
    print(f"$ {' '.join(shown)}\n  prints to {log}", flush=True)
    script = shutil.which(command[0], path=sysconfig.get_path("scripts")) or shutil.which(command[0])
    if script is None:
        raise SelfRegError(f"{command[0]} is not installed beside {sys.executable}: pip install nnunetv2")
    log.parent.mkdir(exist_ok=True)
    environment = {**os.environ, **settings, **extra, "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        done = subprocess.run(
            [script, *command[1:]], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False
        )
    if done.returncode:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        print("\n".join(f"    {line}" for line in lines[-LAST_LINES:]))
        raise SelfRegError(f"{command[0]} ended with exit code {done.returncode}; all that it printed is in {log}")
