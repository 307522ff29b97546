"""Plots of the differences of two models, as SVG that needs no other file."""

from collections.abc import Callable
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunetv2_selfreg.statistics import is_beyond

A, B, SAME = "#E69F00", "#0072B2", "#999999"  # Okabe and Ito: told apart by colour-blind readers


def cases(dice: pd.DataFrame, margin: float) -> str:
    """Draws the difference of each case, from the lowest to the highest.

    Args:
        dice: The cases' `A`, `B` and `difference`, Dice points.
        margin: From which difference on a case counts as better or worse.
    """
    values = dice["difference"].dropna().sort_values().to_numpy()

    def draw(axis: Axes) -> None:
        colours = np.where(is_beyond(values, margin), B, np.where(is_beyond(-values, margin), A, SAME))
        axis.bar(range(len(values)), values, 0.8, color=list(colours))
        axis.axhspan(-margin, margin, color="#eeeeee", zorder=0)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_xlabel("cases, from the lowest difference to the highest")
        axis.set_ylabel("B minus A\n[Dice points]")
        axis.set_xticks([])

    return _svg(draw)


def folds(by_fold: pd.DataFrame, by_run: pd.DataFrame) -> str:
    """Draws each fold's mean Dice of both models, joined by a line, and smaller that of each repetition.

    Args:
        by_fold: The folds' `A` and `B`, Dice points (folds x models).
        by_run: The same of each repetition and fold.
    """

    def draw(axis: Axes) -> None:
        places = np.arange(len(by_fold))
        for place, (a, b) in zip(places, by_fold[["A", "B"]].to_numpy(), strict=True):
            axis.plot([place, place], [a, b], color=SAME, linewidth=1.5, zorder=1)
        for name, colour, marker in (("A", A, "o"), ("B", B, "D")):
            axis.scatter(places, by_fold[name], color=colour, marker=marker, s=40, label=name, zorder=2)
            if len(by_run) > len(by_fold):
                beside = places + (0.08 if name == "B" else -0.08)
                for _, repetition in by_run[name].groupby("repetition"):
                    values = repetition.droplevel("repetition")[by_fold.index]
                    axis.scatter(beside, values, color=colour, marker=marker, s=14, alpha=0.7, zorder=2)
        axis.set_xticks(places, [str(fold) for fold in by_fold.index])
        axis.set_xlim(-0.5, len(by_fold) - 0.5)
        axis.set_xlabel("fold")
        axis.set_ylabel("mean Dice [points]")
        axis.grid(axis="y", color="#dddddd", linewidth=0.6)
        axis.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1))

    return _svg(draw)


def _svg(draw: Callable[[Axes], Any]) -> str:
    # nnU-Net's plots change the global style; a fixed salt gives the same file for the same values
    with style.context("default"), rc_context({"svg.hashsalt": "compare", "svg.fonttype": "none"}):
        plot = Figure(figsize=(6.4, 3.4), layout="constrained")
        draw(plot.subplots())
        content = StringIO()
        plot.savefig(content, format="svg", metadata={"Date": None})
    text = content.getvalue()
    return text[text.index("<svg") :]
