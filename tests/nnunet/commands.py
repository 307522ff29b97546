"""nnU-Net's commands as a user types them, and the folders they write to."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

# nnU-Net takes a thread for every core; beside the suite's other process that makes both several times slower
ON_ONE_CORE = Path(__file__).parents[2] / "examples/leaderboard/on_one_core.py"


def quoted(path: Path) -> str:
    """A path as a word of a command line, whatever its name holds."""
    return shlex.quote(str(path))


def start(command: str, **options) -> subprocess.Popen[str]:
    """Starts one command line; `options` as subprocess.Popen takes them."""
    training = command.startswith("nnUNetv2_train ")  # planning refuses 0 worker processes
    environment = os.environ | ({"nnUNet_n_proc_DA": "0"} if training else {})
    return subprocess.Popen([sys.executable, ON_ONE_CORE, *shlex.split(command)], env=environment, text=True, **options)


def run(command: str) -> str:
    """Runs one command line and returns what it printed; a failing command fails the test with its last lines."""
    with start(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            printed, _ = process.communicate()
        finally:  # also where the test's time is over
            process.kill()
    assert process.returncode == 0, f"{command}\n{printed[-3000:]}"
    return printed


def folder(name: str) -> Path:
    """One of nnU-Net's three folders, as the environment names it now."""
    return Path(os.environ[f"nnUNet_{name}"])


def model_folder(trainer: str, plans: str, configuration: str) -> Path:
    """Where nnU-Net keeps what this trainer learnt of the suite's data set."""
    (dataset,) = folder("results").iterdir()
    return dataset / f"{trainer}__{plans}__{configuration}"
