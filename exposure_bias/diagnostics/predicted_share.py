"""What errors on true states will cost the samples: the arithmetic. No torch here.

With y = αx/σ², λ = SNR and u(y, λ) = E[S(end) | the exact chain is at y], the share of a network in
the gap of a statistic S is, to first order in its error f − m with m = E[x_0 | x_t],

    G∞ = ∫ E[(f − m) · ∇_y u] dλ = ∫ 2α E[(f − x_0) · ∇_x u] dh,     h = ln(α/σ),

because dλ = 2λ dh, ∇_y = (σ²/α) ∇_x, and x_0 − m is orthogonal to every function of x_t
(docs/mathematics.md, *The network's share*). Everything on the right is had from true states.

*The value function.* u(x_s) = E[S(x_N) | x_s], x_N being the state at the end of the chain, is
fitted by least squares at each level. Its features φ_p are powers in a band of what the end will
be: of the linear (Wiener) prediction, one for every reported band, and of the network's own, below
and above ¼ cycle per pixel. The network's enter as differences from the linear ones and are shrunk
by a ridge that cross-validation chooses, so that they cost nothing where they add nothing. The
coefficients that multiply an image's gradient come from the other groups of images.

*The control variate.* E[(w − x_0) · ∇φ_p] is zero for the linear prediction w and the linear
features. Its mean given x_0 is known, so it is subtracted without one, times the coefficient that
makes the variance least.

What is summed over samples, by group and level: `moments`, second moments of the vector
[1, φ_1 … φ_P, S_1 … S_J, C_1 … C_P, Z_1 … Z_J], with C_p = (f − x_0)·∇φ_p and Z_p the control; and
C and Z by the band in which the network errs, `contraction` (P, B) and `control` (J, B).
"""

from dataclasses import dataclass

import numpy as np

from exposure_bias.jackknife import GROUPS, Array, standard_error

RIDGES = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 1e4)
# Enough for features that are the same up to round-off, and too little to be seen.
TINY = 1e-10
FIRST_ORDER = 0.10
ROUND_OFF = 1e-7  # of the largest feature's deviation: below it a feature is constant


@dataclass(frozen=True)
class CostSums:
    """The sums over samples that the cost map is made of (module docstring).

    count (G, L); moments (G, L, K, K); contraction (G, L, P, B); control (G, L, J, B). step (L,):
    the weight of each level in ∫ 2α dh. The first J of the P features are the linear ones, by band.
    """

    count: Array
    moments: Array
    contraction: Array
    control: Array
    step: Array

    @property
    def bands(self) -> int:
        """J, how many bands of the end there are."""
        return int(self.control.shape[2])

    @property
    def features(self) -> int:
        """P, how many features u is fitted on."""
        return int(self.contraction.shape[2])


@dataclass(frozen=True)
class Cost:
    """The cost of errors on true states, and how it varies when a group of images is left out.

    value (J, L, B): the change of the power of the end's band j, relative to the expected power of
    that band, by level and by band of the error. deviations (G, J, L, B). power (J,): the expected
    power, and power_deviations (G, J).
    """

    value: Array
    deviations: Array
    power: Array
    power_deviations: Array

    def of(self, members: Array) -> tuple[Array, Array]:
        """The cost (L, B) of the power of some bands together, with its deviations (G, L, B).

        members: (J,), 1 for the bands that are meant.
        """
        value = _pooled(self.value, self.power * members)
        powers = self.power + self.power_deviations
        each = [
            _pooled(self.value + d, power * members)
            for d, power in zip(self.deviations, powers, strict=True)
        ]
        deviations = np.stack(each) - value
        return value, deviations - deviations.mean(0)


def _pooled(cost: Array, power: Array) -> Array:
    total: Array = np.einsum("jlb,j->lb", cost, power / power.sum())
    return total


def cost(sums: CostSums) -> Cost:
    """The cost map of sums by group: the fit, the contraction and the jackknife."""
    ridge = chosen_ridge(sums)
    control = control_coefficients(sums, ridge)
    value, power = _cost_without(sums, None, ridge, control)
    without = [_cost_without(sums, g, ridge, control) for g in range(GROUPS)]
    each, powers = (np.stack(parts) for parts in zip(*without, strict=True))
    return Cost(value, each - value, power, powers - power)


def error_of(deviations: Array) -> Array:
    """The standard error from deviations (G, …), whatever their mean."""
    return standard_error(deviations - deviations.mean(0))


def holds_first_order(cost_by_level: Array) -> bool:
    """Whether the shift of the samples stays small enough, at every level, for first order.

    cost_by_level: (L,), noisiest first.
    """
    return bool(np.abs(np.cumsum(cost_by_level)).max() <= FIRST_ORDER)


def _cost_without(
    sums: CostSums, left_out: int | None, ridge: Array, control: Array
) -> tuple[Array, Array]:
    """The cost (J, L, B) and the power (J,) of all groups but one."""
    groups = [g for g in range(GROUPS) if g != left_out and sums.count[g].min() > 0]
    j = sums.bands
    moments, count = sums.moments[groups].sum(0), sums.count[groups].sum(0)
    fitted = coefficients(moments - sums.moments[groups], ridge)
    share = np.einsum("gljp,glpb->jlb", fitted, sums.contraction[groups])
    share -= np.einsum("lj,gljp,glpb->jlb", control, fitted[..., :j], sums.control[groups])
    power = moments[:, 0, _of_end(sums)].sum(0) / count.sum()
    return share * (sums.step / count)[:, None] / power[:, None, None], power


def _of_end(sums: CostSums) -> slice:
    """Where the end's powers stand in the vector of moments."""
    return slice(1 + sums.features, 1 + sums.features + sums.bands)


def chosen_ridge(sums: CostSums) -> Array:
    """The ridge that predicts groups left out best, by level and band of the end: (L, J)."""
    p, j = sums.features, sums.bands
    if p == j:
        return np.full((len(sums.step), j), TINY)
    total = sums.moments.sum(0)
    losses = []
    for ridge in RIDGES:
        everywhere = np.full((len(sums.step), j), ridge)
        fitted, base = _fit(total - sums.moments, everywhere)
        losses.append(_losses(sums.moments, fitted, base, sums))
    best: Array = np.array(RIDGES)[np.argmin(losses, axis=0)]
    return best


def _losses(moments: Array, fitted: Array, base: Array, sums: CostSums) -> Array:
    """Σ (S_j − prediction)² over the groups left out, (L, J)."""
    p, j = sums.features, sums.bands
    residual = np.zeros((*fitted.shape[:-1], moments.shape[-1]))
    residual[..., 0] = -base
    residual[..., 1 : 1 + p] = -fitted
    residual[..., np.arange(j), 1 + p + np.arange(j)] = 1
    loss: Array = np.einsum("gljk,glkm,gljm->lj", residual, moments, residual)
    return loss


def coefficients(moments: Array, ridge: Array) -> Array:
    """Coefficients of the value function, (…, L, J, P), from second moments (…, L, K, K)."""
    return _fit(moments, ridge)[0]


def _fit(moments: Array, ridge: Array) -> tuple[Array, Array]:
    """Coefficients (…, L, J, P) and intercepts (…, L, J).

    ridge: (L, J), for the features beyond the first J, in units of their standard deviation.
    """
    j = ridge.shape[-1]
    count = moments[..., :1, :1]
    mean = moments[..., 0, :] / count[..., 0]
    covariance = moments / count - mean[..., :, None] * mean[..., None, :]
    p = _features(moments.shape[-1], j)
    features, end = slice(1, 1 + p), slice(1 + p, 1 + p + j)
    scale = np.sqrt(np.maximum(np.diagonal(covariance, axis1=-2, axis2=-1)[..., features], 0))
    largest = scale[..., :j].max(-1, keepdims=True)
    scale = np.where(scale > ROUND_OFF * largest, scale, np.inf)
    correlation = covariance[..., features, features] / (scale[..., :, None] * scale[..., None, :])
    cross = covariance[..., features, end] / scale[..., :, None]
    fitted = np.empty((*moments.shape[:-2], j, p))
    for band in range(j):
        penalty = np.full((len(ridge), p), TINY)
        penalty[:, j:] += ridge[:, band, None]
        matrix = correlation + _diagonal(penalty) + _diagonal((~np.isfinite(scale)).astype(float))
        found = np.linalg.solve(matrix, cross[..., band : band + 1])[..., 0]
        fitted[..., band, :] = found / scale
    base = mean[..., end] - np.einsum("...jp,...p->...j", fitted, mean[..., features])
    return fitted, base


def _features(width: int, bands: int) -> int:
    """P from K = 1 + 2P + 2J."""
    return (width - 1) // 2 - bands


def _diagonal(values: Array) -> Array:
    """Matrices with these diagonals, (…, P, P)."""
    matrices: Array = values[..., :, None] * np.eye(values.shape[-1])
    return matrices


def control_coefficients(sums: CostSums, ridge: Array) -> Array:
    """How much of the control is subtracted, by level and band of the end, (L, J).

    It is the regression of Σ_p β_p C_p on Σ_p β_p Z_p.
    """
    p, j = sums.features, sums.bands
    total = sums.moments.sum(0)
    fitted = coefficients(total, ridge)
    covariance = _covariance(total)
    gradients, controls = slice(1 + p + j, 1 + 2 * p + j), slice(1 + 2 * p + j, 1 + 2 * (p + j))
    both = covariance[:, gradients, controls]
    own = covariance[:, controls, controls]
    above = np.einsum("ljp,lpq,ljq->lj", fitted, both, fitted[..., :j])
    below = np.einsum("ljp,lpq,ljq->lj", fitted[..., :j], own, fitted[..., :j])
    found: Array = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return found


def _covariance(moments: Array) -> Array:
    count = moments[..., :1, :1]
    mean = moments[..., 0, :] / count[..., 0]
    covariance: Array = moments / count - mean[..., :, None] * mean[..., None, :]
    return covariance


def quadrature(h: Array) -> Array:
    """The weights of Simpson's rule on levels h, uneven ones too, in ascending order.

    The trapezoid's where some of Simpson's would be negative.
    """
    from scipy.integrate import simpson

    weights: Array = simpson(np.eye(len(h)), x=h, axis=1)
    if (weights > 0).all():
        return weights
    gaps = np.diff(h)
    plain: Array = (np.append(gaps, 0) + np.append(0, gaps)) / 2
    return plain
