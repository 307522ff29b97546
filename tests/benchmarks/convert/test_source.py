"""Archives: what is found in them, and what is never written."""

import io
import os
import re
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nnunetv2_selfreg.benchmarks import source
from nnunetv2_selfreg.benchmarks.source import collect
from nnunetv2_selfreg.errors import SelfRegError

WANTED = re.compile(r"(?:^|/)train_\d+\.bmp$")


def make_zip(path, entries):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return path


def make_tar(path, entries, mode="w:gz"):
    with tarfile.open(path, mode) as archive:
        for name, content in entries:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def found(path, scratch):
    files = collect([path], WANTED, scratch)
    assert len({file.name for file in files}) == len(files)
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "inner" / "scratch").mkdir(parents=True)
    return tmp_path / "inner" / "scratch"


ENTRIES = [
    ("Wrapped/deep er/train_1.bmp", b"one"),
    ("./Wrapped/train_2.bmp", b"two"),
    ("Wrapped/readme.txt", b"unwanted"),
    ("__MACOSX/Wrapped/train_3.bmp", b"junk"),
    ("Wrapped/._train_4.bmp", b"junk"),
]


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tgz", "tar.xz", "folder", "folder of archives"])
def test_wanted_files_are_found_at_any_depth_without_junk(kind, tmp_path, scratch):
    path = tmp_path / f"archive.{kind}"
    if kind == "zip":
        make_zip(path, ENTRIES)
    elif kind == "folder":
        for name, content in ENTRIES:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
        (path / "Wrapped" / "loop").symlink_to(path)
    elif kind == "folder of archives":
        path.mkdir()
        make_zip(path / "b.zip", ENTRIES[:1])
        make_tar(path / "a.tgz", ENTRIES[1:])
        (path / "notes.txt").write_text("no archive")
    else:
        make_tar(path, ENTRIES, {"tar": "w", "tar.xz": "w:xz"}.get(kind, "w:gz"))
    assert found(path, scratch) == {"train_1.bmp": b"one", "train_2.bmp": b"two"}
    assert not [file for file in scratch.rglob("*") if file.name == "readme.txt"]


@pytest.mark.parametrize(
    "name",
    [
        "../train_1.bmp",
        "a/../../train_1.bmp",
        "/selfreg_leads_out/train_1.bmp",
        "..\\train_1.bmp",
        "C:\\a\\train_1.bmp",
    ],
)
@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_paths_that_lead_out_are_refused(name, make, tmp_path, scratch):
    before = set(tmp_path.rglob("*.bmp"))
    with pytest.raises(SelfRegError, match="which leads out of it"):
        found(make(tmp_path / "archive", [(name, b"x")]), scratch)
    assert set(tmp_path.rglob("*.bmp")) == before
    assert not Path("/selfreg_leads_out").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_a_tar_are_refused(kind, tmp_path, scratch):
    member = tarfile.TarInfo("train_1.bmp")
    member.type, member.linkname = kind, "/etc/passwd"
    with pytest.raises(SelfRegError, match=r"'train_1\.bmp', a link or a device"):
        found(make_tar(tmp_path / "archive.tar", [(member, b"")], "w"), scratch)


def test_links_of_a_zip_are_refused(tmp_path, scratch):
    info = zipfile.ZipInfo("train_1.bmp")
    info.create_system, info.external_attr = 3, 0o120777 << 16
    with pytest.raises(SelfRegError, match="a link or a device"):
        found(make_zip(tmp_path / "archive.zip", [(info, b"/etc/passwd")]), scratch)


@pytest.mark.parametrize("make", [make_zip, make_tar])
def test_a_bomb_is_refused_before_it_is_unpacked(make, tmp_path, scratch, monkeypatch):
    monkeypatch.setattr(source, "ALWAYS_ALLOWED", 1000)
    path = make(tmp_path / "archive", [("train_1.bmp", b"\0" * 10_000_000)])
    with pytest.raises(SelfRegError, match="unpacks to more than 100 times its size"):
        found(path, scratch)
    assert not list(scratch.rglob("*.bmp"))


def test_the_same_file_twice_is_refused(tmp_path, scratch):
    with pytest.raises(SelfRegError, match=r"'train_1\.bmp' twice"):
        found(make_tar(tmp_path / "archive.tar", [("train_1.bmp", b"a"), ("train_1.bmp", b"b")], "w"), scratch)


def test_damage_is_named(tmp_path, scratch):
    path = make_zip(tmp_path / "archive.zip", [("train_1.bmp", bytes(range(256)) * 8)])
    content = bytearray(path.read_bytes())
    content[60] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(SelfRegError, match=r"archive\.zip cannot be unpacked: .*; download it again"):
        found(path, scratch)
    tar = make_tar(tmp_path / "archive.tgz", [("train_1.bmp", bytes(range(256)) * 1000)])
    tar.write_bytes(tar.read_bytes()[:-200])
    with pytest.raises(SelfRegError, match=r"archive\.tgz cannot be unpacked"):
        found(tar, scratch)


@pytest.mark.parametrize("left", [0, 3, 40, 0.3, 0.6, 0.9, 0.99, -1])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.xz"])
@pytest.mark.parametrize("place", ["itself", "in a folder"])
def test_an_archive_that_was_cut_off_anywhere_is_said_to_be_so(kind, left, place, tmp_path, scratch):
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / f"archive.{kind}"
    content = np.random.default_rng(0).integers(0, 256, 20_000, np.uint8).tobytes()
    entries = [(f"train_{number}.bmp", content) for number in range(1, 6)]
    if kind == "zip":
        make_zip(path, entries)
    else:
        make_tar(path, entries, {"tar": "w", "tar.xz": "w:xz"}.get(kind, "w:gz"))
    whole = path.read_bytes()
    if kind == "tar":
        whole = whole[: whole.rindex(content[-100:]) + 100]  # without padding and the blocks of zeros at the end
    path.write_bytes(whole[: round(left * len(whole)) if 0 < left < 1 else left])
    with pytest.raises(
        SelfRegError, match=rf"archive\.{kind} (was cut off|cannot be unpacked: ).*; download it again$"
    ):
        found(path if place == "itself" else path.parent, scratch)


def test_a_tar_that_ends_between_two_files_is_cut_off(tmp_path, scratch):
    path = make_tar(tmp_path / "archive.tar", [(f"train_{number}.bmp", b"x" * 512) for number in (1, 2, 3)], "w")
    content = path.read_bytes()
    for end, damage in ((2 * 1024, b""), (1024, b"no header" * 100)):
        path.write_bytes(content[:end] + damage)
        with pytest.raises(SelfRegError, match=rf"cannot be unpacked: it ends, or is damaged, at byte {end}; download"):
            found(path, scratch)


def test_an_encrypted_zip_is_to_be_unpacked_by_its_owner(tmp_path, scratch):
    path = make_zip(tmp_path / "archive.zip", [("train_1.bmp", b"x" * 100)])
    content = bytearray(path.read_bytes())
    for header, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(header) + flags] |= 1  # the bit that says so
    path.write_bytes(content)
    with pytest.raises(
        SelfRegError, match=r"archive\.zip cannot be unpacked: .*encrypted.*; unpack it yourself and give"
    ):
        found(path, scratch)


def test_a_tar_that_ends_with_a_zip_is_that_tar(tmp_path, scratch):
    make_zip(tmp_path / "inner.zip", [("other.txt", b"")])
    packed = [("train_1.bmp", b"one"), ("inner.zip", (tmp_path / "inner.zip").read_bytes())]
    make_tar(tmp_path / "a.tar", packed, "w")
    assert found(tmp_path / "a.tar", scratch) == {"train_1.bmp": b"one"}


@pytest.mark.parametrize("place", ["", "inside"])
def test_a_folder_that_cannot_be_read_is_named(place, tmp_path, scratch, monkeypatch):
    """As if it belonged to somebody else; root reads everything."""
    (tmp_path / "source" / "inside").mkdir(parents=True)
    scandir, forbidden = os.scandir, str(tmp_path / "source" / place).rstrip("/")

    def refuse(path):
        if str(path) == forbidden:
            raise PermissionError(13, "Permission denied", forbidden)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SelfRegError, match=f"^{re.escape(forbidden)} cannot be read: Permission denied$"):
        collect([tmp_path / "source"], WANTED, scratch)


def test_what_is_no_archive_or_not_there(tmp_path, scratch):
    (tmp_path / "data.rar").write_bytes(b"Rar!\x1a\x07\x00")
    with pytest.raises(SelfRegError, match="neither a folder nor a zip or tar archive; unpack it"):
        found(tmp_path / "data.rar", scratch)
    with pytest.raises(SelfRegError, match="does not exist"):
        found(tmp_path / "nothing", scratch)
