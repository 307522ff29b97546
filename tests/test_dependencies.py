"""What is imported is declared, and what is declared is imported or has its reason beside it."""

import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from test_architecture import LIBRARY, ROOT, imports

if sys.version_info >= (3, 11):
    import tomllib

    PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
NEVER_IMPORTED = {"batchgenerators", "dynamic-network-architectures"}  # pyproject.toml says why


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*extras: str) -> set[str]:
    lists = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][extra] for extra in extras)]
    return {normal(re.match(r"[\w.-]+", line)[0]) for lines in lists for line in lines}


def imported(folder: Path) -> set[str]:
    here = {path.stem for room in ("tests", "examples", "trainers") for path in (ROOT / room).rglob("*.py")} | {
        LIBRARY.name
    }
    names = {name.split(".")[0] for path in folder.rglob("*.py") for name in imports(path)}
    owners = packages_distributions()  # of nnunetv2 there are two: the wheel puts a module into its folder
    found = [set(map(normal, owners[name])) for name in names - here - sys.stdlib_module_names if name in owners]
    return {min(several - {normal(PROJECT["name"])}) for several in found}


def test_what_the_library_imports_is_declared():
    assert imported(LIBRARY) <= declared("inspect", "leaderboard")


def test_what_is_declared_is_imported():
    assert declared("inspect", "leaderboard") - imported(LIBRARY) == NEVER_IMPORTED


def test_what_tests_and_examples_import_is_declared():
    of_nnunet = {"batchgenerators", "batchgeneratorsv2", "dynamic-network-architectures"}
    found = imported(ROOT / "tests") | imported(ROOT / "examples")
    assert found - of_nnunet <= declared("inspect", "leaderboard", "workflow", "dev")
