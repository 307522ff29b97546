"""nnUNetv2_train with one CPU core instead of all, so that as many trainings as there are cores run side by side."""

import os
import sys

import matplotlib
from nnunetv2.run.run_training import run_training_entry

if __name__ == "__main__":  # nnU-Net's worker processes import this file, too
    os.environ["OMP_NUM_THREADS"] = "1"
    os.cpu_count = lambda: 1  # what nnU-Net asks for the number of torch's threads
    matplotlib.rcParams["savefig.dpi"] = 25  # of nnU-Net's progress.png, drawn after every epoch: a second each at 100
    sys.argv[0] = "nnUNetv2_train"
    run_training_entry()
