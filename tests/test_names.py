"""What trainers' names say, with no import of nnU-Net."""

import subprocess
import sys

import pytest

from nnunetv2_selfreg.names import base_name, root_name


@pytest.mark.parametrize(
    ("name", "root", "base"),
    [
        ("nnUNetTrainerSelfReg", "nnUNetTrainerSelfReg", "nnUNetTrainer"),
        ("nnUNetTrainerSelfReg_100epochs", "nnUNetTrainerSelfReg", "nnUNetTrainer_100epochs"),
        ("nnUNetTrainerSelfRegSCRDA5", "nnUNetTrainerSelfRegSCR", "nnUNetTrainerDA5"),
        ("nnUNetTrainerSelfRegIFD", "nnUNetTrainerSelfRegIFD", "nnUNetTrainer"),
        ("nnUNetTrainerDA5", None, None),
        ("MyTrainer", None, None),
    ],
)
def test_base_name(name: str, root: str | None, base: str | None) -> None:
    assert (root_name(name), base_name(name)) == (root, base)


def test_names_need_neither_nnunet_nor_torch() -> None:
    code = "import sys, nnunetv2_selfreg.names; print({'nnunetv2', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
