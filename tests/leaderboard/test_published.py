"""The published numbers: every one has what a table needs, and means that fit their classes."""

import pytest

from nnunetv2_selfreg.leaderboard.protocols import BENCHMARKS
from nnunetv2_selfreg.leaderboard.published import published


@pytest.mark.parametrize("row", published(), ids=lambda row: f"{row['benchmark']}-{row['method']}-{row['metric']}")
def test_row_fits_its_benchmark(row: "dict[str, str]") -> None:
    assert list(row) == ["benchmark", "method", "metric", "rule", "protocol", "values", "source", "caveat"]
    assert all(row.values())
    values = dict(row["values"])
    mean = values.pop("mean")
    if values:
        assert tuple(values) == BENCHMARKS[row["benchmark"]].classes
        assert sum(values.values()) / len(values) == pytest.approx(mean, abs=0.011)
    if row["protocol"] == "test":
        assert row["metric"] in BENCHMARKS[row["benchmark"]].metrics[row["rule"]]


def test_headline_numbers_are_there() -> None:
    found = {(row["benchmark"], row["metric"], row["values"]["mean"]) for row in published()}
    assert {
        ("acdc", "dice", 91.49),
        ("synapse", "dice", 80.54),
        ("glas224", "dice", 91.62),
        ("monuseg224", "dice", 80.18),
        ("monuseg224", "iou", 67.07),
        ("digestpath", "pixel_accuracy", 96.28),
        ("digestpath_wsi", "pixel_accuracy", 97.77),
        ("ebhi", "pixel_accuracy", 91.53),
        ("glas_test_a", "pixel_accuracy", 89.36),
    } <= found
