"""The two streams: what a denoiser sees in training (`forward`) and what it sees when it samples (`chain`).

Both are generators of the same `Step`, so that a statistic cannot tell which one it reads; exposure bias is
statistic(chain) − statistic(forward). Along a paired chain runs the teacher chain: the same sampler, the same noise and
the true x_0 in place of every prediction. It is x_t paired with x̂_t.

A diffusers scheduler may keep its states in other coordinates than the network's. The same x_0 and ε with (α, σ)
scaled by c is the same problem, so a vp network is asked at c x with c = 1/√(α² + σ²), under the level's own label.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import hypot

import torch
from torch import Tensor

from exposure_bias.adapters.schedulers import SchedulerSampler
from exposure_bias.denoisers import Clip, Denoiser
from exposure_bias.errors import InputError
from exposure_bias.noise import Noise
from exposure_bias.samplers import Prediction, Sampler, Steps
from exposure_bias.schedules import Level

AnySampler = Sampler | SchedulerSampler
DDPM = Sampler("ddpm")
ROUND_OFF = 1e-9


@dataclass(frozen=True)
class Step:
    """One entry of a stream, for a batch.

    index: 0 is the noisy start. level: the state's. x: state (B, C, H, W), float64. prediction: what the denoiser said
    there, None at the clean end. truth: the teacher chain's state, None where nothing is paired.
    """

    index: int
    level: Level
    x: Tensor
    prediction: Prediction | None
    truth: Tensor | None = None


def noised(x0: Tensor, level: Level, noise: Tensor) -> Tensor:
    """x_t = α x_0 + σ ε, a draw of q(x_t | x_0), float64."""
    return torch.add(level.alpha * x0.double(), noise, alpha=level.sigma)


def prior(model: Denoiser, level: Level, noise: Tensor, sampler: AnySampler = DDPM) -> Tensor:
    """A start from pure noise, at the standard deviation where the sampler's own practice begins."""
    return noise.double() * sampler.prior_scale(level, model.schedule.path)


def forward(
    model: Denoiser,
    x0: Tensor,
    levels: Sequence[Level],
    noise: Noise,
    clip: Clip = False,
    indices: Sequence[int] | None = None,
) -> Iterator[Step]:
    """Steps at x_t ~ q(x_t | x_0), independent from level to level; `indices` picks some of the levels."""
    for index in range(len(levels)) if indices is None else indices:
        level = levels[index]
        if level.sigma == 0 or level.timestep == model.schedule.clean.timestep:
            # Some schedulers stop at a level with noise; no network is asked there either.
            x = noised(x0, level, noise(index)) if level.sigma else x0.double() * level.alpha
            yield Step(index, level, x, None)
        else:
            x = noised(x0, level, noise(index))
            yield Step(index, level, x, _evaluate(model, x, level, index, clip))


def chain(
    model: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    sampler: AnySampler,
    noise: Callable[[int], Tensor],
    clip: Clip = False,
    x0: Tensor | None = None,
    first: int = 0,
) -> Iterator[Step]:
    """Steps of the model's own chain from state x at levels[0] down to levels[-1].

    x0: (B, C, H, W) starts the teacher chain beside it, at the same x. noise: from a step's index to its unit noise
    (B, C, H, W). first: the index of levels[0] in a longer chain whose noise this one shares.
    """
    if clip == "keep_epsilon" and isinstance(sampler, SchedulerSampler):
        raise InputError("clip='keep_epsilon' cannot reach a diffusers scheduler, which takes one output: use True")
    truth = None if x0 is None else x
    steps, teacher = sampler.begin(levels), sampler.begin(levels)
    for index, (s, t) in enumerate(pairwise(levels), start=first):
        now = _evaluate(model, x, s, index, clip)
        yield Step(index, s, x, now, truth)
        z = noise(index) if sampler.stochastic else None

        def predict(x: Tensor, level: Level, index: int = index) -> Prediction:
            return _evaluate(model, x, level, index, clip)

        x = steps.step(x, now, s, t, z, predict, model.schedule.path)
        if truth is not None and x0 is not None:
            truth = teacher_step(truth, x0, teacher, s, t, z, now.variance, model)
    yield Step(first + len(levels) - 1, levels[-1], x, None, truth)


def teacher_step(
    x: Tensor,
    x0: Tensor,
    sampler: Steps,
    s: Level,
    t: Level,
    z: Tensor | None,
    variance: Tensor | None,
    model: Denoiser,
) -> Tensor:
    """One step of the teacher chain: x_0 in place of every prediction, everything else as in the model's step."""

    def predict(x: Tensor, level: Level) -> Prediction:
        return Prediction(x0, (x - level.alpha * x0) / level.sigma, variance)

    return sampler.step(x, predict(x, s), s, t, z, predict, model.schedule.path)


def rollout(
    model: Denoiser,
    x: Tensor,
    levels: Sequence[Level],
    sampler: AnySampler,
    noise: Noise,
    clip: Clip = False,
    first: int = 0,
) -> Tensor:
    """The state at levels[-1] of the chain that starts at state x on levels[0]."""
    for step in chain(model, x, levels, sampler, noise, clip, first=first):
        x = step.x
    return x


def in_network_coordinates(model: Denoiser, x: Tensor, level: Level) -> tuple[Tensor, Level]:
    """A state as the network is to see it: a vp network's has α² + σ² = 1 (module docstring)."""
    total = hypot(level.alpha, level.sigma)
    if model.schedule.path == "vp" and abs(total - 1) > ROUND_OFF:
        return x / total, Level(level.timestep, level.alpha / total, level.sigma / total)
    return x, level


def _evaluate(model: Denoiser, x: Tensor, level: Level, index: int, clip: Clip) -> Prediction:
    try:
        return model.predict(*in_network_coordinates(model, x, level), clip)
    except InputError as error:
        where = f"at step {index}, timestep {level.timestep:g} (α={level.alpha:.4g}, σ={level.sigma:.4g})"
        raise InputError(f"{error} {where}") from error
