"""The predicted discretisation error: closed forms, laws that are not Gaussian, best levels."""

from collections.abc import Sequence
from itertools import combinations, pairwise

import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.experiments.discretisation import (
    Directions,
    Discretisation,
    Images,
    Spread,
    Weights,
    best_path,
    groups_of,
    residual_power,
)
from exposure_bias.levels import chosen_levels
from exposure_bias.schedules import Level
from exposure_bias.statistics.bands import dct_matrix

VARIANCE = np.array([0.02, 0.3, 1.0, 4.0, 0.0])
GAUSSIAN = Discretisation(Spread.gaussian(VARIANCE), Weights.gaussian(VARIANCE))
SCHEDULES = {
    "linear": eb.schedules.linear(),
    "cosine": eb.schedules.cosine(),
    "edm": eb.schedules.edm(),
    "flow": eb.schedules.flow(),
}


def closed_form(levels: Sequence[Level], sampler: str = "ddpm") -> float:
    """The gap at the clean end of the exact denoiser's chain, Gaussian data, from q(x_T)."""
    chain = eb.references.gaussian_chain(np.zeros(5), VARIANCE, levels, sampler)
    return float(chain["gap"][-1])


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_it_is_the_closed_form_for_gaussian_data(name: str, steps: int) -> None:
    levels = SCHEDULES[name].levels(steps)
    assert GAUSSIAN.predicted(levels) == pytest.approx(closed_form(levels), abs=1e-10)
    if steps > 1:
        assert -1 < closed_form(levels) < -1e-3


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_wider_variance_is_the_closed_form_too(name: str) -> None:
    levels = SCHEDULES[name].levels(10)
    wide = Discretisation(GAUSSIAN.spread, GAUSSIAN.weights, wide=True)
    expected = closed_form(levels, "ddpm:fixed_large")
    assert wide.predicted(levels) == pytest.approx(expected, abs=1e-10)
    assert abs(expected - closed_form(levels)) > 0.01


def test_uneven_levels_too() -> None:
    levels = chosen_levels(SCHEDULES["linear"], [999, 800, 790, 300, 20, 3])
    assert GAUSSIAN.predicted(levels) == pytest.approx(closed_form(levels), abs=1e-10)


def test_costs_add_up_to_the_prediction() -> None:
    levels = SCHEDULES["edm"].levels(7, "karras")
    costs = GAUSSIAN.costs(levels)
    total = sum(costs[j, j + 1] for j in range(7))
    assert -total == pytest.approx(GAUSSIAN.predicted(levels), abs=1e-12)
    assert np.isinf(costs[np.tril_indices(8)]).all()


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_the_best_path_is_the_best_of_all(steps: int) -> None:
    costs = np.random.default_rng(steps).random((9, 9))
    costs[np.tril_indices(9)] = np.inf

    def total(path: Sequence[int]) -> float:
        return float(sum(costs[j, k] for j, k in pairwise(path)))

    every = [[0, *middle, 8] for middle in combinations(range(1, 8), steps - 1)]
    assert best_path(costs, steps) == min(every, key=total)
    with pytest.raises(eb.InputError, match="no way of 9 steps"):
        best_path(costs, 9)


def test_chosen_levels_of_gaussian_data_are_the_best_of_all() -> None:
    candidates = SCHEDULES["linear"].levels(12, "karras")
    path = best_path(GAUSSIAN.costs(candidates), 4)
    every = [[0, *middle, 12] for middle in combinations(range(1, 12), 3)]
    best = max(every, key=lambda chosen: closed_form([candidates[k] for k in chosen]))
    assert path == best


def gaussian_images(n: int, seed: int = 0) -> np.ndarray:
    """Images whose DCT modes are independent, with variances that fall with frequency."""
    modes = np.random.default_rng(seed).normal(size=(n, 1, 4, 4))
    scale = 1 / (1 + np.add.outer(np.arange(4), np.arange(4)))
    return inverse(modes * scale)


def inverse(modes: np.ndarray) -> np.ndarray:
    matrix = dct_matrix(4)
    return np.einsum("ki,lj,nckl->ncij", matrix, matrix, modes)


def test_fitted_weights_of_gaussian_images_are_one() -> None:
    images = gaussian_images(100_000)
    weights = Weights.of(Images.of(images, images.mean(0), "gap"))
    for level in SCHEDULES["linear"].levels(8)[1:]:
        exact = Weights.gaussian(weights.variance).at(level)
        strong = exact > 0.05 * exact.max()
        np.testing.assert_allclose(weights.at(level)[strong], exact[strong], rtol=0.15)


def test_the_spread_is_measured_in_the_forward_stream() -> None:
    """That of the exact denoiser of Gaussian data is λσ²/(α²λ + σ²)."""
    images = gaussian_images(2048)
    data = eb.load_data(images, value_range=None)
    matrix = np.cov(images.reshape(len(images), -1).T)
    model = eb.oracles.GaussianOracle(images.mean(0), matrix, SCHEDULES["linear"])
    rec = eb.record(model, data, n=2048, steps=9, streams=("forward",), statistics=[residual_power])
    kept = Images.of(images, images.mean(0), "gap")
    variance = kept.square.mean(0)
    spread = Spread.of(rec, variance, np.ones(16))
    for snr in (1e-4, 0.01, 0.3, 7.0, 500.0):
        # A mean of 2048 squares has a standard error of 3 %, and the data's own λ another.
        np.testing.assert_allclose(spread.at(snr), 1 / (1 / variance + snr), rtol=0.2)
    np.testing.assert_allclose(spread.at(0.0), variance, rtol=1e-12)


def test_directions_are_an_orthonormal_dct() -> None:
    images = gaussian_images(3)
    square = Images.of(images, np.zeros((1, 4, 4)), "gap").square
    np.testing.assert_allclose(square.sum(1), np.square(images).sum((1, 2, 3)))
    high = Directions((2, 4, 4)).high
    assert high.shape == (32,)
    assert high[:16].tolist() == high[16:].tolist()
    assert not high[0]
    assert high[15]
    assert not Directions((5,)).high.any()


def test_groups_share_the_variance() -> None:
    variance = np.array([1.0, 5.0, 1, 1, 4, 1, 1, 1, 0, 9])
    high = np.arange(10) == 9
    group = groups_of(variance, high)
    assert group.max() == 3
    assert (group == 3).tolist() == high.tolist()
    assert group[1] == 0
    assert group[4] == 1
    assert groups_of(np.zeros(3), np.zeros(3, dtype=bool)).tolist() == [0, 0, 0]


def lumps(steps: int, spacing: str, n: int = 20_000) -> tuple[float, float, float]:
    """Predicted and true gap of six lumps in 16 dimensions, and the Gaussian closed form's."""
    schedule, generator = SCHEDULES["linear"], np.random.default_rng(0)
    means = generator.normal(size=(6, 1, 4, 4))
    noise = lambda: torch.from_numpy(generator.normal(size=(n, 1, 4, 4)))  # noqa: E731
    images = means[generator.integers(6, size=n)] + np.sqrt(0.05) * noise().numpy()
    model = eb.oracles.MixtureOracle(np.ones(6), means, 0.05, schedule)
    x0, levels = torch.from_numpy(images), schedule.levels(steps, spacing)
    x = levels[0].alpha * x0 + levels[0].sigma * noise()
    for s, t in pairwise(levels):
        x = eb.samplers.DDPM().step(x, model.predict(x, s), s, t, noise(), model.predict)
    kept, directions = Images.of(images, images.mean(0), "gap"), Directions((1, 4, 4))
    weights, fine = Weights.of(kept), schedule.levels(30, "karras")[-2::-1]
    power = [weights.variance]
    for level in fine:
        missed = x0 - model.predict(level.alpha * x0 + level.sigma * noise(), level).x0
        power.append(directions(missed.flatten(1)).square().mean(0).numpy())
    spread = Spread(
        np.array([0.0, *sorted(v.snr for v in fine)]), 1 / np.array([power[0], *power[:0:-1]])
    )
    true = float(x.var(0).sum() / x0.var(0).sum() - 1)
    gaussian = Discretisation(Spread.gaussian(weights.variance), Weights.gaussian(weights.variance))
    return Discretisation(spread, weights).predicted(levels), true, gaussian.predicted(levels)


@pytest.mark.parametrize("spacing", ["linspace", "karras"])
@pytest.mark.parametrize("steps", [10, 20])
def test_a_law_that_is_not_gaussian(steps: int, spacing: str) -> None:
    """Within 5 points, where the Gaussian closed form is 30 and more off."""
    predicted, true, gaussian = lumps(steps, spacing)
    assert true < -0.05
    assert abs(predicted - true) < 0.05
    assert abs(gaussian - true) > 0.2


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ("variance", "allowed are gap, hf"),
        (None, "allowed are gap, hf"),
        (lambda x: x, "one number for each"),
        (lambda x: np.full(len(x), np.nan), "NaN or Inf"),
        (lambda x: np.ones(len(x)), "all the same"),
    ],
)
def test_objectives_that_are_none(objective: object, says: str) -> None:
    images = gaussian_images(8)
    with pytest.raises(eb.InputError, match=says):
        Images.of(images, images.mean(0), objective)  # type: ignore[arg-type]


def test_an_objective_of_ones_own_is_that_of_the_name() -> None:
    """The total variance written as a function gives the fit that the name knows."""
    images = gaussian_images(20_000)
    mean = images.mean(0)
    named = Weights.of(Images.of(images, mean, "gap"))
    own = Weights.of(Images.of(images, mean, lambda x: np.square(x - mean).sum((1, 2, 3))))
    for level in SCHEDULES["linear"].levels(5)[1:]:
        np.testing.assert_allclose(own.at(level), named.at(level), rtol=1e-6, atol=1e-9)


def test_vectors_have_no_high_frequencies() -> None:
    points = np.random.default_rng(0).normal(size=(8, 2))
    with pytest.raises(eb.InputError, match="no axis of space"):
        Images.of(points, points.mean(0), "hf")
