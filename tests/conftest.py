"""nnU-Net's three folders for the whole run of the suite: nnU-Net reads them when it is first imported."""

import os
import tempfile
from typing import Any

import pytest

_folders = tempfile.TemporaryDirectory(prefix="selfreg-tests-")
for _name in list(os.environ):  # what a user has set up for other work
    if _name.startswith("nnUNet_") or _name in ("SNAKEMAKE_PROFILE", "FORCE_COLOR"):
        del os.environ[_name]
for _name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ[_name] = os.path.join(_folders.name, _name)
    os.mkdir(os.environ[_name])
os.environ["nnUNet_def_n_proc"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the suite's processes share the cores
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that spin while they wait are ten times slower beside other work


def _room(nodeid: str) -> str:
    """`nnunet` of `tests/nnunet/test_labels.py::test_regions`."""
    return nodeid.split("::")[0].split("/")[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The room that takes longest comes first, so that no process waits for it at the end."""
    items.sort(key=lambda item: _room(item.nodeid) != "nnunet")
    for item in items:
        if item.get_closest_marker("slow") or item.get_closest_marker("longer"):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The cores that this process may use, which are not always all; the suite is no faster with more than four."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", min(cores, 4)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Each room's tests stay in one process, as they share what their fixtures train."""
    from xdist.scheduler import LoadScopeScheduling

    class ByRoom(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _room(nodeid)

    return ByRoom(config, log)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    _folders.cleanup()
