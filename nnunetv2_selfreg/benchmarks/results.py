"""Reads a folder of scored runs: who is compared with whom, on which runs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from nnunetv2_selfreg.benchmarks.comparison import RUN, check_same_cases
from nnunetv2_selfreg.benchmarks.metrics import METRICS
from nnunetv2_selfreg.benchmarks.protocol import TEST_SET, Protocol, PublishedRow
from nnunetv2_selfreg.benchmarks.registry import PROTOCOLS
from nnunetv2_selfreg.benchmarks.score import COLUMNS
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import read_json
from nnunetv2_selfreg.names import stock_name

ARM = ["trainer", "plans", "configuration"]


@dataclass(frozen=True)
class Arm:
    """The runs of one trainer, plans and configuration: one row of a table.

    Attributes:
        trainer: Its name.
        plans: Identifier of the plans.
        configuration: nnU-Net's configuration.
        sidecars: What the runs' JSON files say, by run (`fold 0`, `fold 0 seed 1`, `ensemble`).
        scores: The frame that `comparison` reads, in the units that the metrics are shown in, with `run`, `rule` and
            `metric`.
        folds: How many folds its protocol scores, each alone; None where it does not say.
    """

    trainer: str
    plans: str
    configuration: str
    sidecars: Mapping[str, Mapping[str, Any]]
    scores: pd.DataFrame
    folds: int | None = None

    @property
    def name(self) -> str:
        """Trainer, configuration and plans."""
        return ", ".join(filter(None, (self.trainer, self.configuration, self.plans)))

    @property
    def stock(self) -> str | None:
        """The stock trainer that its trainer is made of; None for a stock trainer."""
        # runs that were scored before their files named it are of trainers that are composed by name
        return next((sidecar["stock"] for sidecar in self.sidecars.values() if "stock" in sidecar), None) or stock_name(
            self.trainer
        )

    @property
    def incomplete(self) -> list[str]:
        """In what its runs fall short of the protocol."""
        lines = list(dict.fromkeys(line for sidecar in self.sidecars.values() for line in sidecar["incomplete"]))
        folds = {sidecar["fold"] for sidecar in self.sidecars.values()}
        return lines + ([f"{len(folds)} of {self.folds} folds"] if self.folds and len(folds) < self.folds else [])

    @property
    def network(self) -> set[tuple[str, str]]:
        """What two arms must share to be compared; plans may differ in name and in SelfReg's settings."""
        return {(self.configuration, sidecar.get("network", self.plans)) for sidecar in self.sidecars.values()}

    def of(self, rule: str, metric: str, runs: Iterable[str] | None = None) -> pd.DataFrame:
        """The scores of one rule and metric, of some runs or of all."""
        chosen = self.scores[(self.scores["rule"] == rule) & (self.scores["metric"] == metric)]
        return chosen if runs is None else chosen[chosen["run"].isin(list(runs))]

    def cases(self, run: str) -> list[str]:
        """The cases of a run."""
        return self.scores.loc[self.scores["run"] == run, "case"].unique().tolist()


@dataclass(frozen=True)
class Pair:
    """A SelfReg arm and the stock arm that differs from it in SelfReg alone."""

    selfreg: Arm
    stock: Arm

    @property
    def name(self) -> str:
        """Both trainers, and the plans that they share, or each its own."""
        if self.selfreg.plans != self.stock.plans:
            return f"{self.selfreg.name} - {self.stock.name}"
        trainers = f"{self.selfreg.trainer} - {self.stock.trainer}"
        return ", ".join(filter(None, (trainers, self.selfreg.configuration, self.selfreg.plans)))

    @property
    def runs(self) -> list[str]:
        """The runs that both have."""
        return [run for run in self.selfreg.sidecars if run in self.stock.sidecars]

    @property
    def is_comparable(self) -> bool:
        """Whether the stock arm is the SelfReg arm's own, with the same network and a run in common."""
        related = self.stock.trainer == self.selfreg.stock and self.stock.network == self.selfreg.network
        return related and bool(self.runs)

    @property
    def incomplete(self) -> list[str]:
        """Everything for which the difference must be read with care."""
        lines = list(dict.fromkeys(self.selfreg.incomplete + self.stock.incomplete))
        mine, other = (epochs(arm.sidecars.values()) for arm in (self.selfreg, self.stock))
        if mine != other:
            lines.append(f"epochs differ: {', '.join(mine)} with SelfReg, {', '.join(other)} without")
        if not len(self.runs) == len(self.selfreg.sidecars) == len(self.stock.sidecars):
            lines.append(f"compared on {', '.join(self.runs)} alone")
        return lines


@dataclass(frozen=True)
class Section:
    """Everything of one benchmark and protocol, which is all that may stand in one table.

    Attributes:
        benchmark: A key of `PROTOCOLS`.
        protocol: How the test set was predicted.
        arms: The rows, stock first.
    """

    benchmark: str
    protocol: str
    arms: Sequence[Arm]

    @property
    def definition(self) -> Protocol:
        """The benchmark's protocol."""
        return PROTOCOLS[self.benchmark]

    @property
    def pairs(self) -> list[Pair]:
        """Every SelfReg arm that has its stock arm here."""
        pairs = (Pair(arm, other) for arm in self.arms for other in self.arms)
        return [pair for pair in pairs if pair.is_comparable]

    @property
    def elsewhere(self) -> list[PublishedRow]:
        """Published numbers of the same data under another protocol."""
        return [row for row in self.definition.published if row.protocol != TEST_SET]

    def published(self, rule: str, metric: str) -> list[PublishedRow]:
        """The published numbers of the same test set, rule and metric."""
        rows = self.definition.published
        return [row for row in rows if (row.rule, row.metric, row.protocol) == (rule, metric, TEST_SET)]


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
    table = pd.concat(map(_read, files), ignore_index=True)
    table["value"] *= table["metric"].map({name: metric.scale for name, metric in METRICS.items()})
    order = {name: number for number, name in enumerate(PROTOCOLS)}
    groups = sorted(table.groupby(["benchmark", "protocol"]), key=lambda group: (order[group[0][0]], group[0][1]))
    sections = [Section(name, protocol, _arms(rows, PROTOCOLS[name].folds)) for (name, protocol), rows in groups]
    for pair in (pair for section in sections for pair in section.pairs):
        check_same_cases(pair.runs[0], {arm.name: arm.cases(pair.runs[0]) for arm in (pair.selfreg, pair.stock)})
    return sections


def epochs(sidecars: Iterable[Mapping[str, Any]]) -> list[str]:
    """The different numbers of epochs of the runs' trainings."""
    counts = {count for sidecar in sidecars for count in sidecar["epochs"].values()}
    return [str(count) for count in sorted(filter(None, counts))] + ["unknown"] * (None in counts)


def _read(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(
            path, dtype=dict.fromkeys(COLUMNS[:-1], str), keep_default_na=False, na_values={"value": ""}
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise SelfRegError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None
    if list(frame.columns) != COLUMNS or frame.empty or frame["value"].dtype.kind not in "fi":
        raise SelfRegError(f"{path} is not what leaderboard score writes; move it out of the folder")
    first = frame.iloc[0]
    if first["benchmark"] not in PROTOCOLS:
        raise SelfRegError(f"{path} is of the unknown benchmark {first['benchmark']}")
    if not path.with_suffix(".json").is_file():
        raise SelfRegError(f"{path} has no {path.with_suffix('.json').name} beside it; score it again")
    fold = f"fold {first['fold']}" if first["fold"].isdecimal() else first["fold"]
    run = f"{fold} seed {first['seed']}" if first["seed"] else fold
    return frame.rename(columns={"seed": "repetition"}).assign(run=run, path=path)


def _arms(table: pd.DataFrame, folds: int | None) -> list[Arm]:
    arms = []
    for (trainer, plans, configuration), rows in table.groupby(ARM, sort=False):
        sidecars = {}
        for run, paths in rows.groupby("run", sort=False)["path"].unique().items():
            if len(paths) > 1:
                first, second = paths[:2]
                raise SelfRegError(f"{second} and {first.name} are both {run} of {trainer}; remove one")
            sidecars[run] = read_json(paths[0].with_suffix(".json"), "description of a run")
        columns = [*RUN, "run", "rule", "metric", "case", "cluster", "class", "value"]
        arm = Arm(trainer, plans, configuration, sidecars, rows[columns], folds)
        first, *others = sidecars
        for other in others:
            check_same_cases(arm.trainer, {first: arm.cases(first), other: arm.cases(other)})
        arms.append(arm)
    return sorted(arms, key=lambda arm: (arm.configuration, arm.stock is not None, arm.name))
