"""Iterations of `train` against a bare hand-written loop with the same network, batch and optimizer, on one CPU thread.

    python benchmarks/training.py [ROUNDS]

The bare loop has no EMA, clipping, learning rate schedule, log or seeding by iteration. Times are of this process
(`time.process_time`), so that other work on the machine matters little; the objectives take turns, and each figure is
the median over rounds of its ratio within the round.
"""

import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

import exposure_bias as eb
from exposure_bias.training.networks import unet
from exposure_bias.training.trainer import divide

BATCH, ITERATIONS, NET = 128, 25, "unet-tiny"


def bare(iterations: int) -> None:
    """Algorithm 1 of Ho et al. 2020 as one writes it down."""
    data, _ = divide("digits", 0.0)
    images = torch.from_numpy(data.batch(np.arange(len(data))))
    torch.manual_seed(0)
    net = unet(NET, data.shape)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.0)
    schedule = eb.schedules.linear()
    alpha, sigma = (torch.from_numpy(v).float().view(-1, 1, 1, 1) for v in (schedule.alpha, schedule.sigma))
    for _ in range(iterations):
        x0 = images[torch.randint(len(images), (BATCH,))]
        t, eps = torch.randint(len(schedule), (BATCH,)), torch.randn_like(x0)
        loss = functional.mse_loss(net(alpha[t] * x0 + sigma[t] * eps, t).sample, eps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trained(objective: str) -> Callable[[int], None]:
    def run(iterations: int) -> None:
        eb.train("digits", net=NET, objective=objective, iterations=iterations, batch_size=BATCH, evaluate_every=10**6)

    return run


def per_iteration(run: Callable[[int], object]) -> float:
    """Seconds, without what is done once: K + 2 iterations less 2."""
    times = []
    for iterations in (2, ITERATIONS + 2):
        start = time.process_time()
        run(iterations)
        times.append(time.process_time() - start)
    return (times[1] - times[0]) / ITERATIONS


def main() -> None:
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    kinds = {"bare": bare, **{name: trained(name) for name in ("ddpm", "ip", "ddpm-y", "gp", "wd")}}
    times = [{name: per_iteration(run) for name, run in kinds.items()} for _ in range(rounds)]
    for name in kinds:
        said = f"{name:8} {1e3 * statistics.median(row[name] for row in times):8.2f} ms an iteration"
        if name == "ddpm":
            said += (
                f"   throughput {statistics.median(row['bare'] / row[name] for row in times):.3f} of the bare loop's"
            )
        elif name != "bare":
            said += f"   cost {statistics.median(row[name] / row['ddpm'] for row in times):.3f} of ddpm's"
        print(said)


if __name__ == "__main__":
    main()
