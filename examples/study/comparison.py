"""The study's numbers, from its raw results: means with their spread, and paired differences with their intervals.

Scores are in Dice points, 0 to 100. A run is one training, named by its repetition and fold; it scores the validation
cases of its fold. Arms are compared on the runs that both have.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from math import isnan
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.leaderboard import statistics

MEAN = "mean"
STOCK, PRIMARY = "stock", "selfreg"
DATASETS = ("hippocampus", "acdc", "acdc_10", "glas224", "hippocampus_3d")  # in this order, others after them
ARMS = (STOCK, PRIMARY, "scr", "ifd")
MARGIN = 1.0  # points
RUN = ["dataset", "arm", "repetition", "fold"]
BUDGET = ["epochs", "iterations", "training_cases"]

Run = tuple[int, int]  # repetition, fold
Runs = Mapping[Run, pd.DataFrame]  # scores (cases x classes)


@dataclass(frozen=True)
class Dataset:
    """The scores of one data set.

    Attributes:
        name: As in the raw results.
        classes: In the order of the raw results.
        arms: The runs by arm, stock first.
        clusters: The patient or picture that each case belongs to.
        weights: `lambda_scr` and `lambda_ifd` by arm.
        added: The runs that were added to the registration when scores were known.
    """

    name: str
    classes: Sequence[str]
    arms: Mapping[str, Runs]
    clusters: Mapping[str, str]
    weights: Mapping[str, tuple[float, float]]
    added: frozenset[Run]

    def paired(self, arm: str) -> list[Run]:
        """The runs that stock and the arm both have."""
        return sorted(set(self.arms[arm]) & set(self.arms[STOCK]))

    def registered(self) -> list[Run]:
        """The runs of the primary comparison."""
        return [run for run in self.paired(PRIMARY) if run not in self.added]

    def gains(self) -> pd.DataFrame:
        """SelfReg minus stock in every case of the primary comparison (cases x classes)."""
        runs = self.registered()
        return per_case(self.arms[PRIMARY], runs) - per_case(self.arms[STOCK], runs)

    def summary(self) -> dict[str, Any]:
        """Every number of the data set."""
        return {
            "classes": list(self.classes),
            "arms": {arm: self._spread(runs) for arm, runs in self.arms.items()},
            "comparisons": [
                {"name": name, "role": role, **self._compare(self.arms[arm], self.arms[STOCK], runs)}
                for name, role, arm, runs in self._compared()
                if runs
            ],
            "noise": self._noise(),
            "response": self._response(),
        }

    def _compared(self) -> Iterator[tuple[str, str, str, list[Run]]]:
        """The name, role, arm and runs of every comparison with stock."""
        for arm in self.arms:
            name = f"{arm} - {STOCK}"
            if arm == PRIMARY:
                runs, registered = self.paired(arm), self.registered()
                yield name, "primary", arm, registered
                if registered != runs:
                    yield f"{name}, added later", "replication", arm, [run for run in runs if run in self.added]
                    yield f"{name}, all", "exploratory", arm, runs if registered else []
            elif arm != STOCK:
                yield name, "exploratory", arm, self.paired(arm)

    def _columns(self) -> dict[str, list[str]]:
        return {MEAN: list(self.classes)} | {name: [name] for name in self.classes}

    def _spread(self, runs: Runs) -> dict[str, Any]:
        """Mean over cases, then classes, and its deviation over folds and over repetitions."""
        repetitions, folds = ({run[place] for run in runs} for place in (0, 1))
        # repetitions are compared on the folds that all of them have
        shared = [fold for fold in folds if all((repetition, fold) in runs for repetition in repetitions)]
        dice = {}
        for name, columns in self._columns().items():
            by_fold = [
                np.mean([statistics.mean(runs[run][columns].to_numpy()) for run in sorted(runs) if run[1] == fold])
                for fold in sorted(folds)
            ]
            by_repetition = [
                statistics.mean(per_case(runs, [(repetition, fold) for fold in shared])[columns].to_numpy())
                for repetition in sorted(repetitions)
                if shared
            ]
            dice[name] = {
                "mean": statistics.mean(per_case(runs, runs)[columns].to_numpy()),
                "sd_folds": _deviation(by_fold),
                "sd_repetitions": _deviation(by_repetition),
            }
        each = [
            {"repetition": run[0], "fold": run[1], "dice": statistics.mean(runs[run].to_numpy())}
            for run in sorted(runs)
        ]
        return {"runs": sorted(runs), "dice": dice, "each_run": each}

    def _compare(self, mine: Runs, its: Runs, only: Iterable[Run] | None = None) -> dict[str, Any]:
        """Differences over cases with their interval, of every run, and over folds."""
        runs = sorted(set(mine) & set(its) if only is None else only)
        for run in runs:
            if not mine[run].index.equals(its[run].index):
                raise SelfRegError(
                    f"{self.name}: repetition {run[0]}, fold {run[1]} scores other cases in the two arms"
                )
        selfreg, stock = per_case(mine, runs), per_case(its, runs)
        clusters = np.array([self.clusters[case] for case in stock.index])
        classes, over_folds, each = {}, {}, {run: {} for run in runs}
        for name, columns in self._columns().items():
            arrays = [frame[columns].to_numpy() for frame in (selfreg, stock)]
            found = asdict(statistics.difference(*arrays, clusters, MARGIN))
            classes[name] = found | {"dice": [statistics.mean(array) for array in arrays]}
            for run in runs:
                means = [statistics.mean(arm[run][columns].to_numpy()) for arm in (mine, its)]
                each[run][name] = means[0] - means[1]
            folds = sorted({fold for _, fold in runs})
            by_fold = np.array([np.mean([each[run][name] for run in runs if run[1] == fold]) for fold in folds])
            mean, deviation = statistics.mean_and_sd(by_fold)
            half = None if deviation is None else student.ppf(0.975, len(folds) - 1) * deviation / len(folds) ** 0.5
            over_folds[name] = {
                "mean": mean,
                "sd": deviation,
                "low": None if half is None else float(mean - half),
                "high": None if half is None else float(mean + half),
                "folds": dict(zip(map(str, folds), by_fold.tolist(), strict=True)),
            }
        return {
            "classes": classes,
            "over_folds": over_folds,
            "runs": [{"repetition": run[0], "fold": run[1], "difference": each[run]} for run in runs],
        }

    def _noise(self) -> list[dict[str, Any]]:
        """Stock against itself: what two runs of the same training differ by."""
        by_repetition: dict[int, dict[Run, pd.DataFrame]] = {}
        for (repetition, fold), frame in self.arms[STOCK].items():
            by_repetition.setdefault(repetition, {})[0, fold] = frame
        return [
            {
                "name": f"{STOCK} - {STOCK}, repetition {second} - {first}",
                "role": "noise",
                "repetitions": [first, second],
                **self._compare(by_repetition[second], by_repetition[first]),
            }
            for first, second in combinations(sorted(by_repetition), 2)
            if set(by_repetition[first]) & set(by_repetition[second])
        ]

    def _response(self) -> dict[str, Any] | None:
        """Both terms at each weight, and each term alone, all on the runs that these arms share."""
        arms = [arm for arm in self.arms if arm in ("scr", "ifd") or _is_weight(arm)]
        runs = sorted(set(self.arms[STOCK]).intersection(*(self.arms[arm] for arm in arms)))
        if len(arms) < 2 or not runs:
            return None
        found = {}
        for arm in arms:
            scr, ifd = self.weights[arm]
            compared = self._compare(self.arms[arm], self.arms[STOCK], runs)
            each = [run["difference"][MEAN] for run in compared["runs"]]
            found[arm] = {"lambda_scr": scr, "lambda_ifd": ifd, **compared["classes"][MEAN], "each_run": each}
        return {"runs": runs, "arms": found}


def per_case(runs: Runs, only: Iterable[Run]) -> pd.DataFrame:
    """Each case's scores, averaged over the repetitions among these runs (cases x classes)."""
    by_repetition: dict[int, list[pd.DataFrame]] = {}
    for run in sorted(only):
        by_repetition.setdefault(run[0], []).append(runs[run])
    frames = [pd.concat(frames) for frames in by_repetition.values()]
    cases = sorted(set().union(*(frame.index for frame in frames)))
    scores = statistics.over_runs(np.stack([frame.reindex(cases).to_numpy() for frame in frames]))
    return pd.DataFrame(scores, index=cases, columns=frames[0].columns)


def primary(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The primary comparison in a data set's summary; None if it has no runs of both arms."""
    return next((about for about in summary["comparisons"] if about["role"] == "primary"), None)


def cost(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Seconds of every arm's runs, and over those of the same runs of stock."""
    found = []
    for name in sorted(set(runs["dataset"]), key=place(DATASETS)):
        part = runs[runs["dataset"] == name]
        seconds = {arm: rows.set_index(["repetition", "fold"])["seconds"] for arm, rows in part.groupby("arm")}
        for arm in sorted(seconds, key=place(ARMS)):
            rows = part[part["arm"] == arm]
            ratios = (seconds[arm] / seconds[STOCK]).dropna()
            found.append(
                {
                    "dataset": name,
                    "arm": arm,
                    "runs": len(rows),
                    **{column: sorted(set(rows[column].astype(int).tolist())) for column in BUDGET},
                    "seconds": _median_and_range(seconds[arm]),
                    "hours": float(rows["seconds"].sum()) / 3600,
                    "over_stock": None if arm == STOCK or ratios.empty else _median_and_range(ratios),
                }
            )
    return found


def last_epochs(curves: pd.DataFrame, runs: pd.DataFrame) -> list[dict[str, Any]]:
    """How far the trainings of every arm came: means over its runs, in their last epoch.

    Losses are nnU-Net's own: the weighted terms of SelfReg are taken off the training loss. The rise is that of the
    pseudo Dice over the epoch before, in points.
    """
    table = curves.sort_values("epoch").merge(runs[[*RUN, "lambda_scr", "lambda_ifd"]], on=RUN)
    terms = table["lambda_scr"] * table["scr"].fillna(0) + table["lambda_ifd"] * table["ifd"].fillna(0)
    table = table.assign(train_loss=table["train_loss"] - terms, pseudo_dice=100 * table["pseudo_dice"])
    table["rise"] = table.groupby(RUN)["pseudo_dice"].diff()
    last = table.groupby(RUN).tail(1)
    found = []
    for name in sorted(set(last["dataset"]), key=place(DATASETS)):
        part = last[last["dataset"] == name]
        for arm in sorted(set(part["arm"]), key=place(ARMS)):
            rows = part[part["arm"] == arm]
            means = rows[["pseudo_dice", "rise", "train_loss", "val_loss"]].mean()
            found.append({"dataset": name, "arm": arm, "runs": len(rows), **means.to_dict()})
    return found


def _median_and_range(values: pd.Series) -> dict[str, float]:
    return {"median": float(values.median()), "low": float(values.min()), "high": float(values.max())}


def place(order: Sequence[str]) -> Any:
    """A sorting key: names in this order, others after them by name."""
    return lambda name: (order.index(name) if name in order else len(order), name)


def rounded(content: Any) -> Any:
    """Six significant digits, beyond which processors differ; NaN becomes None."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [rounded(value) for value in content]
    if isinstance(content, float):
        return None if isnan(content) else float(f"{content:.6g}")
    return content


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.mean_and_sd(np.array(values))[1] if values else None


def _is_weight(arm: str) -> bool:
    """Whether an arm is SelfReg at some weight (`selfreg_0.1`), and not another variant."""
    return arm == PRIMARY or arm.removeprefix(f"{PRIMARY}_").replace(".", "", 1).isdecimal()
