"""What a user sees of SelfReg's terms: a line per epoch, and `selfreg.png` beside nnU-Net's `progress.png`."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

CURVES = {"scr": ("SCR", "#0072B2"), "ifd": ("IFD", "#D55E00"), "selfreg_share": ("share", "#009E73")}


def epoch_line(terms: Mapping[str, float], weights: Mapping[str, float], share: float) -> str:
    """The log line of an epoch.

    Args:
        terms: Means over the epoch, unweighted, by name.
        weights: Their weights, by name.
        share: The weighted terms' share of the training loss, 0 to 1.
    """
    means = ", ".join(f"{name} {terms[name]:.4g}" for name in weights)
    added = sum(weight * terms[name] for name, weight in weights.items())
    return f"SelfReg: {means}; weighted, they add {added:.4g} to train_loss (share {share:.1%})"


def plot_progress(logging: Mapping[str, Sequence[float]], output_folder: str | Path) -> None:
    """Writes `selfreg.png` into a fold's folder, whole or not at all.

    Args:
        logging: nnU-Net's logged values, one per epoch and name; `scr`, `ifd` and `selfreg_share` are drawn if present.
        output_folder: The fold's folder.
    """
    # nnU-Net's own plot changes the global style
    with style.context("default"):
        figure = Figure(figsize=(9, 7), layout="constrained")
        terms, share = figure.subplots(2, 1, sharex=True)
        for name, axis in (("scr", terms), ("ifd", terms), ("selfreg_share", share)):
            if values := logging.get(name):
                label, colour = CURVES[name]
                scaled = [100 * value for value in values] if name == "selfreg_share" else values
                axis.plot(range(len(values)), scaled, color=colour, label=label, linewidth=2, marker="o", markersize=3)
        terms.set_ylabel("mean over the epoch,\nunweighted")
        terms.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
        share.set_ylabel("share of the weighted terms\nin the training loss [%]")
        share.set_xlabel("epoch")
        share.xaxis.set_major_locator(MaxNLocator(integer=True))
        for axis in (terms, share):
            axis.set_ylim(bottom=0)
            axis.grid(alpha=0.3)
        with tempfile.TemporaryDirectory(prefix=".selfreg_", dir=output_folder) as partial:
            figure.savefig(Path(partial) / "selfreg.png", dpi=150)
            os.replace(Path(partial) / "selfreg.png", Path(output_folder) / "selfreg.png")
