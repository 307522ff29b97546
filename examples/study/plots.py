"""The study's plots, drawn from the numbers in `tables.json` alone, in the library's own style."""

import json
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from math import log10
from typing import Any

import numpy as np
from evidence import MARGIN, PRIMARY, STOCK, TITLES, primary
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from nnunetv2_selfreg.benchmarks.plots import BETTER, COLOURS, SAME, WORSE, colours_of, interval, new_plot, numbers, svg
from nnunetv2_selfreg.comparison import MEAN

WIDTH = 9  # inches


def all_plots(content: Mapping[str, Any]) -> dict[str, str]:
    """Every plot that there are numbers for, as SVG by name; each tells by a digest what it was drawn from."""
    datasets = content["datasets"]
    data = {
        overview: content["overview"],
        forms: content["forms"],
        differences: {name: part for name, part in datasets.items() if primary(part)},
        learning_curves: content["learning_curves"],
        lambda_response: {name: part["response"] for name, part in datasets.items() if part["response"]},
    }
    return {draw.__name__: draw(found, digest(found)) for draw, found in data.items() if found}


def digest(data: Any) -> str:
    """What an SVG holds of the numbers that it is drawn from."""
    return f"drawn from {sha256(json.dumps(data).encode()).hexdigest()[:16]}"


def overview(rows: Sequence[Mapping[str, Any]], description: str) -> str:
    """SelfReg minus stock in every experiment, beside what stock differs from itself by."""
    with new_plot(WIDTH, 1.1 + 0.55 * len(rows)) as figure:
        axis = figure.subplots()
        axis.axvline(0, color="black", linewidth=0.8)
        for place, row in enumerate(rows):
            labels = ["one pair of trainings", "mean, 95 % CI over folds", "stock again minus stock, the same folds"]
            labels = [None] * 3 if place else labels
            _pairs(axis, place, row, "over_folds", labels)
            for noise in row["noise"]:
                again = numbers(noise["each_run"])
                axis.scatter(again, [place + 0.25] * len(again), s=16, color=SAME, marker="x", label=labels[2])
        reported = [(row["reported"], place - 0.25) for place, row in enumerate(rows) if row["reported"] is not None]
        if reported:
            axis.scatter(
                *zip(*reported, strict=True), s=60, color=WORSE, marker="*", label="gain that the paper reports"
            )
        axis.set_yticks(range(len(rows)), [row["name"].replace("; ", "\n") for row in rows])
        axis.set_ylim(len(rows) - 0.4, -0.6)
        axis.set_xlabel("SelfReg minus stock, mean Dice [points]")
        figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=8)
        return svg(figure, description).decode()


def forms(rows: Sequence[Mapping[str, Any]], description: str) -> str:
    """Each form minus stock over pairs of trainings, and stock minus itself, a panel for each experiment."""
    experiments = list(dict.fromkeys(row["experiment"] for row in rows))
    parts = [[row for row in rows if row["experiment"] == name] for name in experiments]
    with new_plot(WIDTH, 0.6 + sum(0.6 + 0.45 * len(part) for part in parts)) as figure:
        panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=list(map(len, parts)), sharex=True)[:, 0]
        for axis, name, part in zip(panels, experiments, parts, strict=True):
            axis.axvline(0, color="black", linewidth=0.8)
            for place, row in enumerate(part):
                labels = ["one pair of trainings", "mean, 95 % CI over pairs"]
                _pairs(axis, place, row, "over_pairs", [None] * 2 if place or axis is not panels[0] else labels)
            axis.set_yticks(range(len(part)), [f"{row['name']}, {row['runs']} pairs" for row in part])
            axis.set_ylim(len(part) - 0.5, -0.6)
            axis.set_title(name, loc="left", fontweight="bold")
        panels[-1].set_xlabel("form minus stock, mean Dice [points]")
        figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=8)
        return svg(figure, description).decode()


def differences(datasets: Mapping[str, Any], description: str) -> str:
    """SelfReg minus stock: every case in order, and the means beside what stock differs from itself by."""
    with new_plot(WIDTH, 0.7 + 2.9 * len(datasets)) as figure:
        rows = figure.subplots(len(datasets), 2, squeeze=False, width_ratios=[1, 1])
        for (name, part), (cases, means) in zip(datasets.items(), rows, strict=True):
            compared = primary(part)
            _sorted_cases(cases, np.array(part["gains"]), compared["classes"][MEAN])
            cases.set_title(TITLES.get(name, name), loc="left", fontweight="bold")
            every = [other for other in part["comparisons"] if other["name"] == f"{compared['name']}, all"]
            _means(means, compared, every, part["noise"])
        handles = [*rows[0, 0].get_legend_handles_labels()[0], *rows[0, 1].get_legend_handles_labels()[0]]
        figure.legend(handles=handles, loc="outside upper left", ncols=4, frameon=False)
        return svg(figure, description).decode()


def learning_curves(datasets: Mapping[str, Any], description: str) -> str:
    """nnU-Net's pseudo Dice of stock and SelfReg, their difference, and SelfReg's share of the loss, over epochs."""
    with new_plot(WIDTH, 0.6 + 2.6 * len(datasets)) as figure:
        rows = figure.subplots(len(datasets), 3, squeeze=False)
        for (name, part), (dice, gain, share) in zip(datasets.items(), rows, strict=True):
            epochs = part["epochs"]
            _band(dice, epochs, part[STOCK], COLOURS[0], "stock")
            _band(dice, epochs, part[PRIMARY], COLOURS[1], "SelfReg")
            _band(gain, epochs, part["gain"], BETTER)
            _band(share, epochs, part["share"], COLOURS[1])
            count = f"{_runs(part['runs'])} of each arm"
            dice.set_title(f"{TITLES.get(name, name)}: {count}", loc="left", fontweight="bold")
            dice.set_ylabel("pseudo Dice [%]")
            gain.set_ylabel("SelfReg minus stock,\npseudo Dice [points]")
            gain.axhline(0, color="black", linewidth=0.8)
            share.set_ylabel("SelfReg's share\nof the training loss [%]")
            share.set_ylim(bottom=0)
            for axis in (dice, gain, share):
                axis.set_xlabel("epoch")
                axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
        rows[0, 0].fill_between([], [], [], color="black", alpha=0.2, linewidth=0, label="± SD over runs")
        figure.legend(*rows[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3, frameon=False)
        return svg(figure, description).decode()


def lambda_response(responses: Mapping[str, Any], description: str) -> str:
    """The difference to stock over the weight of both terms, and of each term alone."""
    with new_plot(max(5.0, WIDTH / 2 * len(responses)), 3.5) as figure:
        axes = figure.subplots(1, len(responses), squeeze=False)[0]
        for axis, (name, response) in zip(axes, responses.items(), strict=True):
            both = {arm: found for arm, found in response["arms"].items() if arm not in ("scr", "ifd")}
            places = {arm: log10(found["lambda_scr"]) for arm, found in both.items()}
            ticks = {place: f"{both[arm]['lambda_scr']:g}" for arm, place in places.items()}
            for arm, label, key in (("scr", "SCR alone", "lambda_scr"), ("ifd", "IFD alone", "lambda_ifd")):
                if arm in response["arms"]:
                    places[arm] = max(places.values(), default=0) + 0.8
                    ticks[places[arm]] = f"{label}\n{response['arms'][arm][key]:g}"
            axis.axhline(0, color="black", linewidth=0.8)
            line = sorted((places[arm], found["mean"]) for arm, found in both.items())
            axis.plot(*zip(*line, strict=True), color=COLOURS[1], linewidth=1) if line else None
            colours = {"scr": COLOURS[3], "ifd": COLOURS[2]}
            runs = len(response["runs"])
            for arm, place in places.items():
                found, colour = response["arms"][arm], colours.get(arm, COLOURS[1])
                axis.scatter([place - 0.12] * runs, found["each_run"], s=12, color=colour, alpha=0.8, linewidths=0)
                axis.plot([place], [found["mean"]], "D", color=colour, markersize=6)
            axis.set_title(f"{TITLES.get(name, name)}: {_runs(runs)} of each", loc="left", fontsize=9)
            axis.set_xticks(list(ticks), list(ticks.values()))
            axis.set_xlim(min(places.values()) - 0.4, max(places.values()) + 0.4)
            axis.set_xlabel("weight of both terms (log scale), then of one alone")
            axis.set_ylabel("difference to stock, mean Dice [points]")
        return svg(figure, description).decode()


def _pairs(axis: Axes, place: float, row: Mapping[str, Any], spread: str, labels: Sequence[str | None]) -> None:
    """Every pair of trainings as a dot, and above them their mean with its interval."""
    runs = numbers(row["each_run"])
    axis.scatter(runs, [place] * len(runs), s=14, color=BETTER, alpha=0.6, linewidths=0, label=labels[0])
    mean, *ends = numbers([row["difference"], *row[spread].values()])
    axis.plot(ends, [place - 0.25] * 2, "|-", color="black", linewidth=1.4, markersize=7)
    axis.plot([mean], [place - 0.25], "D-", color="black", markersize=5, linewidth=1.4, label=labels[1])


def _sorted_cases(axis: Axes, gains: Any, counts: Mapping[str, Any]) -> None:
    labels = {BETTER: f"better by more than {MARGIN:g} point", WORSE: "worse by more", SAME: "between"}
    colours, width = colours_of(gains, MARGIN), max(0.6, 220 / len(gains))
    for colour, label in labels.items():
        chosen = np.flatnonzero(colours == colour)
        axis.vlines(chosen + 1, 0, gains[chosen], color=colour, linewidth=width, label=label)
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xlabel(f"{counts['cases']} cases, sorted: {counts['better']} better, {counts['worse']} worse")
    axis.set_ylabel("SelfReg minus stock,\nmean Dice [points]")


def _means(axis: Axes, compared: Mapping[str, Any], every: Iterable[Any], noise: Iterable[Any]) -> None:
    """The primary comparison by class; behind a line, the mean with runs that were added, and stock against itself."""
    columns = [(name, name, BETTER, compared) for name in compared["classes"]]
    first = len(columns)
    columns += [(MEAN, "mean,\nall", BETTER, other) for other in every]
    columns += [(MEAN, "stock,\nrep. {1} - {0}".format(*other["repetitions"]), SAME, other) for other in noise]
    for place, (name, _, colour, shown) in enumerate(columns):
        runs = numbers(run["difference"][name] for run in shown["runs"])
        labels = [None] * 3 if place else ["one repetition of a fold", "mean, 95 % CI over patients", "over folds"]
        axis.scatter(
            place + np.linspace(-0.28, 0.08, len(runs)), runs, s=12, color=colour, alpha=0.8, linewidths=0,
            label=labels[0],
        )  # fmt: skip
        interval(axis, place + 0.2, shown["classes"][name], SAME, labels[1])
        interval(axis, place + 0.32, shown["over_folds"][name], "black", labels[2])
    if len(columns) > first:
        axis.axvline(first - 0.5, color=SAME, linewidth=0.8, linestyle=":")
    axis.axhline(0, color="black", linewidth=0.8)
    axis.set_xticks(range(len(columns)), [title for _, title, *_ in columns])
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylabel("difference, Dice [points]")


def _band(axis: Axes, epochs: Sequence[int], band: Mapping[str, Any], colour: str, label: str | None = None) -> None:
    """Mean and standard deviation over runs, by epoch."""
    mean, spread = (np.array(numbers(band[name])) for name in ("mean", "sd"))
    axis.plot(epochs, mean, color=colour, linewidth=1.2, label=label)
    if not np.isnan(spread).all():
        axis.fill_between(epochs, mean - spread, mean + spread, color=colour, alpha=0.2, linewidth=0)


def _runs(count: int) -> str:
    return f"{count} run{'s'[: count > 1]}"
