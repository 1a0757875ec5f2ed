"""Iterations of `train` against a bare hand-written loop with the same network, batch and
optimizer, on one CPU thread.

    python benchmarks/training.py [ROUNDS]

The bare loop has no EMA, clipping, learning rate schedule, log or seeding by iteration. All take
turns, one iteration each in an order that rotates, and times are of this process
(`time.process_time`). Each figure is the lower quartile over rounds, since other work on the
machine, which shares its caches, only ever adds."""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

import exposure_bias as eb
from exposure_bias.training import trainer
from exposure_bias.training.networks import unet

BATCH, NET = 128, "unet-tiny"


def bare() -> Callable[[], None]:
    """One iteration of Algorithm 1 of Ho et al. 2020 as one writes it down."""
    data, _ = trainer.divide("digits", 0.0)
    images = torch.from_numpy(data.batch(np.arange(len(data))))
    net = unet(NET, data.shape)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.0, fused=True)
    schedule = eb.schedules.linear()
    alpha, sigma = (
        torch.from_numpy(v).float().view(-1, 1, 1, 1) for v in (schedule.alpha, schedule.sigma)
    )
    losses = []

    def iteration() -> None:
        x0 = images[torch.randint(len(images), (BATCH,))]
        t, eps = torch.randint(len(schedule), (BATCH,)), torch.randn_like(x0)
        loss = functional.mse_loss(net(alpha[t] * x0 + sigma[t] * eps, t).sample, eps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    return iteration


def trained(objective: str) -> Callable[[], None]:
    """One iteration of `train`: what its loop calls."""
    settings = trainer.Settings(objective=objective, batch_size=BATCH)
    data, heldout = trainer.divide("digits", 0.0)
    model = trainer.denoiser(NET, "linear", "epsilon", data, settings)
    return trainer._Run(model, data, heldout, settings, 0, 1, False, None).step


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    kinds = {
        "bare": bare(),
        **{name: trained(name) for name in ("ddpm", "ip", "ddpm-y", "gp", "wd")},
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for i in range(rounds + 3):
        for name, iteration in (turns := list(kinds.items()))[i % len(turns) :] + turns[
            : i % len(turns)
        ]:
            start = time.process_time()
            iteration()
            if i >= 3:
                times[name].append(time.process_time() - start)
    quartiles = {name: statistics.quantiles(values, n=4)[0] for name, values in times.items()}
    for name, seconds in quartiles.items():
        said = f"{name:8} {1e3 * seconds:8.2f} ms an iteration"
        if name == "ddpm":
            said += f"   throughput {quartiles['bare'] / seconds:.3f} of the bare loop's"
        elif name != "bare":
            said += f"   cost {seconds / quartiles['ddpm']:.3f} of ddpm's"
        print(said)


if __name__ == "__main__":
    main()
