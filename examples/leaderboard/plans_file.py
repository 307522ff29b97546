"""What the scripts that edit a plans file share; each is called with the file: SCRIPT PLANS_FILE."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OF_STAGES = (
    *("features_per_stage", "strides", "kernel_sizes", "n_conv_per_stage_decoder"),
    *("n_conv_per_stage", "n_blocks_per_stage"),  # of nnU-Net's plain and of its residual encoder
)


@contextmanager
def edited_2d() -> Iterator[dict[str, Any]]:
    """The 2d configuration of the plans file; what is changed in it is written, whole or not at all."""
    path = Path(sys.argv[1])
    plans = json.loads(path.read_text())
    yield plans["configurations"]["2d"]
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(plans, indent=4))
    partial.replace(path)


def narrow(configuration: dict[str, Any], factor: int) -> None:
    """Divides the network's channels by a factor."""
    network = configuration["architecture"]["arch_kwargs"]
    network["features_per_stage"] = [channels // factor for channels in network["features_per_stage"]]


def halve_resolution(configuration: dict[str, Any]) -> None:
    """Twice the spacing, half the patch and one stage less."""
    configuration["spacing"] = [2 * size for size in configuration["spacing"]]
    configuration["patch_size"] = [size // 2 for size in configuration["patch_size"]]
    network = configuration["architecture"]["arch_kwargs"]
    network["n_stages"] -= 1
    for key in network.keys() & set(OF_STAGES):
        network[key] = network[key][:-1]
