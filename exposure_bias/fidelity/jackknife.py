"""Bias and standard error of a distance between two sets, by deleting groups of images from both. No torch here.

Let θ be the distance of all samples, θ_g that without group g, of G = 16 groups, and θ_gh that without two. A plug-in
distance has E θ = θ_∞ + b/N + …; deleting 1/G of both sets multiplies the bias by G/(G − 1), so that

    corrected  θ_J = G θ − (G − 1) θ̄,   θ̄ = mean_g θ_g        (Quenouille; Efron & Tibshirani 1993, ch. 10)
    se²        v − v₂,   v = (G − 1)/G Σ_g (θ_g − θ̄)²

Between similar distributions a distance is nearly quadratic in the data, and the jackknife counts the variance v₂ of
its quadratic part twice (Efron & Stein 1981). The interactions I = (G−2) θ_gh − (G−1)(θ_g + θ_h) + G θ of the G/2
disjoint pairs (g, g + G/2) measure it: for a mean of uncorrelated terms over pairs of groups E I² = 2G/(G−3) v₂, for
a linear statistic I = 0. v₂ ≤ v/2, which is reached where nothing is linear.

Everything is linear in the numbers (θ, θ_g, θ_gh): a difference between two curves on common random numbers is had by
subtracting theirs, and its error takes account of what the curves share.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

GROUPS = 16
MINIMUM_PER_GROUP = 16
MINIMUM_PER_FEATURE = 10
PAIRS = [(g, g + GROUPS // 2) for g in range(GROUPS // 2)]
# What is deleted for each of the 25 numbers that `deletions` returns.
DELETED: list[tuple[int, ...]] = [(), *((g,) for g in range(GROUPS)), *PAIRS]
T_QUANTILE = 2.131449545559323  # two-sided 95 %, GROUPS − 1 degrees of freedom


def deletions(estimate: Callable[[Sequence[int]], float], reason: str = "") -> Array:
    """estimate(groups left out) for every entry of `DELETED`, (25,); only the first unless `reason` is empty."""
    values = np.full(len(DELETED), np.nan)
    for i, left_out in enumerate(DELETED[:1] if reason else DELETED):
        values[i] = estimate(left_out)
    return values


def corrected(values: Array) -> tuple[Array, Array]:
    """(θ_J, standard error), each (…), from what `deletions` returned or differences of it, (…, 25)."""
    full, one, two = values[..., 0], values[..., 1 : 1 + GROUPS], values[..., 1 + GROUPS :]
    mean = one.mean(-1)
    v = (GROUPS - 1) / GROUPS * np.square(one - mean[..., None]).sum(-1)
    half = one[..., : GROUPS // 2] + one[..., GROUPS // 2 :]
    interaction = (GROUPS - 2) * two - (GROUPS - 1) * half + GROUPS * full[..., None]
    quadratic = (GROUPS - 3) / (2 * GROUPS) * np.square(interaction).mean(-1)
    return GROUPS * full - (GROUPS - 1) * mean, np.sqrt(np.maximum(v - quadratic, v / 2))


def why_no_interval(counts: Sequence[Array], dimension: int = 0) -> str:
    """Why sets of samples counted by group, each (G,), give no interval; empty if they do.

    dimension: the number of features where a covariance is estimated, else 0.
    """
    fewest = min(int(count.sum()) for count in counts)
    if min(count.min() for count in counts) < MINIMUM_PER_GROUP:
        return f"{fewest} samples give no interval: {MINIMUM_PER_GROUP} or more in each of {GROUPS} groups would"
    if fewest < MINIMUM_PER_FEATURE * dimension:
        needed = MINIMUM_PER_FEATURE * dimension
        return f"{fewest} samples of {dimension} features give no interval or bias correction: {needed} or more would"
    return ""
