"""δ_t, the literature's variance error, as its code computes it, beside what it is without error.

With r_t = x̂_t − α_t x_0, x_0 the image that the chain was started on, Ning et al. (arXiv
2308.15321, branch x_t_distribution_consecutive_sampling of their code) log

    δ_t = (mean_i std_i(r_t) − σ_t)²,

std_i over samples with divisor n, the plain mean over pixels i: a squared difference of standard
deviations. (Their log numbers a state by the timestep of the step that made it, one above the
state's own; here every value stands at its state's level.) It is not zero for a perfect model: a
perfect ancestral sampler that starts at level s draws x̂_t independently of x_0 given x_s, hence
for any data

    Var_i(r_t) = σ_t² + 2 α_t² (1 − SNR_s/SNR_t) V_{s,i}

(σ_t² + 2 α_t² σ_i² once x_s has forgotten x_0), with V_s = E Var(x_0 | x_s), and its δ_t is the
square of a mean of standard deviations. A perfect *denoiser* with few steps shows
something else again, Var_i(x̂_t) + α²σ_i² − 2α Cov_i(x̂_t, x_0): the Gaussian reference. Only what
lies beyond both lines could be the model's; and δ falls as samples lose spread, so that less is not
better.
"""

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.excess import reference_of
from exposure_bias.errors import InputError
from exposure_bias.jackknife import Array, grouped, jackknife, why_no_interval, with_interval
from exposure_bias.recording import Recording
from exposure_bias.results import Column, Drawing, Kind, Term, returns
from exposure_bias.results.numbers import missing, number, told
from exposure_bias.results.tables import level_in_words
from exposure_bias.results.terms import DATA, SQUARE

MOMENTS = ("sum", "square", "cross")


def _sentence(deltas: xr.Dataset) -> str:
    end = deltas.isel(step=-1)
    perfect = number(float(end["delta_perfect"])) if "delta_perfect" in end else ""
    beside = f", a perfect sampler's {perfect}" if perfect else ""
    where = level_in_words(end)
    return f"The published δ is {told(end, 'delta')} at {where}{beside}{missing(end, 'delta')}."


PUBLISHED_DELTA = Kind(
    name="published_delta",
    title="Published variance error",
    question=(
        "The literature's δ, for comparison with papers. It is not zero for a perfect model: only"
        " what lies beyond both lines could be the network's."
    ),
    variables={
        "delta": Term(
            "published variance error δ",
            SQUARE,
            "(Mean over pixels of std(x̂_t − α x_0) − σ)², as published. It is not 0 for a perfect"
            " model: its floor stands beside it.",
        ),
        "delta_perfect": Term(
            "δ of a perfect sampler", SQUARE, "The floor: what a perfect ancestral sampler shows."
        ),
        "root": Term(
            "signed root of δ", DATA, "√δ with its sign: above 0 the chain strays from its x_0."
        ),
        "root_perfect": Term(
            "signed root, perfect sampler", DATA, "What a perfect ancestral sampler shows."
        ),
    },
    columns=(
        Column("published δ (data units²)", "delta"),
        Column("perfect sampler", "delta_perfect"),
        Column("Gaussian reference", "delta_gaussian"),
        Column("signed root (data units)", "root", signed=True),
    ),
    sentence=_sentence,
    figures=(Drawing("exposure_bias.plots:published_delta"),),
    needs={"delta": ("step",), "root": ("step",)},
    aliases=("delta",),
)


@returns(PUBLISHED_DELTA)
def published_delta(recording: Recording) -> xr.Dataset:
    """The literature's δ_t per level, with the perfect sampler's and the same solver's.

    Returns, over (step): root = mean_i std_i(r_t) − σ_t in data units, with `_se`, a 95 % interval
    `_low`, `_high` and a band `_band_low`, `_band_high` for claims over all levels; delta = root²,
    with `_se` and the intervals that follow from the root's (from 0 where that contains 0).
    delta_perfect, root_perfect: of a perfect ancestral sampler, with V_{s,i} from the data's
    covariance (exact for Gaussian data, and for any data once x_s has forgotten x_0).
    delta_gaussian, root_gaussian: of a perfect denoiser with the same solver on Gaussian data,
    without clipping.

    Source: module docstring. Raises InputError for a recording without a chain or from pure noise,
    where no image belongs to a sample.
    """
    chain, data = recording["chain"], recording["data"]
    if not recording.paired:
        raise InputError(
            "published_delta subtracts from each x̂_t its own x_0, but this recording starts from"
            ' noise and nothing is paired: record with start="data", or use rollouts'
        )
    n, count = recording.n, chain["count"].values
    alpha, sigma = chain["alpha"].values[:, None], chain["sigma"].values

    def root(
        n: float, total: Array, square: Array, cross: Array, x0_total: Array, x0_square: Array
    ) -> Array:
        mean = (total - alpha * x0_total) / n
        second = (square - 2 * alpha * cross + alpha**2 * x0_square) / n
        std = np.sqrt(np.maximum(second - mean**2, 0))
        signed: Array = std.mean(1) - sigma
        return signed

    def delta(*sums: Array) -> Array:
        return root(*sums) ** 2  # type: ignore[arg-type]

    everywhere = root(n, *_totals(chain, MOMENTS), *_totals(data, MOMENTS[:2]))
    by_group = _common_groups(chain, MOMENTS, data) + _common_groups(data, MOMENTS[:2], chain)
    result = xr.Dataset(coords={k: chain[k] for k in ("step", "timestep", "alpha", "sigma")})
    found = jackknife(root, count, *by_group, band=True).beside(everywhere)
    result = with_interval(result, ("step",), root=found)
    result["delta"] = result["root"] ** 2
    result["delta_se"] = ("step", jackknife(delta, count, *by_group).error)
    for kind in ("", "_band"):
        result[f"delta{kind}_low"], result[f"delta{kind}_high"] = _squared(
            result[f"root{kind}_low"], result[f"root{kind}_high"]
        )
    result, reasons = _with_references(result, recording)
    result.attrs = recording.description | why_no_interval(count) | reasons
    return result


def _squared(low: xr.DataArray, high: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """The interval of a square from that of its root: from 0 where that holds 0."""
    ends = xr.concat([low**2, high**2], "end")
    inner = xr.where(low * high < 0, 0.0, ends.min("end"))
    return inner.where(low.notnull()), ends.max("end", skipna=False)


def _totals(stream: xr.Dataset, moments: tuple[str, ...]) -> list[Array]:
    """Sums over all samples, each (step, D)."""
    steps = stream.sizes["step"]
    return [stream[f"state_{moment}"].values.reshape(steps, -1) for moment in moments]


def _common_groups(stream: xr.Dataset, moments: tuple[str, ...], other: xr.Dataset) -> list[Array]:
    """Sums by group at the pixels that both streams keep by group, each (group, step, pixel)."""
    common = np.isin(stream["pixel"].values, other["pixel"].values)
    return [grouped(stream, f"state_group_{moment}")[..., common] for moment in moments]


def _with_references(result: xr.Dataset, recording: Recording) -> tuple[xr.Dataset, dict[str, str]]:
    reference, reasons = reference_of(recording)
    if not recording.run.model.guided:
        result = _with(result, "perfect", _perfect_variance(recording))
    if reference is not None:
        steps, alpha, sigma = (
            reference.sizes["step"],
            reference["alpha"].values[:, None],
            reference["sigma"].values,
        )
        names = ("variance", "forward_variance", "covariance_x0")
        chain, forward, shared = (reference[k].values.reshape(steps, -1) for k in names)
        # α²σ_i² as the reference has it, so that its own law is used throughout.
        signal = forward - sigma[:, None] ** 2
        result = _with(result, "gaussian", chain + signal - 2 * alpha * shared)
    return result, reasons


def _with(result: xr.Dataset, name: str, variance: Array) -> xr.Dataset:
    """The root and δ of a residual variance (step, D)."""
    root = np.sqrt(np.maximum(variance, 0)).mean(1) - result["sigma"]
    return result.assign({f"root_{name}": root, f"delta_{name}": root**2})


def _perfect_variance(recording: Recording) -> Array:
    """σ_t² + 2 α_t² (1 − SNR_s/SNR_t) V_{s,i} at every recorded step, (step, D)."""
    data, chain = recording["data"], recording["chain"]
    _, a, s = recording.run.levels[0]
    values = data["eigenvalue"].values
    vectors = data["eigenvector"].values.reshape(len(values), -1).astype(np.float64)
    # Subtracting what x_s tells keeps the pixel variance of directions that the eigenvectors do not
    # span.
    told = (a * values) ** 2 / (a**2 * values + s**2) @ vectors**2
    posterior = np.maximum(data["variance"].values.ravel() - told, 0)
    alpha, sigma = (chain[k].values[:, None] for k in ("alpha", "sigma"))
    variance: Array = sigma**2 + 2 * (alpha**2 - (a / s * sigma) ** 2) * posterior
    return variance
