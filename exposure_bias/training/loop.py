"""The training loop: AdamW, warm-up and cosine learning rate, gradient clipping, an EMA, and a log.

Everything random comes from `Settings.seed`: one generator draws image order, timesteps and both noises, in an order
that does not depend on the objective. Two objectives with one seed therefore see the same draws.
"""

import csv
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from exposure_bias.schedules import Schedule
from exposure_bias.training.objectives import Objective, ddpm_loss

Row = dict[str, float]


@dataclass(frozen=True)
class Settings:
    """How long and how fast; `learning_rate` is the peak, reached after `warmup` iterations, zero at the end."""

    iterations: int
    batch_size: int = 128
    learning_rate: float = 1e-3
    warmup: int = 500
    weight_decay: float = 0.0
    max_gradient_norm: float = 1.0
    ema: float = 0.999
    seed: int = 0
    log_every: int = 100
    evaluate_every: int = 500


def train(
    net: nn.Module,
    images: Tensor,
    schedule: Schedule,
    objective: Objective,
    settings: Settings,
    log: Path | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
) -> tuple[nn.Module, list[Row]]:
    """Train `net` in place on `images` (N, C, H, W); returns the EMA network and the log.

    Log rows hold iteration, loss (mean since the last row), lr, it_per_s and heldout_loss: `evaluate` of the EMA
    network, NaN between evaluations. `log` is a CSV file, rewritten atomically with every row.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    optimizer = torch.optim.AdamW(net.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: learning_rate_factor(i, settings))
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(settings.ema))
    order = batches(len(images), settings.batch_size, generator)
    rows: list[Row] = []
    losses: list[float] = []
    started = time.perf_counter()
    with torch.random.fork_rng(devices=[]), tqdm(total=settings.iterations, desc="train", mininterval=1.0) as progress:
        torch.manual_seed(settings.seed)  # dropout cannot be given a generator
        net.train()
        for i in range(1, settings.iterations + 1):
            x0, alpha, sigma, label, eps = draw(images[next(order)], schedule, 0, len(schedule), generator)
            xi = torch.randn(x0.shape, generator=generator)  # drawn even where unused: see above
            loss = objective(net, x0, alpha, sigma, label, eps, xi)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), settings.max_gradient_norm)
            used = float(rate.get_last_lr()[0])
            optimizer.step()
            rate.step()
            ema.update_parameters(net)
            losses.append(loss.item())
            progress.update()
            last = i == settings.iterations
            if last or i % settings.log_every == 0:
                speed = len(losses) / (time.perf_counter() - started)
                due = last or i % settings.evaluate_every == 0
                heldout = evaluate(ema.module) if evaluate and due else math.nan
                row = {"iteration": i, "loss": float(np.mean(losses)), "lr": used, "it_per_s": speed}
                rows.append(row | {"heldout_loss": heldout})
                if log is not None:
                    write_log(log, rows)
                progress.set_postfix(loss=f"{row['loss']:.4f}")
                losses, started = [], time.perf_counter()
    return ema.module.eval(), rows


def draw(x0: Tensor, schedule: Schedule, low: int, high: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """(x0, α, σ, timestep, ε) for a batch of images, each at a level of its own from range(low, high)."""
    t = torch.randint(low, high, (len(x0),), generator=generator)
    alpha, sigma = (torch.from_numpy(a[t.numpy()]).float() for a in (schedule.alpha, schedule.sigma))
    label = torch.from_numpy(schedule.timestep[t.numpy()]).to(torch.float32 if schedule.continuous else torch.int64)
    return x0, alpha, sigma, label, torch.randn(x0.shape, generator=generator)


def learning_rate_factor(iteration: int, settings: Settings) -> float:
    """Linear warm-up, then half a cosine down to zero, as a fraction of the peak."""
    if iteration < settings.warmup:
        return (iteration + 1) / settings.warmup
    done = (iteration - settings.warmup) / max(settings.iterations - settings.warmup, 1)
    return (1 + math.cos(math.pi * min(done, 1.0))) / 2


def batches(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of ids out of range(count), shuffled anew each time all have been seen."""
    pool = torch.empty(0, dtype=torch.int64)
    while True:
        while len(pool) < size:
            pool = torch.cat([pool, torch.randperm(count, generator=generator)])
        yield pool[:size]
        pool = pool[size:]


@torch.no_grad()
def noise_error_by_level(
    net: nn.Module, images: Tensor, schedule: Schedule, bins: int = 10, seed: int = 0
) -> NDArray[np.float64]:
    """The ddpm loss in `bins` equal ranges of the schedule, shape (bins,); every image is used once in each.

    Timesteps and noise depend on the seed only, so that two networks, or one at two times, are compared without
    sampling error in between. The network runs in evaluation mode and is left in the mode it came in.
    """
    generator = torch.Generator().manual_seed(seed)
    edges = np.linspace(0, len(schedule), bins + 1).astype(int).tolist()
    was_training = net.training
    net.eval()
    errors = [ddpm_loss(net, *draw(images, schedule, low, high, generator)).item() for low, high in pairwise(edges)]
    net.train(was_training)
    return np.array(errors)


def write_log(path: Path, rows: list[Row]) -> None:
    """Replace the file at once, so that an interrupted run leaves a whole log."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in rows)
    os.replace(partial, path)
