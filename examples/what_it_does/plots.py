"""The plots and the table of documentation/what_it_does.md, from what measure.py wrote: plots.py RESULTS FOLDER."""

import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

# Okabe and Ito's colours, which stay apart for colour-blind readers
STUDENT, MEANS, TEACHER, IFD, GREY = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "0.3"
SCR_DRAWN, SCR_EXPECTED, IFD_SHARE = (f"{name}, % of the gradient" for name in ("SCR drawn", "SCR expected", "IFD"))


def short(stage: str) -> str:
    part, _, number = stage.split(".")
    return f"{part[0].upper()}{number}"


def table(results: dict) -> list[str]:
    """The share of the gradient by student before the training, after one epoch and after the last, as Markdown."""
    stages = list(results["epochs"][0]["stages"])
    lines = [
        f"| share of the gradient [%] | {' | '.join(map(short, stages))} | share of the loss [%] |",
        f"|---|{'---|' * (len(stages) + 1)}",
    ]
    for measured in (*results["epochs"][:2], results["epochs"][-1]):
        epoch = measured["epoch"]
        after = {0: "before training", 1: "after 1 epoch"}.get(epoch, f"after {epoch} epochs")
        expected = [("SCR, expected", SCR_EXPECTED)] if measured is results["epochs"][-1] else []
        terms = [("SCR, drawn", SCR_DRAWN), *expected, ("IFD", IFD_SHARE)]
        for title, key in terms:
            cells = [f"{measured['stages'][stage][key]:.2f}" for stage in stages]
            last = f"{measured['% of the loss']:.1f} (SCR and IFD)" if key == IFD_SHARE else ""
            lines.append(f"| {title}, {after} | {' | '.join(cells)} | {last} |")
    return lines


def expectation(results: dict) -> Figure:
    """What SCR and IFD are made of at each student, before and after the training."""
    plot = Figure(figsize=(9, 6), layout="constrained")
    axes = plot.subplots(2, 2, sharex=True, sharey="row")
    for column, measured in zip(axes.T, (results["epochs"][0], results["epochs"][-1]), strict=True):
        stages = measured["stages"]
        x, bottom = np.arange(len(stages)), np.zeros(len(stages))
        for key, label, colour in (
            ("teacher variance", "variance of the teacher's channels: no student can lower it", TEACHER),
            ("student variance", "variance of the student's channels", STUDENT),
            ("squared difference of means", "squared difference of the mean channels", MEANS),
        ):
            values = np.array([of[key] for of in stages.values()])
            column[0].bar(x, values, 0.6, bottom, color=colour, label=label)
            bottom += values
        drawn, ifd, random = (
            [of[key] for of in stages.values()] for key in ("SCR drawn", "IFD", "IFD of random pairs")
        )
        draws = f"SCR, mean over patches and {results['draws']} draws each"
        column[0].plot(x, drawn, "D", color="black", markersize=5, label=draws)
        column[1].bar(x, random, 0.6, color=STUDENT, alpha=0.5, label="2 C/(C-1) times the variance of the channels")
        column[1].plot(x, ifd, "o", color=IFD, label="IFD")
        column[0].set_title("before training" if measured["epoch"] == 0 else f"after {measured['epoch']} epochs")
        column[1].set_xticks(x, [short(stage) for stage in stages])
    axes[0, 0].set_ylabel("SCR")
    axes[1, 0].set_ylabel("IFD")
    plot.supxlabel("student (E encoder, D decoder)")
    legend(plot, axes[:, 0])
    return plot


def loophole(results: dict) -> Figure:
    """IFD, SCR and the network's output while one stage is scaled down and what reads it is scaled up."""
    plot = Figure(figsize=(9, 3.6), layout="constrained")
    losses, logits = plot.subplots(1, 2)
    scales = [step["scale"] for step in results["rescaled"]]
    for key, label, colour in (("IFD", "IFD", IFD), ("SCR expected", "SCR, expected", STUDENT)):
        values = np.array([step[key] for step in results["rescaled"]])
        losses.plot(scales, values / values[0], "o-", color=colour, label=label)
    losses.set_ylabel("loss of the stage\nover that of the trained network")
    losses.legend(frameon=False)
    changes = [max(step["change of the logits"], 1e-17) for step in results["rescaled"]]
    logits.plot(scales[1:], changes[1:], "o-", color=GREY)
    logits.set_ylabel("largest change of the logits\nover the largest logit")
    logits.set_yscale("log")
    logits.set_ylim(1e-16, 1)
    for axis in (losses, logits):
        axis.set_xscale("log")
        axis.invert_xaxis()
        axis.set_xticks([1, 0.5, 0.2, 0.1], ["1", "0.5", "0.2", "0.1"])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    losses.set_yscale("log")
    losses.set_ylim(0.008, 1.3)
    plot.supxlabel("factor on the gain and bias of the stage's norm; the next convolutions' weights are divided by it")
    return plot


def strength(results: dict) -> Figure:
    """Each term's share of the gradient by student and epoch, and beside it the share of the loss."""
    plot = Figure(figsize=(10, 4), layout="constrained")
    axes = plot.subplots(1, 3, sharey=True)
    epochs = [measured["epoch"] for measured in results["epochs"]]
    stages = list(results["epochs"][0]["stages"])
    colours = ["#0072B2", "#56B4E9", "#009E73", "#E69F00", "#D55E00", "#CC79A7", "#000000", "#F0E442", "#999999"]
    for axis, title, key in zip(axes, ("SCR, drawn", "IFD"), (SCR_DRAWN, IFD_SHARE), strict=False):
        for stage, colour in zip(stages, colours, strict=False):
            values = [measured["stages"][stage][key] for measured in results["epochs"]]
            axis.plot(epochs, values, "o-", markersize=3, color=colour, label=short(stage))
        axis.set_title(f"{title}: share of the gradient")
    axes[2].plot(epochs, [measured["% of the loss"] for measured in results["epochs"]], "s-", color="black")
    axes[2].set_title("both: share of the loss")
    for axis in axes:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter("{x:g} %")
        axis.set_xlabel("epochs of training")
        axis.grid(alpha=0.3)
    axes[0].legend(frameon=False, ncols=2, fontsize=8)
    return plot


def legend(plot: Figure, axes) -> None:
    pairs = [pair for axis in axes for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
    plot.legend(*zip(*pairs, strict=True), loc="outside upper left", ncols=2, frameon=False, fontsize=9)


if __name__ == "__main__":
    found, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("expectation", expectation), ("loophole", loophole), ("strength", strength)):
        draw(found).savefig(folder / f"{name}.png", dpi=150)
    print("\n".join(table(found)))
