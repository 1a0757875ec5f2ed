"""The error budget: how much of a gap is the start's, the solver's and the network's (design §4.4).

With G any statistic of a chain of T′ steps less its target, zero for q(x_t),

    G(T′) = [G_noise − G_data] initialisation + [G(T′) − G∞] discretisation + G∞ score error,

the terms of diffusion theory (Chen et al. 2023, arXiv 2209.11215, Theorem 2). G∞ comes from the
same network on the same Brownian paths with smaller steps (`experiments.limits`), so that what the
samples have in common cancels in the middle term. No reference to the data's law is needed.

What is split, at every level and at the last noisy one:

- `gap`: Σ Var(x̂_t) / Σ (α²σ_i² + σ²) − 1, relative (`variance_gap`);
- `hf`: power of x̂_t − α_t μ at ¼ cycle per pixel and above over what is expected of x_t, dB;
- `band F`: the same in each radial frequency band, dB;
- `mean shift`: mean_i (m_i² − Var_i/n) of the chain's mean over the mean target, relative;
- `restart S`: the gap at the end of chains from true x_s, against the variance of those images.

No grid refines the noise-free step from the last noisy level to the clean end, so that the budget
is taken before it; the row `last step` says what that step adds to the gap.

*Order.* The limit is extrapolated from refinements of 2 and 4 (ODE: 1 and 2), which presupposes
that errors fall as 1/k (1/k²). A part of the samples also walks the next coarser (finer) chain: for
the SDE (c₁ − c₂)/(c₂ − c₄) should be 2, for the ODE (h₁ − h₂)/(h₂ − h₄) 4. The part of the
difference that does not fall so, Δ = (c₁ − c₂) − 2 (c₂ − c₄), is to next order three times the
error of the extrapolation. The largest that is more than noise (simultaneously over the levels),
at this level or before it, counts as a standard error of the solver's and the network's parts;
where nothing can be said for that reason, the steps are too coarse to extrapolate from.

*Answers*, with a margin m: a score error, with its sign, where the 95 % interval of G∞ excludes 0;
none larger than m where |G∞| + t₉₅ se < m (two one-sided tests, t with 15 degrees of freedom); else
it is not decided, and about n (3.1 se/m)² images would.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from exposure_bias.diagnostics.denoising import denoising_check
from exposure_bias.diagnostics.variance_gap import pooled_gap
from exposure_bias.errors import InputError
from exposure_bias.experiments.bench import Bench
from exposure_bias.experiments.kinds.budgets import ERROR_BUDGET
from exposure_bias.experiments.split import PARTS, Split, split
from exposure_bias.jackknife import (
    DECIBEL,
    GROUPS,
    T_QUANTILE,
    Array,
    Estimate,
    jackknife,
    why_no_interval,
    with_estimates,
    with_interval,
)
from exposure_bias.results import returns
from exposure_bias.run import Start, Stream
from exposure_bias.running.setup import Setup, prepare, varied

STEPS, SAMPLES = 50, 512
MARGIN, RESTART_MARGIN = 0.05, 0.01
# Restarts begin where noise is this share of the data's own spread: near enough to the end to be
# sharp.
RESTARTS = (0.15, 0.3, 0.65)
T_ONE_SIDED = float(stdtrit(GROUPS - 1, 0.95))
# t₉₅ one-sided and the same again for a power of 90 %, in standard errors of a null result.
PLANNED = 3.1
LAST_STEP = "last step"


class Answer:
    """The fixed answers."""

    POSITIVE = "score error +"
    NEGATIVE = "score error -"
    NONE = "none larger than margin"
    OPEN = "not decided"
    COARSE = "steps too coarse"
    NO_DENOISER = "not a denoiser of these data"
    UNKNOWN = "limit unknown"
    GUIDED = "guided: no target"


@returns(ERROR_BUDGET)
def error_budget(
    model: Any,
    data: Any,
    *,
    sampler: Any = "ddpm",
    steps: int = STEPS,
    n: int | None = None,
    margin: float = MARGIN,
    restarts: Sequence[float] | None = None,
    start: str = "data",
    grid: str = "linspace",
    timestep_spacing: str | None = None,
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    folder: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Split the gaps of a model's chain into those of start, solver and network.

    model, data, sampler, steps, grid, clip, seed, batch_size: as in `record`. n: by default the
    data's, at most 512; 256 or more give intervals. margin: the score error of the whole chain that
    matters, relative; in decibels it is 10 log₁₀(1 + margin), for restarts a fifth of it. restarts:
    timesteps of the chain, each moved to its nearest level; by default three, where σ/α is 0.15,
    0.3 and 0.65 of the data's spread. start: "data", or "noise" to measure the initialisation error
    as well. folder: where the chains are kept; the same call goes on there.

    It takes T′ network evaluations a sample for the chain itself, six T′ for the limit, and as many
    again for the steps of each restart; start="noise" takes T′ more. What tells the order and
    whether the model denoises the data at all is done on a part of the samples.

    Returns, over (statistic): total, initialisation, discretisation, score, each with `_se`, `_low`
    and `_high` (95 %; NaN for fewer than 256 images); order_ratio with `_se`; answer, one of the
    fixed ones (`Answer`); needed_n, how many images would decide where it is not; margin. Ratios
    are relative gaps, hf and bands dB. Over (curve, step): the same parts as total_by_level, …,
    with simultaneous 95 % bands `_band_low`, `_band_high` of the score error over all levels.
    Attributes: limit, what was run, and denoising, what the check found.

    Source: module docstring. Raises InputError for a margin that is not positive and for whatever
    else does not fit; where no refinement exists it says which steps work.
    """
    setup = planned(
        model,
        data,
        margin,
        sampler=sampler,
        steps=steps,
        n=n,
        start=start,
        grid=grid,
        timestep_spacing=timestep_spacing,
        clip=clip,
        seed=seed,
        batch_size=batch_size,
    )
    if setup.run.start is Start.LEVEL:
        raise InputError(
            "a budget is of the whole chain: start is data or noise, and restarts begin at levels"
        )
    bench = Bench(setup, batch_size, None if folder is None else Path(folder))
    return budget_of(bench, margin, restarts)


def planned(
    model: Any,
    data: Any,
    margin: float,
    streams: Sequence[Stream] = (Stream.CHAIN,),
    **chain: Any,
) -> Setup:
    """The setup of a chain to be split, `chain` as `prepare` takes it.

    Raises InputError for a margin that is not positive and for whatever else does not fit.
    """
    if not margin > 0:
        raise InputError(
            f"margin is the score error that matters: it must be above 0, got {margin}"
        )
    setup = prepare(model, data, kind="recording", most=SAMPLES, streams=streams, **chain)
    return varied(setup)


def fixed_answer(score: float, error: float, beyond: float, margin: float) -> str:
    """Which of the fixed answers a score error ± its standard error gives, with a margin.

    beyond: the extrapolation's own error, which is a part of `error` (`experiments.split`).
    """
    if not np.isfinite(error):
        return Answer.OPEN
    if abs(score) > T_QUANTILE * error:
        return Answer.POSITIVE if score > 0 else Answer.NEGATIVE
    if abs(score) + T_ONE_SIDED * error < margin:
        return Answer.NONE
    return Answer.COARSE if beyond > max(margin / 10, error / 2) else Answer.OPEN


def needed(n: int, score: float, error: float, margin: float) -> int:
    """About how many images would decide.

    The interval of a null result, or of this one, would fit in."""
    planned = PLANNED * error / margin
    room = margin - abs(score)
    here = T_ONE_SIDED * error / room if room > 0 else T_QUANTILE * error / abs(score)
    return ceil(n * max(planned, here) ** 2)


def budget_of(bench: Bench, margin: float, restarts: Sequence[float] | None) -> xr.Dataset:
    """The budget of a bench's chain and of restarts from levels of it."""
    setup = bench.setup
    check = denoising_check(bench.forward)
    attributes = setup.attributes | {
        f"denoising_{k}": check.attrs[k] for k in ("passes", "sentence")
    }
    if check.attrs["passes"] == "no":
        return _no_denoiser(margin, attributes)
    places, without = restart_places(setup, restarts)
    whole = split(bench, setup, "chain")
    rows = [Row.of(whole, name, _margin_of(name, margin), setup) for name in whole.names]
    for place in places:
        restarted = split(bench, tail(bench.paired, place), f"restart-{place}", own_images=True)
        label = f"restart {setup.levels[place].timestep:g}"
        rows.append(Row.of(restarted, "gap", margin * RESTART_MARGIN / MARGIN, setup, label))
    rows.append(_last_step(bench, setup))
    result = _table(rows).merge(_curves(whole, setup))
    count = bench.chain(bench.paired, "chain")["chain"]["count"].values
    result.attrs = attributes | why_no_interval(count) | without | _about(bench)
    return result


def _about(bench: Bench) -> dict[str, str]:
    """What the limit was, in words, and what clips it."""
    scheme, setup = bench.scheme, bench.setup
    if scheme is None:
        return {"limit": "unknown: the budget has totals alone"}
    words = {
        "limit": (
            f"{str(setup.sampler.limit).upper()}, refined {' and '.join(map(str, scheme.factors))}"
            " times"
        )
    }
    return words | (
        {"limit_clip": f"the limit is clipped as the chain is: {setup.clip}"} if setup.clip else {}
    )


@dataclass(frozen=True)
class Row:
    """One statistic of the table: value and standard error by part, and what follows from them."""

    name: str
    parts: dict[str, tuple[float, float]]
    order: tuple[float, float]
    answer: str
    needed: int
    margin: float

    @classmethod
    def of(
        cls, found: Split, name: str, margin: float, setup: Setup, label: str | None = None
    ) -> "Row":
        """The row of a statistic at the last noisy level."""
        here = found.at(name)
        order, (score, error) = here.pop("order_ratio"), here["score"]
        if setup.run.model.guided:
            here["score"] = (np.nan, np.nan)
            answer = Answer.GUIDED
        elif setup.sampler.limit is None:
            answer = Answer.UNKNOWN
        else:
            answer = fixed_answer(score, error, found.beyond_at(name), margin)
        wanted = (
            needed(setup.n, score, error, margin)
            if answer == Answer.OPEN and np.isfinite(error)
            else 0
        )
        return cls(label or name, here, order, answer, wanted, margin)


def _margin_of(name: str, margin: float) -> float:
    """A statistic's margin in its own units."""
    return float(DECIBEL * np.log1p(margin)) if name == "hf" or name.startswith("band") else margin


def _last_step(bench: Bench, setup: Setup) -> Row:
    """What the noise-free step to the clean end adds to the gap."""
    base = bench.chain(setup, "chain" if setup.run.paired else "chain-noise")
    gap = pooled_gap(base)

    def step(n: float, *sums: Array) -> Array:
        curve = gap.estimate(n, *sums)
        return np.asarray(curve[-1] - curve[-2])

    found = jackknife(step, gap.count, *gap.sums)
    nothing = (np.nan, np.nan)
    parts = dict.fromkeys(PARTS, nothing) | {
        "total": (float(gap.value[-1] - gap.value[-2]), float(found.error))
    }
    return Row(LAST_STEP, parts, nothing, "", 0, np.nan)


def _table(rows: Sequence[Row]) -> xr.Dataset:
    """The rows as one dataset over (statistic)."""
    result = xr.Dataset(coords={"statistic": [row.name for row in rows]})
    for part in PARTS:
        value, error = (np.array([row.parts[part][k] for row in rows]) for k in (0, 1))
        result = with_interval(result, ("statistic",), **{part: Estimate(value, error)})
        result = result.drop_vars([f"{part}_band_low", f"{part}_band_high"], errors="ignore")
    value, error = (np.array([row.order[k] for row in rows]) for k in (0, 1))
    result = with_estimates(result, ("statistic",), order_ratio=Estimate(value, error))
    return result.assign(
        answer=("statistic", [row.answer for row in rows]),
        needed_n=("statistic", [row.needed for row in rows]),
        margin=("statistic", [row.margin for row in rows]),
    )


def _curves(found: Split, setup: Setup) -> xr.Dataset:
    """The parts at every recorded noisy level, over (curve, step)."""
    kept = setup.kept[:-1]
    timestep, alpha, sigma = np.array([setup.levels[i] for i in kept]).T
    coords = {"timestep": ("step", timestep), "alpha": ("step", alpha), "sigma": ("step", sigma)}
    result = xr.Dataset(coords={"curve": found.names, "step": kept, **coords})
    dims = ("curve", "step")
    for part in PARTS:
        result = with_estimates(result, dims, **{f"{part}_by_level": found.parts[part]})
    score, widest = found.parts["score"], found.widest[:, None]
    for end, sign in (("low", -1), ("high", 1)):
        result[f"score_by_level_band_{end}"] = (dims, score.value + sign * widest * score.error)
    return result


def _no_denoiser(margin: float, attributes: dict[str, str]) -> xr.Dataset:
    nothing = (np.nan, np.nan)
    result = _table(
        [Row("gap", dict.fromkeys(PARTS, nothing), nothing, Answer.NO_DENOISER, 0, margin)]
    )
    result.attrs = attributes
    return result


def restart_places(
    setup: Setup, restarts: Sequence[float] | None
) -> tuple[list[int], dict[str, str]]:
    """Indices of the levels that restarts begin at, and an attribute where there are none."""
    last = len(setup.levels) - 2
    if restarts is not None:
        if not len(restarts):
            return [], {}
        places = setup.starts(restarts)
        if last in places:
            raise InputError(
                "a restart at the last noisy level takes no step before it: choose noisier levels"
            )
        return places, {}
    ratios = np.array([level.ratio for level in setup.levels[1:last]])
    if not len(ratios):
        return [], {"no_restarts": "the chain has no level in between to restart from"}
    wanted = np.array(RESTARTS) * np.sqrt(setup.law.spread)
    nearest = {1 + int(np.abs(np.log(ratios / w)).argmin()) for w in wanted}
    found = [place for place in sorted(nearest) if can_start_at(setup, place)]
    return found, {} if found else {"no_restarts": f"{setup.run.sampler} cannot start in mid-chain"}


def can_start_at(setup: Setup, place: int) -> bool:
    """Whether the sampler takes up a chain at a level."""
    try:
        setup.sampler.begin(setup.levels[place:])
    except InputError:
        return False
    return True


def tail(setup: Setup, place: int) -> Setup:
    """The chain from true states at a level of a setup's chain."""
    run = replace(setup.run, levels=setup.levels[place:], start=Start.LEVEL)
    return replace(setup, run=run, places=setup.places[setup.places >= place] - place)
