"""The Gaussian reference against dense matrices, exact integrals and the limits that design §4.3
and §4.4 state."""

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import gammaln

import exposure_bias as eb
from exposure_bias import schedules
from exposure_bias.errors import InputError
from exposure_bias.references import Eigen, eigendecomposition, gaussian, gaussian_chain
from exposure_bias.schedules import Level, Schedule

SHAPE = (3, 2, 2)
D = 12
RANDOM = np.random.default_rng(3)
MEAN = RANDOM.uniform(-0.5, 0.5, SHAPE)
VECTORS = np.linalg.qr(RANDOM.standard_normal((D, D)))[0]
VALUES = np.append(np.geomspace(4.0, 0.01, 8), np.zeros(4))
COVARIANCE = (VECTORS * VALUES) @ VECTORS.T

Operator = Callable[[np.ndarray, Level], np.ndarray]


def paper_step(
    x: np.ndarray, predict: Operator, s: Level, t: Level, sampler: str, path: str
) -> np.ndarray:
    """The noise-free part of one step, in each paper's own notation."""
    x0 = predict(x, s)
    if sampler.startswith("ddpm"):  # Ho et al. 2020, eq. 7
        beta = 1 - (s.alpha / t.alpha) ** 2
        return (t.alpha * beta * x0 + np.sqrt(1 - beta) * t.sigma**2 * x) / (1 - s.alpha**2)
    if sampler.startswith("ddim"):  # Song et al. 2021, eq. 12
        epsilon = (x - s.alpha * x0) / s.sigma
        return t.alpha * x0 + np.sqrt(1 - t.alpha**2 - paper_noise(s, t, sampler) ** 2) * epsilon
    if path == "flow":  # dx/dt = ε − x_0
        start, h, slope = x, t.sigma - s.sigma, (x - x0) / s.sigma
        end = start + h * slope
        if sampler == "heun" and t.sigma > 0:
            end = start + h * (slope + (end - predict(end, t)) / t.sigma) / 2
        return end
    # Karras et al. 2022, Algorithm 1, on x/α, whose noise is σ/α
    start, before, after = x / s.alpha, s.sigma / s.alpha, t.sigma / t.alpha
    slope = (start - x0) / before
    end = start + (after - before) * slope
    if sampler == "heun" and after > 0:
        end = start + (after - before) * (slope + (end - predict(end * t.alpha, t)) / after) / 2
    return end * t.alpha


def paper_noise(s: Level, t: Level, sampler: str) -> float:
    """The standard deviation of a step's noise on a vp path."""
    if sampler in ("euler", "heun") or t.sigma == 0:
        return 0.0
    if sampler == "ddpm:fixed_large":
        return float(np.sqrt(1 - (s.alpha / t.alpha) ** 2))
    eta = 1.0 if sampler == "ddpm" else float(sampler.partition(":")[2] or 0)
    return float(
        eta * t.sigma / s.sigma * np.sqrt(1 - (s.alpha / t.alpha) ** 2)
    )  # Song et al. 2021, eq. 16


def gain(level: Level) -> np.ndarray:
    """x̂_0 − μ = gain · (x − αμ)."""
    return (
        level.alpha
        * COVARIANCE
        @ np.linalg.inv(level.alpha**2 * COVARIANCE + level.sigma**2 * np.eye(D))
    )


def dense_chain(
    levels: tuple[Level, ...], path: str, sampler: str, start: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per level: the mean deviation (D,) of the state and the covariance (3D, 3D) of (chain,
    teacher, x_0)."""
    one, zero = np.eye(D), np.zeros((D, D))
    chain, teacher, data = (
        np.hstack([one if i == j else zero for j in range(3)]) for i in range(3)
    )
    first = levels[0]
    if start == "data":
        mean = np.zeros(D)
        source = np.block(
            [
                [first.alpha * one, first.sigma * one],
                [first.alpha * one, first.sigma * one],
                [one, zero],
            ]
        )
    else:
        mean = -first.alpha * MEAN.ravel()
        scale = 1.0 if path == "vp" else first.sigma
        source = np.block([[zero, scale * one], [zero, zero], [one, zero]])
    covariance = source @ np.block([[COVARIANCE, zero], [zero, one]]) @ source.T
    out = [(mean, covariance)]
    for s, t in pairwise(levels):
        perfect = paper_step(chain, lambda x, level: gain(level) @ x, s, t, sampler, path)
        informed = paper_step(teacher, lambda x, level: data, s, t, sampler, path)
        step = np.vstack([perfect, informed, data])
        noise = paper_noise(s, t, sampler) * np.vstack([one, one, zero])
        mean, covariance = perfect[:, :D] @ mean, step @ covariance @ step.T + noise @ noise.T
        out.append((mean, covariance))
    return out


CASES: list[tuple[Schedule, str]] = [
    *(
        (schedules.linear(), name)
        for name in ("ddpm", "ddpm:fixed_large", "ddim", "ddim:0.3", "euler", "heun")
    ),
    *((s, name) for s in (schedules.edm(), schedules.flow()) for name in ("euler", "heun")),
]


@pytest.mark.parametrize("start", ["data", "noise"])
@pytest.mark.parametrize(
    ("schedule", "sampler"), CASES, ids=[f"{s.name}-{name}" for s, name in CASES]
)
def test_equals_dense_matrices(schedule: Schedule, sampler: str, start: str) -> None:
    eigen, levels = eigendecomposition(COVARIANCE), schedule.levels(12)
    assert eigen.vectors is not None
    reference = gaussian(MEAN, eigen, schedule, sampler, 12, start=start)
    for i, (level, (shift, joint)) in enumerate(
        zip(levels, dense_chain(levels, schedule.parameterisation, sampler, start), strict=True)
    ):
        now = reference.isel(step=i)
        x, teacher, x0 = (slice(D * j, D * (j + 1)) for j in range(3))
        chain, forward = joint[x, x], level.alpha**2 * COVARIANCE + level.sigma**2 * np.eye(D)
        matrices = {"variance": chain, "forward_variance": forward, "covariance_x0": joint[x, x0]}
        means = {"mean": level.alpha * MEAN.ravel() + shift}
        if start == "data":
            matrices["error_variance"] = (
                chain + joint[teacher, teacher] - joint[x, teacher] - joint[teacher, x]
            )
            means["error_mean"] = shift
        if level.sigma > 0:
            matrices["x0_variance"] = gain(level) @ chain @ gain(level).T
            means["x0_mean"] = MEAN.ravel() + gain(level) @ shift
        for name, matrix in matrices.items():
            close(now[name], matrix.diagonal(), f"{name} {i}")
            close(
                now[f"mode_{name}"],
                (eigen.vectors @ matrix @ eigen.vectors.T).diagonal(),
                f"mode_{name} {i}",
            )
        for name, vector in means.items():
            close(now[name], vector, f"{name} {i}")
        close(now.gap, np.trace(chain) / np.trace(forward) - 1, f"gap {i}")
        residual = (chain + level.alpha**2 * COVARIANCE - 2 * level.alpha * joint[x, x0]).diagonal()
        close(
            now.published_delta,
            (np.sqrt(residual).mean() - level.sigma) ** 2,
            f"published_delta {i}",
        )
        if level.sigma > 0:
            score = level.sigma * np.linalg.inv(forward)
            for name, center, spread in (
                ("chain", score @ shift, chain),
                ("forward", np.zeros(D), forward),
            ):
                exact, bound = expected_norm(center, score @ spread @ score.T)
                assert abs(now[f"epsilon_norm_{name}"].item() / exact - 1) < bound


def close(got: object, expected: object, name: str) -> None:
    # The dense side inverts matrices of condition number 4·10⁶; tests/test_samplers.py goes to
    # 1e-10.
    np.testing.assert_allclose(
        np.asarray(got).ravel(), np.asarray(expected), rtol=1e-7, atol=1e-7, err_msg=name
    )


def expected_norm(mean: np.ndarray, covariance: np.ndarray) -> tuple[float, float]:
    """E‖y‖ for y ~ N(mean, covariance), exactly, and the relative error that the second-order
    formula may have.

    E√X = ∫ (1 − E e^(−τX)) τ^(−3/2) dτ / (2√π), here with τ = w²/(1 − w)² and X scaled to mean 1.
    """
    values, vectors = np.linalg.eigh(covariance)
    squares = (vectors.T @ mean) ** 2
    m = float(np.sum(values + squares))
    values, squares = np.maximum(values, 0) / m, squares / m

    def integrand(w: float) -> float:
        tau = (w / (1 - w)) ** 2
        log = np.sum(-0.5 * np.log1p(2 * tau * values) - tau * squares / (1 + 2 * tau * values))
        return float(-np.expm1(log)) / w**2 / np.sqrt(np.pi)

    exact = np.sqrt(m) * quad(integrand, 0, 1, epsabs=1e-11, epsrel=1e-11)[0]
    v = float(np.sum(2 * values**2 + 4 * values * squares))
    return exact, 0.18 * v**1.5


def epsilon_norms(
    data_variance: np.ndarray, mean: float, start: str
) -> tuple[float, np.ndarray, np.ndarray]:
    """The reported norm of ε̂ = (x − αμ)/(1 + λ) at α = σ = 1, and ε̂'s mean and variances."""
    levels = (Level(1, 1.0, 1.0), Level(0, 1.0, 0.0))
    mu = np.full((1, 1, len(data_variance)), mean)
    reference = gaussian_chain(mu, data_variance, levels, start=start)
    score = 1 / (1 + data_variance)
    if start == "data":
        return reference.epsilon_norm_chain.item(0), 0 * score, score
    return reference.epsilon_norm_chain.item(0), -score * mean, score**2


@given(
    variances=st.lists(st.floats(0, 100), min_size=1, max_size=30),
    mean=st.floats(-5, 5),
    start=st.sampled_from(["data", "noise"]),
)
def test_epsilon_norm_is_within_its_stated_error(
    variances: list[float], mean: float, start: str
) -> None:
    got, center, spread = epsilon_norms(np.array(variances), mean, start)
    exact, bound = expected_norm(center, np.diag(spread))
    assert abs(got / exact - 1) < bound


def test_epsilon_norm_of_equal_directions_is_a_chi_mean() -> None:
    """E χ_D = √2 Γ((D+1)/2)/Γ(D/2): 6 % too small for one direction, 1/(32 D²) for many, as the
    docstring says."""
    for d in (1, 20, 100):
        exact = np.sqrt(2) * np.exp(gammaln((d + 1) / 2) - gammaln(d / 2))
        assert expected_norm(np.zeros(d), np.eye(d))[0] == pytest.approx(exact, rel=1e-8)
        error = 1 - epsilon_norms(np.zeros(d), 0.0, "data")[0] / exact
        assert error == pytest.approx(0.06 if d == 1 else 1 / (32 * d**2), rel=0.1)


def test_epsilon_norm_against_sampled_norms() -> None:
    data_variance, draws = np.geomspace(0.01, 10, 40), 20000
    got, center, spread = epsilon_norms(data_variance, 0.5, "noise")
    noise = np.random.default_rng(0).standard_normal((draws, 40))
    norms = np.linalg.norm(center + np.sqrt(spread) * noise, axis=1)
    bound = expected_norm(center, np.diag(spread))[1]
    assert abs(got - norms.mean()) < 4 * norms.std() / np.sqrt(draws) + bound * got
    assert bound < 0.01


def equal(one: xr.Dataset, other: xr.Dataset) -> None:
    """All but the eigen-directions themselves, whose number and order may differ."""
    for name in one:
        if "mode" not in one[name].dims:
            np.testing.assert_allclose(
                one[name], other[name], rtol=1e-11, atol=1e-13, err_msg=str(name)
            )


@pytest.mark.parametrize("sampler", ["ddpm", "heun"])
@pytest.mark.parametrize("start", ["data", "noise"])
def test_every_form_of_a_covariance_means_the_same(start: str, sampler: str) -> None:
    def reference(covariance: object) -> xr.Dataset:
        return gaussian(MEAN, covariance, schedules.linear(), sampler, 20, start=start)  # type: ignore[arg-type]

    scalar = reference(0.3)
    for covariance in (
        np.full(D, 0.3),
        0.3 * np.eye(D),
        Eigen(np.full(D, 0.3)),
        Eigen(np.full(D, 0.3), VECTORS.T),
    ):
        equal(scalar, reference(covariance))
    # The rows that a low-rank Eigen leaves out have eigenvalue 0, and the chain's noise is in them
    # all the same.
    low_rank = Eigen(VALUES[:8], VECTORS.T[:8])
    dense = reference(COVARIANCE)
    for covariance in (low_rank, Eigen(VALUES, VECTORS.T), eigendecomposition(COVARIANCE)):
        equal(dense, reference(covariance))
    assert reference(low_rank).sizes["mode"] == 8
    np.testing.assert_allclose(
        reference(low_rank).rest_variance, dense.mode_variance[:, -1], rtol=1e-10
    )
    diagonal = COVARIANCE.diagonal()
    equal(reference(diagonal), reference(np.diag(diagonal)))
    assert not np.allclose(reference(diagonal).variance, dense.variance)


def test_eigendecomposition() -> None:
    eigen = eigendecomposition(COVARIANCE)
    assert eigen.vectors is not None
    np.testing.assert_allclose(eigen.values, VALUES, atol=1e-14)
    np.testing.assert_allclose(
        (eigen.vectors.T * eigen.values) @ eigen.vectors, COVARIANCE, atol=1e-13
    )
    assert (eigendecomposition(np.array([1.0, -1e-9])).values == [1, 0]).all()
    assert eigendecomposition(2.0, 3).values.tolist() == [2, 2, 2]


def ancestral_levels(start_ratio: float, steps: int) -> tuple[Level, ...]:
    """vp levels even in log(σ/α), from `start_ratio` to 0.02."""
    ratio = np.geomspace(start_ratio, 0.02, steps + 1)
    return tuple(
        Level(-i, a, a * r)
        for i, (r, a) in enumerate(zip(ratio, 1 / np.hypot(1, ratio), strict=True))
    )


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm:fixed_large"])
def test_many_ancestral_steps_reach_the_perfect_sampler(sampler: str) -> None:
    """Gap → 0 at first order, and published_delta → design §4.3, also while x_t still remembers
    x_0."""
    gaps, deltas = [], []
    for steps in (1000, 2000):
        levels = ancestral_levels(2.0, steps)
        reference = gaussian_chain(MEAN, COVARIANCE, levels, sampler)
        s = levels[0]
        inverse = np.linalg.inv(s.alpha**2 * COVARIANCE + s.sigma**2 * np.eye(D))
        posterior = (s.sigma**2 * COVARIANCE @ inverse).diagonal()
        alpha, sigma = reference.alpha.values, reference.sigma.values
        lost = 1 - s.snr / (alpha / sigma) ** 2
        perfect = np.sqrt(sigma[:, None] ** 2 + 2 * np.outer(alpha**2 * lost, posterior))
        expected = (perfect.mean(axis=1) - sigma) ** 2
        assert expected[-1] > 0.1
        gaps.append(np.abs(reference.gap).max().item())
        deltas.append(np.abs(reference.published_delta - expected).max().item())
    assert gaps[1] < 3e-3
    assert deltas[1] < 3e-3
    assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.05)
    assert deltas[0] / deltas[1] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize(
    "schedule", [schedules.linear(), schedules.edm(), schedules.flow()], ids=lambda s: s.name
)
@pytest.mark.parametrize(
    "sampler", ["ddpm", "ddpm:fixed_large", "ddim", "ddim:0.5", "euler", "heun"]
)
def test_last_step_shrinks_every_sampler_alike(schedule: Schedule, sampler: str) -> None:
    """It multiplies λ by α²λ/(α²λ + σ²) from the true law, and the state's variance by k² from any
    (design §4.4)."""
    level = schedule.level(300)
    reference = gaussian_chain(MEAN, VALUES, (level, schedule.clean), sampler)
    power = level.alpha**2 * VALUES
    np.testing.assert_allclose(
        reference.mode_variance[-1], VALUES * power / (power + level.sigma**2), rtol=1e-12
    )
    for steps in (5, 50):
        chain = gaussian(MEAN, VALUES, schedule, sampler, steps)
        np.testing.assert_allclose(chain.mode_variance[-1], chain.mode_x0_variance[-2], rtol=1e-12)


def test_sign_of_the_gap_follows_the_samplers_variance() -> None:
    """An exact denoiser loses power with β̃ or DDIM; with β it gains where the data is weak (design
    §4.4)."""
    for name, sign in (("ddpm", -1), ("ddim", -1), ("ddpm:fixed_large", 1)):
        gap = sign * gaussian(MEAN, 1e-4, schedules.linear(), name, 50).gap[1:]
        assert (gap > 0).all()
        assert gap.max() > 0.5


def test_the_two_fixed_variances_are_exact_for_the_data_they_are_meant_for() -> None:
    """β is optimal for x_0 ~ N(0, I), β̃ for x_0 set to one point (Ho et al. 2020, §3.2)."""
    for name, variance in (("ddpm:fixed_large", 1.0), ("ddpm:fixed_small", 0.0)):
        exact = gaussian(MEAN, variance, schedules.linear(), name, 20).gap[:-1]
        other = gaussian(MEAN, 0.5, schedules.linear(), name, 20).gap[:-1]
        np.testing.assert_allclose(exact, 0, atol=1e-12)
        assert np.abs(other).max() > 0.01


def test_a_rollout_is_a_chain_that_starts_and_ends_anywhere() -> None:
    levels = schedules.edm().levels(30)[5:20]
    reference = gaussian_chain(MEAN, COVARIANCE, levels, "ddim:0.3")
    assert reference.sizes == {"step": 15, "mode": 12, "channel": 3, "y": 2, "x": 2}
    np.testing.assert_array_equal(
        np.transpose([reference.timestep, reference.alpha, reference.sigma]), levels
    )
    assert reference.attrs == {"sampler": "ddim:0.3", "start": "data"}
    for name in (
        "x0_mean",
        "x0_variance",
        "mode_x0_variance",
        "epsilon_norm_chain",
        "epsilon_norm_forward",
    ):
        assert np.isfinite(reference[name][:-1]).all()
        assert np.isnan(reference[name][-1]).all()
    # The chain from level 5 begins as the forward process does, and one level alone is a chain of
    # no step.
    assert reference.gap[0] == pytest.approx(0, abs=1e-14)
    assert (reference.error_variance[0] == 0).all()
    alone = gaussian_chain(MEAN, COVARIANCE, levels[:1])
    np.testing.assert_allclose(alone.variance, reference.variance[:1])


def test_pure_noise_has_no_pairs() -> None:
    edm, vp = (
        gaussian(MEAN, COVARIANCE, s, steps=5, start="noise")
        for s in (schedules.edm(), schedules.linear())
    )
    assert "error_mean" not in vp
    assert "mode_error_variance" not in vp
    assert (vp.covariance_x0 == 0).all()
    np.testing.assert_allclose(vp.variance[0], 1)
    np.testing.assert_allclose(edm.variance[0], 80.0**2)
    np.testing.assert_allclose(vp["mean"][0], 0, atol=1e-15)


def test_data_without_variance() -> None:
    """Every chain ends on the mean; a relative gap is then undefined at the clean end, and only
    there."""
    reference = gaussian(MEAN, 0.0, schedules.linear(), steps=10)
    np.testing.assert_allclose(reference["mean"][-1], MEAN)
    assert (reference.variance[-1] == 0).all()
    assert np.isfinite(reference.gap[:-1]).all()
    assert np.isnan(reference.gap[-1])


SKEW = np.eye(D)
SKEW[0, 1] = 0.1
CLEAN, NOISY = Level(0, 1.0, 0.0), Level(1, 0.6, 0.8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": MEAN[0, 0, 0]}, "a finite state"),
        ({"mean": MEAN * np.nan}, "finite"),
        ({"covariance": np.ones(5)}, "covariance must be a scalar"),
        ({"covariance": np.ones((D, 5))}, "covariance must be a scalar"),
        ({"covariance": np.full(D, np.nan)}, "not finite"),
        ({"covariance": SKEW}, "not symmetric"),
        ({"covariance": -1.0}, "positive semi-definite"),
        ({"covariance": COVARIANCE - 0.1 * np.eye(D)}, "positive semi-definite"),
        ({"covariance": Eigen(-VALUES, VECTORS.T)}, "positive semi-definite"),
        ({"covariance": Eigen(VALUES[:5])}, "values of shape"),
        ({"covariance": Eigen(VALUES, VECTORS.T[:5])}, "values of shape"),
        ({"covariance": Eigen(VALUES[:5], VECTORS.T[:5, :5])}, "vectors of shape"),
        ({"covariance": Eigen(VALUES, 2 * VECTORS.T)}, "not orthonormal"),
        ({"covariance": Eigen(VALUES, VECTORS.T + 0.1)}, "not orthonormal"),
        ({"sampler": "ddpm:learned_range"}, "fixed_small or ddpm:fixed_large"),
        ({"sampler": "dpm"}, "unknown sampler"),
        ({"start": "pure"}, "data, noise"),
        ({"levels": ()}, "levels must fall"),
        ({"levels": (CLEAN, NOISY)}, "levels must fall"),
        ({"levels": (NOISY, NOISY)}, "levels must fall"),
    ],
)
def test_bad_input(options: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"mean": MEAN, "covariance": COVARIANCE, "levels": (NOISY, CLEAN)}
    gaussian_chain(**good)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        gaussian_chain(**good | options)  # type: ignore[arg-type]


def test_a_scalar_covariance_needs_a_size_to_decompose() -> None:
    with pytest.raises(InputError, match="size"):
        eigendecomposition(1.0)


def test_torch_is_not_imported() -> None:
    code = "import sys, exposure_bias.references; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", ["linear", "edm", "flow"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim:0.5", "euler", "heun"])
@pytest.mark.parametrize(("scale", "gamma"), [(1.0, 0.0), (1.02, 0.0), (0.97, 0.0), (1.0, 0.3)])
def test_remedied_chains_are_those_of_the_remedied_oracle(path, sampler, scale, gamma):
    """Without noise the chain from x_T is Π p x_T in each direction: the oracle's, remedied, to
    1e-8."""
    import torch

    from exposure_bias import remedies, samplers, streams

    schedule = {
        "linear": eb.schedules.linear(1000),
        "edm": eb.schedules.edm(),
        "flow": eb.schedules.flow(),
    }[path]
    variance = np.linspace(0.05, 2, 16)
    model = eb.oracles.GaussianOracle(np.zeros((1, 4, 4)), variance, schedule)
    levels = schedule.levels(12, "karras" if path == "edm" else "linspace")[
        1:
    ]  # a level below T, for the shift by γ
    if gamma:
        model = remedies.ip_equivalent(model, gamma)
    if scale != 1:
        model = remedies.epsilon_scaled(model, scale)
    start = torch.ones(1, 1, 4, 4, dtype=torch.float64)
    zero = torch.zeros(1, 1, 4, 4)
    end = streams.rollout(model, start, levels, samplers.parse(sampler), lambda _: zero)
    chain = eb.references.gaussian_chain(
        np.zeros((1, 4, 4)), variance, levels, sampler, epsilon_scale=scale, gamma=gamma
    )
    decay = chain["mode_covariance_x0"].values[-1] / variance / levels[0].alpha
    np.testing.assert_allclose(end.numpy().ravel(), decay, rtol=1e-8)
