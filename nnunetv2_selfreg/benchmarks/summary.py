"""Every number of the table: one frame for each rule and metric of a section, and the contents of `table.json`."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from nnunetv2_selfreg.benchmarks.comparison import by_case, compare, run_means, spreads
from nnunetv2_selfreg.benchmarks.metrics import METRICS, Metric
from nnunetv2_selfreg.benchmarks.protocol import TEST_SET, PublishedRow
from nnunetv2_selfreg.benchmarks.results import Section

COLUMNS = (
    "benchmark protocol rule metric unit kind name class value sd runs low high p better worse cases incomplete source "
    "caveat"
).split()
SCORED, PUBLISHED, DIFFERENCE = "scored", "published", "difference"  # kinds of rows
COUNTS = dict.fromkeys(("runs", "better", "worse", "cases"), "Int64")  # whole numbers, also where some are missing


@dataclass(frozen=True)
class Measure:
    """The numbers of one rule and metric.

    Attributes:
        section: The runs.
        rule: A key of `RULES`.
        metric: A key of `METRICS`.
        rows: One row for each class of what was scored, was published, and is compared: `COLUMNS` and `clusters`.
        gains: SelfReg minus stock by the pair's name (cases x classes).
        not_counted: How many scores of a class in a case the rule does not count.
    """

    section: Section
    rule: str
    metric: str
    rows: pd.DataFrame
    gains: dict[str, pd.DataFrame]
    not_counted: int

    @property
    def definition(self) -> Metric:
        """How the metric is shown and compared."""
        return METRICS[self.metric]

    @property
    def published(self) -> list[PublishedRow]:
        """The published numbers of the same test set."""
        return [row for row in self.section.definition.published if _place(row) == (self.rule, self.metric, TEST_SET)]

    def of(self, kind: str, name: str | None = None) -> pd.DataFrame:
        """The rows of one kind, and of one name."""
        chosen = self.rows[self.rows["kind"] == kind]
        return chosen if name is None else chosen[chosen["name"] == name]

    @property
    def content(self) -> dict[str, Any]:
        """What `table.json` holds of it."""
        spread, difference = ["mean", "sd"], ["mean", "low", "high", "p", "better", "worse", "cases", "clusters"]
        return {
            "rule": self.rule,
            "metric": self.metric,
            "unit": self.definition.unit,
            "rows": [
                {
                    "name": arm.name,
                    "runs": len(arm.sidecars),
                    "incomplete": arm.incomplete,
                    "values": _by_class(self.of(SCORED, arm.name), spread),
                }
                for arm in self.section.arms
            ],
            "published": list(map(asdict, self.published)),
            "differences": [
                {
                    "name": pair.name,
                    "selfreg": pair.selfreg.name,
                    "stock": pair.stock.name,
                    "runs": pair.runs,
                    "incomplete": pair.incomplete,
                    "classes": _by_class(self.of(DIFFERENCE, pair.name), difference),
                }
                for pair in self.section.pairs
            ],
            "not_counted": self.not_counted,
        }


def measures(section: Section) -> list[Measure]:
    """Computes every rule and metric of a section."""
    metrics = section.definition.metrics
    return [_measure(section, rule, metric) for rule, names in metrics.items() for metric in names]


def table_csv(parts: Sequence[Measure]) -> str:
    """`table.csv`."""
    table = pd.concat([part.rows for part in parts], ignore_index=True)[COLUMNS]
    return table.to_csv(index=False, lineterminator="\n")


def table_json(section: Section, parts: Sequence[Measure]) -> dict[str, Any]:
    """What `table.json` holds of a section."""
    return {
        "benchmark": section.benchmark,
        "title": section.definition.title,
        "protocol": section.protocol,
        "arms": [
            {
                "name": arm.name,
                "trainer": arm.trainer,
                "plans": arm.plans,
                "configuration": arm.configuration,
                "incomplete": arm.incomplete,
                "runs": dict(arm.sidecars),
            }
            for arm in section.arms
        ],
        "measures": [part.content for part in parts],
        "elsewhere": list(map(asdict, elsewhere(section))),
    }


def elsewhere(section: Section) -> list[PublishedRow]:
    """Published numbers of the same data under another protocol."""
    return [row for row in section.definition.published if row.protocol != TEST_SET]


def _measure(section: Section, rule: str, metric: str) -> Measure:
    definition, classes = METRICS[metric], section.definition.classes
    rows: list[dict[Any, Any]] = []
    gains: dict[str, pd.DataFrame] = {}
    not_counted = 0
    for arm in section.arms:
        scores = arm.of(rule, metric)
        not_counted += int(scores["value"].isna().sum())
        found = spreads(run_means(scores, classes))[["mean", "sd"]]
        named = {"name": arm.name, "runs": len(arm.sidecars), "incomplete": "; ".join(arm.incomplete)}
        rows += _records(found, kind=SCORED, **named)
    part = Measure(section, rule, metric, pd.DataFrame(), gains, not_counted)
    for row in part.published:
        found = pd.DataFrame({"mean": row.values})
        rows += _records(found, kind=PUBLISHED, name=row.method, source=row.source, caveat=row.caveat)
    for pair in section.pairs:
        sides = [arm.of(rule, metric, pair.runs) for arm in (pair.selfreg, pair.stock)]
        selfreg, stock = (by_case(side, classes) for side in sides)
        gains[pair.name] = selfreg - stock
        found = compare(sides[0], sides[1], classes, definition.margin, definition.higher_is_better).over_cases
        named = {"name": pair.name, "runs": len(pair.runs), "incomplete": "; ".join(pair.incomplete)}
        rows += _records(found, kind=DIFFERENCE, **named)
    start = {"benchmark": section.benchmark, "protocol": section.protocol, "rule": rule, "metric": metric}
    table = pd.DataFrame(rows).assign(**start, unit=definition.unit).rename(columns={"mean": "value"})
    table = table.reindex(columns=[*COLUMNS, "clusters"]).astype(COUNTS | {"clusters": "Int64"})
    return Measure(section, rule, metric, table, gains, not_counted)


def _records(by_class: pd.DataFrame, **named: Any) -> list[dict[Any, Any]]:
    return by_class.rename_axis("class").reset_index().assign(**named).to_dict("records")


def _by_class(rows: pd.DataFrame, columns: Sequence[str]) -> dict[str, Any]:
    """The rows as dictionaries; None, which JSON knows, in place of NaN."""
    values = rows.set_index("class").rename(columns={"value": "mean"})[list(columns)].astype(object)
    return values.where(values.notna(), None).to_dict("index")


def _place(row: PublishedRow) -> tuple[str, str, str]:
    return row.rule, row.metric, row.protocol
