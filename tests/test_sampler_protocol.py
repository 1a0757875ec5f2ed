"""A sampler's order, and the levels that a step asks for between its own."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.adapters.schedulers import sampler_for
from exposure_bias.samplers import Asking, OneStep, Prediction, order_of, parse, wants_variance
from exposure_bias.schedules import Level

EDM = eb.schedules.edm()
VARIANCE = 1.0


@dataclass(frozen=True)
class Midpoint(OneStep):
    """The midpoint rule in σ/α, whose second call stands half-way in log σ/α."""

    exact_teacher = True
    limit = "ode"
    order = 2

    def step(self, x: Any, now: Any, s: Level, t: Level, z: Any, predict: Any) -> Any:
        if t.sigma == 0:
            return t.alpha * now.x0
        m = predict.between(s, t)
        there = m.alpha * (x / s.alpha + (m.ratio - s.ratio) * now.epsilon)
        return t.alpha * (x / s.alpha + (t.ratio - s.ratio) * predict(there, m).epsilon)


@dataclass(frozen=True)
class Inventive(OneStep):
    """Asks at a label that has nothing to do with the level it gives."""

    factor: float = 1.0

    limit = "ode"

    def step(self, x: Any, now: Any, s: Level, t: Level, z: Any, predict: Any) -> Any:
        if t.sigma:
            predict(x, Level(s.timestep - 0.5, t.alpha, self.factor * t.sigma))
        return t.alpha * now.x0 + t.sigma * now.epsilon


def error_of_variance(sampler: Any, steps: int) -> float:
    """The variance gap of a perfect denoiser of Gaussian data, without drawing: a state is the
    vector of its responses to the start and to each step's noise."""
    levels = EDM.levels(steps, "karras")[:-1]
    x = np.zeros(steps)
    x[0] = np.hypot(levels[0].alpha * VARIANCE**0.5, levels[0].sigma)

    def predict(x: Any, level: Level) -> Prediction:
        total = level.alpha**2 * VARIANCE + level.sigma**2
        x0 = level.alpha * VARIANCE / total * x
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)

    chain, asking = sampler.begin(levels), Asking(predict, EDM.between)
    for k, (s, t) in enumerate(pairwise(levels)):
        x = chain.step(x, predict(x, s), s, t, np.eye(steps)[k + 1], asking)
    end = levels[-1]
    return float(x @ x / (end.alpha**2 * VARIANCE + end.sigma**2) - 1)


SAMPLERS = [
    *("ddpm", "ddpm:fixed_large", "ddim", "ddim:0.5", "ddim:1", "euler", "heun", "edm"),
    *("dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_2m", "dpmpp_2m_sde", Midpoint()),
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_the_order_that_a_sampler_says_is_the_order_that_it_has(sampler: Any) -> None:
    sampler = parse(sampler)
    coarse, fine = (error_of_variance(sampler, steps) for steps in (160, 320))
    assert np.log2(abs(coarse / fine)) == pytest.approx(order_of(sampler), abs=0.1)


@pytest.mark.parametrize(
    ("name", "order", "wants"),
    [
        ("DDPMScheduler", 1, False),
        ("EulerDiscreteScheduler", 1, False),
        ("HeunDiscreteScheduler", 2, False),
        ("DPMSolverMultistepScheduler", 2, False),
        ("DPMSolverMultistepScheduler:solver_order=3", 3, False),
        ("UniPCMultistepScheduler", 2, False),
    ],
)
def test_a_scheduler_says_the_order_of_its_solver(name: str, order: int, wants: bool) -> None:
    found = sampler_for(name, eb.load_model("digits"), 10)
    assert (order_of(found), wants_variance(found)) == (order, wants)


def test_a_sampler_without_these_members_has_the_usual_ones() -> None:
    class Bare:
        """All members that are needed, and no more."""

    assert order_of(Bare()) == 1  # type: ignore[arg-type]
    assert not wants_variance(Bare())  # type: ignore[arg-type]
    assert wants_variance(parse("ddpm:learned_range"))
    assert not wants_variance(parse("ddpm"))


def asked(call: Callable[..., Any], sampler: Any, steps: int = 5) -> list[float]:
    """The labels that a network is called with in a chain."""
    labels: list[float] = []

    def watched(net: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        labels.append(float(t[0]))
        result: torch.Tensor = call(x, t)
        return result

    net = torch.nn.Linear(1, 1)
    schedule = eb.schedules.linear(1000)
    model = eb.Denoiser(
        net, schedule=schedule, prediction_type="epsilon", shape=(1, 2, 2), call=watched
    )
    images = np.random.default_rng(0).normal(0, 0.3, (4, 1, 2, 2)).clip(-1, 1)
    data = eb.load_data(images.astype(np.float32))
    eb.record(model, data, sampler=sampler, steps=steps, n=4, streams=("chain",))
    return labels


def whole_only(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """A network with an embedding of whole timesteps."""
    return 0.9 * x + 0 * torch.nn.functional.embedding(t, torch.zeros(1000, 1)).reshape(-1, 1, 1, 1)


def test_a_level_between_two_is_whole_where_the_network_knows_whole_ones() -> None:
    def any_label(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 0.9 * x + 0 * t.reshape(-1, 1, 1, 1)

    trial = 499.5  # which tells whether a network takes fractions
    whole, any_ = ({*asked(call, Midpoint())} - {trial} for call in (whole_only, any_label))
    assert all(label.is_integer() for label in whole)
    assert any(not label.is_integer() for label in any_)
    assert len(whole) == len(any_)
    for one, other in zip(sorted(whole), sorted(any_), strict=True):
        assert abs(one - other) <= 0.5


def test_levels_between_two_are_on_the_schedule() -> None:
    linear = eb.schedules.linear(1000)
    s, t = linear.level(700), linear.level(300)
    half = linear.between(s, t)
    assert half.ratio == pytest.approx(np.sqrt(s.ratio * t.ratio))
    assert linear.knows(half)
    assert linear.between(s, t, fractional=False).timestep == round(half.timestep)
    assert linear.between(s, t, 0.25).ratio == pytest.approx(s.ratio**0.75 * t.ratio**0.25)
    scaled = Level(s.timestep, 1.0, s.ratio)
    assert linear.between(scaled, t).alpha == 1
    assert not linear.knows(half._replace(timestep=half.timestep + 3))
    zero = eb.schedules.from_alphas_cumprod(np.linspace(0.999, 0, 11))
    assert zero.between(zero.level(10), zero.level(6)) == zero.level(8)


@pytest.mark.parametrize(
    ("s", "t", "share", "says"),
    [
        (5, 3, 0.0, "between 0 and 1"),
        (5, 5, 0.5, "no level lies between"),
        (5, 4, 0.5, "no whole timestep lies between 5 and 4"),
    ],
)
def test_what_lies_between_no_levels_is_refused(s: int, t: int, share: float, says: str) -> None:
    linear = eb.schedules.linear(1000)
    with pytest.raises(eb.InputError, match=says):
        linear.between(linear.level(s), linear.level(t), share, fractional=False)
    with pytest.raises(eb.InputError, match="no level lies between"):
        linear.between(linear.level(0), linear.clean)


def test_a_level_of_a_samplers_own_making_is_answered_for_what_it_is_or_refused() -> None:
    """Its α and σ say which level it is, whatever its label."""
    labels = asked(lambda x, t: 0.9 * x, Inventive())
    chain = [level.timestep for level in eb.schedules.linear(1000).levels(5)[:-1]]
    assert sorted({*labels} - {*chain}) == []
    with pytest.raises(eb.InputError, match=r"is no level of the linear.*predict\.between"):
        asked(lambda x, t: 0.9 * x, Inventive(factor=1e6))


def test_a_step_that_asks_between_its_levels_has_no_gaussian_reference() -> None:
    assert Midpoint().transition(EDM.levels(5, "karras")) is None


def test_the_advice_of_a_budget_follows_the_order() -> None:
    """The same budget wants the same steps of heun and of any other solver of second order."""
    from exposure_bias.experiments.kinds.budgets import steps_needed

    images = np.random.default_rng(0).normal(0, 0.3, (256, 1, 2, 2)).astype(np.float32)
    data = eb.load_data(images, value_range=None)
    model = eb.oracles.GaussianOracle(np.zeros((1, 2, 2)), 0.09, eb.schedules.linear(1000))
    found = eb.error_budget(model, data, sampler=Midpoint(), steps=6, restarts=())
    assert found.attrs["order"] == 2
    assert found.attrs["steps_taken"] == 6
    first = found.assign_attrs(order=1)
    second, one = steps_needed(found), steps_needed(first)
    assert second is not None
    assert one is not None
    assert second < one
    share, goal = abs(float(found["discretisation"].sel(statistic="gap"))), 0.01
    if abs(float(found["score"][0])) < 0.01:
        assert second == pytest.approx(6 * (share / goal) ** 0.5, abs=10)
