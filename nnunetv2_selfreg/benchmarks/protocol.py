"""What a benchmark's tables measure, on which cases, by which rule, and the published numbers to stand beside ours.

Everywhere a class's score is the mean over cases, and the mean score the mean over classes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nnunetv2_selfreg.errors import SelfRegError

ENSEMBLE = "ensemble"
NATIVE, SMALL = "native size", "224 x 224"
TEST_SET = "test"


@dataclass(frozen=True)
class PublishedRow:
    """One published method's numbers in one metric."""

    method: str  # its name in a table
    metric: str  # a key of METRICS
    rule: str  # a key of RULES
    protocol: str  # TEST_SET, or another protocol's name, whose numbers belong into no table of the test set
    values: Mapping[str, float]  # by class and for `mean`, in the unit of the metric
    source: str  # where they stand
    caveat: str  # what must be known before they are compared with ours


@dataclass(frozen=True)
class Protocol:
    """How one benchmark is scored."""

    title: str  # its name in a table
    dataset: str  # what its converted data set is called in dataset.json, key benchmark.name
    split: str  # the test set, in words
    classes: tuple[str, ...]  # names of the labels 1, 2, ... in the order of the published columns
    metrics: Mapping[str, tuple[str, ...]]  # by rule, the first of each the main one
    ensemble: bool = False  # whether the ensemble of a model's folds predicts the test set, or else each fold alone
    folds: int | None = None  # how many there are where each is scored alone; None where the protocol does not say
    cases: int | None = None  # how many there are in the test set; None where the benchmark does not say
    clusters: int | None = None  # how many independent units (patients, images) they come from
    unit: str = "images"  # what such units are called
    volumes: str = "images"  # what cases are called
    cluster: str | None = None  # pattern of a case's name, whose first group is its unit; None: a case is its own unit
    subset: str | None = None  # pattern of the cases that count, the others are left out; None for all of them
    sizes: tuple[str, ...] = ()  # of images, at which it is scored; empty where the size is not part of the protocol
    published: Sequence[PublishedRow] = ()
    published_on: str | None = None  # the reference masks of the published numbers; None where there are no others
    # what is to be known of reference masks; each that has a name has a table of its own
    masks: Mapping[str | None, str] = field(default_factory=dict)

    def counts(self, case: str) -> bool:
        """Whether a case is one of those that count."""
        return self.subset is None or re.fullmatch(self.subset, case) is not None

    def cluster_of(self, case: str) -> str:
        """The independent unit that a case belongs to; SelfRegError if the case is not named as it should be."""
        match = re.fullmatch(self.cluster or "(.*)", case)
        if match is None:
            raise SelfRegError(f"case {case} is not named as {self.title} names its cases ({self.cluster})")
        return match[1]
