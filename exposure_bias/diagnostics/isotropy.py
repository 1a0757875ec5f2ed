"""Is e_t white, as input perturbation assumes beside normality?

Is it centred, as of a perfect sampler?

Input perturbation adds noise of equal variance that is independent from pixel to pixel. For the
deviations d_i of e_t from its mean image, over pixels i, and r_ij their correlations,

- correlation, the mean over i ≠ j of r_ij², less its expectation 1/(n − 1) for independent pixels,
- autocorrelation, Σ d_i d_{i+1} / Σ ½(d_i² + d_{i+1}²) over neighbours along an axis of space, and
- whiteness, the power of d per DCT mode in each radial band over its mean

are 0, 0 and 1 for white e_t. A perfect sampler need not do that: its e_t is as correlated as the
posterior of x_0. It has mean 0 and skewness 0 at every pixel instead (docs/mathematics.md), hence

- bias, Σ_i m_i² − Σ_i Var_i/n over Σ_i Var_i, m the mean of e_t: the squared bias in units of the
  variance,
- skewness, Σ_i E d_i³ / Σ_i Var_i^{3/2}.
"""

import numpy as np
import xarray as xr

from exposure_bias.errors import InputError
from exposure_bias.jackknife import (
    GROUPS,
    Array,
    Estimate,
    Groups,
    jackknife,
    ratio_of,
    sums_by_group,
    why_no_interval,
    with_estimates,
)
from exposure_bias.results import Column, Drawing, Kind, Table, Term, returns
from exposure_bias.results.numbers import missing, told
from exposure_bias.results.tables import tidy
from exposure_bias.results.terms import SHARE
from exposure_bias.states import axes_of
from exposure_bias.statistics.bands import dct


def _sentence(shape: xr.Dataset) -> str:
    longest = shape.drop_dims("frequency", errors="ignore").isel(length=-1)
    size, lack = told(longest, "correlation"), missing(longest, "correlation")
    return f"Errors of two pixels have a squared correlation of {size}{lack}."


def _tables(shape: xr.Dataset) -> list[Table]:
    """The two questions apart: input perturbation's assumption, and the perfect sampler's."""
    whole = tidy(shape, "length")
    centred = [c for c in whole if c.startswith(("length", "bias", "skewness"))]
    white = [c for c in whole if c not in centred[1:]]
    length = Column("chain length T′", "length")
    assumed = (
        length,
        Column("correlation of pixels", "correlation", signed=True),
        Column("of neighbours in x", "autocorrelation_x", signed=True),
        Column("of neighbours in y", "autocorrelation_y", signed=True),
    )
    perfect = (
        length,
        Column("squared bias over variance", "bias", signed=True),
        Column("skewness", "skewness", signed=True),
    )
    title = "assumption of input perturbation, white (null: 0)"
    return [
        Table("white", title, whole[white], assumed, main=True),
        Table("perfect_sampler", "perfect sampler (null: 0)", whole[centred], perfect),
    ]


ISOTROPY = Kind(
    name="isotropy",
    title="Shape of chain errors",
    question=(
        "Are errors white noise, as some corrections assume? Then their power is 1 at every"
        " frequency; a correlation above zero means that pixels err together."
    ),
    variables={
        "correlation": Term(
            "correlation between pixels",
            SHARE,
            "Mean squared correlation of two pixels' errors, above chance; 0 for white errors.",
        ),
        "autocorrelation": Term(
            "correlation of neighbours", SHARE, "Of errors at neighbouring pixels along an axis."
        ),
        "bias": Term(
            "squared bias",
            SHARE,
            "Squared mean of e_t over its variance; 0 for a perfect sampler.",
        ),
        "skewness": Term("skewness", SHARE, "Pooled over pixels; 0 for a perfect sampler."),
        "whiteness": Term(
            "whiteness", SHARE, "Power of e_t per mode over its mean, by frequency; 1 if white."
        ),
    },
    tables=_tables,
    sentence=_sentence,
    figures=(Drawing("exposure_bias.plots:normality", needs=("whiteness",)),),
    needs={"correlation": ("length",), "bias": ("length",), "skewness": ("length",)},
)


@returns(ISOTROPY)
def isotropy(errors: xr.Dataset) -> xr.Dataset:
    """Whether the errors that `chain_errors` made are white and centred.

    Returns, over (length): correlation; for each axis of space autocorrelation_x,
    autocorrelation_y, …; bias; skewness; over (length, frequency): whiteness, over radial frequency
    in cycles per pixel. All with `_se` partners (jackknife over groups of images). Null values are
    in the module docstring. Pixels that never vary are left out of correlation; where pixels are
    independent its error is on the wide side (about √2 times), for the jackknife is made for what
    is not second order. Vectors have no neighbours and no whiteness, as the attribute no_space
    says.

    Raises InputError for fewer than 3 samples.
    """
    axes = axes_of(errors["error"].dims)
    error = errors["error"].transpose("length", "sample", *axes).values.astype(np.float64)
    if error.shape[1] < 3:
        raise InputError(f"correlations need at least 3 samples, got {error.shape[1]}")
    images = errors["image"].values
    count = Groups(images).count
    each = [_of_length(values, images, count, axes[1:]) for values in error]
    result = xr.Dataset(coords={"length": errors["length"]})
    for name in each[0]:
        found = [curves[name] for curves in each]
        stacked = Estimate(np.stack([f.value for f in found]), np.stack([f.error for f in found]))
        dims = ("length", "frequency") if name == "whiteness" else ("length",)
        result = with_estimates(result, dims, **{name: stacked})
    reasons = {} if len(axes) > 1 else {"no_space": "vectors have no neighbours and no frequencies"}
    if len(axes) > 1:
        result = result.assign_coords(frequency=dct(*error.shape[3:]).label)
    result.attrs = errors.attrs | {"n": str(error.shape[1])} | why_no_interval(count) | reasons
    return result


def _of_length(
    values: Array, images: Array, count: Array, space: tuple[str, ...]
) -> dict[str, Estimate]:
    """Every number of one length's errors (sample, *state axes)."""
    d = values - values.mean(0)
    samples = len(d)
    group = images % GROUPS
    found = {"correlation": Estimate(*_with_error(d.reshape(samples, -1), group, count))}
    for axis, name in enumerate(space, start=2):
        found[f"autocorrelation_{name}"] = _autocorrelation(d, axis, images, count)
    powers = [sums_by_group(values.reshape(samples, -1) ** k, images) for k in (1, 2, 3)]
    found["bias"] = jackknife(_bias, count, *powers)
    found["skewness"] = jackknife(_skewness, count, *powers)
    if space:
        bands = dct(*values.shape[2:])
        width = len(bands.label)
        modes = bands.count[:width]
        power = bands.power(d)[..., :width].sum(1) / modes
        weights = np.multiply.outer(count, modes)
        found["whiteness"] = jackknife(_whiteness, count, sums_by_group(power, images), weights)
    return found


def _autocorrelation(d: Array, axis: int, images: Array, count: Array) -> Estimate:
    """Of neighbours along an axis; NaN where there are none."""
    one, other = np.delete(d, -1, axis), np.delete(d, 0, axis)
    everything = tuple(range(1, d.ndim))
    together = sums_by_group((one * other).sum(everything), images)
    apart = sums_by_group(((one**2 + other**2) / 2).sum(everything), images)
    return jackknife(ratio_of, count, together, apart)


def _with_error(d: Array, group: Array, count: Array) -> tuple[Array, Array]:
    """`_correlation` and its standard error; a group's samples leave it one group at a time."""
    value = np.asarray(_correlation(d))
    if why_no_interval(count):
        return value, np.asarray(np.nan)
    without = np.array([_correlation(d[group != g]) for g in range(GROUPS)])
    return value, np.asarray(np.sqrt(GROUPS - 1) * without.std())


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


def _whiteness(_: float, power: Array, modes: Array) -> Array:
    weights = modes / modes.sum()
    mean = (power * weights).sum()
    return power / mean if mean > 0 else np.full_like(power, np.nan)


def _bias(n: float, total: Array, square: Array, _: Array) -> Array:
    variance = np.maximum(square - total**2 / n, 0) / (n - 1)
    return ratio_of(n, ((total / n) ** 2 - variance / n).sum(), variance.sum())


def _skewness(n: float, total: Array, square: Array, cube: Array) -> Array:
    m1, m2, m3 = total / n, square / n, cube / n
    variance = np.maximum(m2 - m1**2, 0)
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    return ratio_of(n, third.sum(), (variance**1.5).sum())
