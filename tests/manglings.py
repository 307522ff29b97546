"""One thing that goes wrong with files: what it does to a folder, and what a command does then.

A folder is mangled by one of `OF_FILES`, or whole and used under one of `OF_RUNS`: on a full disk, or killed.
"""

import io
import json
import os
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK
import torch
from PIL import Image

from nnunetv2_selfreg.cli import main
from nnunetv2_selfreg.files import PARTIAL

OF_FILES = ("cut", "doubled", "renamed", "wrong case", "wrong type", "unreadable")
OF_RUNS = ("full disk", "killed", "killed while it writes")
BROKEN = "/proc/self/mem"  # Linux: a plain file whose reading ends in an input/output error, also for root
RENAMED = ("old_{}", "{}~", "{}.bak", "{} (1)", "copy/{}", ".{}", "0{}")
DOUBLED = ("old_{}", "Copy of {}", "copy/{}", "copy/copy/{}", "{} (1)", "{}.bak")
CASES = (str.upper, str.swapcase, str.title)
TYPES = (None, "text", [], {}, [["text"]], 7, True, {"text": None})  # of a value in a JSON file
CONTENTS = (b"", b"not what it was\n", b"[]\n", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", b"\x1f\x8b\x08\x00", None)


@dataclass(frozen=True)
class Mangling:
    """What goes wrong.

    Attributes:
        kind: One of `OF_FILES` or `OF_RUNS`.
        path: The file or folder that is mangled, relative to the folder.
        amount: From 0 to below 1: how much is left, how early the run ends, or which of several ways it is.
        place: The keys of the value in a JSON file that gets another type; chosen by the amount when left out.
    """

    kind: str
    path: str = ""
    amount: float = 0.0
    place: tuple[str, ...] = ()

    def among(self, ways: Sequence[Any]) -> Any:
        """One of several ways."""
        return ways[int(self.amount * len(ways))]

    def names(self) -> set[str]:
        """What tells which file is meant: its name, or a case's, before and after; its model's; a folder's parent."""
        names = {self.path.split("/")[-1]}
        if self.kind in ("renamed", "doubled"):
            names.add(self.among(RENAMED if self.kind == "renamed" else DOUBLED).format(*names).split("/")[-1])
        if self.kind == "wrong case":
            names.add(self.among(CASES)(*names))
        *above, name = self.path.split("/")
        parent = [part for part in above if "__" in part or (part == above[-1] and "." not in name)]  # models' folders
        return (names | {name.split(".")[0].removesuffix("_0000") for name in names}).union(parent) - {""}

    def apply(self, folder: Path) -> None:
        """Mangles a folder; its files are replaced and never written to, so they may be hard links."""
        path = folder / self.path
        if self.kind == "cut":
            if path.is_dir():  # a copy that stopped
                children = sorted(path.iterdir())
                for child in children[int(self.amount * len(children)) :]:
                    _remove(child)
            else:
                content = path.read_bytes()
                _replace(path, content[: int(self.amount * len(content))])
        elif self.kind == "doubled":
            target = path.parent / self.among(DOUBLED).format(path.name)
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if path.is_dir() else shutil.copyfile)(path, target)
        elif self.kind in ("renamed", "wrong case"):
            name = self.among(CASES)(path.name) if self.kind == "wrong case" else None
            target = path.parent / (name or self.among(RENAMED).format(path.name))
            target.parent.mkdir(exist_ok=True)
            path.rename(target)
        elif self.kind == "unreadable":
            is_folder = path.is_dir()
            _remove(path)
            path.symlink_to(path.name if is_folder or self.amount < 0.3 else BROKEN)  # a link to itself leads nowhere
        elif self.kind == "wrong type":
            _wrong_type(path, self.amount, self.place)

    def limit(self) -> int:
        """Bytes of a file after which a disk is full: from 0 to 100000, many of them small."""
        return int(10 ** (5 * self.amount)) - 1


def _wrong_type(path: Path, amount: float, place: Sequence[str]) -> None:
    within = amount * 2 % 1  # so that one number says which half, and what in it
    if path.is_dir():
        _remove(path)
        path.write_bytes(b"a file in a folder's place\n")
    elif path.suffix == ".json" and amount < 0.9:
        content = json.loads(path.read_bytes())
        places = list(_places(content))
        parent, key = places[int(within * len(places))]
        if place:
            *above, key = place
            parent = reduce(lambda part, name: part[name], above, content)
        kinds = [value for value in TYPES if _kind(value) != _kind(parent[key])]
        parent[key] = kinds[int(amount * 1000) % len(kinds)]
        _replace(path, json.dumps(content).encode())
    elif amount < 0.5 and path.suffix in (".png", ".bmp"):
        image = Image.open(path)
        image.load()
        path.unlink()
        image.convert("RGB" if image.mode == "L" else "L").save(path)
    elif amount < 0.5 and path.name.endswith(".nii.gz") and "_4d" not in path.name:
        array = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
        wrong = [np.full(array.shape, np.nan, np.float32), array[None], array[0], array + 1j][int(4 * within)]
        path.unlink()
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(wrong, isVector=False), path)
    elif amount < 0.5 and path.suffix == ".pth":
        path.unlink()
        torch.save([{}, [], torch.zeros(1), {"network_weights": {}}][int(4 * within)], path)
    elif (content := CONTENTS[int(within * len(CONTENTS))]) is None:
        path.unlink()
        path.mkdir()
    else:
        _replace(path, content)


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every value in a JSON file, by what holds it and its key or index."""
    for key in content if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], (dict, list)):
            yield from _places(content[key])


def _kind(value: Any) -> str:
    return "number" if isinstance(value, (int, float)) and not isinstance(value, bool) else type(value).__name__


def _replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def snapshot(folder: Path, hidden: bool = True) -> dict[str, Any]:
    """Every file's content, link's target and folder; without what unfinished runs left if not `hidden`."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if hidden or PARTIAL not in name:
            content = None if path.is_dir() else path.read_bytes
            found[name] = os.readlink(path) if path.is_symlink() else content and content()
    return found


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (negative: killed by that signal), and what it wrote to stderr and stdout."""

    code: int
    error: str
    output: str


def run(arguments: Sequence[object], environment: Mapping[str, str], mangling: Mangling) -> Ended:
    """Runs a command, on a full disk or killed if the mangling says so; what it raises is raised."""
    if mangling.kind in ("killed", "killed while it writes"):
        return _killed(lambda: _called(arguments, environment), mangling)
    if mangling.kind == "full disk":
        with _at_most(mangling.limit()):
            return _called(arguments, environment)
    return _called(arguments, environment)


def _called(arguments: Sequence[object], environment: Mapping[str, str]) -> Ended:
    before, error, output = dict(os.environ), io.StringIO(), io.StringIO()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a process that is forked cannot use its parent's, and sums are the same for all runs
    os.environ.update(environment)
    try:
        with redirect_stderr(error), redirect_stdout(output):
            try:
                code: Any = main([str(argument) for argument in arguments])
            except SystemExit as ended:
                code = ended.code
    finally:
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(before)
    return Ended(code, error.getvalue(), output.getvalue())


@contextmanager
def _at_most(size: int) -> Iterator[None]:
    """Files cannot grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def _killed(command: Callable[[], Ended], mangling: Mangling) -> Ended:
    """Runs in a process of its own, which is killed, unless it ends before.

    It is killed when it opens, makes, renames or removes a file for the nth time, or when a file reaches a size.
    """
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        with open(reading, encoding="utf-8") as pipe:
            error = pipe.read()
        return Ended(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), error, "")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(120)  # a lock that another thread held at the fork would hold this process for ever
    try:
        if mangling.kind == "killed while it writes":
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            with _at_most(mangling.limit()):
                ended = command()
        else:
            left = int(10 ** (3.5 * mangling.amount))

            def count(event: str, _: Any) -> None:
                nonlocal left
                left -= event == "open" or event.startswith(("os.", "shutil.", "tempfile."))
                if left == 0:  # killing is an event, too
                    os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            ended = command()
    except BaseException as error:
        ended = Ended(99, repr(error), "")
    os.write(writing, ended.error[-4000:].encode())
    os._exit(ended.code)
