"""Noise for a batch: the package's numbers, on one thread and on two, against NumPy's ziggurat
sample by sample and against what the package did before (the inverse distribution function over raw
bits).

    OMP_WAIT_POLICY=passive python benchmarks/noise.py

What it prints is the least of several times, which other work on the machine disturbs the least:
processor time on one thread, elapsed time on several. A step of a path takes two to three draws and
the bridges between them."""

import time
from collections.abc import Callable

import numpy as np
import torch

from exposure_bias.paths import Draws, Paths
from exposure_bias.schedules import linear

BATCH, STEPS, REPETITIONS = 256, 50, 15


def ziggurat(shape: tuple[int, ...]) -> np.ndarray:
    """A counter-based generator for each sample, drawn by `Generator.standard_normal`."""
    generators = (np.random.Generator(np.random.Philox(key=i)) for i in range(BATCH))
    return np.stack([g.standard_normal(shape, dtype=np.float32) for g in generators])


def inverse(shape: tuple[int, ...]) -> torch.Tensor:
    """√2 erfinv(u) in float64, u from the raw bits of a generator for each sample."""
    count = int(np.prod(shape))
    raw = [np.random.Philox(key=i).random_raw(-(-count // 2)).view(np.uint32) for i in range(BATCH)]
    u = torch.from_numpy(np.stack(raw).astype(np.float64)).add_(0.5).mul_(2.0**-31).sub_(1)
    return u.erfinv_().mul_(2**0.5).float()


def path(shape: tuple[int, ...]) -> None:
    walk = Paths(0, range(BATCH), shape).on(linear().levels(STEPS))
    walk.start(0)
    for step in range(STEPS - 1):
        walk(step)


def least(call: Callable[[], object], clock: Callable[[], float], times: int) -> float:
    """Milliseconds."""
    found = []
    for _ in range(times):
        since = clock()
        call()
        found.append(clock() - since)
    return 1e3 * min(found)


def main() -> None:
    for shape in ((1, 8, 8), (3, 32, 32), (3, 64, 64)):
        draws = Draws(0, "benchmark", range(BATCH), shape)
        calls: dict[str, Callable[[], object]] = {
            "ziggurat": lambda s=shape: ziggurat(s),
            "inverse": lambda s=shape: inverse(s),
            "ours": lambda d=draws: d(1, 2),
        }
        for threads in (1, 2):
            torch.set_num_threads(threads)
            clock = time.process_time if threads == 1 else time.perf_counter
            for name, call in calls.items():
                print(
                    f"{shape} {threads} threads {name:<9}{least(call, clock, REPETITIONS):8.2f} ms"
                )
            step = least(lambda s=shape: path(s), clock, 2) / STEPS
            print(
                f"{shape} {threads} threads a step of a path of {STEPS}: {step:.2f} ms", flush=True
            )


if __name__ == "__main__":
    main()
