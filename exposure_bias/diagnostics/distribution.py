"""The shape of chain errors, pixel by pixel: mean, ν_t, skewness, kurtosis."""

import numpy as np
import xarray as xr

from exposure_bias.jackknife import (
    Array,
    Estimate,
    Groups,
    jackknife,
    sums_by_group,
    why_no_interval,
    with_estimates,
)
from exposure_bias.states import axes_of

BY_PIXEL = ("mean", "std", "skewness", "kurtosis")


def distribution(errors: xr.Dataset) -> xr.Dataset:
    """Add the moments of `error` to the dataset that `chain_errors` makes.

    error: (length, sample, *state axes).

    Adds mean, std (divisor n), skewness and kurtosis (excess; both 0 for a Gaussian) over (length,
    *state axes); nu, the mean over pixels of std (Ning et al.'s ν_t), and pooled_rmse over
    (length); all with `_se` partners by jackknife over groups of images. A pixel that never varies
    has skewness and kurtosis NaN.
    """
    axes = ("length", *axes_of(errors["error"].dims))
    error = errors["error"].transpose("sample", *axes).values.astype(np.float64)
    images = errors["image"].values
    count = Groups(images).count
    # Powers of deviations from the overall mean, so that the jackknife's shifts are small and
    # nothing cancels.
    centre = error.mean(0)
    deviation = error - centre
    sums = [sums_by_group(deviation**power, images) for power in (1, 2, 3, 4)]

    def moments(n: float, *totals: Array) -> Array:
        m1, m2, m3, m4 = (t / n for t in totals)
        variance = np.maximum(m2 - m1**2, 0)
        third = m3 - 3 * m1 * m2 + 2 * m1**3
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        with np.errstate(divide="ignore", invalid="ignore"):
            skewness = np.where(variance > 0, third / variance**1.5, np.nan)
            kurtosis = np.where(variance > 0, fourth / variance**2 - 3, np.nan)
        return np.stack([centre + m1, np.sqrt(variance), skewness, kurtosis])

    def pooled(n: float, *totals: Array) -> Array:
        mean, std = moments(n, *totals)[:2].reshape(2, len(centre), -1)
        return np.stack([std.mean(-1), np.sqrt((mean**2 + std**2).mean(-1))])

    result = with_estimates(errors, axes, **_named(BY_PIXEL, jackknife(moments, count, *sums)))
    totals = _named(("nu", "pooled_rmse"), jackknife(pooled, count, *sums))
    result = with_estimates(result, ("length",), **totals)
    result.attrs = errors.attrs | {"n": str(len(images))} | why_no_interval(count)
    return result


def _named(names: tuple[str, ...], several: Estimate) -> dict[str, Estimate]:
    """Estimates of several numbers that were made as one, by name."""
    return {name: Estimate(several.value[i], several.error[i]) for i, name in enumerate(names)}
