"""Training of the studies' networks of sequences: EDM's loss on a frame, given the true frames
before it.

A random half of the contexts gets noise of standard deviation τ, evenly between 0 and MOST_NOISE,
which the network is told. Noise levels are log-normal, ln σ ~ N(P_MEAN, P_STD), and the loss is
weighted by (σ² + s²)/(σ s)² (Karras et al. 2022, arXiv 2206.00364, Table 1). The weights that are
returned are exponential means.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

P_MEAN, P_STD = -0.8, 1.3
MOST_NOISE = 0.5
DECAY = 0.998


def trained(
    network: torch.nn.Module,
    batch: Callable[[np.random.Generator], tuple[Tensor, Tensor]],
    iterations: int,
    seed: int,
    rate: float = 1e-3,
    checkpoint: Path | None = None,
) -> torch.nn.Module:
    """The trained network. batch: (frames (B, p, …), next frame (B, …)) from a generator."""
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    average = copy.deepcopy(network).eval()
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    first = 0
    if checkpoint is not None and checkpoint.exists():
        kept = torch.load(checkpoint, weights_only=False)
        network.load_state_dict(kept["network"])
        average.load_state_dict(kept["average"])
        optimiser.load_state_dict(kept["optimiser"])
        first, random = kept["done"], kept["random"]
        torch.set_rng_state(kept["torch"])
    for iteration in range(first, iterations):
        progress = iteration / iterations
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1, (iteration + 1) / 200) * (np.cos(np.pi * progress) + 1) / 2
        frames, target = batch(random)
        sigma = (torch.randn(len(target)) * P_STD + P_MEAN).exp()
        wide = sigma.view(-1, *(1,) * (target.dim() - 1))
        tau = MOST_NOISE * torch.rand(len(target)) * (torch.rand(len(target)) < 0.5)
        frames = frames + tau.view(-1, *(1,) * (frames.dim() - 1)) * torch.randn_like(frames)
        said = network(target + wide * torch.randn_like(target), sigma, frames, tau)
        weight = (wide.square() + network.spread**2) / (wide * network.spread).square()
        loss = (weight * (said - target).square()).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay = min(DECAY, (iteration + 1) / (iteration + 10))
        with torch.no_grad():
            for mine, theirs in zip(average.parameters(), network.parameters(), strict=True):
                mine.lerp_(theirs, 1 - decay)
        if iteration % 500 == 499:
            print(f"{iteration + 1}: {float(loss.detach()):.4f}", flush=True)
            if checkpoint is not None:
                checkpoint.parent.mkdir(parents=True, exist_ok=True)
                torch.save(
                    {
                        "network": network.state_dict(),
                        "average": average.state_dict(),
                        "optimiser": optimiser.state_dict(),
                        "done": iteration + 1,
                        "random": random,
                        "torch": torch.get_rng_state(),
                    },
                    checkpoint,
                )
    return average
