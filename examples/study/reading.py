"""The study's raw results, read and checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from evidence import ARMS, BUDGET, DATASETS, KEY, PRIMARY, STOCK, Dataset, place

from nnunetv2_selfreg.comparison import RUN, check_same_cases
from nnunetv2_selfreg.errors import SelfRegError

_TEXT = dict.fromkeys("dataset arm case cluster class registered trainer plans network started".split(), str)
COLUMNS = {
    "scores": [*KEY, "case", "cluster", "class", "dice"],
    "curves": [*KEY, "epoch", "train_loss", "val_loss", "pseudo_dice", "scr", "ifd", "share"],
    "runs": [
        *KEY,
        *"registered trainer plans network lambda_scr lambda_ifd".split(),
        *"epochs iterations training_cases started seconds".split(),
    ],
}
_ALIKE = ["network", "epochs", "iterations"]  # in all runs of a data set


def read_table(results: Path, name: str) -> pd.DataFrame:
    """Reads `scores.csv`, `curves.csv` or `runs.csv`.

    Raises:
        SelfRegError: The file is missing, lacks a column, or holds a value of another type.
    """
    path = results / f"{name}.csv"
    if not path.is_file():
        raise SelfRegError(f"{path} does not exist; run the study's workflow first (examples/study/README.md)")
    columns = COLUMNS[name]
    empty = {column: ["", "nan"] for column in columns if column not in _TEXT}
    try:
        table = pd.read_csv(path, usecols=columns, dtype=_TEXT, keep_default_na=False, na_values=empty)
        table = table.astype({column: int if column in KEY else float for column in empty})
    except ValueError as error:
        raise SelfRegError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if table.empty:
        raise SelfRegError(f"{path} holds no run")
    return table


def read_datasets(scores: pd.DataFrame, curves: pd.DataFrame, runs: pd.DataFrame) -> list[Dataset]:
    """Arranges the scores by data set, arm and run.

    Raises:
        SelfRegError: A score stands there twice, a table lacks a run, a data set has no stock arm, or two arms differ
            in their budget.
    """
    twice = scores[scores.duplicated(["dataset", "arm", "repetition", "case", "class"])]
    if len(twice):
        raise SelfRegError(f"scores.csv holds a score twice: {_named(twice.iloc[0][[*KEY, 'case', 'class']])}")
    known = {
        name: set(table[KEY].itertuples(index=False, name=None))
        for name, table in (("scores.csv", scores), ("curves.csv", curves), ("runs.csv", runs))
    }
    for name, there in known.items():
        if lacking := sorted(set().union(*known.values()) - there):
            raise SelfRegError(f"{name} lacks the run {_named(dict(zip(KEY, lacking[0], strict=True)))}")
    return [
        _dataset(name, scores[scores["dataset"] == name], runs[runs["dataset"] == name])
        for name in sorted(set(scores["dataset"]), key=place(DATASETS))
    ]


def _dataset(name: str, scores: pd.DataFrame, runs: pd.DataFrame) -> Dataset:
    classes = list(dict.fromkeys(scores["class"]))
    scores = scores.assign(value=100 * scores["dice"])
    arms = {arm: scores[scores["arm"] == arm] for arm in sorted(set(scores["arm"]), key=place(ARMS))}
    if STOCK not in arms:
        raise SelfRegError(f"scores.csv has no {STOCK} arm of {name}: there is nothing to compare with")
    described = dict(runs.set_index(["arm", *RUN]).iterrows())
    cases = scores.groupby(["arm", *RUN])["case"].unique()
    weights = {}
    for (arm, *run), row in described.items():
        weights[arm] = (row["lambda_scr"], row["lambda_ifd"])
        if arm != STOCK and (STOCK, *run) in described:
            where = f"{name}, repetition {run[0]}, fold {run[1]}"
            _check_budget(row, described[(STOCK, *run)], where, arm)
            check_same_cases(where, {arm: cases[(arm, *run)], STOCK: cases[(STOCK, *run)]})
    for column in _ALIKE:
        if len(found := sorted(set(runs[column]))) > 1:
            raise SelfRegError(
                f"{name} holds runs with {column} {found[0]} and {found[1]}; give other networks and lengths "
                "a data set name of their own"
            )
    later = runs[(runs["registered"] == "no") & runs["arm"].isin([STOCK, PRIMARY])]
    added = frozenset(zip(later["repetition"], later["fold"], strict=True))
    return Dataset(name, classes, arms, weights, added)


def _check_budget(mine: pd.Series, stock: pd.Series, where: str, arm: str) -> None:
    for column in BUDGET:
        if mine[column] != stock[column]:
            raise SelfRegError(
                f"{where}: {arm} has {column} {mine[column]:g}, {STOCK} {stock[column]:g}; train both alike"
            )


def _named(run: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in run.items())
