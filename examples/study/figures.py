"""The study's figures, as SVG texts that are the same in every run."""

from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from math import log10
from typing import Any

import numpy as np
import pandas as pd
from comparison import MARGIN, MEAN, PRIMARY, STOCK, Dataset, primary
from matplotlib import rc_context, style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunetv2_selfreg.leaderboard.figures import BETTER, COLOURS, SAME, STYLE, WORSE
from nnunetv2_selfreg.leaderboard.statistics import over_runs

TITLES = {
    "hippocampus": "Hippocampus, 2d",
    "acdc": "ACDC, 2d",
    "acdc_10": "ACDC, 2d, 10 training patients",
    "glas224": "GlaS at 224x224, 2d",
    "hippocampus_3d": "Hippocampus, 3d_fullres",
}
WIDTH = 9  # inches


def differences(datasets: Sequence[Dataset], content: Mapping[str, Any]) -> str | None:
    """SelfReg minus stock: every case in order, and the means beside what stock differs from itself by.

    Args:
        datasets: The scores.
        content: Their summaries by name.

    Returns:
        The SVG; None if no data set has runs of both arms.
    """
    compared = [(part, primary(content[part.name])) for part in datasets if primary(content[part.name])]
    if not compared:
        return None
    with style.context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.7 + 2.9 * len(compared)), layout="constrained")
        rows = figure.subplots(len(compared), 2, squeeze=False, width_ratios=[1, 1])
        for (part, about), (cases, means) in zip(compared, rows, strict=True):
            _sorted_cases(cases, over_runs(part.gains().to_numpy().T), about["classes"][MEAN])
            cases.set_title(TITLES.get(part.name, part.name), loc="left", fontweight="bold")
            every = [other for other in content[part.name]["comparisons"] if other["name"] == f"{about['name']}, all"]
            _means(means, about, every, content[part.name]["noise"])
        handles = [*rows[0, 0].get_legend_handles_labels()[0], *rows[0, 1].get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False)
        return _svg(figure)


def learning_curves(datasets: Sequence[Dataset], curves: pd.DataFrame) -> str | None:
    """nnU-Net's pseudo Dice of stock and SelfReg, their difference, and SelfReg's share of the loss, over epochs.

    Args:
        datasets: The scores, which say what runs both arms have.
        curves: `curves.csv`.

    Returns:
        The SVG; None if no data set has runs of both arms.
    """
    compared = [part for part in datasets if PRIMARY in part.arms and part.paired(PRIMARY)]
    if not compared:
        return None
    by_run = curves.set_index(["dataset", "arm", "repetition", "fold"]).sort_index()
    with style.context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.6 + 2.6 * len(compared)), layout="constrained")
        rows = figure.subplots(len(compared), 3, squeeze=False)
        for part, (dice, gain, share) in zip(compared, rows, strict=True):
            runs = part.paired(PRIMARY)
            stock, selfreg = (
                [100 * by_run.loc[(part.name, arm, *run)].set_index("epoch") for run in runs]
                for arm in (STOCK, PRIMARY)
            )
            _band(dice, [run["pseudo_dice"] for run in stock], COLOURS[0], "stock")
            _band(dice, [run["pseudo_dice"] for run in selfreg], COLOURS[1], "SelfReg")
            gains = [mine["pseudo_dice"] - its["pseudo_dice"] for mine, its in zip(selfreg, stock, strict=True)]
            _band(gain, gains, BETTER)
            _band(share, [run["share"] for run in selfreg], COLOURS[1])
            count = f"{len(runs)} run{'s'[: len(runs) > 1]} of each arm"
            dice.set_title(f"{TITLES.get(part.name, part.name)}: {count}", loc="left", fontweight="bold")
            dice.set_ylabel("pseudo Dice [%]")
            gain.set_ylabel("SelfReg minus stock,\npseudo Dice [points]")
            gain.axhline(0, color="black", linewidth=0.8)
            share.set_ylabel("SelfReg's share\nof the training loss [%]")
            share.set_ylim(bottom=0)
            for axis in (dice, gain, share):
                axis.set_xlabel("epoch")
                axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
                axis.spines[["top", "right"]].set_visible(False)
        rows[0, 0].fill_between([], [], [], color="black", alpha=0.2, linewidth=0, label="± SD over runs")
        figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
        return _svg(figure)


def lambda_response(content: Mapping[str, Any]) -> str | None:
    """The difference to stock over the weight of both terms, and of each term alone.

    Args:
        content: The data sets' summaries by name.

    Returns:
        The SVG; None if no data set has more arms than the primary pair.
    """
    found = {name: part["response"] for name, part in content.items() if part["response"]}
    if not found:
        return None
    with style.context(STYLE):
        figure = Figure(figsize=(max(5.0, WIDTH / 2 * len(found)), 3.5), layout="constrained")
        for axis, (name, response) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
            both = {arm: about for arm, about in response["arms"].items() if arm not in ("scr", "ifd")}
            places = {arm: log10(about["lambda_scr"]) for arm, about in both.items()}
            ticks = {place: f"{both[arm]['lambda_scr']:g}" for arm, place in places.items()}
            for arm, label, key in (("scr", "SCR alone", "lambda_scr"), ("ifd", "IFD alone", "lambda_ifd")):
                if arm in response["arms"]:
                    places[arm] = max(places.values(), default=0) + 0.8
                    ticks[places[arm]] = f"{label}\n{response['arms'][arm][key]:g}"
            axis.axhline(0, color="black", linewidth=0.8)
            line = sorted((places[arm], about["mean"]) for arm, about in both.items())
            axis.plot(*zip(*line, strict=True), color=COLOURS[1], linewidth=1) if line else None
            colours = {"scr": COLOURS[3], "ifd": COLOURS[2]}
            runs = len(response["runs"])
            for arm, place in places.items():
                about, colour = response["arms"][arm], colours.get(arm, COLOURS[1])
                axis.scatter([place - 0.12] * runs, about["each_run"], s=12, color=colour, alpha=0.8, linewidths=0)
                _interval(axis, place, about, colour)
            axis.set_title(f"{TITLES.get(name, name)}: {runs} run{'s'[: runs > 1]} of each", loc="left", fontsize=9)
            axis.set_xticks(list(ticks), list(ticks.values()))
            axis.set_xlim(min(places.values()) - 0.4, max(places.values()) + 0.4)
            axis.set_xlabel("weight of both terms (log scale), then of one alone")
            axis.set_ylabel("difference to stock, mean Dice [points]")
            axis.spines[["top", "right"]].set_visible(False)
        return _svg(figure)


def _sorted_cases(axis: Axes, gains: Iterable[float], about: Mapping[str, Any]) -> None:
    values = np.sort([gain for gain in gains if not np.isnan(gain)])
    slack = 1e-9 * MARGIN  # as in the count of better and worse cases
    sides = {
        f"better by more than {MARGIN:g} point": (values > MARGIN + slack, BETTER),
        "worse by more": (values < -MARGIN - slack, WORSE),
    }
    sides["between"] = (~(sides[f"better by more than {MARGIN:g} point"][0] | sides["worse by more"][0]), SAME)
    for label, (chosen, colour) in sides.items():
        axis.vlines(np.flatnonzero(chosen) + 1, 0, values[chosen], color=colour, linewidth=max(0.6, 220 / len(values)),
                    label=label)  # fmt: skip
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xlabel(f"{about['cases']} cases, sorted: {about['better']} better, {about['worse']} worse")
    axis.set_ylabel("SelfReg minus stock,\nmean Dice [points]")
    axis.spines[["top", "right"]].set_visible(False)


def _means(
    axis: Axes, about: Mapping[str, Any], every: Sequence[Mapping[str, Any]], noise: Sequence[Mapping[str, Any]]
) -> None:
    """The primary comparison by class; behind a line, the mean with runs that were added, and stock against itself."""
    columns = [
        (name, BETTER, found, about["over_folds"][name], [run["difference"][name] for run in about["runs"]])
        for name, found in about["classes"].items()
    ]
    first = len(columns)
    others = [("mean,\nall", BETTER, other) for other in every]
    others += [("stock,\nrep. {1} - {0}".format(*other["repetitions"]), SAME, other) for other in noise]
    for name, colour, other in others:
        runs = [run["difference"][MEAN] for run in other["runs"]]
        columns.append((name, colour, other["classes"][MEAN], other["over_folds"][MEAN], runs))
    for place, (_, colour, found, spread, runs) in enumerate(columns):
        axis.scatter(place + np.linspace(-0.28, 0.08, len(runs)), _numbers(runs), s=12, color=colour, alpha=0.8,
                     linewidths=0, label="one repetition of a fold" if place == 0 else None)  # fmt: skip
        _interval(axis, place + 0.2, found, "black", "mean, 95 % CI over patients" if place == 0 else None)
        _interval(axis, place + 0.32, spread, SAME, "over folds" if place == 0 else None)
    if others:
        axis.axvline(first - 0.5, color=SAME, linewidth=0.8, linestyle=":")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(columns)), [name for name, *_ in columns])
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylabel("difference, Dice [points]")
    axis.spines[["top", "right"]].set_visible(False)


def _interval(axis: Axes, place: float, found: Mapping[str, Any], colour: str, label: str | None = None) -> None:
    axis.plot([place], _numbers([found["mean"]]), "D-", color=colour, markersize=4, linewidth=1.2, label=label)
    axis.plot([place, place], _numbers([found["low"], found["high"]]), "_-", color=colour, markersize=7, linewidth=1.2)


def _band(axis: Axes, runs: Sequence[pd.Series], colour: str, label: str | None = None) -> None:
    """Mean and standard deviation over runs, by epoch."""
    by_epoch = pd.concat(runs, axis=1)
    mean = by_epoch.mean(axis=1)
    axis.plot(mean.index, mean, color=colour, linewidth=1.2, label=label)
    if len(runs) > 1:
        spread = by_epoch.std(axis=1)
        axis.fill_between(mean.index, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)


def _numbers(values: Iterable[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]


def _svg(figure: Figure) -> str:
    picture = BytesIO()
    with rc_context({"svg.hashsalt": "study", "svg.fonttype": "path"}):
        figure.savefig(picture, format="svg", metadata={"Date": None, "Creator": None})
    return picture.getvalue().decode()
