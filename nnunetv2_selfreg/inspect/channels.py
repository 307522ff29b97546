"""How alike the channels of a stage are: their correlation over space, its mean size and the effective rank.

Effective rank: Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007, pp. 606-610.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]

# voxels that are made float64 at a time, so that a large map is never doubled as a whole
CHUNK = 2**16
# a channel whose standard deviation is below 1e-5 of its root mean square varies by rounding only
CONSTANT = 1e-10


class Moments:
    """First and second moments of a stage's channels, pooled over all voxels of the maps that were added."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, feature: Tensor) -> None:
        """Adds one map, `(B, C, *spatial)`; it is not kept."""
        voxels = feature.transpose(0, 1).flatten(1)
        if self._count == 0:
            # moments about the first map's mean: those about 0 lose digits where the mean is large
            self._shift = voxels.double().mean(1, keepdim=True)
            self._sums = self._shift.new_zeros(len(voxels))
            self._products = self._shift.new_zeros(len(voxels), len(voxels))
        for part in torch.split(voxels, CHUNK, dim=1):
            shifted = part.double() - self._shift
            self._sums += shifted.sum(1)
            self._products += shifted @ shifted.T
        self._count += voxels.shape[1]

    def correlation(self) -> Floats:
        """Pearson's correlation of each two channels, `(C, C)`; NaN in the rows and columns of constant channels."""
        shift, sums = self._shift[:, 0].cpu().numpy(), self._sums.cpu().numpy()
        mean = sums / self._count
        covariance = self._products.cpu().numpy() / self._count - np.outer(mean, mean)
        variance = covariance.diagonal()
        varies = variance > CONSTANT * (variance + (mean + shift) ** 2)
        spread = np.sqrt(np.where(varies, variance, np.nan))
        return np.clip(covariance / np.outer(spread, spread), -1, 1)


class RunningMean:
    """The mean of arrays of one shape, entry by entry over those that are not NaN; the arrays are not kept."""

    def __init__(self) -> None:
        self._sum: Any = 0.0
        self._count: Any = 0

    def add(self, array: Floats) -> None:
        """Adds one array."""
        self._sum = self._sum + np.nan_to_num(array)
        self._count = self._count + ~np.isnan(array)

    def value(self) -> Floats:
        """The mean; NaN where every array had NaN."""
        return np.where(self._count > 0, self._sum / np.maximum(self._count, 1), np.nan)


def channel_measures(correlation: Floats, ranking: NDArray[np.int64]) -> dict[str, float]:
    """What is measured of a stage's channels in one case, by name; NaN for what does not exist.

    Args:
        correlation: `(C, C)`, NaN for constant channels.
        ranking: The channels from the most to the least important, `(C,)`.
    """
    rank = effective_rank(correlation)
    return {
        "redundancy": redundancy(correlation),
        "effective_rank": rank,
        "effective_rank_share": rank / len(correlation),
        "partner_correlation": partner_correlation(correlation, ranking),
        "constant_channels": float(np.isnan(correlation.diagonal()).sum()),
    }


def redundancy(correlation: Floats) -> float:
    """Mean absolute off-diagonal correlation, 0 to 1, of the channels that vary; NaN with fewer than two of them."""
    varying = _varying(correlation)
    channels = len(varying)
    return float((np.abs(varying).sum() - channels) / (channels * (channels - 1))) if channels > 1 else np.nan


def effective_rank(correlation: Floats) -> float:
    """The effective rank of the standardised channels, 1 to C: the exponential of the entropy of their singular values.

    The singular values of the matrix of channels by voxels, each channel with mean 0 and variance 1, are the square
    roots of the eigenvalues of the correlation matrix, up to a factor that the normalisation to sum 1 takes out.

    Args:
        correlation: `(C, C)`, NaN for constant channels, which are left out.

    Returns:
        The rank; NaN when no channel varies.
    """
    varying = _varying(correlation)
    if not len(varying):
        return np.nan
    values = np.sqrt(np.linalg.eigvalsh(varying).clip(0))
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def partner_correlation(correlation: Floats, ranking: NDArray[np.int64]) -> float:
    """Mean correlation of the channel pairs that IFD compares, rank i and rank i + C/2; NaN when no such pair varies.

    Args:
        correlation: `(C, C)`, NaN for constant channels.
        ranking: The channels from the most to the least important, `(C,)`.
    """
    half = len(ranking) // 2
    pairs = correlation[ranking[:half], ranking[len(ranking) - half :]]
    pairs = pairs[~np.isnan(pairs)]
    return float(pairs.mean()) if len(pairs) else np.nan


def _varying(correlation: Floats) -> Floats:
    kept = ~np.isnan(correlation.diagonal())
    return correlation[np.ix_(kept, kept)]
