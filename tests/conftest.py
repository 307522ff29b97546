"""nnU-Net's three folders for the whole run of the suite: nnU-Net reads them when it is first imported."""

import os
import tempfile

import pytest

_folders = tempfile.TemporaryDirectory(prefix="selfreg-tests-")
for _name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ[_name] = os.path.join(_folders.name, _name)
    os.mkdir(os.environ[_name])
os.environ.pop("nnUNet_extTrainer", None)
os.environ["nnUNet_def_n_proc"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # threads that spin while they wait are ten times slower beside other work


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    _folders.cleanup()
