"""The files of a benchmark, from folders and archives. Nothing that an archive says about paths is trusted."""

import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from nnunetv2_selfreg.errors import SelfRegError

# An archive may unpack to so many times its size; images are compressed already, so honest ones stay near 1.
MAX_RATIO = 100
ALWAYS_ALLOWED = 2**30


def collect(sources: Sequence[Path], wanted: "re.Pattern[str]", scratch: Path) -> list[Path]:
    """Finds the wanted files at any depth; `__MACOSX` trees and `._*` files are passed over.

    A folder without a wanted file may hold archives, directly in it.

    Args:
        sources: Folders and archives (zip, tar, tar.gz, ...).
        wanted: Matches their paths, with slashes, relative to the source.
        scratch: Archives are unpacked under here.

    Returns:
        The files, sorted.

    Raises:
        SelfRegError: A source is not there, is no folder or archive, is damaged, or holds what no archive should.
    """
    files: list[Path] = []
    for source in sources:
        if not source.exists():
            raise SelfRegError(f"{source} does not exist; give the archive or the folder that it unpacks to")
        archives = [source]
        if source.is_dir():
            found = list(_walk(source, wanted))
            archives = [] if found else [path for path in sorted(source.iterdir()) if is_archive(path)]
            files += found
        for archive in archives:
            folder = scratch / str(len(list(scratch.iterdir())))
            unpack(archive, wanted, folder)
            files += _walk(folder, wanted)
    return sorted(files)


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar archive."""
    return path.is_file() and not _junk(path.name) and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def unpack(archive: Path, wanted: "re.Pattern[str]", folder: Path) -> None:
    """Unpacks the wanted files of an archive into a new folder.

    Raises:
        SelfRegError: It is damaged, encrypted or no archive at all, holds a path that leads out of the folder, a link
            or a device, the same file twice, or unpacks to more than `MAX_RATIO` times its size (and 1 GiB).
    """
    if not is_archive(archive):
        raise SelfRegError(f"{archive} is neither a folder nor a zip or tar archive; unpack it and give the folder")
    folder.mkdir(parents=True)
    allowed = max(ALWAYS_ALLOWED, MAX_RATIO * archive.stat().st_size)
    entries = tqdm(_entries(archive), desc=f"unpacking {archive.name}", unit=" files", leave=False, disable=None)
    try:
        for name, size, regular, open_entry in entries:
            path = PurePosixPath(name.replace("\\", "/"))
            if path.is_absolute() or ".." in path.parts or re.match("[A-Za-z]:", name) or "\0" in name:
                raise SelfRegError(f"{archive} holds the path {name!r}, which leads out of it; nothing was written")
            if not regular:
                raise SelfRegError(f"{archive} holds {name!r}, a link or a device; nothing was written")
            allowed -= size
            if allowed < 0:
                raise SelfRegError(f"{archive} unpacks to more than {MAX_RATIO} times its size; nothing was written")
            if not _junk(path.as_posix()) and wanted.search(path.as_posix()):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                with open_entry() as content, (folder / path).open("xb") as copy:
                    shutil.copyfileobj(content, copy)
    except (FileExistsError, NotADirectoryError):
        raise SelfRegError(f"{archive} holds {name!r} twice; nothing was written") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise SelfRegError(f"{archive} cannot be unpacked: {error}; download it again") from None
    except OSError as error:
        raise SelfRegError(f"{archive} cannot be unpacked: {error.strerror or error}") from None


def _entries(path: Path) -> Iterator[tuple[str, int, bool, Callable[[], IO[bytes]]]]:
    """Gives what is in an archive, without its folders: name, size, whether it is a plain file, and how to open it."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 when it was made on Windows
                    yield info.filename, info.file_size, kind in (0, stat.S_IFREG), partial(archive.open, info)
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isdir():
                    yield member.name, member.size, member.isreg(), partial(_member, tar, member)


def _member(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(member)
    assert content is not None  # as it is of every plain file
    return content


def _walk(folder: Path, wanted: "re.Pattern[str]") -> Iterator[Path]:
    visited: set[str] = set()
    for root, directories, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in visited:  # a link to a folder above it
            directories.clear()
            continue
        visited.add(real)
        directories.sort()
        for name in names:
            relative = Path(root, name).relative_to(folder).as_posix()
            if not _junk(relative) and wanted.search(relative):
                yield folder / relative


def _junk(name: str) -> bool:
    """Whether macOS added this file."""
    path = PurePosixPath(name)
    return "__MACOSX" in path.parts or path.name.startswith("._")
