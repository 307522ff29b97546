"""Metrics of every class in one case, and what each rule says of an empty mask.

`published` is the rule of the published Synapse and ACDC tables, `nnunet` that of nnU-Net's own evaluation.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from math import nan
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from nnunetv2_selfreg.errors import SelfRegError

Labels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
RULES = {"published": "published rule", "nnunet": "nnU-Net's rule"}


@dataclass(frozen=True)
class Metric:
    """How a metric is shown and compared."""

    title: str
    unit: str  # that a table shows
    scale: float = 1  # what a value is multiplied with to be in that unit
    higher_is_better: bool = True
    margin: float = 1  # in that unit, the difference from which on a case counts as better or worse
    rules: tuple[str, ...] = tuple(RULES)  # that define it

    @property
    def difference_unit(self) -> str:
        """The unit of a difference."""
        return "points" if self.unit == "%" else self.unit


METRICS = {
    "dice": Metric("Dice", "%", 100),
    "iou": Metric("Foreground IoU", "%", 100),
    "pixel_accuracy": Metric("Pixel accuracy", "%", 100),
    "hd95": Metric("HD95", "voxel", higher_is_better=False, rules=("published",)),
    "hd95_mm": Metric("HD95", "mm", higher_is_better=False, rules=("nnunet",)),
}


def scores(
    metrics: Mapping[str, Sequence[str]],
    classes: Sequence[str],
    prediction: Labels,
    reference: Labels,
    spacing: Sequence[float],
) -> Iterator[tuple[str, str, str, float]]:
    """Scores every class of one case.

    With both masks non-empty the rules agree. `published`: a prediction where the reference is empty counts as
    perfect (Dice and IoU 1, HD95 0), and an empty prediction as Dice and IoU 0 and HD95 0, also where the reference is
    empty. `nnunet`: a class absent in both is not counted, a false positive is 0, and HD95, which nnU-Net does not
    define, is not counted where one mask is empty. Pixel accuracy is the same under both. The label maps are of one
    shape with any number of dimensions, their labels 1, 2, ... are the classes; the voxel size in mm, along each axis,
    is used by `hd95_mm` alone.

    Yields:
        Rule, metric, class, and the value, a fraction, in voxels or in mm; NaN for what is not counted.

    Raises:
        ValueError: A metric does not belong to its rule, or the shapes differ.
        SelfRegError: medpy is not installed.
    """
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")
    by_label = _nnunet_metrics(prediction, reference, range(1, len(classes) + 1))
    for rule, names in metrics.items():
        for metric in names:
            if metric not in METRICS or rule not in METRICS[metric].rules:
                raise ValueError(f"there is no metric {metric!r} under the rule {rule!r}")
            for label, name in enumerate(classes, 1):
                found = by_label[label]
                if metric == "pixel_accuracy":
                    value = float((found["TP"] + found["TN"]) / reference.size)
                elif metric.startswith("hd95"):
                    voxel = tuple(spacing) if metric == "hd95_mm" else None
                    empty = 0.0 if rule == "published" else nan
                    both = found["n_pred"] and found["n_ref"]
                    value = _hd95(prediction == label, reference == label, voxel) if both else empty
                elif rule == "published" and not (found["n_pred"] and found["n_ref"]):
                    value = 1.0 if found["n_pred"] else 0.0
                else:
                    value = float(found[{"dice": "Dice", "iou": "IoU"}[metric]])
                yield rule, metric, name, value


def _nnunet_metrics(prediction: Labels, reference: Labels, labels: Sequence[int]) -> dict[int, dict[str, Any]]:
    """nnU-Net's own Dice, IoU and voxel counts by label."""
    with redirect_stdout(StringIO()):  # nnU-Net before 2.8 prints about every folder that is not set
        from nnunetv2.evaluation.evaluate_predictions import compute_metrics
    in_memory: Any = SimpleNamespace(read_seg=lambda array: (array, {}))  # it "reads" the arrays in place of files
    arrays: Any = (reference, prediction)
    metrics: dict[int, dict[str, Any]] = compute_metrics(*arrays, in_memory, list(labels))["metrics"]
    return metrics


def _hd95(prediction: Mask, reference: Mask, spacing: Sequence[float] | None) -> float:
    try:
        from medpy.metric.binary import hd95
    except ImportError:
        raise SelfRegError('HD95 needs medpy: pip install "/path/to/nnunetv2-selfreg[leaderboard]"') from None
    # every surface voxel lies in this box, and medpy takes what is beyond an array for background
    box = find_objects((prediction | reference).astype(np.int8))[0]
    return float(hd95(prediction[box], reference[box], spacing))
