"""Time of `record` outside the network over time inside it, chain stream, median of five runs in
one process.

    python benchmarks/record_overhead.py

Issue 2 asks for at most 5 % on the bundled model (batch 256, 100 steps) and 3 % on a 32×32 RGB UNet
of at least one million parameters."""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch

import exposure_bias as eb

RUNS = 5


class Clock:
    """Wraps a denoiser's call of its network and adds up the time it takes."""

    def __init__(self, model: eb.Denoiser) -> None:
        self.model, self.call, self.inside = model, model._call, 0.0

    def __call__(self, *arguments: Any) -> torch.Tensor:
        start = time.perf_counter()
        output: torch.Tensor = self.call(*arguments)
        self.inside += time.perf_counter() - start
        return output


def measure(name: str, model: eb.Denoiser, run: Callable[[], object]) -> None:
    """Print outside / inside of `run`, which records with `model`."""
    clock = Clock(model)
    model._call = clock
    ratios, inside = [], []
    for i in range(RUNS + 1):
        clock.inside, start = 0.0, time.perf_counter()
        run()
        total = time.perf_counter() - start
        if i:  # the first run warms up
            ratios.append((total - clock.inside) / clock.inside)
            inside.append(clock.inside)
    listed = ", ".join(f"{r:.2%}" for r in ratios)
    print(
        f"{name}: outside / inside {median(ratios):.2%} (runs {listed}); inside"
        f" {median(inside):.2f} s"
    )


def unet() -> eb.Denoiser:
    """An untrained 32×32 RGB UNet of 1.5 M parameters; one with half the channels takes a third of
    its time."""
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(0)
    net = UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(64, 64, 64),
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        norm_num_groups=8,
    )
    print(f"32×32 RGB UNet: {sum(p.numel() for p in net.parameters()) / 1e6:.2f} M parameters")
    return eb.adapt(net, DDPMScheduler(clip_sample=False))


def main() -> None:
    digits = eb.load_model("digits")
    data = eb.load_data("digits", split="test")
    common: dict[str, Any] = {"steps": 100, "streams": ("chain",)}
    measure("digits, 256 images", digits, lambda: eb.record(digits, data, n=256, **common))
    model = unet()
    rng = np.random.default_rng(0)
    images = eb.load_data(rng.uniform(-1, 1, (64, 3, 32, 32)).astype(np.float32))
    measure(
        "32×32 RGB, 64 images",
        model,
        lambda: eb.record(model, images, n=64, batch_size=64, **common),
    )


if __name__ == "__main__":
    main()
