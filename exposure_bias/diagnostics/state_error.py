"""x̂_t against x_t: the state error ξ_t = x̂_t − x_t of the chain.

Against the teacher chain on the same noise.

Both chains start at one point and meet the same noise; they differ in that one believes the network
and the other knows x_0. ξ_t is therefore zero at the start and grows to x̂_0 − x_0. It is not zero
for a perfect denoiser, which does not know x_0 either: at the end of a perfect ancestral chain E ξ²
is twice the posterior variance. The Gaussian reference beside it says how much a
perfect denoiser would show on Gaussian data of the same covariance.
"""

import numpy as np
import xarray as xr

from exposure_bias.errors import InputError
from exposure_bias.jackknife import (
    Array,
    Estimate,
    grouped,
    jackknife,
    why_no_interval,
    with_estimates,
)
from exposure_bias.recording import Recording
from exposure_bias.references import gaussian_of
from exposure_bias.results import Column, Drawing, Kind, Term, returns
from exposure_bias.results.numbers import missing, told
from exposure_bias.results.tables import level_in_words
from exposure_bias.results.terms import COUNT, DATA
from exposure_bias.states import dimensions
from exposure_bias.statistics.histogram import error_edges

NAMES = ("mean", "std", "rmse")


def _sentence(states: xr.Dataset) -> str:
    end = states.isel(step=-1)
    size, where = told(end, "pooled_rmse"), level_in_words(end)
    lack = missing(end, "pooled_rmse")
    return f"State errors grow to an RMSE of {size} data units at {where}{lack}."


STATE_ERROR = Kind(
    name="state_error",
    title="Distance from the true chain",
    question=(
        "How far is the chain from the true noisy image that it should have reached with the same"
        " noise? A perfect network has some distance as well: it cannot know the image."
    ),
    variables={
        "mean": Term("mean state error", DATA, "Mean over samples of x̂_t − x_t at a pixel."),
        "std": Term("spread of state errors", DATA, "Standard deviation of x̂_t − x_t at a pixel."),
        "rmse": Term("size of state errors", DATA, "Root mean square of x̂_t − x_t at a pixel."),
        "pooled_mean": Term("mean state error", DATA, "Mean of x̂_t − x_t over all pixels."),
        "pooled_std": Term("spread of state errors", DATA, "√ of the mean variance of x̂_t − x_t."),
        "pooled_rmse": Term(
            "size of state errors", DATA, "Root mean square of x̂_t − x_t over all pixels."
        ),
        "scale": Term("spread of a state", DATA, "√(α² σ̄² + σ²): how wide states are anyway."),
        "histogram": Term("histogram of state errors", COUNT, "Samples in each bin; ends open."),
        "histogram_pixel": Term("pixel", COUNT, "Flat index of a pixel that has a histogram."),
        "bin_edges": Term("edges of the bins", DATA, "Of the histogram of x̂_t − x_t."),
    },
    columns=(
        Column("mean (data units)", "pooled_mean", signed=True),
        Column("std (data units)", "pooled_std"),
        Column("RMSE (data units)", "pooled_rmse"),
        Column("RMSE, Gaussian reference", "pooled_rmse_gaussian"),
        Column("spread of a state", "scale"),
    ),
    sentence=_sentence,
    figures=(Drawing("exposure_bias.plots:state_error"),),
    needs={"pooled_rmse": ("step",)},
)


@returns(STATE_ERROR)
def state_error(recording: Recording) -> xr.Dataset:
    """Mean, standard deviation and RMSE of ξ_t per level and pixel.

    Pooled over pixels too, and its histogram.

    Returns, over (step, *state axes): mean, std, rmse; over (step): pooled_mean, pooled_std (√ of
    the mean variance), pooled_rmse; all in the data's units and with `_se` partners (of a seeded
    subset of pixels only, NaN elsewhere, where the recording is too large to group them all).
    rmse_gaussian, pooled_rmse_gaussian: the Gaussian reference, if the sampler has one. scale
    (step): √(α²σ̄² + σ²), the state's own spread. histogram (step, histogram_pixel, bin): counts,
    with bin_edges (step, edge) in the data's units, the outer bins open.

    Raises InputError for a recording without a chain, or from pure noise, where nothing is paired.
    """
    chain = recording["chain"]
    if not recording.paired:
        raise InputError(
            "state_error compares x̂_t with its own x_t, but this recording starts from noise:"
            ' record with start="data"'
        )
    count = chain["count"].values
    result = xr.Dataset(
        coords={k: chain[k] for k in ("step", "timestep", "alpha", "sigma", "histogram_pixel")}
    )
    result = _with_pixels(result, chain)
    result = _with_pooled(result, chain)
    spread = float(recording["data"]["variance"].mean())
    result["scale"] = np.sqrt(chain["alpha"] ** 2 * spread + chain["sigma"] ** 2)
    result["histogram"] = chain["error_histogram"].rename()
    result["bin_edges"] = result["scale"] * xr.DataArray(error_edges(), dims="edge")
    reference = None if recording.run.no_reference else gaussian_of(recording)
    if reference is not None:
        square = reference["error_mean"] ** 2 + reference["error_variance"]
        result["rmse_gaussian"] = (square.dims, np.sqrt(square.values))
        result["pooled_rmse_gaussian"] = ("step", np.sqrt(square.mean(square.dims[1:]).values))
    result.attrs = recording.description | why_no_interval(count)
    return result


def _with_pixels(result: xr.Dataset, chain: xr.Dataset) -> xr.Dataset:
    """mean, std and rmse by pixel; errors of the pixels that are kept by group."""
    count, everywhere = chain["count"].values, chain["error_sum"]
    values = _moments(count.sum(), everywhere.values, chain["error_square"].values)
    kept = jackknife(_moments, count, *_by_group(chain)).error
    axes = ("step", *dimensions(everywhere.shape[1:]))
    for name, value, mine in zip(NAMES, values, kept, strict=True):
        error = np.full(value.shape, np.nan)
        error.reshape(len(error), -1)[:, chain["pixel"].values] = mine
        result = with_estimates(result, axes, **{name: Estimate(value, error)})
    return result


def _with_pooled(result: xr.Dataset, chain: xr.Dataset) -> xr.Dataset:
    """The same over all pixels; a large recording has errors of a subset alone."""
    count, steps = chain["count"].values, chain.sizes["step"]
    flat = (chain[name].values.reshape(steps, -1) for name in ("error_sum", "error_square"))
    values = _pooled(count.sum(), *flat)
    errors = jackknife(_pooled, count, *_by_group(chain)).error
    found = {f"pooled_{k}": Estimate(v, e) for k, v, e in zip(NAMES, values, errors, strict=True)}
    return with_estimates(result, ("step",), **found)


def _by_group(chain: xr.Dataset) -> tuple[Array, Array]:
    return grouped(chain, "error_group_sum"), grouped(chain, "error_group_square")


def _moments(n: float, total: Array, square: Array) -> Array:
    """mean, std, rmse, one after another."""
    mean, mean_square = total / n, square / n
    return np.stack([mean, np.sqrt(np.maximum(mean_square - mean**2, 0)), np.sqrt(mean_square)])


def _pooled(n: float, total: Array, square: Array) -> Array:
    """The same over the last axis, std being √ of the mean variance."""
    mean, mean_square = total / n, square / n
    variance = (mean_square - mean**2).mean(-1)
    return np.stack(
        [mean.mean(-1), np.sqrt(np.maximum(variance, 0)), np.sqrt(mean_square.mean(-1))]
    )
