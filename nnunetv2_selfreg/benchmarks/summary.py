"""Every number of the table, as one frame."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from nnunetv2_selfreg.benchmarks.comparison import MEAN, compare, run_means, spreads
from nnunetv2_selfreg.benchmarks.metrics import METRICS
from nnunetv2_selfreg.benchmarks.results import Section

COLUMNS = (
    "benchmark protocol rule metric unit kind name class value sd runs low high p better worse cases clusters "
    "not_counted incomplete source caveat"
).split()
SCORED, PUBLISHED, DIFFERENCE = "scored", "published", "difference"  # kinds of rows
WHOLE = dict.fromkeys("runs better worse cases clusters not_counted".split(), "Int64")  # also where some are missing


def summarise(section: Section) -> pd.DataFrame:
    """Computes the numbers of a section.

    Returns:
        `COLUMNS`; for every rule and metric the rows that were scored, then those that were published, then the
        differences, each by class.
    """
    start = {"benchmark": section.benchmark, "protocol": section.protocol}
    rows = [
        {**start, "rule": rule, "metric": metric, "unit": METRICS[metric].unit, **row}
        for rule, metrics in section.definition.metrics.items()
        for metric in metrics
        for row in _rows(section, rule, metric)
    ]
    return pd.DataFrame(rows).rename(columns={"mean": "value"}).reindex(columns=COLUMNS).astype(WHOLE)


def _rows(section: Section, rule: str, metric: str) -> Iterator[dict[Any, Any]]:
    classes, definition = section.definition.classes, METRICS[metric]
    for arm in section.arms:
        scores = arm.of(rule, metric)
        found = spreads(run_means(scores, classes))[["mean", "sd"]]
        found["not_counted"] = scores["value"].isna().groupby(scores["class"]).sum()
        found.loc[MEAN, "not_counted"] = scores["value"].isna().sum()
        yield from _by_class(found, SCORED, arm.name, runs=len(arm.sidecars), incomplete="; ".join(arm.incomplete))
    for row in section.published(rule, metric):
        found = pd.DataFrame({"mean": row.values})
        yield from _by_class(found, PUBLISHED, row.method, source=row.source, caveat=row.caveat)
    for pair in section.pairs:
        selfreg, stock = (arm.of(rule, metric, pair.runs) for arm in (pair.selfreg, pair.stock))
        found = compare(selfreg, stock, classes, definition.margin, definition.higher_is_better).over_cases
        found = found.drop(columns=["mine", "other"])
        yield from _by_class(found, DIFFERENCE, pair.name, runs=len(pair.runs), incomplete="; ".join(pair.incomplete))


def _by_class(found: pd.DataFrame, kind: str, name: str, **more: Any) -> list[dict[Any, Any]]:
    return found.rename_axis("class").reset_index().assign(kind=kind, name=name, **more).to_dict("records")
