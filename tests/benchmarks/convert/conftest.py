"""Each generated archive is made once for the whole run; what a test changes, it changes in a copy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import BUILDERS


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name not in made:
            made[name] = BUILDERS[name](tmp_path_factory.mktemp(f"archive_{name}"))  # type: ignore[operator]
        return made[name]

    return get


@pytest.fixture
def copy_of(archive: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of an archive, of symbolic links in true folders: what a test removes or replaces is its own."""

    def get(name: str) -> Path:
        return Path(shutil.copytree(archive(name), tmp_path / name, copy_function=lambda a, b: Path(b).symlink_to(a)))

    return get


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """nnU-Net's folder of raw data sets, with the other two beside it."""
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    return tmp_path / "nnUNet_raw"
