"""The study's numbers, from its raw results: means with their spread, and paired differences with their intervals.

Scores are in Dice points, 0 to 100. A run is one training, named by its repetition and fold; it scores the validation
cases of its fold. Arms are compared on the runs that both have, by the library's own `comparison`.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import fsum, isnan
from typing import Any

import pandas as pd

from nnunetv2_selfreg import statistics
from nnunetv2_selfreg.comparison import MEAN, RUN, by_case, compare, run_means

STOCK, PRIMARY = "stock", "selfreg"
# others after them
DATASETS = (
    *("hippocampus", "hippocampus_screen", "hippocampus_confirmation"),
    *("acdc", "acdc_10", "glas224", "hippocampus_3d"),
)
TITLES = {
    "hippocampus": "Hippocampus, 2d",
    "hippocampus_screen": "Hippocampus, 2d, 50 epochs of 50 steps",
    "hippocampus_seeds": "Hippocampus, 2d, 50 epochs of 50 steps, seeded",
    "hippocampus_confirmation": "Hippocampus, 2d, 50 epochs of 50 steps, fresh repetitions",
    "acdc": "ACDC, 2d",
    "acdc_10": "ACDC, 2d, 10 training patients",
    "glas224": "GlaS at 224 x 224, 2d",
    "monuseg224": "MoNuSeg at 224 x 224, 2d",
    "hippocampus_3d": "Hippocampus, 3d_fullres",
}
ARMS = (STOCK, PRIMARY, "scr", "ifd")
# the third chapter's: all arms of the screen are primary, and of its confirmation whole repetitions alone count
SCREEN, CONFIRMATION = "hippocampus_screen", "hippocampus_confirmation"
FOLDS = 5
MARGIN = 1.0  # points
KEY = ["dataset", "arm", *RUN]
BUDGET = ["epochs", "iterations", "training_cases"]

Run = tuple[int, int]  # repetition, fold


@dataclass(frozen=True)
class Dataset:
    """The scores of one data set.

    Attributes:
        name: As in the raw results.
        classes: In the order of the raw results.
        arms: The scores by arm, stock first: the frames that `comparison` reads.
        weights: `lambda_scr` and `lambda_ifd` by arm.
        added: The runs that were added to the registration when scores were known.
    """

    name: str
    classes: Sequence[str]
    arms: Mapping[str, pd.DataFrame]
    weights: Mapping[str, tuple[float, float]]
    added: frozenset[Run]

    def paired(self, arm: str) -> list[Run]:
        """The runs that stock and the arm both have, and that count by the registration."""
        runs = sorted(set(runs_of(self.arms[arm])) & set(runs_of(self.arms[STOCK])))
        if self.name == CONFIRMATION:
            sizes = Counter(repetition for repetition, _ in runs)
            runs = [run for run in runs if sizes[run[0]] == FOLDS]
        return runs

    def summary(self) -> dict[str, Any]:
        """Every number of the data set."""
        return {
            "classes": list(self.classes),
            "arms": {arm: self._spread(scores) for arm, scores in self.arms.items()},
            "comparisons": [
                {"name": name, "role": role, **self._compare(self.arms[arm], self.arms[STOCK], runs)}
                for name, role, arm, runs in self._compared()
                if runs
            ],
            "noise": self._noise(),
            "response": self._response(),
            "gains": self._gains(),
        }

    def _compared(self) -> Iterator[tuple[str, str, str, list[Run]]]:
        """The name, role, arm and runs of every comparison with stock."""
        for arm in self.arms:
            name, runs = f"{arm} - {STOCK}", self.paired(arm)
            if arm == PRIMARY:
                registered = self._registered()
                yield name, "primary", arm, registered
                if registered != runs:
                    yield f"{name}, added later", "replication", arm, [run for run in runs if run in self.added]
                    yield f"{name}, all", "exploratory", arm, runs if registered else []
            elif arm != STOCK:
                yield name, "primary" if self.name in (SCREEN, CONFIRMATION) else "exploratory", arm, runs

    def _registered(self) -> list[Run]:
        return [run for run in self.paired(PRIMARY) if run not in self.added]

    def _gains(self) -> list[float]:
        """SelfReg minus stock in every case of the primary comparison, sorted; none without its runs."""
        if PRIMARY not in self.arms or not self._registered():
            return []
        selfreg, stock = (
            by_case(of_runs(self.arms[arm], self._registered()), self.classes) for arm in (PRIMARY, STOCK)
        )
        return sorted(gain for gain in statistics.case_means((selfreg - stock).to_numpy()).tolist() if not isnan(gain))

    def _spread(self, scores: pd.DataFrame) -> dict[str, Any]:
        """Mean over cases, then classes, and its deviation over folds and over repetitions."""
        means = run_means(scores, self.classes)
        repetitions, folds = (means.index.unique(name) for name in RUN)
        # repetitions are compared on the folds that all of them have
        shared = [fold for fold in folds if all((repetition, fold) in means.index for repetition in repetitions)]
        of_shared = scores[scores["fold"].isin(shared)]
        over_folds = means.groupby("fold").agg(statistics.exact_mean)
        over_repetitions = pd.DataFrame(
            [self._means(part) for _, part in of_shared.groupby("repetition")], columns=means.columns
        )
        dice = {
            name: {
                "mean": mean,
                "sd_folds": statistics.spread(over_folds[name].tolist())["sd"],
                "sd_repetitions": statistics.spread(over_repetitions[name].tolist())["sd"],
            }
            for name, mean in self._means(scores).items()
        }
        each = [{**dict(zip(RUN, run, strict=True)), "dice": dice} for run, dice in means[MEAN].items()]
        return {"runs": list(means.index), "dice": dice, "each_run": each}

    def _means(self, scores: pd.DataFrame) -> dict[str, float]:
        """The mean over cases of every class, and of them all."""
        cases = by_case(scores, self.classes)
        by_class = {name: statistics.exact_mean(cases[name]) for name in self.classes}
        return {MEAN: statistics.exact_mean(by_class.values())} | by_class

    def _compare(self, mine: pd.DataFrame, other: pd.DataFrame, runs: Iterable[Run]) -> dict[str, Any]:
        """Differences over cases with their interval, of every run, and over folds."""
        found = compare(of_runs(mine, runs), of_runs(other, runs), self.classes, MARGIN)
        folds = {name: {str(fold): gain for fold, gain in gains.items()} for name, gains in found.by_fold.items()}
        by_run = found.by_run.to_dict("index")
        return {
            "classes": found.over_cases.to_dict("index"),
            "over_folds": {
                name: spread | {"folds": folds[name]} for name, spread in found.over_folds.to_dict("index").items()
            },
            "runs": [{**dict(zip(RUN, run, strict=True)), "difference": gains} for run, gains in by_run.items()],
        }

    def _noise(self) -> list[dict[str, Any]]:
        """Stock against itself: what two runs of the same training differ by."""
        parts = {
            number: scores.assign(repetition=0) for number, scores in self.arms[STOCK].groupby(self.arms[STOCK][RUN[0]])
        }
        found = []
        for first, second in combinations(parts, 2):
            if runs := set(runs_of(parts[first])) & set(runs_of(parts[second])):
                name = f"{STOCK} - {STOCK}, repetition {second} - {first}"
                compared = self._compare(parts[second], parts[first], runs)
                found.append({"name": name, "role": "noise", "repetitions": [first, second], **compared})
        return found

    def _response(self) -> dict[str, Any] | None:
        """Both terms at each weight, and each term alone, all on the runs that these arms share."""
        arms = [arm for arm in self.arms if arm in ("scr", "ifd") or _is_weight(arm)]
        runs = sorted(set(runs_of(self.arms[STOCK])).intersection(*(runs_of(self.arms[arm]) for arm in arms)))
        if len(arms) < 2 or not runs:
            return None
        found = {}
        for arm in arms:
            weights = dict(zip(("lambda_scr", "lambda_ifd"), self.weights[arm], strict=True))
            compared = self._compare(self.arms[arm], self.arms[STOCK], runs)
            each = [run["difference"][MEAN] for run in compared["runs"]]
            found[arm] = {**weights, **compared["classes"][MEAN], "each_run": each}
        return {"runs": runs, "arms": found}


def runs_of(scores: pd.DataFrame) -> list[Run]:
    """The runs in a frame."""
    return list(scores[RUN].drop_duplicates().itertuples(index=False, name=None))


def of_runs(scores: pd.DataFrame, runs: Iterable[Run]) -> pd.DataFrame:
    """The scores of some runs."""
    return scores[scores.set_index(RUN).index.isin(list(runs))]


def primary(summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """SelfReg's primary comparison in a data set's summary; None if it has no runs of both arms."""
    name = f"{PRIMARY} - {STOCK}"
    return next((compared for compared in summary["comparisons"] if compared["name"] == name), None)


def cost(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Seconds of every arm's runs, and over those of the same runs of stock."""
    stock = runs[runs["arm"] == STOCK].set_index(["dataset", *RUN])["seconds"]
    found = []
    for (name, arm), rows in _in_order(runs):
        seconds = rows.set_index(["dataset", *RUN])["seconds"]
        ratios = (seconds / stock).dropna()
        found.append(
            {
                "dataset": name,
                "arm": arm,
                "runs": len(rows),
                **{column: sorted(set(rows[column].astype(int).tolist())) for column in BUDGET},
                "seconds": _median_and_range(seconds),
                "hours": fsum(seconds) / 3600,
                "over_stock": None if arm == STOCK or ratios.empty else _median_and_range(ratios),
            }
        )
    return found


def last_epochs(curves: pd.DataFrame, runs: pd.DataFrame) -> list[dict[str, Any]]:
    """How far the trainings of every arm came: means over its runs, in their last epoch.

    Losses are nnU-Net's own: the weighted terms of SelfReg are taken off the training loss, which is NaN for terms
    other than SCR and IFD. The rise is that of the pseudo Dice over the epoch before, in points.
    """
    table = curves.sort_values("epoch").merge(runs[[*KEY, "lambda_scr", "lambda_ifd"]], on=KEY)
    terms = table["lambda_scr"] * table["scr"].fillna(0) + table["lambda_ifd"] * table["ifd"].fillna(0)
    terms = terms.mask(table["share"].notna() & table[["scr", "ifd"]].isna().all(axis=1))  # terms that are not logged
    table = table.assign(train_loss=table["train_loss"] - terms, pseudo_dice=100 * table["pseudo_dice"])
    table["rise"] = table.groupby(KEY)["pseudo_dice"].diff()
    found = []
    for (name, arm), rows in _in_order(table.groupby(KEY).tail(1)):
        means = rows[["pseudo_dice", "rise", "train_loss", "val_loss"]].agg(statistics.exact_mean)
        found.append({"dataset": name, "arm": arm, "runs": len(rows), **means.to_dict()})
    return found


def learning_curves(datasets: Sequence[Dataset], curves: pd.DataFrame) -> dict[str, Any]:
    """Means and deviations over runs in every epoch, by data set: of the primary pair, on the runs that both have."""
    found = {}
    for part in datasets:
        runs = part.paired(PRIMARY) if PRIMARY in part.arms else []
        if runs:
            rows = of_runs(curves[curves["dataset"] == part.name], runs)
            dice, share = (
                100 * rows.pivot(index="epoch", columns=["arm", *RUN], values=name) for name in ("pseudo_dice", "share")
            )
            found[part.name] = {
                "runs": len(runs),
                "epochs": dice.index.tolist(),
                STOCK: _band(dice[STOCK]),
                PRIMARY: _band(dice[PRIMARY]),
                "gain": _band(dice[PRIMARY] - dice[STOCK]),
                "share": _band(share[PRIMARY]),
            }
    return found


def place(order: Sequence[str]) -> Any:
    """A sorting key: names in this order, others after them by name."""
    return lambda name: (order.index(name) if name in order else len(order), name)


def rounded(content: Any) -> Any:
    """Six significant digits; NaN becomes None, which JSON knows."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [rounded(value) for value in content]
    if isinstance(content, float):
        return None if isnan(content) else float(f"{content:.6g}")
    return content


def _in_order(table: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """The rows of each data set and arm."""
    dataset, arm = place(DATASETS), place(ARMS)
    return sorted(table.groupby(["dataset", "arm"]), key=lambda group: (dataset(group[0][0]), arm(group[0][1])))


def _band(by_run: pd.DataFrame) -> dict[str, list[float]]:
    spreads = [statistics.spread(values) for values in by_run.to_numpy().tolist()]
    return {name: [spread[name] for spread in spreads] for name in ("mean", "sd")}


def _median_and_range(values: pd.Series) -> dict[str, float]:
    return {"median": float(values.median()), "low": float(values.min()), "high": float(values.max())}


def _is_weight(arm: str) -> bool:
    """Whether an arm is SelfReg at some weight (`selfreg_0.1`), and not another variant."""
    return arm == PRIMARY or arm.removeprefix(f"{PRIMARY}_").replace(".", "", 1).isdecimal()
