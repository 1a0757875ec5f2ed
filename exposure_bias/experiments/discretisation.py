"""The discretisation error of chains through any levels, predicted from one forward pass.

A step s → t of the SDE's sampler with its prediction f held still is

    x_t = a x_s + b f(x_s) + √β̃ z,    a = (α_s/α_t)(σ_t/σ_s)²,    b = α_t (1 − SNR_s/SNR_t),

and with a draw x_0 of p(x_0 | x_s) in place of f(x_s) it would give a draw of q(x_t) (Ho et al.
2020, eq. 7). So a step leaves out the spread of x_0 given x_s, whose variance along a direction i
of the data is on average b² V_i(s), V_i(s) = E (x_0 − f(x_s))_i².

What a missing variance costs at the end depends on the statistic S of an image that one looks at,
by default its squared distance from the mean image, whose mean is the total variance. With
u_t(x) = E[S(x_0) | x_t = x], a state at t that lacks independent variance d_i loses
½ Σ d_i E ∂_i² u_t on average. Here u_t is taken to be quadratic in the best linear estimates of
x_0,

    u_t(x) ≈ c + Σ_g w_g(t) Σ_{i ∈ g} k_i² (x − α_t μ)_i²,     k_i = α_t λ_i / (α_t² λ_i + σ_t²),

with λ_i the data's variance along i and g a few groups of directions; w_g is the least-squares fit
of S(x_0) to these sums. Noise enters the fit in closed form: with A_g = Σ k_i² α_t² d_i² of an
image d = x_0 − μ,

    Cov(S, P_g) = Cov(S, A_g),
    Cov(P_g, P_h) = Cov(A_g, A_h) + δ_gh Σ_{i ∈ g} k_i⁴ (2 σ_t⁴ + 4 α_t² σ_t² λ_i).

So the error that a chain's steps together cause is predicted to be

    E S(x̂_0) / E S(x_0) − 1 = − Σ_steps b² Σ_i V_i(s) W_i(t) / E S(x_0),   W_i = w_g(i) k_i².

With DDPM's wider variance β in place of β̃ a step adds what it should not, β − β̃ along each
direction, which counts against b² V_i. For Gaussian data with independent components w = 1 and
this is the closed form of `references.gaussian`. Each term depends on the two levels of its step
alone, so that dynamic programming finds the best levels.

Directions are those of the orthonormal DCT over the axes of space (of vectors, the components).
The groups are three of the directions below a quarter of a cycle per pixel, with a third of their
variance each, and one of all directions above.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.errors import InputError
from exposure_bias.jackknife import GROUPS
from exposure_bias.recording import Recording
from exposure_bias.samplers import conditional_variance
from exposure_bias.schedules import Level
from exposure_bias.states import State
from exposure_bias.statistics.accumulator import Accumulator, Batch, Layout
from exposure_bias.statistics.bands import HIGH_FREQUENCY, dct_matrix, radial_frequency

Array = NDArray[np.float64]
Objective = Callable[[Array], Any]

THIRDS = 3
LARGEST_WEIGHT = 4.0  # of w_g, whose fit is noise alone where hardly any signal is left
FLOOR = 1e-12
RESIDUAL = "prediction_residual"
OBJECTIVES = ("gap", "hf")


class Directions:
    """The orthonormal DCT of states over their axes of space; of vectors the identity."""

    def __init__(self, shape: State) -> None:
        self.shape = shape
        self._matrices = [torch.from_numpy(dct_matrix(n)) for n in shape[1:]]

    def __call__(self, x: Tensor) -> Tensor:
        """Coefficients (…, D) of states (…, D), float64."""
        x = x.unflatten(-1, self.shape)
        for axis, matrix in enumerate(self._matrices, start=-len(self._matrices)):
            x = (x.movedim(axis, -1) @ matrix.T.to(x)).movedim(-1, axis)
        return x.flatten(-len(self.shape))

    @cached_property
    def high(self) -> NDArray[np.bool_]:
        """Which directions have a quarter of a cycle per pixel or more, (D,)."""
        space = self.shape[1:]
        if not space:
            return np.zeros(self.shape[0], dtype=bool)
        return np.tile(radial_frequency(*space).ravel() >= HIGH_FREQUENCY, self.shape[0])


class ResidualPower(Accumulator):
    """Σ (x_0 − x̂_0)_i² of the forward stream, `prediction_residual` (step, group, mode)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self._directions = Directions(layout.shape)
        size = int(np.prod(layout.shape))
        self.add_sum(RESIDUAL, step=layout.steps, group=GROUPS, residual_mode=size)

    def update(self, rows: slice, batch: Batch) -> None:
        if batch.prediction is None:
            return
        power = self._directions(batch.data - batch.prediction).square()
        self.state[RESIDUAL][rows] += batch.groups.sum(power, axis=1).cpu().numpy()


def residual_power(layout: Layout) -> Accumulator | None:
    """`ResidualPower` for the forward stream, to be given to `record(..., statistics=)`."""
    return ResidualPower(layout) if layout.stream == "forward" else None


@dataclass(frozen=True)
class Spread:
    """V_i at any level: how much x_0 varies given x_t, along each direction.

    snr (L,), ascending from 0; precision (L, D): 1/V_i there, whose course in SNR is linear
    between two levels, as it is for Gaussian data.
    """

    snr: Array
    precision: Array

    @classmethod
    def of(cls, recording: Recording, variance: Array, groups: Array) -> "Spread":
        """That of a recording with `residual_power`.

        variance: λ_i, which is V_i where nothing of x_0 is left. groups: weights of the groups of
        samples, (16,).
        """
        forward = recording["forward"]
        noisy = forward.isel(step=(forward["sigma"] > 0) & (forward["alpha"] > 0))
        power = np.tensordot(groups, noisy[RESIDUAL].values, (0, 1))
        power /= float(groups @ forward["count"].values)
        snr = (noisy["alpha"].values / noisy["sigma"].values) ** 2
        order = np.argsort(snr)
        table = np.concatenate([variance[None], power[order]])
        return cls(np.append(0.0, snr[order]), 1 / np.maximum(table, FLOOR))

    @classmethod
    def gaussian(cls, variance: Array) -> "Spread":
        """That of Gaussian data with independent components: 1/V = 1/λ + SNR."""
        snr = np.array([0.0, 1.0])
        return cls(snr, 1 / np.maximum(variance, FLOOR) + snr[:, None])

    def at(self, snr: float) -> Array:
        """V (D,) at an SNR; beyond the last level 1/V goes on in its course."""
        k = int(np.clip(np.searchsorted(self.snr, snr), 1, len(self.snr) - 1))
        low, high = self.snr[k - 1], self.snr[k]
        share = (snr - low) / (high - low)
        precision = (1 - share) * self.precision[k - 1] + share * self.precision[k]
        # Measured precisions may fall from one level to the next; they are not to fall below 0.
        value: Array = 1 / np.maximum(precision, self.precision[k] if share > 1 else FLOOR)
        return value


@dataclass(frozen=True)
class Weights:
    """W_i at any level, for one statistic S of an image.

    variance (D,): λ_i. group (D,): the group of each direction. mean: E S. images: d_i² (N, D) and
    S − E S (N,) of the images that w_g is fitted to; None where w = 1. end (D,): W at the clean
    end where it is known; None where it is fitted too.
    """

    variance: Array
    group: NDArray[np.int64]
    mean: float
    images: tuple[Array, Array] | None = None
    end: Array | None = None

    @classmethod
    def gaussian(cls, variance: Array) -> "Weights":
        """Those of the total variance of Gaussian data with independent components."""
        return cls(variance, np.zeros(len(variance), dtype=np.int64), float(variance.sum()))

    @classmethod
    def of(cls, images: "Images", kept: NDArray[np.bool_] | None = None) -> "Weights":
        """Those of some images. kept (N,): which of them, by default all."""
        rows = slice(None) if kept is None else kept
        square, value = images.square[rows], images.value[rows]
        variance, mean = square.mean(0), float(value.mean())
        group = groups_of(variance, images.high)
        return cls(variance, group, mean, (square, value - mean), images.end)

    def at(self, level: Level) -> Array:
        """W (D,) at a level."""
        if level.sigma == 0 and self.end is not None:
            return self.end
        total = level.alpha**2 * self.variance + level.sigma**2
        gain = np.ones_like(total)
        if level.sigma > 0:
            gain = level.alpha * self.variance / total
        if self.images is None:
            return gain**2
        return gain**2 * self._fitted(level, gain, *self.images)[self.group]

    def _fitted(self, level: Level, gain: Array, square: Array, deviation: Array) -> Array:
        """w (G,), the least-squares fit of the module docstring."""
        member = self.group[:, None] == np.arange(self.group.max() + 1)
        sums = square @ ((gain * level.alpha)[:, None] ** 2 * member)
        sums -= sums.mean(0)
        noise = 2 * level.sigma**4 + 4 * (level.alpha * level.sigma) ** 2 * self.variance
        covariance = sums.T @ sums / len(sums) + np.diag((gain**4 * noise) @ member)
        wanted = sums.T @ deviation / len(sums)
        weights = np.linalg.lstsq(covariance, wanted, rcond=1e-10)[0]
        clipped: Array = np.clip(weights, -LARGEST_WEIGHT, LARGEST_WEIGHT)
        return clipped


def groups_of(variance: Array, high: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The group of each direction (module docstring)."""
    group = np.full(len(variance), THIRDS)
    low = np.nonzero(~high)[0]
    order = low[np.argsort(-variance[low], kind="stable")]
    share = np.cumsum(variance[order]) - variance[order] / 2
    share /= max(float(variance[order].sum()), FLOOR)
    group[order] = np.minimum(share * THIRDS, THIRDS - 1).astype(np.int64)
    return np.unique(group, return_inverse=True)[1]


@dataclass(frozen=True)
class Discretisation:
    """What each step between two levels is predicted to cost (module docstring).

    wide: whether a step's noise has the variance β rather than β̃.
    """

    spread: Spread
    weights: Weights
    wide: bool = False

    def predicted(self, levels: Sequence[Level]) -> float:
        """The relative error of S at the end of a chain through `levels`, the last one clean."""
        costs = self.signed_costs(levels)
        return -float(sum(costs[j, j + 1] for j in range(len(levels) - 1)))

    def costs(self, levels: Sequence[Level]) -> Array:
        """What the step from level j to level k costs, (M, M), infinite where k ≤ j.

        The last level is clean. It is the size of each step's error that counts: what two steps do
        to a statistic in opposite ways does not make a chain good.
        """
        costs = np.abs(self.signed_costs(levels))
        costs[np.tril_indices(len(levels))] = np.inf
        return costs

    def signed_costs(self, levels: Sequence[Level]) -> Array:
        """How far the step from level j to level k lowers the statistic, relative, (M, M)."""
        alpha, snr = np.array([(level.alpha, level.snr) for level in levels]).T
        spread = np.stack([self.spread.at(float(ratio)) for ratio in snr[:-1]])
        weights = np.stack([self.weights.at(level) for level in levels])
        # Of the signal-to-noise ratio at t, the share that a step from s has yet to gain.
        share = snr[:-1, None] / np.where(snr > 0, snr, np.inf)
        lost = (alpha * (1 - share)) ** 2 * (spread @ weights.T)
        if self.wide:
            lost -= self._added(levels) * weights.sum(1)
        costs = np.zeros((len(levels), len(levels)))
        costs[:-1] = lost / self.weights.mean
        return costs

    def _added(self, levels: Sequence[Level]) -> Array:
        """β − β̃ of the step from level j to level k, (M − 1, M), 0 where k ≤ j or k is clean."""
        added = np.zeros((len(levels) - 1, len(levels)))
        for j, s in enumerate(levels[:-1]):
            for k in range(j + 1, len(levels) - 1):
                beta = conditional_variance(s, levels[k])
                added[j, k] = beta * (1 - (levels[k].sigma / s.sigma) ** 2)
        return added


def best_path(costs: Array, steps: int) -> list[int]:
    """The indices of the cheapest way from the first place to the last in so many steps.

    costs (M, M): of a step from place j to place k. The way with the least sum is found by dynamic
    programming in M² · steps operations. Raises InputError where there is no such way.
    """
    total, before = costs[0].copy(), []
    for _ in range(steps - 1):
        through = total[:, None] + costs
        before.append(through.argmin(0))
        total = through.min(0)
    if not np.isfinite(total[-1]):
        raise InputError(f"there is no way of {steps} steps through {len(costs) - 1} levels")
    path = [len(costs) - 1]
    for choice in reversed(before):
        path.append(int(choice[path[-1]]))
    return [0, *reversed(path)]


@dataclass(frozen=True)
class Images:
    """What of images the weights are fitted to.

    square (N, D): d_i². value (N,): S. high (D,): which directions are above a quarter of a cycle
    per pixel. end (D,): S as a weighted sum of the d_i², where it is one.
    """

    square: Array
    value: Array
    high: NDArray[np.bool_]
    end: Array | None

    @classmethod
    def of(cls, images: Array, mean: Array, objective: str | Objective) -> "Images":
        """Those of images (N, *shape) with a mean image (*shape).

        Raises InputError for an unknown objective, and for a function that does not return N
        finite numbers that differ and whose mean is not 0.
        """
        directions = Directions(mean.shape)
        flat = torch.from_numpy(np.asarray(images - mean, dtype=np.float64)).flatten(1)
        square, high = directions(flat).square().numpy(), directions.high
        end = {"gap": np.ones(len(high)), "hf": high.astype(np.float64)}.get(str(objective))
        if end is None:
            return cls(square, _of_objective(objective, images), high, None)
        if not end.any():
            raise InputError("these states have no axis of space, and so no high frequencies")
        return cls(square, square @ end, high, end)


def _of_objective(objective: str | Objective, images: Array) -> Array:
    """S (N,) of images (N, *shape)."""
    if isinstance(objective, str) or not callable(objective):
        raise InputError(
            f"unknown objective {objective!r:.60}: allowed are {', '.join(OBJECTIVES)} and a"
            " function of images (N, *shape) that returns N numbers"
        )
    value = np.asarray(objective(images), dtype=np.float64)
    if value.shape != (len(images),):
        raise InputError(
            f"the objective returned shape {value.shape} for {len(images)} images: it returns one"
            " number for each"
        )
    if not np.isfinite(value).all():
        raise InputError("the objective returned NaN or Inf: it must return finite numbers")
    if value.mean() == 0 or np.ptp(value) == 0:
        raise InputError(
            "the objective's numbers are all the same, or their mean is 0: a relative error of them"
            " says nothing"
        )
    return value
