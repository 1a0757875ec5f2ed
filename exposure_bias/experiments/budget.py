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
error of the extrapolation; where it is beyond its own error and beyond a share of the margin, the
steps are too coarse to extrapolate from.

*Answers*, with a margin m: a score error, with its sign, where the 95 % interval of G∞ excludes 0;
none larger than m where |G∞| + t₉₅ se < m (two one-sided tests, t with 15 degrees of freedom); else
it is not decided, and about n (3.1 se/m)² images would.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import stdtrit

from exposure_bias.denoisers import Denoiser, FractionalTimestep
from exposure_bias.diagnostics.denoising import denoising_check
from exposure_bias.diagnostics.target import Pooling
from exposure_bias.diagnostics.variance_gap import expected, pooled_gap, relative, variance_of
from exposure_bias.errors import InputError
from exposure_bias.experiments.limits import CorrectedSDE, Residual, ode, residual_power
from exposure_bias.glossary import explained
from exposure_bias.jackknife import (
    DECIBEL,
    GROUPS,
    MINIMUM_PER_GROUP,
    T_QUANTILE,
    Array,
    Estimate,
    deviations_of,
    grouped,
    jackknife,
    max_t_quantile,
    standard_error,
    why_no_interval,
    with_estimates,
    with_interval,
)
from exposure_bias.recorder import recorded
from exposure_bias.recording import Recording, merge
from exposure_bias.run import Start, Stream
from exposure_bias.samplers import OneStep
from exposure_bias.schedules import Level
from exposure_bias.setup import Setup, prepare, varied
from exposure_bias.statistics.bands import dct

STEPS, SAMPLES = 50, 512
MARGIN, RESTART_MARGIN = 0.05, 0.01
# Restarts begin where noise is this share of the data's own spread: near enough to the end to be
# sharp.
RESTARTS = (0.15, 0.3, 0.65)
FORWARD_LEVELS, FORWARD_SHARE = 12, 1 / 6
T_ONE_SIDED = float(stdtrit(GROUPS - 1, 0.95))
PLANNED = (
    3.1  # t₉₅ one-sided and the same again for a power of 90 %, in standard errors of a null result
)
PARTS = ("total", "initialisation", "discretisation", "score")
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


@dataclass(frozen=True)
class Scheme:
    """How a limit is extrapolated from refinements.

    factors: those that it is made of; weights: theirs. check: the further one whose chain tells the
    order. order: by what the differences should fall. curvature: the extrapolation's error, in
    units of what does not fall so. share: of the samples, at most, that walk the further chain;
    calls: what that may cost.
    """

    factors: tuple[int, int]
    weights: tuple[float, float]
    check: int
    order: float
    curvature: float
    share: float

    @property
    def ladder(self) -> tuple[int, int, int]:
        """All factors, coarsest first."""
        a, b, c = sorted((*self.factors, self.check))
        return a, b, c


# Errors of the SDE's chain are A/k + B/k², those of the ODE's A/k² + B/k³.
SDE = Scheme((2, 4), (-1.0, 2.0), 1, 2.0, 1 / 3, 1 / 8)
ODE = Scheme((1, 2), (-1 / 3, 4 / 3), 4, 4.0, 0.38, 1 / 16)


@explained("error_budget")
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
    """Split the gaps of a model's chain into what the start, the solver and the network are to
    blame for.

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


class Bench:
    """The chains of a budget, each recorded once, kept in `folder` where there is one.

    recording: one of this setup, with the residual of its forward stream, where there is one
    already. limits: chains of the limit by what they are; benches of one model and data, sampled
    differently, share it.
    """

    def __init__(
        self,
        setup: Setup,
        batch_size: int,
        folder: Path | None = None,
        recording: Recording | None = None,
        limits: dict[Any, Recording] | None = None,
    ) -> None:
        self.setup, self.batch_size, self.folder = setup, batch_size, folder
        self._given = recording
        self._limits: dict[Any, Recording] = {} if limits is None else limits

    @cached_property
    def scheme(self) -> Scheme | None:
        """How the sampler's limit is reached; None where it is not known."""
        return {"sde": SDE, "ode": ODE}.get(self.setup.sampler.limit or "")

    @cached_property
    def paired(self) -> Setup:
        """The setup whose chains start on the data."""
        run = self.setup.run
        return self.setup if run.paired else replace(self.setup, run=replace(run, start=Start.DATA))

    @cached_property
    def forward(self) -> Recording:
        """The forward stream at a few levels, of a part of the samples: V, and whether this is a
        denoiser.
        """
        if self._given is not None:
            return self._given
        run = replace(self.paired.run, kind="forward", streams=(Stream.FORWARD,))
        noisy = [i for i, level in enumerate(run.levels[:-1]) if level.sigma > 0]
        keep = [
            noisy[i]
            for i in np.unique(np.linspace(0, len(noisy) - 1, FORWARD_LEVELS).round().astype(int))
        ]
        n = min(self.setup.n, max(2 * GROUPS, round(FORWARD_SHARE * self.setup.n)))
        setup = replace(self.paired, run=run, n=n, keep=tuple(keep))
        return self._recorded(setup, "forward", (residual_power,))

    @cached_property
    def fractional(self) -> bool:
        """Whether the network takes timesteps between whole ones."""
        return takes_fractions(self.setup.model, self.setup)

    def chain(self, setup: Setup, name: str) -> Recording:
        """The sampler's own chain."""
        given = self._given
        if given is not None and (given.run.levels, given.run.start) == (
            setup.run.levels,
            setup.run.start,
        ):
            return given
        return self._recorded(replace(setup, light=True), name)

    def limit(self, setup: Setup, factor: int, rows: slice, name: str) -> Recording:
        """The limit's chain of `factor` steps in place of each, for some of the samples, up to
        the last noisy level.
        """
        key = (setup.sampler.limit, setup.levels, factor, rows.start, rows.stop)
        if key not in self._limits:
            self._limits[key] = self._recorded(
                self.limit_setup(setup, factor, rows), f"{name}-{factor}-{rows.start}"
            )
        return self._limits[key]

    def limit_setup(self, setup: Setup, factor: int, rows: slice, to_clean: bool = False) -> Setup:
        """That chain's setup; to_clean: with the last step, as it is. InputError where there are no
        levels for it."""
        finer, places = self._refined(setup, factor)
        end = len(finer) if to_clean else int(places[-2]) + 1
        sampler = self._limit_sampler(setup)
        run = replace(
            setup.run,
            kind="limit",
            levels=finer[:end],
            sampler=str(sampler),
            exact_teacher=sampler.exact_teacher,
            refine=factor,
            streams=(Stream.CHAIN,),
            spectra=(),
            transitions=None,
            options={},
        )
        places = places[places < end]
        keep = tuple(int(places[i]) for i in setup.kept if i < len(places))
        chosen = setup.ids[rows]
        first, n = int(chosen[0]), len(chosen)
        return replace(
            setup, run=run, sampler=sampler, places=places, keep=keep, light=True, first=first, n=n
        )

    def check_levels(self, setup: Setup) -> None:
        """Raise InputError where the schedule has too few levels for the limit's chains."""
        for factor in self.scheme.ladder if self.scheme else ():
            self._refined(setup, factor)

    def _refined(self, setup: Setup, factor: int) -> tuple[tuple[Level, ...], NDArray[np.int64]]:
        try:
            return setup.model.schedule.refined(setup.levels, factor, self.fractional)
        except InputError as error:
            most = len(setup.model.schedule) // max(self.scheme.ladder if self.scheme else (1,))
            raise InputError(
                f"{error}, and this network answers at whole timesteps only: a budget needs at most"
                f" {most} steps here"
            ) from error

    def _limit_sampler(self, setup: Setup) -> OneStep:
        if self.scheme is SDE:
            return CorrectedSDE(self._residual, setup.model.shape)
        return ode(setup.model.schedule, setup.levels, whole=not self.fractional)

    @cached_property
    def _residual(self) -> Residual:
        return Residual.of(self.forward)

    def _recorded(self, setup: Setup, name: str, statistics: Sequence[Any] = ()) -> Recording:
        path = None if self.folder is None else self.folder / f"{name}.nc"
        return recorded(setup, statistics, self.batch_size, path)


def takes_fractions(model: Denoiser, setup: Setup) -> bool:
    """Whether a network answers between whole timesteps; found by asking it once."""
    import torch

    schedule = model.schedule
    if schedule.continuous:
        return True
    if len(schedule) < 2:
        return False
    level = schedule.level(len(schedule) // 2 - 0.5)
    x = torch.zeros(1, *model.shape, dtype=torch.float64, device=model.device)
    try:
        with model.evaluating():
            setup.conditioned(np.array([0]))(x, level)
    except FractionalTimestep:
        return False
    return True


@dataclass(frozen=True)
class Split:
    """A chain's budget at every level: parts by name, (statistic, level); the order's, of a part of
    the samples.

    widest: half of a simultaneous 95 % band of the score error over all levels, in standard errors.
    """

    names: list[str]
    parts: dict[str, Estimate]
    order: Estimate
    bias: Estimate
    widest: Array

    def at(self, name: str, level: int = -1) -> dict[str, tuple[float, float]]:
        """One statistic at one level: value and error of each part, the order ratio, the
        extrapolation's error.
        """
        row = self.names.index(name)
        every = self.parts | {"order_ratio": self.order, "bias": self.bias}
        return {
            k: (float(e.value[row, level]), float(e.error[row, level])) for k, e in every.items()
        }


class Measure:
    """The statistics of a chain from sums by group, against a base recording's data and levels."""

    def __init__(self, base: Recording, own_images: bool) -> None:
        chain, data = base["chain"], base["data"]
        self.rows = slice(0, len(chain["step"]) - 1)
        noisy = chain.isel(step=self.rows)
        self.alpha, self.sigma = (noisy[k].values[:, None] for k in ("alpha", "sigma"))
        self.own_images = own_images
        self.pooling = Pooling.of(base)
        self.population = data["variance"].values.ravel()
        self.count = chain["count"].values
        self.bands, self.channels = self._bands(base), data["mean"].shape[0]
        labels = [] if self.bands is None else [f"band {f:.3g}" for f in self.bands.label]
        self.names = ["gap", *(["hf", *labels] if labels else []), "mean shift"]
        self.data = data

    def _bands(self, base: Recording) -> Any:
        space = base["data"]["mean"].shape[1:]
        return dct(*space) if space and "state_spectrum" in base["data"] else None

    @property
    def data_sums(self) -> tuple[Array, ...]:
        """Of the recorded images by group: count, Σ d, Σ d² where the chain's are, and power by
        band.
        """
        power = () if self.bands is None else (_power(self.data)[:, 0],)
        return (*self.pooling.known.sums, *power)

    @property
    def data_everywhere(self) -> list[Array]:
        """The same over all samples and all pixels."""
        both = [self.data[f"state_{part}"].values.ravel() for part in ("sum", "square")]
        power = [] if self.bands is None else [_power(self.data)[:, 0].sum(0)]
        return [self.data["count"].values.sum(), *both, *power]

    def sums(self, chain: xr.Dataset) -> list[Array]:
        """What `values` takes of a chain, by group: (group, level, …)."""
        total, square = (self.pooling.sums(chain, part) for part in ("sum", "square"))
        found = [total[:, self.rows], square[:, self.rows]]
        return found if self.bands is None else [*found, _power(chain)[:, self.rows]]

    def everywhere(self, chain: xr.Dataset) -> list[Array]:
        """The same over all samples and all pixels: (level, …)."""
        steps = chain.sizes["step"]
        found = [
            chain[f"state_{part}"].values.reshape(steps, -1)[self.rows]
            for part in ("sum", "square")
        ]
        return found if self.bands is None else [*found, _power(chain).sum(0)[self.rows]]

    @property
    def width(self) -> int:
        """How many arrays one chain has."""
        return 2 if self.bands is None else 3

    def values(
        self, n: float, chain: Sequence[Array], data: Sequence[Array], whole: bool = False
    ) -> Array:
        """All statistics, (statistic, level). whole: the sums are over all pixels, of all
        samples.
        """
        total, square, *power = chain
        count, data_total, data_square, *data_power = data
        variance = variance_of(n, total, square)
        target = expected(
            self.alpha, self.sigma, self._variance(count, data_total, data_square, whole)
        )
        rows = [relative(variance.sum(1), target.sum(1))]
        if power:
            noise = self.sigma**2 * self.bands.count * self.channels
            wanted = n * (self.alpha**2 * data_power[0] / float(count) + noise)
            ratio = np.divide(power[0], wanted, out=np.full_like(wanted, np.nan), where=wanted > 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                decibel = DECIBEL * np.log(ratio)
            rows += [decibel[:, -1], *decibel[:, :-1].T]
        shift = ((total / n) ** 2 - variance / n).mean(1) / target.mean(1)
        return np.stack([*rows, shift])

    def _variance(self, count: Any, total: Array, square: Array, whole: bool) -> Array:
        """σ_i² of the population that the images are from, or of these very images."""
        if self.own_images:
            return square / count - (total / count) ** 2
        return self.population if whole else self.pooling.known.remaining(count, total, square)


def _power(stream: xr.Dataset) -> Array:
    """Power by band, `high` last, summed over channels: (group, step, band + 1)."""
    bands, high = grouped(stream, "state_spectrum").sum(2), grouped(stream, "state_high").sum(2)
    return np.concatenate([bands, high[..., None]], axis=-1)


@dataclass(frozen=True, eq=False)
class Parts:
    """How a budget's parts follow from sums by group: arrays (part, statistic, level), `PARTS` in
    their order.

    own: the sampler's chain from the data, and after it that from noise, if any. limit: the limit's
    chains, which `weights` extrapolate; none where the limit is unknown. few: those of the samples
    that walked the whole ladder."""

    measure: Measure
    own: list[xr.Dataset]
    limit: list[xr.Dataset]
    weights: tuple[float, ...]
    few: list[xr.Dataset]

    @classmethod
    def of(cls, bench: Bench, setup: Setup, name: str, own_images: bool = False) -> "Parts":
        """Those of one chain.

        own_images: against the variance of the very images that it started on.
        """
        paired = setup if setup.run.paired else bench.paired
        base = bench.chain(paired, name)
        measure, own = Measure(base, own_images), [base["chain"]]
        if paired is not setup:
            own.append(bench.chain(setup, f"{name}-noise")["chain"])
        scheme = bench.scheme
        if scheme is None:
            return cls(measure, own, [], (), [])
        part = slice(0, check_samples(setup.n, setup.run.steps, scheme))
        rest = slice(part.stop, setup.n)
        few = {scheme.check: bench.limit(paired, scheme.check, part, name)["chain"]}
        whole = []
        for factor in scheme.factors:
            pieces = [
                bench.limit(paired, factor, rows, name)
                for rows in (part, rest)
                if rows.start < rows.stop
            ]
            few[factor] = pieces[0]["chain"]
            whole.append(merge(pieces)["chain"])
        return cls(measure, own, whole, scheme.weights, [few[factor] for factor in scheme.ladder])

    @property
    def sums(self) -> list[Array]:
        """What `estimate` takes, by group: (group, …)."""
        chains = [total for chain in self._chains for total in self.measure.sums(chain)]
        return [*chains, *self.measure.data_sums]

    @property
    def count(self) -> Array:
        """Samples by group."""
        return self.measure.count

    @cached_property
    def value(self) -> Array:
        """The parts of all samples and all pixels."""
        chains = [total for chain in self._chains for total in self.measure.everywhere(chain)]
        data = self.measure.data_everywhere
        return self.estimate(self.count.sum(), *chains, *data, every=True)

    def estimate(self, n: float, *totals: Array, every: bool = False) -> Array:
        """The parts from sums over some groups; every: over all of them, and all pixels."""
        width = self.measure.width
        end = width * len(self._chains)
        data = totals[end:]
        each = [
            self.measure.values(n, totals[k : k + width], data, every) for k in range(0, end, width)
        ]
        base, last, limit = each[0], each[len(self.own) - 1], each[len(self.own) :]
        weighted = [w * v for w, v in zip(self.weights, limit, strict=True)]
        score = np.sum(weighted, axis=0) if weighted else np.full_like(base, np.nan)
        return np.stack([last, last - base, base - score, score])

    @property
    def _chains(self) -> list[xr.Dataset]:
        return [*self.own, *self.limit]


def split(bench: Bench, setup: Setup, name: str, own_images: bool = False) -> Split:
    """The budget of one chain. own_images: see `Parts.of`."""
    parts = Parts.of(bench, setup, name, own_images)
    value, names = parts.value, parts.measure.names
    error, widest = np.full_like(value, np.nan), np.full(len(names), np.nan)
    if parts.count.min() >= MINIMUM_PER_GROUP:
        deviations = deviations_of(parts.estimate, parts.count, parts.sums, "linear")
        error = standard_error(deviations)
        widest = np.array([max_t_quantile(deviations[:, -1, row]) for row in range(len(names))])
    estimates = {name: Estimate(value[k], error[k]) for k, name in enumerate(PARTS)}
    nothing = Estimate(value[-1] * np.nan, value[-1] * np.nan)
    order, bias = (
        _order(parts.measure, parts.few, bench.scheme) if bench.scheme else (nothing, nothing)
    )
    return Split(names, estimates, order, bias, widest)


def _order(
    measure: Measure, chains: Sequence[xr.Dataset], scheme: Scheme
) -> tuple[Estimate, Estimate]:
    """The order ratio, and the extrapolation's error that it suggests, of the samples that
    walked all three.
    """
    width = measure.width

    def differences(n: float, *totals: Array) -> tuple[Array, Array]:
        data = totals[3 * width :]
        one, two, three = (
            measure.values(n, totals[k * width : (k + 1) * width], data) for k in range(3)
        )
        return one - two, two - three

    def ratio(n: float, *totals: Array) -> Array:
        above, below = differences(n, *totals)
        return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)

    def bias(n: float, *totals: Array) -> Array:
        above, below = differences(n, *totals)
        return -scheme.curvature * (above - scheme.order * below)

    count = chains[0]["count"].values
    sums = [total for chain in chains for total in measure.sums(chain)]
    both = [jackknife(f, count, *sums, *measure.data_sums, least=1) for f in (ratio, bias)]
    return both[0], both[1]


def check_samples(n: int, steps: int, scheme: Scheme) -> int:
    """How many samples walk the chain that only the order needs: a share, and no more calls than
    five a sample.
    """
    share = min(scheme.share, 5 / (steps * scheme.check))
    return min(n, max(2 * GROUPS, round(share * n)))


def fixed_answer(score: float, error: float, bias: tuple[float, float], margin: float) -> str:
    """Which of the fixed answers a score error ± its standard error gives, with a margin.

    bias: the extrapolation's estimated error and that estimate's standard error.
    """
    if not np.isfinite(error):
        return Answer.OPEN
    if too_coarse(*bias, margin, error):
        return Answer.COARSE
    # What the order check could not rule out counts as well, as far as it is more than noise.
    if abs(score) > T_QUANTILE * error:
        return Answer.POSITIVE if score > 0 else Answer.NEGATIVE
    return Answer.NONE if abs(score) + T_ONE_SIDED * error < margin else Answer.OPEN


def too_coarse(bias: float, error: float, margin: float, score_error: float) -> bool:
    """Whether an extrapolation's estimated error is real, and large enough to matter."""
    if not (np.isfinite(bias) and np.isfinite(error)):
        return False
    return abs(bias) > T_QUANTILE * error and abs(bias) > max(margin / 10, score_error / 2)


def needed(n: int, score: float, error: float, margin: float) -> int:
    """About how many images would decide: the interval of a null result, or of this one, would fit
    in."""
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
        order, bias = here.pop("order_ratio"), here.pop("bias")
        score, error = here["score"]
        if setup.run.model.guided:
            here["score"] = (np.nan, np.nan)
            answer = Answer.GUIDED
        elif setup.sampler.limit is None:
            answer = Answer.UNKNOWN
        else:
            answer = fixed_answer(score, error, bias, margin)
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
