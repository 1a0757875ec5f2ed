"""`eb.network_error` against closed forms: linear networks, exact networks, wrong ones."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import exposure_bias as eb
from exposure_bias.diagnostics.predicted_share import CostSums, cost, quadrature
from exposure_bias.experiments.value_function import (
    Coupling,
    LinearLaw,
    Measured,
    Modes,
    measured,
    pullbacks,
)
from exposure_bias.jackknife import GROUPS
from exposure_bias.schedules import Level

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from network_worlds import SHAPE

SIZE = int(np.prod(SHAPE))
LINEAR = eb.schedules.linear()


# The share of a linear network on Gaussian data, in closed form.


def vp(h: float) -> Level:
    """The variance-preserving level of ln(α/σ) = h."""
    ratio = np.exp(-h)
    alpha = 1 / np.sqrt(1 + ratio**2)
    return Level(0.0, alpha, ratio * alpha)


def gaussian(seed: int) -> tuple[np.ndarray, LinearLaw]:
    """A covariance whose directions are no DCT modes, and its law."""
    rng = np.random.default_rng(seed)
    q = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    values = np.sort(0.3 * np.exp(-np.arange(SIZE) / 5))
    covariance = (q * values) @ q.T
    vectors = torch.from_numpy(q.T.copy())
    law = LinearLaw(
        torch.zeros(SIZE, dtype=torch.float64),
        torch.from_numpy(values),
        vectors,
        torch.from_numpy(np.diag(covariance).copy()),
    )
    return covariance, law


def network(covariance: np.ndarray, error: np.ndarray, size: float) -> Any:
    """h -> the matrix of a linear x̂_0: the exact one, and an error that is largest near h = 1."""

    def matrix(h: float) -> np.ndarray:
        level = vp(h)
        total = level.alpha**2 * covariance + level.sigma**2 * np.eye(SIZE)
        exact = level.alpha * np.linalg.solve(total, covariance)
        return exact + size * error / np.cosh(h - 1)

    return matrix


def end_covariance(covariance: np.ndarray, matrix: Any, first: float, last: float) -> np.ndarray:
    """That of the SDE dy = f dλ + dW at the last level, for a linear f = K x, by an ODE solver.

    With y = αx/σ² and C its covariance, dC/dλ = M C + C Mᵀ + 1, M = K σ²/α."""

    def slope(h: float, flat: np.ndarray) -> np.ndarray:
        level, c = vp(h), flat.reshape(SIZE, SIZE)
        m = matrix(h) * level.sigma**2 / level.alpha
        change: np.ndarray = 2 * level.snr * (m @ c + c @ m.T + np.eye(SIZE))
        return change.ravel()

    start = vp(first)
    scale = start.alpha / start.sigma**2
    total = start.alpha**2 * covariance + start.sigma**2 * np.eye(SIZE)
    solved = solve_ivp(
        slope, (first, last), (scale**2 * total).ravel(), method="DOP853", rtol=1e-12, atol=1e-12
    )
    end = vp(last)
    final: np.ndarray = solved.y[:, -1].reshape(SIZE, SIZE) * (end.sigma**2 / end.alpha) ** 2
    return final


def quadratic_forms(
    law: LinearLaw, modes: Modes, level: Level, end: Level, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What `measured` gives of (x_0, ε), as quadratic forms: matrices (K, 2D, 2D) and constants.

    They are read off unit vectors and sums of two of them, so that the estimator's own code is what
    is tested."""
    k = torch.from_numpy(matrix)
    eye = np.eye(2 * SIZE)
    pairs = [(i, j) for i in range(2 * SIZE) for j in range(i)]
    rows = np.concatenate(
        [np.zeros((1, 2 * SIZE)), eye, np.stack([eye[i] + eye[j] for i, j in pairs])]
    )
    x0, noise = torch.from_numpy(rows[:, :SIZE]), torch.from_numpy(rows[:, SIZE:])
    coupling = Coupling.of(level, end)
    x = modes.inverse(level.alpha * x0 + level.sigma * noise)
    said, pulled = pullbacks(
        modes,
        coupling,
        x,
        torch.zeros_like(x0),
        level.alpha,
        lambda states: modes.inverse(modes_of(modes, states) @ k.T),
    )
    found = measured(law, modes, level, coupling, x0, noise, said, pulled)
    values = everything(found).numpy()
    constant = values[0]
    values = values - constant
    forms = np.zeros((values.shape[1], 2 * SIZE, 2 * SIZE))
    single = values[1 : 1 + 2 * SIZE]
    forms[:, np.arange(2 * SIZE), np.arange(2 * SIZE)] = single.T
    for (i, j), row in zip(pairs, values[1 + 2 * SIZE :], strict=True):
        forms[:, i, j] = forms[:, j, i] = (row - single[i] - single[j]) / 2
    return forms, constant


def modes_of(modes: Modes, states: torch.Tensor) -> torch.Tensor:
    return modes(states)


def everything(found: Measured) -> torch.Tensor:
    """[1, φ, S, C, Z] and then contraction and control by band of the error."""
    parts = [found.vector, found.contraction.flatten(1), found.control.flatten(1)]
    return torch.cat(parts, 1)


def population(covariance: np.ndarray, law: LinearLaw, matrix: Any, h: np.ndarray) -> CostSums:
    """The sums of infinitely many samples, one unit in each group, by Isserlis' theorem."""
    modes = Modes.of(SHAPE)
    j, p = len(modes.names), len(modes.names) + len(modes.parts)
    width = 1 + 2 * p + 2 * j
    root = np.zeros((2 * SIZE, 2 * SIZE))
    root[:SIZE, :SIZE], root[SIZE:, SIZE:] = covariance, np.eye(SIZE)
    moments, contraction, control = [], [], []
    for at in h:
        forms, constant = quadratic_forms(law, modes, vp(at), vp(h[-1]), matrix(at))
        spread = forms @ root
        mean = constant + np.trace(spread, axis1=1, axis2=2)
        few = spread[:width]
        both = 2 * np.einsum("aij,bji->ab", few, few) + np.outer(mean[:width], mean[:width])
        moments.append(both)
        contraction.append(mean[width : width + p * j].reshape(p, j))
        control.append(mean[width + p * j :].reshape(j, j))
    each = [
        np.broadcast_to(np.stack(v), (GROUPS, *np.stack(v).shape))
        for v in (moments, contraction, control)
    ]
    step = 2 * np.array([vp(at).alpha for at in h]) * quadrature(h)
    return CostSums(np.ones((GROUPS, len(h))), *each, step)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_predicted_share_of_a_linear_network_is_the_derivative_of_its_limit(seed: int) -> None:
    """Gaussian data, any linear error: to first order in it the predicted share is what an ODE
    solver finds for the covariance at the end of the chain. To 1e-6 of the error's size."""
    covariance, law = gaussian(seed)
    error = 0.3 * np.random.default_rng(10 + seed).normal(size=(SIZE, SIZE)) / 4
    first, last, small = -4.0, 3.0, 1e-4
    h = np.linspace(first, last, 161)
    target = np.trace(vp(last).alpha ** 2 * covariance) + SIZE * vp(last).sigma ** 2
    ends = [
        np.trace(end_covariance(covariance, network(covariance, error, size), first, last)) / target
        for size in (small, -small)
    ]
    derivative = (ends[0] - ends[1]) / (2 * small)
    sums = population(covariance, law, network(covariance, error, 1.0), h)
    value, deviations = cost(sums).of(np.ones(sums.bands))
    assert abs(value.sum() - derivative) < 1e-6
    assert abs(derivative) > 0.05
    np.testing.assert_allclose(deviations, 0, atol=1e-12)


def test_an_exact_linear_network_costs_nothing_in_any_band() -> None:
    """Without an error every entry of the cost map is zero, whatever the features."""
    covariance, law = gaussian(2)
    sums = population(
        covariance, law, network(covariance, np.zeros((SIZE, SIZE)), 1.0), np.linspace(-4, 3, 9)
    )
    value, _ = cost(sums).of(np.ones(sums.bands))
    np.testing.assert_allclose(value, 0, atol=1e-9)
