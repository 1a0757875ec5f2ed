"""What `observe` adds to somebody else's loop: time over that in the network, and memory by the
number of batches.

    chrt -f 10 python benchmarks/observe_overhead.py        # as root, where the machine is shared

Issue 3 asks for at most 3 % on a network of at least one million parameters, and that memory does
not grow with the number of batches but for the few numbers kept of each sample. Time outside the
network is measured with and without the observer, one after the other, and the medians are
subtracted. Making and leaving the observer counts; `recording`, which runs the network itself, does
not."""

import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from statistics import median
from typing import Any

import numpy as np
import torch

import exposure_bias as eb

RUNS, STEPS, BATCH = 3, 50, 64

GROWTH = """
import resource, sys
import torch
from diffusers import DDIMScheduler
import exposure_bias as eb

class Half(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(0.5))
    def forward(self, x, timestep):
        return self.factor * x

net, scheduler = Half().requires_grad_(False), DDIMScheduler(clip_sample=False)
schedule = eb.schedules.linear()
model = eb.Denoiser(net, schedule=schedule, prediction_type="epsilon", shape=(3, 32, 32))
with eb.observe(scheduler if sys.argv[1] == "scheduler" else model, model=model) as chain:
    for _ in range(int(sys.argv[2])):
        scheduler.set_timesteps(20)
        x = torch.randn(64, 3, 32, 32)
        for t in scheduler.timesteps:
            x = scheduler.step(net(x, t.expand(64)), t, x).prev_sample
chain.recording()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


class Clock:
    """Wraps a network's forward and adds up the time it takes."""

    def __init__(self, net: torch.nn.Module) -> None:
        self.forward, self.inside = net.forward, 0.0
        net.forward = self

    def __call__(self, sample: torch.Tensor, timestep: Any, return_dict: bool = True) -> Any:
        start = time.perf_counter()
        output = self.forward(sample, timestep, return_dict=return_dict)
        self.inside += time.perf_counter() - start
        return output


def unet() -> Any:
    """An untrained 32×32 RGB UNet of 1.5 M parameters, that of `record_overhead`."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=32,
        in_channels=3,
        out_channels=3,
        layers_per_block=1,
        block_out_channels=(64, 64, 64),
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        norm_num_groups=8,
    ).eval()


def measure(name: str, clock: Clock, run: Callable[[], object], watch: Callable[[], Any]) -> None:
    """Print the time that watching adds, over the time in the network."""
    outside: dict[bool, list[float]] = {False: [], True: []}
    inside = []
    for i in range(RUNS + 1):
        for watched in (False, True):
            clock.inside, start = 0.0, time.perf_counter()
            with watch() if watched else nullcontext():
                run()
            total = time.perf_counter() - start
            if i:  # the first run warms up
                outside[watched].append(total - clock.inside)
                inside.append(clock.inside)
    added, network = median(outside[True]) - median(outside[False]), median(inside)
    print(
        f"{name}: {added:.3f} s added to {network:.2f} s in the network, {added / network:.2%}",
        flush=True,
    )


def peak(kind: str, batches: int) -> float:
    """Peak resident memory in MB of a process that watches so many batches of 64 images."""
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, kind, str(batches)],
        check=True,
        capture_output=True,
        text=True,
    )
    return float(done.stdout)


def main() -> None:
    for kind in ("scheduler", "network"):
        few, many = peak(kind, 10), peak(kind, 200)
        kept = 190 * 64 * 21 * 2 * 4 / 2**20
        print(
            f"at the {kind}: 200 batches instead of 10 add {many - few:.0f} MB, {kept:.0f} MB of it"
            " kept by sample"
        )
    from diffusers import DDIMPipeline, DDIMScheduler

    net = unet()
    million = sum(p.numel() for p in net.parameters()) / 1e6
    print(f"32×32 RGB UNet: {million:.2f} M parameters, {BATCH} images, {STEPS} steps")
    pipe = DDIMPipeline(net, DDIMScheduler(clip_sample=False))
    pipe.set_progress_bar_config(disable=True)
    model = eb.adapt(pipe)
    data = eb.load_data(
        np.random.default_rng(0).uniform(-1, 1, (256, 3, 32, 32)).astype(np.float32)
    )
    clock = Clock(net)

    def run() -> None:
        pipe(batch_size=BATCH, num_inference_steps=STEPS, output_type="np")

    measure("at the scheduler", clock, run, lambda: eb.observe(pipe, data=data))
    measure("at the network", clock, run, lambda: eb.observe(model, data=data))


if __name__ == "__main__":
    main()
