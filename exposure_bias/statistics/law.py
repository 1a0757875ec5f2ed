"""The data's own first two moments and their eigen-directions."""

from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.data import Data
from exposure_bias.states import dimensions

CONSTANT = {
    "constant": 1
}  # attributes of a variable that `recording.merge` keeps as it is rather than adds
CHUNK = 1024
DENSE = 4096  # largest D whose D × D covariance is made
COVARIANCE_IMAGES = 8192
SUBSPACE_IMAGES = 1024


class Law(NamedTuple):
    """mean, variance (C, *space) over all images; values (K,) and vectors (K, D) of the covariance,
    largest first.

    The covariance is that of at most 8192 evenly spaced images, and of 1024 where D > 4096; K is
    the smaller of D and the number of those images."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    values: NDArray[np.float64]
    vectors: NDArray[np.float64]

    @property
    def spread(self) -> float:
        """σ̄², the variance, mean over pixels."""
        return float(self.variance.mean())

    def to_dataset(self) -> xr.Dataset:
        """The law as constants of a recording's /data group; eigenvectors are stored as float32."""
        axes = dimensions(self.mean.shape)
        vectors = self.vectors.reshape(-1, *self.mean.shape).astype(np.float32)
        return xr.Dataset(
            {
                "mean": (axes, self.mean, CONSTANT),
                "variance": (axes, self.variance, CONSTANT),
                "eigenvalue": ("mode", self.values, CONSTANT),
                "eigenvector": (("mode", *axes), vectors, CONSTANT),
            }
        )


def law(data: Data) -> Law:
    """Mean, per-pixel variance (divisor N) and eigendecomposition of the covariance of the data."""
    total, square = np.zeros(data.shape), np.zeros(data.shape)
    shift = data.batch([0])[0].astype(
        np.float64
    )  # any image: it keeps the variance of a constant pixel at zero
    for start in range(0, len(data), CHUNK):
        x = data.batch(range(start, min(start + CHUNK, len(data)))) - shift
        total += x.sum(0)
        square += np.square(x).sum(0)
    mean = total / len(data)
    variance = np.maximum(square / len(data) - mean**2, 0)
    values, vectors = _directions(data, mean + shift)
    return Law(mean + shift, variance, values, vectors)


def _directions(
    data: Data, mean: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Not numpy.linalg: its threads go on spinning for a while and slow down the network that runs
    # next.
    import torch

    limit = COVARIANCE_IMAGES if mean.size <= DENSE else SUBSPACE_IMAGES
    ids = np.unique(np.linspace(0, len(data) - 1, min(len(data), limit)).round().astype(int))
    chunks = [
        torch.from_numpy((data.batch(c) - mean).reshape(len(c), -1))
        for c in np.array_split(ids, -(-len(ids) // CHUNK))
    ]
    if len(ids) < mean.size:
        _, singular, vectors = torch.linalg.svd(torch.cat(chunks), full_matrices=False)
        return singular.square().numpy() / len(ids), vectors.numpy()
    covariance = sum((d.T @ d for d in chunks), torch.zeros(()))
    values, columns = torch.linalg.eigh(covariance / len(ids))
    return values.flip(0).clamp_(min=0).numpy(), columns.T.flip(0).numpy()
