"""A model declared wrongly is no denoiser of its data, and says so before a number is believed."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.data import bundled
from exposure_bias.diagnostics.denoising import _wiener_error
from exposure_bias.experiments.bench import Bench
from exposure_bias.experiments.budget import checked, planned

SCHEDULE = eb.schedules.linear()


class Changed(torch.nn.Module):
    """A trained ε-network, called or read otherwise than it was trained."""

    def __init__(self, net: Any, sign: float = 1.0, time: float = 1.0) -> None:
        super().__init__()
        self.net, self.sign, self.time = net, sign, time

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out = self.net(x, t * self.time)
        return self.sign * getattr(out, "sample", out)


def wrapped(prediction_type: str = "epsilon", **changes: float) -> eb.Denoiser:
    model = eb.load_model("digits")
    net = Changed(model.net, **changes)
    return eb.Denoiser(net, schedule=SCHEDULE, prediction_type=prediction_type, shape=model.shape)


def check(model: eb.Denoiser, scale: float = 1.0) -> Any:
    data = eb.load_data("digits", "test")
    if scale != 1:
        data = eb.load_data(scale * data.batch(np.arange(512)), value_range=None)
    return eb.denoising_check(eb.record(model, data, steps=20, n=256, streams=("forward",)))


def test_as_it_was_trained_it_passes() -> None:
    found = check(wrapped())
    assert found.attrs["passes"] == "yes"
    asked = found.isel(step=found["middle"].values == 1)
    assert (asked["ratio"] < 1).all()


@pytest.mark.parametrize(
    ("prediction_type", "changes", "scale"),
    [
        ("epsilon", {"sign": -1.0}, 1.0),
        ("score", {}, 1.0),
        ("epsilon", {"time": 0.1}, 1.0),
        ("epsilon", {"time": 0.001}, 1.0),
        ("epsilon", {}, 127.5),
        ("epsilon", {}, 0.1),
        ("v_prediction", {}, 1.0),
        ("sample", {}, 1.0),
    ],
)
def test_declared_wrongly_it_fails_with_level_ratio_and_what_to_check(
    prediction_type: str, changes: dict[str, float], scale: float
) -> None:
    found = check(wrapped(prediction_type, **changes), scale)
    assert found.attrs["passes"] == "no"
    sentence = found.attrs["sentence"]
    causes = ("sign", "prediction_type", "time label", "units", "OT-CFM", "missing")
    for word in ("timestep", "times", *causes):
        assert word in sentence


def test_declared_wrongly_it_gets_no_budget_and_no_remedy() -> None:
    model, data = wrapped("v_prediction"), eb.load_data("digits", "test")
    found = eb.diagnose(model, data, steps=5, n=64)
    assert [str(a) for a in found["answer"].values] == ["not a denoiser of these data"]
    assert "prediction_type" in found.attrs["answer"]
    assert "remedy" not in found.attrs
    assert "es_scale" not in found
    with pytest.raises(eb.InputError, match="no denoiser"):
        eb.compare([eb.load_model("digits"), model], data, steps=5, n=32, lengths=())


@pytest.mark.parametrize("name", bundled.models())
def test_every_bundled_model_passes_at_every_middle_level(name: str) -> None:
    data = eb.load_data(bundled.data_of(name), "test")
    found = eb.denoising_check(
        eb.record(eb.load_model(name), data, steps=20, n=64, streams=("forward",))
    )
    assert found.attrs["passes"] == "yes"


def test_the_ratio_of_the_linear_predictor_itself_is_one() -> None:
    """White data: the exact denoiser is the linear predictor."""
    x = np.random.default_rng(0).normal(0, 0.5, (2048, 1, 4, 4)).astype(np.float32)
    model = eb.oracles.GaussianOracle(np.zeros((1, 4, 4)), 0.25, SCHEDULE)
    data = eb.load_data(x, value_range=None)
    found = eb.denoising_check(eb.record(model, data, steps=20, streams=("forward",)))
    asked = found.isel(step=found["middle"].values == 1)
    np.testing.assert_allclose(asked["ratio"], 1, atol=0.03)
    assert found.attrs["passes"] == "yes"


def test_without_a_forward_stream_it_is_not_asked() -> None:
    found = eb.denoising_check(
        eb.record(wrapped(), eb.load_data("digits", "test"), steps=5, n=32, streams=("chain",))
    )
    assert found.attrs["passes"] == "not asked"


@pytest.mark.parametrize("count", [40, 200, 2000])
def test_the_linear_predictors_error_is_the_laws_with_few_images_too(count: int) -> None:
    """64 pixels of a steep spectrum. The images' own eigenvalues make it too small."""
    variances = 0.5 * np.exp(-np.arange(64) / 12)
    turned = np.linalg.qr(np.random.default_rng(1).normal(size=(64, 64)))[0]
    found, plain, true = [], [], []
    for seed in range(8):
        x = np.random.default_rng(seed).normal(size=(count, 64)) * np.sqrt(variances) @ turned
        data = eb.load_data(x.reshape(-1, 1, 8, 8).astype(np.float32), value_range=None)
        model = eb.oracles.GaussianOracle(np.zeros((1, 8, 8)), 0.25, SCHEDULE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rec = eb.record(model, data, steps=6, n=32, streams=("forward",))
        level = SCHEDULE.level(300)
        alpha, sigma = np.array([level.alpha]), np.array([level.sigma])
        found.append(_wiener_error(rec, alpha, sigma)[0][0])
        of = [rec["data"]["eigenvalue"].values, variances]
        sums = [(v * sigma**2 / (alpha**2 * v + sigma**2)).sum() / 64 for v in of]
        plain.append(sums[0])
        true.append(sums[1])
    assert np.mean(found) == pytest.approx(np.mean(true), rel=0.02)
    assert np.mean(plain) < np.mean(true)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_data_of_another_scale_are_refused_where_pixels_are_correlated(factor: float) -> None:
    """A predictor by pixel knows so little that twice the data passes for it."""
    rng = np.random.default_rng(0)
    power = 0.25 / (1 + np.arange(16) ** 2)
    turned = np.linalg.qr(rng.normal(size=(16, 16)))[0]
    covariance = (turned.T * power) @ turned
    model = eb.oracles.GaussianOracle(np.zeros((1, 4, 4)), covariance, SCHEDULE)
    x = (rng.normal(size=(512, 16)) * np.sqrt(power)) @ turned
    x = x.reshape(-1, 1, 4, 4).astype(np.float32)
    passes = [
        checked(bench(model, eb.load_data(f * x, value_range=None), 6))[0] for f in (1, factor)
    ]
    assert passes == ["yes", "no"]


def bench(model: eb.Denoiser, data: Any, steps: int) -> Bench:
    return Bench(planned(model, data, 0.05, sampler="ddpm", steps=steps, n=256), 256)


def test_six_coarse_steps_do_not_bypass_the_check() -> None:
    """Data divided by 255: none of the chain's own levels carries signal."""
    x = eb.load_data("digits", "test").batch(np.arange(512)) / 255
    found = eb.error_budget(wrapped(), eb.load_data(x, value_range=None), steps=6, n=64)
    assert [str(a) for a in found["answer"].values] == ["not a denoiser of these data"]


class Sees(torch.nn.Module):
    """A network that is no function of its state: it sees the call's number, the batch or what it
    was asked before."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.net, self.what = eb.load_model("digits").net, what
        self.calls, self.before = 0, 0.0

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        out = self.net(x, t)
        out = getattr(out, "sample", out)
        self.calls += 1
        seen = {
            "the call's number": 0.01 * (self.calls % 7),
            "the batch": float(x.mean()),
            "what it was asked before": 0.1 * self.before,
            "nothing": 0.0,
        }
        self.before = float(t[0] > 300)
        return out * (1 + seen[self.what])


@pytest.mark.parametrize(
    ("what", "passes"),
    [
        ("nothing", "yes"),
        ("the call's number", "no"),
        ("the batch", "no"),
        ("what it was asked before", "no"),
    ],
)
def test_a_network_that_is_no_function_of_its_state_gets_no_verdict(what: str, passes: str) -> None:
    net = Sees(what)
    model = eb.Denoiser(net, schedule=SCHEDULE, prediction_type="epsilon", shape=(1, 8, 8))
    here = bench(model, eb.load_data("digits", "test"), 5)
    assert checked(here)[0] == passes
    assert bool(here.no_function) == (passes == "no")
