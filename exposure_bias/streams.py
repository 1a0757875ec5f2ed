"""The two streams of a denoiser.

What it sees in training (`forward`) and what it sees when it samples (`chain`).

Both are generators of the same `Step`, so that a statistic cannot tell which one it reads; exposure
bias is statistic(chain) − statistic(forward). Along a paired chain runs the teacher chain: the same
sampler, the same noise and the true x_0 in place of every prediction. It is x_t paired with x̂_t.

A sampler may keep its states in other coordinates than the network's. The same x_0 and ε with (α,
σ) scaled by c is the same problem, so a vp network is asked at c x with c = 1/√(α² + σ²), under the
level's own label.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import hypot

import torch
from torch import Tensor

from exposure_bias.clipping import UNCLIPPED, Clipping
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.samplers import Asking, Prediction, Sampler, Steps
from exposure_bias.schedules import Level

ROUND_OFF = 1e-9

# From a step's index to its unit noise (B, *shape).
StepNoise = Callable[[int], Tensor]


@dataclass(frozen=True)
class Step:
    """One entry of a stream, for a batch.

    index: 0 is the noisy start. level: the state's. x: state (B, *shape), float64. prediction: what
    the denoiser said there, None at the clean end. truth: the teacher chain's state, None where
    nothing is paired.
    """

    index: int
    level: Level
    x: Tensor
    prediction: Prediction | None
    truth: Tensor | None = None


def noised(x0: Tensor, level: Level, noise: Tensor) -> Tensor:
    """x_t = α x_0 + σ ε, a draw of q(x_t | x_0), float64."""
    return torch.add(level.alpha * x0.double(), noise, alpha=level.sigma)


def prior(level: Level, noise: Tensor, sampler: Sampler) -> Tensor:
    """A start from pure noise.

    At the standard deviation where the sampler's own practice begins.
    """
    return noise.double() * sampler.prior_scale(level)


def forward(
    model: Denoiser,
    x0: Tensor,
    levels: Sequence[Level],
    noise: StepNoise,
    clip: Clipping = UNCLIPPED,
    indices: Sequence[int] | None = None,
) -> Iterator[Step]:
    """Steps at x_t ~ q(x_t | x_0), independent from level to level.

    `indices` picks some of the levels.
    """
    for index in range(len(levels)) if indices is None else indices:
        level = levels[index]
        if level.sigma == 0:
            yield Step(index, level, x0.double() * level.alpha, None)
            continue
        x = noised(x0, level, noise(index))
        # Some schedulers stop at a level with noise; no network is asked there either.
        ends = level.timestep == model.schedule.clean.timestep
        yield Step(index, level, x, None if ends else evaluate(model, x, level, index, clip))


def chain(
    model: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    sampler: Sampler,
    noise: StepNoise,
    clip: Clipping = UNCLIPPED,
    x0: Tensor | None = None,
    first: int = 0,
) -> Iterator[Step]:
    """The model's own chain from state x (B, *shape) at levels[0] down to levels[-1].

    x0: (B, *shape) starts the teacher chain beside it, at the same x. first: the index of levels[0]
    in a longer chain whose noise this one shares.
    """
    truth = None if x0 is None else x
    steps, teacher = sampler.begin(levels), sampler.begin(levels)
    asks_itself = getattr(steps, "asks_itself", False)
    between = _between(model, x)
    own = {*levels, *getattr(steps, "asks_at", ())}
    for index, (s, t) in enumerate(pairwise(levels), start=first):
        now = None if asks_itself else evaluate(model, x, s, index, clip)
        yield Step(index, s, x, now, truth)
        z = noise(index) if sampler.stochastic else None

        def predict(x: Tensor, level: Level, index: int = index) -> Prediction:
            known = level if level in own else _known(model, level)
            return evaluate(model, x, known, index, clip)

        # A sampler may write into what it is given: the state was handed out, and z is used again.
        mine = z if z is None or truth is None else z.clone()
        x = steps.step(x.clone(), now, s, t, mine, Asking(predict, between))
        if truth is not None and x0 is not None:
            variance = None if now is None else now.variance
            truth = teacher_step(truth.clone(), x0, teacher, s, t, z, variance, between)
    yield Step(first + len(levels) - 1, levels[-1], x, None, truth)


def teacher_step(
    x: Tensor,
    x0: Tensor,
    steps: Steps,
    s: Level,
    t: Level,
    z: Tensor | None,
    variance: Tensor | None,
    between: Callable[[Level, Level, float], Level] | None = None,
) -> Tensor:
    """One step of the teacher chain.

    x_0 in place of every prediction, all else as in the model's step.
    """

    def predict(x: Tensor, level: Level) -> Prediction:
        return Prediction(x0, (x - level.alpha * x0) / level.sigma, variance)

    moved: Tensor = steps.step(x, predict(x, s), s, t, z, Asking(predict, between))
    return moved


def _between(model: Denoiser, x: Tensor) -> Callable[[Level, Level, float], Level]:
    """What finds the model's levels between two, in the coordinates of the noisier one."""

    def level(s: Level, t: Level, share: float) -> Level:
        return model.schedule.between(s, t, share, model.takes_fractions(x))

    return level


def _known(model: Denoiser, level: Level) -> Level:
    """A level of a step's own making, with the label under which the network knows its σ/α.

    Raises InputError where it knows no such level.
    """
    schedule = model.schedule
    if schedule.knows(level):
        return level
    own = schedule.at_ratio(level.ratio)._replace(alpha=level.alpha, sigma=level.sigma)
    if not schedule.knows(own):
        raise InputError(
            f"this sampler asks at timestep {level.timestep:g} for σ/α = {level.ratio:.4g}, which"
            f" is no level of the {schedule.name} schedule: ask predict.between(s, t)"
        )
    return own


def rollout(
    model: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    sampler: Sampler,
    noise: StepNoise,
    clip: Clipping = UNCLIPPED,
    first: int = 0,
) -> Tensor:
    """The state at levels[-1] of the chain that starts at state x on levels[0]."""
    for step in chain(model, x, levels, sampler, noise, clip, first=first):
        x = step.x
    return x


def in_network_coordinates(model: Denoiser, x: Tensor, level: Level) -> tuple[Tensor, Level]:
    """A state as the network is to see it: a vp network's has α² + σ² = 1 (module docstring)."""
    total = hypot(level.alpha, level.sigma)
    if model.schedule.parameterisation == "vp" and abs(total - 1) > ROUND_OFF:
        return x / total, Level(level.timestep, level.alpha / total, level.sigma / total)
    return x, level


def evaluate(model: Denoiser, x: Tensor, level: Level, index: int, clip: Clipping) -> Prediction:
    """The model's prediction at a state; an InputError says at which step of the chain."""
    try:
        return model.predict(*in_network_coordinates(model, x, level), clip)
    except InputError as error:
        where = (
            f"at step {index}, timestep {level.timestep:g} (α={level.alpha:.4g},"
            f" σ={level.sigma:.4g})"
        )
        raise type(error)(f"{error} {where}") from error
