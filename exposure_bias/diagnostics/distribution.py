"""The shape of chain errors, pixel by pixel: mean, ν_t, skewness, kurtosis."""

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.jackknife import Array, jackknife, why_no_interval, with_errors
from exposure_bias.statistics.accumulator import GROUPS

PIXELS = ("length", "channel", "y", "x")


def distribution(errors: xr.Dataset) -> xr.Dataset:
    """Add the moments of `error` (length, sample, channel, y, x) to the dataset that `chain_errors` makes.

    Adds mean, std (divisor n), skewness and kurtosis (excess; both 0 for a Gaussian) over (length, channel, y, x); nu,
    the mean over pixels of std (Ning et al.'s ν_t), and pooled_rmse over (length); all with `_se` partners by jackknife
    over groups of images. A pixel that never varies has skewness and kurtosis NaN.
    """
    error = errors["error"].transpose("sample", *PIXELS).values.astype(np.float64)
    group = errors["image"].values % GROUPS
    count = np.bincount(group, minlength=GROUPS).astype(np.float64)
    # Powers of deviations from the overall mean, so that the jackknife's shifts are small and nothing cancels.
    centre = error.mean(0)
    deviation = error - centre
    sums = []
    power = np.ones_like(error)
    for _ in range(4):
        power = power * deviation
        sums.append(np.stack([power[group == g].sum(0) for g in range(GROUPS)]))

    def moments(n: float, *totals: Array) -> Array:
        m1, m2, m3, m4 = (t / n for t in totals)
        variance = np.maximum(m2 - m1**2, 0)
        third = m3 - 3 * m1 * m2 + 2 * m1**3
        fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
        with np.errstate(divide="ignore", invalid="ignore"):
            shape = np.where(variance > 0, [third / variance**1.5, fourth / variance**2 - 3], np.nan)
        return np.stack([centre + m1, np.sqrt(variance), *shape])

    def pooled(n: float, *totals: Array) -> Array:
        mean, std, *_ = moments(n, *totals)
        pixels = (-3, -2, -1)
        return np.stack([std.mean(pixels), np.sqrt((mean**2 + std**2).mean(pixels))])

    each = dict(
        zip(("mean", "std", "skewness", "kurtosis"), zip(*jackknife(moments, count, *sums), strict=True), strict=True)
    )
    result = with_errors(errors, PIXELS, **each)
    total = dict(zip(("nu", "pooled_rmse"), zip(*jackknife(pooled, count, *sums), strict=True), strict=True))
    result = with_errors(result, ("length",), **total)
    result.attrs = errors.attrs | {"n": str(len(group))} | why_no_interval(count)
    return result
