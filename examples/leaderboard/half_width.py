"""Gives the 2d configuration of a plans file half of nnU-Net's channels: half_width.py PLANS_FILE

Everything else stays as nnU-Net planned it: patch, batch, stages, convolutions.
"""

import json
import sys
from pathlib import Path

path = Path(sys.argv[1])
plans = json.loads(path.read_text())
network = plans["configurations"]["2d"]["architecture"]["arch_kwargs"]
network["features_per_stage"] = [channels // 2 for channels in network["features_per_stage"]]
partial = path.with_suffix(".partial")
partial.write_text(json.dumps(plans, indent=4))
partial.replace(path)
