"""The arrows between modules that documentation/architecture.md draws, and what keeps each module readable."""

import ast
from collections import Counter
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LIBRARY = ROOT / "nnunetv2_selfreg"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in LIBRARY.rglob("*.py")
}
CORE_BELOW_TRAINER = (
    "criterion terms expectation losses anchors taps networks layouts settings progress files reading errors names"
).split()
ROOMS = {"benchmarks", "commands", "compare", "inspect"}
ALLOWED = {  # what each core module may import of the library
    "anchors": {"compat"},
    "errors": set(),
    "names": set(),
    "files": {"errors"},
    "reading": {"errors"},
    "compat": {"errors"},
    "losses": {"anchors"},
    "expectation": {"anchors", "losses"},
    "terms": {"anchors", "compat", "errors", "expectation", "losses"},
    "settings": {"errors", "files", "terms"},
    "networks": {"errors"},
    "layouts": {"compat", "errors"},
    "taps": {"anchors", "compat", "errors", "layouts", "networks", "settings"},
    "progress": {"files", "terms"},
    "statistics": set(),
    "comparison": {"errors", "files", "statistics"},
    "criterion": {"anchors", "errors", "settings", "taps", "terms"},
}


def imports(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


def own_imports(name: str) -> set[str]:
    return {found for found in imports(MODULES[name]) if found in MODULES and found not in (name, LIBRARY.name)}


@pytest.mark.parametrize("module", ALLOWED)
def test_arrows_of_the_core(module):
    found = {name.removeprefix(f"{LIBRARY.name}.") for name in own_imports(f"{LIBRARY.name}.{module}")}
    assert found <= ALLOWED[module]


@pytest.mark.parametrize("module", CORE_BELOW_TRAINER)
def test_nobody_below_the_trainer_imports_nnunet(module):
    assert not [name for name in imports(LIBRARY / f"{module}.py") if name.split(".")[0] == "nnunetv2"]


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_rooms_do_not_import_each_other(room):
    others = ROOMS - {room}
    for name in MODULES:
        if name.startswith(f"{LIBRARY.name}.{room}"):
            assert not [found for found in own_imports(name) if found.split(".")[1] in others], name


def test_no_circle():
    graph = {name: own_imports(name) for name in MODULES}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


def test_no_two_classes_of_one_name():
    names = Counter(
        node.name
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_files_can_be_read_at_one_sitting():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in MODULES.items()}
    assert {name: lines for name, lines in lengths.items() if lines > 300} == {}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_compat_asks_for_a_version_of_nnunet_or_torch(module):
    """Comparisons of versions; printing one is no branch."""
    if module in (f"{LIBRARY.name}.compat", f"{LIBRARY.name}.commands.doctor"):
        return
    text = MODULES[module].read_text(encoding="utf-8")
    assert "packaging.version" not in text
    assert "inspect.signature" not in text
