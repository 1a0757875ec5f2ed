"""What a model's own chain tends to as its steps shrink, on a grid of its own.

The limit belongs to the network and not to the sampler that a user chose, so its steps know nothing
of the chain's. They are even in log SNR, from the chain's noisiest level to the schedule's least
noisy one, and solve the SDE (ddpm with any variance, ddim:1) or the ODE (ddim, euler, heun and all
other deterministic samplers) with one scheme. It is an exponential trapezoid: the state is
integrated exactly, and the prediction f of x_0 linearly between the two ends of a step. With
h = ln(α_t/σ_t) − ln(α_s/σ_s) > 0 and z the step's noise,

    x′ = A x_s + B f̃ + C z,   f′ = f(x′, t),   x_t = A x_s + B [(1 − w) f̃ + w f′] + C z,

    SDE   A = (σ_t/σ_s) e^(−h)   B = α_t (1 − e^(−2h))   C = σ_t √(1 − e^(−2h))
          w = [1 − (1 − e^(−2h))/(2h)] / (1 − e^(−2h))
    ODE   A = σ_t/σ_s            B = α_t (1 − e^(−h))    C = 0
          w = [1 − (1 − e^(−h))/h] / (1 − e^(−h)).

f̃ is what the network said at the end of the step before, so that a step costs one call; the first
asks once more. (The exponential trapezoid is Hochbruck and Ostermann 2010, Acta Numerica 19, eq.
2.39 with c₂ = 1. DPM-Solver++, Lu et al. 2022, arXiv 2211.01095, uses the same variation of
constants; its multistep form keeps the earlier prediction too.)

Errors fall as h² + h³ + …. Three grids of N, N/2 and N/4 steps, whose levels are nested and whose
noise is one Brownian path, cancel the first two:

    G∞ = (32 p_N − 12 p_{N/2} + p_{N/4}) / 21.

N = 4⌈range/0.48⌉ makes h at most 0.12. Where α = 0 at the start, the formulas hold at h = ∞ (A = 0
or σ_t/σ_s, B = α_t, C = σ_t, w = 1): one step leads to the first finite level at σ/α = 50 √λ_max of
the data, and all three grids begin there. A network that knows whole timesteps only is asked at the
nearest distinct ones; the coarser grids take every second and every fourth of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, exp, expm1, inf, log, sqrt
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exposure_bias.errors import InputError
from exposure_bias.samplers import Limit, Predict, Prediction, Transition, prior_scale
from exposure_bias.schedules import Level, Schedule

Array = NDArray[np.float64]

COARSEST_STEP = 0.48  # in log SNR, of the coarsest of the three grids
FIRST_RATIO = 50.0  # σ/α of the first finite level, in standard deviations of the data
SAME_RATIO = 1e-4  # σ/α of two levels that differ in round-off alone
# From the coarsest grid to the finest: how many steps stand in place of one of the coarsest grid's,
# and each chain's weight in the limit.
FACTORS = (1, 2, 4)
WEIGHTS = np.array([1.0, -12.0, 32.0]) / 21
FINEST = FACTORS[-1]
# The rule's name is part of a limit's identity: a limit that another rule made is not this one.
RULE = "exponential trapezoid, 0.12"


class Coefficients(NamedTuple):
    """A, B, C and w of a step (module docstring)."""

    state: float
    prediction: float
    noise: float
    after: float


def coefficients(limit: Limit, s: Level, t: Level) -> Coefficients:
    """A step's coefficients from level s to t, σ_t > 0."""
    h = log(t.alpha / t.sigma) - log(s.alpha / s.sigma) if s.alpha else inf
    rate = 2 if limit == "sde" else 1
    forgotten = -expm1(-rate * h)
    kept = exp(-h) if limit == "sde" else 1.0
    noise = t.sigma * sqrt(forgotten) if limit == "sde" else 0.0
    after = 1.0 if h == inf else (1 - forgotten / (rate * h)) / forgotten
    return Coefficients(t.sigma / s.sigma * kept, t.alpha * forgotten, noise, after)


@dataclass(frozen=True)
class Trapezoid:
    """The sampler of a limit. scale: the standard deviation of a start from noise."""

    limit: Limit
    scale: float | None = None

    ancestral = False
    exact_teacher = False

    @property
    def stochastic(self) -> bool:
        """Whether a step uses noise."""
        return self.limit == "sde"

    def levels(self, schedule: Schedule, steps: int, spacing: str) -> tuple[Level, ...]:
        """The schedule's own: a limit's come from `limit_grid`."""
        return schedule.levels(steps, spacing)

    def begin(self, levels: Sequence[Level]) -> "TrapezoidSteps":
        """Steps that remember a prediction."""
        return TrapezoidSteps(self.limit)

    def transition(self, levels: Sequence[Level]) -> tuple[Transition, ...] | None:
        """None: a step uses a prediction of the step before."""
        return None

    def prior_scale(self, level: Level) -> float:
        """As the chain's whose limit it is."""
        return prior_scale(level) if self.scale is None else self.scale

    def __str__(self) -> str:
        return f"limit:{self.limit} ({RULE})"


class TrapezoidSteps:
    """The steps of one chain. They ask the network themselves, once each."""

    asks_itself = True

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self._before: Any = None

    def step(
        self, x: Any, now: Prediction | None, s: Level, t: Level, z: Any, predict: Predict
    ) -> Any:
        """x_t from x_s; a step to a level without noise is the prediction at x_s itself."""
        if t.sigma == 0:
            return t.alpha * predict(x, s).x0
        before = predict(x, s).x0 if self._before is None else self._before
        a, b, c, w = coefficients(self.limit, s, t)
        moved = a * x + c * z if self.stochastic else a * x
        after = predict(moved + b * before, t).x0
        self._before = after
        return moved + b * ((1 - w) * before + w * after)

    @property
    def stochastic(self) -> bool:
        """Whether a step uses noise."""
        return self.limit == "sde"


def limit_grid(
    schedule: Schedule,
    start: Level,
    largest: float,
    whole: bool = False,
    steps: int = 0,
) -> tuple[Level, ...]:
    """The finest levels of a limit, from `start` to the schedule's least noisy level.

    largest: the data's largest variance along any direction. whole: only the schedule's own levels
    may be asked. steps: at least so many steps. Between the first finite level and the last there
    are N steps, a multiple of 4; a start with α = 0 stands before them.

    Raises InputError where there is no room for four steps.
    """
    start, end = own_level(schedule, start), schedule.level(0)
    ratio = start.ratio if start.alpha else FIRST_RATIO * sqrt(largest)
    span = log(ratio / end.ratio) if ratio > end.ratio else 0.0
    count = 4 * ceil(max(span / COARSEST_STEP, steps / 4, 1))
    ratios = np.geomspace(ratio, end.ratio, count + 1)
    if span == 0:
        raise InputError(
            f"the limit of a chain from timestep {start.timestep:g} has no room: that is the"
            " schedule's last noisy level already"
        )
    if whole:
        finite = whole_levels(schedule, ratio, count)
    else:
        finite = tuple(level_at(schedule, float(r)) for r in ratios[1:-1])
        finite = (start if start.alpha else level_at(schedule, ratio), *finite, end)
    return finite if start.alpha else (start, *finite)


def whole_levels(schedule: Schedule, ratio: float, count: int) -> tuple[Level, ...]:
    """Distinct levels of the schedule nearest to an even grid in log SNR, 4k + 1 of them.

    Raises InputError where there are fewer than five.
    """
    first = round(schedule.index_of_ratio(ratio))
    known = schedule.sigma[: first + 1] / schedule.alpha[: first + 1]
    wanted = np.geomspace(known[-1], known[0], count + 1)
    chosen = sorted({round(schedule.index_of_ratio(float(r))) for r in wanted}, reverse=True)
    if len(chosen) < 5:
        raise InputError(
            "the limit needs at least 4 steps, and this network answers at whole timesteps only, of"
            f" which there are {first + 1} from timestep {schedule.timestep[first]:g} on"
        )
    while len(chosen) % 4 != 1:
        # Without the label whose neighbours are nearest to each other.
        at = np.log(known[chosen])
        del chosen[1 + int((at[:-2] - at[2:]).argmin())]
    return tuple(schedule.level(i) for i in chosen)


def coarser(levels: Sequence[Level], factor: int, finest: int = FINEST) -> tuple[Level, ...]:
    """Every (finest/factor)-th of a grid's levels; a start with α = 0 stays."""
    before = int(levels[0].alpha == 0)
    return (*levels[:before], *levels[before :: finest // factor])


def places(levels: Sequence[Level], factor: int) -> NDArray[np.int64]:
    """Where the coarsest grid's levels stand in that of `factor` steps in place of each."""
    before = int(levels[0].alpha == 0)
    return np.array([*range(before), *range(before, len(levels), factor)])


def level_at(schedule: Schedule, ratio: float) -> Level:
    """The level of a noise-to-signal ratio, also beyond the ends of a continuous schedule."""
    if schedule.curve is None:
        return schedule.at_ratio(ratio)
    label = float(schedule.curve.label(ratio))
    return Level(label, *schedule.curve.alpha_sigma(label))


def own_level(schedule: Schedule, level: Level) -> Level:
    """A chain's level as the schedule's own, whatever its sampler's coordinates and precision."""
    if level.alpha == 0:
        return schedule.level(len(schedule) - 1) if schedule.alpha[-1] == 0 else level
    near = schedule.level(round(schedule.index_of_ratio(level.ratio)))
    same = near.alpha > 0 and abs(near.ratio / level.ratio - 1) < SAME_RATIO
    return near if same else level_at(schedule, level.ratio)


def interpolation(nodes: Sequence[Level], wanted: Sequence[Level]) -> Array:
    """The matrix (wanted, node) that takes values at a grid's levels to other levels.

    It is a cubic spline in log σ/α through the nodes of finite σ/α, held beyond the grid's ends;
    at a level of a grid it takes that value. Where α = 0, it takes the value at the node α = 0, or
    at the noisiest one.
    """
    from scipy.interpolate import CubicSpline

    before = int(nodes[0].alpha == 0)
    at = -np.log([level.ratio for level in nodes[before:]])
    matrix = np.zeros((len(wanted), len(nodes)))
    finite = np.array([level.alpha > 0 for level in wanted])
    matrix[~finite, 0] = 1.0
    where = np.clip([-log(level.ratio) for level in wanted if level.alpha], at[0], at[-1])
    if len(at) == 1:
        matrix[finite, before] = 1.0
    elif finite.any():
        matrix[finite, before:] = CubicSpline(at, np.eye(len(at)))(where)
    return matrix
