"""KID: the squared maximum mean discrepancy with a cubic kernel.

Unbiased at any number of samples. No torch here.

    k(x, y) = (x·y/d + 1)³
    KID = mean of k(x_i, x_j), i ≠ j  +  mean of k(y_i, y_j), i ≠ j  −  2 mean of k(x_i, y_j)

(Bińkowski et al. 2018, arXiv 1801.01401, §4: they average over subsets of 1000 to get an error;
here the error comes from deleting groups.) Every pair has the same expectation, so that the mean
over any of them is unbiased: all pairs are taken where they are at most `PAIRS`, of 10,000 samples,
and of more those within blocks of equal size, with the samples x of one block against the samples y
of the next, which are of other images. Each sample is then in as many pairs as any other, and the
first order of the error is that of all pairs. Products are taken in the features' own precision,
sums in float64; sums of k and numbers of pairs by groups hold all that the deletions need."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exposure_bias.jackknife import GROUPS

Array = NDArray[np.float64]
Features = NDArray[np.floating]
Ids = NDArray[np.int64]

PAIRS = 10**8
CHUNK = 256


@dataclass(frozen=True)
class PairSums:
    """Σ k over pairs of samples and their number, by their groups, (G, G) each."""

    total: Array
    count: Array

    def mean(self, kept: Array) -> float:
        """The mean of k over pairs of kept groups; kept (G,) of ones and zeros."""
        return float((kept @ self.total @ kept) / (kept @ self.count @ kept))


def cross_sums(x: Features, ids: Ids, y: Features, other: Ids) -> PairSums:
    """Σ k(x_i, y_j) of two sets: x (N, d) of images `ids`, y (M, d) of `other`."""
    number = blocks(len(x) * len(y))
    sums = _nothing()
    for rows, columns in zip(_members(ids, number), _shifted(_members(other, number)), strict=True):
        for part in _chunks(rows):
            _add(sums, x[part], ids[part], y[columns], other[columns])
    return sums


def own_sums(x: Features, ids: Ids) -> PairSums:
    """Σ k(x_i, x_j) of a set with itself, without the pairs (i, i)."""
    sums = _nothing()
    for rows in _members(ids, blocks(len(x) ** 2)):
        for number, part in enumerate(_chunks(rows)):
            rest = rows[(number + 1) * CHUNK :]
            _add(sums, x[part], ids[part], x[part], ids[part])
            twice = _nothing()
            _add(twice, x[part], ids[part], x[rest], ids[rest])
            for mine, theirs in ((sums.total, twice.total), (sums.count, twice.count)):
                mine += theirs + theirs.T
    diagonal = (np.einsum("ij,ij->i", x, x, dtype=np.float64) / x.shape[1] + 1) ** 3
    sums.total[np.diag_indices(GROUPS)] -= np.bincount(ids % GROUPS, diagonal, GROUPS)
    sums.count[np.diag_indices(GROUPS)] -= np.bincount(ids % GROUPS, minlength=GROUPS)
    return sums


def kid(own: PairSums, other: PairSums, cross: PairSums, without: Sequence[int] = ()) -> float:
    """KID of two sets, without some groups."""
    kept = np.ones(GROUPS)
    kept[list(without)] = 0
    return own.mean(kept) + other.mean(kept) - 2 * cross.mean(kept)


def blocks(pairs: int) -> int:
    """How many blocks keep so many pairs within `PAIRS`."""
    return -(-pairs // PAIRS)


def _members(ids: Ids, number: int) -> list[NDArray[np.intp]]:
    """The samples of each block: of every group its first, second, … by turns."""
    order = np.lexsort((ids, ids % GROUPS))
    sizes = np.bincount(ids % GROUPS, minlength=GROUPS)
    rank = np.empty(len(ids), dtype=np.int64)
    rank[order] = np.concatenate([np.arange(size) for size in sizes])
    return [np.flatnonzero(rank % number == block) for block in range(number)]


def _shifted(parts: list[NDArray[np.intp]]) -> list[NDArray[np.intp]]:
    return [*parts[1:], parts[0]]


def _chunks(rows: NDArray[np.intp]) -> Iterator[NDArray[np.intp]]:
    for start in range(0, len(rows), CHUNK):
        yield rows[start : start + CHUNK]


def _nothing() -> PairSums:
    return PairSums(np.zeros((GROUPS, GROUPS)), np.zeros((GROUPS, GROUPS)))


def _add(sums: PairSums, x: Features, ids: Ids, y: Features, other: Ids) -> None:
    """Add all pairs of x and y."""
    here, there = (
        (i[:, None] % GROUPS == np.arange(GROUPS)).astype(np.float64) for i in (ids, other)
    )
    k = np.divide(x @ y.T, x.shape[1], dtype=np.float64)
    k += 1
    k *= np.square(k)
    sums.total[...] += here.T @ (k @ there)
    sums.count[...] += np.outer(here.sum(0), there.sum(0))
