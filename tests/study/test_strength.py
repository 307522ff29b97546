"""examples/study/strength.py: what it calls a term's pull, and what the study's page prints of its results."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "study"))

from strength import ARMS, pulls

STUDY = Path(__file__).parents[2] / "examples" / "study"


def maps():
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 6, 8, 8), (2, 8, 4, 4), (2, 5, 8, 8), (2, 4, 16, 16)]
    *students, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    labels = torch.randint(3, (2, 1, 16, 16), generator=generator).double()
    return students, teacher, labels


def test_decorrelation_pulls_with_its_weight_at_the_mean_over_all_students():
    """By finite differences of the correlation that numpy gives."""
    students, teacher, labels = maps()
    found = pulls("decorrelation", students, teacher, labels, 2)

    def loss(feature):
        correlation = np.corrcoef(np.moveaxis(feature, 1, 0).reshape(feature.shape[1], -1))
        return np.mean(correlation[~np.eye(len(correlation), dtype=bool)] ** 2)

    for student, gradient in zip(students, found, strict=True):
        place, step = (1, 2, 3, 1), 1e-6
        values = []
        for sign in (1, -1):
            moved = student.numpy().copy()
            moved[place] += sign * step
            values.append(loss(moved))
        assert gradient[place].item() == pytest.approx(2 / 3 * (values[0] - values[1]) / (2 * step), rel=1e-5)


def test_scrs_expectation_pulls_every_channel_to_the_teachers_mean():
    students, teacher, labels = maps()
    found = pulls("scr_expected", students, teacher, labels, 2)
    for student, gradient in zip(students, found, strict=True):
        met = reference.pooled(teacher.numpy(), tuple(student.shape[2:])).mean(1, keepdims=True)
        expected = 0.015 / 3 * 2 * (student.numpy() - met) / student.numel()
        np.testing.assert_allclose(gradient.numpy(), expected, rtol=1e-10, atol=1e-15)


def test_both_published_terms_are_added_up():
    """IFD counts as a mean over the encoder's students plus one over the decoder's; SCR draws."""
    students, teacher, labels = maps()
    found = pulls("selfreg", students, teacher, labels, 2)
    for student, gradient, share in zip(students, found, (1 / 2, 1 / 2, 1), strict=True):
        ifd = 0.015 * share * reference.internal_feature_distillation(student.numpy())[1]
        drawn = gradient.numpy() - ifd
        # SCR reaches the drawn channels alone, as many as the teacher has
        reached = np.abs(drawn).max((0, 2, 3)) > 1e-12
        assert reached.sum() == min(student.shape[1], teacher.shape[1])


def test_the_page_prints_what_was_measured():
    with (STUDY / "results" / "strength.csv").open(newline="") as file:
        rows = {(row["arm"], row["time"], row["place"]): float(row["percent"]) for row in csv.DictReader(file)}
    page = (STUDY / "README.md").read_text()
    assert {arm for arm, _, _ in rows} == set(ARMS)
    for arm in ARMS:
        shown = " | ".join(f"{rows[arm, time, 'encoder']:.2g}" for time in ("start", "end"))
        assert re.search(rf"^\| `{arm}` \| .* \| {re.escape(shown)} \|$", page, re.MULTILINE), (arm, shown)
