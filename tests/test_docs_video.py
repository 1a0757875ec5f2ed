"""docs/video.md: every snippet runs as it stands, on stand-ins with the models' signatures."""

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import exposure_bias as eb

PAGE = (Path(__file__).parents[1] / "docs" / "video.md").read_text()
SNIPPETS = dict(re.findall(r"^## ([^\n]*)\n(?:(?!^## ).)*?```python\n(.*?)```", PAGE, re.M | re.S))
SHAPE = (2, 4, 4)
SIGMA_DATA = 0.5
random = np.random.default_rng(0)


class Diamond(torch.nn.Module):
    """Its inner network says F of a frame that is half of the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def compute_conditioners(self, sigma: Tensor) -> Any:
        sigma = sigma.view(-1, 1, 1, 1)
        total = (sigma**2 + SIGMA_DATA**2).sqrt()
        return SimpleNamespace(
            c_skip=(SIGMA_DATA / total) ** 2, c_out=sigma * SIGMA_DATA / total, c_in=1 / total
        )

    def compute_model_output(self, noisy: Tensor, obs: Tensor, act: Tensor, cs: Any) -> Tensor:
        assert obs.shape == (len(noisy), 4 * SHAPE[0], *SHAPE[1:])
        assert act.shape == (len(noisy), 4)
        assert act.dtype == torch.int64
        mean = self.weight * obs[:, -SHAPE[0] :]
        return (mean - cs.c_skip * noisy) / cs.c_out


class Frames(torch.nn.Module):
    """A network of all frames, of which each has a time: v of half the frame before."""

    def __init__(self, abar: Tensor, first: str) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5))
        self.abar, self.first = abar, first

    def forward(
        self, x: Tensor, t: Tensor, actions: Tensor | None = None, **options: Any
    ) -> Tensor:
        assert t.shape == x.shape[:2]
        assert t.dtype == torch.int64
        if self.first == "batch":
            assert actions is not None
            assert actions.shape[:2] == x.shape[:2]
        else:
            assert options == {"is_causal": True}
            x, t = x.transpose(0, 1), t.transpose(0, 1)
        kept = self.abar[t].view(*t.shape, 1, 1, 1).to(x)
        before = torch.cat([x[:, :1], x[:, :-1]], 1)
        v = (kept.sqrt() * x - self.weight * before) / (1 - kept).sqrt()
        return v if self.first == "batch" else v.transpose(0, 1)


class Pipeline:
    """Self-Forcing's: it continues a video by a block of three latents."""

    def inference(
        self,
        noise: Tensor,
        text_prompts: list[str],
        initial_latent: Tensor,
        return_latents: bool,
    ) -> tuple[Tensor, Tensor]:
        assert noise.shape == (len(text_prompts), 3, *SHAPE)
        assert initial_latent.shape == (len(noise), 6, *SHAPE)
        assert return_latents
        video = torch.cat([initial_latent, 0.5 * initial_latent[:, -3:] + 0.5 * noise], 1)
        return video, video


class Change(torch.nn.Module):
    """A forecast of the change, −0.5 of the last frame, in its own units."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(-0.5))

    def forward(self, x: Tensor, sigma: Tensor, frames: Tensor) -> Tensor:
        assert frames.shape == (len(x), 2 * SHAPE[0], *SHAPE[1:])
        assert sigma.shape == (len(x),)
        return self.weight * frames[:, -SHAPE[0] :] / 0.4


def holder() -> dict[str, Any]:
    """What a reader of the page has."""
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    frames = random.normal(0, 0.5, (8, 6, *SHAPE)).astype(np.float32)
    diffusion = Diffusion(abar)
    return {
        "eb": eb,
        "torch": torch,
        "frames": frames,
        "latents": random.normal(0, 1, (8, 12, *SHAPE)).astype(np.float32),
        "actions": random.integers(0, 5, (8, 6)),
        "denoiser": Diamond(),
        "abar": abar,
        "model": Frames(abar, "batch"),
        "diffusion": diffusion,
        "pipeline": Pipeline(),
        "net": Change(),
        "scale": 0.4,
    }


class Diffusion(torch.nn.Module):
    def __init__(self, abar: Tensor) -> None:
        super().__init__()
        self.model = Frames(abar, "frame")
        self.register_buffer("alphas_cumprod", abar)
        self.stabilization_level, self.is_causal = 15, True


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", [name for name in SNIPPETS if name != "Your own loop"])
def test_every_family_is_measured(name: str) -> None:
    text = SNIPPETS[name]
    lines = [line for line in text.splitlines() if line.strip()]
    assert len(lines) <= 11  # ten, and the line that measures
    known = holder()
    exec(compile(text, name, "exec"), known)
    drift = known["drift"]
    assert np.isfinite(drift["total"].sel(statistic="variance")).all()
    # Every stand-in draws a frame of half the last one, so that variance falls.
    assert (drift["total"].sel(statistic="variance").isel(frame=slice(1, None)) < 0).all()
    if name != "Self-Forcing":
        network = drift["score"].sel(statistic="variance")
        assert (network < -0.5).all(), network.values


def test_a_loop_is_observed_frame_by_frame() -> None:
    world = eb.load_model("lorenz96")
    sequences = eb.Sequences("lorenz96")

    def my_loop(net: torch.nn.Module) -> Any:
        before = torch.from_numpy(sequences.frame(np.arange(16), 0))
        for _ in range(3):
            x = 20 * torch.randn(16, 16)
            for sigma, below in ((20.0, 2.0), (2.0, 0.2), (0.2, 0.0)):
                x0 = net(x, torch.full((16,), sigma), before[:, None], torch.zeros(16))
                x = (x0 + below / sigma * (x - x0)).detach()
            before = x
            yield x

    known = holder() | {"world": world, "sequences": sequences, "my_loop": my_loop}
    exec(SNIPPETS["Your own loop"], known)
    assert known["chain"].error is None
    assert len(known["gaps"]) == 3
    assert known["chain"].recording(frame=3).n == 32
