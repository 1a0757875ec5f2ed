"""How many threads a command computes with on a CPU, and how they wait. Never the library's doing.

OpenMP's threads spin while they wait: with two commands on two cores each makes the other up to six
times slower. So the program has them sleep, and takes only as many as a call of the network gains
from."""

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exposure_bias.denoisers import Denoiser

GAIN = 1.25  # how much quicker a call must become for twice as many threads
ROWS, CALLS = 64, 2


def wait_passively() -> None:
    """Have OpenMP's threads sleep while they wait, unless the user decided.

    Before torch is imported."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def choose(model: "Denoiser", quiet: bool = False) -> None:
    """Take as many threads as a call of the network gains from, and say so at a terminal.

    quiet: not even there. OMP_NUM_THREADS decides where it is set, as it is by torchrun.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if model.context is not None:
        return  # what a call with a context takes, only its data tell
    if os.environ.get("OMP_NUM_THREADS") or model.device.type != "cpu" or (cores or 1) == 1:
        return
    import torch

    taken, quickest = 1, _seconds(model, 1)
    for number in _doubled(cores or 1):
        seconds = _seconds(model, number)
        if seconds * GAIN > quickest:
            break
        taken, quickest = number, seconds
    torch.set_num_threads(taken)
    if not quiet and sys.stderr.isatty():
        print(
            f"eb-analyze: {taken} of {cores} threads, as many as a call of {model.name} gains from"
            " (OMP_NUM_THREADS decides otherwise)",
            file=sys.stderr,
        )


def _doubled(cores: int) -> list[int]:
    """2, 4, 8, … and all of them."""
    return [*(2**k for k in range(1, cores.bit_length()) if 2**k < cores), cores]


def _seconds(model: "Denoiser", threads: int) -> float:
    """How long a call of the network on a small batch takes with so many threads."""
    import torch

    torch.set_num_threads(threads)
    level = model.schedule.level(len(model.schedule) // 2)
    x = torch.zeros(ROWS, *model.shape, dtype=torch.float64)
    asked = model.given(torch.zeros(ROWS, dtype=torch.int64))
    taken = []
    for _ in range(CALLS):
        since = time.perf_counter()
        asked(x, level)
        taken.append(time.perf_counter() - since)
    return min(taken)
