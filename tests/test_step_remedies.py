"""Remedies of the step: DCW against its rule written out once more, and a stranger's."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.remedies import Corrected, corrected, dcw
from exposure_bias.remedies.steps import low_pass
from exposure_bias.samplers import DDIM, Prediction, parse
from exposure_bias.schedules import Level

EDM, LINEAR = eb.schedules.edm(0.02, 40), eb.schedules.linear()
C = 0.05


def oracle(schedule: Any = LINEAR, shape: tuple[int, ...] = (1, 4, 4)) -> Any:
    return eb.oracles.GaussianOracle(np.zeros(shape), 0.5, schedule)


def images(n: int = 256, shape: tuple[int, ...] = (1, 4, 4)) -> Any:
    values = np.sqrt(0.5) * np.random.default_rng(0).normal(size=(n, *shape))
    return eb.load_data(values, value_range=None)


def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
    return torch.tanh(x / (1 + sigma**2)) + 0.3 * torch.roll(x, 1, -1) / (1 + sigma**2)


def predict(x: torch.Tensor, level: Level) -> Prediction:
    x0 = denoise(x / level.alpha, level.ratio)
    return Prediction(x0, (x - level.alpha * x0) / level.sigma)


def haar(x: np.ndarray) -> np.ndarray:
    """LL of one level, put back: sums of two by two over 2, and the transpose of that."""
    sums = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 2
    return np.repeat(np.repeat(sums, 2, -1), 2, -2) / 2


def published(sigmas: list[float], x: np.ndarray, heun: bool) -> np.ndarray:
    """The rule in EDM's own loop: α = 1, weights t_i/σ_max, the last denoised image."""
    for s, t in pairwise(sigmas):
        said = denoise(torch.from_numpy(x), s).numpy()
        d = (x - said) / s
        end = x + (t - s) * d
        if heun and t > 0:
            said = denoise(torch.from_numpy(end), t).numpy()
            end = x + (t - s) * (d + (end - said) / t) / 2
        x = end + C * (s / sigmas[0]) * haar(end - said)
    return x


@pytest.mark.parametrize("name", ["euler", "heun"])
def test_dcw_is_its_rule(name: str) -> None:
    levels = EDM.levels(7)
    x = levels[0].sigma * torch.randn(3, 2, 6, 4, dtype=torch.float64)
    expected = published([level.ratio for level in levels], x.numpy(), name == "heun")
    steps = dcw(name, C).begin(levels)
    for s, t in pairwise(levels):
        x = steps.step(x, predict(x, s), s, t, None, predict)
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-10, atol=1e-10)


def test_on_a_vp_schedule_it_is_the_rule_in_x_over_alpha() -> None:
    levels = LINEAR.levels(6)
    start = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    steps, x = dcw("ddim", C).begin(levels), levels[0].alpha * start
    for s, t in pairwise(levels):
        x = steps.step(x, predict(x, s), s, t, None, predict)
    expected = published([level.ratio for level in levels], start.numpy(), heun=False)
    np.testing.assert_allclose(x.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_a_tail_of_a_chain_knows_the_chains_first_level() -> None:
    """A restart in mid-chain is corrected as the whole chain is from there on."""
    levels = LINEAR.levels(6)
    sampler = dcw("ddim", C).prepared(LINEAR, 6, "linspace")
    x = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    s, t = levels[3:5]
    whole, tail = (sampler.begin(some) for some in (levels, levels[3:]))
    moved = [steps.step(x, predict(x, s), s, t, None, predict) for steps in (whole, tail)]
    assert torch.equal(*moved)


def test_without_strength_it_is_the_sampler_bit_for_bit() -> None:
    runs = [
        eb.record(oracle(), images(32), sampler=sampler, steps=5, streams=("chain",))
        for sampler in ("ddpm", "ddpm + dcw:0")
    ]
    for name, values in runs[0]["chain"].data_vars.items():
        np.testing.assert_array_equal(values, runs[1]["chain"][name], err_msg=str(name))


def test_low_pass_is_a_projection_also_at_odd_sides() -> None:
    x = torch.randn(2, 3, 5, 4, dtype=torch.float64)
    once = low_pass(x)
    torch.testing.assert_close(low_pass(once), once)
    torch.testing.assert_close(once.mean((-1, -2)), x.mean((-1, -2)))
    torch.testing.assert_close(once[..., 0, 0], x[..., :2, :2].mean((-1, -2)))
    torch.testing.assert_close(once[..., 4, 0], x[..., 4, :2].mean(-1))
    even = torch.randn(2, 1, 6, 4, dtype=torch.float64)
    np.testing.assert_allclose(low_pass(even).numpy(), haar(even.numpy()))
    assert low_pass(torch.ones(2, 3, 5)).shape == (2, 3, 5)


def test_a_scheduler_of_diffusers_is_corrected_like_ours() -> None:
    runs = [
        eb.record(oracle(), images(64), streams=("chain",), steps=8, **options)
        for options in (
            {"sampler": "DDIMScheduler:timestep_spacing=trailing + dcw:0.05"},
            {"sampler": "ddim + dcw:0.05", "timestep_spacing": "trailing"},
        )
    ]
    a, b = (run["chain"]["state_square"].values for run in runs)
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_a_budget_judges_it_against_the_limit_of_what_it_wraps() -> None:
    """The network's share stays what it was; the solver's is what the correction changes."""
    plain, better = (
        eb.error_budget(oracle(), images(), sampler=name, steps=5, restarts=())
        for name in ("ddim", "ddim + dcw:0.1")
    )
    gap = [found.sel(statistic="gap") for found in (plain, better)]
    assert float(gap[0]["score"]) == pytest.approx(float(gap[1]["score"]), abs=1e-9)
    assert float(gap[1]["discretisation"]) > float(gap[0]["discretisation"]) + 0.01


@dataclass(frozen=True)
class Widened(Corrected):
    """A stranger's: every state a little wider."""

    def correct(self, x: Any, said: Any, s: Level, t: Level, first: Level) -> Any:
        return 1.01 * x

    def __str__(self) -> str:
        return f"{self.sampler} + test_step_remedies:widened"


def widened(sampler: Any) -> Any:
    return Widened(sampler)


def test_a_strangers_remedy_of_the_step() -> None:
    levels = LINEAR.levels(4)
    x, (s, t) = torch.ones(1, 1, 2, 2, dtype=torch.float64), levels[1:3]
    for sampler in (Widened(DDIM()), corrected(DDIM(), "test_step_remedies:widened")):
        moved = sampler.begin(levels).step(x, predict(x, s), s, t, None, predict)
        plain = DDIM().step(x, predict(x, s), s, t, None, predict)
        torch.testing.assert_close(moved, 1.01 * plain)
    rec = eb.record(
        oracle(),
        images(32),
        sampler="ddim + test_step_remedies:widened",
        steps=4,
        streams=("chain",),
    )
    assert rec.run.sampler == "ddim:0 + test_step_remedies:widened"


def test_several_remedies_one_after_another() -> None:
    both = corrected(corrected(parse("ddim"), "dcw:0.01"), "test_step_remedies:widened")
    assert str(both) == "ddim:0 + dcw:0.01 + test_step_remedies:widened"
    rec = eb.record(oracle(), images(32), sampler="ddim + dcw:0.01 + dcw:0.02", steps=3)
    assert rec.run.sampler == "ddim:0 + dcw:0.01 + dcw:0.02"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dcw(oracle(), 0.1), "is a model: give a sampler"),
        (lambda: dcw("ddim", float("nan")), "finite number"),
        (lambda: dcw("ddim", "strong"), "finite number"),
        (lambda: dcw("dpm", 0.1), "unknown sampler"),
        (lambda: corrected(DDIM(), "dcw:much"), "allowed are dcw:C"),
        (lambda: corrected(DDIM(), "es:1.01"), "allowed are dcw:C"),
        (
            lambda: corrected(DDIM(), "test_step_remedies:images"),
            "is called with DDIM",
        ),
        (lambda: eb.remedies.remedied(oracle(), "dcw:0.1"), "corrects the steps of a sampler"),
        (lambda: eb.remedies.tsr("ddim", 0.9, 1), "no Denoiser"),
        (lambda: eb.remedies.tsr(DDIM(), 0.9, 1), "no Denoiser"),
        (lambda: eb.remedies.tsr(oracle(), 0, 1), "k > 0 and s > 0"),
        (lambda: eb.remedies.tsr(oracle(), 0.9, float("inf")), "k > 0 and s > 0"),
        (lambda: low_pass(torch.ones(4, 2)), "no axis of space"),
    ],
)
def test_a_remedy_of_the_wrong_kind_is_refused(make: Any, says: str) -> None:
    with pytest.raises(eb.InputError, match=says):
        make()


@pytest.mark.parametrize("schedule", [LINEAR, EDM, eb.schedules.flow()], ids=lambda s: s.name)
def test_tsr_of_a_lump_is_the_exact_denoiser_of_a_narrower_one(schedule: Any) -> None:
    mean, variance, k = np.full((1, 2, 2), 0.4), 0.3, 1.7
    lump = eb.oracles.GaussianOracle(mean, variance, schedule)
    narrow = eb.oracles.GaussianOracle(mean, variance / k, schedule)
    changed = eb.remedies.tsr(lump, k, np.sqrt(variance))
    for place in (0, 300, 800):
        level = schedule.level(place)
        x = level.alpha * 0.4 + torch.randn(5, 1, 2, 2, dtype=torch.float64)
        said, exact = changed.predict(x, level), narrow.predict(x, level)
        torch.testing.assert_close(said.epsilon, exact.epsilon)
        torch.testing.assert_close(said.x0, exact.x0)


def test_tsr_changes_nothing_at_one_and_is_a_text() -> None:
    model = eb.load_model("digits")
    x, level = torch.randn(2, *model.shape, dtype=torch.float64), LINEAR.level(500)
    assert torch.equal(eb.remedies.tsr(model, 1, 0.5)(x, level), model(x, level))
    changed = eb.remedies.remedied(model, "tsr:0.8,0.5")
    factor = (level.snr * 0.25 + 1) / (level.snr * 0.25 / 0.8 + 1)
    torch.testing.assert_close(changed(x, level), factor * model(x, level), rtol=1e-6, atol=1e-6)
    assert changed.weight_hash != model.weight_hash
