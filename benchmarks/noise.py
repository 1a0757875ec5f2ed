"""Noise for a batch: Box and Muller over counted bits, against NumPy's ziggurat sample by sample.

python benchmarks/noise.py
"""

import time
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch

import exposure_bias as eb
from exposure_bias.paths import Noise, Paths

BATCH, STEPS, REPETITIONS = 256, 64, 5
LEVELS = eb.schedules.linear(1000).levels(STEPS, "linspace")


def independent(shape: tuple[int, ...]) -> None:
    """One normal number a pixel and step."""
    noise = Noise(0, "chain", range(BATCH), shape)
    for step in range(STEPS):
        noise(step)


def on_paths(shape: tuple[int, ...]) -> None:
    """The noise of a chain's steps, read from Brownian paths."""
    noise = Paths(0, range(BATCH), shape).on(LEVELS)
    for step, _ in enumerate(pairwise(LEVELS[:-1])):
        noise(step)


def ziggurat(shape: tuple[int, ...]) -> None:
    """A generator for each sample, as torch's users write it."""
    generators = [np.random.Generator(np.random.Philox(key=[0, i])) for i in range(BATCH)]
    for _ in range(STEPS):
        torch.from_numpy(np.stack([g.standard_normal(shape, np.float32) for g in generators]))


def seconds(call: Callable[[tuple[int, ...]], None], shape: tuple[int, ...]) -> float:
    """Processor time."""
    since = time.process_time()
    call(shape)
    return time.process_time() - since


def main() -> None:
    for shape in ((1, 8, 8), (3, 32, 32), (3, 64, 64)):
        independent(shape)  # torch is imported here
        for ours in (independent, on_paths):
            ratios = [seconds(ziggurat, shape) / seconds(ours, shape) for _ in range(REPETITIONS)]
            print(
                f"{shape}: ziggurat / {ours.__name__} {np.median(ratios):.2f} ({min(ratios):.2f}"
                f" to {max(ratios):.2f}), processor time"
            )


if __name__ == "__main__":
    main()
