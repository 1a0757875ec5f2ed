"""The one loop over samples: batches, progress, a rolling checkpoint, and going on after a kill.

What a run accumulates adds up (`statistics.accumulator.Sums`), so that a checkpoint is what there
is so far and how many samples it holds. The file is that of the finished result, with fewer
samples."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import xarray as xr

from exposure_bias import files
from exposure_bias.errors import InputError
from exposure_bias.progress import progress
from exposure_bias.recording import SCHEMA, provenance
from exposure_bias.run import Run
from exposure_bias.setup import Setup, made
from exposure_bias.statistics.accumulator import Sums

SAVING_SHARE = 0.05


class Ledger(Protocol):
    """What a run accumulates, as a tree and back."""

    def to_tree(self, done: int) -> xr.DataTree:
        """Everything of the first `done` samples."""

    def restore(self, tree: xr.DataTree, done: int) -> None:
        """Continue from what `to_tree` gave."""


@dataclass(frozen=True)
class SumsLedger:
    """The ledger of an experiment: one `Sums`."""

    sums: Sums

    def to_tree(self, done: int) -> xr.DataTree:
        arrays = {}
        for name, values in self.sums.state.items():
            kept = values[:done] if self.sums.of_samples(name) else values
            # Dimensions of their own: a name may have another size in another array.
            arrays[name] = ([f"{name}_{axis}" for axis in range(kept.ndim)], kept)
        return xr.DataTree(xr.Dataset(arrays))

    def restore(self, tree: xr.DataTree, done: int) -> None:
        dataset = tree.to_dataset()
        self.sums.restore({str(k): v.values for k, v in dataset.data_vars.items()})


class Turn(NamedTuple):
    """A batch's rows among the run's samples, and how to report evaluations done."""

    rows: slice
    report: Callable[[int], Any]


@contextmanager
def batches(
    setup: Setup,
    ledger: Ledger,
    *,
    size: int,
    evaluations: float,
    checkpoint: str | os.PathLike[str] | None,
) -> Iterator[Iterator[Turn]]:
    """Batches of at most `size` of a setup's samples; the caller adds each to what the ledger
    holds.

    The network is in evaluation mode meanwhile and as it was afterwards. With a checkpoint the
    ledger is saved there as it grows, and the same run goes on from it. evaluations: of one sample,
    for the progress bar. Raises InputError for a checkpoint of another run."""
    done = 0
    if checkpoint is not None and os.path.exists(checkpoint):
        done = _restored(checkpoint, setup, ledger)
    with setup.model.evaluating(), progress(setup, evaluations, done) as report:
        yield _turns(setup, ledger, size, done, checkpoint, report)


def _turns(
    setup: Setup,
    ledger: Ledger,
    size: int,
    done: int,
    checkpoint: str | os.PathLike[str] | None,
    report: Callable[[int], Any],
) -> Iterator[Turn]:
    saving, last = 0.0, time.monotonic()
    while done < setup.n:
        rows = slice(done, min(done + size, setup.n))
        yield Turn(rows, report)
        done = rows.stop
        now = time.monotonic()
        if checkpoint is not None and (done == setup.n or SAVING_SHARE * (now - last) >= saving):
            write(checkpoint, setup, ledger.to_tree(done), done, size)
            last = time.monotonic()
            saving = last - now


def write(
    path: str | os.PathLike[str], setup: Setup, tree: xr.DataTree, done: int, size: int
) -> None:
    """Write what a run has so far, or its result, to one file."""
    how = made(batch_size=size, device=str(setup.model.device))
    files.write_tree(path, tree, provenance(setup.run, setup.n, done, setup.first, how))


def _restored(path: str | os.PathLike[str], setup: Setup, ledger: Ledger) -> int:
    """Fill the ledger from a checkpoint of the same run; the number of samples it holds."""
    tree, known = files.read_tree(path)
    what = f"{path} belongs to another run (remove it, or choose another checkpoint)"
    if known.get("schema") != SCHEMA:
        raise InputError(
            f"{path} is no checkpoint of this version, it has schema {known.get('schema')}:"
            " remove it"
        )
    Run.from_json(known.get("run")).refuse_differences(setup.run, what)
    done, n = known.get("done"), known.get("n")
    if not isinstance(done, int) or not 0 <= done <= setup.n:
        raise InputError(f"{what}: it holds {done} of {n} samples, this run has {setup.n}")
    if known.get("first", 0) != setup.first:
        raise InputError(f"{what}: it holds other samples, from number {known.get('first', 0)} on")
    ledger.restore(tree, done)
    return done
