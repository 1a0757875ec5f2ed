"""A model declared wrongly is no denoiser of its data, and says so before a number is believed."""

from typing import Any

import numpy as np
import pytest
import torch

import exposure_bias as eb
from exposure_bias.data import bundled

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
    for word in ("timestep", "times", "sign", "prediction_type", "time label", "units"):
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
