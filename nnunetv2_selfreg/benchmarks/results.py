"""Reads a folder of scored runs: who is compared with whom, on which runs, and with what result."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from nnunetv2_selfreg.benchmarks.metrics import METRICS
from nnunetv2_selfreg.benchmarks.protocol import TEST_SET, Protocol, PublishedRow
from nnunetv2_selfreg.benchmarks.registry import PROTOCOLS
from nnunetv2_selfreg.benchmarks.run_files import read_runs
from nnunetv2_selfreg.comparison import MEAN, RUN, check_same_cases, compare, run_means, spreads
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.names import base_name

NUMBERS = (
    "benchmark protocol rule metric unit kind name class value sd runs low high p better worse cases clusters "
    "low_over_folds high_over_folds not_counted incomplete source caveat"
).split()
SCORED, PUBLISHED, DIFFERENCE = "scored", "published", "difference"  # kinds of rows
_ADDED = {"teacher": None, "every": 1, "scr_channels": "drawn"}  # settings that older files do not name
WHOLE = dict.fromkeys("runs better worse cases clusters not_counted".split(), "Int64")  # also where some are missing


@dataclass(frozen=True)
class Arm:
    """The runs of one trainer, plans and configuration: one row of a table."""

    trainer: str
    plans: str
    configuration: str
    sidecars: Mapping[str, Mapping[str, Any]]  # what the JSON files say, by run: fold 0, fold 0 seed 1, ensemble
    scores: pd.DataFrame  # what comparison reads, in the metrics' units, with run, rule and metric
    folds: int | None  # that the protocol scores, each alone

    @property
    def name(self) -> str:
        """Trainer, configuration and plans."""
        return ", ".join(filter(None, (self.trainer, self.configuration, self.plans)))

    @property
    def stock(self) -> str | None:
        """The trainer that its trainer adds SelfReg to; None for a trainer without SelfReg, and without a model."""
        if not self.plans:
            return None
        named = next((sidecar["stock"] for sidecar in self.sidecars.values() if "stock" in sidecar), None)
        return named or base_name(self.trainer)  # older files name none: their trainers are composed by name

    @property
    def network(self) -> set[tuple[str, str]]:
        """What two arms must share to be compared; plans may differ in name and in SelfReg's settings."""
        return {(self.configuration, sidecar.get("network", self.plans)) for sidecar in self.sidecars.values()}

    @property
    def epochs(self) -> list[str]:
        """The different numbers of epochs of its trainings."""
        return self.epochs_of(self.sidecars)

    def epochs_of(self, runs: Iterable[str]) -> list[str]:
        """The different numbers of epochs of some runs' trainings."""
        counts = {count for run in runs for count in self.sidecars[run]["epochs"].values()}
        return [str(count) for count in sorted(filter(None, counts))] + ["unknown"] * (None in counts)

    @property
    def incomplete(self) -> list[str]:
        """In what its runs fall short of the protocol."""
        lines = list(dict.fromkeys(line for sidecar in self.sidecars.values() for line in sidecar["incomplete"]))
        # an ensemble, or a model of all cases, is none of the protocol's folds
        folds = {sidecar["fold"] for sidecar in self.sidecars.values() if sidecar["fold"].isdecimal()}
        few = self.folds and 0 < len(folds) < self.folds
        return lines + ([f"{len(folds)} of {self.folds} folds"] if few else [])

    @property
    def missing(self) -> list[str]:
        """The test cases that some of its runs lack."""
        parts = [run["missing"].get(part, []) for run in self.sidecars.values() for part in ("test", "predictions")]
        return list(dict.fromkeys(name for names in parts for name in names))

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
    def incomplete(self) -> list[str]:
        """Everything for which the difference must be read with care."""
        lines = list(dict.fromkeys(self.selfreg.incomplete + self.stock.incomplete))
        arms = (self.selfreg, self.stock)
        for run in self.runs:
            mine, other = (arm.sidecars[run]["epochs"] for arm in arms)
            if mine.keys() != other.keys():
                folds = [", ".join(sorted(epochs)) for epochs in (mine, other)]
                lines.append(f"folds differ: {folds[0]} with SelfReg, {folds[1]} without")
            elif mine != other:
                counts = [", ".join(arm.epochs_of([run])) for arm in arms]
                lines.append(f"epochs differ: {counts[0]} with SelfReg, {counts[1]} without")
        lines = list(dict.fromkeys(lines))
        if len(set(Counter(self.stock.sidecars[run]["fold"] for run in self.runs).values())) > 1:
            lines.append(
                "some folds were trained more often: the difference is over trainings, its interval over folds"
            )
        if not len(self.runs) == len(self.selfreg.sidecars) == len(self.stock.sidecars):
            lines.append(f"compared on {', '.join(self.runs)} alone")
        return lines


@dataclass(frozen=True)
class Section:
    """Everything of one benchmark and protocol, which is all that may stand in one table."""

    benchmark: str  # a key of PROTOCOLS
    protocol: str  # how the test set was predicted
    arms: Sequence[Arm]  # stock first

    @property
    def definition(self) -> Protocol:
        """The benchmark's protocol, with the published numbers that are scored on the same reference masks."""
        protocol = PROTOCOLS[self.benchmark]
        return protocol if protocol.published_on in (None, self.masks) else replace(protocol, published=())

    @property
    def masks(self) -> str | None:
        """The reference masks, if they have a table of their own."""
        return next(sidecar.get("masks") for arm in self.arms for sidecar in arm.sidecars.values())

    @property
    def pairs(self) -> list[Pair]:
        """Every SelfReg arm whose own stock arm is here, with the same network and a run in common."""
        related = (
            Pair(arm, other)
            for arm in self.arms
            for other in self.arms
            if other.trainer == arm.stock and other.network == arm.network
        )
        return [pair for pair in related if pair.runs]

    @property
    def unpaired(self) -> dict[str, str]:
        """Why there is no difference for an arm that a reader may look for one, by its name."""
        paired = [pair.selfreg.name for pair in self.pairs]
        reasons = {
            arm.name: f"no {arm.stock} of the same data set, network and runs is here to compare it with"
            if arm.plans
            else "it was scored without --model, so it is not known what to compare it with"
            for arm in self.arms
            if not arm.plans or arm.stock
        }
        return {name: reason for name, reason in reasons.items() if name not in paired}

    @property
    def elsewhere(self) -> list[PublishedRow]:
        """Published numbers of the same data under another protocol."""
        return [row for row in self.definition.published if row.protocol != TEST_SET]

    def published(self, rule: str, metric: str) -> list[PublishedRow]:
        """The published numbers of the same test set, rule and metric."""
        rows = self.definition.published
        return [row for row in rows if (row.rule, row.metric, row.protocol) == (rule, metric, TEST_SET)]

    def numbers(self) -> pd.DataFrame:
        """`NUMBERS`, for every rule and metric: what was scored, what was published, and differences; by class."""
        parts = [
            found.rename_axis("class").reset_index().assign(rule=rule, metric=metric, unit=METRICS[metric].unit, **more)
            for rule, metrics in self.definition.metrics.items()
            for metric in metrics
            for found, more in self._found(rule, metric)
        ]
        table = pd.DataFrame([row for part in parts for row in part.to_dict("records")])
        table = table.assign(benchmark=self.benchmark, protocol=self.protocol).rename(columns={"mean": "value"})
        return table.reindex(columns=NUMBERS).astype(WHOLE)

    def _found(self, rule: str, metric: str) -> Iterator[tuple[pd.DataFrame, dict[str, Any]]]:
        """The numbers of each row by class, and what its numbers share."""
        classes, definition = self.definition.classes, METRICS[metric]
        for arm in self.arms:
            scores = arm.of(rule, metric)
            found = spreads(run_means(scores, classes))[["mean", "sd"]]
            found["not_counted"] = scores["value"].isna().groupby(scores["class"]).sum()
            found.loc[MEAN, "not_counted"] = scores["value"].isna().sum()
            yield found, {"kind": SCORED, **_named(arm, list(arm.sidecars))}
        for row in self.published(rule, metric):
            more = {"kind": PUBLISHED, "name": row.method, "source": row.source, "caveat": row.caveat}
            yield pd.DataFrame({"mean": row.values}), more
        for pair in self.pairs:
            mine, other = (arm.of(rule, metric, pair.runs) for arm in (pair.selfreg, pair.stock))
            compared = compare(mine, other, classes, definition.margin, definition.higher_is_better)
            found = compared.over_cases.drop(columns=["mine", "other"])
            over_folds = compared.over_folds[["low", "high"]].add_suffix("_over_folds")
            yield found.join(over_folds), {"kind": DIFFERENCE, **_named(pair, pair.runs)}


def read_results(folder: Path) -> list[Section]:
    """Reads every run of a folder that `leaderboard score` wrote to.

    Raises:
        SelfRegError: There is no run, a file is not one or not as it was written, two are of the same run, or runs of
            one table differ in their cases.
    """
    runs = read_runs(folder)
    table = pd.concat([_labelled(path, frame) for path, (frame, _) in runs.items()], ignore_index=True)
    table["value"] *= table["metric"].map({name: metric.scale for name, metric in METRICS.items()})
    table["benchmark"] = pd.Categorical(table["benchmark"], list(PROTOCOLS))
    groups = table.groupby(["benchmark", "protocol"], observed=True)
    sidecars = {path: description for path, (_, description) in runs.items()}
    sections = [
        Section(name, protocol, _arms(rows, sidecars, PROTOCOLS[name].folds)) for (name, protocol), rows in groups
    ]
    for pair in (pair for section in sections for pair in section.pairs):
        check_same_cases(pair.runs[0], {arm.name: arm.cases(pair.runs[0]) for arm in (pair.selfreg, pair.stock)})
    return sections


def _named(row: Arm | Pair, runs: Sequence[str]) -> dict[str, Any]:
    return {"name": row.name, "runs": len(runs), "incomplete": "; ".join(row.incomplete)}


def _labelled(path: Path, scores: pd.DataFrame) -> pd.DataFrame:
    """A run's scores with its name among the runs of its trainer."""
    first = scores.iloc[0]
    fold = f"fold {first['fold']}" if first["fold"].isdecimal() else first["fold"]
    run = f"{fold} seed {first['seed']}" if first["seed"] else fold
    return scores.rename(columns={"seed": "repetition"}).assign(run=run, path=path)


def _unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> str:
    """In what two runs of an arm were trained otherwise, as far as their files tell; empty if in nothing."""
    if None not in (mine := first.get("network"), other := second.get("network")) and mine != other:
        return "networks"
    settings = [_ADDED | run["selfreg"] if run.get("selfreg") else None for run in (first, second)]
    return "SelfReg settings" if settings[0] != settings[1] else ""


def _arms(table: pd.DataFrame, described: Mapping[Path, Mapping[str, Any]], folds: int | None) -> list[Arm]:
    arms = []
    for (trainer, plans, configuration), rows in table.groupby(["trainer", "plans", "configuration"], sort=False):
        sidecars = {}
        for run, paths in rows.groupby("run", sort=False)["path"].unique().items():
            if len(paths) > 1:
                first, second = paths[:2]
                raise SelfRegError(f"{second} and {first.name} are both {run} of {trainer}; remove one")
            sidecars[run] = described[paths[0]]
            first, *_ = sidecars
            if unlike := _unlike(sidecars[first], sidecars[run]):
                raise SelfRegError(
                    f"{first} and {run} of {trainer}, {plans} were not trained alike: other {unlike}; give each plans "
                    "of its own name"
                )
        columns = [*RUN, "run", "rule", "metric", "case", "cluster", "class", "value"]
        arm = Arm(trainer, plans, configuration, sidecars, rows[columns], folds)
        first, *others = sidecars
        for other in others:
            check_same_cases(arm.trainer, {first: arm.cases(first), other: arm.cases(other)})
        arms.append(arm)
    return sorted(arms, key=lambda arm: (arm.configuration, arm.stock is not None, arm.name))
