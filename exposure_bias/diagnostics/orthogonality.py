"""Is a network wrong on true states? A test without chains or exact networks. No torch here.

The best prediction of x_0 from x_t is the conditional mean, f(x_t) = E[x_0 | x_t], and it is the
only function for which

    E[(x_0 − f(x_t)) · g(x_t)] = 0        for every function g of the state.

So each g gives a test. Its *score* of one image is t = (x_0 − f) · g, and its *slope*

    b = E[(x_0 − f) · g] / E[g · g]

says how much of g the network leaves out: f + b g is a better prediction than f. With g = f − c the
slope is that of a calibration curve less 1, E[x_0 | f] = c + (1 + b)(f − c): −0.02 means that the
network exaggerates by 2 %.

*One error rate.* A table of L levels and T functions has L·T slopes, and under 5 % each some would
be off in most runs. With t_i the scores of image i and random signs s_i = ±1,

    z = |Σ_i t_i| / √(Σ_i t_i²),    z* = |Σ_i s_i t_i| / √(Σ_i t_i²),

the largest z of the table is compared with the largest z* of 2,000 draws of signs. The signs are
shared by all levels and functions, so that their correlation is kept. The test is exact where
scores are symmetric and nearly so elsewhere (Romano & Wolf 2005, Econometrica 73, 1237; the maximum
is taken as in Westfall & Young 1993).

*What is not asked.* Where few images carry a score, no sum of it is normal: with (Σ t²)²/Σ t⁴ the
effective number of images (Kish), a function is left out below 40. That happens where the data have
atoms, such as black pixels, which a network confuses once in a thousand images. It is left out as
well where the residual along g is round-off. Where a few rare images carry the variance of the
data, there is no verdict at all (`effective_images`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exposure_bias.jackknife import GROUPS, Array, Estimate, jackknife, ratio_of, sums_by_group

FLIPS = 2000
LEAST_EFFECTIVE = 40.0
LEAST_IMAGES = 32.0
ROUND_OFF = 1e-5  # of the data's standard deviation over the whole state
SIZE = 0.05


@dataclass(frozen=True)
class Orthogonality:
    """What the scores of a table of tests say.

    slope: over (level, test). adjusted: each slope's p-value at one error rate for the table, NaN
    where it was not asked. p_value: that of the whole table, NaN where nothing was asked.
    """

    slope: Estimate
    adjusted: Array
    p_value: float

    @property
    def flagged(self) -> bool:
        """Whether the network is wrong on true states, at 5 % for the whole table."""
        return self.p_value < SIZE


def orthogonality(
    scores: NDArray[np.floating], weights: Array, images: NDArray[np.int64], spread: float
) -> Orthogonality:
    """Judge the scores of a table of tests.

    Parameters
    ----------
    scores : array (n, L, T)
        t = (x_0 − f) · g of each sample, at each level, for each function.
    weights : array (G, L, T)
        Σ g · g over the samples of each group.
    images : array (n,)
        The image that each sample was made of; samples of one image count as one.
    spread : float
        The data's variance, summed over a state.

    Returns
    -------
    Orthogonality
        Slopes, their p-values, and the p-value of the table.
    """
    count = np.bincount(images % GROUPS, minlength=GROUPS).astype(np.float64)
    sums = sums_by_group(np.asarray(scores, np.float64), images)
    slope = jackknife(lambda n, above, below: ratio_of(n, above, below), count, sums, weights)
    by_image = _by_image(scores, images)
    asked = usable(by_image, weights.sum(0), spread)
    adjusted = np.full(asked.shape, np.nan)
    if asked.any():
        adjusted[asked] = family_wise(by_image[:, asked])
    smallest = float(np.nanmin(adjusted)) if asked.any() else float("nan")
    return Orthogonality(slope, adjusted, smallest)


def effective_images(power: Array) -> float:
    """How many images carry the variance of the data: Kish's (Σ S)²/Σ S².

    power: (n,), |x_0 − μ|² of each image. 2 % of the images that hold half of the variance make
    this about 4 % of n.
    """
    return float(power.sum() ** 2 / np.square(power).sum())


def usable(scores: Array, weight: Array, spread: float) -> NDArray[np.bool_]:
    """Which tests can be asked: enough images carry their scores, and these are no round-off.

    scores: (n, …) by image; weight: Σ g · g, (…).
    """
    square = np.square(scores).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        effective = square**2 / (scores**4).sum(0)
        residual = square / weight
    return (effective >= LEAST_EFFECTIVE) & (residual > ROUND_OFF**2 * spread)


def family_wise(scores: Array, flips: int = FLIPS, seed: int = 0) -> Array:
    """The p-value of each test at one error rate for all of them.

    scores: (n, T) by image. See the module docstring.
    """
    standard = (scores / np.sqrt(np.square(scores).sum(0))).astype(np.float32)
    observed = np.abs(standard.sum(0, dtype=np.float64))
    rng = np.random.default_rng(seed)
    largest = np.empty(flips)
    size = max(1, 2**22 // len(scores))
    for start in range(0, flips, size):
        rows = min(size, flips - start)
        signs = 2 * rng.integers(0, 2, (rows, len(scores)), dtype=np.int8) - 1
        largest[start : start + rows] = np.abs(signs.astype(np.float32) @ standard).max(1)
    beyond = np.searchsorted(np.sort(largest), observed * (1 - 1e-6))
    p_values: Array = (1 + flips - beyond) / (1 + flips)
    return p_values


def _by_image(scores: NDArray[np.floating], images: NDArray[np.int64]) -> Array:
    """Scores summed over the samples of each image."""
    unique, place = np.unique(images, return_inverse=True)
    if len(unique) == len(images):
        return np.asarray(scores, np.float64)
    total = np.zeros((len(unique), *scores.shape[1:]))
    np.add.at(total, place, scores)
    return total
