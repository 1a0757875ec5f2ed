"""Chains of few calls: candidates for their levels, the best of them, and how they are measured.

The parts of `experiments.levels`. Everything that chooses looks at one half of the images, and
everything that certifies at the other.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure_bias.adapters import adapt
from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import Denoiser
from exposure_bias.diagnostics.denoising import check_denoises
from exposure_bias.errors import InputError, whole_number
from exposure_bias.experiments.bench import Bench, Limits
from exposure_bias.experiments.discretisation import (
    OBJECTIVES,
    Discretisation,
    Images,
    Objective,
    Spread,
    Weights,
    best_path,
    residual_power,
)
from exposure_bias.experiments.end import end_share
from exposure_bias.experiments.limits import FIRST_RATIO, level_at
from exposure_bias.experiments.split import PARTS, split
from exposure_bias.jackknife import (
    DECIBEL,
    GROUPS,
    MINIMUM_PER_GROUP,
    Array,
    Estimate,
    deviations_of,
    standard_error,
    why_no_interval,
)
from exposure_bias.recording import Recording
from exposure_bias.run import Stream
from exposure_bias.running.recorder import recorded
from exposure_bias.running.setup import Setup, prepare, takes_fractions, varied
from exposure_bias.samplers import Sampler, Transition, conditional_variance
from exposure_bias.schedules import Level, Schedule

CHOSEN = "chosen"
RULES = ("linspace", "karras", "quadratic", "log-linear")
FORWARD_LEVELS = 32
CANDIDATES = 128  # evenly in the schedule's own time, and as many evenly in log σ/α
NUMBERS = 2**25  # at most so many d_i² are held
SAME = 1e-6  # relative difference of a sampler's coefficients from those of a known step
ALL_GROUPS = np.ones(GROUPS)


@dataclass(frozen=True, eq=False)
class Choice:
    """What levels are chosen from and measured with.

    setup: the forward pass over the half of the images that chooses. held_out: the other half.
    objective: what is to be right. wide: whether the sampler's noise has the variance β.
    """

    setup: Setup
    held_out: Data
    objective: str | Objective
    wide: bool
    batch_size: int
    folder: Path | None

    @property
    def model(self) -> Denoiser:
        """The network."""
        return self.setup.model

    @cached_property
    def recording(self) -> Recording:
        """The forward pass. Raises InputError for a network that does not denoise these data."""
        path = None if self.folder is None else self.folder / "forward.nc"
        found = recorded(self.setup, [residual_power], self.batch_size, path)
        check_denoises(found)
        return found

    @cached_property
    def images(self) -> Images:
        """The images that choose, as the weights see them."""
        data = self.setup.data
        most = max(4 * GROUPS, NUMBERS // int(np.prod(self.model.shape)))
        chosen = data.batch(np.arange(min(len(data), most))).astype(np.float64)
        return Images.of(chosen, self.setup.law.mean, self.objective)

    def discretisation(self, groups: Array = ALL_GROUPS) -> Discretisation:
        """What steps cost, from the images of some groups. groups: their weights, 0 or 1."""
        kept = groups[np.arange(len(self.images.square)) % GROUPS] > 0
        weights = Weights.of(self.images, kept)
        spread = Spread.of(self.recording, weights.variance, groups)
        return Discretisation(spread, weights, self.wide)

    @cached_property
    def _whole(self) -> Discretisation:
        return self.discretisation()

    @cached_property
    def candidates(self) -> tuple[Level, ...]:
        """The levels to choose from, the clean end last."""
        return (*candidate_levels(self.setup), self.model.schedule.clean)

    @cached_property
    def costs(self) -> Array:
        """What the step from one candidate to another costs."""
        return self._whole.costs(self.candidates)

    def best(self, calls: int) -> tuple[Level, ...]:
        """The levels of the best chain of so many calls, the clean end last."""
        return tuple(self.candidates[k] for k in best_path(self.costs, calls))

    def predicted(self, levels: Sequence[Level]) -> Estimate:
        """The predicted discretisation error of a chain, relative, or in decibels for hf."""
        value = self._whole.predicted(levels)
        count = self.recording["forward"]["count"].values
        error = np.nan
        if count.min() >= MINIMUM_PER_GROUP:
            deviations = deviations_of(
                lambda _, groups: np.asarray(self._without[groups.tobytes()].predicted(levels)),
                count,
                [np.eye(GROUPS)],
                "linear",
            )
            error = float(standard_error(deviations))
        if self.objective != "hf":
            return Estimate(np.asarray(value), np.asarray(error))
        # A prediction of large errors may say that nothing is left at all.
        left = max(1 + value, np.finfo(np.float64).tiny)
        return Estimate(np.asarray(DECIBEL * np.log(left)), np.asarray(DECIBEL * error / left))

    @cached_property
    def _without(self) -> dict[bytes, Discretisation]:
        """What steps cost without one of the groups."""
        kept = ALL_GROUPS - np.eye(GROUPS)
        return {groups.tobytes(): self.discretisation(groups) for groups in kept}

    def certified(self, levels: Sequence[Level]) -> tuple[Estimate, Array]:
        """The discretisation error of a chain on the held-out half, and its deviations (16,)."""
        run = self.setup.run
        setup = prepare(
            self.model,
            self.held_out,
            kind="recording",
            sampler=self.setup.sampler,
            levels=levels,
            n=min(self.setup.n, len(self.held_out)),
            clip=run.clip,
            seed=run.seed + 1,
            batch_size=self.batch_size,
            streams=(Stream.CHAIN,),
        )
        place = self.folder and self.folder / setup.run.digest
        bench = Bench(setup, self.batch_size, place, limits=self._limits)
        if self.objective not in OBJECTIVES:
            return end_share(bench, self.objective)
        found = split(bench, setup, "chain")
        row, part = found.names.index(str(self.objective)), PARTS.index("discretisation")
        estimate = found.parts["discretisation"]
        here = Estimate(np.asarray(estimate.value[row, -1]), np.asarray(estimate.error[row, -1]))

        def measured(_: float, groups: Array) -> Array:
            return np.asarray(found.estimate(groups)[part, row, -1])

        count = bench.chain(setup, "chain")["chain"]["count"].values
        return here, deviations_of(measured, count, [np.eye(GROUPS)], "linear")

    @cached_property
    def _limits(self) -> Limits:
        return Limits(self.batch_size, self.folder)

    @property
    def attributes(self) -> dict[str, Any]:
        """What was done, in words, and whether the numbers are decibels."""
        known: dict[str, Any] = dict(self.setup.attributes)
        for name in ("steps", "start"):
            known.pop(name, None)
        named = self.objective if isinstance(self.objective, str) else _named(self.objective)
        in_decibels = self.objective == "hf"
        known |= {"objective": named, "unit": "dB" if in_decibels else "relative"}
        known["decibels"] = int(in_decibels)
        return known | why_no_interval(self.recording["forward"]["count"].values)


def _named(objective: Objective) -> str:
    return str(getattr(objective, "__qualname__", type(objective).__name__))


def choice_of(
    model: Any,
    data: Any,
    objective: str | Objective,
    n: int,
    folder: str | os.PathLike[str] | None,
    **chain: Any,
) -> Choice:
    """What choosing needs. chain: sampler, clip, seed and batch_size as `prepare` takes them.

    Raises InputError, before the network is asked, for whatever does not fit.
    """
    denoiser, images = adapt(model), load_data(data)
    images = images.fitted(denoiser.shape)
    n = whole_number(n, "n, the number of samples of each half,", 2 * GROUPS)
    if len(images) < 4 * GROUPS:
        raise InputError(
            f"{len(images)} images are too few to choose on one half of them and certify on the"
            f" other: give at least {4 * GROUPS}"
        )
    if denoiser.guidance not in (None, 0, 1):
        raise InputError(
            "levels are chosen for a denoiser of the data, and a guided field is none: give the"
            " model without guidance"
        )
    first, second = (half(images, which) for which in (0, 1))
    setup = prepare(
        denoiser,
        first,
        kind="levels",
        levels=denoiser.schedule.levels(1)[:1],
        n=min(n, len(first)),
        streams=(Stream.FORWARD,),
        options={"statistics": ["residual_power"]},
        **chain,
    )
    wide = variance_is_wide(setup.sampler, denoiser.schedule)
    through = (*forward_levels(setup), denoiser.schedule.clean)
    setup = varied(replace(setup, run=replace(setup.run, levels=through)))
    setup = replace(setup, places=np.arange(len(through)), keep=tuple(range(len(through))))
    place = None if folder is None else Path(folder)
    choice = Choice(setup, second, objective, wide, chain["batch_size"], place)
    _ = choice.images  # the objective is tried before the network is asked
    return choice


def half(data: Data, which: int) -> Data:
    """Every other image, from number 0 or 1 on."""
    labels = None if data.labels is None else data.labels[which::2]
    return replace(data, images=data.images[which::2], labels=labels)


def checked_calls(calls: Any, schedule: Schedule) -> int:
    """A number of calls, at least 2, that a schedule has room for."""
    calls = whole_number(calls, "calls, the number of network calls,", 2)
    most = CANDIDATES if schedule.continuous else min(CANDIDATES, len(schedule))
    if calls > most:
        raise InputError(f"levels are chosen for 2 to {most} calls here, got {calls}")
    return calls


def variance_is_wide(sampler: Sampler, schedule: Schedule) -> bool:
    """Whether a first-order sampler of the SDE has noise of variance β; else it has β̃.

    Raises InputError for a sampler whose steps are of another kind.
    """
    levels = schedule.levels(min(6, len(schedule)))
    # The last step, to the clean end, is the prediction whatever the variance.
    steps = (sampler.transition(levels) or ())[:-1]
    for wide in (False, True):
        known = [
            _is_ddpm(step, s, t, wide)
            for step, (s, t) in zip(steps, pairwise(levels), strict=False)
        ]
        if known and all(known):
            return wide
    raise InputError(
        "levels are chosen for samplers of the SDE that ask once a step (ddpm, ddpm:fixed_large,"
        f" ddim:1), and {sampler} is another, whose error cannot be told from a forward pass:"
        " choose for ddpm, or compare spacings by error_budget"
    )


def _is_ddpm(step: Transition, s: Level, t: Level, wide: bool) -> bool:
    """Whether a step has DDPM's coefficients."""
    beta = conditional_variance(s, t)
    share = (t.sigma / s.sigma) ** 2
    expected = [s.alpha / t.alpha * share, t.alpha * beta / s.sigma**2]
    noise = beta if wide else beta * share
    found = [step.state, *step.predictions]
    return len(found) == 2 and np.allclose([*found, step.noise**2], [*expected, noise], SAME, 0)


def first_ratio(setup: Setup) -> float:
    """The noise-to-signal ratio of the noisiest level where anything of x_0 is left."""
    start = setup.model.schedule.level(len(setup.model.schedule) - 1)
    largest = max(float(setup.law.values[0]), np.finfo(np.float64).tiny)
    return start.ratio if start.alpha else FIRST_RATIO * sqrt(largest)


def even_in_log(setup: Setup, count: int) -> list[Level]:
    """Levels even in log σ/α, of a discrete schedule the nearest of its own; noisiest first."""
    schedule = setup.model.schedule
    ratios = np.geomspace(first_ratio(setup), schedule.level(0).ratio, count)
    if schedule.continuous:
        return [level_at(schedule, float(ratio)) for ratio in ratios]
    places = {round(schedule.index_of_ratio(float(ratio))) for ratio in ratios}
    return [schedule.level(place) for place in sorted(places, reverse=True)]


def forward_levels(setup: Setup) -> tuple[Level, ...]:
    """The noisy levels of the forward pass."""
    return tuple(even_in_log(setup, FORWARD_LEVELS))


def candidate_levels(setup: Setup) -> list[Level]:
    """The noisy levels to choose from, the schedule's noisiest first."""
    schedule = setup.model.schedule
    last = len(schedule) - 1
    places: NDArray[Any] = np.linspace(0, last, min(CANDIDATES, last + 1))
    own = [schedule.level(float(p) if schedule.continuous else round(p)) for p in places]
    every = {level.ratio: level for level in (*even_in_log(setup, CANDIDATES), *own)}
    return [every[ratio] for ratio in sorted(every, reverse=True)]


def ruled(setup: Setup, rule: str, calls: int) -> tuple[Level, ...] | None:
    """The levels of a fixed rule, the clean end last.

    None where it has none for so many calls: where a network is asked at whole timesteps only and
    two of the rule's levels fall on one.
    """
    schedule = setup.model.schedule
    try:
        levels = _ruled(setup, rule, calls)
    except InputError:
        return None
    between = [v for v in levels if not float(v.timestep).is_integer()]
    if between and not schedule.continuous and not takes_fractions(setup.model, between[0]):
        levels = [schedule.level(round(schedule.index_of_ratio(v.ratio))) for v in levels]
    ratios = [level.ratio for level in levels]
    return (*levels, schedule.clean) if len(set(ratios)) == calls else None


def _ruled(setup: Setup, rule: str, calls: int) -> list[Level]:
    schedule = setup.model.schedule
    if rule in ("linspace", "karras"):
        return list(schedule.levels(calls, rule)[:-1])
    last = len(schedule) - 1
    if rule == "quadratic":
        return [schedule.level(last * u**2) for u in np.linspace(1, 0, calls)]
    start = schedule.level(last)
    ratios = np.geomspace(
        first_ratio(setup), schedule.level(0).ratio, calls - int(start.alpha == 0)
    )
    finite = [level_at(schedule, float(ratio)) for ratio in ratios]
    return finite if start.alpha else [start, *finite]
