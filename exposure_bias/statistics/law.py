"""The data's own first two moments and their eigen-directions."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.states import dimensions

if TYPE_CHECKING:
    from exposure_bias.data import Data

CONSTANT = {
    "constant": 1
}  # attributes of a variable that `recording.merge` keeps as it is rather than adds
CHUNK, CHUNK_NUMBERS = 1024, 2**24  # images that are read at once, at most so many numbers
DENSE = 4096  # largest D all of whose eigen-directions are found
COVARIANCE_IMAGES = 8192
SUBSPACE_IMAGES = 1024
# Of larger states, this many leading directions; more are tried, this often.
LEADING, FURTHER, ROUNDS = 16, 16, 3
WHOLE = 0.9  # share of the variance that directions hold which stand for all


class Law(NamedTuple):
    """The data's mean and covariance.

    mean, variance (C, *space) over all images; values (K,) and vectors (K, D) of the covariance,
    largest first.

    The covariance is that of at most 8192 evenly spaced images, and of 1024 where D > 4096; K is
    the smaller of D and the number of those images, and at most 16 where D > 4096."""

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]
    values: NDArray[np.float64]
    vectors: NDArray[np.float64]

    @property
    def spread(self) -> float:
        """σ̄², the variance, mean over pixels."""
        return float(self.variance.mean())

    @property
    def whole(self) -> bool:
        """Whether the directions stand for the covariance, or are only its leading ones."""
        return holds(self.values, self.variance)

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


def holds(values: NDArray[np.float64], variance: NDArray[np.float64]) -> bool:
    """Whether eigenvalues add up to nearly all of the variance."""
    return bool(values.sum() >= WHOLE * variance.sum())


def law(data: "Data") -> Law:
    """Mean, per-pixel variance (divisor N) and eigendecomposition of the covariance of the data."""
    total, square = np.zeros(data.shape), np.zeros(data.shape)
    shift = data.batch([0])[0].astype(
        np.float64
    )  # any image: it keeps the variance of a constant pixel at zero
    size = _at_once(data)
    for start in range(0, len(data), size):
        x = data.batch(range(start, min(start + size, len(data)))) - shift
        total += x.sum(0)
        square += np.square(x, out=x).sum(0)
    mean = total / len(data)
    variance = np.maximum(square / len(data) - mean**2, 0)
    values, vectors = _directions(data, mean + shift)
    return Law(mean + shift, variance, values, vectors)


def _at_once(data: "Data") -> int:
    """How many images are read at once."""
    return max(1, min(CHUNK, CHUNK_NUMBERS // int(np.prod(data.shape))))


def _directions(
    data: "Data", mean: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Not numpy.linalg: its threads go on spinning for a while and slow down the network that runs
    # next.
    import torch

    limit = COVARIANCE_IMAGES if mean.size <= DENSE else SUBSPACE_IMAGES
    ids = np.unique(np.linspace(0, len(data) - 1, min(len(data), limit)).round().astype(int))
    if mean.size > DENSE:
        return _leading(data, mean, ids)
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


def _leading(
    data: "Data", mean: NDArray[np.float64], ids: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The leading directions of some images, by subspace iteration from a random start.

    A few images at a time (Halko, Martinsson & Tropp 2011, SIAM Rev. 53, 217, algorithms 4.4 and
    5.1)."""
    import torch

    size = _at_once(data)
    chunks = [slice(i, min(i + size, len(ids))) for i in range(0, len(ids), size)]
    width = min(LEADING + FURTHER, len(ids))

    def centred(chunk: slice) -> torch.Tensor:
        return torch.from_numpy((data.batch(ids[chunk]) - mean).reshape(-1, mean.size))

    def towards_images(directions: torch.Tensor) -> torch.Tensor:
        return torch.cat([centred(chunk) @ directions for chunk in chunks])

    def towards_pixels(weights: torch.Tensor) -> torch.Tensor:
        total = torch.zeros(mean.size, weights.shape[1], dtype=torch.float64)
        for chunk in chunks:
            total.addmm_(centred(chunk).T, weights[chunk])
        return total

    start = np.random.default_rng(0).standard_normal((len(ids), width))
    basis, _ = torch.linalg.qr(torch.from_numpy(start))
    for _ in range(ROUNDS):
        directions, _ = torch.linalg.qr(towards_pixels(basis))
        basis, _ = torch.linalg.qr(towards_images(directions))
    vectors, singular, _ = torch.linalg.svd(towards_pixels(basis), full_matrices=False)
    kept = min(LEADING, len(ids))
    values = singular[:kept].square().numpy() / len(ids)
    return values, np.ascontiguousarray(vectors[:, :kept].T.numpy())
