"""What each benchmark's tables measure, on which cases, by which rule, and how a model's folds are used.

Everywhere a class's score is the mean over cases, and the mean score the mean over classes.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from nnunetv2_selfreg.errors import SelfRegError

ENSEMBLE = "ensemble"
NATIVE, SMALL = "native size", "224 x 224"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark's protocol.

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

    def counts(self, case: str) -> bool:
        """Whether a case is one of those that count."""
        return self.subset is None or re.fullmatch(self.subset, case) is not None

    def cluster_of(self, case: str) -> str:
        """Names the independent unit that a case belongs to.

        Raises:
            SelfRegError: The case is not named as this benchmark names its cases.
        """
        if self.cluster is None:
            return case
        match = re.fullmatch(self.cluster, case)
        if match is None:
            raise SelfRegError(f"case {case} is not named as {self.title} names its cases ({self.cluster})")
        return match[1]

    def protocol(self, fold: str, size: str | None) -> str:
        """Names the protocol of a run, which rows of one table share.

        Args:
            fold: `ensemble`, or the fold's number.
            size: The image size, where it is part of the protocol.
        """
        folds = "ensemble of folds" if fold == ENSEMBLE else "each fold alone"
        return f"{folds}, {size}" if size else folds

    def incomplete(self, cases: int, clusters: int) -> str | None:
        """Says what a test set lacks; None if it is complete or its size is not known."""
        for have, all_, unit in ((clusters, self.clusters, self.unit), (cases, self.cases, self.volumes)):
            if all_ is not None and have < all_:
                return f"{all_ - have} of {all_} {unit} missing"
        return None


_DICE_IOU = ("dice", "iou")
_ACDC = Benchmark(
    "ACDC",
    "acdc",
    "20 test patients (40 volumes) of the 70/10/20 split",
    ("RV", "Myo", "LV"),
    {"published": ("dice", "hd95"), "nnunet": ("dice", "iou", "hd95_mm")},
    ensemble=True,
    cases=40,
    clusters=20,
    unit="patients",
    volumes="volumes",
    cluster=r"(patient\d{3})_frame\d{2}",
)
_SYNAPSE = Benchmark(
    "Synapse multi-organ CT",
    "synapse",
    "12 test CTs of the 18/12 split",
    ("aorta", "gallbladder", "kidney L", "kidney R", "liver", "pancreas", "spleen", "stomach"),
    _ACDC.metrics,
    ensemble=True,
    cases=12,
    clusters=12,
    unit="patients",
    volumes="volumes",
)
_GLAS = Benchmark(
    "GlaS",
    "glas",
    "80 test images (test A and B)",
    ("gland",),
    {"published": _DICE_IOU, "nnunet": _DICE_IOU},
    folds=5,
    cases=80,
    clusters=80,
    sizes=(NATIVE,),
)
_MONUSEG = replace(
    _GLAS, title="MoNuSeg", dataset="monuseg", split="14 test images", classes=("nucleus",), cases=14, clusters=14
)
_DIGESTPATH = Benchmark(
    "DigestPath, patches",
    "digestpath",
    "patches of the validation part of a seeded 80/20 split of ours; the published split is not known",
    ("lesion",),
    {"published": ("pixel_accuracy",), "nnunet": _DICE_IOU},
    volumes="patches",
    cluster=r"(.+)_y\d+_x\d+",
)
_WHOLE = "validation part of a seeded 80/20 split of ours; the published split is not known"

BENCHMARKS = {
    "acdc": _ACDC,
    "synapse": _SYNAPSE,
    "glas": _GLAS,
    "glas224": replace(_GLAS, sizes=(SMALL,)),
    "glas_test_a": replace(
        _GLAS,
        title="GlaS test A",
        split="60 images of test A",
        metrics=_DIGESTPATH.metrics,
        folds=None,
        cases=60,
        clusters=60,
        subset=r"testA_\d+",
        sizes=(NATIVE, SMALL),
    ),
    "monuseg": _MONUSEG,
    "monuseg224": replace(_MONUSEG, sizes=(SMALL,)),
    "digestpath": _DIGESTPATH,
    "digestpath_wsi": replace(
        _DIGESTPATH, title="DigestPath, whole images", split=_WHOLE, volumes="images", cluster=None
    ),
    "ebhi": replace(
        _DIGESTPATH,
        title="EBHI-Seg",
        dataset="ebhi",
        classes=("adenocarcinoma",),
        split=_WHOLE,
        volumes="images",
        cluster=None,
    ),
}
