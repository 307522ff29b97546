"""Reads a folder of scored runs into the numbers of the table."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import read_json
from nnunetv2_selfreg.leaderboard import statistics
from nnunetv2_selfreg.leaderboard.metrics import METRICS
from nnunetv2_selfreg.leaderboard.protocols import BENCHMARKS
from nnunetv2_selfreg.leaderboard.published import published
from nnunetv2_selfreg.leaderboard.scoring import COLUMNS
from nnunetv2_selfreg.names import stock_name

MEAN = "mean"
Runs = Mapping[str, pd.DataFrame]  # scores (cases x classes) by run, in the unit that the metric is shown in


@dataclass(frozen=True)
class Arm:
    """The runs of one trainer, plans and configuration: one row of a table.

    Attributes:
        trainer: Its name.
        plans: Identifier of the plans.
        configuration: nnU-Net's configuration.
        about: What the runs' JSON files say, by run (`fold 0`, `fold 0 seed 1`, `ensemble`).
        scores: By rule and metric, the runs' scores (cases x classes).
        clusters: The unit that each case belongs to.
        folds: How many folds its protocol scores, each alone; None where it does not say.
    """

    trainer: str
    plans: str
    configuration: str
    about: Mapping[str, Mapping[str, Any]]
    scores: Mapping[tuple[str, str], Runs]
    clusters: Mapping[str, str]
    folds: int | None = None

    @property
    def name(self) -> str:
        """Trainer, configuration and plans."""
        return ", ".join(filter(None, (self.trainer, self.configuration, self.plans)))

    @property
    def incomplete(self) -> list[str]:
        """In what its runs fall short of the protocol."""
        lines = list(dict.fromkeys(line for about in self.about.values() for line in about["incomplete"]))
        folds = {about["fold"] for about in self.about.values()}
        return lines + ([f"{len(folds)} of {self.folds} folds"] if self.folds and len(folds) < self.folds else [])

    def values(self, rule: str, metric: str, classes: Sequence[str]) -> dict[str, dict[str, float | None]]:
        """Mean and standard deviation over runs of every class and of their mean."""
        found = {}
        for name in (MEAN, *classes):
            columns = list(classes) if name == MEAN else [name]
            means = [statistics.mean(frame[columns].to_numpy()) for frame in self.scores[rule, metric].values()]
            mean, deviation = statistics.mean_and_sd(np.array(means))
            found[name] = {"mean": mean, "sd": deviation}
        return found


@dataclass(frozen=True)
class Pair:
    """A SelfReg arm and the stock arm that differs from it in SelfReg alone."""

    selfreg: Arm
    stock: Arm

    @property
    def name(self) -> str:
        """Both trainers, and the plans that they share, or each its own."""
        mine, its = self.selfreg, self.stock
        if mine.plans != its.plans:
            return f"{mine.name} - {its.name}"
        return ", ".join(filter(None, (f"{mine.trainer} - {its.trainer}", mine.configuration, mine.plans)))

    @property
    def runs(self) -> list[str]:
        """The runs that both have."""
        return [run for run in self.selfreg.about if run in self.stock.about]

    def per_case(self, rule: str, metric: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Both arms' scores (cases x classes), averaged over the runs that both have."""
        frames = []
        for arm in (self.selfreg, self.stock):
            runs = [arm.scores[rule, metric][run] for run in self.runs]
            scores = statistics.over_runs(np.stack([frame.to_numpy() for frame in runs]))
            frames.append(pd.DataFrame(scores, index=runs[0].index, columns=runs[0].columns))
        return frames[0], frames[1]

    def differences(self, rule: str, metric: str, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
        """SelfReg minus stock, of every class and of their mean."""
        selfreg, stock = self.per_case(rule, metric)
        clusters: NDArray[np.str_] = np.array([self.selfreg.clusters[case] for case in selfreg.index])
        about = METRICS[metric]
        found = {}
        for name in (MEAN, *classes):
            columns = list(classes) if name == MEAN else [name]
            mine, its = (frame[columns].to_numpy() for frame in (selfreg, stock))
            found[name] = asdict(statistics.difference(mine, its, clusters, about.margin, about.higher_is_better))
        return found


@dataclass(frozen=True)
class Section:
    """Everything of one benchmark and protocol, which is all that may stand in one table.

    Attributes:
        benchmark: One of `BENCHMARKS`.
        protocol: How the test set was predicted.
        arms: The rows, stock first.
    """

    benchmark: str
    protocol: str
    arms: Sequence[Arm]

    @property
    def pairs(self) -> list[Pair]:
        """Every SelfReg arm that has its stock arm here."""
        return [pair for arm in self.arms for pair in _pairs(arm, self.arms)]

    @property
    def measures(self) -> list[tuple[str, str]]:
        """Rule and metric of each of its tables."""
        return [(rule, metric) for rule, metrics in BENCHMARKS[self.benchmark].metrics.items() for metric in metrics]

    def published(self, rule: str, metric: str) -> list[dict[str, Any]]:
        """The published numbers of the same test set, rule and metric."""
        key = (self.benchmark, rule, metric, "test")
        return [row for row in published() if tuple(row[name] for name in _KEY) == key]

    def elsewhere(self) -> list[dict[str, Any]]:
        """Published numbers of the same data under another protocol."""
        return [row for row in published() if row["benchmark"] == self.benchmark and row["protocol"] != "test"]


_KEY = ("benchmark", "rule", "metric", "protocol")


def read_results(folder: Path) -> list[Section]:
    """Reads every run of a folder.

    Args:
        folder: What `leaderboard score` wrote to: a CSV and a JSON file per run.

    Raises:
        SelfRegError: There is no run, a file is not one, two are of the same run, or runs of one table differ in their
            cases.
    """
    files = sorted(path for path in folder.glob("*.csv") if path.name != "table.csv")
    if not files:
        raise SelfRegError(f"{folder} holds no scores; write them with nnUNetv2_selfreg leaderboard score")
    runs: dict[tuple[str, str], dict[tuple[str, str, str], dict[str, tuple[Path, pd.DataFrame]]]] = {}
    for path in files:
        frame = _read(path)
        first = frame.iloc[0]
        arms = runs.setdefault((first["benchmark"], first["protocol"]), {})
        arm = arms.setdefault((first["trainer"], first["plans"], first["configuration"]), {})
        run = _run(first["fold"], first["seed"])
        if run in arm:
            raise SelfRegError(f"{path} and {arm[run][0].name} are both {run} of {first['trainer']}; remove one")
        arm[run] = (path, frame)
    order = list(BENCHMARKS)
    keys = sorted(runs, key=lambda key: (order.index(key[0]), key[1]))
    return [Section(*key, _arms(runs[key], BENCHMARKS[key[0]].folds)) for key in keys]


def _read(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(
            path, dtype=dict.fromkeys(COLUMNS[:-1], str), keep_default_na=False, na_values={"value": ""}
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise SelfRegError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if list(frame.columns) != COLUMNS or frame.empty or frame["value"].dtype.kind not in "fi":
        raise SelfRegError(f"{path} is not what leaderboard score writes; move it out of the folder")
    if frame["benchmark"].iloc[0] not in BENCHMARKS:
        raise SelfRegError(f"{path} is of the unknown benchmark {frame['benchmark'].iloc[0]}")
    if not path.with_suffix(".json").is_file():
        raise SelfRegError(f"{path} has no {path.with_suffix('.json').name} beside it; score it again")
    return frame


def _run(fold: str, seed: str) -> str:
    return " ".join(filter(None, (f"fold {fold}" if fold.isdecimal() else fold, f"seed {seed}" if seed else "")))


def _arms(runs: Mapping[tuple[str, str, str], Mapping[str, tuple[Path, pd.DataFrame]]], folds: int | None) -> list[Arm]:
    arms = []
    for (trainer, plans, configuration), files in runs.items():
        about = {run: read_json(path.with_suffix(".json"), "description of a run") for run, (path, _) in files.items()}
        scores: dict[tuple[str, str], dict[str, pd.DataFrame]] = {}
        clusters: dict[str, str] = {}
        for run, (_, frame) in files.items():
            clusters |= dict(zip(frame["case"], frame["cluster"], strict=True))
            for (rule, metric), part in frame.groupby(["rule", "metric"]):
                table = part.pivot(index="case", columns="class", values="value") * METRICS[metric].scale
                scores.setdefault((rule, metric), {})[run] = table
        for by_run in scores.values():
            (first, *others) = by_run.items()
            for other in others:
                _check_same_cases(trainer, first, other)
        arms.append(Arm(trainer, plans, configuration, about, scores, clusters, folds))
    return sorted(arms, key=lambda arm: (arm.configuration, stock_name(arm.trainer) is not None, arm.name))


def _pairs(arm: Arm, arms: Sequence[Arm]) -> Iterator[Pair]:
    for other in arms:
        if other.trainer == stock_name(arm.trainer) and _network(other) == _network(arm):
            pair = Pair(arm, other)
            if pair.runs:
                for key in arm.scores:
                    run = pair.runs[0]
                    sides = [(side.name, side.scores[key][run]) for side in (arm, other)]
                    _check_same_cases(pair.runs[0], *sides)
                yield pair


def _network(arm: Arm) -> set[tuple[str, str]]:
    """What two arms must share to be compared; plans may differ in name and in SelfReg's settings."""
    return {(arm.configuration, about.get("network", arm.plans)) for about in arm.about.values()}


def _check_same_cases(what: str, first: tuple[str, pd.DataFrame], second: tuple[str, pd.DataFrame]) -> None:
    for (name, mine), (other, its) in ((first, second), (second, first)):
        if lacking := sorted(set(mine.index) - set(its.index)):
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            raise SelfRegError(
                f"{what}: {other} lacks {', '.join(lacking[:5])}{more}, which {name} has; score both on the same cases"
            )
