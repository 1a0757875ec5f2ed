"""Time of `record` and of `error_budget` outside the network over time inside it, chain stream,
median of several runs in one process: processor time of one thread, which other programs disturb
least.

    python benchmarks/record_overhead.py [record] [budget]

Wanted: `record` at most 5 % on the bundled model (batch 256, 100 steps) and 3 % on a 32×32 RGB UNet
of at least one million parameters, `error_budget` 5 %."""

import sys
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
        start = time.process_time()
        output: torch.Tensor = self.call(*arguments)
        self.inside += time.process_time() - start
        return output


def measure(name: str, model: eb.Denoiser, run: Callable[[], object], runs: int = RUNS) -> None:
    """Print outside / inside of `run`, which samples from `model`."""
    clock = Clock(model)
    model._call = clock
    ratios, inside = [], []
    for i in range(runs + 1):
        clock.inside, start = 0.0, time.process_time()
        run()
        total = time.process_time() - start
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
    return eb.adapt(net, DDPMScheduler(clip_sample=False))


def main() -> None:
    torch.set_num_threads(1)
    wanted = sys.argv[1:] or ["record", "budget"]
    digits, data = eb.load_model("digits"), eb.load_data("digits", split="test")
    model, rng = unet(), np.random.default_rng(0)
    images = eb.load_data(rng.uniform(-1, 1, (256, 3, 32, 32)).astype(np.float32))
    if "record" in wanted:
        common: dict[str, Any] = {"steps": 100, "streams": ("chain",)}
        measure("digits, 256 images", digits, lambda: eb.record(digits, data, n=256, **common))
        few = {"n": 64, "batch_size": 64, **common}
        measure("32×32 RGB, 64 images", model, lambda: eb.record(model, images, **few))
    if "budget" in wanted:
        whole: dict[str, Any] = {"n": 256, "restarts": ()}
        short = {"steps": 20, **whole}
        measure(
            "digits, budget, 256 images",
            digits,
            lambda: eb.error_budget(digits, data, **short),
            3,
        )
        # An untrained network denoises nothing, which ends a budget at once: one that says zero.
        shorter = {"steps": 5, **whole}
        measure(
            "32×32 RGB, budget, 256 images",
            denoising(model),
            lambda: eb.error_budget(model, images, **shorter),
            1,
        )


def denoising(model: eb.Denoiser) -> eb.Denoiser:
    """The same network for the same price, answering as the best linear one for these images."""
    call, schedule = model._call, model.schedule

    def nearly(net: Any, x: torch.Tensor, t: torch.Tensor, *rest: Any) -> torch.Tensor:
        level = schedule.level(int(t.flatten()[0]))
        best = level.sigma / (level.alpha**2 / 3 + level.sigma**2)
        return 0 * call(net, x, t, *rest) + best * x

    model._call = nearly
    return model


if __name__ == "__main__":
    main()
