"""What a `Denoiser` promises about the network it holds: its mode, its inputs, its outputs, its
labels."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import exposure_bias as eb
from exposure_bias.denoisers import FractionalTimestep

SHAPE = (1, 4, 4)
X = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
OPTIONS: dict[str, Any] = {
    "schedule": eb.schedules.linear(100),
    "prediction_type": "epsilon",
    "shape": SHAPE,
}
LEVEL = OPTIONS["schedule"].level(50)


class Dropping(nn.Module):
    """A network with dropout, and a part that its owner keeps in evaluation mode while the rest
    trains."""

    def __init__(self) -> None:
        super().__init__()
        self.dropout, self.frozen = nn.Dropout(0.5), nn.BatchNorm2d(1)
        self.frozen.eval()

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return self.frozen(self.dropout(x))


def modes(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()]


def data(n: int = 40) -> Any:
    return eb.load_data(
        np.tanh(np.random.default_rng(0).normal(size=(n, *SHAPE))).astype(np.float32)
    )


def test_a_network_in_training_is_evaluated_and_left_in_training() -> None:
    net = Dropping()
    before = modes(net)
    assert len(set(before)) == 2
    model = eb.Denoiser(net, **OPTIONS)
    assert modes(net) == before
    said = model(X, LEVEL)
    assert torch.equal(said, model(X, LEVEL))
    assert (said != 0).all()  # dropout would put half of them to zero
    assert net.frozen.num_batches_tracked == 0
    assert modes(net) == before

    recordings = []
    for mode in (True, False):
        recordings.append(eb.record(model, data(), steps=3))
        net.train(mode)
    for stream in ("forward", "chain"):
        a, b = (r[stream]["epsilon_norm"].values for r in recordings)
        np.testing.assert_array_equal(a, b)


def test_a_mode_comes_back_after_an_error_too() -> None:
    net = Dropping()
    model, before = eb.Denoiser(net, **OPTIONS), modes(net)
    with model.evaluating():
        assert modes(net) == [False] * 3
        model(X, LEVEL)
        assert modes(net) == [False] * 3
    assert modes(net) == before
    with pytest.raises(ZeroDivisionError), model.evaluating():
        raise ZeroDivisionError
    assert modes(net) == before
    with eb.Denoiser(lambda x, t: x, **OPTIONS).evaluating():
        pass


class Writing(nn.Module):
    """A float64 network that answers 2 x and leaves nothing of what it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x: Tensor, timestep: Tensor, labels: Tensor | None = None) -> Tensor:
        said = self.weight * x
        x.zero_()
        timestep.zero_()
        if labels is not None:
            labels.zero_()
        return said


def test_a_network_may_write_into_its_inputs() -> None:
    x = X.clone()
    labels = torch.arange(5)
    model = eb.Denoiser(Writing(), classes=5, **OPTIONS).given(labels)
    for _ in range(2):
        assert torch.equal(model(x, LEVEL), 2 * X)
    assert torch.equal(x, X)
    assert torch.equal(labels, torch.arange(5))

    plain = eb.Denoiser(lambda x, t: 2 * x, **OPTIONS)
    a, b = (eb.record(m, data(), steps=4) for m in (eb.Denoiser(Writing(), **OPTIONS), plain))
    # `plain` computes in float32, so that its states differ by round-off.
    np.testing.assert_allclose(a["chain"]["epsilon_norm"], b["chain"]["epsilon_norm"], rtol=1e-5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda x: (x, x), "returned tuple where a tensor was expected"),
        (lambda x: {"sample": x, "other": x}, "returned dict where a tensor"),
        (lambda x: x.numpy(), "returned ndarray where a tensor"),
        (lambda x: x.long(), r"returned numbers of torch\.int64 where real floating-point"),
        (lambda x: x > 0, r"torch\.bool where real"),
        (lambda x: x * 1j, r"torch\.complex64 where real"),
    ],
)
def test_outputs_that_are_no_prediction(answer: Any, message: str) -> None:
    model = eb.Denoiser(lambda x, t: answer(x), **OPTIONS)
    for ask in (model, model.predict):
        with pytest.raises(eb.InputError, match=message) as caught:
            ask(X, LEVEL)
        assert len(str(caught.value).splitlines()) == 1


def test_the_sample_of_a_diffusers_output_is_taken() -> None:
    from diffusers import UNet2DModel
    from diffusers.models.unets.unet_2d import UNet2DOutput

    assert torch.equal(
        eb.Denoiser(lambda x, t: UNet2DOutput(sample=x), **OPTIONS)(X, LEVEL), X.float()
    )
    torch.manual_seed(0)
    net = UNet2DModel(
        8,
        1,
        1,
        block_out_channels=(8,),
        norm_num_groups=4,
        layers_per_block=1,
        mid_block_type=None,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
    )
    level, x = eb.schedules.linear().level(400), torch.randn(2, 1, 8, 8)
    plain = eb.Denoiser(
        net, schedule=eb.schedules.linear(), prediction_type="epsilon", shape=(1, 8, 8)
    )
    assert torch.equal(plain(x, level), net.eval()(x, 400).sample)


class Table(nn.Module):
    """A network whose time embedding is a table of whole timesteps."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(100, 1)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        return x * self.table(timestep)[:, :, None, None]


def test_a_table_of_timesteps_says_that_labels_must_be_whole() -> None:
    model, whole = eb.Denoiser(Table(), **OPTIONS), LEVEL
    fractional = OPTIONS["schedule"].level(50.3)
    model(X, whole)
    with pytest.raises(
        FractionalTimestep,
        match=r"Table answers at whole timesteps only, not at 50\.3: choose a grid",
    ):
        model(X, fractional)
    with pytest.raises(eb.InputError, match="whole timesteps only"):
        eb.record(model, data(), steps=4, grid="karras")
    eb.record(model, data(), steps=4, grid="linspace", sampler="ddim")
    # A remedy that prefers fractional timesteps makes do with whole ones.
    shifted = eb.remedies.ip_equivalent(model, 0.1)
    assert torch.isfinite(shifted(X, whole)).all()


def test_other_failures_at_fractional_timesteps_stay_what_they_are() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        eb.Denoiser(Broken(), **OPTIONS)(X, OPTIONS["schedule"].level(50.3))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")  # torch's own
def test_compiled_or_not_the_weights_are_the_same() -> None:
    net = Table()
    hashed = eb.Denoiser(net, **OPTIONS).weight_hash
    assert eb.Denoiser(torch.compile(net), **OPTIONS).weight_hash == hashed


def test_a_context_in_a_context_is_the_outer_one() -> None:
    net = Dropping()
    model, before = eb.Denoiser(net, **OPTIONS), modes(net)
    with model.evaluating():
        with model.evaluating():
            pass
        assert modes(net) == [False] * 3
    assert modes(net) == before
    model(X, LEVEL)
    assert modes(net) == before
