"""Files and folders that are written whole or not at all, and JSON that is read with a clear error."""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from nnunetv2_selfreg.errors import SelfRegError

PARTIAL = ".selfreg_"  # what the names of unfinished folders begin with, so that nnU-Net passes over them
REPLACED = ".replaced"  # what the name of an old folder ends with while the new one takes its place
LOCK = ".lock"  # the file in them that a run keeps locked as long as it lives


def read_json(path: Path, kind: str = "JSON file", patience: float = 0) -> dict[str, Any]:
    """Reads a JSON file that holds a mapping.

    Args:
        path: The file.
        kind: What to call it in an error.
        patience: For how many seconds it is read again while it is no JSON: somebody may be writing it.

    Raises:
        SelfRegError: The file cannot be read or holds something else.
    """
    end = time.monotonic() + patience
    while True:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            break
        except OSError as error:
            raise SelfRegError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            if time.monotonic() >= end:
                raise SelfRegError(f"{path} is not a {kind}: {error}") from None
            time.sleep(0.1)
    if not isinstance(content, dict):
        raise SelfRegError(f"{path} is not a {kind}: it holds a {type(content).__name__}")
    return content


def write_json(path: Path, content: Mapping[str, Any], indent: int = 2) -> None:
    """Writes or replaces a JSON file, whole or not at all, in ASCII as nnU-Net's own; errors as `new_file`."""
    write_text(path, json.dumps(content, indent=indent) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes or replaces a text file in UTF-8, whole or not at all; errors as `new_file`."""
    with new_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to; at the end of the block the file written there replaces `path`.

    The parent folder is made if there is none. If the block raises, nothing is left behind; what a killed run leaves,
    the next one beside it removes. The path that is given ends as `path` does, since many writers choose a format by
    the ending.

    Raises:
        SelfRegError: The file cannot be written.
    """
    with _reporting(path), _scratch(path.parent) as folder:
        partial = folder / path.name
        yield partial
        os.replace(partial, path)


def may_replace_report(folder: Path, is_report: Callable[[Path], bool], overwrite: bool) -> bool:
    """Whether a folder that is there may be replaced by a report.

    Args:
        folder: The folder.
        is_report: Whether it is a report and holds nothing else.
        overwrite: Whether that is asked for.

    Raises:
        SelfRegError: It may not.
    """
    if not overwrite:
        raise SelfRegError(f"-o {folder} exists already; name another, or replace a report with --overwrite")
    if not is_report(folder):
        raise SelfRegError(
            f"-o {folder} is not a report and nothing else, so --overwrite leaves it alone; name another"
        )
    return True


@contextmanager
def new_folder(path: Path, may_replace: Callable[[Path], bool] | None = None) -> Iterator[Path]:
    """Gives an empty folder beside `path` to fill; at the end of the block it is renamed to `path`.

    The parent folder is made if there is none. If the block raises, nothing is left behind; what a killed run leaves,
    the next one beside it removes. A folder that is there already is refused before the block; with `may_replace` it is
    moved aside at the end, and removed once the new one is in its place.

    Args:
        path: The folder to make.
        may_replace: Whether an existing folder may be replaced; None never replaces.

    Raises:
        SelfRegError: The folder is there already and must stay, or the new one cannot be written.
    """

    def check() -> None:
        if path.exists() and not (may_replace and may_replace(path)):
            raise SelfRegError(f"{path} exists already; name another folder")

    path = Path(os.path.realpath(path)) if path.is_symlink() else path  # the folder is replaced, not a link to it
    with _reporting(path), _scratch(path.parent) as folder:
        partial, replaced = folder / path.name, folder / f"{path.name}{REPLACED}"
        check()
        partial.mkdir()
        yield partial
        check()
        if path.exists():
            os.replace(path, replaced)
        try:
            os.replace(partial, path)
        except BaseException:
            if replaced.exists():
                os.replace(replaced, path)
            raise
        if replaced.exists():
            os.replace(replaced, partial)  # nobody puts it back while it is being removed


def copy_files(source: Path, target: Path, patterns: Sequence[str]) -> None:
    """Copies the files of a folder that match one of the glob patterns, with their sub-folders.

    Raises:
        SelfRegError: One of them cannot be read.
    """
    target.mkdir(parents=True, exist_ok=True)
    for pattern in patterns:
        for path in source.glob(pattern):
            destination = target / path.relative_to(source)
            try:
                content = path.read_bytes()
            except OSError as error:
                raise SelfRegError(f"{path} cannot be read: {error.strerror}") from None
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes(content)


def listed(names: Sequence[str], most: int = 5) -> str:
    """The first names, and how many more there are; `none` if there are none."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """Gives a hidden folder in `parent`, gone at the end of the block, and removes those of runs that were killed."""
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    for lock in parent.glob(f"{PARTIAL}*/{LOCK}"):
        with suppress(OSError), lock.open("r+b") as file:
            if _take(file):
                _clear(lock.parent)
    folder = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=parent))
    lock = folder / LOCK
    try:
        with lock.with_suffix(".new").open("xb") as file:
            if _take(file):
                os.replace(file.name, lock)  # a lock that others find is held from its first moment
            yield folder
    finally:
        _remove(folder)
        with suppress(OSError):  # they hold what was written
            for made in missing:
                made.rmdir()


def _clear(left: Path) -> None:
    """Removes what a killed run left; an old folder that it had moved aside, with none in its place, goes back."""
    for old in left.glob(f"*{REPLACED}"):
        if not (home := left.parent / old.name.removesuffix(REPLACED)).exists():
            os.replace(old, home)
    _remove(left)


def _remove(folder: Path) -> None:
    """Removes a folder as far as possible, the lock last: without it the next run would not know what was left."""
    with suppress(OSError):
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name != LOCK:
                path.unlink()
        shutil.rmtree(folder)


def _take(file: IO[bytes]) -> bool:
    """Locks an open file until it is closed or the process ends, however it does; False if another run holds it.

    Also False where the system has no such locks (Windows, some network drives): there nothing is removed.
    """
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


@contextmanager
def _reporting(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise SelfRegError(f"{path} cannot be written: {reason}; nothing was left behind") from None
