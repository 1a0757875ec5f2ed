"""Churn, k-diffusion's ancestral solvers and DPM-Solver++(2M), against the papers' own loops.

The loops below are written in σ alone (α = 1), as the papers and k-diffusion write them. They and
ours ask one denoiser that is not linear, with the same noise.
"""

from collections.abc import Callable
from itertools import pairwise
from math import exp, inf, log, sqrt

import numpy as np
import pytest

import exposure_bias as eb
from exposure_bias.errors import InputError
from exposure_bias.samplers import EDM, Prediction, parse, prepared
from exposure_bias.schedules import Level, Schedule

Denoise = Callable[[np.ndarray, float], np.ndarray]
EDM_SCHEDULE = eb.schedules.edm()
SIZE = 5


def denoise(x: np.ndarray, sigma: float) -> np.ndarray:
    """E[x_0 | x] of ±1: nothing about it is linear."""
    return np.tanh(x / sigma**2)


def predict(x: np.ndarray, level: Level) -> Prediction:
    """The same in any coordinates: x = α x_0 + σ ε."""
    x0 = denoise(x / level.alpha, level.ratio)
    return Prediction(x0, (x - level.alpha * x0) / level.sigma)


def ours(name: str, schedule: Schedule, steps: int, x: np.ndarray, noise: np.ndarray) -> list:
    """Our chain's states over α from a start x (over α) at its first level."""
    sampler = prepared(parse(name), schedule, steps, "linspace")
    levels = sampler.levels(schedule, steps, "linspace")
    chain, state, states = sampler.begin(levels), levels[0].alpha * x, [x]
    for i, (s, t) in enumerate(pairwise(levels)):
        z = noise[i] if sampler.stochastic else None
        state = chain.step(state, predict(state, s), s, t, z, predict)
        states.append(state / t.alpha)
    return states


def down_and_up(s: float, t: float) -> tuple[float, float]:
    up = min(t, sqrt(t**2 * (s**2 - t**2) / s**2))
    return sqrt(t**2 - up**2), up


def dpm_2_ancestral(sigmas: list[float], x: np.ndarray, noise: np.ndarray) -> list:
    states = [x]
    for i, (s, t) in enumerate(pairwise(sigmas)):
        down, up = down_and_up(s, t)
        d = (x - denoise(x, s)) / s
        if t == 0:
            x = x - d * s
        else:
            middle = exp((log(s) + log(down)) / 2)
            between = x + d * (middle - s)
            x = x + (between - denoise(between, middle)) / middle * (down - s) + up * noise[i]
        states.append(x)
    return states


def dpmpp_2s_ancestral(sigmas: list[float], x: np.ndarray, noise: np.ndarray) -> list:
    states = [x]
    for i, (s, t) in enumerate(pairwise(sigmas)):
        down, up = down_and_up(s, t)
        said = denoise(x, s)
        if t == 0:
            x = said
        else:
            h = log(s) - log(down)
            middle = s * exp(-h / 2)
            between = middle / s * x - np.expm1(-h / 2) * said
            x = down / s * x - np.expm1(-h) * denoise(between, middle) + up * noise[i]
        states.append(x)
    return states


def dpmpp_2m_sde(sigmas: list[float], x: np.ndarray, noise: np.ndarray, eta: float = 1) -> list:
    states, old, last = [x], None, 0.0
    for i, (s, t) in enumerate(pairwise(sigmas)):
        said = denoise(x, s)
        if t == 0:
            x = said
        else:
            h = log(s) - log(t)
            weight = -np.expm1(-h - eta * h)
            x = t / s * exp(-eta * h) * x + weight * said
            if old is not None:
                x = x + 0.5 * weight * (h / last) * (said - old)
            x = x + noise[i] * t * sqrt(-np.expm1(-2 * eta * h))
            old, last = said, h
        states.append(x)
    return states


def dpmpp_2m(sigmas: list[float], x: np.ndarray, noise: np.ndarray) -> list:
    return dpmpp_2m_sde(sigmas, x, noise, eta=0)


SCHEDULES = {
    "edm": eb.schedules.edm(0.05, 20),
    "linear": eb.schedules.linear(),
    "sub-vp": eb.schedules.sub_vp(),
}


@pytest.mark.parametrize("loop", [dpm_2_ancestral, dpmpp_2s_ancestral, dpmpp_2m, dpmpp_2m_sde])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 4, 12])
def test_k_diffusions_loops(loop: Callable, name: str, steps: int) -> None:
    schedule, generator = SCHEDULES[name], np.random.default_rng(steps)
    levels = schedule.levels(steps)
    noise = generator.normal(size=(steps, SIZE))
    x = 0.5 + levels[0].ratio * generator.normal(size=SIZE)
    theirs = loop([level.ratio for level in levels], x, noise)
    lost = max(level.ratio for level in levels[:-1]) / levels[-2].ratio  # digits, in x/α
    for mine, state in zip(ours(loop.__name__, schedule, steps, x, noise), theirs, strict=True):
        np.testing.assert_allclose(mine, state, rtol=1e-10, atol=1e-10 * lost)


def churned(
    sigmas: list[float], x: np.ndarray, noise: np.ndarray, churn: float, low: float, high: float
) -> list:
    """Algorithm 2; the states that the network is asked at, and the last."""
    states, steps = [], len(sigmas) - 1
    for i, (s, t) in enumerate(pairwise(sigmas)):
        gamma = min(churn / steps, sqrt(2) - 1) if low <= s <= high else 0.0
        hat = s + gamma * s
        x = x + sqrt(hat**2 - s**2) * noise[i]
        states.append(x)
        d = (x - denoise(x, hat)) / hat
        end = x + (t - hat) * d
        if t > 0:
            then = (end - denoise(end, t)) / t
            end = x + (t - hat) * (d / 2 + then / 2)
        x = end
    return [*states, x]


@pytest.mark.filterwarnings("ignore:heun works in x/α")
@pytest.mark.parametrize(("churn", "low", "high"), [(0, 0, inf), (4, 0, inf), (40, 0.05, 30)])
@pytest.mark.parametrize("steps", [1, 2, 12])
def test_edms_algorithm(churn: float, low: float, high: float, steps: int) -> None:
    generator = np.random.default_rng(steps)
    noise = generator.normal(size=(steps + 1, SIZE))
    sigmas = [level.ratio for level in EDM_SCHEDULE.levels(steps)]
    x = 0.5 + sigmas[0] * generator.normal(size=SIZE)
    theirs = churned(sigmas, x, noise, churn, low, high)
    name = f"edm:churn={churn},s_min={low},s_max={high}"
    mine = ours(name, EDM_SCHEDULE, steps, theirs[0], noise[1:])
    np.testing.assert_allclose(mine, theirs, rtol=1e-10, atol=1e-10)


def test_without_churn_it_is_heun() -> None:
    levels, x = eb.schedules.linear().levels(8), np.linspace(-1, 1, SIZE)
    for s, t in pairwise(levels):
        one, other = (
            parse(name).step(x, predict(x, s), s, t, None, predict) for name in ("edm:0", "heun")
        )
        np.testing.assert_array_equal(one, other)


def gaussian(x: float, level: Level, variance: float = 0.25) -> Prediction:
    total = level.alpha**2 * variance + level.sigma**2
    return Prediction(level.alpha * variance / total * x, level.sigma / total * x)


def variance_error(name: str, intervals: int) -> float:
    """|variance of a chain at σ_min / that of x_t − 1|, Gaussian data, by unit responses."""
    levels = EDM_SCHEDULE.levels(intervals + 1, "karras")[:-1]
    sampler = parse(name)
    chain = sampler.begin(levels)
    x = np.zeros(len(levels))
    x[0] = sqrt(0.25 + levels[0].sigma ** 2)
    for i, (s, t) in enumerate(pairwise(levels)):
        z = np.eye(len(levels))[i + 1] if sampler.stochastic else None
        x = chain.step(x, gaussian(x, s), s, t, z, gaussian)
    return abs(float(x @ x) / (0.25 + levels[-1].sigma ** 2) - 1)


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("ddpm", 1),
        ("dpmpp_2m", 2),
        ("dpm_2_ancestral", 2),
        ("dpmpp_2s_ancestral", 2),
        ("dpmpp_2m_sde", 2),
    ],
)
def test_order_of_the_variance(name: str, order: int) -> None:
    """Steps from state to noise-free state of second order keep the variance to second order."""
    intervals = [20, 40, 80, 160, 320]
    errors = [variance_error(name, n) for n in intervals]
    slope = np.polyfit(np.log(intervals[1:]), np.log(errors[1:]), 1)[0]
    assert abs(-slope - order) < 0.15


def test_churn_needs_its_own_levels() -> None:
    with pytest.raises(InputError, match="levels of its own"):
        EDM(churn=4).begin(EDM_SCHEDULE.levels(5))
    levels = eb.schedules.flow().levels(5)
    with pytest.raises(InputError, match="starts at α = 0"):
        parse("dpm_2_ancestral").step(0, Prediction(0, 0), *levels[:2], 0, gaussian)


@pytest.mark.parametrize("name", ["edm:4", "dpmpp_2m_sde", "dpm_2_ancestral"])
def test_a_recorded_teacher_chain_is_the_forward_process(name: str) -> None:
    """Its mean square over images and pixels is α² + σ² for data of unit variance."""
    data = eb.load_data(np.random.default_rng(0).normal(size=(512, 1, 4, 4)), value_range=None)
    model = eb.oracles.GaussianOracle(np.zeros((1, 4, 4)), 1.0, eb.schedules.linear())
    rec = eb.record(model, data, sampler=name, steps=10, n=512, streams=("chain", "teacher"))
    teacher = rec["teacher"].isel(step=slice(0, -1))
    square = teacher["state_square"].mean(("channel", "y", "x")).values / 512
    expected = (teacher["alpha"] ** 2 + teacher["sigma"] ** 2).values
    # The mean of 8192 squares of normal numbers has a standard error of 1.6 %.
    np.testing.assert_allclose(square, expected, rtol=0.07)
