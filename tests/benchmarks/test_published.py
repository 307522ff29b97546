"""The published numbers: every one has what a table needs, and means that fit their classes."""

from dataclasses import astuple

import pytest

from nnunetv2_selfreg.benchmarks.protocol import TEST_SET, PublishedRow
from nnunetv2_selfreg.benchmarks.registry import BENCHMARKS, PROTOCOLS

ROWS = [(name, row) for name, protocol in PROTOCOLS.items() for row in protocol.published]


@pytest.mark.parametrize(
    ("name", "row"), ROWS, ids=[f"{name}-{row.method}-{row.metric}-{row.rule}" for name, row in ROWS]
)
def test_row_fits_its_benchmark(name: str, row: PublishedRow) -> None:
    assert all(astuple(row))
    values = dict(row.values)
    mean = values.pop("mean")
    if values:
        assert tuple(values) == PROTOCOLS[name].classes
        assert sum(values.values()) / len(values) == pytest.approx(mean, abs=0.011)
    if row.protocol == TEST_SET:
        assert row.metric in PROTOCOLS[name].metrics[row.rule]


def test_headline_numbers_are_there() -> None:
    found = {(name, row.metric, row.values["mean"]) for name, row in ROWS}
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


def test_numbers_of_single_classes_are_the_papers() -> None:
    """arXiv 2406.14896, its tables of Synapse and ACDC."""
    organs = ("aorta", "gallbladder", "kidney L", "kidney R", "liver", "pancreas", "spleen", "stomach")
    printed = {
        ("synapse", "U-Net"): (organs, (89.07, 69.72, 77.77, 68.60, 93.43, 53.98, 86.67, 75.58)),
        ("synapse", "SelfReg-UNet"): (organs, (88.74, 71.78, 85.32, 80.71, 93.80, 62.22, 84.78, 75.39)),
        ("synapse", "SwinUnet"): (organs, (85.47, 66.53, 83.28, 79.61, 94.29, 56.58, 90.66, 76.60)),
        ("synapse", "SelfReg-SwinUnet"): (organs, (86.07, 69.65, 85.12, 82.58, 94.18, 61.08, 87.42, 78.22)),
        ("acdc", "SelfReg-UNet"): (("RV", "Myo", "LV"), (88.92, 89.49, 95.88)),
        ("acdc", "SwinUnet"): (("RV", "Myo", "LV"), (88.55, 85.62, 95.83)),
        ("acdc", "SelfReg-SwinUnet"): (("RV", "Myo", "LV"), (89.49, 89.27, 95.70)),
    }
    rows = {(name, row.method): row.values for name, row in ROWS if row.metric == "dice" and row.protocol == TEST_SET}
    for key, (classes, values) in printed.items():
        assert {name: value for name, value in rows[key].items() if name != "mean"} == dict(
            zip(classes, values, strict=True)
        )


def test_cross_validations_are_kept_from_the_tables_of_the_test_set() -> None:
    rows = [row for _, row in ROWS if row.rule == "nnunet"]
    assert len(rows) == 5
    assert TEST_SET not in {row.protocol for row in rows}


def test_every_protocol_scores_what_a_converter_writes() -> None:
    assert list(BENCHMARKS) == ["acdc", "synapse", "glas", "monuseg", "digestpath", "ebhi"]
    assert {protocol.dataset for protocol in PROTOCOLS.values()} == set(BENCHMARKS)
