"""Effective noise levels against the closed form of an exact denoiser of Gaussian data."""

import numpy as np
import pytest
import xarray as xr

import exposure_bias as eb

SHAPE = (1, 4, 4)


def found(factor: float = 1.0) -> xr.Dataset:
    """2,048 images of variance 0.3, and the exact network of `factor` times that variance."""
    x = np.random.default_rng(0).normal(0, 0.3**0.5, (2048, *SHAPE)).astype(np.float32)
    data = eb.load_data(x, value_range=None)
    model = eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.3 * factor, eb.schedules.linear())
    return eb.effective_level(model, data, steps=10, n=2048)


def test_an_exact_network_has_the_levels_of_the_closed_form() -> None:
    """With 10 steps these are not 1: the solver's error is in the states."""
    result = found()
    for name in ("network_ratio", "power_ratio"):
        value, perfect = np.log(result[name].values), np.log(result[f"{name}_gaussian"].values)
        z = (value - perfect) / result[f"{name}_se"].values
        assert np.isfinite(z).mean() > 0.5
        assert np.nanmax(np.abs(z)) < 4.5
        assert np.nanmax(np.abs(perfect)) > 0.02


def test_the_sensitivity_is_that_of_a_linear_network() -> None:
    """‖ε̂‖ is proportional to ‖x‖, whose log changes by σ²/(α²v + σ²) of log σ/α."""
    result = found()
    alpha, sigma = result["alpha"].values, result["sigma"].values
    expected = sigma**2 / (0.3 * alpha**2 + sigma**2)
    np.testing.assert_allclose(result["slope"], expected, atol=0.02)


def test_states_that_lack_power_look_less_noisy() -> None:
    """A network of data with a fifth less variance leaves the chain with less power."""
    exact, narrow = found(), found(0.8)
    last = {"step": slice(-4, -1)}
    lower = narrow["power_ratio"].isel(last).values < exact["power_ratio"].isel(last).values
    both = np.isfinite(narrow["power_ratio"].isel(last).values)
    assert lower[both].all()


def test_a_guided_model_is_refused() -> None:
    model = eb.oracles.GaussianOracle(np.zeros(SHAPE), 0.3, eb.schedules.linear())
    model.guidance = 2.0
    x = np.random.default_rng(0).normal(0, 0.5, (64, *SHAPE)).astype(np.float32)
    with pytest.raises(eb.InputError, match="guided"):
        eb.effective_level(model, eb.load_data(x, value_range=None), steps=4)


def test_without_space_there_is_no_power_by_frequency() -> None:
    model = eb.oracles.GaussianOracle(np.zeros(5), 0.3, eb.schedules.linear())
    x = np.random.default_rng(0).normal(0, 0.5, (256, 5)).astype(np.float32)
    result = eb.effective_level(model, eb.load_data(x, value_range=None), steps=4)
    assert "power_ratio" not in result
    assert np.isfinite(result["network_ratio"]).any()
