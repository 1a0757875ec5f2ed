"""Is the chain's state as spread as x_t is?

The variance gap, the mean shift and the covariance gap.

The forward process has Var_i(x_t) = α_t² σ_i² + σ_t² at pixel i, with σ_i² the variance of the data
given to `record`. With the chain's own Var_i(x̂_t), the

    gap_t = Σ_i Var_i(x̂_t) / Σ_i (α_t² σ_i² + σ_t²) − 1

is zero for an exact sampler on any data, where the published δ_t is not. σ_i² is an
estimate as well, from the N images given. All errors count that (`diagnostics.target`): an interval
is for the gap against the law that the images were drawn from, not against these very images.
Beside it stand the gap against independent forward draws, the gap along the data's top
eigen-directions v_k, whose target is α²λ_k + σ², and the shift of the mean, as the estimate

    mean_i (m_i² − Var_i / n),      m_i = the mean of x̂_t − α_t μ at pixel i,

of its square (it may come out negative). λ_k is too large a target: v_k is turned to where the same
images happen to vary, and a recording holds no others. The gap along v_k is given only where that
bias, to first order, is below half the standard error. A solver of few steps has a gap without any
model error: the Gaussian reference shows how large, for Gaussian data.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.diagnostics.excess import EXCESS, reference_of, with_excess
from exposure_bias.diagnostics.target import (
    DataVariance,
    Pooling,
    direction_variance,
    optimism,
    pixel_variance,
)
from exposure_bias.errors import InputError
from exposure_bias.jackknife import (
    Array,
    Estimate,
    grouped,
    jackknife,
    why_no_interval,
    with_estimates,
    with_interval,
)
from exposure_bias.recording import Recording
from exposure_bias.results import Column, Drawing, Kind, Table, Term, returns
from exposure_bias.results.numbers import missing, told
from exposure_bias.results.tables import level_in_words, table_of, tidy
from exposure_bias.results.terms import DATA, SHARE, SQUARE
from exposure_bias.states import dimensions

MOST_BIAS = 0.5  # of a standard error: a 95 % interval then holds the truth in 92 % at the worst
LEVEL = ("step",)


def _sentence(gaps: xr.Dataset) -> str:
    end = gaps.isel(step=-1)
    gap, where = told(end, "gap", 100, "%"), level_in_words(end)
    return f"The samples' variance is off by {gap} at {where}{missing(end, 'gap')}."


def _tables(gaps: xr.Dataset) -> list[Table]:
    found = [table_of(gaps, "variance_gap", "variance gap", COLUMNS)]
    last = gaps.isel(step=-1).reset_coords(drop=True)
    for dim in ("channel", "direction"):
        if f"gap_{dim}" in gaps:
            shown = (
                Column(dim, dim),
                Column("variance gap (%)", f"gap_{dim}", 100, True),
                Column("Gaussian reference (%)", f"gap_{dim}_gaussian", 100, True),
            )
            title = f"gap by {dim} (clean end)"
            found.append(Table(f"gap_by_{dim}", title, tidy(last, dim), shown))
    return found


COLUMNS = (
    Column("variance gap (%)", "gap", 100, True),
    Column("Gaussian reference (%)", "gap_gaussian", 100, True),
    Column("excess over it (%)", "excess_over_gaussian", 100, True),
    Column("spread of the chain (data units)", "std_chain"),
    Column("of noised data (data units)", "std_reference"),
)
GAP = Term(
    "variance gap",
    SHARE,
    "Variance of the chain's states over what noised data have, less 1. Below 0 the samples are"
    " too alike (too narrow); 0 for a perfect chain.",
    0,
)
VARIANCE_GAP = Kind(
    name="variance_gap",
    title="Variance along the chain",
    question=(
        "Do the chain's states vary as much as true noisy images do? Below zero the samples are too"
        " alike, above zero too spread; zero is right. The Gaussian reference is what the same"
        " sampler does with a perfect network on Gaussian data."
    ),
    variables={
        "gap": GAP,
        "excess_over_gaussian": EXCESS,
        "gap_forward": Term(
            "variance gap to the forward stream",
            SHARE,
            "Variance of the chain's states over that of the forward stream's, less 1.",
            0,
        ),
        "gap_channel": Term(
            "variance gap by channel", SHARE, "The variance gap of one channel.", 0
        ),
        "gap_direction": Term(
            "variance gap by direction", SHARE, "The gap along an eigen-direction of the data.", 0
        ),
        "gap_pixel": Term("variance gap by pixel", SHARE, "The variance gap of one pixel.", 0),
        "gap_absolute": Term(
            "absolute variance gap", SQUARE, "Variance of the chain less what noised data have.", 0
        ),
        "gap_absolute_pixel": Term(
            "absolute variance gap by pixel", SQUARE, "The same of one pixel.", 0
        ),
        "mean_shift": Term(
            "shift of the mean",
            SQUARE,
            "Squared distance per pixel of the chain's mean from α μ.",
            0,
        ),
        "std_chain": Term("spread of the chain", DATA, "Mean over pixels of the std of x̂_t."),
        "std_reference": Term(
            "spread of noised data", DATA, "Mean over pixels of √(α² σ_i² + σ²), the target."
        ),
        "std_forward": Term(
            "spread of the forward stream", DATA, "Mean over pixels of the std of x_t."
        ),
        "std_gaussian": Term(
            "spread, Gaussian reference", DATA, "That of a perfect denoiser of Gaussian data."
        ),
    },
    columns=COLUMNS,
    tables=_tables,
    sentence=_sentence,
    figures=(Drawing("exposure_bias.plots:variance_gap", needs=("gap_direction",)),),
    needs={"gap": ("step",), "gap_se": ("step",)},
    aliases=("gap",),
)


@returns(VARIANCE_GAP)
def variance_gap(recording: Recording) -> xr.Dataset:
    """The chain's variance and mean against what they should be.

    The variance against α²σ_i² + σ² and against the forward stream, the mean against α_t μ.

    Returns, over (step): gap; gap_forward, against the variance of the forward stream if that was
    recorded; mean_shift, in squared data units per pixel. Each has `_se`, a 95 % interval `_low`,
    `_high` and a band `_band_low`, `_band_high` for claims over all levels. Gaps against α²σ_i² +
    σ² are intervals for the population: they count the sampling error of σ_i² too, and its
    correlation with a chain that remembers its image. gap_channel over (step, channel);
    gap_direction over (step, direction), the data's top 16 eigen-directions, NaN where their
    eigenvalues are too biased a target (the attribute no_direction counts them); gap_pixel over
    (step, *state axes); and the absolute gaps Var − (α²σ² + σ²) in squared data units, gap_absolute
    (mean over pixels) and gap_absolute_pixel; all with `_se`, NaN at pixels that a large recording
    does not keep by group. Means over pixels of the standard deviations: std_chain, std_reference
    (√ of the target) and std_forward.

    gap_gaussian, gap_channel_gaussian, gap_direction_gaussian, std_gaussian: the Gaussian
    reference, without clipping; excess_over_gaussian = gap − gap_gaussian, with its interval and
    band. The attribute no_reference says why there is none (guidance, a sampler without closed
    form); no_ratio counts the pixels that are constant in the data, which have absolute gaps alone.

    Source: docs/mathematics.md. Raises InputError for a recording without a chain, or of a single
    sample.
    """
    if recording.n < 2:
        raise InputError(
            "a variance needs at least 2 samples, and an interval 256 of as many images: this is 1"
            " sample"
        )
    spread = _Spread.of(recording)
    chain = recording["chain"]
    result = xr.Dataset(coords={k: chain[k] for k in ("step", "timestep", "alpha", "sigma")})
    gap = pooled_gap(recording).estimated(band=True)
    result = with_interval(result, LEVEL, gap=gap)
    channels = pooled_gap(recording, spread.channel_pools).estimated()
    result = with_estimates(result, ("step", "channel"), gap_channel=channels)
    result = with_interval(result, LEVEL, mean_shift=_shift(spread))
    result = _with_forward(result, recording, spread)
    result = _with_pixels(result, recording, spread)
    result["std_chain"] = (LEVEL, np.sqrt(spread.variance).mean(1))
    result["std_reference"] = (LEVEL, np.sqrt(spread.target).mean(1))
    result, doubtful = _with_directions(result, recording)
    result, reasons = _with_reference(result, recording, spread, gap)
    result.attrs = recording.description | why_no_interval(spread.count) | reasons | doubtful
    constant = int((spread.data_variance == 0).sum())
    if constant:
        of = len(spread.data_variance)
        result.attrs["no_ratio"] = (
            f"{constant} of {of} pixels are constant in the data: absolute gaps only there"
        )
    return result


@dataclass(frozen=True)
class _Spread:
    """What a recording says of variance.

    alpha, sigma (step, 1); total, square (step, D); by_group (G, step, P).
    """

    recording: Recording
    alpha: Array
    sigma: Array
    count: Array
    data_variance: Array
    total: Array
    square: Array
    by_group: tuple[Array, Array]

    @classmethod
    def of(cls, recording: Recording) -> "_Spread":
        chain, data = recording["chain"], recording["data"]
        alpha, sigma = (chain[k].values[:, None] for k in ("alpha", "sigma"))
        variance = data["variance"].values.ravel()
        count = chain["count"].values
        return cls(recording, alpha, sigma, count, variance, *_sums(chain), _group_sums(chain))

    @property
    def target(self) -> Array:
        """α²σ_i² + σ², (step, D)."""
        return expected(self.alpha, self.sigma, self.data_variance)

    @property
    def variance(self) -> Array:
        """Var_i(x̂_t), (step, D)."""
        return variance_of(self.recording.n, self.total, self.square)

    @property
    def channel_pools(self) -> Array:
        """(D, C): which pixels belong to each channel."""
        channels, *space = self.recording["data"]["variance"].shape
        return np.repeat(np.eye(channels), int(np.prod(space)), axis=0)


@dataclass(frozen=True)
class PooledGap:
    """A gap by step with what its standard error is made of (`diagnostics.target`).

    value: of all pixels. estimate, sums: for `jackknife`, of the pixels or cells kept by group.
    further: the standard error from data that were not recorded.
    """

    value: Array
    count: Array
    estimate: Callable[..., Array]
    sums: tuple[Array, ...]
    further: Array

    def estimated(self, band: bool = False) -> Estimate:
        """The gap with its error."""
        own = jackknife(self.estimate, self.count, *self.sums, band=band)
        return own.beside(self.value, self.further)


def pooled_gap(recording: Recording, pools: Array | None = None) -> PooledGap:
    """The gap of `variance_gap` over all pixels, by (step,).

    With pools (D, K) it is over each of them, by (step, K).
    """
    spread = _Spread.of(recording)
    alpha, sigma = spread.alpha, spread.sigma
    pooling = Pooling.of(recording)
    known = pooling.known
    weights = np.ones((len(spread.data_variance), 1)) if pools is None else pools
    mine = pooling.spread(weights)

    def pooled(variance: Array, target: Array, weights: Array) -> Array:
        return relative(variance @ weights, target @ weights)

    def estimate(n: float, total: Array, square: Array, *images: Array) -> Array:
        target = expected(alpha, sigma, known.remaining(*images))
        return squeezed(pooled(variance_of(n, total, square), target, mine))

    def squeezed(curves: Array) -> Array:
        return curves[:, 0] if pools is None else curves

    value = pooled(spread.variance, spread.target, weights)
    # A change of the target moves (1 + gap) by the opposite share.
    share = (
        relative(alpha**2 * known.elsewhere(mine), expected(alpha, sigma, known.variance) @ mine)
        + 1
    )
    sums = (*_pooled_sums(pooling, recording["chain"]), *known.sums)
    return PooledGap(squeezed(value), spread.count, estimate, sums, squeezed((1 + value) * share))


def _shift(spread: _Spread) -> Estimate:
    def squared(n: float, total: Array, square: Array) -> Array:
        shift: Array = ((total / n) ** 2 - variance_of(n, total, square) / n).mean(1)
        return shift

    everywhere = squared(spread.recording.n, spread.total, spread.square)
    return jackknife(squared, spread.count, *spread.by_group, band=True).beside(everywhere)


def _with_forward(result: xr.Dataset, recording: Recording, spread: _Spread) -> xr.Dataset:
    """gap_forward and std_forward, if there is a forward stream."""
    if "forward" not in recording:
        return result
    forward = recording["forward"]

    def ratio(
        n: float, total: Array, square: Array, other_total: Array, other_square: Array
    ) -> Array:
        above = variance_of(n, total, square).mean(1)
        return relative(above, variance_of(n, other_total, other_square).mean(1))

    everywhere = ratio(recording.n, spread.total, spread.square, *_sums(forward))
    pooling = Pooling.of(recording)
    sums = (*_pooled_sums(pooling, recording["chain"]), *_pooled_sums(pooling, forward))
    gap = jackknife(ratio, spread.count, *sums, scale="log1p", band=True).beside(everywhere)
    result = with_interval(result, LEVEL, gap_forward=gap)
    std = np.sqrt(variance_of(recording.n, *_sums(forward))).mean(1)
    return result.assign(std_forward=(LEVEL, std))


def _with_pixels(result: xr.Dataset, recording: Recording, spread: _Spread) -> xr.Dataset:
    """The gaps pixel by pixel, and the absolute gap."""
    known, places = pixel_variance(recording)
    kept = recording["chain"]["pixel"].values[places]
    alpha, sigma, variance, target = spread.alpha, spread.sigma, spread.variance, spread.target
    sums = (*(part[..., places] for part in spread.by_group), *known.sums)

    def difference(n: float, total: Array, square: Array, *images: Array) -> Array:
        return variance_of(n, total, square) - expected(alpha, sigma, known.remaining(*images))

    def quotient(n: float, total: Array, square: Array, *images: Array) -> Array:
        return relative(
            variance_of(n, total, square), expected(alpha, sigma, known.remaining(*images))
        )

    def mean_difference(n: float, *given: Array) -> Array:
        mean: Array = difference(n, *given).mean(1)
        return mean

    elsewhere = alpha**2 * known.elsewhere()
    absolute_se, relative_se = (np.full(target.shape, np.nan) for _ in range(2))
    absolute_se[:, kept] = np.hypot(jackknife(difference, spread.count, *sums).error, elsewhere)
    of_target = elsewhere * (1 + relative(variance[:, kept], target[:, kept] ** 2))
    relative_se[:, kept] = np.hypot(jackknife(quotient, spread.count, *sums).error, of_target)

    axes = ("step", *dimensions(recording["data"]["variance"].shape))
    images = (len(target), *recording["data"]["variance"].shape)
    # A pixel that is constant in the data has no relative gap.
    where = np.where(spread.data_variance > 0, target, np.nan)
    by_pixel = {
        "gap_absolute_pixel": Estimate(
            (variance - target).reshape(images), absolute_se.reshape(images)
        ),
        "gap_pixel": Estimate(
            (variance / where - 1).reshape(images), (relative_se + 0 * where).reshape(images)
        ),
    }
    result = with_estimates(result, axes, **by_pixel)
    pooled = alpha[:, 0] ** 2 * known.elsewhere(np.ones((len(kept), 1))) / len(kept)
    mean = jackknife(mean_difference, spread.count, *sums).beside(
        (variance - target).mean(1), pooled
    )
    return with_estimates(result, LEVEL, gap_absolute=mean)


def _with_directions(result: xr.Dataset, recording: Recording) -> tuple[xr.Dataset, dict[str, str]]:
    """gap_direction where the target's bias is well below its error.

    An attribute says where it is not.
    """
    chain, known = recording["chain"], direction_variance(recording)
    alpha, sigma = chain["alpha"].values[:, None], chain["sigma"].values[:, None]

    def gap(n: float, total: Array, square: Array, *images: Array) -> Array:
        return relative(
            variance_of(n, total, square), expected(alpha, sigma, known.remaining(*images))
        )

    names = ("state_projection_sum", "state_projection_square")
    sums = (*(grouped(chain, name) for name in names), *known.sums)
    found = jackknife(gap, chain["count"].values, *sums)
    target = expected(alpha, sigma, known.variance)
    further = (1 + found.value) * (1 + relative(alpha**2 * known.elsewhere(), target))
    found = found.beside(further=further)
    bias = 1 + relative(alpha**2 * known.variance * optimism(recording), target)
    # Where there is no error to compare with, that of n independent Gaussian values stands for it.
    independent = np.sqrt(2 / recording.n)
    doubtful = bias > MOST_BIAS * np.where(np.isfinite(found.error), found.error, independent)
    value, error = (np.where(doubtful, np.nan, v) for v in (found.value, found.error))
    result = with_estimates(result, ("step", "direction"), gap_direction=Estimate(value, error))
    return result, _why_no_direction(doubtful, known)


def _why_no_direction(doubtful: NDArray[np.bool_], known: DataVariance) -> dict[str, str]:
    some, last = int(doubtful.any(0).sum()), int(doubtful[-1].sum())
    if not some:
        return {}
    return {
        "no_direction": (
            f"{some} of {len(known.variance)} directions have no gap at some level ({last} at the"
            " last): their target, an eigenvalue of the same images, is too large; more images"
            " would do"
        )
    }


def _with_reference(
    result: xr.Dataset, recording: Recording, spread: _Spread, gap: Estimate
) -> tuple[xr.Dataset, dict[str, str]]:
    reference, reasons = reference_of(recording)
    if reference is None:
        return result, reasons
    steps = len(result["step"])
    variance, target = (
        reference[k].values.reshape(steps, -1) for k in ("variance", "forward_variance")
    )
    pools = spread.channel_pools
    directions = result.sizes["direction"]
    modes = [
        reference[f"mode_{k}"].values[:, :directions] for k in ("variance", "forward_variance")
    ]
    result = result.assign(
        gap_gaussian=(LEVEL, relative(variance.sum(1), target.sum(1))),
        gap_channel_gaussian=(("step", "channel"), relative(variance @ pools, target @ pools)),
        gap_direction_gaussian=(("step", "direction"), relative(*modes)),
        std_gaussian=(LEVEL, np.sqrt(variance).mean(1)),
    )
    return with_excess(result, LEVEL, "gap", gap), reasons


def expected(alpha: Array, sigma: Array, data_variance: Array) -> Array:
    """α²σ_i² + σ², the variance of x_t."""
    return alpha**2 * data_variance + sigma**2


def variance_of(n: float, total: Array, square: Array) -> Array:
    """The unbiased variance of n numbers of these sums."""
    return np.maximum(square - total**2 / n, 0) / (n - 1)


def relative(value: Array, target: Array) -> Array:
    """value/target − 1, NaN where the target is zero."""
    return np.divide(value, target, out=np.full_like(value, np.nan), where=target > 0) - 1


def _sums(stream: xr.Dataset) -> tuple[Array, Array]:
    """Σ d and Σ d² over all samples, (step, D)."""
    steps = stream.sizes["step"]
    return stream["state_sum"].values.reshape(steps, -1), stream["state_square"].values.reshape(
        steps, -1
    )


def _group_sums(stream: xr.Dataset) -> tuple[Array, Array]:
    """The same by group, at the pixels that are kept by group, (group, step, pixel)."""
    return grouped(stream, "state_group_sum"), grouped(stream, "state_group_square")


def _pooled_sums(pooling: Pooling, stream: xr.Dataset) -> tuple[Array, Array]:
    """Those that pooled statistics use, (group, step, P)."""
    return pooling.sums(stream, "sum"), pooling.sums(stream, "square")
