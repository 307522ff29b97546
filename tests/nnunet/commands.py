"""nnU-Net's commands as a user types them, and the folders they write to."""

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

SCRIPTS = Path(sysconfig.get_path("scripts"))


def run(command: str) -> str:
    """Runs one command line and returns what it printed; a failing command fails the test with its last lines."""
    program, *arguments = shlex.split(command)
    environment = os.environ | ({"nnUNet_n_proc_DA": "0"} if program == "nnUNetv2_train" else {})  # planning refuses 0
    done = subprocess.run(
        [SCRIPTS / program, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}"
    return done.stdout


def folder(name: str) -> Path:
    """One of nnU-Net's three folders, as the environment names it now."""
    return Path(os.environ[f"nnUNet_{name}"])


def model_folder(trainer: str, plans: str, configuration: str) -> Path:
    """Where nnU-Net keeps what this trainer learnt of the suite's data set."""
    (dataset,) = folder("results").iterdir()
    return dataset / f"{trainer}__{plans}__{configuration}"
