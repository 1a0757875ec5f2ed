"""The error budget: how much of a gap is the start's, the solver's and the network's (design §4.4).

With G any statistic of a chain of T′ steps less its target, zero for q(x_t),

    G(T′) = [G_noise − G_data] initialisation + [G(T′) − G∞] discretisation + G∞ score error,

the terms of diffusion theory (Chen et al. 2023, arXiv 2209.11215, Theorem 2). G∞ comes from the
same network on the same Brownian paths with smaller steps (`experiments.limits`), so that what the
samples have in common cancels in the middle term. No reference to the data's law is needed.

What is split, at every level and at the end:

- `gap`: Σ Var(x̂_t) / Σ (α²σ_i² + σ²) − 1, relative (`variance_gap`);
- `hf`: power of x̂_t − α_t μ at ¼ cycle per pixel and above over what is expected of x_t, dB;
- `band F`: the same in each radial frequency band, dB;
- `mean shift`: the square of the shift of the chain's mean over the mean target, relative
  (`experiments.split`);
- `restart S`: the gap at the end of chains from true x_s, against the variance of those images.

The end is the last noisy level where that is the schedule's own, else the clean end
(`experiments.split`); the row `last step` says what the step to the clean end adds to the gap.

*Answers*, with a margin m, once the limit is shown to be reached: a score error, with its sign,
where the 95 % interval of G∞ excludes 0; none larger than m where |G∞| and its half-width at 95 %
one-sided stay below m (two one-sided tests, t with 15 degrees of freedom); else it is not decided,
and about n (3.1 se/m)² images would. A limit that is not reached gives no answer but that.

*One error rate.* The headline is the row `gap` alone. All other rows are read together: what is
said of any of them holds with a chance of error of 5 % for all of them, by the quantile of max |t|
over the rows' jackknife deviations. A shift of the mean is judged by its own p-value at the level
that this quantile leaves to each row.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import stdtr

from exposure_bias.diagnostics.denoising import denoising_check
from exposure_bias.errors import InputError, whole_number
from exposure_bias.experiments.bench import Bench, Limits
from exposure_bias.experiments.kinds.budgets import ERROR_BUDGET
from exposure_bias.experiments.split import PARTS, SHIFT, Split, split, unit
from exposure_bias.jackknife import (
    DECIBEL,
    GROUPS,
    LEVEL,
    T_QUANTILE,
    Array,
    Estimate,
    max_t_quantile,
    t_quantile,
    why_no_interval,
    with_estimates,
    with_interval,
)
from exposure_bias.results import returns
from exposure_bias.run import Start, Stream
from exposure_bias.running.setup import Setup, prepare, varied
from exposure_bias.samplers import order_of

STEPS, SAMPLES = 50, 512
MARGIN, RESTART_MARGIN = 0.05, 0.01
# Restarts begin where noise is this share of the data's own spread: near enough to the end to be
# sharp.
RESTARTS = (0.15, 0.3, 0.65)
T_ONE_SIDED = t_quantile(LEVEL)
# t₉₅ one-sided and the same again for a power of 90 %, in standard errors of a null result.
PLANNED = 3.1
LAST_STEP = "last step"


class Answer:
    """The fixed answers."""

    POSITIVE = "score error +"
    NEGATIVE = "score error -"
    NONE = "none larger than margin"
    OPEN = "not decided"
    NOT_REACHED = "limit not reached"
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
    limit_n: int | None = None,
    limit_steps: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Split the gaps of a model's chain into those of start, solver and network.

    model, data, sampler, steps, grid, clip, seed, batch_size: as in `record`. n: by default the
    data's, at most 512; 256 or more give intervals. margin: the score error of the whole chain that
    matters, relative; in decibels it is 10 log₁₀(1 + margin), for restarts a fifth of it. restarts:
    timesteps of the chain, each moved to its nearest level; by default three, where σ/α is 0.15,
    0.3 and 0.65 of the data's spread. start: "data", or "noise" to measure the initialisation error
    as well. folder: where the chains are kept; the same call goes on there.

    limit_n: how many of the samples walk to the limit, a multiple of 16, by default all; 256 or
    more give intervals. The chain of all n samples still counts, so that only the solver's part is
    less certain. limit_steps: at least so many steps on the limit's finest grid, for limits that
    are not reached otherwise.

    It takes T′ network evaluations a sample for the chain, and about 150 for the limit whatever T′
    (1.75 N + 3, N = 84 on a linear schedule); about 60 for each restart; start="noise" takes T′
    more.

    Returns, over (statistic): total, initialisation, discretisation, score, each with `_se`, `_low`
    and `_high` (95 %; NaN for fewer than 256 images); order_ratio with `_se`, about 4 where the
    limit's grids converge; limit_error, by how much the limit is thought to be off at most; answer,
    one of the fixed ones (`Answer`); needed_n, how many images would decide where it is not;
    margin. Ratios are relative gaps, hf and bands dB. Over (curve, step): the same parts as
    total_by_level, …, with simultaneous 95 % bands `_band_low`, `_band_high` of the score error
    over all levels.
    Attributes: limit, what was run; level, the end that the rows are about; and denoising, what the
    check found.

    Source: docs/mathematics.md, "The error budget". Raises InputError for a margin that is not
    positive and for whatever else does not fit.
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
    place = None if folder is None else Path(folder)
    limits = Limits(batch_size, place, whole_number(limit_steps, "limit_steps", 0))
    bench = Bench(setup, batch_size, place, limits=limits, limit_n=checked_limit_n(limit_n))
    return budget_of(bench, margin, restarts)


def checked_limit_n(limit_n: int | None) -> int | None:
    """The number of samples that walk to the limit, a multiple of 16.

    Raises InputError for anything else, so that each group has as many.
    """
    if limit_n is None:
        return None
    limit_n = whole_number(limit_n, "limit_n, the samples that walk to the limit,")
    if limit_n % GROUPS:
        raise InputError(
            f"limit_n is the number of samples that walk to the limit: give a multiple of {GROUPS},"
            f" got {limit_n}"
        )
    return limit_n


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


@dataclass(frozen=True)
class Rule:
    """How sure an answer has to be, in standard errors: to name an error, and to rule one out."""

    named: float = T_QUANTILE
    ruled_out: float = T_ONE_SIDED

    @classmethod
    def together(cls, deviations: Array) -> "Rule":
        """That of several rows at one error rate. deviations: (group, row)."""
        named = max_t_quantile(deviations)
        if not np.isfinite(named):
            return cls()
        return cls(named, max_t_quantile(deviations, 2 * LEVEL - 1))

    @property
    def p_value(self) -> float:
        """The two-sided p-value at which a row is named."""
        return 2 * float(stdtr(GROUPS - 1, -self.named))


def fixed_answer(
    score: float, error: float, slack: float, margin: float, rule: Rule | None = None
) -> str:
    """Which of the fixed answers a limit's score error gives, with a margin.

    error: its standard error. slack: how far the limit itself may be off.
    """
    rule = Rule() if rule is None else rule
    if not np.isfinite(error):
        return Answer.OPEN
    if abs(score) > rule.named * error + slack:
        return Answer.POSITIVE if score > 0 else Answer.NEGATIVE
    if abs(score) + rule.ruled_out * error + slack < margin:
        return Answer.NONE
    return Answer.OPEN


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
    passes, sentence = checked(bench)
    said = {"denoising_passes": passes, "denoising_sentence": sentence}
    attributes: dict[str, Any] = setup.attributes | said
    if passes == "no":
        return _no_denoiser(margin, attributes)
    places, without = restart_places(setup, restarts)
    whole = split(bench, setup, "chain")
    candidates = [
        Candidate(whole, name, name, margin * unit_of_margin(name, margin)) for name in whole.names
    ]
    for place in places:
        restarted = split(bench, tail(bench.paired, place), f"restart-{place}", own_images=True)
        label = f"restart {setup.levels[place].timestep:g}"
        candidates.append(Candidate(restarted, "gap", label, margin * RESTART_MARGIN / MARGIN))
    rows = [*judged(candidates, setup), last_step(whole)]
    result = _table(rows).merge(_curves(whole, setup))
    count = bench.chain(bench.paired, "chain")["chain"]["count"].values
    result.attrs = attributes | why_no_interval(count) | without | _about(whole, setup)
    result.attrs |= {"order": order_of(setup.sampler), "steps_taken": setup.run.steps}
    return result


def checked(bench: Bench) -> tuple[str, str]:
    """Whether a bench's network denoises its data, as `denoising_check` says it, and a sentence."""
    if bench.no_function:
        return "no", bench.no_function
    check = denoising_check(bench.forward).attrs
    return str(check["passes"]), str(check["sentence"])


def unit_of_margin(name: str, margin: float) -> float:
    """What a relative margin is multiplied by for a statistic: 10 log₁₀(1 + m)/m in decibels."""
    return float(DECIBEL * np.log1p(margin) / margin) if unit(name) == DECIBEL else 1.0


def _about(whole: Split, setup: Setup) -> dict[str, str]:
    """What the limit was, in words, what clips it, and which end the rows are about."""
    end = setup.levels[-1]
    level = "clean end" if whole.at_clean else "last noisy level"
    words = {"level": level, "after_last_step": "yes" if whole.at_clean else "no"}
    if end.sigma > 0:
        words["stops_at"] = (
            f"the chain stops at σ = {end.sigma:.3g}, α = {end.alpha:.3g}, short of the clean end:"
            " what it leaves there is held against the images themselves"
        )
    if not whole.steps:
        why = whole.why or f"{setup.run.sampler} tends to no known limit"
        return words | {"limit": f"none: {why}"}
    n = whole.steps
    words["limit"] = f"{str(setup.sampler.limit).upper()} on {n}, {n // 2} and {n // 4} steps"
    if whole.why:
        words["not_reached"] = whole.why
    elif not whole.reached("gap"):
        words["not_reached"] = (
            f"the limit, {words['limit']}, did not settle: more steps may reach it"
            f" (limit_steps={2 * n})"
        )
    return words | (
        {"limit_clip": f"the limit is clipped as the chain is: {setup.clip}"} if setup.clip else {}
    )


@dataclass(frozen=True)
class Candidate:
    """A statistic of a split that is to be a row of the table."""

    found: Split
    name: str
    label: str
    margin: float

    @property
    def deviations(self) -> Array:
        """The jackknife's deviations of the score error, (group,)."""
        deviations: Array = self.found.deviations[:, self.found.names.index(self.name)]
        return deviations

    @property
    def slack(self) -> float:
        """How far the limit may be off."""
        check = self.found.check
        row = self.found.names.index(self.name)
        return np.nan if check is None else float(check.slack[row, -1])

    def answer(self, setup: Setup, rule: Rule) -> str:
        """The answer that its score error gives."""
        if setup.sampler.limit is None:
            return Answer.UNKNOWN
        if setup.run.model.guided and self.found.steps:
            return Answer.GUIDED
        if not self.found.reached(self.name):
            return Answer.NOT_REACHED
        score, error = self.found.at(self.name)["score"]
        error -= self.slack / T_QUANTILE
        answer = fixed_answer(score, error, self.slack, self.margin, rule)
        if self.name != SHIFT or answer == Answer.OPEN:
            return answer
        # A square has no sign, and near zero no interval: its own test names it.
        if self.found.shift <= rule.p_value:
            return Answer.POSITIVE
        return Answer.NONE if score + rule.ruled_out * error < self.margin else Answer.OPEN


def judged(candidates: Sequence[Candidate], setup: Setup) -> list["Row"]:
    """The rows: the first by itself, all others at one error rate."""
    others = np.stack([c.deviations for c in candidates[1:]], axis=1)
    rules = [Rule(), *[Rule.together(others)] * (len(candidates) - 1)]
    return [Row.of(c, setup, rule) for c, rule in zip(candidates, rules, strict=True)]


@dataclass(frozen=True)
class Row:
    """One statistic of the table: value and standard error by part, and what follows from them."""

    name: str
    parts: dict[str, tuple[float, float]]
    order: tuple[float, float]
    slack: float
    answer: str
    needed: int
    margin: float

    @classmethod
    def of(cls, candidate: Candidate, setup: Setup, rule: Rule) -> "Row":
        """The row of a statistic at the end."""
        here = candidate.found.at(candidate.name)
        order, (score, error) = here.pop("order_ratio"), here["score"]
        answer, margin = candidate.answer(setup, rule), candidate.margin
        if answer == Answer.GUIDED:
            here["score"] = (np.nan, np.nan)
        known = answer == Answer.OPEN and np.isfinite(error)
        wanted = needed(setup.n, score, error, margin) if known else 0
        return cls(candidate.label, here, order, candidate.slack, answer, wanted, margin)


def last_step(found: Split) -> Row:
    """What the step to the clean end adds to the gap."""
    nothing = (np.nan, np.nan)
    step = float(found.last_step.value), float(found.last_step.error)
    parts = dict.fromkeys(PARTS, nothing) | {"total": step}
    return Row(LAST_STEP, parts, nothing, np.nan, "", 0, np.nan)


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
        limit_error=("statistic", [row.slack for row in rows]),
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
        estimate = found.parts[part]
        along = Estimate(estimate.value[:, :-1], estimate.error[:, :-1])
        result = with_estimates(result, dims, **{f"{part}_by_level": along})
    score, widest = found.parts["score"], found.widest[:, None]
    for end, sign in (("low", -1), ("high", 1)):
        result[f"score_by_level_band_{end}"] = (
            dims,
            (score.value + sign * widest * score.error)[:, :-1],
        )
    return result


def _no_denoiser(margin: float, attributes: dict[str, str]) -> xr.Dataset:
    nothing = (np.nan, np.nan)
    result = _table(
        [Row("gap", dict.fromkeys(PARTS, nothing), nothing, np.nan, Answer.NO_DENOISER, 0, margin)]
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
