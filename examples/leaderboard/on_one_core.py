"""One of nnU-Net's commands on one CPU core instead of all, so that as many run side by side as there are cores.

python on_one_core.py nnUNetv2_train 4 2d 0 ...
"""

import os
import sys
from importlib.metadata import entry_points

import matplotlib

if __name__ == "__main__":  # nnU-Net's worker processes import this file, too
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("nnUNet_def_n_proc", "1")  # to write predictions; else eight, each imports torch
    os.cpu_count = lambda: 1  # what nnU-Net asks for the number of torch's threads
    matplotlib.rcParams["savefig.dpi"] = 25  # of nnU-Net's progress.png, drawn after every epoch: a second each at 100
    del sys.argv[0]
    (command,) = entry_points(group="console_scripts", name=sys.argv[0])
    sys.exit(command.load()())
