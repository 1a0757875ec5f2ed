"""The chains of a model's limit: exact for Gaussian data (SDE), of second order (ODE)."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.experiments.limits import (
    CorrectedSDE,
    Exponential,
    HeunLimit,
    Modes,
    Residual,
    ode,
)
from exposure_bias.samplers import OneStep, Prediction
from exposure_bias.schedules import Level, Schedule

VARIANCES = np.array([0.01, 0.2, 1.0, 3.0])
SCHEDULES = {
    "linear": eb.schedules.linear(),
    "cosine": eb.schedules.cosine(),
    "edm": eb.schedules.edm(),
    "flow": eb.schedules.flow(),
}


def gain(level: Level, scale: float = 1.0) -> np.ndarray:
    """E[x_0 | x_t] = gain x_t for N(0, VARIANCES), and that of a network whose ε̂ is scaled."""
    exact = level.alpha * VARIANCES / (level.alpha**2 * VARIANCES + level.sigma**2)
    if scale == 1 or level.alpha == 0:
        return exact
    here = 1 + (scale - 1) / (1 + level.ratio)  # an error where signal is, as networks have it
    return (1 - here * (1 - level.alpha * exact)) / level.alpha


def said(x: torch.Tensor, level: Level, scale: float = 1.0) -> Prediction:
    x0 = torch.from_numpy(gain(level, scale)) * x
    return Prediction(x0, (x - level.alpha * x0) / max(level.sigma, 1e-300))


def residual(levels: Sequence[Level]) -> Residual:
    """The exact V of these data at these levels."""
    noisy = [x for x in levels if x.alpha > 0 and x.sigma > 0]
    power = [VARIANCES * x.sigma**2 / (x.alpha**2 * VARIANCES + x.sigma**2) for x in noisy]
    return Residual(np.array([0, *(x.snr for x in noisy)]), 1 / np.stack([VARIANCES, *power]))


def affine(sampler: OneStep, s: Level, t: Level) -> tuple[np.ndarray, np.ndarray]:
    """A step's factors of the state and of the noise: no Monte Carlo."""
    one, none = torch.ones(1, 4, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    state = sampler.step(one, said(one, s), s, t, none, said)
    noise = sampler.step(none, said(none, s), s, t, one, said)
    return state.numpy()[0], noise.numpy()[0]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [2, 3, 17])
def test_the_sde_chain_of_gaussian_data_is_exact_at_any_number_of_steps(
    name: str, steps: int
) -> None:
    levels = SCHEDULES[name].levels(steps)
    sampler = CorrectedSDE(residual(levels), (4,))
    variance = levels[0].alpha ** 2 * VARIANCES + levels[0].sigma ** 2
    for s, t in pairwise(levels[:-1]):
        state, noise = affine(sampler, s, t)
        variance = state**2 * variance + noise**2
        np.testing.assert_allclose(variance, t.alpha**2 * VARIANCES + t.sigma**2, rtol=1e-10)


def test_without_the_correction_the_sde_chain_is_too_narrow() -> None:
    levels = SCHEDULES["linear"].levels(10)
    nothing = Residual(np.array([0.0]), np.full((1, 4), 1e300))
    variance = levels[0].alpha ** 2 * VARIANCES + levels[0].sigma ** 2
    for s, t in pairwise(levels[:-1]):
        state, noise = affine(CorrectedSDE(nothing, (4,)), s, t)
        variance = state**2 * variance + noise**2
    target = levels[-2].alpha ** 2 * VARIANCES + levels[-2].sigma ** 2
    assert (variance / target < 0.99).any()


def end_error(sampler: OneStep, levels: Sequence[Level], scale: float) -> np.ndarray:
    """log of the ODE map's factor to the last noisy level, against that of 4,000 steps."""
    x = torch.ones(1, 4, dtype=torch.float64)
    for s, t in pairwise(levels[:-1]):
        x = sampler.step(x, said(x, s, scale), s, t, None, lambda y, at: said(y, at, scale))
    return np.log(x.numpy()[0])


@pytest.mark.parametrize("scale", [1.0, 1.02])
@pytest.mark.parametrize("name", SCHEDULES)
def test_the_ode_chains_are_of_second_order(name: str, scale: float) -> None:
    schedule = SCHEDULES[name]
    levels = schedule.levels(25)
    found = []
    for factor in (1, 2, 4, 64):
        finer, places = schedule.refined(levels, factor, True)
        found.append(end_error(ode(schedule, levels), finer, scale))
        assert finer[int(places[-2])] == levels[-2]
    one, two, four, limit = found
    extrapolated = (4 * two - one) / 3
    assert np.abs(extrapolated - limit).max() < 0.5 * np.abs(two - limit).max()
    ratio = (one - two) / (two - four)
    assert np.median(ratio) == pytest.approx(4, rel=0.35)


def test_the_integrator_is_chosen_by_where_it_is_stable() -> None:
    linear, cosine, flow = (SCHEDULES[k] for k in ("linear", "cosine", "flow"))
    assert isinstance(ode(linear, linear.levels(20)), HeunLimit)
    assert isinstance(ode(cosine, cosine.levels(20)), Exponential)
    assert isinstance(ode(flow, flow.levels(20)), Exponential)


@pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 4, 5), (1, 3, 4, 2), (1, 1, 1), (1, 2, 3)])
def test_modes_are_orthonormal_for_states_of_any_rank(shape: tuple[int, ...]) -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(3, *shape)))
    modes = Modes(shape)
    assert torch.allclose(modes.inverse(modes(x)), x, atol=1e-12)
    assert torch.allclose(modes(x).square().sum(), x.square().sum(), rtol=1e-12)


def test_the_residual_is_held_beyond_its_ends() -> None:
    table = Residual(np.array([0.0, 2.0]), np.array([[1.0], [4.0]]))
    assert table.at(1.0)[0] == pytest.approx(1 / 2.5)
    assert table.at(1e9)[0] == pytest.approx(1 / 4)
    assert table.at(0.0)[0] == pytest.approx(1.0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_residual_of_gaussian_data_is_exact_between_the_levels_where_it_was_measured(
    name: str,
) -> None:
    """Interpolated in its logarithm it was half of that in the last, largest steps, and the limit
    of an exact mixture on the linear schedule came out 2 % too narrow."""
    levels = SCHEDULES[name].levels(20)
    table = residual(levels[:-1:4])
    for level in (x for x in levels[1:-4] if x.alpha > 0):
        exact = VARIANCES / (1 + VARIANCES * level.snr)
        np.testing.assert_allclose(table.at(level.snr), exact, rtol=1e-9)


def test_the_limit_of_the_sde_does_not_depend_on_the_correction() -> None:
    schedule: Schedule = SCHEDULES["linear"]
    levels = schedule.levels(10)
    ends = []
    for wrong in (0.5, 2.0):
        spread = []
        for factor in (2, 4, 64):
            finer, _ = schedule.refined(levels, factor, True)
            exact = residual(finer)
            table = Residual(exact.snr, exact.precision / wrong)
            variance = finer[0].alpha ** 2 * VARIANCES + finer[0].sigma ** 2
            for s, t in pairwise(finer[:-1]):
                if t.sigma < levels[-2].sigma * (1 - 1e-9):
                    break
                state, noise = affine(CorrectedSDE(table, (4,)), s, t)
                variance = state**2 * variance + noise**2
            spread.append(variance)
        ends.append(spread)
    (two, four, fine), (_, four_, fine_) = ends
    assert np.abs(fine / fine_ - 1).max() < 0.25 * np.abs(four / four_ - 1).max()
    once, twice = np.abs(2 * four - two - fine) / fine, np.abs(four - fine) / fine
    assert (once < twice + 1e-12).all()
