"""Every command on files that are mangled in one way: it ends right, or with one line, and changes nothing.

Hypothesis draws what goes wrong (`manglings.py`): a file or folder is cut, doubled, renamed, in the wrong letter case,
of a wrong type or unreadable; or all is well, but the disk is full, or the command is killed. By default the suite
tries 46 manglings, the same ones each time. More of them, drawn anew, are tried for each command by

    SELFREG_MANGLINGS=300 pytest tests/test_mangled.py
"""

import os
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from mangled_commands import COMMANDS, MODEL, STOCK
from manglings import OF_FILES, OF_RUNS, Ended, Mangling, snapshot

from nnunetv2_selfreg.files import PARTIAL

MORE = int(os.environ.get("SELFREG_MANGLINGS", 0))
WHOLE = Mangling("none")


@cache
def clean(name: str) -> Path:
    """A folder where the command did its work on files that are whole."""
    root = Path(tempfile.mkdtemp(dir=os.path.dirname(os.environ["nnUNet_raw"])))
    COMMANDS[name].fill(root / "given")
    ended = COMMANDS[name].run(root, WHOLE, False)
    assert ended.code == 0, ended.error
    return root


def try_it(name: str, mangling: Mangling, replace: bool = False) -> Ended:
    """Runs a command on mangled files and checks how it ends.

    Args:
        name: Of the command.
        mangling: What goes wrong.
        replace: Whether an older output is there, which the command may replace.
    """
    command, whole = COMMANDS[name], clean(name)
    replace = replace and command.replace is not None
    with tempfile.TemporaryDirectory(dir=whole.parent) as folder:
        root = Path(folder)
        for path in ("raw", "results"):
            (root / path).mkdir()
        source = whole / "given"
        shutil.copytree(source, root / "given", copy_function=os.link, ignore=_ignored(source, command.output))
        old = root / command.output
        if replace:
            new = whole / command.output
            (shutil.copytree if new.is_dir() else shutil.copyfile)(new, old)
            with (old / command.main).open("a") as file:
                file.write("\n")
        mangling.apply(root / "given")
        before = snapshot(root)
        ended = command.run(root, mangling, replace)
        if ended.code < 0:
            again = not old.exists() or command.replace is not None
            if again:
                ended = command.run(root, WHOLE, old.exists())
                assert ended.code == 0, f"after a killed run: {ended.error}"
                left = [path.name for path in root.rglob(f"{PARTIAL}*/*")]
                assert left in ([], [".lock.new"]), f"a killed run's files are left: {left}"
        if ended.code in (0, -9, -25):
            command.right(root, whole, mangling)
            end = (old / command.main).read_bytes()[-2:] if (old / command.main).is_file() else b""
            assert end != b"\n\n", "the old output is there"
            return ended
        assert ended.code in (1, 2), ended
        assert snapshot(root) == before, f"changed: {_changed(before, snapshot(root))}; it said: {ended.error}"
        lines = ended.error.replace(str(root), "").replace("\x1b[A", "").splitlines()
        (line,) = [line for line in lines if line.strip() and "%|" not in line]  # what is left of progress bars
        names = mangling.names() if mangling.kind in OF_FILES else {old.name}
        assert any(part in line for part in names), f"none of {sorted(names)} is named: {line}"
        return ended


def _ignored(source: Path, output: str) -> Callable[[Any, list[str]], list[str]]:
    """What the command wrote among what it was given."""
    written = Path(output).name if output.startswith("given/") else None
    folds = "Dataset027_ACDC"  # nnU-Net reads its folds among the preprocessed data
    return lambda _, names: [name for name in names if name in (written, folds)]


def _changed(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name, 0) != after.get(name, 0))


def paths(name: str) -> list[str]:
    """Every file and folder that the command is given."""
    ignored = (*COMMANDS[name].output.split("/")[-1:], "Dataset027_ACDC")
    found = snapshot(clean(name) / "given")
    return [path for path in found if not any(part in ignored for part in path.split("/"))]


@pytest.mark.timeout(0 if MORE else 600, method="thread")  # Hypothesis takes the other method's alarm for a failure
@pytest.mark.parametrize("name", COMMANDS)
def test_one_mangling_ends_right_or_changes_nothing(name: str) -> None:
    of_files = st.builds(Mangling, st.sampled_from(OF_FILES), st.sampled_from(paths(name)), st.integers(0, 999).map(
        lambda thousandths: thousandths / 1000))  # fmt: skip
    of_runs = st.builds(Mangling, st.sampled_from(OF_RUNS), st.just(""), st.integers(0, 999).map(
        lambda thousandths: thousandths / 1000))  # fmt: skip

    @settings(
        max_examples=MORE or COMMANDS[name].examples,
        derandomize=not MORE,
        database=None,
        deadline=None,
        phases=(Phase.generate,) if MORE else (Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(of_files, of_files, of_runs), st.booleans())
    def check(mangling: Mangling, replace: bool) -> None:
        try:
            try_it(name, mangling, replace)
        except Exception as error:
            if not MORE:
                raise
            found.append(f"{mangling}, {replace}: {type(error).__name__}: {error}")

    found: list[str] = []
    check()
    assert not found, "\n".join(found)


ARCHITECTURE = ("configurations", "2d", "architecture")
FOUND = {
    "an archive whose reading fails is named": ("convert a zip", Mangling("unreadable", "archive.zip", 0.9)),
    "a full disk is no fault of the archive": ("convert a zip", Mangling("full disk", "", 0.275)),
    "killed while it removes its files": ("convert a folder of pictures", Mangling("killed", "", 0.564)),
    "the table's files take their places together": ("leaderboard table", Mangling("full disk", "", 0.9)),
    "a folder that was made for the table": ("leaderboard table", Mangling("full disk", "", 0.5)),
    "a file of the model that cannot be read": ("export", Mangling("unreadable", f"{MODEL}/dataset.json", 0.7)),
    "a link to itself": ("export", Mangling("unreadable", MODEL, 0.1)),
    "a link to itself that is inspected": ("inspect", Mangling("unreadable", STOCK, 0.1)),
    "a link to itself that is compared": ("compare", Mangling("unreadable", MODEL, 0.1)),
    "a folder that only looks like a fold": ("export", Mangling("renamed", f"{MODEL}/fold_0", 0.363)),
    "a network class of the wrong type": (
        "plans",
        Mangling("wrong type", "Dataset001_Tiny/nnUNetPlans.json", 0.462, (*ARCHITECTURE, "network_class_name")),
    ),
    "imports of the wrong type": (
        "plans",
        Mangling("wrong type", "Dataset001_Tiny/nnUNetPlans.json", 0.462, (*ARCHITECTURE, "_kw_requires_import")),
    ),
    "a label of the wrong type": (
        "plans",
        Mangling("wrong type", "Dataset001_Tiny/dataset.json", 0.85, ("labels", "background")),
    ),
    "labels of the wrong type": ("export", Mangling("wrong type", f"{MODEL}/dataset.json", 0.378, ("labels",))),
}


@pytest.mark.parametrize("found", FOUND)
def test_found_before(found: str) -> None:
    try_it(*FOUND[found], replace="killed" in found or "places" in found)
