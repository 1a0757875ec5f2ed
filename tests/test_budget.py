"""The error budget against closed forms: linear networks on Gaussian data, whose chains and limits
are affine, so that every part is known."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import exposure_bias as eb
from exposure_bias.experiments import budget
from exposure_bias.experiments.budget import Answer, Rule, fixed_answer, needed
from exposure_bias.experiments.limits import limit_grid
from exposure_bias.samplers import Prediction
from exposure_bias.schedules import Level, Schedule

SHAPE = (1, 4, 4)
VARIANCES = np.geomspace(0.02, 1.0, 16)
LINEAR = eb.schedules.linear()
SDES, ODES = ("ddpm", "ddpm:fixed_large", "ddim:1"), ("ddim", "euler", "heun")


def images(n: int = 1024, seed: int = 0) -> Any:
    x = np.random.default_rng(seed).normal(size=(n, *SHAPE)) * np.sqrt(VARIANCES).reshape(SHAPE)
    return eb.load_data(x.astype(np.float32), value_range=None)


def oracle(schedule: Schedule = LINEAR) -> eb.Denoiser:
    return eb.oracles.GaussianOracle(np.zeros(SHAPE), VARIANCES, schedule)


def network(scale: float, schedule: Schedule = LINEAR) -> eb.Denoiser:
    return eb.remedies.epsilon_scaled(oracle(schedule), 1 / scale)


def gap_of(sampler: Any, scale: float, levels: tuple[Level, ...], last: Level) -> float:
    """Σ Var x̂_t / Σ Var x_t − 1 at a level, of the chain whose step functions are affine."""

    def said(x: torch.Tensor, level: Level) -> Prediction:
        gain = level.alpha * VARIANCES / (level.alpha**2 * VARIANCES + level.sigma**2)
        epsilon = scale * torch.from_numpy((1 - level.alpha * gain) / level.sigma) * x
        return Prediction((x - level.sigma * epsilon) / level.alpha, epsilon)

    one = torch.ones(1, 16, dtype=torch.float64)
    variance = levels[0].alpha ** 2 * VARIANCES + levels[0].sigma ** 2
    for s, t in pairwise(levels):
        if t.sigma < last.sigma * (1 - 1e-9):
            break
        state = sampler.step(one, said(one, s), s, t, 0 * one, said).numpy()[0]
        noise = sampler.step(0 * one, said(0 * one, s), s, t, one, said).numpy()[0]
        variance = state**2 * variance + noise**2
    return float(variance.sum() / (last.alpha**2 * VARIANCES + last.sigma**2).sum() - 1)


@cache
def limit_of(sde: bool, scale: float) -> float:
    """The gap of the limit, from very many of our plain steps."""
    sampler: Any = eb.samplers.DDPM() if sde else eb.samplers.Heun()
    end = LINEAR.level(0)
    each = [
        gap_of(sampler, scale, limit_grid(LINEAR, LINEAR.level(999), 1.0, steps=k), end)
        for k in (1000, 2000)
    ]
    return 2 * each[1] - each[0] if sde else each[1]


@cache
def closed_form(name: str, steps: int, scale: float, grid: str = "linspace") -> dict[str, float]:
    """The parts; a chain that jumps to the clean end is measured there."""
    levels = LINEAR.levels(steps, grid)
    end = levels[-2] if levels[-2] == LINEAR.level(0) else levels[-1]
    total = gap_of(eb.samplers.parse(name), scale, levels, end)
    score = limit_of(name in SDES, scale)
    return {"total": total, "discretisation": total - score, "score": score}


@pytest.mark.parametrize("scale", [1.0, 1.03])
@pytest.mark.parametrize("name", [*SDES, *ODES])
def test_every_part_is_what_it_is(name: str, scale: float) -> None:
    found = eb.error_budget(network(scale), images(512), sampler=name, steps=20, n=512, restarts=())
    row = found.sel(statistic="gap")
    for part, truth in closed_form(name, 20, scale).items():
        error = float(row[f"{part}_se"])
        assert abs(float(row[part]) - truth) < 4 * error, (part, truth, float(row[part]))
        assert 0 < error < 0.1
    assert float(row["initialisation"]) == 0
    if abs(truth := closed_form(name, 20, scale)["score"]) > 0.1:
        wanted = Answer.POSITIVE if truth > 0 else Answer.NEGATIVE
        assert str(row["answer"].item()) == wanted


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
def test_the_networks_share_does_not_depend_on_steps_or_spacing(name: str) -> None:
    """A wrong network at 5 to 100 steps. The spacing `trailing`
    stops far from the clean end and is measured there."""
    found, data = [], images(256)
    for steps, grid in ((5, "linspace"), (10, "trailing"), (20, "karras"), (100, "linspace")):
        result = eb.error_budget(
            network(1.03), data, sampler=name, steps=steps, grid=grid, n=256, restarts=()
        )
        row = result.sel(statistic="gap")
        found.append(float(row["score"]))
        total = closed_form(name, steps, 1.03, grid)["total"]
        assert float(row["total"]) == pytest.approx(total, abs=4 * float(row["total_se"]))
        assert result.attrs["level"] == ("clean end" if grid == "trailing" else "last noisy level")
    assert found == pytest.approx([found[0]] * 4, abs=1e-12)
    assert found[0] == pytest.approx(limit_of(name in SDES, 1.03), abs=4 * float(row["score_se"]))


def test_the_parts_add_up_and_intervals_are_theirs() -> None:
    found = eb.error_budget(network(1.02), images(512), steps=20, n=512)
    parts = found["initialisation"] + found["discretisation"] + found["score"]
    rows = found["statistic"].values != "last step"
    np.testing.assert_allclose(parts.values[rows], found["total"].values[rows], atol=1e-12)
    for part in ("total", "discretisation", "score"):
        middle = (found[f"{part}_low"] + found[f"{part}_high"]) / 2
        np.testing.assert_allclose(middle.values[rows], found[part].values[rows], atol=1e-12)
    assert (found["score_by_level_band_low"] <= found["score_by_level"]).all()
    assert {"gap", "hf", "mean shift", "last step"} <= set(found["statistic"].values)
    assert sum(str(s).startswith("restart") for s in found["statistic"].values) >= 1


def test_initialisation_is_the_start_from_noise() -> None:
    """At α_T = 0.5 pure noise is not q(x_T); its chain's end is known in closed form."""
    schedule = eb.schedules.linear(1000, beta_end=0.0027)
    model = oracle(schedule)
    found = eb.error_budget(
        model, images(1024), sampler="ddim", steps=20, n=1024, start="noise", restarts=()
    )
    row = found.sel(statistic="gap")
    levels = schedule.levels(20)
    assert levels[0].alpha > 0.4
    here = levels[0].alpha ** 2 * VARIANCES + levels[0].sigma ** 2
    end = levels[-2].alpha ** 2 * VARIANCES + levels[-2].sigma ** 2
    factor = np.ones(16)
    for s, t in pairwise(levels[:-1]):
        gain = s.alpha * VARIANCES / (s.alpha**2 * VARIANCES + s.sigma**2)
        factor *= t.alpha * gain + t.sigma / s.sigma * (1 - s.alpha * gain)
    truth = float((factor**2 * (1 - here)).sum() / end.sum())  # pure noise has variance 1
    assert float(row["initialisation"]) == pytest.approx(
        truth, abs=4 * float(row["initialisation_se"])
    )
    assert abs(truth) > 4 * float(row["initialisation_se"])


def mixture(seed: int) -> tuple[eb.Denoiser, Any]:
    rng = np.random.default_rng(seed)
    means = rng.normal(0, 0.6, (4, *SHAPE))
    model = eb.oracles.MixtureOracle(np.ones(4), means, 0.05, LINEAR)
    x = means[rng.integers(4, size=256)] + np.sqrt(0.05) * rng.normal(size=(256, *SHAPE))
    return model, eb.load_data(x.astype(np.float32), value_range=None)


def scores(change: Callable[[eb.Denoiser], eb.Denoiser], runs: int) -> np.ndarray:
    """Score error over its standard error, of independent laws, images and paths."""
    found = []
    for seed in range(runs):
        model, data = mixture(seed)
        row = eb.error_budget(
            change(model), data, sampler="ddim", steps=10, n=256, seed=seed, restarts=()
        ).sel(statistic="gap")
        found.append(float(row["score"]) / float(row["score_se"]))
    return np.array(found)


def test_a_perfect_model_is_rarely_accused_and_a_wrong_one_never_with_the_wrong_sign() -> None:
    z = scores(lambda model: model, 16)
    assert (np.abs(z) > budget.T_QUANTILE).sum() <= 4  # P = 0.1 % at 5 %
    assert 0.5 < z.std() < 1.6
    wrong = scores(lambda model: eb.remedies.epsilon_scaled(model, 1 / 1.05), 5)
    assert (wrong < budget.T_QUANTILE).all()
    assert wrong.mean() < z.mean() - 2


@pytest.mark.parametrize(
    ("score", "error", "slack", "answer"),
    [
        (0.0, 0.01, 0.0, Answer.NONE),
        (0.0, 0.05, 0.0, Answer.OPEN),
        (0.3, 0.05, 0.0, Answer.POSITIVE),
        (-0.3, 0.05, 0.0, Answer.NEGATIVE),
        (0.01, 0.001, 0.0, Answer.POSITIVE),  # within the margin, and no doubt of it
        (0.3, 0.1, 0.1, Answer.OPEN),  # the limit may be off by what is left
        (0.3, 0.03, 0.02, Answer.POSITIVE),
        (0.01, 0.01, 0.008, Answer.NONE),
        (0.01, 0.01, 0.03, Answer.OPEN),
        (0.0, float("nan"), 0.0, Answer.OPEN),
    ],
)
def test_the_rule(score: float, error: float, slack: float, answer: str) -> None:
    assert fixed_answer(score, error, slack, 0.05) == answer


def test_several_rows_are_judged_at_one_error_rate() -> None:
    """Of 12 independent rows without an error, one in two tables has one beyond 2.13 errors."""
    rng = np.random.default_rng(0)
    alone, together = 0, 0
    for _ in range(200):
        rows = rng.normal(size=(16, 12))
        deviations = (rows - rows.mean(0)) / 15
        score = rows.mean(0)
        error = np.sqrt(15 / 16 * np.square(deviations).sum(0))
        rule = Rule.together(deviations)
        for which, counts in ((Rule(), "alone"), (rule, "together")):
            wrong = any(
                fixed_answer(s, e, 0.0, 0.05, which).startswith("score error")
                for s, e in zip(score, error, strict=True)
            )
            alone, together = (
                alone + (counts == "alone") * wrong,
                together + (counts == "together") * wrong,
            )
    assert alone > 70
    assert together <= 20


def test_as_many_images_as_are_said_to_be_needed_decide() -> None:
    n = needed(512, 0.0, 0.05, 0.05)
    assert n == pytest.approx(512 * 3.1**2, abs=1)
    error = 0.05 * np.sqrt(512 / n)
    assert fixed_answer(0.5 * error, error, 0.0, 0.05) == Answer.NONE
    assert needed(512, 0.04, 0.02, 0.05) > 512


def test_a_sampler_without_a_known_limit_has_its_total_alone() -> None:
    row = eb.error_budget(oracle(), images(256), sampler="ddim:0.5", steps=10, restarts=()).sel(
        statistic="gap"
    )
    assert str(row["answer"].item()) == Answer.UNKNOWN
    assert np.isfinite(row["total"])
    assert np.isnan(row["score"])


def test_what_denoises_nothing_has_no_budget() -> None:
    class Negative(torch.nn.Module):
        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return -x

    model = eb.Denoiser(Negative(), schedule=LINEAR, prediction_type="epsilon", shape=SHAPE)
    found = eb.error_budget(model, images(256), steps=10)
    assert [str(a) for a in found["answer"].values] == [Answer.NO_DENOISER]
    assert "prediction_type" in found.attrs["denoising_sentence"]


def test_fewer_than_256_images_give_no_interval_and_say_so() -> None:
    found = eb.error_budget(oracle(), images(64), steps=10, restarts=())
    row = found.sel(statistic="gap")
    assert np.isfinite(row["score"])
    assert np.isnan(row["score_se"])
    assert str(row["answer"].item()) == Answer.OPEN
    assert any("256" in str(v) for v in found.attrs.values())


def test_clipping_clips_the_limit_too() -> None:
    x = np.random.default_rng(0).uniform(-1, 1, (256, *SHAPE)).astype(np.float32)
    model = eb.oracles.GaussianOracle(np.zeros(SHAPE), 1 / 3, LINEAR)
    found = eb.error_budget(model, eb.load_data(x), steps=10, clip=True, restarts=())
    assert "clipped as the chain is" in found.attrs["limit_clip"]


class Whole(torch.nn.Module):
    """A network with a table of timesteps, which refuses those between."""

    def __init__(self) -> None:
        super().__init__()
        self.exact = oracle()

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if (t != t.round()).any():
            raise ValueError("whole timesteps only")
        level = LINEAR.level(float(t[0]))
        x0 = self.exact(x.double(), level)
        return ((x.double() - level.alpha * x0) / level.sigma).to(x)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 25, 600])
def test_networks_of_whole_timesteps_have_a_limit_on_whole_ones(steps: int) -> None:
    model = eb.Denoiser(Whole(), schedule=LINEAR, prediction_type="epsilon", shape=SHAPE)
    row = eb.error_budget(model, images(256), sampler="ddpm", steps=steps, n=256, restarts=()).sel(
        statistic="gap"
    )
    assert float(row["score"]) == pytest.approx(0, abs=4 * float(row["score_se"]))
    assert str(row["answer"].item()) != Answer.NOT_REACHED


def test_few_samples_may_walk_to_the_limit() -> None:
    """The chain of all samples still counts: the score is the total less the solver's part."""
    data = images(1024)
    options = {"sampler": "ddim", "steps": 10, "n": 1024, "restarts": ()}
    every = eb.error_budget(network(1.02), data, **options).sel(statistic="gap")
    few = eb.error_budget(network(1.02), data, limit_n=256, **options).sel(statistic="gap")
    alone = eb.error_budget(network(1.02), data, **options | {"n": 256}).sel(statistic="gap")
    assert float(few["total"]) == pytest.approx(float(every["total"]), abs=1e-9)
    assert float(few["score"] + few["discretisation"]) == pytest.approx(float(few["total"]))
    assert float(few["discretisation"]) == pytest.approx(float(alone["discretisation"]), abs=1e-9)
    assert float(every["score_se"]) < float(few["score_se"]) < 0.8 * float(alone["score_se"])
    with pytest.raises(eb.InputError, match="multiple of 16"):
        eb.error_budget(network(1.02), data, limit_n=100, **options)


class Exploding(torch.nn.Module):
    """A network whose x̂_0 is 20 times its state."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return 20 * x


def test_a_limit_that_explodes_is_not_reached_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = eb.Denoiser(Exploding(), schedule=LINEAR, prediction_type="sample", shape=SHAPE)
    monkeypatch.setattr(
        budget, "denoising_check", lambda _: xr.Dataset(attrs={"passes": "yes", "sentence": ""})
    )
    found = eb.error_budget(model, images(256), sampler="ddim", steps=4, n=256, restarts=())
    row = found.sel(statistic="gap")
    assert str(row["answer"].item()) == Answer.NOT_REACHED
    assert np.isfinite(row["total"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"margin": 0.0}, "above 0"),
        ({"margin": -1.0}, "above 0"),
        ({"start": 555}, "takes a text as start"),
        ({"steps": 0}, "steps"),
        ({"sampler": "dpm9"}, "dpm9"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(eb.InputError, match=says):
        eb.error_budget(oracle(), images(64), **{"steps": 10, **options})


def test_a_budget_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, options = images(256), {"steps": 5, "n": 256, "batch_size": 128, "restarts": (500,)}
    straight = eb.error_budget(oracle(), data, folder=tmp_path / "straight", **options)
    true, calls = eb.oracles.GaussianOracle.__call__, [0]

    def failing(self: Any, x: torch.Tensor, level: Level) -> torch.Tensor:
        calls[0] += 1
        if calls[0] in (9, 40, 90):
            raise KeyboardInterrupt
        return true(self, x, level)

    monkeypatch.setattr(eb.oracles.GaussianOracle, "__call__", failing)
    stops = 0
    while True:
        try:
            found = eb.error_budget(oracle(), data, folder=tmp_path / "stopped", **options)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops == 3
    assert found.drop_attrs().identical(straight.drop_attrs())


@pytest.mark.parametrize("sampler", ["ddpm", "ddim:0"])
@pytest.mark.parametrize("start", ["data", "noise"])
def test_no_chain_is_walked_twice(
    sampler: str, start: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T′ calls a sample for the chain, 1.75 N + 3 for the limit, T′ more from noise; whether this
    is a denoiser takes a few more."""
    true, asked, steps, n = eb.oracles.GaussianOracle.__call__, [0], 12, 512

    def counted(self: Any, x: torch.Tensor, level: Any) -> torch.Tensor:
        asked[0] += len(x)
        return true(self, x, level)

    monkeypatch.setattr(eb.oracles.GaussianOracle, "__call__", counted)
    eb.error_budget(
        oracle(), images(n), sampler=sampler, steps=steps, n=n, start=start, restarts=()
    )
    chains = 2 if start == "noise" else 1
    assert asked[0] / n <= chains * steps + 1.75 * 84 + 3 + 4


def test_a_short_chain_is_pooled_as_the_limits_long_one_is() -> None:
    """A chain of few levels keeps all of 196 pixels by group, a limit of many levels only some."""
    shape = (1, 14, 14)
    data = eb.load_data(np.random.default_rng(0).normal(size=(32, *shape)), value_range=None)
    exact = eb.oracles.GaussianOracle(np.zeros(shape), 1.0, LINEAR)
    found = eb.error_budget(exact, data, sampler="ddim", steps=4, n=32, restarts=())
    gap = found.sel(statistic="gap")
    assert float(gap["discretisation"]) < -0.5
    assert abs(float(gap["score"])) < 0.1


@pytest.mark.parametrize(("scale", "reached"), [(1.0, True), (0.98, False)])
def test_an_ode_from_pure_noise_has_no_limit_where_the_error_grows_with_the_noise(
    scale: float, reached: bool
) -> None:
    """ε̂ × 0.98: what the first step adds depends on the level at which it ends."""
    flow = eb.schedules.flow()

    def answers(sampler: str) -> xr.Dataset:
        return eb.error_budget(
            network(scale, flow), images(256), sampler=sampler, steps=5, n=256, restarts=()
        )

    ode = answers("ddim")
    assert (str(ode["answer"][0].item()) != Answer.NOT_REACHED) == reached
    assert ("not_reached" in ode.attrs) != reached
    assert str(answers("ddpm")["answer"][0].item()) != Answer.NOT_REACHED
