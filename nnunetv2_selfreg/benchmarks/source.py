"""The files of a benchmark, from folders and archives. Nothing that an archive says about paths is trusted."""

import errno
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from tqdm import tqdm

from nnunetv2_selfreg.errors import SelfRegError

# An archive may unpack to so many times its size; images are compressed already, so honest ones stay near 1.
MAX_RATIO = 100
ALWAYS_ALLOWED = 2**30

_NAMED = re.compile(r"\.(?:zip|tar|tgz|tbz2?|txz|tar\.\w+)$", re.IGNORECASE)
_JUNK = re.compile(r"(?:^|/)(?:__MACOSX/|\._[^/]*$)")  # what macOS adds


def collect(sources: Sequence[Path], wanted: "re.Pattern[str]", scratch: Path) -> dict[Path, str]:
    """Finds the files whose path in a source is wanted, sorted; archives (zip, tar, tar.gz, ...) unpack to `scratch`.

    A folder without a wanted file may hold archives, directly in it. What no archive should hold is refused. Each file
    comes with its name for the user: the source and the path in it.
    """
    files: dict[Path, str] = {}
    for source in sources:
        try:
            source.stat()
        except FileNotFoundError:
            raise SelfRegError(f"{source} does not exist; give the archive or the folder that it unpacks to") from None
        except OSError as error:
            _unreadable(error)
        found = list(_walk(source, wanted)) if source.is_dir() else []
        files |= {path: f"{source.name}/{path.relative_to(source).as_posix()}" for path in found}
        archives = [source]
        if source.is_dir():
            archives = [] if found else sorted(filter(_is_archive, source.iterdir()))
        for archive in archives:
            folder = scratch / f"{len(list(scratch.iterdir()))}_{archive.name}"
            _unpack(archive, wanted, folder)
            files |= {path: f"{archive.name}/{path.relative_to(folder).as_posix()}" for path in _walk(folder, wanted)}
    return dict(sorted(files.items()))


def passed_over(sources: Sequence[Path], files: Iterable[Path]) -> list[Path]:
    """The archives in folders that hold unpacked files as well, of which `collect` took those alone."""
    unpacked = [source for source in sources if source.is_dir() and any(file.is_relative_to(source) for file in files)]
    there = [path for source in unpacked for path in sorted(filter(_is_archive, source.iterdir()))]
    return [path for path in there if not any(path.samefile(source) for source in sources)]


def _is_archive(path: Path) -> bool:
    """Whether a file is an archive, or was one: by its beginning, or by its name."""
    if not path.is_file() or _JUNK.search(path.name):
        return False
    return bool(_NAMED.search(path.name)) or zipfile.is_zipfile(path) or _is_tar(path)


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (EOFError, zlib.error, lzma.LZMAError):  # the first bytes of a compressed one
        return False
    except OSError as error:
        raise SelfRegError(f"{path} cannot be read: {error.strerror or error}") from None


def _unpack(archive: Path, wanted: "re.Pattern[str]", folder: Path) -> None:
    """Unpacks the wanted files of an archive into a new folder."""
    if not _is_archive(archive):
        raise SelfRegError(f"{archive} is neither a folder nor a zip or tar archive; unpack it and give the folder")
    if not zipfile.is_zipfile(archive) and not _is_tar(archive):
        raise SelfRegError(f"{archive} was cut off, or is no archive at all; download it again")
    folder.mkdir()
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
            if wanted.search(path.as_posix()) and not _JUNK.search(path.as_posix()):
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                with open_entry() as content, (folder / path).open("xb") as copy:
                    shutil.copyfileobj(content, copy)
    except (FileExistsError, NotADirectoryError):
        raise SelfRegError(f"{archive} holds {name!r} twice; nothing was written") from None
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError) as error:
        raise SelfRegError(f"{archive} cannot be unpacked: {error}; download it again") from None
    except RuntimeError as error:  # encrypted, or compressed in a way that Python does not know
        raise SelfRegError(f"{archive} cannot be unpacked: {error}; unpack it yourself and give the folder") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # no fault of the archive's
            raise
        raise SelfRegError(f"{archive} cannot be unpacked: {error.strerror or error}") from None


def _entries(path: Path) -> Iterator[tuple[str, int, bool, Callable[[], Any]]]:
    """Gives what is in an archive, without its folders: name, size, whether it is a plain file, and how to open it."""
    if not _is_tar(path):  # a tar that ends with a zip looks like that zip
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 when it was made on Windows
                    yield info.filename, info.file_size, kind in (0, stat.S_IFREG), partial(archive.open, info)
    else:
        with tarfile.open(path) as tar:
            for member in tar:
                if not member.isdir():
                    yield member.name, member.size, member.isreg(), partial(tar.extractfile, member)
            # tarfile takes a damaged header, or the end of the file, for the archive's end, which is a block of zeros
            assert tar.fileobj is not None
            tar.fileobj.seek(tar.offset)
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"it ends, or is damaged, at byte {tar.offset}")
            while tar.fileobj.read(2**20):  # to the check sum at the end of a compressed one
                pass


def _unreadable(error: OSError) -> NoReturn:
    raise SelfRegError(f"{error.filename} cannot be read: {error.strerror}") from None


def _walk(folder: Path, wanted: "re.Pattern[str]") -> Iterator[Path]:
    visited: set[str] = set()
    for root, directories, names in os.walk(folder, followlinks=True, onerror=_unreadable):
        real = os.path.realpath(root)
        if real in visited:  # a link to a folder above it
            directories.clear()
            continue
        visited.add(real)
        directories.sort()
        for relative in (Path(root, name).relative_to(folder).as_posix() for name in names):
            if wanted.search(relative) and not _JUNK.search(relative):
                yield folder / relative
