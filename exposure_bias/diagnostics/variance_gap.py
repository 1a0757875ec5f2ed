"""Is the chain's state as spread as x_t is? The variance gap, the mean shift and the covariance gap.

The forward process has Var_i(x_t) = α_t² σ_i² + σ_t² at pixel i, with σ_i² the variance of the data given to `record`.
With the chain's own Var_i(x̂_t), the

    gap_t = Σ_i Var_i(x̂_t) / Σ_i (α_t² σ_i² + σ_t²) − 1

is zero for an exact sampler on any data, where the published δ_t is not (design §4.3). Beside it stand the gap against
independent forward draws, the gap along the data's top eigen-directions v_k, whose target is α²λ_k + σ², and the shift
of the mean, as the unbiased estimate

    mean_i (m_i² − Var_i / n),      m_i = the mean of x̂_t − α_t μ at pixel i,

of its square (it may come out negative). A solver of few steps has a gap without any model error: the Gaussian
reference shows how large, for Gaussian data.
"""

from functools import partial

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.excess import reference_of
from exposure_bias.diagnostics.jackknife import Array, grouped, jackknife, why_no_interval, with_errors, with_interval
from exposure_bias.errors import InputError
from exposure_bias.recording import Recording

PIXELS = ("step", "channel", "y", "x")


def variance_gap(recording: Recording) -> xr.Dataset:
    """The chain's variance against α²σ_i² + σ² and against the forward stream, and its mean against α_t μ.

    Returns, over (step): gap; gap_forward, against the variance of the forward stream if that was recorded (its `_se`
    is that of the ratio's logarithm); mean_shift, in squared data units per pixel. Each has `_se`, a 95 % interval
    `_low`, `_high` and a band `_band_low`, `_band_high` for claims over all levels. gap_channel over (step, channel);
    gap_direction over (step, direction), the data's top 16 eigen-directions; gap_pixel over (step, channel, y, x); and
    the absolute gaps Var − (α²σ² + σ²) in squared data units, gap_absolute (mean over pixels) and gap_absolute_pixel;
    all with `_se`, NaN at pixels that a large recording does not keep by group. Means over pixels of the standard
    deviations: std_chain, std_reference (√ of the target) and std_forward.

    gap_gaussian, gap_channel_gaussian, gap_direction_gaussian, std_gaussian: the Gaussian reference, without clipping;
    excess_over_gaussian = gap − gap_gaussian. The attribute no_reference says why there is none (guidance, a sampler
    without closed form); no_ratio counts the pixels that are constant in the data, which have absolute gaps alone.

    Source: design §4.3 and §4.4. Raises InputError for a recording without a chain, or of a single sample.
    """
    chain, data = recording["chain"], recording["data"]
    n, count, kept = recording.n, chain["count"].values, chain["pixel"].values
    if n < 2:
        raise InputError("a variance needs at least 2 samples, and an interval 256 of as many images: this is 1 sample")
    data_variance = data["variance"].values.ravel()
    alpha, sigma = chain["alpha"].values[:, None], chain["sigma"].values[:, None]
    target = alpha**2 * data_variance + sigma**2
    total, by_group = _sums(chain), _group_sums(chain)
    variance = _variance(n, *total)
    result = xr.Dataset(coords={k: chain[k] for k in ("step", "timestep", "alpha", "sigma")})

    pools = _pools(data["variance"].shape)
    gap = partial(_pooled_gap, target=target[:, kept], pools=pools[kept])
    whole = _pooled_gap(n, *total, target=target, pools=pools)
    result = with_interval(
        result, ("step",), "gap", lambda *sums: gap(*sums)[:, 0], count, *by_group, value=whole[:, 0]
    )
    result = with_errors(
        result, ("step", "channel"), gap_channel=(whole[:, 1:], jackknife(gap, count, *by_group)[1][:, 1:])
    )
    shift = _mean_shift(n, *total)
    result = with_interval(result, ("step",), "mean_shift", _mean_shift, count, *by_group, value=shift)
    if "forward" in recording:
        forward = recording["forward"]
        ratio, both = _log_ratio(n, *total, *_sums(forward)), (*by_group, *_group_sums(forward))
        result = with_interval(
            result, ("step",), "gap_forward", _log_ratio, count, *both, value=ratio, transform=np.expm1
        )
        result["std_forward"] = ("step", np.sqrt(_variance(n, *_sums(forward))).mean(1))

    se = np.full(target.shape, np.nan)
    se[:, kept] = jackknife(_variance, count, *by_group)[1]
    images = (len(target), *data["variance"].shape)
    relative_to = np.where(data_variance > 0, target, np.nan)
    result = with_errors(
        result,
        PIXELS,
        gap_absolute_pixel=((variance - target).reshape(images), se.reshape(images)),
        gap_pixel=((variance / relative_to - 1).reshape(images), (se / relative_to).reshape(images)),
    )
    mean_se = jackknife(_mean_variance, count, *by_group)[1]
    result = with_errors(result, ("step",), gap_absolute=((variance - target).mean(1), mean_se))
    result["std_chain"], result["std_reference"] = (("step", np.sqrt(v).mean(1)) for v in (variance, target))

    along = alpha**2 * data["eigenvalue"].values[: chain.sizes["direction"]] + sigma**2
    direction_gap = partial(_gap, target=along)
    projected = [grouped(chain, f"state_projection_{part}") for part in ("sum", "square")]
    result = with_errors(result, ("step", "direction"), gap_direction=jackknife(direction_gap, count, *projected))
    result, reasons = _with_reference(result, recording, pools)
    result.attrs = recording.description | why_no_interval(count) | reasons | _why_no_ratio(data_variance)
    return result


def _sums(stream: xr.Dataset) -> tuple[Array, Array]:
    """Σ d and Σ d² over all samples, (step, D)."""
    steps = stream.sizes["step"]
    return stream["state_sum"].values.reshape(steps, -1), stream["state_square"].values.reshape(steps, -1)


def _group_sums(stream: xr.Dataset) -> tuple[Array, Array]:
    """The same by group, at the pixels that are kept by group, (group, step, pixel)."""
    return grouped(stream, "state_group_sum"), grouped(stream, "state_group_square")


def _pools(shape: tuple[int, ...]) -> Array:
    """(D, 1 + C): which pixels belong to the whole image, and which to each channel."""
    channels = np.repeat(np.eye(shape[0]), shape[1] * shape[2], axis=0)
    return np.hstack([np.ones((len(channels), 1)), channels])


def _variance(n: float, total: Array, square: Array) -> Array:
    return np.maximum(square - total**2 / n, 0) / (n - 1)


def _mean_variance(n: float, total: Array, square: Array) -> Array:
    mean: Array = _variance(n, total, square).mean(1)
    return mean


def _relative(value: Array, target: Array) -> Array:
    """value/target − 1, NaN where the target is zero."""
    return np.divide(value, target, out=np.full_like(value, np.nan), where=target > 0) - 1


def _gap(n: float, total: Array, square: Array, *, target: Array) -> Array:
    return _relative(_variance(n, total, square), target)


def _pooled_gap(n: float, total: Array, square: Array, *, target: Array, pools: Array) -> Array:
    return _relative(_variance(n, total, square) @ pools, target @ pools)


def _mean_shift(n: float, total: Array, square: Array) -> Array:
    shift: Array = ((total / n) ** 2 - _variance(n, total, square) / n).mean(1)
    return shift


def _log_ratio(n: float, *sums: Array) -> Array:
    """log Σ_i Var_i of the first two sums (total, square) over that of the other two; NaN where either vanishes."""
    above, below = (_mean_variance(n, *pair) for pair in (sums[:2], sums[2:]))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log(above / below)
    return np.where(np.isfinite(ratio), ratio, np.nan)


def _with_reference(result: xr.Dataset, recording: Recording, pools: Array) -> tuple[xr.Dataset, dict[str, str]]:
    reference, reasons = reference_of(recording)
    if reference is None:
        return result, reasons
    variance, target = (reference[k].values.reshape(len(result["step"]), -1) for k in ("variance", "forward_variance"))
    pooled = _relative(variance @ pools, target @ pools)
    modes = [reference[f"mode_{k}"].values[:, : result.sizes["direction"]] for k in ("variance", "forward_variance")]
    result = result.assign(
        gap_gaussian=("step", pooled[:, 0]),
        gap_channel_gaussian=(("step", "channel"), pooled[:, 1:]),
        gap_direction_gaussian=(("step", "direction"), _relative(*modes)),
        std_gaussian=("step", np.sqrt(variance).mean(1)),
    )
    excess = (result["gap"] - result["gap_gaussian"], result["gap_se"])
    return with_errors(result, ("step",), excess_over_gaussian=(excess[0].values, excess[1].values)), reasons


def _why_no_ratio(data_variance: Array) -> dict[str, str]:
    constant = int((data_variance == 0).sum())
    if not constant:
        return {}
    return {"no_ratio": f"{constant} of {len(data_variance)} pixels are constant in the data: absolute gaps only there"}
