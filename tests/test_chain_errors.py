"""e_t of whole chains and of single predictions: size against the closed form, and runs that are
killed."""

import numpy as np
import pytest

import exposure_bias as eb

SHAPE, N = (1, 4, 4), 2048
VARIANCE = np.linspace(0.02, 0.5, 16)


@pytest.fixture
def oracle():
    return eb.oracles.GaussianOracle(np.zeros(SHAPE), VARIANCE, eb.schedules.linear(1000))


def images(n):
    values = np.random.default_rng(0).normal(size=(n, 16)) * np.sqrt(VARIANCE)
    return eb.load_data(values.reshape(n, *SHAPE).astype(np.float32), value_range=None)


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm:fixed_large", "ddim"])
def test_standard_deviation_is_the_closed_form(oracle, sampler):
    """Of 32 relative variances, each has a standard deviation of √(2/N) = 3.1 %: their mean lies
    within 4/√32 of that.

    The reference is that of the images' own covariance, which e_t of these images shares up to 1/N.
    """
    errors = eb.chain_errors(oracle, images(N), (20, 60), n=N, sampler=sampler)
    ratio = (np.square(errors["error"]).mean("sample") / errors["std_gaussian"] ** 2).values
    assert abs(ratio.mean() - 1) < 4 * np.sqrt(2 / N / ratio.size)
    assert abs(ratio - 1).max() < 5 * np.sqrt(2 / N)


def test_single_predictions_have_the_posterior_variance(oracle):
    errors = eb.chain_errors(oracle, images(N), (60, 300), n=N, mode="single")
    for i, length in enumerate((60, 300)):
        level = oracle.schedule.level(length - 1)
        posterior = VARIANCE * level.sigma**2 / (level.alpha**2 * VARIANCE + level.sigma**2)
        ratio = np.square(errors["error"][i]).mean("sample").values.ravel() / posterior
        assert abs(ratio - 1).max() < 5 * np.sqrt(2 / N)


def test_a_killed_run_goes_on(oracle, tmp_path, monkeypatch):
    path, data = tmp_path / "c.nc", images(64)
    options = {"lengths": (3, 9), "batch_size": 16}
    whole = eb.chain_errors(oracle, data, **options)
    calls, limit, evaluate = 0, 15, type(oracle).__call__

    def killed(self, x, level):
        nonlocal calls
        calls += 1
        if calls > limit:
            raise KeyboardInterrupt
        return evaluate(self, x, level)

    with monkeypatch.context() as patch:
        patch.setattr(type(oracle), "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            eb.chain_errors(oracle, data, checkpoint=path, **options)
        calls, limit = 0, 46  # the whole takes 54, in six batches, and a probe
        resumed = eb.chain_errors(oracle, data, checkpoint=path, **options)
    assert resumed.identical(whole)
    with pytest.raises(eb.InputError, match=r"another run.*lengths"):
        eb.chain_errors(oracle, data, (3, 8), batch_size=16, checkpoint=path)
    with pytest.raises(eb.InputError, match=r"another run.*n"):
        eb.chain_errors(oracle, data, n=32, checkpoint=path, **options)
