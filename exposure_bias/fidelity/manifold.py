"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991). No torch here.

A set's manifold is the union of balls around its samples, each reaching to the k-th nearest other
sample, k = 3. Precision is the share of generated samples inside the manifold of the real ones,
recall the share of real samples inside that of the generated. Distances are computed a chunk of
rows at a time, in float64."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from exposure_bias.errors import InputError

Array = NDArray[np.float64]

NEIGHBOURS = 3
CHUNK = 512
ROUND_OFF = 1e-12


def squared_radii(x: NDArray[np.floating]) -> Array:
    """Squared distance (N,) of each sample of x (N, d) to its k-th nearest other.

    Raises InputError if N ≤ k.
    """
    if len(x) <= NEIGHBOURS:
        raise InputError(
            f"precision and recall need more than {NEIGHBOURS} samples, got {len(x)}: give more"
        )
    parts = [
        np.partition(rows, NEIGHBOURS, axis=1)[:, NEIGHBOURS] for rows in _squared_distances(x, x)
    ]
    return np.concatenate(parts)


def inside(
    x: NDArray[np.floating], centres: NDArray[np.floating], radii: Array
) -> NDArray[np.bool_]:
    """Whether each of x (N, d) lies in a ball around one of `centres` (M, d); (N,).

    radii (M,): the balls' squared radii."""
    return np.concatenate([(rows <= radii).any(1) for rows in _squared_distances(x, centres)])


def _squared_distances(x: NDArray[np.floating], y: NDArray[np.floating]) -> Iterator[Array]:
    """‖x_i − y_j‖² by chunks of rows (≤ CHUNK, M); what is zero to rounding is zero."""
    centre = y.mean(0, dtype=np.float64)
    there = y - centre
    square = np.square(there).sum(1)
    for start in range(0, len(x), CHUNK):
        here = x[start : start + CHUNK] - centre
        scale = np.square(here).sum(1)[:, None] + square
        rows = scale - 2 * (here @ there.T)
        rows[rows < ROUND_OFF * scale] = 0
        yield rows
