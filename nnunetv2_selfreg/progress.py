"""What a user sees of the terms: a line per epoch, and `selfreg.png` beside nnU-Net's `progress.png`."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunetv2_selfreg.files import new_file
from nnunetv2_selfreg.terms import SHARE, Term

# Okabe and Ito: told apart by colour-blind readers; those of other terms begin anew after the last
SHARE_COLOUR, TERM_COLOURS = "#009E73", {"scr": "#0072B2", "ifd": "#D55E00"}
OTHER_COLOURS = ("#CC79A7", "#E69F00", "#56B4E9", "#000000")


def epoch_line(means: Mapping[str, float], weights: Mapping[str, float], share: float) -> str:
    """The log line of an epoch.

    Args:
        means: Means of the terms over the epoch, unweighted, by name.
        weights: Their weights, by name.
        share: The weighted terms' share of the training loss, 0 to 1.
    """
    values = ", ".join(f"{name} {means[name]:.4g}" for name in weights)
    added = sum(weight * means[name] for name, weight in weights.items())
    return f"SelfReg: {values}; weighted, they add {added:.4g} to train_loss (share of the loss {share:.1%})"


def from_zero(axis: Axes) -> None:
    """Lets an axis begin at 0, or below its lowest value where one is negative."""
    axis.set_ylim(bottom=None if axis.dataLim.y0 < 0 else 0)


def plot_progress(logging: Mapping[str, Sequence[float]], terms: Sequence[Term], output_folder: str | Path) -> None:
    """Writes `selfreg.png` into a fold's folder, whole or not at all.

    Args:
        logging: nnU-Net's logged values, one per epoch and name; those of the terms and the share are drawn.
        terms: The terms.
        output_folder: The fold's folder.

    Raises:
        SelfRegError: The picture cannot be written.
    """
    # nnU-Net's own plot changes the global style
    with style.context("default"):
        plot = Figure(figsize=(9, 7), layout="constrained")
        upper, lower = plot.subplots(2, 1, sharex=True)
        others = cycle(OTHER_COLOURS)
        colours = [TERM_COLOURS.get(term.name) or next(others) for term in terms]
        curves = [
            (upper, term.title, colour, logging.get(term.name, ())) for term, colour in zip(terms, colours, strict=True)
        ]
        curves += [(lower, "share", SHARE_COLOUR, [100 * value for value in logging.get(SHARE, ())])]
        epochs = max(len(values) for *_, values in curves)
        marker = "o" if epochs <= 50 else None  # a point alone has no line
        for axis, label, colour, values in curves:
            if values:
                axis.plot(
                    range(len(values)), values, color=colour, label=label, linewidth=2, marker=marker, markersize=3
                )
        upper.set_ylabel("mean over the epoch,\nunweighted")
        upper.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=max(2, len(terms)), frameon=False)
        lower.set_ylabel("share of the weighted terms\nin the training loss [%]")
        lower.set_xlabel("epoch")
        lower.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
        margin = max(0.5, 0.02 * epochs)
        lower.set_xlim(-margin, epochs - 1 + margin)
        for axis in (upper, lower):
            axis.update_datalim([(0, 0)])
            axis.autoscale_view()
            from_zero(axis)
            axis.grid(alpha=0.3)
        with new_file(Path(output_folder) / "selfreg.png") as partial:
            plot.savefig(partial, dpi=150)
