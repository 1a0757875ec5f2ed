"""‖ε̂‖₂ in both streams, their ratio, and the epsilon scaling that it suggests.

    ΔN_t = E‖ε̂(x̂_t)‖₂ / E‖ε̂(x_t)‖₂,        the Frobenius norm over C·H·W of each sample,

is what Ning et al. (arXiv 2308.15321) compare: above 1 where the chain's states look noisier to the
network than x_t does. It is not 1 for a perfect denoiser with finitely many steps either, and the
sign depends on the sampler's variance; the Gaussian reference shows it, and R_t =
ΔN_t / ΔN_t(Gaussian) is what is left.

Epsilon scaling divides ε̂ by λ_i at call i, counted as ADM-ES does from the clean side: i = T′ − 1
at the first, noisiest call and 0 at the last. They take ΔN_t for the accumulated growth, ΔN_t =
∫_t^T λ; with factors instead of exponents that is

    R_t = Π_{calls c up to and with t} λ_c,

so that per level λ = R_t / R_{before}, uniform λ = b has log R_t = (T′ − i) log b, and λ_i = k i +
b has, to first order, log R_t = (T′ − i)(b − 1) + k Σ_{j ≥ i} j; both are least-squares fits over
the recorded levels. (Their LSUN-64 figure, ΔN = 106.1/83.3 after 20 calls, gives b = 1.012 in this
way; searching for the best FID gave them 1.011.) This is the literature's recipe and no theorem:
whether dividing by λ closes the gap has to be tried.
"""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.diagnostics.excess import EXCESS, reference_of, with_excess
from exposure_bias.errors import InputError
from exposure_bias.jackknife import (
    Array,
    Estimate,
    jackknife,
    mean_of,
    ratio_of,
    sums_by_group,
    why_no_interval,
    with_estimates,
    with_interval,
)
from exposure_bias.recording import Recording
from exposure_bias.results import Column, Drawing, Kind, Table, Term, returns
from exposure_bias.results.numbers import farthest_from_one, missing, told
from exposure_bias.results.tables import level_in_words, table_of, tidy
from exposure_bias.results.terms import COUNT, SHARE

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
RELATIVE_TO = ("gaussian", "none")
LEVEL = ("step",)


COLUMNS = (
    Column("noise norm, forward", "norm_forward"),
    Column("noise norm, chain", "norm_chain"),
    Column("chain over forward", "ratio"),
    Column("Gaussian reference", "ratio_gaussian"),
    Column("excess over it", "excess_over_gaussian", signed=True),
)


def _sentence(norms: xr.Dataset) -> str:
    here = norms.isel(step=farthest_from_one(norms["ratio"].values))
    ratio, where = told(here, "ratio"), level_in_words(here)
    return (
        f"The chain's noise norm is {ratio} times the true one at {where}{missing(here, 'ratio')}."
    )


def _tables(norms: xr.Dataset) -> list[Table]:
    found = [table_of(norms, "epsilon_norm", "epsilon norm", COLUMNS)]
    if "scale" in norms:
        fits = [k for k in norms if str(k).startswith("scale_")]
        shown = (
            Column("uniform scaling λ", "scale_uniform"),
            Column("linear: slope per call", "scale_slope", signed=True),
            Column("linear: last call's λ", "scale_offset"),
        )
        frame = tidy(norms[fits])
        found.append(Table("epsilon_scaling", "epsilon scaling (fits)", frame, shown))
    return found


EPSILON_NORM = Kind(
    name="epsilon_norm",
    title="Size of the predicted noise",
    question=(
        "Does the network see more or less noise in its own states than in true ones? A ratio above"
        " one is the symptom that epsilon scaling treats."
    ),
    variables={
        "excess_over_gaussian": EXCESS,
        "norm_forward": Term(
            "noise norm, forward", "‖ε‖₂", "Mean length of the predicted noise at true x_t."
        ),
        "norm_chain": Term(
            "noise norm, chain", "‖ε‖₂", "Mean length of the predicted noise at the chain's x̂_t."
        ),
        "ratio": Term(
            "norm ratio",
            SHARE,
            "Noise norm of the chain over the forward stream's: above 1 the chain's states look"
            " noisier to the network than true ones.",
            1,
        ),
        "quantile": Term("quantile", SHARE, "Which quantile over samples."),
        "quantile_forward": Term(
            "quantiles of the norm, forward", "‖ε‖₂", "Over samples, at true x_t."
        ),
        "quantile_chain": Term("quantiles of the norm, chain", "‖ε‖₂", "Over samples, at x̂_t."),
        "call_index": Term("call, from the clean end", COUNT, "T′ − 1 at the first call, 0 last."),
        "scale": Term(
            "epsilon scaling λ", SHARE, "What to divide this call's noise prediction by (ADM-ES)."
        ),
        "scale_uniform": Term("uniform scaling", SHARE, "The b of the fit λ = b."),
        "scale_slope": Term("slope of the scaling", SHARE, "The k of the fit λ_i = k·i + b."),
        "scale_offset": Term("offset of the scaling", SHARE, "The b of the fit λ_i = k·i + b."),
    },
    columns=COLUMNS,
    tables=_tables,
    sentence=_sentence,
    figures=(Drawing("exposure_bias.plots:epsilon_norm"),),
    needs={"norm_forward": ("step",), "norm_chain": ("step",), "ratio": ("step",)},
    aliases=("norms",),
)


@returns(EPSILON_NORM)
def epsilon_norm(recording: Recording, relative_to: str = "gaussian") -> xr.Dataset:
    """The norms ‖ε̂‖₂ per level in both streams, and their ratio.

    The epsilon-scaling schedules that it suggests come along.

    Norms are of what the network said, before any clipping, as published.

    relative_to: "gaussian" fits the schedules to ratio / ratio_gaussian, "none" to the ratio
    itself, as published.

    Returns, over (step), for every recorded network call (the clean end has none): norm_forward,
    norm_chain (means over samples) with `_se`; ratio with a 95 % interval `_low`, `_high` and a
    band `_band_low`, `_band_high` for claims over all levels, `_se` being that of its logarithm;
    over (step, quantile) quantile_forward and quantile_chain. norm_forward_gaussian,
    norm_chain_gaussian, ratio_gaussian: the Gaussian reference; excess_over_gaussian = ratio −
    ratio_gaussian, with its interval and band.

    The schedules divide ε̂: scale (step), λ of each recorded call, the geometric mean over calls
    between; scale_uniform, the b of λ = b; scale_slope and scale_offset, the k and b of λ_i = k·i +
    b, where i is the coordinate call_index of step, T′ − 1 at the first call and 0 at the last. All
    with `_se`. Without a reference to be relative to they are absent, and the attribute no_schedule
    says so.

    Source: module docstring. Raises InputError for an unknown relative_to and a recording that
    lacks a stream.
    """
    if relative_to not in RELATIVE_TO:
        raise InputError(
            f"unknown relative_to {relative_to!r}: allowed are {', '.join(RELATIVE_TO)}"
        )
    forward, chain = (
        recording["forward"].isel(step=slice(-1)),
        recording["chain"].isel(step=slice(-1)),
    )
    norms = {"forward": _norms(forward), "chain": _norms(chain)}
    count = chain["count"].values
    sums = {name: sums_by_group(norm, chain["image"].values) for name, norm in norms.items()}
    calls = recording.run.steps - chain["step"].values
    result = xr.Dataset(coords={k: chain[k] for k in ("step", "timestep", "alpha", "sigma")})
    result = result.assign_coords(call_index=("step", calls - 1), quantile=list(QUANTILES))
    for name, norm in norms.items():
        result = with_estimates(
            result, LEVEL, **{f"norm_{name}": jackknife(mean_of, count, sums[name])}
        )
        result[f"quantile_{name}"] = (("step", "quantile"), np.quantile(norm, QUANTILES, axis=0).T)
    both = (count, sums["chain"], sums["forward"])
    ratio = jackknife(ratio_of, *both, scale="log", band=True)
    result = with_interval(result, LEVEL, ratio=ratio)
    result, reasons = _with_reference(result, recording, ratio)
    if relative_to == "none" or "ratio_gaussian" in result:
        base = result["ratio_gaussian"].values if relative_to == "gaussian" else np.ones(len(calls))
        result = _with_schedules(result, np.log(base), *both)
    else:
        reasons["no_schedule"] = (
            f"{reasons['no_reference']}; relative_to='none' fits the ratio itself"
        )
    result.attrs = (
        recording.description | why_no_interval(count) | reasons | {"relative_to": relative_to}
    )
    return result


def _norms(stream: xr.Dataset) -> Array:
    """(sample, step), float64."""
    norms: Array = stream["epsilon_norm"].transpose("sample", "step").values.astype(np.float64)
    return norms


def _with_reference(
    result: xr.Dataset, recording: Recording, ratio: Estimate
) -> tuple[xr.Dataset, dict[str, str]]:
    reference, reasons = reference_of(recording)
    if reference is None:
        return result, reasons
    for name in ("forward", "chain"):
        result[f"norm_{name}_gaussian"] = ("step", reference[f"epsilon_norm_{name}"].values[:-1])
    result["ratio_gaussian"] = result["norm_chain_gaussian"] / result["norm_forward_gaussian"]
    return with_excess(result, LEVEL, "ratio", ratio), reasons


def _with_schedules(
    result: xr.Dataset, base: Array, count: Array, chain: Array, forward: Array
) -> xr.Dataset:
    """Fit λ to log R = log ratio − base."""
    index = result["call_index"].values
    total = int(index[0]) + 1
    done = total - index  # network calls up to and with this one
    since = np.diff(done, prepend=0)

    def log_growth(n: float, *sums: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            growth: Array = np.log(ratio_of(n, *sums)) - base
        return growth

    def each(n: float, *sums: Array) -> Array:
        scale: Array = np.exp(np.diff(log_growth(n, *sums), prepend=0) / since)
        return scale

    def uniform(n: float, *sums: Array) -> Array:
        return np.exp(_fit(done[:, None], log_growth(n, *sums)))

    def linear(n: float, *sums: Array) -> Array:
        above = (total - 1) * total / 2 - index * (index - 1) / 2  # Σ of the indices of those calls
        k, excess = _fit(np.stack([above, done], axis=1), log_growth(n, *sums))
        return np.array([k, 1 + excess])

    both = (count, chain, forward)
    result = with_estimates(result, LEVEL, scale=jackknife(each, *both))
    k, offset = _halves(jackknife(linear, *both))
    (b, _) = _halves(jackknife(uniform, *both))
    return with_estimates(result, (), scale_uniform=b, scale_slope=k, scale_offset=offset)


def _halves(pair: Estimate) -> tuple[Estimate, Estimate]:
    """The first and the last number of an estimate of one or two."""
    first, last = (Estimate(pair.value[i], pair.error[i]) for i in (0, -1))
    return first, last


def _fit(design: NDArray[np.float64], growth: Array) -> Array:
    """Least squares over the levels where the growth is known.

    NaN if they are fewer than the unknowns.
    """
    known = np.isfinite(growth)
    if known.sum() < design.shape[1]:
        return np.full(design.shape[1], np.nan)
    solution: Array = np.linalg.lstsq(design[known].astype(np.float64), growth[known], rcond=None)[
        0
    ].astype(np.float64)
    return solution
