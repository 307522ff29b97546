"""Metrics of one class: medpy on whole arrays, cases worked by hand, nnU-Net's own evaluation of files."""

from collections.abc import Sequence
from math import isnan, nan
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from medpy.metric import binary
from nnunetv2.evaluation.evaluate_predictions import compute_metrics
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO

from nnunetv2_selfreg.benchmarks.metrics import METRICS, Mask, scores

UNIT = (1.0, 1.0, 1.0)


def score(metric: str, rule: str, prediction: Mask, reference: Mask, spacing: Sequence[float]) -> float:
    """Scores a single class."""
    maps = prediction.astype(np.uint8), reference.astype(np.uint8)
    ((*where, value),) = scores({rule: [metric]}, ["class"], *maps, spacing)
    assert where == [rule, metric, "class"]
    return value


def blobs(shape: Sequence[int], seed: int) -> tuple[Mask, Mask]:
    """Two overlapping random masks, away from nothing: some of them touch the array's border."""
    rng = np.random.default_rng(seed)
    grid = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    masks = []
    for _ in range(2):
        centre = [rng.uniform(0.2, 0.8) * size for size in shape]
        radius = rng.uniform(0.15, 0.5) * max(shape)
        mask = sum((axis - middle) ** 2 for axis, middle in zip(grid, centre, strict=True)) < radius**2
        masks.append(mask & (rng.random(shape) < 0.97))
    return masks[0], masks[1]


@pytest.mark.parametrize("shape", [(40, 37), (9, 30, 26)])
@pytest.mark.parametrize("seed", range(4))
def test_metrics_are_medpys_on_the_whole_array(shape: Sequence[int], seed: int) -> None:
    prediction, reference = blobs(shape, seed)
    spacing = (5.0, 1.25, 0.7)[-len(shape) :]
    for rule in ("published", "nnunet"):
        assert score("dice", rule, prediction, reference, spacing) == pytest.approx(binary.dc(prediction, reference))
        assert score("iou", rule, prediction, reference, spacing) == pytest.approx(binary.jc(prediction, reference))
    assert score("hd95", "published", prediction, reference, spacing) == binary.hd95(prediction, reference)
    assert score("hd95_mm", "nnunet", prediction, reference, spacing) == binary.hd95(prediction, reference, spacing)


def test_by_hand() -> None:
    reference, prediction = np.zeros((2, 4, 10, 5), bool)
    reference[1, 2, 0], prediction[1, 7, 0] = True, True  # one voxel each, 5 rows apart
    spacing = (8.0, 1.5, 1.0)
    assert score("dice", "published", prediction, reference, spacing) == 0
    assert score("hd95", "published", prediction, reference, spacing) == 5
    assert score("hd95_mm", "nnunet", prediction, reference, spacing) == 7.5
    assert score("pixel_accuracy", "published", prediction, reference, spacing) == 198 / 200
    above = np.roll(reference, 2, axis=0)  # two slices of 8 mm
    assert score("hd95", "published", above, reference, spacing) == 2
    assert score("hd95_mm", "nnunet", above, reference, spacing) == 16

    square, wide = np.zeros((2, 6, 6), bool)
    square[:2, :2], wide[:2, :3] = True, True  # 4 and 6 pixels, 4 common
    assert score("dice", "published", wide, square, UNIT) == 8 / 10
    assert score("iou", "nnunet", wide, square, UNIT) == 4 / 6
    assert score("pixel_accuracy", "nnunet", wide, square, UNIT) == 34 / 36


def test_hd95_is_the_percentile_of_both_surfaces_together() -> None:
    reference, prediction = np.zeros((2, 1, 200), bool)
    reference[0, :100], prediction[0, 100:101] = True, True
    # distances: of the line's pixels 1 to 100, of the single pixel 1
    expected = np.percentile([*range(1, 101), 1], 95)
    assert score("hd95", "published", prediction, reference, UNIT) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rule", "metric", "both", "only_predicted", "only_reference"),
    [
        ("published", "dice", 0, 1, 0),
        ("published", "iou", 0, 1, 0),
        ("published", "hd95", 0, 0, 0),
        ("nnunet", "dice", nan, 0, 0),
        ("nnunet", "iou", nan, 0, 0),
        ("nnunet", "hd95_mm", nan, nan, nan),
    ],
)
@pytest.mark.parametrize("shape", [(5, 5), (3, 5, 5)])
def test_empty_masks(
    rule: str, metric: str, both: float, only_predicted: float, only_reference: float, shape: Sequence[int]
) -> None:
    empty, single = np.zeros(shape, bool), np.zeros(shape, bool)
    single[(1,) * len(shape)] = True
    values = [
        score(metric, rule, *masks, UNIT[: len(shape)]) for masks in ((empty, empty), (single, empty), (empty, single))
    ]
    np.testing.assert_array_equal(values, [both, only_predicted, only_reference])
    same = score(metric, rule, single, single, UNIT[: len(shape)])
    assert same == (1 if METRICS[metric].higher_is_better else 0)


@pytest.mark.parametrize(("metric", "rule"), [("hd95", "nnunet"), ("hd95_mm", "published"), ("dsc", "published")])
def test_metric_of_another_rule_is_refused(metric: str, rule: str) -> None:
    mask = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match="no metric"):
        score(metric, rule, mask, mask, UNIT)
    with pytest.raises(ValueError, match="shape"):
        score("dice", "published", mask, mask[:2], UNIT)


def test_nnunet_rule_is_nnunets_own(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    reference, prediction = rng.integers(0, 3, (2, 4, 12, 10)).astype(np.uint8)
    prediction[0, 0, :3] = 3  # a false positive of a class that is absent; 4 is absent in both
    for name, labels in (("reference", reference), ("prediction", prediction)):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(labels), str(tmp_path / f"{name}.nii.gz"))
    files = [str(tmp_path / f"{name}.nii.gz") for name in ("reference", "prediction")]
    theirs = compute_metrics(*files, SimpleITKIO(), [1, 2, 3, 4])["metrics"]
    ours = list(scores({"nnunet": ["dice", "iou"]}, ["1", "2", "3", "4"], prediction, reference, UNIT))
    assert len(ours) == 8
    for _, metric, label, value in ours:
        np.testing.assert_allclose(value, theirs[int(label)][{"dice": "Dice", "iou": "IoU"}[metric]])
    assert theirs[3]["Dice"] == 0
    assert isnan(theirs[4]["Dice"])
