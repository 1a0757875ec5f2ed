"""The limit of a network against closed forms: linear networks on Gaussian data, whose chains are
affine, and against chains of many steps by other samplers."""

from collections.abc import Sequence
from itertools import pairwise
from math import exp, log
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad

import exposure_bias as eb
from exposure_bias.experiments.bench import Limits
from exposure_bias.experiments.limits import (
    FACTORS,
    WEIGHTS,
    TrapezoidSteps,
    coarser,
    coefficients,
    interpolation,
    limit_grid,
    places,
)
from exposure_bias.paths import Paths
from exposure_bias.running.setup import prepare
from exposure_bias.samplers import Limit, Prediction
from exposure_bias.schedules import Level

VARIANCES = np.array([0.01, 0.2, 1.0, 3.0])
SCHEDULES = {
    "linear": eb.schedules.linear(),
    "cosine": eb.schedules.cosine(),
    "edm": eb.schedules.edm(),
    "flow": eb.schedules.flow(),
}
KINDS: tuple[Limit, ...] = ("sde", "ode")


def gain(level: Level, scale: float = 1.0) -> np.ndarray:
    """E[x_0 | x_t] = gain x_t for N(0, VARIANCES), and that of a network whose ε̂ is scaled where
    there is signal."""
    exact = level.alpha * VARIANCES / (level.alpha**2 * VARIANCES + level.sigma**2)
    if scale == 1 or level.alpha == 0:
        return exact
    here = 1 + (scale - 1) / (1 + level.ratio)
    return (1 - here * (1 - level.alpha * exact)) / level.alpha


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_steps_coefficients_are_the_integrals_that_they_stand_for(kind: Limit, name: str) -> None:
    """A prediction made τ before the end of a step counts with k e^{−kτ} α_t, where k is
    2 for the SDE and 1 for the ODE; w is the second end's part in a prediction that is linear."""
    schedule = SCHEDULES[name]
    s, t = schedule.level(700), schedule.level(400)
    h = log(t.alpha / t.sigma) - log(s.alpha / s.sigma)
    rate = 2 if kind == "sde" else 1
    a, b, c, w = coefficients(kind, s, t)
    whole = quad(lambda tau: rate * exp(-rate * tau), 0, h, epsabs=1e-13)[0]
    after = quad(lambda tau: rate * exp(-rate * tau) * (1 - tau / h), 0, h, epsabs=1e-13)[0]
    assert b == pytest.approx(t.alpha * whole, rel=1e-10)
    assert b * w == pytest.approx(t.alpha * after, rel=1e-10)
    # A state that is x_0 and noise of the right size, and is told x_0, stays so.
    assert a * s.alpha + b == pytest.approx(t.alpha, rel=1e-10)
    assert a**2 * s.sigma**2 + c**2 == pytest.approx(t.sigma**2, rel=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_from_pure_noise_they_are_those_of_an_infinite_step(kind: Limit) -> None:
    flow = SCHEDULES["flow"]
    start, t = flow.level(999), flow.level(900)
    assert start.alpha == 0
    near = Level(0.0, 1e-12, 1.0)
    np.testing.assert_allclose(coefficients(kind, start, t), coefficients(kind, near, t), atol=0.05)
    a, b, c, w = coefficients(kind, start, t)
    assert (b, w) == (t.alpha, 1.0)
    assert a * start.sigma + c == pytest.approx(t.sigma)


def end_variance(kind: Limit, levels: Sequence[Level], scale: float) -> np.ndarray:
    """Var x at the last of the levels, by mode: the step is affine in (x, f̃, z)."""
    first = levels[0].alpha ** 2 * VARIANCES + levels[0].sigma ** 2
    said = gain(levels[0], scale)
    both = first[:, None, None] * np.einsum("id,jd->dij", *2 * [np.stack([0 * said + 1, said])])
    for s, t in pairwise(levels):
        a, b, c, w = coefficients(kind, s, t)
        k = gain(t, scale)
        one = np.ones(4)
        after = np.stack([k * a, k * b])  # f′ = k (a x + b f̃ + c z)
        step = np.stack(
            [[a * one + b * w * after[0], b * (1 - w) * one + b * w * after[1]], after]
        ).transpose(2, 0, 1)
        noise = c * np.stack([one + b * w * k, k], axis=1)
        both = step @ both @ step.transpose(0, 2, 1) + np.einsum("di,dj->dij", noise, noise)
    return both[:, 0, 0]


def extrapolated(kind: Limit, grid: Sequence[Level], scale: float) -> list[np.ndarray]:
    """The variances of the three grids relative to q's, less 1, and their limit."""
    end = grid[-1].alpha ** 2 * VARIANCES + grid[-1].sigma ** 2
    each = [end_variance(kind, coarser(grid, f), scale) / end - 1 for f in FACTORS]
    return [*each, WEIGHTS @ np.stack(each)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_an_exact_networks_limit_is_the_data_within_a_quarter_percent(
    name: str, kind: Limit
) -> None:
    schedule = SCHEDULES[name]
    grid = limit_grid(schedule, schedule.level(999), VARIANCES.max())
    *_, limit = extrapolated(kind, grid, 1.0)
    assert np.abs(limit).max() < 0.003
    assert np.abs(limit[1:]).max() < 0.0025


@pytest.mark.parametrize("scale", [0.97, 1.03])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_wrong_networks_limit_is_that_of_very_many_steps(
    name: str, kind: Limit, scale: float
) -> None:
    schedule = SCHEDULES[name]
    start = schedule.level(999)
    grid = limit_grid(schedule, start, VARIANCES.max())
    fine = limit_grid(schedule, start, VARIANCES.max(), steps=4096)
    coarse, half, full, limit = extrapolated(kind, grid, scale)
    truth = extrapolated(kind, fine, scale)[-1]
    assert np.abs(truth).max() > 0.005
    np.testing.assert_allclose(limit, truth, atol=0.003)
    # The errors fall as h² and a little faster.
    order = np.median((half - coarse) / (full - half))
    assert 3 < order < 5.5


def test_the_limit_is_that_of_plain_ancestral_steps() -> None:
    """An independent recursion: 20,000 ancestral steps, extrapolated."""
    schedule, scale = SCHEDULES["linear"], 1.03
    grid = limit_grid(schedule, schedule.level(999), VARIANCES.max())
    *_, limit = extrapolated("sde", grid, scale)
    ends = []
    for steps in (10_000, 20_000):
        ratio = np.geomspace(grid[0].ratio, grid[-1].ratio, steps + 1)
        alpha, sigma = 1 / np.hypot(1, ratio), ratio / np.hypot(1, ratio)
        variance = alpha[0] ** 2 * VARIANCES + sigma[0] ** 2
        shrink = 1 - (ratio[1:] / ratio[:-1]) ** 2
        for k in range(steps):
            s, t = Level(0, alpha[k], sigma[k]), Level(0, alpha[k + 1], sigma[k + 1])
            forget = shrink[k]
            factor = s.alpha / t.alpha * (t.sigma / s.sigma) ** 2 + t.alpha * forget * gain(
                s, scale
            )
            variance = factor**2 * variance + t.sigma**2 * forget
        ends.append(variance)
    truth = (2 * ends[1] - ends[0]) / (alpha[-1] ** 2 * VARIANCES + sigma[-1] ** 2) - 1
    np.testing.assert_allclose(limit, truth, atol=0.003)


@pytest.mark.parametrize(("name", "steps"), [("linear", 84), ("cosine", 128), ("edm", 92)])
def test_the_grids_are_even_in_log_snr_and_as_long_as_the_range_asks(name: str, steps: int) -> None:
    schedule = SCHEDULES[name]
    grid = limit_grid(schedule, schedule.level(999), 1.0)
    assert len(grid) == steps + 1
    h = -np.diff(np.log([level.ratio for level in grid]))
    assert h.max() <= 0.12 + 1e-6
    np.testing.assert_allclose(h, h.mean(), rtol=1e-4)
    assert grid[-1] == schedule.level(0)
    assert set(coarser(grid, 1)) < set(coarser(grid, 2)) < set(grid)


def test_from_pure_noise_the_grids_begin_at_fifty_standard_deviations() -> None:
    flow = SCHEDULES["flow"]
    for largest in (0.04, 1.0):
        grid = limit_grid(flow, flow.level(999), largest)
        assert grid[0] == flow.level(999)
        assert grid[1].ratio == pytest.approx(50 * np.sqrt(largest))
        for factor in FACTORS:
            assert coarser(grid, factor)[:2] == grid[:2]


def test_whole_timesteps_are_distinct_and_nested() -> None:
    schedule = SCHEDULES["linear"]
    for start in (999, 321, 20, 6, 4):
        grid = limit_grid(schedule, schedule.level(start), 1.0, whole=True)
        labels = [level.timestep for level in grid]
        assert labels == sorted({round(t) for t in labels}, reverse=True)
        assert len(grid) % 4 == 1
        assert (labels[0], labels[-1]) == (start, 0)
    with pytest.raises(eb.InputError, match="at least 4 steps"):
        limit_grid(schedule, schedule.level(3), 1.0, whole=True)
    with pytest.raises(eb.InputError, match="no room"):
        limit_grid(schedule, schedule.level(0), 1.0)


@pytest.mark.parametrize("name", ["linear", "flow"])
def test_the_three_grids_walk_on_one_path(name: str) -> None:
    schedule = SCHEDULES[name]
    grid = limit_grid(schedule, schedule.level(999), 1.0)
    fine, *others = (
        Paths(0, range(3), (2,)).on(levels, places(levels, f))
        for f, levels in ((f, coarser(grid, f)) for f in (4, 2, 1))
    )
    for factor, path in zip((2, 1), others, strict=True):
        levels = coarser(grid, factor)
        for i in range(1, len(levels), 5):
            theirs = path.start(i)
            mine = fine.start(grid.index(levels[i]))
            assert torch.allclose(theirs, mine, atol=1e-9)


def test_a_step_remembers_what_the_network_said() -> None:
    """One call a step and one more at the start, none of them on behalf of the chain."""
    schedule = SCHEDULES["linear"]
    calls: list[float] = []

    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(float(t[0]))
        return torch.zeros_like(x)

    model = eb.Denoiser(net, schedule=schedule, prediction_type="sample", shape=(4,))
    data = eb.load_data(np.random.default_rng(0).normal(size=(16, 4)), value_range=None)
    setup = prepare(model, data, kind="recording", sampler="ddim", steps=7, n=16)
    limit = Limits(16).of(setup)
    calls.clear()
    limit.chains()
    assert limit.steps == 84
    assert len(calls) == 1.75 * limit.steps + 3
    calls.clear()
    limit.chains()
    assert not calls


def test_a_step_to_the_clean_end_is_the_prediction_there() -> None:
    steps = TrapezoidSteps("ode")
    s = SCHEDULES["linear"].level(0)
    x = torch.ones(1, 4)
    end = steps.step(
        x, None, s, Level(-1, 1.0, 0.0), None, lambda x, level: Prediction(0.5 * x, None)
    )
    assert torch.equal(end, 0.5 * x)


def test_one_limit_serves_all_samplers_lengths_and_spacings(tmp_path: Path) -> None:
    model = eb.oracles.GaussianOracle(np.zeros(4), VARIANCES, SCHEDULES["linear"])
    x = np.random.default_rng(0).normal(size=(32, 4)) * np.sqrt(VARIANCES)
    data = eb.load_data(x, value_range=None)

    def of(limits: Limits, sampler: str, **options: object) -> object:
        setup = prepare(model, data, kind="recording", sampler=sampler, n=32, **options)
        return limits.of(setup)

    limits = Limits(32, tmp_path)
    first = of(limits, "ddpm", steps=20)
    assert of(limits, "ddpm:fixed_large", steps=20) is first
    assert of(limits, "ddim:1", steps=7, grid="trailing") is first
    assert of(limits, "ddpm", steps=11, grid="karras") is first
    assert of(limits, "DDPMScheduler", steps=1000) is first
    for other in (
        {"sampler": "ddim", "steps": 20},
        {"sampler": "ddpm", "steps": 20, "seed": 1},
        {"sampler": "ddpm", "steps": 20, "grid": "leading"},  # it begins at less noise
        {"sampler": "ddpm", "steps": 20, "start": "noise"},
    ):
        assert of(limits, **other) is not first


def test_a_budget_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "chain-2-0.nc").write_bytes(b"")
    with pytest.raises(eb.InputError, match="earlier version"):
        Limits(32, tmp_path)


def test_values_between_the_grids_levels_are_interpolated() -> None:
    schedule = SCHEDULES["linear"]
    grid = coarser(limit_grid(schedule, schedule.level(999), 1.0), 1)
    curve = np.array([1 / (1 + level.ratio**2) for level in grid])
    levels = schedule.levels(50)[:-1]
    found = interpolation(grid, levels) @ curve
    np.testing.assert_allclose(found, [1 / (1 + x.ratio**2) for x in levels], atol=2e-3)
    assert found[0] == pytest.approx(curve[0], abs=1e-12)
    assert found[-1] == pytest.approx(curve[-1], abs=1e-12)
