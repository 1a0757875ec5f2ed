"""Is e_t white, and is it centred? What input perturbation assumes beside normality, and what a perfect sampler shows.

Input perturbation adds noise of equal variance that is independent from pixel to pixel. For the deviations d_i of e_t
from its mean image, over pixels i, and r_ij their correlations,

    correlation      mean over i ≠ j of r_ij², less its expectation 1/(n − 1) for independent pixels
    autocorrelation  Σ d_i d_{i+1} / Σ ½(d_i² + d_{i+1}²) over horizontal (or vertical) neighbours
    whiteness        power of d per DCT mode in each radial band, over its mean: 1 everywhere for white e_t

are 0, 0 and 1. A perfect sampler need not do that: its e_t is as correlated as the posterior of x_0. It has mean 0 and
skewness 0 at every pixel instead (design §4.11), hence

    bias             Σ_i m_i² − Σ_i Var_i/n over Σ_i Var_i, m the mean of e_t: the squared bias in units of the variance
    skewness         Σ_i E d_i³ / Σ_i Var_i^{3/2}
"""

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.jackknife import Array, jackknife, why_no_interval, with_errors
from exposure_bias.errors import InputError
from exposure_bias.statistics.accumulator import GROUPS
from exposure_bias.statistics.bands import dct


def isotropy(errors: xr.Dataset) -> xr.Dataset:
    """Whether the errors that `chain_errors` made are white and centred.

    Returns, over (length): correlation; autocorrelation_x and autocorrelation_y; bias; skewness; over (length,
    frequency): whiteness, over radial frequency in cycles per pixel. All with `_se` partners (jackknife over groups of
    images). Null values are in the module docstring. Pixels that never vary are left out of correlation; where pixels
    are independent its error is on the wide side (about √2 times), for the jackknife is made for what is not second
    order.

    Raises InputError for fewer than 3 samples, or for images smaller than 4 × 4, which have no spectrum.
    """
    error = errors["error"].transpose("length", "sample", "channel", "y", "x").values.astype(np.float64)
    lengths, samples, _, height, width = error.shape
    if samples < 3:
        raise InputError(f"correlations need at least 3 samples, got {samples}")
    bands = dct(height, width)
    label, modes = bands.label, bands.count[: len(bands.label)]
    group = errors["image"].values % GROUPS
    count = np.bincount(group, minlength=GROUPS).astype(np.float64)
    curves = {k: np.empty((2, lengths)) for k in ("correlation", *CURVES)}
    whiteness = np.empty((2, lengths, len(label)))
    for i, values in enumerate(error):
        d = values - values.mean(0)
        curves["correlation"][:, i] = _with_error(d.reshape(samples, -1), group, count)
        power = bands.power(d)[..., : len(label)].sum(1) / modes
        whiteness[:, i] = jackknife(_whiteness, count, _by_group(power, group), np.multiply.outer(count, modes))
        neighbours = [(d[..., :, :-1], d[..., :, 1:]), (d[..., :-1, :], d[..., 1:, :])]
        for name, (one, other) in zip(CURVES, neighbours, strict=False):
            sums = [v.sum((1, 2, 3)) for v in (one * other, (one**2 + other**2) / 2)]
            curves[name][:, i] = jackknife(_ratio, count, *(_by_group(v, group) for v in sums))
        powers = [_by_group(values.reshape(samples, -1) ** k, group) for k in (1, 2, 3)]
        for name, estimate in (("bias", _bias), ("skewness", _skewness)):
            curves[name][:, i] = jackknife(estimate, count, *powers)
    result = xr.Dataset(coords={"length": errors["length"], "frequency": label})
    result = with_errors(result, ("length",), **{k: (v[0], v[1]) for k, v in curves.items()})
    result = with_errors(result, ("length", "frequency"), whiteness=(whiteness[0], whiteness[1]))
    result.attrs = errors.attrs | {"n": str(samples)} | why_no_interval(count)
    return result


CURVES = ("autocorrelation_x", "autocorrelation_y", "bias", "skewness")


def _by_group(values: Array, group: Array) -> Array:
    """Sums over the samples (the first axis) of each group."""
    return np.stack([values[group == g].sum(0) for g in range(GROUPS)])


def _with_error(d: Array, group: Array, count: Array) -> tuple[float, float]:
    """`_correlation` and its standard error; a group's samples leave it one group at a time."""
    if why_no_interval(count):
        return _correlation(d), float("nan")
    without = np.array([_correlation(d[group != g]) for g in range(GROUPS)])
    return _correlation(d), float(np.sqrt(GROUPS - 1) * without.std())


def _correlation(d: Array) -> float:
    """Mean of r_ij² over i ≠ j less 1/(n − 1), for samples (n, pixels)."""
    d = d - d.mean(0)
    spread = d.std(0)
    z = d[:, spread > 0] / spread[spread > 0]
    n, pixels = z.shape
    if pixels < 2:
        return float("nan")
    # ‖zᵀz‖² = ‖z zᵀ‖²: whichever matrix is smaller.
    product = z.T @ z if pixels <= n else z @ z.T
    return float((np.square(product).sum() / n**2 - pixels) / (pixels * (pixels - 1)) - 1 / (n - 1))


def _ratio(_: float, above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _whiteness(_: float, power: Array, modes: Array) -> Array:
    weights = modes / modes.sum()
    mean = (power * weights).sum()
    return power / mean if mean > 0 else np.full_like(power, np.nan)


def _bias(n: float, total: Array, square: Array, _: Array) -> Array:
    variance = np.maximum(square - total**2 / n, 0) / (n - 1)
    return _ratio(n, ((total / n) ** 2 - variance / n).sum(keepdims=True), variance.sum(keepdims=True))[0]


def _skewness(n: float, total: Array, square: Array, cube: Array) -> Array:
    m1, m2, m3 = total / n, square / n, cube / n
    variance = np.maximum(m2 - m1**2, 0)
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    return _ratio(n, third.sum(keepdims=True), (variance**1.5).sum(keepdims=True))[0]
