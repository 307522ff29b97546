"""Halves the resolution of the 2d configuration of a plans file: half_resolution.py PLANS_FILE

And with it the patch, with one stage less. A quarter of nnU-Net's channels, twelve slices in a batch.
"""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1])
plans = json.loads(path.read_text())
configuration = plans["configurations"]["2d"]
configuration["spacing"] = [2 * size for size in configuration["spacing"]]
configuration["patch_size"] = [size // 2 for size in configuration["patch_size"]]
configuration["batch_size"] = 12
network = configuration["architecture"]["arch_kwargs"]
network["n_stages"] -= 1
for key in ("features_per_stage", "strides", "kernel_sizes", "n_conv_per_stage", "n_conv_per_stage_decoder"):
    network[key] = network[key][:-1]
network["features_per_stage"] = [channels // 4 for channels in network["features_per_stage"]]
partial = path.with_suffix(".partial")
partial.write_text(json.dumps(plans, indent=4))
partial.replace(path)
