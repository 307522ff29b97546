"""Correlation, redundancy and effective rank against numpy and against matrices whose answer is known."""

import numpy as np
import pytest
import torch

from nnunetv2_selfreg.inspect import channels
from nnunetv2_selfreg.inspect.channels import Moments, RunningMean, channel_measures


def maps(*shapes, seed=0):
    """Maps whose channels are mixtures of each other, with a mean far from 0."""
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(shapes[0][1], shapes[0][1]))
    return [
        torch.from_numpy(np.einsum("cd,bd...->bc...", mix, rng.normal(size=shape)) + 50).float() for shape in shapes
    ]


def pooled(*features):
    return np.concatenate([np.moveaxis(f.double().numpy(), 1, 0).reshape(f.shape[1], -1) for f in features], 1)


def correlation(*features):
    moments = Moments()
    for feature in features:
        moments.add(feature)
    return moments.correlation()


def measured(matrix, ranking=None):
    return channel_measures(matrix, np.arange(len(matrix)) if ranking is None else np.array(ranking))


@pytest.mark.parametrize("chunk", [7, channels.CHUNK])
def test_correlation_is_that_of_all_voxels_together(monkeypatch, chunk):
    monkeypatch.setattr(channels, "CHUNK", chunk)
    features = maps((1, 6, 9, 8), (2, 6, 5, 4))
    np.testing.assert_allclose(correlation(*features), np.corrcoef(pooled(*features)), atol=1e-10)


def test_a_constant_channel_has_no_correlation_and_is_counted():
    (feature,) = maps((1, 5, 4, 6, 3))
    feature[:, 2] = 1234.5
    found = correlation(feature)
    assert measured(found)["constant_channels"] == 1
    assert np.isnan(found[2]).all()
    assert np.isnan(found[:, 2]).all()
    kept = [0, 1, 3, 4]
    expected = np.corrcoef(pooled(feature)[kept])
    np.testing.assert_allclose(found[np.ix_(kept, kept)], expected, atol=1e-10)
    assert measured(found)["redundancy"] == pytest.approx(np.abs(expected[~np.eye(4, dtype=bool)]).mean())


def test_a_channel_that_varies_by_rounding_only_is_constant():
    (feature,) = maps((1, 3, 16, 16))
    feature[:, 1] = 1000 + 1e-4 * torch.rand(16, 16)  # float32 keeps steps of 6e-5 there
    feature[:, 2] = 1000 + torch.rand(16, 16)
    assert np.isnan(correlation(feature).diagonal()).tolist() == [False, True, False]


def test_effective_rank_by_definition():
    features = maps((1, 6, 12, 10))
    standardised = pooled(*features)
    standardised = (standardised - standardised.mean(1, keepdims=True)) / standardised.std(1, keepdims=True)
    singular = np.linalg.svd(standardised, compute_uv=False)
    shares = singular / singular.sum()
    expected = pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    found = measured(correlation(*features))
    assert (found["effective_rank"], found["effective_rank_share"] * 6) == (expected, expected)


@pytest.mark.parametrize(
    ("matrix", "rank", "mean"),
    [
        (np.eye(5), 5, 0),
        (np.ones((4, 4)), 1, 1),
        (np.kron(np.eye(3), [[1, -1], [-1, 1]]), 3, 0.2),  # three pairs of opposites: 6 of 30 entries are -1
        (np.array([[1.0]]), 1, np.nan),
        (np.full((3, 3), np.nan), np.nan, np.nan),
    ],
)
def test_known_matrices(matrix, rank, mean):
    assert measured(matrix)["effective_rank"] == pytest.approx(rank, abs=1e-5, nan_ok=True)
    assert measured(matrix)["redundancy"] == pytest.approx(mean, nan_ok=True)


def test_partners_are_half_the_ranking_apart():
    matrix = np.arange(25.0).reshape(5, 5) / 25
    # of five channels the one in the middle of the ranking, 3, has no partner: the pairs are (4, 0) and (2, 1)
    assert measured(matrix, [4, 2, 3, 0, 1])["partner_correlation"] == (matrix[4, 0] + matrix[2, 1]) / 2
    matrix[2, 1] = np.nan
    assert measured(matrix, [4, 2, 3, 0, 1])["partner_correlation"] == matrix[4, 0]
    assert np.isnan(measured(np.eye(1))["partner_correlation"])


def test_a_channel_constant_in_one_case_has_the_mean_of_the_others():
    mean = RunningMean()
    for matrix in ([[1, 0.5], [0.5, 1]], [[1, np.nan], [np.nan, np.nan]], [[1, 0.1], [0.1, np.nan]]):
        mean.add(np.array(matrix))
    np.testing.assert_allclose(mean.value(), [[1, 0.3], [0.3, 1]])
    mean = RunningMean()
    mean.add(np.array([1, np.nan]))
    np.testing.assert_array_equal(mean.value(), [1, np.nan])
