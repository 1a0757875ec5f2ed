"""Several processes on one run: `torchrun --nproc-per-node N -m exposure_bias record|train …`.

Every process of torchrun finds its RANK and the WORLD_SIZE in its environment. Samples and batches
are divided into contiguous shares; rank 0 alone writes results. A process that fails is reported by
torchrun, which ends the others; one that is waiting for it meanwhile says so instead of hanging.
"""

import atexit
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from exposure_bias.data import load_data
from exposure_bias.errors import InputError, reason
from exposure_bias.recorder import record
from exposure_bias.recording import Recording, load, merge
from exposure_bias.setup import DEFAULT_SAMPLES

PATIENCE = timedelta(minutes=30)


def world() -> tuple[int, int]:
    """(rank, number of processes), (0, 1) outside torchrun."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def share(count: int, rank: int, size: int) -> range:
    """A rank's items out of range(count): contiguous, sizes differ by one at most, some may be
    empty."""
    return range(count * rank // size, count * (rank + 1) // size)


def local(device: str) -> str:
    """This process's own GPU where several share "cuda", else the device that was named."""
    return (
        f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if device == "cuda" and world()[1] > 1 else device
    )


@contextmanager
def joined() -> Iterator[tuple[int, int]]:
    """(rank, number of processes) inside the process group of all of them; nothing is set up for
    one.

    Raises InputError if another process has gone while this one waits for it.
    """
    rank, size = world()
    if size == 1:
        yield rank, size
        return
    import torch.distributed as dist

    if not dist.is_initialized():
        # Kept until the process ends: the first process serves the others, which a second meeting
        # could not rely on.
        dist.init_process_group(timeout=PATIENCE)
        atexit.register(dist.destroy_process_group)
    try:
        yield rank, size
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        why = reason(error).partition(". ")[0]
        raise InputError(
            f"process {rank} of {size}: another process of this run is gone ({why})"
        ) from error


def record_shared(
    model: Any, data: Any, out: str | os.PathLike[str], n: int | None = None, **options: Any
) -> Recording | None:
    """`record` by all processes together, each its share of the samples, saved in `out`; None but
    for rank 0.

    Every process keeps a checkpoint of its part beside `out`, on a file system that all of them
    see; rank 0 removes the parts once the whole is written. It agrees with that of one process to
    round-off. options: those of `record`."""
    data = load_data(data)
    n = min(len(data), DEFAULT_SAMPLES) if n is None else n
    with joined() as (rank, size):
        if size == 1:
            return record(model, data, n=n, checkpoint=out, **options)
        if n < 1:
            raise InputError(f"{n} samples: there must be at least 1")
        mine = share(n, rank, size)
        if mine:
            record(
                model,
                data,
                n=len(mine),
                first=mine.start,
                checkpoint=_part(out, rank, size),
                **options,
            )
        barrier(size)
        if rank > 0:
            return None
        parts = [_part(out, other, size) for other in range(size) if share(n, other, size)]
        whole = merge([load(part) for part in parts])
        whole.save(out)
        for part in parts:
            part.unlink()
        return whole


def _part(out: str | os.PathLike[str], rank: int, size: int) -> Path:
    return Path(f"{os.fspath(out)}.{rank}of{size}")


def barrier(size: int) -> None:
    """Wait for all processes."""
    if size > 1:
        import torch.distributed as dist

        dist.barrier()
