"""The study's numbers as Markdown tables, in the library's own format."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from evidence import primary

from nnunetv2_selfreg.benchmarks import cells
from nnunetv2_selfreg.benchmarks.cells import interval, number, p_value, plus_minus
from nnunetv2_selfreg.comparison import MEAN

NO_INTERVAL = {"low": None, "high": None}
_BLOCK = re.compile(r"(<!-- tables\.md: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def sections(content: Mapping[str, Any]) -> dict[str, str]:
    """The tables by name.

    Every experiment in a row, the forms of the screen, the primary comparisons, every data set, how far trainings came,
    and what they cost.
    """
    parts = {name: _dataset(part) for name, part in content["datasets"].items()}
    parts |= {"last_epochs": _last_epochs(content["last_epochs"]), "cost": _cost(content["cost"])}
    if any(map(primary, content["datasets"].values())):
        parts = {"summary": _summary(content["datasets"])} | parts
    if content["forms"]:
        parts = {"forms": _forms(content["forms"])} | parts
    if content["overview"]:
        parts = {"overview": _overview(content["overview"])} | parts
    return {name: f"{text}\n" for name, text in parts.items()}


def page(parts: Mapping[str, str]) -> str:
    """`tables.md`."""
    head = (
        "Rebuilt by `python examples/study/analyse.py`. [How to read them](../README.md#how-to-read-the-tables), and "
        "[what they say](../../../documentation/evidence.md)."
    )
    return f"# Tables of the study\n\n{head}\n" + "".join(f"\n## {name}\n\n{text}" for name, text in parts.items())


def filled(text: str, parts: Mapping[str, str]) -> str:
    """Puts a table between each pair of markers, and empties the markers of what was not run."""
    return _BLOCK.sub(lambda match: match[1] + parts.get(match[2], "") + match[3], text)


def _overview(rows: Iterable[Mapping[str, Any]]) -> str:
    head = (
        "experiment, pairs, stock, SelfReg - stock, 95 % CI over folds, over cases, stock again - stock, paper's gain"
    )
    shown = []
    for row in rows:
        again = ", ".join(plus_minus(noise["mean"], noise["sd"], "+.2f") for noise in row["noise"]) or "-"
        found = number(row["stock"]), number(row["difference"], "+.2f")
        ends = (interval(**row[name]) for name in ("over_folds", "over_cases"))
        shown.append([row["name"], row["runs"], *found, *ends, again, number(row["reported"], "+.2f")])
    return _table(head, shown)


def _forms(rows: Iterable[Mapping[str, Any]]) -> str:
    head = "experiment, form, pairs, stock, form - stock, SD over pairs, 95 % CI over pairs, p, 95 % CI over folds"
    shown = []
    for row in rows:
        found = number(row["stock"]), number(row["difference"], "+.2f"), number(row["sd"])
        ends = interval(**row["over_pairs"]), p_value(row["p"]), interval(**row["over_folds"] or NO_INTERVAL)
        shown.append([row["experiment"], row["name"], row["runs"], *found, *ends])
    return _table(head, shown, text=2)


def _summary(datasets: Mapping[str, Any]) -> str:
    """The primary comparison of each data set, and stock against itself where it was trained twice."""
    head = (
        "data set, runs of each arm, cases, stock, SelfReg, difference, 95 % CI over patients, p, 95 % CI over folds, "
        "mean ± SD over folds, of stock's repetition 1 - 0"
    )
    rows = []
    for name, part in datasets.items():
        if compared := primary(part):
            found = compared["classes"][MEAN]
            again = ", ".join(_over_folds(noise, MEAN)[1] for noise in part["noise"]) or "-"
            dice = number(found["other"]), number(found["mine"])
            difference = *cells.difference(found)[:3], *_over_folds(compared, MEAN)
            rows.append([name, len(compared["runs"]), found["cases"], *dice, *difference, again])
    return _table(head, rows)


def _dataset(part: Mapping[str, Any]) -> str:
    arms = [
        [arm, name, len(found["runs"]), *map(number, found["dice"][name].values())]
        for arm, found in part["arms"].items()
        for name in (MEAN, *part["classes"])
    ]
    blocks = {
        "Dice [%]": _table("arm, class, runs, mean, SD over folds, SD over repetitions", arms, text=2),
        "Dice of each run [%], mean over classes": _each_dice(part["arms"]),
    }
    if compared := [*part["comparisons"], *part["noise"]]:
        rows = [
            [
                *(shown["name"], _role(shown, name), name, len(shown["runs"])),
                *(*cells.difference(found), found["clusters"], *_over_folds(shown, name)),
            ]
            for shown in compared
            for name, found in shown["classes"].items()
        ]
        head = (
            f"comparison, role, class, runs, difference, {', '.join(cells.DIFFERENCE_COLUMNS)}, clusters, "
            "95 % CI over folds, mean ± SD over folds"
        )
        blocks["Differences [Dice points]"] = _table(head, rows, text=3)
        blocks["Differences of each run [Dice points]"] = _each_run(compared)
    if response := part["response"]:
        count = len(response["runs"])
        rows = [
            [f"{arm} - stock", f"{found['lambda_scr']:g}", f"{found['lambda_ifd']:g}", *cells.difference(found)]
            for arm, found in response["arms"].items()
        ]
        title = f"Weights [Dice points], all on the same {count} run{'s'[: count > 1]}, exploratory"
        head = f"comparison, lambda_scr, lambda_ifd, difference, {', '.join(cells.DIFFERENCE_COLUMNS)}"
        blocks[title] = _table(head, rows)
    return "\n\n".join(f"**{title}**\n\n{table}" for title, table in blocks.items())


def _each_dice(arms: Mapping[str, Any]) -> str:
    rows = [{"arm": arm, **run} for arm, found in arms.items() for run in found["each_run"]]
    return _by_fold(rows, ["arm", "repetition"], "dice", ".2f")


def _each_run(compared: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for shown in compared:
        for name in (MEAN,) if shown["role"] == "exploratory" else shown["classes"]:
            start = {"comparison": shown["name"], "class": name}
            for run in shown["runs"]:
                repetition = "" if shown["role"] == "noise" else run["repetition"]
                gain = run["difference"][name]
                rows.append({**start, "repetition": repetition, "fold": run["fold"], "difference": gain})
            if len({run["repetition"] for run in shown["runs"]}) > 1:
                folds = shown["over_folds"][name]["folds"].items()
                rows += [{**start, "repetition": "mean", "fold": int(fold), "difference": gain} for fold, gain in folds]
    return _by_fold(rows, ["comparison", "class", "repetition"], "difference", "+.2f")


def _by_fold(rows: Sequence[Mapping[str, Any]], names: list[str], value: str, form: str) -> str:
    """A table with a row for each combination of the names and a column for each fold."""
    frame = pd.DataFrame(rows)
    folds = sorted(frame["fold"].unique())
    by_fold = [
        [*key, *(number(found, form) for found in part.set_index("fold")[value].reindex(folds))]
        for key, part in frame.groupby(names, sort=False)
    ]
    return _table(", ".join([*names, *(f"fold {fold}" for fold in folds)]), by_fold, len(names))


def _last_epochs(rows: Iterable[Mapping[str, Any]]) -> str:
    head = "data set, arm, runs, pseudo Dice [%], its rise in the last epoch, training loss, validation loss"
    shown = []
    for row in rows:
        losses = ("-" if row[name] is None else f"{row[name]:.3f}" for name in ("train_loss", "val_loss"))
        dice = number(row["pseudo_dice"]), number(row["rise"], "+.2f")
        shown.append([row["dataset"], row["arm"], row["runs"], *dice, *losses])
    return _table(head, shown, text=2)


def _cost(rows: Sequence[Mapping[str, Any]]) -> str:
    head = (
        "data set, arm, runs, training cases, epochs, iterations, seconds a run; median (range), hours in all, "
        "over stock; median (range)"
    )
    shown = []
    for row in rows:
        budget = (" to ".join(map(str, row[name])) for name in ("training_cases", "epochs", "iterations"))
        seconds = "{median:.0f} ({low:.0f} to {high:.0f})".format(**row["seconds"])
        over_stock = "{median:.2f} ({low:.2f} to {high:.2f})".format(**row["over_stock"]) if row["over_stock"] else ""
        shown.append([row["dataset"], row["arm"], row["runs"], *budget, seconds, f"{row['hours']:.1f}", over_stock])
    runs, hours = (sum(row[name] for row in rows) for name in ("runs", "hours"))
    shown.append(["all", "", runs, "", "", "", "", f"{hours:.1f}", ""])
    return _table(head, shown, text=2).replace(";", ",")


def _table(head: str, rows: Iterable[Sequence[Any]], text: int = 1) -> str:
    """A table in Markdown; the first `text` columns are text, the others numbers."""
    names = head.split(", ")
    align = ["---"] * text + ["---:"] * (len(names) - text)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (names, align, *rows))


def _role(compared: Mapping[str, Any], name: str) -> str:
    """What was registered as primary is the mean over classes alone."""
    return "exploratory" if compared["role"] == "primary" and name != MEAN else compared["role"]


def _over_folds(compared: Mapping[str, Any], name: str) -> tuple[str, str]:
    found = compared["over_folds"][name]
    return interval(found["low"], found["high"]), plus_minus(found["mean"], found["sd"], "+.2f")
