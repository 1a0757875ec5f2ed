"""Step functions against closed forms, by propagating unit responses: there is no Monte Carlo, so
1e-10 means 1e-10."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch

from exposure_bias import references, schedules
from exposure_bias.errors import InputError
from exposure_bias.samplers import Prediction, Sampler, parse, prepared
from exposure_bias.schedules import Level, Schedule

CHURN = "edm:churn=4,s_min=0.05,s_max=20"
SAMPLERS = (
    "ddpm",
    "ddpm:fixed_large",
    "ddim",
    "ddim:0.5",
    "euler",
    "heun",
    CHURN,
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
)
SCHEDULES = {
    "linear": schedules.linear(),
    "cosine": schedules.cosine(),
    "edm": schedules.edm(),
    "flow": schedules.flow(),
}
every_sampler = pytest.mark.parametrize("name", SAMPLERS)
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)

# Two channels with oblique eigen-directions beside a third that has no variance at all.
MEAN = np.array([0.3, -0.2, 0.5])
COVARIANCE = np.array([[0.5, 0.2, 0.0], [0.2, 0.3, 0.0], [0.0, 0.0, 0.0]])
ROOT = np.linalg.cholesky(COVARIANCE[:2, :2])
D = len(MEAN)


class Probe:
    """Runs `Sampler.step` on the responses to unit sources, as one batch (source, D).

    With a linear denoiser each state is Σ_j (response j) · (source j), so exact moments are sums
    over the batch. The sources are the constant 1, D for x_0 − μ, D for the start's noise, and D
    for the noise of each step."""

    def __init__(self, sampler: Sampler, levels: tuple[Level, ...]) -> None:
        self.sampler, self.levels = sampler, levels
        sources = 1 + 2 * D + D * (len(levels) - 1 if sampler.stochastic else 0)
        self.mean, self.x0, self.start_noise = (np.zeros((sources, D)) for _ in range(3))
        self.mean[0] = self.x0[0] = MEAN
        self.x0[1:3, :2] = ROOT.T
        self.start_noise[1 + D : 1 + 2 * D] = np.eye(D)

    def perfect(self, x: np.ndarray, level: Level) -> Prediction:
        """E[x_0 | x] = μ + αΣ(α²Σ + σ²)⁻¹(x − αμ), densely."""
        gain = level.alpha * np.linalg.solve(
            level.alpha**2 * COVARIANCE + level.sigma**2 * np.eye(D), COVARIANCE
        )
        x0 = self.mean + (x - level.alpha * self.mean) @ gain
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)

    def teacher(self, x: np.ndarray, level: Level) -> Prediction:
        """The denoiser that knows x_0."""
        return Prediction(self.x0, (x - level.alpha * self.x0) / level.sigma)

    def start(self, start: str) -> np.ndarray:
        level = self.levels[0]
        if start == "noise":
            return self.sampler.prior_scale(level) * self.start_noise
        return level.alpha * self.x0 + level.sigma * self.start_noise

    def chain(self, denoiser: str, start: str = "data") -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(state, x̂_0 there) at every level; x̂_0 is NaN at the last."""
        predict = {"perfect": self.perfect, "teacher": self.teacher}[denoiser]
        steps = self.sampler.begin(self.levels)
        x, z = self.start(start), np.zeros_like(self.x0)
        for i, (s, t) in enumerate(pairwise(self.levels)):
            now = predict(x, s)
            yield x, now.x0
            if self.sampler.stochastic:
                z[:] = 0
                z[1 + D * (i + 2) : 1 + D * (i + 3)] = np.eye(D)
            x = steps.step(x, now, s, t, z if self.sampler.stochastic else None, predict)
        yield x, np.full_like(x, np.nan)


def probe_of(name: str, schedule: Schedule, steps: int) -> Probe:
    """The probe of a sampler on its own levels."""
    if (name, schedule.name) == ("dpm_2_ancestral", "flow"):
        pytest.skip("it works in x/α, and flow starts at α = 0")
    sampler = prepared(parse(name), schedule, steps, "linspace")
    return Probe(sampler, sampler.levels(schedule, steps, "linspace"))


def tolerance_of(schedule: Schedule, name: str, steps: int) -> float:
    """1e-10, but for steps in x/α from σ/α = 2·10⁴ to 6, differences of numbers 3500 times their
    value, twice over."""
    in_x_over_alpha = name in ("heun", "dpm_2_ancestral", CHURN)
    return 1e-8 if in_x_over_alpha and (schedule.name, steps) == ("cosine", 10) else 1e-10


def moments(probe: Probe, start: str) -> dict[str, np.ndarray]:
    """The variables of `references.gaussian`, each (step, D)."""

    def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.einsum("jd,jd->d", x[1:], y[1:])

    rows = []
    for (x, x0), (teacher, _) in zip(
        probe.chain("perfect", start), probe.chain("teacher", start), strict=True
    ):
        row = {"mean": x[0], "variance": product(x, x), "covariance_x0": product(x, probe.x0)}
        row |= {"x0_mean": x0[0], "x0_variance": product(x0, x0)}
        if start == "data":
            error = x - teacher
            row |= {"error_mean": error[0], "error_variance": product(error, error)}
        rows.append(row)
    return {variable: np.array([row[variable] for row in rows]) for variable in rows[0]}


@pytest.mark.filterwarnings("ignore:heun works in x/α")  # so it does, and these are its moments
@every_sampler
@every_schedule
@pytest.mark.parametrize(
    ("steps", "start"), [(10, "data"), (100, "data"), (1000, "data"), (50, "noise")]
)
def test_chain_has_the_moments_of_the_closed_form(
    schedule: Schedule, name: str, steps: int, start: str
) -> None:
    probe = probe_of(name, schedule, steps)
    reference = references.gaussian(
        MEAN.reshape(D, 1, 1), COVARIANCE, schedule, name, steps, start=start
    )
    tolerance = tolerance_of(schedule, name, steps)
    for variable, expected in moments(probe, start).items():
        got = reference[variable].values.reshape(-1, D)
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=variable)


@pytest.mark.filterwarnings("ignore:heun works in x/α")
@every_sampler
@every_schedule
@pytest.mark.parametrize("steps", [10, 100])
def test_teacher_chain_is_the_forward_process(schedule: Schedule, name: str, steps: int) -> None:
    """Given x_0, states are N(α_t x_0, σ_t²) exactly (design §4.1); with β instead of β̃ they are
    wider, not shifted."""
    probe, tolerance = probe_of(name, schedule, steps), tolerance_of(schedule, name, steps)
    for i, (level, (x, _)) in enumerate(zip(probe.levels, probe.chain("teacher"), strict=True)):
        np.testing.assert_allclose(
            x[: 1 + D], level.alpha * probe.x0[: 1 + D], rtol=tolerance, atol=tolerance
        )
        noise = x[1 + D :].T @ x[1 + D :]
        if probe.sampler.exact_teacher or i == 0:
            np.testing.assert_allclose(
                noise, level.sigma**2 * np.eye(D), rtol=tolerance, atol=tolerance
            )
        elif level.sigma > 0:
            assert (noise.diagonal() > level.sigma**2 * (1 + 1e-6)).all()


@every_schedule
@pytest.mark.parametrize(("one", "other"), [("euler", "ddim:0"), ("ddpm", "ddim:1")])
def test_samplers_that_are_the_same_step(schedule: Schedule, one: str, other: str) -> None:
    """Euler in straight coordinates is DDIM (Song et al.

    2021, §4.3), and η = 1 is DDPM with β̃ (ibid., eq. 16).
    """
    levels = schedule.levels(30)
    chains = [list(Probe(parse(name), levels).chain("perfect")) for name in (one, other)]
    for (x, _), (y, _) in zip(*chains, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-10, atol=1e-10 * np.abs(y).max())
    assert not np.allclose(chains[0][0][0], chains[0][-1][0])


@pytest.mark.parametrize("variance", [0.25, 0.02])
@pytest.mark.parametrize(("name", "order"), [("euler", 1), ("heun", 2)])
@pytest.mark.parametrize("schedule", [SCHEDULES["linear"], SCHEDULES["edm"]], ids=["linear", "edm"])
def test_order_of_convergence(schedule: Schedule, name: str, order: int, variance: float) -> None:
    """To the exact probability flow at σ_min, where x/α grows like √(λ + σ²/α²) for Gaussian data
    of variance λ."""

    def predict(x: float, level: Level) -> Prediction:
        total = level.alpha**2 * variance + level.sigma**2
        return Prediction(level.alpha * variance / total * x, level.sigma / total * x)

    def error(intervals: int) -> float:
        levels = schedule.levels(intervals + 1, "karras")[:-1]
        x = 1.0
        for s, t in pairwise(levels):
            x = parse(name).step(x, predict(x, s), s, t, None, predict)
        first, last = levels[0], levels[-1]
        growth = (variance + (last.sigma / last.alpha) ** 2) / (
            variance + (first.sigma / first.alpha) ** 2
        )
        return abs(x / (last.alpha / first.alpha * np.sqrt(growth)) - 1)

    intervals = [20, 40, 80, 160, 320]
    slope = np.polyfit(np.log(intervals), np.log([error(n) for n in intervals]), 1)[0]
    assert abs(-slope - order) < 0.1


def test_learned_range_lies_between_the_two_fixed_variances() -> None:
    levels = SCHEDULES["linear"].levels(20)
    x, z = (
        torch.linspace(-1, 1, 5, dtype=torch.float64),
        torch.linspace(2, -1, 5, dtype=torch.float64),
    )
    for s, t in ((levels[0], levels[1]), (levels[-3], levels[-2]), (levels[-2], levels[-1])):

        def step(
            name: str, fraction: float | None = None, s: Level = s, t: Level = t
        ) -> torch.Tensor:
            variance = None if fraction is None else torch.full_like(x, fraction)
            now = Prediction(x / 2, x / 3, variance)
            return parse(name).step(x, now, s, t, z, lambda y, level: now)

        small, large = step("ddpm:fixed_small"), step("ddpm:fixed_large")
        torch.testing.assert_close(step("ddpm:learned_range", 0.0), small, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(step("ddpm:learned_range", 1.0), large, rtol=1e-12, atol=1e-12)
        if t.sigma > 0:
            # Half-way in the log is the geometric mean of the two standard deviations.
            mean = step("ddpm:learned_range", -np.inf)
            half = (step("ddpm:learned_range", 0.5) - mean) ** 2
            torch.testing.assert_close(
                half, (small - mean) * (large - mean), rtol=1e-10, atol=1e-12
            )
            assert not torch.allclose(small, large)
            with pytest.raises(InputError, match="predicts its variance"):
                step("ddpm:learned_range")


@pytest.mark.parametrize(
    ("name", "canonical", "stochastic", "exact_teacher"),
    [
        ("ddpm", "ddpm:fixed_small", True, True),
        ("ddpm:fixed_small", "ddpm:fixed_small", True, True),
        ("ddpm:fixed_large", "ddpm:fixed_large", True, False),
        ("ddpm:learned_range", "ddpm:learned_range", True, False),
        ("ddim", "ddim:0", False, True),
        ("ddim:0.5", "ddim:0.5", True, True),
        ("ddim:1", "ddim:1", True, True),
        ("euler", "euler", False, True),
        ("heun", "heun", False, True),
        ("edm", "edm", False, True),
        ("edm:40", "edm:churn=40", True, True),
        ("edm:churn=40,s_noise=1.003", "edm:churn=40,s_noise=1.003", True, False),
        ("dpm_2_ancestral", "dpm_2_ancestral", True, True),
        ("dpmpp_2s_ancestral", "dpmpp_2s_ancestral", True, True),
        ("dpmpp_2m", "dpmpp_2m", False, True),
        ("dpmpp_2m_sde", "dpmpp_2m_sde", True, True),
    ],
)
def test_names(name: str, canonical: str, stochastic: bool, exact_teacher: bool) -> None:
    sampler = parse(name)
    assert (str(sampler), sampler.stochastic, sampler.exact_teacher) == (
        canonical,
        stochastic,
        exact_teacher,
    )
    assert parse(canonical) == sampler
    assert parse(sampler) is sampler


@pytest.mark.parametrize(
    "name",
    [
        "",
        "DDPM",
        "dpm",
        "ddpm:small",
        "ddim:x",
        "ddim:-0.1",
        "ddim:1.5",
        "ddim:nan",
        "euler:1",
        "heun:2",
        "edm:-1",
        "edm:churn=x",
        "edm:churn=4,churning=2",
        "edm:churn=4,s_min=2,s_max=1",
        "edm:churn=4,s_noise=0",
        "dpmpp_2m:1",
    ],
)
def test_other_names_are_refused_with_the_allowed_ones(name: str) -> None:
    with pytest.raises(
        InputError, match=r"ddpm:fixed_large.*ddpm:learned_range.*ddim:ETA.*euler.*heun"
    ):
        parse(name)
