"""Runs nnU-Net's commands: shows each as a reader would type it, follows it, and keeps all that it printed."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import IO

from nnunetv2_selfreg.errors import SelfRegError

LAST_LINES = 20


class Watch:
    """Makes progress out of a command's output.

    Attributes:
        doing: What the command is at, for the line that a terminal shows in place; empty when not known.
    """

    doing = ""

    def read(self, line: str) -> str | None:
        """Takes one line of the output.

        Returns:
            A line worth keeping on the screen, if this one ends something.
        """
        return None


class TrainingWatch(Watch):
    """Follows nnUNetv2_train: one line per epoch.

    Args:
        epochs: How many there will be.
        labels: Names of the foreground classes, in the order of their Dice.
    """

    def __init__(self, epochs: int, labels: Sequence[str]) -> None:
        self._epochs, self._labels = epochs, labels
        self._epoch = 0
        self._seen: list[str] = []

    def read(self, line: str) -> str | None:
        text = re.sub(r"^\d{4}-\d\d-\d\d \S+: ", "", line)
        if found := re.match(r"Epoch (\d+)\s*$", text):
            self._epoch, self._seen = int(found[1]) + 1, []
            self.doing = f"epoch {self._epoch} of {self._epochs}"
        elif text.startswith("Pseudo dice"):
            dice = [float(value) for value in re.findall(r"(?<![\w.])(nan|\d+(?:\.\d*)?(?:e-?\d+)?)(?=[),\]])", text)]
            if len(dice) == len(self._labels):
                each = ", ".join(f"{label} {value:.2f}" for label, value in zip(self._labels, dice, strict=True))
                self._seen.append(f"pseudo Dice {sum(dice) / len(dice):.2f} ({each})")
        elif found := re.match(r"SelfReg: .*\(share (\S+)\)", text):
            self._seen.append(f"SelfReg {found[1]} of the loss")
        elif found := re.match(r"Epoch time: ([\d.]+) s", text):
            return f"epoch {self._epoch} of {self._epochs}: {', '.join([*self._seen, f'{float(found[1]):.0f} s'])}"
        elif text.startswith("predicting "):
            self.doing = f"validation: {text.strip()}"
        elif found := re.match(r"Mean Validation Dice:\s+(\S+)", text):
            return f"mean Dice of the fold's validation cases: {float(found[1]):.2f}"
        return None


class PredictionWatch(Watch):
    """Follows nnUNetv2_predict.

    Args:
        cases: How many there will be.
    """

    def __init__(self, cases: int) -> None:
        self._cases, self._case = cases, 0

    def read(self, line: str) -> str | None:
        if found := re.match(r"Predicting (\S+):", line):
            self._case += 1
            self.doing = f"case {self._case} of {self._cases}, {found[1]}"
        return None


class Commands:
    """Runs commands of this Python installation with the same environment variables and shows them.

    Args:
        settings: The environment variables that differ from the user's own.
        logs: Folder for everything that the commands print, one file each.
    """

    def __init__(self, settings: Mapping[str, str], logs: Path) -> None:
        self._settings, self._logs = dict(settings), logs

    def show_settings(self) -> None:
        """Prints the settings as a reader would type them."""
        for name, value in self._settings.items():
            say(f"$ export {name}={shlex.quote(value)}")

    def run(self, name: str, command: Sequence[str], watch: Watch, **extra: str) -> None:
        """Runs one command to its end.

        Args:
            name: What to call its log.
            command: The console script's name and its arguments.
            watch: Makes progress out of its output.
            **extra: Environment variables for this command alone.

        Raises:
            SelfRegError: The command is not installed, or it failed.
        """
        say("$ " + " ".join([*(f"{key}={shlex.quote(value)}" for key, value in extra.items()), shlex.join(command)]))
        script = shutil.which(command[0], path=sysconfig.get_path("scripts")) or shutil.which(command[0])
        if script is None:
            raise SelfRegError(f"{command[0]} is not installed beside {sys.executable}: pip install nnunetv2")
        self._logs.mkdir(exist_ok=True)
        log = self._logs / f"{name}.log"
        process = subprocess.Popen(
            [script, *command[1:]],
            env={**os.environ, **self._settings, **extra, "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        try:
            last = _follow(process, log, watch)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
        if process.returncode:
            for line in last:
                say(f"    {line}")
            raise SelfRegError(
                f"{command[0]} ended with exit code {process.returncode}; all that it printed is in {log}"
            )


def _follow(process: "subprocess.Popen[str]", log: Path, watch: Watch) -> list[str]:
    """Reads a process's output to its end and returns the last lines that are not empty."""
    lines: Queue[str | None] = Queue()
    assert process.stdout is not None
    Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
    last: deque[str] = deque(maxlen=LAST_LINES)
    begin = time.monotonic()
    with log.open("a", encoding="utf-8") as kept:
        while True:
            try:
                line = lines.get(timeout=1)
            except Empty:
                line = ""
            else:
                if line is None:
                    break
                kept.write(line)
                kept.flush()
            if line.strip():
                last.append(line.rstrip())
                if text := watch.read(line):
                    say(f"  {text}")
            _show_in_place(f"  {watch.doing + ', ' if watch.doing else ''}{time.monotonic() - begin:.0f} s so far")
    _show_in_place("")
    return list(last)


def _read(stream: IO[str], lines: "Queue[str | None]") -> None:
    for line in stream:
        lines.put(line)
    lines.put(None)


def say(text: str) -> None:
    """Prints a line that stays, over the one that is shown in place."""
    _show_in_place("")
    print(text, flush=True)


def _show_in_place(text: str) -> None:
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\x1b[K{text[:width]}", end="", flush=True)
