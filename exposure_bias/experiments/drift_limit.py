"""What a network draws with infinitely many steps: the limit of one frame, on a grid of its own.

The grid is even in h = log(σ/α) between the chain's noisiest level and its last noisy one. One
scheme serves both kinds of limit, an exponential trapezoid that keeps what the network said: with f̃
its x_0-prediction at the step's beginning and h = ln(σ_s/α_s) − ln(σ_t/α_t) > 0,

    SDE   A = (σ_t/σ_s) e^(−h)   B = α_t (1 − e^(−2h))   C = σ_t √(1 − e^(−2h))
          w = [1 − (1 − e^(−2h))/(2h)] / (1 − e^(−2h))
    ODE   A = σ_t/σ_s            B = α_t (1 − e^(−h))    C = 0
          w = [1 − (1 − e^(−h))/h] / (1 − e^(−h))

    x′ = A x + B f̃ + C z,   f′ = f(x′, t),   x = A x + B [(1 − w) f̃ + w f′] + C z,   f̃ ← f′

which is of second order (Hochbruck & Ostermann 2010, Acta Numerica 19, §2, for the exponential
integrators). Grids of N, N/2 and N/4 steps read one Brownian path.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, exp, inf, log, sqrt
from typing import NamedTuple

import numpy as np
from torch import Tensor

from exposure_bias.clipping import Clipping
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.paths import PathNoise, Paths
from exposure_bias.samplers import Limit
from exposure_bias.schedules import Level, Schedule
from exposure_bias.streams import evaluate

COARSEST = 0.48  # the longest step of the grid of N/4, in log σ/α
FIRST_RATIO = 50.0  # σ/α in units of the data's largest standard deviation, after α = 0


class Coefficients(NamedTuple):
    """A, B, C and w of one step."""

    state: float
    prediction: float
    noise: float
    weight: float


@dataclass(frozen=True)
class Grid:
    """The finest grid's levels, noisiest first, and the clean end where the chain has one.

    whole: how many levels before the nested part, 1 where the first step leaves α = 0.
    """

    kind: Limit
    levels: tuple[Level, ...]
    clean: Level | None
    before: int = 0

    @property
    def steps(self) -> int:
        """N, the number of steps of the finest grid's nested part."""
        return len(self.levels) - 1 - self.before

    def calls(self, factor: int) -> int:
        """How often a chain on every `factor`-th level asks the network."""
        return self.steps // factor + 1 + self.before + (self.clean is not None)

    def every(self, factor: int) -> tuple[Level, ...]:
        """Every `factor`-th level."""
        return (*self.levels[: self.before], *self.levels[self.before :: factor])

    def path(self, paths: Paths, factor: int) -> PathNoise:
        """Brownian paths along every `factor`-th level; all factors read one path."""
        levels = self.every(factor)
        nested = range(self.before, len(levels), max(1, 4 // factor))
        return paths.on(levels, [*range(self.before), *nested])


def grid(
    schedule: Schedule, levels: Sequence[Level], kind: Limit, fractional: bool, spread: float
) -> Grid:
    """The limit's own grid for a chain.

    fractional: whether the network takes labels between a discrete schedule's. spread: the data's
    largest standard deviation, which places the first level after a start at α = 0.
    """
    noisy = [level for level in levels if level.sigma > 0]
    clean = levels[-1] if levels[-1].sigma == 0 else None
    first, last = noisy[0], noisy[-1]
    begin = [first]
    if first.alpha == 0:
        begin.append(_like(first, schedule.at_ratio(FIRST_RATIO * spread)))
    span = log(begin[-1].ratio / last.ratio) if len(noisy) > 1 else 0.0
    if span <= 0:
        raise InputError(
            "a chain of one step has no limit to be compared with: use at least two steps"
        )
    count = 4 * ceil(span / (4 * COARSEST / 4))
    ratios = np.exp(np.linspace(log(begin[-1].ratio), log(last.ratio), count + 1))
    inner = [_like(first, schedule.at_ratio(float(r))) for r in ratios[1:-1]]
    if not fractional and not schedule.continuous:
        inner = _whole(schedule, inner, begin[-1], last)
    return Grid(kind, (*begin, *inner, last), clean, len(begin) - 1)


def _whole(schedule: Schedule, inner: Sequence[Level], first: Level, last: Level) -> list[Level]:
    """The nearest distinct whole labels, as many that all grids stay nested."""
    high, low = (round(schedule.index_of_ratio(level.ratio)) for level in (first, last))
    numbers = sorted({round(schedule.index_of_ratio(level.ratio)) for level in inner}, reverse=True)
    numbers = [i for i in numbers if low < i < high]
    # With k inner levels there are k + 1 steps, which 4 has to divide.
    while (len(numbers) + 1) % 4:
        gaps = np.diff([-high, *(-i for i in numbers), -low])
        numbers.pop(int(np.argmin(gaps[:-1] + gaps[1:])))
    return [_like(first, schedule.level(i)) for i in numbers]


def _like(first: Level, level: Level) -> Level:
    """A level in the coordinates of a chain whose sampler scales α and σ alike."""
    if (
        abs(np.hypot(level.alpha, level.sigma) - 1) > 1e-6
        or abs(np.hypot(first.alpha, first.sigma) - 1) < 1e-6
    ):
        return level
    return Level(level.timestep, 1.0, level.ratio)


def coefficients(kind: Limit, s: Level, t: Level) -> Coefficients:
    """A, B, C and w of the step s → t."""
    h = inf if s.alpha == 0 else log(s.ratio / t.ratio)
    decay = exp(-2 * h) if kind == "sde" else exp(-h)
    left = 1 - decay
    width = 2 * h if kind == "sde" else h
    weight = 1.0 if h == inf else (1 - left / width) / left
    if kind == "ode":
        return Coefficients(t.sigma / s.sigma, t.alpha * left, 0.0, weight)
    state = 0.0 if h == inf else t.sigma / s.sigma * exp(-h)
    return Coefficients(state, t.alpha * left, t.sigma * sqrt(left), weight)


def walk(
    model: Denoiser, x: Tensor, route: Grid, factor: int, path: PathNoise, clip: Clipping
) -> Tensor:
    """The end of the chain from state x on every `factor`-th level of a grid."""
    levels = route.every(factor)
    said = evaluate(model, x, levels[0], 0, clip).x0
    for index, (s, t) in enumerate(pairwise(levels)):
        a, b, c, w = coefficients(route.kind, s, t)
        moved = a * x
        if c:
            moved = moved.add_(path(index), alpha=c)
        then = evaluate(model, moved + b * said, t, index + 1, clip).x0
        x = moved.add_((1 - w) * said + w * then, alpha=b)
        said = then
    if route.clean is None:
        return x
    end = evaluate(model, x, levels[-1], len(levels) - 1, clip)
    return (route.clean.alpha * end.x0).double()
