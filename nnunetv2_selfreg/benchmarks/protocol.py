"""What a benchmark's tables measure, on which cases, by which rule, and the published numbers to stand beside ours.

Everywhere a class's score is the mean over cases, and the mean score the mean over classes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnunetv2_selfreg.errors import SelfRegError

ENSEMBLE = "ensemble"
NATIVE, SMALL = "native size", "224 x 224"
TEST_SET = "test"


@dataclass(frozen=True)
class PublishedRow:
    """One published method's numbers in one metric.

    Attributes:
        method: Its name, as a table shows it.
        metric: A key of `METRICS`.
        rule: A key of `RULES`.
        protocol: `test`, or the name of another protocol, whose numbers belong into no table of the test set.
        values: By class and for `mean`, in the unit of the metric.
        source: Where the numbers stand.
        caveat: What must be known before they are compared with ours.
    """

    method: str
    metric: str
    rule: str
    protocol: str
    values: Mapping[str, float]
    source: str
    caveat: str


@dataclass(frozen=True)
class Protocol:
    """How one benchmark is scored.

    Attributes:
        title: Its name in a table.
        dataset: What its converted data set is called in `dataset.json`, key `benchmark.name`.
        split: The test set, in words.
        classes: Names of the labels 1, 2, ... in the order of the published columns.
        metrics: The metrics by rule, the first of each the main one.
        ensemble: Whether the test set is predicted by the ensemble of a model's folds; else by each fold alone.
        folds: How many folds the protocol scores, each alone; None where it does not say.
        cases: How many test cases there are; None where the benchmark does not say.
        clusters: How many independent units (patients, images) they come from.
        unit: What such a unit is called.
        volumes: What a case is called.
        cluster: A pattern of the case's name whose first group names its unit; None where a case is its own unit.
        subset: A pattern of the cases that count, the others are left out; None for all of them.
        sizes: Image sizes at which it is scored; empty where the size is not part of the protocol.
        published: The published numbers.
    """

    title: str
    dataset: str
    split: str
    classes: tuple[str, ...]
    metrics: Mapping[str, tuple[str, ...]]
    ensemble: bool = False
    folds: int | None = None
    cases: int | None = None
    clusters: int | None = None
    unit: str = "images"
    volumes: str = "images"
    cluster: str | None = None
    subset: str | None = None
    sizes: tuple[str, ...] = ()
    published: Sequence[PublishedRow] = ()

    def counts(self, case: str) -> bool:
        """Whether a case is one of those that count."""
        return self.subset is None or re.fullmatch(self.subset, case) is not None

    def cluster_of(self, case: str) -> str:
        """The independent unit that a case belongs to; SelfRegError if the case is not named as it should be."""
        match = re.fullmatch(self.cluster or "(.*)", case)
        if match is None:
            raise SelfRegError(f"case {case} is not named as {self.title} names its cases ({self.cluster})")
        return match[1]
