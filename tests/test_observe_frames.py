"""Loops that draw sequences frame by frame, observed at their network."""

from typing import Any

import numpy as np
import pytest
import torch

import exposure_bias as eb

SIGMAS = (5.0, 1.0, 0.2)
SCHEDULE = eb.schedules.edm(0.05, 5.0)


class Exact(torch.nn.Module):
    """The exact network of x_k = 0.9 x_{k−1} + noise of variance 0.19, with a cache of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(0.9))
        self.cache: torch.Tensor | None = None
        self.fills = 0

    def forward(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if float(sigma.flatten()[0]) < 0.06:  # a call that fills the cache
            self.fills += 1
            self.cache = x.clone()
            return x
        if self.cache is None or len(self.cache) != len(x):
            raise RuntimeError("the cache holds another batch")
        mean, square = self.gain * self.cache, sigma.view(-1, 1).square()
        return mean + 0.19 / (0.19 + square) * (x - mean)


def rolled(net: Exact, chain: Any, frames: int, batch: int, refill: float, mark: bool) -> None:
    """Roll-outs of a loop that fills its cache with a call at σ = `refill` after each frame."""
    for _ in range(2):
        net(torch.randn(batch, 1), torch.full((batch,), refill)) if net.cache is None else None
        if mark:
            chain.begin()
        for _ in range(frames):
            x = SIGMAS[0] * torch.randn(batch, 1)
            for sigma, below in zip(SIGMAS, (*SIGMAS[1:], 0.0), strict=True):
                x0 = net(x, torch.full((batch,), sigma))
                x = x0 + below / sigma * (x - x0)
            net(x, torch.full((batch,), refill))
            if mark:
                chain.frame(x)


def observed(refill: float, with_data: bool = True) -> tuple[Any, Exact]:
    net = Exact()
    model = eb.Denoiser(net, schedule=SCHEDULE, prediction_type="sample", shape=(1,))
    law = eb.autoregression.Autoregression.of(0.9)
    data = eb.Sequences(law.sample(600, 3)) if with_data else None
    torch.manual_seed(0)
    net(torch.randn(300, 1), torch.full((300,), refill))
    with eb.observe(model, data=data) as chain:
        rolled(net, chain, 3, 300, refill, mark=True)
    return chain, net


@pytest.mark.parametrize("refill", [0.0, 0.05])
def test_every_frame_has_its_own_recording_and_filling_a_cache_is_no_step(refill: float) -> None:
    chain, net = observed(refill)
    assert chain.error is None
    assert net.fills == 7
    assert chain.frames == 3
    gaps = []
    for k in (1, 2, 3):
        rec = chain.recording(frame=k)
        assert (rec.n, rec.run.steps) == (600, 3)
        assert [level.sigma for level in rec.run.levels] == pytest.approx([*SIGMAS, 0])
        assert "forward" not in rec  # the network's cache is that of the last frame
        assert f"frame {k - 1}" in rec.description["data"]
        gaps.append(float(eb.variance_gap(rec)["gap"][-1]))
    assert gaps[2] < gaps[0] < -0.02  # the sampler of three steps loses variance at every frame


def test_a_model_with_a_context_is_asked_with_the_true_one() -> None:
    model = eb.load_model("lorenz96")
    sequences = eb.Sequences("lorenz96")
    net, before = model.net, torch.from_numpy(sequences.frame(np.arange(64), 0))
    with eb.observe(model, data=sequences) as chain:
        for _ in range(2):
            x = 20 * torch.randn(64, 16)
            for sigma, below in ((20.0, 2.0), (2.0, 0.2), (0.2, 0.0)):
                level = torch.full((64,), sigma)
                x0 = net(x, level, before[:, None], torch.zeros(64))
                x = x0 + below / sigma * (x - x0)
            before = x.detach()
            chain.frame(before)
    assert chain.error is None
    rec = chain.recording(frame=2)
    assert "forward" in rec
    assert "frame 2" in rec.description["data"]
    predicted = rec["forward"]["kept_prediction"].values[:, -2]
    true = sequences.frame(np.arange(len(predicted)), 2)
    assert np.abs(predicted - true).mean() < 0.2  # at the cleanest level, from true frames


def test_what_is_not_marked_is_refused_in_words() -> None:
    chain, _ = observed(0.0)
    with pytest.raises(eb.InputError, match=r"give recording\(frame=k\), k from 1 to 3"):
        chain.recording()
    with pytest.raises(eb.InputError, match="k from 1 to 3"):
        chain.recording(frame=4)
    with pytest.raises(eb.InputError, match="inside the `with` block"):
        chain.frame()
    net = Exact()
    model = eb.Denoiser(net, schedule=SCHEDULE, prediction_type="sample", shape=(1,))
    net.cache = torch.zeros(8, 1)
    data = eb.Sequences(np.random.default_rng(0).normal(size=(16, 3, 1)))
    with eb.observe(model, data=data) as whole:
        rolled(net, whole, 1, 8, 0.0, mark=False)
    with pytest.raises(eb.InputError, match="no frame was marked"):
        whole.recording()
    with pytest.raises(eb.InputError, match="give data=Sequences"):
        eb.observe(eb.load_model("lorenz96"), data=np.zeros((8, 16), np.float32))


def test_a_cache_of_another_batch_is_refused_in_words() -> None:
    net = Exact()
    model = eb.Denoiser(net, schedule=SCHEDULE, prediction_type="sample", shape=(1,))
    net.cache = torch.zeros(20, 1)
    data = eb.load_data(
        np.random.default_rng(0).normal(size=(64, 1)).astype("f4"), value_range=None
    )
    with eb.observe(model, data=data) as chain:
        rolled(net, chain, 1, 20, 0.0, mark=False)
    net.cache = torch.zeros(7, 1)
    with pytest.raises(eb.InputError, match="if it holds a context of the loop"):
        chain.recording()


def test_frames_at_several_levels_at_once_are_refused_in_words() -> None:
    net = Exact()
    model = eb.Denoiser(net, schedule=SCHEDULE, prediction_type="sample", shape=(1,))
    net.cache = torch.zeros(2, 1)
    with pytest.warns(UserWarning, match="pyramids"), eb.observe(model) as chain:
        net(torch.randn(2, 1), torch.tensor([5.0, 1.0]))
    assert "draw frame by frame" in str(chain.error)
