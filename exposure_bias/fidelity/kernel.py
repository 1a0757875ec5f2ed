"""KID: the squared maximum mean discrepancy with a cubic kernel.

Unbiased at any number of samples. No torch here.

    k(x, y) = (x·y/d + 1)³
    KID = Σ_{i≠j} k(x_i, x_j)/(n(n−1)) + Σ_{i≠j} k(y_i, y_j)/(m(m−1)) − 2 Σ_{ij} k(x_i, y_j)/(nm)

(Bińkowski et al. 2018, arXiv 1801.01401, §4: they average over subsets of 1000 to get an error;
here all pairs are used and the error comes from deleting groups.) Sums of k by pairs of groups hold
all that the deletions need."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from exposure_bias.jackknife import GROUPS

Array = NDArray[np.float64]

CHUNK = 1024


def kernel_sums(
    x: NDArray[np.floating],
    ids: NDArray[np.int64],
    y: NDArray[np.floating],
    other: NDArray[np.int64],
) -> Array:
    """Σ k(x_i, y_j) over i in group g and j in group h, (G, G).

    x (N, d) of images `ids`, y (M, d) of `other`."""
    sums = np.zeros((GROUPS, GROUPS))
    member = (other[:, None] % GROUPS == np.arange(GROUPS)).astype(np.float64)
    transposed = y.astype(np.float64).T
    for start in range(0, len(x), CHUNK):
        rows = slice(start, start + CHUNK)
        k = (x[rows].astype(np.float64) @ transposed / x.shape[1] + 1) ** 3 @ member
        np.add.at(sums, ids[rows] % GROUPS, k)
    return sums


def own_kernel_sums(x: NDArray[np.floating], ids: NDArray[np.int64]) -> Array:
    """`kernel_sums` of a set with itself, without the pairs (i, i)."""
    sums = kernel_sums(x, ids, x, ids)
    diagonal = (np.square(x.astype(np.float64)).sum(1) / x.shape[1] + 1) ** 3
    sums[np.diag_indices(GROUPS)] -= np.bincount(ids % GROUPS, diagonal, GROUPS)
    return sums


def kid(
    n: Array, own: Array, m: Array, other: Array, cross: Array, without: Sequence[int] = ()
) -> float:
    """KID of two sets, without some groups.

    They are counted by group in n and m, (G,), with their sums (G, G)."""
    kept = np.ones(GROUPS)
    kept[list(without)] = 0
    a, b = kept @ n, kept @ m
    within = kept @ own @ kept / (a * (a - 1)) + kept @ other @ kept / (b * (b - 1))
    return float(within - 2 * (kept @ cross @ kept) / (a * b))
