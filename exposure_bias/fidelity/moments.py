"""Moments of features by group of images: sums, so that batches, shards and restarts all add. No
torch here.

    n_g,  s_g = Σ x (d,),  S_g = Σ x xᵀ (d, d)   over samples whose image is in group g = id mod 16
    μ = s/n,   Σ = (S − n μ μᵀ)/(n − 1)

A mean of features is seldom large against their spread, so float64 sums lose nothing that matters
(1e−16 · μ²/σ²)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exposure_bias.errors import InputError
from exposure_bias.fidelity.frechet import Normal
from exposure_bias.jackknife import GROUPS

Array = NDArray[np.float64]


class Moments:
    """Grouped sums over features (N, d); `update` with batches, `merge` with those of other
    samples.

    count (G,), total (G, d), square (G, d, d). For d = 2048 that is 0.5 GB.
    """

    def __init__(self, dimension: int) -> None:
        self.count = np.zeros(GROUPS)
        self.total = np.zeros((GROUPS, dimension))
        self.square = np.zeros((GROUPS, dimension, dimension))

    def update(self, features: ArrayLike, ids: ArrayLike) -> None:
        """Add features (B, d) of the images `ids` (B,). Raises InputError for another d, or NaN."""
        x = checked(features)
        if x.shape[1] != self.total.shape[1]:
            raise InputError(
                f"these moments are of {self.total.shape[1]} features, but the batch has"
                f" {x.shape[1]}"
            )
        group = np.asarray(ids) % GROUPS
        for g in np.unique(group):
            members = x[group == g].astype(np.float64)
            self.count[g] += len(members)
            self.total[g] += members.sum(0)
            self.square[g] += members.T @ members

    def merge(self, other: "Moments") -> None:
        """Add the sums of other samples.

        Raises InputError if they are of another number of features.
        """
        if other.total.shape != self.total.shape:
            raise InputError(
                f"moments of {self.total.shape[1]} and {other.total.shape[1]} features cannot be"
                " merged"
            )
        self.count += other.count
        self.total += other.total
        self.square += other.square

    def normal(self, without: Sequence[int] = ()) -> Normal:
        """N(μ, Σ) of the samples that are not in the groups `without`.

        Raises InputError for fewer than 2.
        """
        left_out = list(without)
        n = self.count.sum() - self.count[left_out].sum()
        if n < 2:
            raise InputError(f"a covariance needs at least 2 samples, got {int(n)}: give more")
        mean = (self.total.sum(0) - self.total[left_out].sum(0)) / n
        square = self.square.sum(0) - self.square[left_out].sum(0)
        return Normal(mean, (square - n * np.outer(mean, mean)) / (n - 1))


def checked(features: ArrayLike) -> NDArray[np.floating]:
    """Features (N, d).

    Raises InputError for another number of dimensions, and naming the first that is not finite.
    """
    x = np.asarray(features)
    if x.ndim != 2 or 0 in x.shape or x.dtype.kind != "f":
        raise InputError(
            f"features must be floats of shape (N, d), got {x.dtype} of shape {x.shape}: correct"
            " the extractor"
        )
    finite = np.isfinite(x).all(1)
    if not finite.all():
        raise InputError(
            f"the features of sample {finite.argmin()} hold NaN or infinity: check the images and"
            " the extractor"
        )
    return x
