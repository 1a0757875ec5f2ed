"""x̂_t against x_t: the state error ξ_t = x̂_t − x_t of the chain against the teacher chain on the same noise.

Both chains start at one point and meet the same noise; they differ in that one believes the network and the other
knows x_0. ξ_t is therefore zero at the start and grows to x̂_0 − x_0. It is not zero for a perfect denoiser, which does
not know x_0 either: at the end of a perfect ancestral chain E ξ² is twice the posterior variance (design §4.2). The
Gaussian reference beside it says how much a perfect denoiser would show on Gaussian data of the same covariance.
"""

from collections.abc import Callable

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.jackknife import Array, grouped, jackknife, why_no_interval, with_errors
from exposure_bias.errors import InputError
from exposure_bias.recording import Recording
from exposure_bias.references import gaussian_of
from exposure_bias.statistics.histogram import error_edges

PIXELS = ("step", "channel", "y", "x")


def state_error(recording: Recording) -> xr.Dataset:
    """Mean, standard deviation and RMSE of ξ_t per level and pixel, pooled over pixels, and its histogram.

    Returns, over (step, channel, y, x): mean, std, rmse; over (step): pooled_mean, pooled_std (√ of the mean variance),
    pooled_rmse; all in the data's units and with `_se` partners (of a seeded subset of pixels only, NaN elsewhere,
    where the recording is too large to group them all). rmse_gaussian, pooled_rmse_gaussian: the Gaussian reference,
    if the sampler has one. scale (step): √(α²σ̄² + σ²), the state's own spread. histogram (step, histogram_pixel, bin):
    counts, with bin_edges (step, edge) in the data's units, the outer bins open.

    Raises InputError for a recording without a chain, or from pure noise, where nothing is paired.
    """
    chain = recording["chain"]
    if not recording.paired:
        raise InputError(
            'state_error compares x̂_t with its own x_t, but this recording starts from noise: record with start="data"'
        )
    count = chain["count"].values
    estimates = _moments(count.sum(), chain["error_sum"].values, chain["error_square"].values)
    errors = [np.full(estimates[0].shape, np.nan) for _ in estimates]
    group_sum, group_square = grouped(chain, "error_group_sum"), grouped(chain, "error_group_square")
    for error, (_, se) in zip(errors, _jackknife_each(_moments, count, group_sum, group_square), strict=True):
        error.reshape(len(error), -1)[:, chain["pixel"].values] = se
    result = xr.Dataset(coords={k: chain[k] for k in ("step", "timestep", "alpha", "sigma", "histogram_pixel")})
    names = ("mean", "std", "rmse")
    result = with_errors(result, PIXELS, **dict(zip(names, zip(estimates, errors, strict=True), strict=True)))
    # The values are those of all pixels; a large recording has errors of a subset alone.
    flat = (chain[name].values.reshape(len(estimates[0]), -1) for name in ("error_sum", "error_square"))
    values, pooled = _pooled(count.sum(), *flat), _jackknife_each(_pooled, count, group_sum, group_square)
    result = with_errors(
        result,
        ("step",),
        **{f"pooled_{k}": (v, se) for k, v, (_, se) in zip(names, values, pooled, strict=True)},
    )
    variance = float(recording["data"]["variance"].mean())
    result["scale"] = np.sqrt(chain["alpha"] ** 2 * variance + chain["sigma"] ** 2)
    result["histogram"] = chain["error_histogram"].rename()
    result["bin_edges"] = result["scale"] * xr.DataArray(error_edges(), dims="edge")
    reference = gaussian_of(recording)
    if reference is not None:
        square = reference["error_mean"] ** 2 + reference["error_variance"]
        result["rmse_gaussian"] = (PIXELS, np.sqrt(square.values))
        result["pooled_rmse_gaussian"] = ("step", np.sqrt(square.mean(PIXELS[1:]).values))
    result.attrs = recording.description | why_no_interval(count)
    return result


def _moments(n: float, total: Array, square: Array) -> tuple[Array, Array, Array]:
    mean, mean_square = total / n, square / n
    return mean, np.sqrt(np.maximum(mean_square - mean**2, 0)), np.sqrt(mean_square)


def _pooled(n: float, total: Array, square: Array) -> tuple[Array, Array, Array]:
    mean, mean_square = total / n, square / n
    variance = (mean_square - mean**2).mean(-1)
    return mean.mean(-1), np.sqrt(np.maximum(variance, 0)), np.sqrt(mean_square.mean(-1))


def _jackknife_each(
    estimate: Callable[..., tuple[Array, ...]], count: Array, *sums: Array
) -> list[tuple[Array, Array]]:
    """`jackknife` of a function that returns several arrays of one shape."""
    value, error = jackknife(lambda n, *totals: np.stack(estimate(n, *totals)), count, *sums)
    return list(zip(value, error, strict=True))
