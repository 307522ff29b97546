"""What the demo is made of: parts that are done once, and nnU-Net's commands, shown as a reader would type them."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import read_json, write_json

MARKER = "demo.json"
MADE_BY = "nnUNetv2_selfreg demo"
LAST_LINES, LAST_BYTES = 20, 20_000


@dataclass(frozen=True)
class Step:
    """One part of the demo.

    Attributes:
        name: What the marker calls it.
        title: What the reader is told.
        products: What is there when it has finished.
        action: Does it.
    """

    name: str
    title: str
    products: Sequence[Path]
    action: Callable[[], None]


@dataclass
class Marker:
    """`demo.json`: says that a folder is this demo's, and which parts have finished in how many seconds."""

    path: Path
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def claim(cls, folder: Path, seed: int) -> "Marker":
        """Takes a folder that is new, empty, or this demo's own, and changes nothing in any other.

        Raises:
            SelfRegError: The folder holds something else, or a demo of another seed or version.
        """
        marker, way_out = cls(folder / MARKER, seed), "name another folder with --folder"
        if folder.exists() and not folder.is_dir():
            raise SelfRegError(f"{folder} is not a folder: {way_out}")
        if marker.path.is_file():
            try:
                found = read_json(marker.path)
                marker.seconds = {name: float(value) for name, value in found["seconds"].items()}
            except (ValueError, TypeError, KeyError, AttributeError):
                found = {}
            if found.get("made_by") != MADE_BY:
                raise SelfRegError(f"{marker.path} is not a file that this demo wrote: {way_out}")
            for key, wanted in (("version", __version__), ("seed", seed)):
                if found.get(key) != wanted:
                    raise SelfRegError(f"{folder} holds a demo of {key} {found.get(key)}, not {wanted}: {way_out}")
        elif folder.is_dir() and any(folder.iterdir()):
            raise SelfRegError(f"{folder} is not empty and was not made by this demo: {way_out}")
        else:
            marker.save()
        return marker

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        write_json(self.path, {"made_by": MADE_BY, "version": __version__, "seed": self.seed, "seconds": self.seconds})


def run_steps(steps: Sequence[Step], marker: Marker) -> set[str]:
    """Runs every step that has not finished, and all that follow one that was run; returns their names.

    Args:
        steps: The steps in their order.
        marker: Knows which have finished; is saved after each.
    """
    run: set[str] = set()
    for position, step in enumerate(steps, 1):
        say(f"\n[{position}/{len(steps)}] {step.title}")
        if not run and step.name in marker.seconds and all(product.exists() for product in step.products):
            say(f"  is there already: {step.products[-1]}")
            continue
        if not run:
            # What follows would be of older products, should this run be cut short.
            for later in steps[position - 1 :]:
                marker.seconds.pop(later.name, None)
            marker.save()
        begin = time.monotonic()
        step.action()
        marker.seconds[step.name] = round(time.monotonic() - begin, 1)
        marker.save()
        run.add(step.name)
        say(f"  done in {duration(marker.seconds[step.name])}")
    return run


@dataclass(frozen=True)
class Commands:
    """Runs commands of this Python installation and shows them.

    Attributes:
        settings: The environment variables that differ from the user's own.
        logs: Folder for what the commands print, a file each.
    """

    settings: Mapping[str, str]
    logs: Path

    def show_settings(self) -> None:
        """Prints the settings as a reader would type them."""
        for name, value in self.settings.items():
            say(f"$ export {name}={shlex.quote(value)}")

    def run(self, name: str, command: Sequence[str], **extra: str) -> None:
        """Runs one command to its end; a terminal shows the last line that it printed.

        Args:
            name: What to call its log.
            command: The console script's name and its arguments.
            **extra: Environment variables for this command alone.

        Raises:
            SelfRegError: The command is not installed, or it failed.
        """
        say("$ " + " ".join([*(f"{key}={shlex.quote(value)}" for key, value in extra.items()), shlex.join(command)]))
        script = shutil.which(command[0], path=sysconfig.get_path("scripts")) or shutil.which(command[0])
        if script is None:
            raise SelfRegError(f"{command[0]} is not installed beside {sys.executable}: pip install nnunetv2")
        self.logs.mkdir(exist_ok=True)
        log = self.logs / f"{name}.log"
        say(f"  prints to {log}")
        environment = {**os.environ, **self.settings, **extra, "PYTHONUNBUFFERED": "1"}
        with log.open("wb") as output:
            process = subprocess.Popen(
                [script, *command[1:]], env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
            try:
                _wait(process, log)
            finally:
                process.terminate()  # does nothing to a process that has ended
                process.wait()
        if process.returncode:
            for line in _last_lines(log):
                say(f"    {line}")
            raise SelfRegError(
                f"{command[0]} ended with exit code {process.returncode}; all that it printed is in {log}"
            )


def _wait(process: "subprocess.Popen[bytes]", log: Path) -> None:
    begin = time.monotonic()
    while process.poll() is None:
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            _show_in_place(f"  {time.monotonic() - begin:.0f} s so far: {''.join(_last_lines(log)[-1:])}")


def _last_lines(log: Path) -> list[str]:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LAST_BYTES))
        text = file.read().decode(errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()][-LAST_LINES:]


def say(text: str) -> None:
    """Prints a line that stays, over the one that is shown in place."""
    _show_in_place("")
    print(text, flush=True)


def duration(seconds: float) -> str:
    """Seconds as a reader likes them, such as `4 min 11 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _show_in_place(text: str) -> None:
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{text[:width]}", end="", flush=True)
