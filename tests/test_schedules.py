"""Schedules against the papers' formulas and against diffusers; the algebra of predictions as
properties."""

import math
from itertools import pairwise, permutations

import numpy as np
import pytest
from diffusers import DDPMScheduler
from hypothesis import given
from hypothesis import strategies as st

from exposure_bias import schedules
from exposure_bias.errors import InputError
from exposure_bias.schedules import PREDICTION_TYPES, Level, Schedule, conversion, convert
from exposure_bias.schedules import SPACINGS as GRIDS

LINEAR, COSINE, EDM, FLOW = (
    schedules.linear(),
    schedules.cosine(),
    schedules.edm(),
    schedules.flow(1000),
)
SCHEDULES = {s.name: s for s in (LINEAR, COSINE, EDM, FLOW)}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def timesteps(schedule: Schedule, steps: int, grid: str) -> list[float]:
    return [level.timestep for level in schedule.levels(steps, grid)[:-1]]


def test_linear_is_the_product_of_ddpms_betas() -> None:
    """ᾱ_t = Π (1 − β_s), β from 1e-4 to 0.02 (Ho et al. 2020, §4); α = √ᾱ, σ = √(1 − ᾱ)."""
    betas = [1e-4 + (0.02 - 1e-4) * s / 999 for s in range(1000)]
    for t in (0, 1, 10, 500, 999):
        abar = math.prod(1 - beta for beta in betas[: t + 1])
        level = LINEAR.level(t)
        assert level.timestep == t
        assert level.alpha == pytest.approx(math.sqrt(abar), rel=1e-12)
        assert level.sigma == pytest.approx(math.sqrt(1 - abar), rel=1e-12)
        assert level.snr == pytest.approx(abar / (1 - abar), rel=1e-10)


def test_cosine_is_a_squared_cosine_with_a_clipped_end() -> None:
    """ᾱ_t = f(t)/f(0) (Nichol & Dhariwal 2021, eq.

    17) while β < 0.999, which the last step alone exceeds.
    """
    t = np.arange(1001)
    f = np.cos((t / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(COSINE.alpha[:-1] ** 2, (f / f[0])[1:-1], rtol=1e-10)
    assert (COSINE.alpha[-1] / COSINE.alpha[-2]) ** 2 == pytest.approx(1 - 0.999, rel=1e-10)


def test_edm_is_karras_spacing() -> None:
    """σ_i = (σ_max^(1/7) + i/(N−1) (σ_min^(1/7) − σ_max^(1/7)))^7 for any N (Karras et al.

    2022, eq. 5).
    """
    for n in (2, 18, 79):
        ramp = np.arange(n) / (n - 1)
        expected = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        for grid in ("karras", "linspace"):
            levels = EDM.levels(n, grid)[:-1]
            np.testing.assert_allclose([level.sigma for level in levels], expected, rtol=1e-10)
            assert all(
                level.alpha == 1 and level.timestep == pytest.approx(level.sigma)
                for level in levels
            )


def test_flow_is_a_straight_line() -> None:
    """α = 1 − t, σ = t, label t · scale; `trailing` is t = 1, 1 − 1/N, …"""
    for i, level in enumerate(FLOW.levels(16, "trailing")):
        t = 1 - i / 16
        np.testing.assert_allclose(level, (1000 * t, 1 - t, t), rtol=1e-10, atol=1e-12)
    assert schedules.flow().level(249).timestep == pytest.approx(0.25)


@pytest.mark.parametrize(("schedule", "name"), [(LINEAR, "linear"), (COSINE, "squaredcos_cap_v2")])
def test_alphas_cumprod_are_diffusers(schedule: Schedule, name: str) -> None:
    theirs = DDPMScheduler(num_train_timesteps=1000, beta_schedule=name).alphas_cumprod.numpy()
    # Theirs is float32: each β near 1 has lost digits of 1 − β.
    np.testing.assert_allclose(schedule.alpha**2, theirs, rtol=3e-5)
    np.testing.assert_allclose(schedule.sigma**2, 1 - theirs, rtol=3e-5, atol=1e-6)


@pytest.mark.parametrize("grid", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("total", [1000, 100])
def test_grids_are_diffusers(grid: str, total: int) -> None:
    """Equal for every number of steps, ties of the rounding included; Lin et al. 2023, Table 2."""
    schedule = schedules.linear(total)
    theirs = DDPMScheduler(num_train_timesteps=total, timestep_spacing=grid, steps_offset=0)
    different = []
    for steps in range(2, total + 1):
        theirs.set_timesteps(steps)
        # For some counts (61 of 1000) diffusers' `trailing` has a further step, at timestep −1:
        # round-off in arange.
        different += (
            [steps] if timesteps(schedule, steps, grid) != theirs.timesteps.tolist()[:steps] else []
        )
    assert different == []


def test_one_step_starts_at_the_noisiest_level() -> None:
    """Where diffusers' `linspace` starts at timestep 0, one step from which would be no chain at
    all."""
    for grid in ("linspace", "trailing", "karras"):
        assert timesteps(LINEAR, 1, grid) == pytest.approx([999])


@every_schedule
@pytest.mark.parametrize("grid", GRIDS)
def test_grids_fall_in_noise_to_the_clean_end(schedule: Schedule, grid: str) -> None:
    if grid == "karras" and schedule is FLOW:
        with pytest.raises(InputError, match=r"karras.*α = 0.*linspace"):
            schedule.levels(10, grid)
        return
    for steps in (1, 2, 7, 100, 1000):
        levels = schedule.levels(steps, grid)
        assert len(levels) == steps + 1
        assert levels[-1] == schedule.clean
        assert (levels[-1].alpha, levels[-1].sigma, levels[-1].snr) == (1, 0, np.inf)
        assert all(s.snr < t.snr and s.timestep > t.timestep for s, t in pairwise(levels))
        if grid != "leading":
            np.testing.assert_allclose(
                levels[0], schedule.level(len(schedule) - 1), rtol=1e-10, atol=1e-15
            )
        if grid == "karras" and steps > 2:
            gaps = np.diff([(level.sigma / level.alpha) ** (1 / 7) for level in levels[:-1]])
            np.testing.assert_allclose(gaps, gaps[0], rtol=1e-7)


@every_schedule
def test_levels_between_the_points(schedule: Schedule) -> None:
    """Exact at the points, between its neighbours elsewhere, linear in the path's own
    coordinate."""
    for i in (0, 1, 498, 999):
        expected = (schedule.timestep[i], schedule.alpha[i], schedule.sigma[i])
        assert schedule.level(i) == expected
        for near in (i - 1e-9, i + 1e-9):
            if 0 <= near <= 999:
                np.testing.assert_allclose(schedule.level(near), expected, rtol=1e-6, atol=1e-7)
    for i in (0, 498, 997):
        a, m, b = (schedule.level(i + f) for f in (0, 0.5, 1))
        assert a.timestep < m.timestep < b.timestep
        assert a.snr > m.snr > b.snr
        if schedule.parameterisation == "vp":
            assert m.alpha**2 + m.sigma**2 == pytest.approx(1, abs=1e-14)
            assert m.snr == pytest.approx(math.sqrt(a.snr * b.snr), rel=1e-10)
            assert m.timestep == i + 0.5
        elif schedule.parameterisation == "edm":
            assert m.sigma ** (1 / 7) == pytest.approx(
                (a.sigma ** (1 / 7) + b.sigma ** (1 / 7)) / 2, rel=1e-12
            )
            assert m.timestep == pytest.approx(m.sigma)
        else:
            assert (m.sigma, m.alpha) == pytest.approx(
                ((a.sigma + b.sigma) / 2, 1 - (a.sigma + b.sigma) / 2)
            )
            assert m.timestep == pytest.approx(1000 * m.sigma)


@given(index=st.floats(0, 999), schedule=st.sampled_from(list(SCHEDULES.values())))
def test_at_ratio_inverts_level(index: float, schedule: Schedule) -> None:
    level = schedule.level(index)
    if level.alpha > 1e-3:
        np.testing.assert_allclose(
            schedule.at_ratio(level.sigma / level.alpha), level, rtol=1e-8, atol=1e-8
        )


@every_schedule
def test_at_ratio_clamps_to_the_schedule(schedule: Schedule) -> None:
    assert schedule.at_ratio(1e-9) == schedule.level(0)
    np.testing.assert_allclose(schedule.at_ratio(1e9), schedule.level(999), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("schedule", "steps", "grid", "message"),
    [
        (LINEAR, 0, "linspace", "at least 1"),
        (LINEAR, -3, "linspace", "at least 1"),
        (EDM, 2.5, "linspace", "whole number"),
        (LINEAR, 1001, "linspace", "at most 1000"),
        (COSINE, 1001, "karras", "at most 1000"),
        (LINEAR, 10, "quadratic", "linspace, leading, trailing, karras"),
    ],
)
def test_grids_that_do_not_exist(schedule: Schedule, steps: int, grid: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        schedule.levels(steps, grid)


def test_continuous_schedules_take_more_steps_than_points() -> None:
    for schedule, grid in ((EDM, "linspace"), (EDM, "karras"), (FLOW, "linspace")):
        sigma = np.array([level.sigma for level in schedule.levels(2500, grid)])
        assert (np.diff(sigma) < 0).all()
        assert len(sigma) == 2501
    for grid in ("leading", "trailing"):  # would leave the schedule's range
        with pytest.raises(InputError, match="at most 1000"):
            FLOW.levels(2500, grid)


@pytest.mark.parametrize("index", [-0.5, 999.5, 1000, math.nan])
def test_levels_outside_the_schedule_raise(index: float) -> None:
    with pytest.raises(InputError, match="allowed are 0 to 999"):
        LINEAR.level(index)


@pytest.mark.parametrize(
    "abar", [[], 0.5, [0.5, 0.6], [0.5, 0.5], [1.0, 0.5], [0.5, 0, 0], [0.5, math.nan], [[0.5]]]
)
def test_alphas_cumprod_that_are_none_raise(abar: object) -> None:
    with pytest.raises(InputError, match="strictly decreasing"):
        schedules.from_alphas_cumprod(abar)  # type: ignore[arg-type]


def test_zero_terminal_snr() -> None:
    """Lin et al. 2023 (arXiv 2305.08891): ᾱ_T = 0, where x_0 follows from v but not from ε."""
    schedule = schedules.from_alphas_cumprod([0.9, 0.5, 0.0])
    assert schedule.levels(3)[0] == (2.0, 0.0, 1.0)
    assert schedule.at_ratio(1e9).timestep == 1.0
    assert schedules.convert(-0.3, "v_prediction", "sample", 1.0, schedule.level(2)) == 0.3
    with pytest.raises(InputError, match="does not determine"):
        schedules.convert(0.3, "epsilon", "sample", 1.0, schedule.level(2))


@pytest.mark.parametrize("bounds", [(0, 80), (1, 1), (2, 1)])
def test_edm_bounds_that_are_none_raise(bounds: tuple[float, float]) -> None:
    with pytest.raises(InputError, match="sigma_min < sigma_max"):
        schedules.edm(*bounds)


PAIRS = list(permutations(PREDICTION_TYPES, 2))
numbers = st.floats(-10, 10)
angles = st.floats(0.01, math.pi / 2 - 0.01)
noisy_levels = st.one_of(
    angles.map(lambda w: Level(0, math.cos(w), math.sin(w))),
    st.floats(0.002, 80).map(lambda sigma: Level(0, 1, sigma)),
    st.floats(0.01, 0.99).map(lambda t: Level(0, 1 - t, t)),
)


def output(prediction_type: str, x0: float, epsilon: float, level: Level) -> float:
    """What the literature calls each type; v from Salimans & Ho 2022 (arXiv 2202.00512), flow is
    dx/dt of the path."""
    return {
        "epsilon": epsilon,
        "sample": x0,
        "v_prediction": level.alpha * epsilon - level.sigma * x0,
        "flow_prediction": epsilon - x0,
        "score": -epsilon / level.sigma if level.sigma else math.nan,
    }[prediction_type]


@pytest.mark.parametrize(("source", "target"), PAIRS)
@given(x0=numbers, epsilon=numbers, level=noisy_levels)
def test_conversions_and_round_trips(
    source: str, target: str, x0: float, epsilon: float, level: Level
) -> None:
    x = level.alpha * x0 + level.sigma * epsilon
    there = convert(output(source, x0, epsilon, level), source, target, x, level)
    # A score is −ε/σ, as large as 500 ε.
    size = 1 / level.sigma if target == "score" else 1.0
    assert there == pytest.approx(output(target, x0, epsilon, level), rel=1e-9, abs=1e-9 * size)
    # The way back divides by as little as α or σ, 0.002.
    back = convert(there, target, source, x, level)
    size = 1 / level.sigma if source == "score" else 1.0
    assert back == pytest.approx(output(source, x0, epsilon, level), rel=1e-8, abs=1e-8 * size)
    assert convert(there, target, target, x, level) == there


@pytest.mark.parametrize("other", [t for t in PREDICTION_TYPES if t != "score"])
def test_undetermined_conversions_raise(other: str) -> None:
    """ε says nothing about x_0 at α = 0, nor x_0 about ε at σ = 0; v and flow always determine
    both."""
    noise, clean = Level(1000, 0.0, 1.0), Level(0, 1.0, 0.0)
    for source, level in (("epsilon", noise), ("sample", clean)):
        if other == source:
            assert conversion(source, other, level) == (0, 1)
        else:
            with pytest.raises(InputError, match=f"{source} output does not determine {other}"):
                conversion(source, other, level)
    for source in ("v_prediction", "flow_prediction"):
        for level in (noise, clean):
            x0, epsilon = 0.7, -0.4
            x = level.alpha * x0 + level.sigma * epsilon
            got = convert(output(source, x0, epsilon, level), source, other, x, level)
            assert got == pytest.approx(output(other, x0, epsilon, level))


def test_a_score_is_epsilon_over_sigma() -> None:
    """∇ log q(x_t | x_0) = −ε/σ (Song et al.

    2021, arXiv 2011.13456, eq. 3), also where α = 0; none where σ = 0.
    """
    noise, clean = Level(1000, 0.0, 1.0), Level(0, 1.0, 0.0)
    level = LINEAR.level(300)
    assert conversion("epsilon", "score", level) == (0, pytest.approx(-1 / level.sigma))
    assert conversion("score", "epsilon", noise) == (0, -1)
    with pytest.raises(InputError, match="score output does not determine sample"):
        conversion("score", "sample", noise)
    for other in ("epsilon", "sample", "v_prediction"):
        with pytest.raises(InputError, match="a score is infinite"):
            conversion("score", other, clean)


CONTINUOUS = {
    "vp": (schedules.vp(), lambda t: (math.exp(-0.5 * (0.1 * t + 0.5 * 19.9 * t * t)), None)),
    "sub-vp": (
        schedules.sub_vp(),
        lambda t: (math.exp(-0.5 * (0.1 * t + 0.5 * 19.9 * t * t)), None),
    ),
    "ve": (schedules.ve(), lambda t: (1.0, 0.01 * 5000**t)),
    "exp(-t)": (
        schedules.continuous(lambda t: -t / 2, 1e-3, 10.0),
        lambda t: (math.exp(-t / 2), None),
    ),
}


def closed_form(name: str, t: float) -> tuple[float, float]:
    alpha, sigma = CONTINUOUS[name][1](t)
    if sigma is None:
        sigma = 1 - alpha**2 if name == "sub-vp" else math.sqrt(-math.expm1(2 * math.log(alpha)))
    return alpha, sigma


@pytest.mark.parametrize("name", CONTINUOUS)
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing", "karras"])
def test_continuous_schedules_are_their_papers(name: str, spacing: str) -> None:
    """Song et al.

    2021, eq. 29: (α, σ) of every level's own label, to round-off, whatever the spacing.
    """
    schedule = CONTINUOUS[name][0]
    for steps in (3, 20, 97, 1000):
        levels = schedule.levels(steps, spacing)[:-1]
        for level in levels:
            alpha, sigma = closed_form(name, level.timestep)
            assert level.alpha == pytest.approx(alpha, rel=1e-12)
            assert level.sigma == pytest.approx(sigma, rel=1e-11)
        assert all(a.snr < b.snr for a, b in pairwise(levels))
        if spacing == "karras" and steps > 2:
            ratios = np.array([level.ratio for level in levels]) ** (1 / 7)
            np.testing.assert_allclose(np.diff(ratios), np.diff(ratios)[0], rtol=1e-9)


@pytest.mark.parametrize("name", CONTINUOUS)
def test_labels_of_continuous_schedules_are_inverted_exactly(name: str) -> None:
    schedule = CONTINUOUS[name][0]
    for t in np.linspace(schedule.timestep[0], schedule.timestep[-1], 57)[1:-1]:
        level = schedule.at(float(t))
        back = schedule.at_ratio(level.ratio)
        assert back.timestep == pytest.approx(t, rel=1e-10)
        assert back.sigma == pytest.approx(level.sigma, rel=1e-12)
    for outside in (schedule.timestep[0] / 2, schedule.timestep[-1] * 1.1):
        with pytest.raises(InputError, match="lies outside"):
            schedule.at(float(outside))


def test_a_schedule_that_is_not_monotone_is_refused() -> None:
    with pytest.raises(InputError, match="not monotone"):
        schedules.continuous(lambda t: -((t - 0.5) ** 2) - 0.1, 0.1, 1.0)
    with pytest.raises(InputError, match="vp or a sub-vp"):
        schedules.continuous(lambda t: -t, 0.1, 1.0, parameterisation="edm")
    with pytest.raises(InputError, match="t_min"):
        schedules.vp(t_min=1.0)


@pytest.mark.parametrize(
    ("source", "target"), [("eps", "sample"), ("sample", "x0"), ("eps", "score")]
)
def test_unknown_prediction_types_raise(source: str, target: str) -> None:
    with pytest.raises(InputError, match="epsilon, sample, v_prediction, flow_prediction"):
        convert(1.0, source, target, 1.0, LINEAR.level(500))


CUSTOM = {
    # azula's Rectified, Decay and VP, which are none of the other parameterisations
    "rectified": (lambda t: 1 - 0.999 * t, lambda t: 0.001 + 0.999 * t),
    "decay": (
        lambda t: 1 - 0.999 * (1 - 0.1**t) / 0.9,
        lambda t: 0.001 + 0.999 * (1 - 0.1**t) / 0.9,
    ),
    "vp with noise at the end": (
        lambda t: 0.001 ** (t * t),
        lambda t: math.sqrt(1 - 0.001 ** (2 * t * t) + 1e-6),
    ),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_a_schedule_of_two_functions_is_those_functions(name: str) -> None:
    """At every level of every spacing, between the points, and at both ends."""
    alpha, sigma = CUSTOM[name]
    schedule = schedules.from_functions(alpha, sigma)
    for spacing in GRIDS:
        levels = schedule.levels(23, spacing)
        assert levels[-1] == schedule.clean
        for level in levels[:-1]:
            assert level.alpha == pytest.approx(alpha(level.timestep), rel=1e-13)
            assert level.sigma == pytest.approx(sigma(level.timestep), rel=1e-13)
    assert schedule.levels(5)[-2] == (0.0, alpha(0), sigma(0))
    assert schedule.levels(5)[0] == (1.0, alpha(1), sigma(1))
    assert [schedule.at(t) for t in (0.0, 1.0)] == [schedule.level(0), schedule.level(999)]
    assert schedule.clean.timestep not in schedule.timestep
    for t in (0.0004, 0.3, 0.77777):
        assert schedule.at_ratio(schedule.at(t).ratio).timestep == pytest.approx(t, rel=1e-9)
    for outside in (-0.01, 1.01):
        with pytest.raises(InputError, match="allowed are 0 to 1"):
            schedule.at(outside)


def test_a_clean_end_of_two_functions_is_no_level() -> None:
    """α = 1 − t and σ = t are `flow`: at t = 0 nothing is noise, and any t above it is a level."""
    schedule, flow = schedules.from_functions(lambda t: 1 - t, lambda t: t), schedules.flow()
    np.testing.assert_allclose(schedule.levels(9, "trailing"), flow.levels(9, "trailing"))
    for each in (schedule, flow):
        np.testing.assert_allclose(each.at(1e-9), (1e-9, 1 - 1e-9, 1e-9), rtol=1e-12)
        assert each.at(1 + 1e-7) == (1.0, 0.0, 1.0)
        with pytest.raises(InputError, match="allowed are above 0 to 1"):
            each.at(0.0)


def test_float32_labels_at_the_ends_are_the_ends() -> None:
    vp = schedules.vp()
    for end in (vp.timestep[0], vp.timestep[-1]):
        assert vp.at(float(np.float32(end))).timestep == pytest.approx(end, rel=1e-6)


def test_functions_that_make_no_schedule() -> None:
    def fails(t: float) -> float:
        raise TypeError("exp(): argument 'input' must be Tensor, not float")

    cases = {
        r"fails at t = 0 \(TypeError: exp\(\).*functions from a float": (fails, lambda t: t),
        "α = nan": (lambda t: math.nan, lambda t: t),
        "σ = -1": (lambda t: 1.0, lambda t: t - 1),
        "not monotone": (lambda t: 1.0, lambda t: 1 + math.sin(9 * t) / 2),
        "ends clean at α = 2": (lambda t: 2 - t, lambda t: t),
    }
    for message, (alpha, sigma) in cases.items():
        with pytest.raises(InputError, match=message):
            schedules.from_functions(alpha, sigma)
    with pytest.raises(InputError, match="t_min ≥ 0 up to t_max"):
        schedules.from_functions(lambda t: 1 - t, lambda t: t, 1.0, 0.0)
