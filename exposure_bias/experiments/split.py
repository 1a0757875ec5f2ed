"""What of a chain's gaps is the start's, the solver's and the network's, from sums by group.

The arithmetic of `experiments.budget`: every statistic of the sampler's chain and of the limit's
(`Measure`), the parts that follow from them (`Parts`), and their errors (`split`).

*The end.* A budget is taken at the chain's last noisy level where that is the schedule's least
noisy one, because the noise-free step after it has no limit. A chain that jumps to the clean end
from farther away, or that stops before it, is measured at its end, against the images
themselves: what it leaves out there is the solver's doing. The limit is read at the schedule's
least noisy level in both cases, so that it is one number for all chains.

*The check.* With ext(a, b) = (4 p_b − p_a)/3, the difference D = ext(N/2, N) − ext(N/4, N/2) of a
statistic predicts the error of its limit. Errors that fall as h³ make ext(N/2, N) wrong by D/7, and
G∞ better than that. A limit is *reached* where |D|/7 is at most MOST_ERROR or a tenth of |G∞|, and
where (p_{N/2} − p_{N/4})/(p_N − p_{N/2}) does not show that errors fall too slowly. What is reached
counts as wrong by |D|/10 + 0.1 %, which is added to half of its interval. So is 1/N of a gap, as
much as N images vary less about their own mean than about their law's.

*From pure noise.* An ODE has no limit there where the error of x̂_0 grows like σ/α. The first step,
from α = 0 to σ/α = 50 √λ_max, then moves the variance, and nothing is reached.

*The mean.* A shift of the mean is a square, and its estimate must be right where there is none.
With s_g the sum over group g of x̂ − x_t's mean given its own image, x̂ − α x_0,

    U = (|Σ s_g|² − Σ |s_g|²) / (n² − Σ n_g²)

has the mean |E(x̂ − α x_0)|² whatever the number of pixels, because no image meets itself. Without a
shift every s_g may as well have the other sign: the p-value of U is the share of the 2¹⁵ choices of
signs that make it as large."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import log
from typing import Any

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.target import Pooling
from exposure_bias.diagnostics.variance_gap import expected, relative, variance_of
from exposure_bias.errors import InputError
from exposure_bias.experiments.bench import Bench, Limit
from exposure_bias.experiments.limits import WEIGHTS, interpolation
from exposure_bias.jackknife import (
    DECIBEL,
    GROUPS,
    MINIMUM_PER_GROUP,
    T_QUANTILE,
    Array,
    Estimate,
    deviations_of,
    grouped,
    max_t_quantile,
    standard_error,
)
from exposure_bias.recording import Recording
from exposure_bias.running.setup import Setup
from exposure_bias.schedules import CLEAN_ALPHA, CLEAN_SIGMA
from exposure_bias.statistics.bands import dct

PARTS = ("total", "initialisation", "discretisation", "score")
SHIFT = "mean shift"
# The check's thresholds, relative (module docstring); those in decibels are as large.
MOST_ERROR, MOST_SHARE = 0.0125, 0.1
SLOWEST, SLOW_BEYOND = 1.7, 0.02
SLACK_SHARE, SLACK = 0.1, 0.001
SAME_LEVEL = 1e-3
# How far the step from pure noise may move an ODE's variance: an exact network's moves it by 0.1 %.
FROM_NOISE = 0.005
NO_ODE_LIMIT = (
    "the ODE has no limit from pure noise, because the network's error of x̂_0 grows like the noise:"
    " a sampler of the SDE has one"
)
EVERY_GROUP = np.ones(GROUPS)
# The difference of two extrapolations, and the two differences that tell the order, of the three
# grids, the coarsest first.
CHECK = np.array([1 / 3, -5 / 3, 4 / 3])
SLOPES = np.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]])


def unit(name: str) -> float:
    """What a relative change of 1 % is, in 1 % of a statistic's unit: decibels or shares."""
    return DECIBEL if name == "hf" or name.startswith("band") else 1.0


@dataclass(frozen=True)
class Check:
    """Whether a statistic's limit is reached: all arrays (statistic, level).

    difference, ratio: D and the order ratio, 4 where errors fall as h², with their errors.
    reached: the verdict. unfinished: what is added to half of an interval because the limit is
    extrapolated; slack: and because its target is biased.
    """

    difference: Estimate
    ratio: Estimate
    reached: Any
    unfinished: Array
    slack: Array

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        score: Array,
        difference: Estimate,
        ratio: Estimate,
        bias: float,
    ) -> "Check":
        """The verdict on limits of these values. bias: that of the gap's target."""
        units = np.array([unit(name) for name in names])[:, None]
        size, limit = np.abs(difference.value) / units, np.abs(score) / units
        close = size / 7 <= np.maximum(MOST_ERROR, MOST_SHARE * limit)
        shown = np.abs(difference.value) > T_QUANTILE * difference.error
        slow = (ratio.value < SLOWEST) & shown
        slow &= size > np.maximum(SLOW_BEYOND, MOST_SHARE * limit)
        unfinished = (SLACK_SHARE * size + SLACK) * units
        slack = unfinished.copy()
        slack[list(names).index("gap")] += bias
        reached = close & ~slow & np.isfinite(score)
        return cls(difference, ratio, reached, unfinished, slack)


@dataclass(frozen=True)
class Split:
    """A chain's budget at its recorded noisy levels, and last at its end.

    parts by name, (statistic, level); standard errors of the discretisation and the score hold the
    check's slack. deviations (group, statistic): the jackknife's of the score at the end, without
    the slack. shift: the p-value of the limit's shift of the mean at the end. at_clean: whether the
    end is the clean one. widest: half of a simultaneous 95 % band of the score error over all
    levels, in standard errors. last_step: what the step to the clean end adds to the gap. steps: of
    the limit's finest grid, 0 without a limit. estimate: the parts (part, statistic, level) from
    some groups of samples, weights (16,). why: why there is no limit, or "".
    """

    names: list[str]
    parts: dict[str, Estimate]
    check: Check | None
    deviations: Array
    shift: float
    at_clean: bool
    widest: Array
    last_step: Estimate
    steps: int
    estimate: Callable[[Array], Array]
    why: str = ""

    def at(self, name: str, level: int = -1) -> dict[str, tuple[float, float]]:
        """One statistic at one level: value and error of each part and of the order ratio."""
        row = self.names.index(name)
        nothing = Estimate(*2 * (np.full_like(self.parts["score"].value, np.nan),))
        every = self.parts | {"order_ratio": nothing if self.check is None else self.check.ratio}
        return {
            k: (float(e.value[row, level]), float(e.error[row, level])) for k, e in every.items()
        }

    def reached(self, name: str, level: int = -1) -> bool:
        """Whether the limit of a statistic is reached at a level."""
        if self.check is None:
            return False
        return bool(self.check.reached[self.names.index(name), level])


class Measure:
    """The statistics of chains from sums by group, against the data of a recording.

    base: the recording whose images are the target. own_images: the target is the variance of these
    very images, not of the population. chains: further ones; a chain of few levels may keep more
    pixels by group than they do.
    """

    def __init__(
        self, base: Recording, own_images: bool, chains: Sequence[xr.Dataset] = ()
    ) -> None:
        data = base["data"]
        self.own_images = own_images
        self.pooling = Pooling.of(base, chains)
        images = base.run.data.images
        self.population = data["variance"].values.ravel()
        # N images vary about their own mean by 1/N too little, as a gap counts them, and others
        # about that mean by 1/N too much.
        self.bias = 0.0 if own_images else 1 / max(images - 1, 1)
        self.about_their_mean = (images + 1) / max(images - 1, 1)
        self.count = data["count"].values
        space = data["mean"].shape[1:]
        self.bands = dct(*space) if space and "state_spectrum" in data else None
        # The power of unit white noise in each band.
        self.white = 0.0 if self.bands is None else self.bands.count * data["mean"].shape[0]
        labels = [] if self.bands is None else [f"band {f:.3g}" for f in self.bands.label]
        self.names = ["gap", *(["hf", *labels] if labels else []), SHIFT]
        self.mean = self.pooling.signed(data["mean"].values.ravel())
        power = [] if self.bands is None else [_power(data)[:, 0]]
        self.known = [*self.pooling.known.sums, *power]
        everywhere = [data[f"state_{part}"].values.ravel() for part in ("sum", "square")]
        count = np.asarray(self.count.sum())
        self.known_everywhere = [count, *everywhere, *(p.sum(0) for p in power)]

    def data(self, groups: Array | None) -> list[Array]:
        """Σ 1, Σ d, Σ d² and power by band of the images of these groups, weighted.

        None is all of them, at all pixels.
        """
        if groups is None:
            return self.known_everywhere
        return [np.tensordot(groups, total, 1) for total in self.known]

    def number(self, groups: Array | None) -> float:
        """How many samples these groups have."""
        return float(self.count.sum() if groups is None else groups @ self.count)


class Curve:
    """One chain's statistics at each of its recorded levels.

    clean: the last level is the end that a user gets, to be held against the images themselves.
    """

    def __init__(self, measure: Measure, chain: xr.Dataset, clean: bool) -> None:
        self.measure = measure
        alpha, sigma = (chain[k].values[:, None].copy() for k in ("alpha", "sigma"))
        self.mean_factor = alpha.copy()
        if clean:
            alpha[-1], sigma[-1] = CLEAN_ALPHA, CLEAN_SIGMA
        self.alpha, self.sigma = alpha, sigma
        steps = chain.sizes["step"]
        power = [] if measure.bands is None else [_power(chain)]
        self.by_group = [*(measure.pooling.sums(chain, part) for part in ("sum", "square")), *power]
        self.everywhere = [
            *(chain[f"state_{part}"].values.reshape(steps, -1) for part in ("sum", "square")),
            *(p.sum(0) for p in power),
        ]

    @property
    def displaced(self) -> Array:
        """Σ (x̂ − α x_0) by group, (group, level, place).

        A chain's deviations are recorded about its own α μ; the images' are about μ.
        """
        measure = self.measure
        count, total = measure.known[:2]
        offset = (self.mean_factor - self.alpha) * measure.mean
        shift: Array = (
            self.by_group[0] + count[:, None, None] * offset - self.alpha * total[:, None, :]
        )
        return shift

    def target(self, groups: Array | None) -> Array:
        """α²σ_i² + σ², (level, place)."""
        measure = self.measure
        count, total, square, *_ = measure.data(groups)
        if measure.own_images:
            variance = variance_of(float(count), total, square)
        elif groups is None:
            variance = measure.population
        else:
            variance = measure.pooling.known.remaining(count, total, square)
        return expected(self.alpha, self.sigma, variance)

    def values(self, groups: Array | None) -> Array:
        """All statistics but the mean's, (statistic, level), of these groups of samples.

        None is all samples at all pixels.
        """
        measure, n = self.measure, self.measure.number(groups)
        sums = (
            self.everywhere
            if groups is None
            else [np.tensordot(groups, total, 1) for total in self.by_group]
        )
        total, square, *power = sums
        rows = [relative(variance_of(n, total, square).sum(1), self.target(groups).sum(1))]
        if power:
            rows += self._decibels(power[0], measure.data(groups)[-1], n)
        return np.stack(rows)

    def _decibels(self, power: Array, of_data: Array, n: float) -> list[Array]:
        """hf and every band."""
        noise = self.sigma**2 * self.measure.white
        signal = self.alpha**2 * of_data * self.measure.about_their_mean
        wanted = signal + n * noise
        ratio = np.divide(power, wanted, out=np.full_like(wanted, np.nan), where=wanted > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            decibel = DECIBEL * np.log(ratio)
        return [decibel[:, -1], *decibel[:, :-1].T]


class Shift:
    """The square of the mean's shift relative to the target, U of the module docstring, by level.

    displaced (group, level, place): Σ (x̂ − α x_0) by group.
    """

    def __init__(self, curve: Curve, displaced: Array) -> None:
        self.curve, self.displaced = curve, displaced
        self.square = np.square(displaced).mean(2)

    def values(self, groups: Array | None) -> Array:
        """U, (level,)."""
        weights = EVERY_GROUP if groups is None else groups
        n, count = weights @ self.curve.measure.count, self.curve.measure.count
        total = np.tensordot(weights, self.displaced, 1)
        pairs = n**2 - weights @ count**2
        if pairs <= 0:
            return np.full(len(total), np.nan)
        shift = (np.square(total).mean(1) - np.tensordot(weights, self.square, 1)) / pairs
        # The target of all groups: a denominator whose own error does not matter.
        known = self.curve.target(EVERY_GROUP).mean(1)
        result: Array = np.divide(shift, known, out=np.full_like(shift, np.nan), where=known > 0)
        return result

    def p_value(self, level: int = -1) -> float:
        """The share of the choices of signs whose U is at least as large."""
        sums = self.displaced[:, level]
        products = sums @ sums.T
        np.fill_diagonal(products, 0.0)
        signs = _signs()
        sizes = np.einsum("ij,ij->i", signs @ products, signs)
        return float((sizes >= sizes[0] * (1 - 1e-12)).mean()) if sizes[0] > 0 else 1.0


def _signs() -> Array:
    """All choices of signs but for a common one, (2¹⁵, 16), all positive first."""
    bits = np.arange(2 ** (GROUPS - 1))[:, None] >> np.arange(GROUPS - 1) & 1
    return np.concatenate([np.ones((len(bits), 1)), 1.0 - 2 * bits], axis=1)


class Parts:
    """How a budget's parts follow from groups of samples.

    whole: the measure of all samples; own: curves of the sampler's chain from the data and, if any,
    from noise. few, its_own, limit: the measure of those samples that walked the limit, the curve
    of the sampler's chain of these alone, and those of the limit's three grids. rows: which of the
    chain's levels are reported, the end last.
    """

    def __init__(
        self,
        base: Recording,
        noise: Recording | None,
        few: Recording,
        limit: Limit | None,
        doubled: bool,
        own_images: bool,
    ) -> None:
        chains = [] if limit is None else [r["chain"] for r in limit.chains(doubled)]
        self.measure = Measure(base, own_images, chains)
        last, end = base.run.levels[-2], base.run.levels[-1]
        self.at_clean = not (end.sigma == 0 and _is_last(last.ratio, limit))
        noisy = base["chain"].sizes["step"] - 1
        self.rows = np.array([*range(noisy), noisy if self.at_clean else noisy - 1])
        self.own = [Curve(self.measure, base["chain"], clean=True)]
        if noise is not None:
            self.own.append(Curve(self.measure, noise["chain"], clean=True))
        shared = few is base
        measure = self.measure if shared else Measure(few, own_images, chains)
        self.its_own = self.own[0] if shared else Curve(measure, few["chain"], clean=True)
        self.limit = [Curve(measure, chain, clean=False) for chain in chains]
        self._own_shifts = [Shift(curve, curve.displaced) for curve in self.own]
        self._its_shift = (
            self._own_shifts[0] if shared else Shift(self.its_own, self.its_own.displaced)
        )
        if limit is None:
            return
        wanted = [base.run.levels[i] for i in base["chain"]["step"].values[:-1]]
        across = interpolation(limit.nodes, wanted)
        self.across = np.concatenate([across, np.eye(len(limit.nodes))[-1:]])
        displaced = np.stack([curve.displaced for curve in self.limit])
        mixtures = np.stack([WEIGHTS, *(_ext(k) for k in range(2))])
        self.shifts = [
            Shift(self.limit[0], np.tensordot(mixture, displaced, 1)) for mixture in mixtures
        ]
        self._grid_shifts = [Shift(curve, curve.displaced) for curve in self.limit]

    @property
    def names(self) -> list[str]:
        """The statistics."""
        return self.measure.names

    @property
    def count(self) -> Array:
        """Samples by group."""
        return self.measure.count

    def at(self, groups: Array | None) -> Array:
        """The parts, (part, statistic, level), of these groups of samples; None: of all."""
        base, *noise = (
            np.vstack([curve.values(groups), shift.values(groups)[None]])[:, self.rows]
            for curve, shift in zip(self.own, self._own_shifts, strict=True)
        )
        last = noise[0] if noise else base
        if not self.limit:
            nothing = np.full_like(base, np.nan)
            return np.stack([last, last - base, nothing, nothing])
        score = self._limit_of(groups, WEIGHTS, self.shifts[0])
        if self.its_own is self.own[0]:
            solver = base - score
        else:
            its = np.vstack([self.its_own.values(groups), self._its_shift.values(groups)[None]])
            solver = its[:, self.rows] - score
        return np.stack([last, last - base, solver, base - solver])

    def checks(self, groups: Array | None) -> Array:
        """D, p_{N/2} − p_{N/4} and p_N − p_{N/2}, (3, statistic, level)."""
        grids = np.stack([curve.values(groups) for curve in self.limit])
        shifts = np.stack([shift.values(groups) for shift in self._grid_shifts])
        mixed = np.tensordot(np.vstack([CHECK, SLOPES]), grids, 1)
        moved = np.tensordot(SLOPES, shifts, 1)
        better, worse = (shift.values(groups) for shift in self.shifts[1:])
        moved = np.concatenate([[better - worse], moved])
        checks: Array = np.concatenate([mixed, moved[:, None]], axis=1) @ self.across.T
        return checks

    def last_step(self, groups: Array | None) -> Array:
        """What the step to the clean end adds to the gap."""
        gap = self.own[-1].values(groups)[0]
        return np.asarray(gap[-1] - gap[-2])

    def _limit_of(self, groups: Array | None, mixture: Array, shift: Shift) -> Array:
        grids = np.stack([curve.values(groups) for curve in self.limit])
        values = np.vstack([np.tensordot(mixture, grids, 1), shift.values(groups)[None]])
        limit: Array = values @ self.across.T
        return limit

    def deviations(self, of: Any) -> Array:
        """The jackknife's deviations (group, …) of a function of groups."""
        return deviations_of(lambda _, kept: of(kept), self.count, [np.eye(GROUPS)], "linear")


def _ext(k: int) -> Array:
    """Weights of ext(N/2, N) for k = 0 and of ext(N/4, N/2) for k = 1, the coarsest grid first."""
    weights = np.zeros(3)
    weights[1 - k : 3 - k] = -1 / 3, 4 / 3
    return weights


def _is_last(ratio: float, limit: Limit | None) -> bool:
    """Whether a σ/α is that at which the limit ends; true where there is no limit."""
    return limit is None or abs(log(ratio / limit.nodes[-1].ratio)) < SAME_LEVEL


def split(
    bench: Bench, setup: Setup, name: str, own_images: bool = False, doubled: bool = True
) -> Split:
    """The budget of one chain. own_images: see `Parts.of`.

    doubled: the limit's grids are doubled once where a statistic's limit is not reached at the end.
    """
    paired = setup if setup.run.paired else bench.paired
    base = bench.chain(paired, name)
    noise = None if paired is setup else bench.chain(setup, f"{name}-noise")
    limit, why = _limit(bench, paired)
    few = base if limit is None else bench.few(paired, name)
    parts = Parts(base, noise, few, limit, False, own_images)
    found = _split(parts, limit, why)
    if limit is not None and found.check is not None and _depends_on_start(parts, limit):
        nowhere = replace(found.check, reached=np.zeros_like(found.check.reached))
        return replace(found, check=nowhere, why=NO_ODE_LIMIT)
    if not doubled or found.check is None or found.check.reached[:, -1].all():
        return found
    if limit is None or limit.doubled is None or _explodes(limit, doubled=True):
        return found
    return _split(Parts(base, noise, few, limit, True, own_images), limit, why, doubled=True)


def _depends_on_start(parts: Parts, limit: Limit) -> bool:
    """Whether an ODE's limit depends on where its first step from pure noise ends.

    What an error of x̂_0 that grows like σ/α adds is log-divergent: no level is noisy enough. That
    step moves the variance then, and the states before and after it are the same samples.
    """
    pure = limit.nodes[0].alpha == 0 and limit.setup.sampler.limit == "ode"
    if not pure or len(limit.nodes) < 2 or limit.nodes[1].ratio < limit.grid[1].ratio * (1 - 1e-6):
        return False
    before, after = parts.limit[-1].values(None)[0, :2]
    return bool(abs(after - before) > FROM_NOISE)


def _limit(bench: Bench, setup: Setup) -> tuple[Limit | None, str]:
    """The limit of a setup's chain; None, and why, where there is none."""
    try:
        limit = bench.limit(setup)
    except InputError as error:
        return None, str(error)
    if limit is None:
        return None, ""
    why = _explodes(limit)
    return (None, why) if why else (limit, "")


def _explodes(limit: Limit, doubled: bool = False) -> str:
    """Why a limit's chains cannot be walked, or ""."""
    try:
        limit.chains(doubled)
    except InputError as error:
        return str(error)
    return ""


def _split(parts: Parts, limit: Limit | None, why: str, doubled: bool = False) -> Split:
    value, names = parts.at(None), parts.names
    enough = parts.count.min() >= MINIMUM_PER_GROUP
    error, widest = np.full_like(value, np.nan), np.full(len(names), np.nan)
    deviations = np.full((GROUPS, *value.shape), np.nan)
    last_step = Estimate(parts.last_step(None), np.asarray(np.nan))
    if enough:
        deviations = parts.deviations(parts.at)
        error = standard_error(deviations)
        curves = deviations[:, -1, :, :-1]
        widest = np.array([max_t_quantile(curves[:, row]) for row in range(len(names))])
        last_step = Estimate(last_step.value, standard_error(parts.deviations(parts.last_step)))
    check, shift, steps = None, np.nan, 0
    if limit is not None:
        check = _check(parts, names, value[-1])
        error[2] += check.unfinished / T_QUANTILE
        error[3] += check.slack / T_QUANTILE
        shift = parts.shifts[0].p_value()
        steps = limit.steps * (2 if doubled else 1)
    estimates = {name: Estimate(value[k], error[k]) for k, name in enumerate(PARTS)}
    ends = deviations[:, -1, :, -1]
    return Split(
        names,
        estimates,
        check,
        ends,
        shift,
        parts.at_clean,
        widest,
        last_step,
        steps,
        parts.at,
        why,
    )


def _check(parts: Parts, names: Sequence[str], score: Array) -> Check:
    """Whether the limit is reached."""
    difference, one, two = parts.checks(None)
    ratio = _ratio(one, two)
    errors = np.full((2, *ratio.shape), np.nan)
    if parts.count.min() > 0:

        def both(groups: Array) -> Array:
            difference, one, two = parts.checks(groups)
            return np.stack([difference, _ratio(one, two)])

        errors = standard_error(parts.deviations(both))
    return Check.of(
        names,
        score,
        Estimate(difference, errors[0]),
        Estimate(ratio, errors[1]),
        parts.measure.bias,
    )


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)


def _power(stream: xr.Dataset) -> Array:
    """Power by band, `high` last, summed over channels: (group, step, band + 1)."""
    bands, high = grouped(stream, "state_spectrum").sum(2), grouped(stream, "state_high").sum(2)
    return np.concatenate([bands, high[..., None]], axis=-1)
