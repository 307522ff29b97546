"""How alike the channels of a stage are: their correlation over space, its mean size and the effective rank.

Effective rank: Roy and Vetterli, The effective rank: a measure of effective dimensionality, EUSIPCO 2007, pp. 606-610.
"""

from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.stats import entropy
from torch import Tensor

Floats = NDArray[np.float64]

# voxels that are made float64 at a time, so that a large map is never doubled as a whole
CHUNK = 2**16
# a channel whose standard deviation is below 1e-5 of its root mean square varies by rounding only
CONSTANT = 1e-10


class Moments:
    """Means and covariances of a stage's channels, over all voxels of the maps that were added."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: Any = 0.0
        self._products: Any = 0.0

    def add(self, feature: Tensor) -> None:
        """Adds one map, `(B, C, *spatial)`; it is not kept."""
        for voxels in torch.split(feature.transpose(0, 1).flatten(1), CHUNK, dim=1):
            part, (channels, count) = voxels.double(), voxels.shape
            # products about the mean: those about 0 lose digits where the mean is large
            within = torch.cov(part, correction=0).reshape(channels, channels) * count
            step = part.mean(1) - self._mean
            share = count / (self._count + count)
            self._products = self._products + within + torch.outer(step, step) * (self._count * share)
            self._mean = self._mean + step * share
            self._count += count

    def correlation(self) -> Floats:
        """Pearson's correlation of each two channels, `(C, C)`; NaN in the rows and columns of constant channels."""
        mean, covariance = self._mean.cpu().numpy(), self._products.cpu().numpy() / self._count
        variance = covariance.diagonal()
        spread = np.sqrt(np.where(variance > CONSTANT * (variance + mean**2), variance, np.nan))
        return np.clip(covariance / np.outer(spread, spread), -1, 1)


class RunningMean:
    """The mean of arrays of one shape, entry by entry over those that are not NaN; the arrays are not kept."""

    def __init__(self) -> None:
        self._sum_and_count: Any = 0.0

    def add(self, array: Floats) -> None:
        """Adds one array."""
        self._sum_and_count = self._sum_and_count + np.stack([np.nan_to_num(array), ~np.isnan(array)])

    def value(self) -> Floats:
        """The mean; NaN where every array had NaN."""
        total, count = self._sum_and_count
        return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def channel_measures(correlation: Floats, ranking: NDArray[np.int64]) -> dict[str, float]:
    """What is measured of a stage's channels in one case, by name; NaN for what does not exist.

    - redundancy: mean absolute off-diagonal correlation, 0 to 1, of the channels that vary.
    - effective_rank: exponential of the entropy of the normalised singular values of the matrix of channels by voxels,
      each channel with mean 0 and variance 1; 1 to C. They are the roots of the correlation matrix's eigenvalues, up to
      a factor.
    - effective_rank_share: the same over C.
    - partner_correlation: mean correlation of the channel pairs that IFD compares, rank i and rank i + C/2.
    - constant_channels: how many channels do not vary.

    Args:
        correlation: `(C, C)`, NaN for constant channels.
        ranking: The channels from the most to the least important, `(C,)`.
    """
    channels = len(correlation)
    # a channel of zeros adds a singular value of 0, and so nothing
    values = np.sqrt(np.linalg.eigvalsh(np.nan_to_num(correlation)).clip(0))
    rank = float(np.exp(entropy(values))) if values.any() else np.nan
    pairs = correlation[ranking[: channels // 2], ranking[channels - channels // 2 :]]
    return {
        # the means of pandas leave out NaN
        "redundancy": float(pd.Series(correlation[~np.eye(channels, dtype=bool)]).abs().mean()),
        "effective_rank": rank,
        "effective_rank_share": rank / channels,
        "partner_correlation": float(pd.Series(pairs).mean()),
        "constant_channels": float(np.isnan(correlation.diagonal()).sum()),
    }
