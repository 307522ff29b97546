"""The script that runs one of nnU-Net's commands on a single core."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "examples/leaderboard/on_one_core.py"
COMMAND = """
import os, sys
from nnunetv2.configuration import default_num_processes

def main():
    print(sys.argv[1:], os.cpu_count(), os.environ["OMP_NUM_THREADS"], default_num_processes)
"""


@pytest.mark.parametrize(("asked", "processes"), [(None, 1), ("3", 3)])
def test_a_command_sees_one_core(tmp_path: Path, asked: str | None, processes: int) -> None:
    """And starts one process for a validation's exports, where the user did not ask for more."""
    (tmp_path / "says.py").write_text(COMMAND)
    about = tmp_path / "says-1.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: says\nVersion: 1\n")
    (about / "entry_points.txt").write_text("[console_scripts]\nsays_what_it_sees = says:main\n")
    environment = {name: value for name, value in os.environ.items() if name != "nnUNet_def_n_proc"}
    environment |= {"PYTHONPATH": str(tmp_path)} | ({"nnUNet_def_n_proc": asked} if asked else {})
    command = [sys.executable, SCRIPT, "says_what_it_sees", "--first", "second"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == f"['--first', 'second'] 1 1 {processes}\n"
