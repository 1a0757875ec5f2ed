"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991). No torch here.

A set's manifold is the union of balls around its samples, each reaching to the k-th nearest other
sample, k = 3. Precision is the share of generated samples inside the manifold of the real ones,
recall the share of real samples inside that of the generated.

Distances of all pairs are had from products in float32, whose error has a bound; where that bound
leaves a comparison open, the pair's distance is taken anew in float64 from the difference of the
two. So the answers are those of float64 throughout, at the price of float32."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from exposure_bias.errors import InputError

Array = NDArray[np.float64]
Features = NDArray[np.floating]

NEIGHBOURS = 3
CANDIDATES = 12  # nearest others by float32, of which the k-th nearest is told
CHUNK, COLUMNS = 1024, 8192  # of a tile of distances
TINY = np.float32(1e-30)  # beside which what float32 loses near zero is nothing


def squared_radii(x: Features) -> Array:
    """Squared distance (N,) of each sample of x (N, d) to its k-th nearest other.

    Raises InputError if N ≤ k.
    """
    if len(x) <= NEIGHBOURS:
        raise InputError(
            f"precision and recall need more than {NEIGHBOURS} samples, got {len(x)}: give more"
        )
    pairs = _Pairs(x, x)
    radii = np.empty(len(x))
    for rows in _slices(len(x), CHUNK):
        radii[rows] = _radii_of(pairs, rows)
    return radii


def inside(
    x: Features, y: Features, radii: Array, others: Array
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each of x (N, d) lies in a ball around one of y (M, d), and each of y in one of x.

    radii (M,): the squared radii of the balls around y; others (N,): around x."""
    pairs = _Pairs(x, y)
    hit, other_hit = np.zeros(len(x), dtype=bool), np.zeros(len(y), dtype=bool)
    for rows in _slices(len(x), CHUNK):
        for columns in _slices(len(y), COLUMNS):
            tile, bound = pairs.tile(rows, columns)
            hit[rows] |= _any_within(pairs, tile, bound, rows, columns, radii[None, columns], 1)
            other_hit[columns] |= _any_within(
                pairs, tile, bound, rows, columns, others[rows, None], 0
            )
    return hit, other_hit


def _any_within(
    pairs: "_Pairs",
    tile: NDArray[np.float32],
    bound: NDArray[np.float32],
    rows: slice,
    columns: slice,
    radii: Array,
    axis: int,
) -> NDArray[np.bool_]:
    """Whether a distance of a tile is within a radius, along an axis."""
    above = tile - (radii * pairs.unit**2).astype(np.float32)
    found = np.asarray((above < -bound).any(axis))
    open_yet = (np.abs(above, out=above) <= bound) & ~np.expand_dims(found, axis)
    if open_yet.any():
        i, j = np.nonzero(open_yet)
        near = pairs.exactly(i + rows.start, j + columns.start)
        within = near <= np.broadcast_to(radii, tile.shape)[i, j]
        found[(i if axis else j)[within]] = True
    return found


def _radii_of(pairs: "_Pairs", rows: slice) -> Array:
    """The squared distances of some samples to their k-th nearest others."""
    count = min(CANDIDATES + 1, pairs.size)
    nearest = np.empty((rows.stop - rows.start, 0), dtype=np.float32)
    which = np.empty(nearest.shape, dtype=np.intp)
    for columns in _slices(pairs.size, COLUMNS):
        tile, bound = pairs.tile(rows, columns)
        tile -= bound
        best = np.argpartition(tile, min(count, tile.shape[1]) - 1, axis=1)[:, :count]
        nearest = np.concatenate([nearest, np.take_along_axis(tile, best, 1)], axis=1)
        which = np.concatenate([which, best + columns.start], axis=1)
        if nearest.shape[1] > count:
            kept = np.argpartition(nearest, count - 1, axis=1)[:, :count]
            nearest, which = (np.take_along_axis(v, kept, 1) for v in (nearest, which))
    index = np.broadcast_to(np.arange(rows.start, rows.stop)[:, None], which.shape)
    exact = pairs.exactly(index.ravel(), which.ravel()).reshape(which.shape)
    # The sample itself is one of the candidates, or stands behind others at distance zero.
    radii: Array = np.partition(exact, NEIGHBOURS, axis=1)[:, NEIGHBOURS]
    if count < pairs.size:
        # All others are at least as far as the farthest candidate is at least.
        for row in np.flatnonzero(nearest.max(1) <= radii * pairs.unit**2):
            every = pairs.exactly(np.full(pairs.size, rows.start + row), np.arange(pairs.size))
            radii[row] = np.partition(every, NEIGHBOURS)[NEIGHBOURS]
    return radii


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Squared distances ‖x_i − y_j‖² between two sets, roughly for all and exactly for some."""

    x: Features
    y: Features

    @property
    def size(self) -> int:
        return len(self.y)

    @cached_property
    def _centre(self) -> Array:
        centre: Array = self.y.mean(0, dtype=np.float64)
        return centre

    @cached_property
    def unit(self) -> float:
        """A power of two that brings all values near one, where squares have room in float32."""
        largest = max(
            float(np.abs(v[rows] - self._centre).max())
            for v in (self.x, self.y)
            for rows in _slices(len(v), CHUNK)
        )
        # Its own square must be a number too.
        return float(2.0 ** -np.clip(np.frexp(largest)[1], -500, 500)) if largest > 0 else 1.0

    @cached_property
    def _there(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._centred(self.y)

    @cached_property
    def _here(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return self._there if self.x is self.y else self._centred(self.x)

    def _centred(self, values: Features) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Values less the centre of y, in `unit`, and their squared norms."""
        centred = np.empty(values.shape, dtype=np.float32)
        for rows in _slices(len(values), CHUNK):
            centred[rows] = (values[rows] - self._centre) * self.unit
        return centred, np.einsum("ij,ij->i", centred, centred)

    def tile(self, rows: slice, columns: slice) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Some squared distances by `unit`², and a bound on the error of each.

        d products in any order are off by at most d·2⁻²⁴ |x| |y| (Higham 2002, §3.1); norms,
        centring, a radius's rounding and the difference add a few more units of 2⁻²⁴ of the sum of
        squares."""
        (x, here), (y, there) = self._here, self._there
        scale = here[rows, None] + there[None, columns]
        bound = scale * np.float32((2 * x.shape[1] + 32) * 2.0**-24) + TINY
        product = x[rows] @ y[columns].T
        product *= -2
        product += scale
        return product, bound

    def exactly(self, i: NDArray[np.intp], j: NDArray[np.intp]) -> Array:
        """‖x_i − y_j‖² of pairs (n,), float64."""
        found = np.empty(len(i))
        for part in _slices(len(i), CHUNK):
            apart = self.x[i[part]].astype(np.float64) - self.y[j[part]]
            found[part] = np.square(apart).sum(1)
        return found


def _slices(count: int, size: int) -> Iterator[slice]:
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
