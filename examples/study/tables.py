"""The study's numbers as Markdown tables."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from comparison import MEAN, primary

SPREAD = ("seconds a run", "over stock")
_BLOCK = re.compile(r"(<!-- tables\.md: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def sections(content: Mapping[str, Any]) -> dict[str, str]:
    """The tables by name: the primary comparisons, every data set, how far trainings came, and what they cost."""
    parts = {name: _dataset(part) for name, part in content["datasets"].items()}
    parts |= {"last_epochs": _last_epochs(content["last_epochs"]), "cost": _cost(content["cost"])}
    if any(map(primary, content["datasets"].values())):
        parts = {"summary": _summary(content["datasets"])} | parts
    return parts


def page(parts: Mapping[str, str]) -> str:
    """`tables.md`."""
    head = "Rebuilt by `python examples/study/analyse.py`; `documentation/evidence.md` says how to read them."
    return f"# Tables of the study\n\n{head}\n" + "".join(f"\n## {name}\n\n{text}" for name, text in parts.items())


def filled(text: str, parts: Mapping[str, str]) -> tuple[str, list[str]]:
    """Puts each table between its markers, and empties the markers of what was not run.

    Returns:
        The text, and the names of the tables that it has no markers for.
    """
    names = [match[2] for match in _BLOCK.finditer(text)]
    return _BLOCK.sub(lambda match: match[1] + parts.get(match[2], "") + match[3], text), [
        name for name in parts if name not in names
    ]


def _summary(datasets: Mapping[str, Any]) -> str:
    """The primary comparison of each data set, and stock against itself where it was trained twice."""
    head = (
        "data set, runs of each arm, cases, stock, SelfReg, difference, 95 % CI over patients, p, 95 % CI over folds, "
        "mean ± SD over folds, of stock's repetition 1 - 0"
    )
    rows = []
    for name, part in datasets.items():
        if about := primary(part):
            found = about["classes"][MEAN]
            selfreg, stock = map(_number, found["dice"])
            difference, interval, p, *_ = _difference(found)
            again = (_spread(noise["over_folds"][MEAN]) for noise in part["noise"])
            over_folds = *_over_folds(about["over_folds"][MEAN]), ", ".join(again) or "-"
            rows.append(
                [name, len(about["runs"]), found["cases"], stock, selfreg, difference, interval, p, *over_folds]
            )
    return _grid(head.split(", "), rows) + "\n"


def _dataset(part: Mapping[str, Any]) -> str:
    blocks = [
        "**Dice [%]**",
        _grid(
            ["arm", "class", "runs", "mean", "SD over folds", "SD over repetitions"],
            (
                [arm, name, len(about["runs"]), *map(_number, about["dice"][name].values())]
                for arm, about in part["arms"].items()
                for name in (MEAN, *part["classes"])
            ),
            text=2,
        ),
        "**Dice of each run [%], mean over classes**",
        _each_dice(part["arms"]),
    ]
    compared = [*part["comparisons"], *part["noise"]]
    if compared:
        head = (
            "comparison, class, runs, difference, 95 % CI, p, better, worse, cases, clusters, 95 % CI over folds, "
            "mean ± SD over folds"
        )
        blocks += [
            "**Differences [Dice points]**",
            _grid(
                ["comparison", "role", *head.split(", ")[1:]],
                (
                    [
                        *(about["name"], _role(about, name), name, len(about["runs"])),
                        *_difference(found),
                        *(found["clusters"], *_over_folds(about["over_folds"][name])),
                    ]
                    for about in compared
                    for name, found in about["classes"].items()
                ),
                text=3,
            ),
            "**Differences of each run [Dice points]**",
            _each_run(compared),
        ]
    if response := part["response"]:
        count = len(response["runs"])
        blocks += [
            f"**Weights [Dice points], all on the same {count} run{'s'[: count > 1]}, exploratory**",
            _grid(
                "comparison, lambda_scr, lambda_ifd, difference, 95 % CI, p, better, worse, cases".split(", "),
                (
                    [f"{arm} - stock", f"{found['lambda_scr']:g}", f"{found['lambda_ifd']:g}", *_difference(found)]
                    for arm, found in response["arms"].items()
                ),
            ),
        ]
    return "\n\n".join(blocks) + "\n"


def _each_dice(arms: Mapping[str, Any]) -> str:
    folds = sorted({run["fold"] for about in arms.values() for run in about["each_run"]})
    rows = []
    for arm, about in arms.items():
        for repetition in sorted({run["repetition"] for run in about["each_run"]}):
            found = {run["fold"]: run["dice"] for run in about["each_run"] if run["repetition"] == repetition}
            rows.append([arm, repetition, *(_number(found.get(fold)) for fold in folds)])
    return _grid(["arm", "repetition", *(f"fold {fold}" for fold in folds)], rows, text=2)


def _each_run(compared: Sequence[Mapping[str, Any]]) -> str:
    folds = sorted({run["fold"] for about in compared for run in about["runs"]})
    rows = []
    for about in compared:
        repetitions = sorted({run["repetition"] for run in about["runs"]})
        for name in (MEAN,) if about["role"] == "exploratory" else about["classes"]:
            for repetition in repetitions:
                found = {
                    run["fold"]: run["difference"][name] for run in about["runs"] if run["repetition"] == repetition
                }
                label = "" if about["role"] == "noise" else repetition
                rows.append([about["name"], name, label, *(_number(found.get(fold), "+.2f") for fold in folds)])
            if len(repetitions) > 1:
                means = about["over_folds"][name]["folds"]
                rows.append([about["name"], name, "mean", *(_number(means.get(str(fold)), "+.2f") for fold in folds)])
    return _grid(["comparison", "class", "repetition", *(f"fold {fold}" for fold in folds)], rows, text=3)


def _last_epochs(rows: Iterable[Mapping[str, Any]]) -> str:
    head = "data set, arm, runs, pseudo Dice [%], its rise in the last epoch, training loss, validation loss"
    cells = []
    for row in rows:
        dice = _number(row["pseudo_dice"]), _number(row["rise"], "+.2f")
        losses = (f"{row[name]:.3f}" for name in ("train_loss", "val_loss"))
        cells.append([row["dataset"], row["arm"], row["runs"], *dice, *losses])
    return _grid(head.split(", "), cells, text=2) + "\n"


def _cost(rows: Sequence[Mapping[str, Any]]) -> str:
    head = "data set, arm, runs, training cases, epochs, iterations, seconds a run, hours in all, over stock"
    cells = []
    for row in rows:
        budget = (_range(row[name]) for name in ("training_cases", "epochs", "iterations"))
        seconds = "{median:.0f} ({low:.0f} to {high:.0f})".format(**row["seconds"])
        over_stock = "{median:.2f} ({low:.2f} to {high:.2f})".format(**row["over_stock"]) if row["over_stock"] else ""
        cells.append([row["dataset"], row["arm"], row["runs"], *budget, seconds, f"{row['hours']:.1f}", over_stock])
    runs, hours = (sum(row[name] for row in rows) for name in ("runs", "hours"))
    cells.append(["all", "", runs, "", "", "", "", f"{hours:.1f}", ""])
    titles = [title if title not in SPREAD else f"{title}, median (range)" for title in head.split(", ")]
    return _grid(titles, cells, text=2) + "\n"


def _grid(head: Sequence[str], rows: Iterable[Sequence[Any]], text: int = 1) -> str:
    """A table whose first columns are text and the others numbers."""
    align = ["---"] * text + ["---:"] * (len(head) - text)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in (head, align, *rows))


def _role(about: Mapping[str, Any], name: str) -> str:
    """What was registered as primary is the mean over classes alone."""
    return "exploratory" if about["role"] == "primary" and name != MEAN else about["role"]


def _difference(found: Mapping[str, Any]) -> list[str]:
    interval = _interval(found)
    p = "-" if found["p"] is None else "< 0.001" if found["p"] < 0.001 else f"{found['p']:.3f}"
    return [_number(found["mean"], "+.2f"), interval, p, *(str(found[key]) for key in ("better", "worse", "cases"))]


def _interval(found: Mapping[str, Any]) -> str:
    return "-" if found["low"] is None else f"{_number(found['low'], '+.2f')} to {_number(found['high'], '+.2f')}"


def _over_folds(found: Mapping[str, Any]) -> tuple[str, str]:
    return _interval(found), _spread(found)


def _spread(found: Mapping[str, Any]) -> str:
    return _number(found["mean"], "+.2f") + (f" ± {found['sd']:.2f}" if found["sd"] is not None else "")


def _number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(round(value, 2) + 0.0, form)  # + 0.0: no -0.00


def _range(values: Sequence[int]) -> str:
    return str(values[0]) if len(values) == 1 else f"{values[0]} to {values[-1]}"
