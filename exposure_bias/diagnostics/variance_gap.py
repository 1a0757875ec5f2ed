"""Is the chain's state as spread as x_t is? The variance gap, the mean shift and the covariance gap.

The forward process has Var_i(x_t) = α_t² σ_i² + σ_t² at pixel i, with σ_i² the variance of the data given to `record`.
With the chain's own Var_i(x̂_t), the

    gap_t = Σ_i Var_i(x̂_t) / Σ_i (α_t² σ_i² + σ_t²) − 1

is zero for an exact sampler on any data, where the published δ_t is not (design §4.3). σ_i² is an estimate as well,
from the N images given. All errors count that (`diagnostics.target`): an interval is for the gap against the law that
the images were drawn from, not against these very images. Beside it stand the gap against independent forward draws,
the gap along the data's top eigen-directions v_k, whose target is α²λ_k + σ², and the shift of the mean, as the
estimate

    mean_i (m_i² − Var_i / n),      m_i = the mean of x̂_t − α_t μ at pixel i,

of its square (it may come out negative). λ_k is too large a target: v_k is turned to where the same images happen to
vary, and a recording holds no others. The gap along v_k is given only where that bias, to first order, is below half
the standard error. A solver of few steps has a gap without any model error: the Gaussian
reference shows how large, for Gaussian data.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.excess import reference_of
from exposure_bias.diagnostics.jackknife import Array, grouped, jackknife, why_no_interval, with_errors, with_interval
from exposure_bias.diagnostics.target import direction_variance, optimism, pixel_variance
from exposure_bias.errors import InputError
from exposure_bias.recording import Recording

PIXELS = ("step", "channel", "y", "x")
MOST_BIAS = 0.5  # of a standard error: a 95 % interval then holds the truth in 92 % at the worst


def variance_gap(recording: Recording) -> xr.Dataset:
    """The chain's variance against α²σ_i² + σ² and against the forward stream, and its mean against α_t μ.

    Returns, over (step): gap; gap_forward, against the variance of the forward stream if that was recorded (its `_se`
    is that of the ratio's logarithm); mean_shift, in squared data units per pixel. Each has `_se`, a 95 % interval
    `_low`, `_high` and a band `_band_low`, `_band_high` for claims over all levels. Gaps against α²σ_i² + σ² are
    intervals for the population: they count the sampling error of σ_i² too, and its correlation with a chain that
    remembers its image. gap_channel over (step, channel); gap_direction over (step, direction), the data's top 16
    eigen-directions, NaN where their eigenvalues are too biased a target (the attribute no_direction counts them);
    gap_pixel over (step, channel, y, x); and
    the absolute gaps Var − (α²σ² + σ²) in squared data units, gap_absolute (mean over pixels) and gap_absolute_pixel;
    all with `_se`, NaN at pixels that a large recording does not keep by group. Means over pixels of the standard
    deviations: std_chain, std_reference (√ of the target) and std_forward.

    gap_gaussian, gap_channel_gaussian, gap_direction_gaussian, std_gaussian: the Gaussian reference, without clipping;
    excess_over_gaussian = gap − gap_gaussian, with the gap's error. The attribute no_reference says why there is none
    (guidance, a sampler without closed form); no_ratio counts the pixels that are constant in the data, which have
    absolute gaps alone.

    Source: design §4.3 and §4.4. Raises InputError for a recording without a chain, or of a single sample.
    """
    chain, data = recording["chain"], recording["data"]
    n, count = recording.n, chain["count"].values
    if n < 2:
        raise InputError("a variance needs at least 2 samples, and an interval 256 of as many images: this is 1 sample")
    data_variance = data["variance"].values.ravel()
    alpha, sigma = chain["alpha"].values[:, None], chain["sigma"].values[:, None]
    target = alpha**2 * data_variance + sigma**2
    total, by_group = _sums(chain), _group_sums(chain)
    variance = _variance(n, *total)
    result = xr.Dataset(coords={k: chain[k] for k in ("step", "timestep", "alpha", "sigma")})

    pools = _pools(data["variance"].shape)
    gap = pooled_gap(recording)
    result = with_interval(
        result, ("step",), "gap", gap.estimate, count, *gap.sums, value=gap.value, further=gap.further
    )
    channels = pooled_gap(recording, pools[:, 1:])
    by_channel = np.hypot(jackknife(channels.estimate, count, *channels.sums)[1], channels.further)
    result = with_errors(result, ("step", "channel"), gap_channel=(channels.value, by_channel))
    shift = _mean_shift(n, *total)
    result = with_interval(result, ("step",), "mean_shift", _mean_shift, count, *by_group, value=shift)
    if "forward" in recording:
        forward = recording["forward"]
        ratio, both = _log_ratio(n, *total, *_sums(forward)), (*by_group, *_group_sums(forward))
        result = with_interval(
            result, ("step",), "gap_forward", _log_ratio, count, *both, value=ratio, transform=np.expm1
        )
        result["std_forward"] = ("step", np.sqrt(_variance(n, *_sums(forward))).mean(1))

    known, places = pixel_variance(recording)
    kept, sums = chain["pixel"].values[places], (*(part[..., places] for part in by_group), *known.sums)

    def difference(n: float, total: Array, square: Array, *images: Array) -> Array:
        return _variance(n, total, square) - alpha**2 * known.remaining(*images) - sigma**2

    def quotient(n: float, total: Array, square: Array, *images: Array) -> Array:
        return _relative(_variance(n, total, square), alpha**2 * known.remaining(*images) + sigma**2)

    absolute, relative = (np.full(target.shape, np.nan) for _ in range(2))
    further = alpha**2 * known.elsewhere()
    absolute[:, kept] = np.hypot(jackknife(difference, count, *sums)[1], further)
    further = further * (1 + _relative(variance[:, kept], target[:, kept] ** 2))
    relative[:, kept] = np.hypot(jackknife(quotient, count, *sums)[1], further)
    images = (len(target), *data["variance"].shape)
    relative_to = np.where(data_variance > 0, target, np.nan)
    result = with_errors(
        result,
        PIXELS,
        gap_absolute_pixel=((variance - target).reshape(images), absolute.reshape(images)),
        gap_pixel=((variance / relative_to - 1).reshape(images), (relative + 0 * relative_to).reshape(images)),
    )
    mean_se = jackknife(lambda *given: difference(*given).mean(1), count, *sums)[1]
    mean_se = np.hypot(mean_se, alpha[:, 0] ** 2 * known.elsewhere(np.ones((len(kept), 1))) / len(kept))
    result = with_errors(result, ("step",), gap_absolute=((variance - target).mean(1), mean_se))
    result["std_chain"], result["std_reference"] = (("step", np.sqrt(v).mean(1)) for v in (variance, target))

    result, doubtful = _with_directions(result, recording)
    result, reasons = _with_reference(result, recording, pools)
    result.attrs = recording.description | why_no_interval(count) | reasons | doubtful | _why_no_ratio(data_variance)
    return result


class PooledGap(NamedTuple):
    """A gap by step with what its standard error is made of (`diagnostics.target`).

    value: of all pixels. estimate, sums: for `jackknife`, of the pixels kept by group. further: the standard error
    from data that were not recorded.
    """

    value: Array
    estimate: Callable[..., Array]
    sums: tuple[Array, ...]
    further: Array


def pooled_gap(recording: Recording, pools: Array | None = None) -> PooledGap:
    """The gap of `variance_gap` over all pixels, by (step,), or over each of the pools (D, K), by (step, K)."""
    chain, data = recording["chain"], recording["data"]
    alpha, sigma = chain["alpha"].values[:, None], chain["sigma"].values[:, None]
    known, places = pixel_variance(recording)
    data_variance, kept = data["variance"].values.ravel(), chain["pixel"].values[places]
    weights = np.ones((len(data_variance), 1)) if pools is None else pools
    mine = weights[kept]

    def target(variance: Array, weights: Array) -> Array:
        return (alpha**2 * variance + sigma**2) @ weights

    def estimate(n: float, total: Array, square: Array, *images: Array) -> Array:
        return squeezed(_relative(_variance(n, total, square) @ mine, target(known.remaining(*images), mine)))

    def squeezed(curves: Array) -> Array:
        return curves[:, 0] if pools is None else curves

    value = _relative(_variance(recording.n, *_sums(chain)) @ weights, target(data_variance, weights))
    effect = _relative(alpha**2 * known.elsewhere(mine), target(known.variance, mine)) + 1
    sums = (*(part[..., places] for part in _group_sums(chain)), *known.sums)
    return PooledGap(squeezed(value), estimate, sums, squeezed((1 + value) * effect))


def _with_directions(result: xr.Dataset, recording: Recording) -> tuple[xr.Dataset, dict[str, str]]:
    """gap_direction where the target's bias is well below its error, and an attribute that says where it is not."""
    chain, known = recording["chain"], direction_variance(recording)
    alpha, sigma = chain["alpha"].values[:, None], chain["sigma"].values[:, None]

    def gap(n: float, total: Array, square: Array, *images: Array) -> Array:
        return _relative(_variance(n, total, square), alpha**2 * known.remaining(*images) + sigma**2)

    projected = [grouped(chain, f"state_projection_{part}") for part in ("sum", "square")]
    value, error = jackknife(gap, chain["count"].values, *projected, *known.sums)
    target = alpha**2 * known.variance + sigma**2
    error = np.hypot(error, (1 + value) * (1 + _relative(alpha**2 * known.elsewhere(), target)))
    bias = 1 + _relative(alpha**2 * known.variance * optimism(recording), target)
    # Where there is no error to compare with, that of n independent Gaussian values stands for it.
    doubtful = bias > MOST_BIAS * np.where(np.isfinite(error), error, np.sqrt(2 / recording.n))
    value, error = (np.where(doubtful, np.nan, v) for v in (value, error))
    result = with_errors(result, ("step", "direction"), gap_direction=(value, error))
    some, last = int(doubtful.any(0).sum()), int(doubtful[-1].sum())
    if not some:
        return result, {}
    return result, {
        "no_direction": f"{some} of {len(known.variance)} directions have no gap at some level ({last} at the last): "
        "their target, an eigenvalue of the same images, is too large; more images would do"
    }


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
