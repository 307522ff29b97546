"""Metrics of one class in one case, and what each rule says of an empty mask.

`published` is the rule of the published Synapse and ACDC tables, `nnunet` that of nnU-Net's own evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from nnunetv2_selfreg.errors import SelfRegError

Mask = NDArray[np.bool_]
RULES = {"published": "published rule", "nnunet": "nnU-Net's rule"}


@dataclass(frozen=True)
class Metric:
    """How a metric is shown and compared.

    Attributes:
        title: Its name in a table.
        unit: The unit that a table shows.
        scale: What a value is multiplied with to be in that unit.
        higher_is_better: Whether a higher value is better.
        margin: In that unit, the difference from which on a case counts as better or worse.
    """

    title: str
    unit: str
    scale: float = 1
    higher_is_better: bool = True
    margin: float = 1


METRICS = {
    "dice": Metric("Dice", "%", 100),
    "iou": Metric("Foreground IoU", "%", 100),
    "pixel_accuracy": Metric("Pixel accuracy", "%", 100),
    "hd95": Metric("HD95", "voxel", higher_is_better=False),
    "hd95_mm": Metric("HD95", "mm", higher_is_better=False),
}


def score(metric: str, rule: str, prediction: Mask, reference: Mask, spacing: Sequence[float]) -> float:
    """Scores one class of one case.

    With both masks non-empty the rules agree. `published`: a prediction where the reference is empty counts as
    perfect (Dice and IoU 1, HD95 0), and an empty prediction as Dice and IoU 0 and HD95 0, also where the reference is
    empty. `nnunet`: a class absent in both is not counted, a false positive is 0, and HD95, which nnU-Net does not
    define, is not counted where one mask is empty. Pixel accuracy is the same under both.

    Args:
        metric: One of `METRICS`.
        rule: One of `RULES`; HD95 in voxels belongs to `published`, HD95 in mm to `nnunet`.
        prediction: The predicted mask, of any number of dimensions.
        reference: The reference mask of the same shape.
        spacing: Voxel size in mm along each axis; used by `hd95_mm` alone.

    Returns:
        The value, a fraction, in voxels or in mm; NaN for a case that is not counted.

    Raises:
        ValueError: The metric or rule is unknown, one does not belong to the other, or the shapes differ.
        SelfRegError: medpy is not installed.
    """
    if metric not in METRICS or rule not in RULES or (metric, rule) in (("hd95", "nnunet"), ("hd95_mm", "published")):
        raise ValueError(f"there is no metric {metric!r} under the rule {rule!r}")
    if prediction.shape != reference.shape:
        raise ValueError(f"prediction {prediction.shape} and reference {reference.shape} differ in shape")
    if metric == "pixel_accuracy":
        return float(np.mean(prediction == reference))
    if not (prediction.any() and reference.any()):
        return _of_empty_mask(metric, rule, bool(prediction.any()), bool(reference.any()))
    if metric == "hd95":
        return _hd95(prediction, reference, None)
    if metric == "hd95_mm":
        return _hd95(prediction, reference, spacing)
    common, total = np.count_nonzero(prediction & reference), prediction.sum() + reference.sum()
    return float(2 * common / total) if metric == "dice" else float(common / (total - common))


def _of_empty_mask(metric: str, rule: str, predicted: bool, present: bool) -> float:
    if rule == "nnunet":
        return 0.0 if (predicted or present) and metric != "hd95_mm" else nan
    return 1.0 if predicted and metric != "hd95" else 0.0


def _hd95(prediction: Mask, reference: Mask, spacing: Sequence[float] | None) -> float:
    try:
        from medpy.metric.binary import hd95
    except ImportError:
        raise SelfRegError('HD95 needs medpy: pip install "nnunetv2-selfreg[leaderboard]"') from None
    # every surface voxel lies in this box, and medpy takes what is beyond an array for background
    box = find_objects((prediction | reference).astype(np.int8))[0]
    return float(hd95(prediction[box], reference[box], None if spacing is None else tuple(spacing)))
