"""The one loop over samples.

Batches, progress, a rolling checkpoint, several processes, and going on after a kill.

What a run accumulates adds up (`statistics.accumulator.Sums`), so that a checkpoint is what there
is so far and of which samples. The file is that of the finished result, with fewer samples. Of
several processes (`parallel`) each keeps one of its own beside the first one's,
`recording.nc.part3`; whoever goes on, on however many processes, begins by adding them up."""

import glob
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias import files
from exposure_bias.errors import InputError
from exposure_bias.recording import SCHEMA, provenance
from exposure_bias.run import Run
from exposure_bias.running import parallel
from exposure_bias.running.progress import progress
from exposure_bias.running.setup import Samples, Setup, made
from exposure_bias.statistics.accumulator import Sums

SAVING_SHARE = 0.05
# Seconds: what a saving is believed to take at most. A run may be suspended in the midst of one.
LONGEST_SAVING = 60.0
# A batch takes some fifty times as many float64 numbers at once.
BATCH_NUMBERS = 2**20

Rows = NDArray[np.int64]


class Ledger(Protocol):
    """What a run accumulates, as a tree and back."""

    @property
    def parts(self) -> Sequence[Sums]:
        """The sums themselves."""

    def to_tree(self, rows: Rows) -> xr.DataTree:
        """Everything of the samples in these rows, which are all that were added."""

    def restore(self, tree: xr.DataTree, rows: Rows) -> None:
        """Add what `to_tree` gave."""


@dataclass(frozen=True)
class SumsLedger:
    """The ledger of an experiment: one `Sums`."""

    sums: Sums

    @property
    def parts(self) -> Sequence[Sums]:
        return [self.sums]

    def to_tree(self, rows: Rows) -> xr.DataTree:
        arrays = {}
        for name in self.sums.state:
            kept = self.sums.kept(name, rows)
            # Dimensions of their own: a name may have another size in another array.
            arrays[name] = ([f"{name}_{axis}" for axis in range(kept.ndim)], kept)
        return xr.DataTree(xr.Dataset(arrays))

    def restore(self, tree: xr.DataTree, rows: Rows) -> None:
        dataset = tree.to_dataset()
        self.sums.restore({str(k): v.values for k, v in dataset.data_vars.items()}, rows)


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
    """Batches of at most `size` of a setup's samples.

    The caller adds each to what the ledger holds, which has all of them in the end.

    The network is in evaluation mode meanwhile and as it was afterwards. With a checkpoint the
    ledger is saved there as it grows, and the same run goes on from it. Several processes get
    different batches, and afterwards have the same ledger. evaluations: of one sample, for the
    progress bar. Raises InputError for a checkpoint of another run, and for processes that differ
    in theirs."""
    check_alike(setup)
    with parallel.together(setup.model.net):
        yield from _shared(setup, ledger, size, evaluations, checkpoint)


def _shared(
    setup: Setup,
    ledger: Ledger,
    size: int,
    evaluations: float,
    checkpoint: str | os.PathLike[str] | None,
) -> Iterator[Iterator[Turn]]:
    """`batches` among the processes that hold networks of their own."""
    size = min(size, room(setup))
    with parallel.claimed(checkpoint) if checkpoint is not None else nullcontext():
        yield from _batches(setup, ledger, size, evaluations, checkpoint)


def _batches(
    setup: Setup,
    ledger: Ledger,
    size: int,
    evaluations: float,
    checkpoint: str | os.PathLike[str] | None,
) -> Iterator[Iterator[Turn]]:
    """Yield once: the batches, whose checkpoint is this run's alone."""
    saved = None if checkpoint is None else _Saved(Path(checkpoint), setup, size)
    # The first process takes over what there is, and all learn which samples that is.
    done = parallel.once(lambda: saved.restored(ledger)) if saved else np.arange(0)
    planned = plan(setup.n, done, size, parallel.shares())
    mine = [done] if parallel.team().first else [done[:0]]
    with setup.model.evaluating(), progress(setup, evaluations, len(done)) as report:
        yield _turns(planned, mine, ledger, saved, report)
    add_up(ledger, np.concatenate(mine))
    if saved and len(done) < setup.n:
        saved.finish(ledger)


def fill(
    setup: Setup,
    sums: Sums,
    add: Callable[[Samples, Turn], None],
    *,
    size: int,
    evaluations: float,
    checkpoint: str | os.PathLike[str] | None,
) -> None:
    """Have `add` take every batch of a setup's samples into the sums; the rest as in `batches`."""
    ledger = SumsLedger(sums)
    with batches(setup, ledger, size=size, evaluations=evaluations, checkpoint=checkpoint) as turns:
        for turn in turns:
            add(setup.samples(turn.rows), turn)


def room(setup: Setup) -> int:
    """How many samples of large states a batch may have; what a GPU holds is the user's to say."""
    numbers = BATCH_NUMBERS // int(np.prod(setup.model.shape))
    return max(1, numbers) if setup.model.device.type == "cpu" else setup.n


def plan(n: int, done: Rows, size: int, processes: int) -> list[slice]:
    """The rows that are still to be done, in batches of at most `size`.

    They are as large as each other, and as many as let all processes end together."""
    missing = np.setdiff1d(np.arange(n), done)
    if not len(missing):
        return []
    if processes > 1:
        rounds = ceil(len(missing) / (size * processes))
        size = ceil(len(missing) / (rounds * processes))
    runs = np.split(missing, np.flatnonzero(np.diff(missing) > 1) + 1)
    return [
        slice(int(start), min(int(start) + size, int(run[-1]) + 1))
        for run in runs
        for start in range(int(run[0]), int(run[-1]) + 1, size)
    ]


def _turns(
    planned: Sequence[slice],
    mine: list[Rows],
    ledger: Ledger,
    saved: "_Saved | None",
    report: Callable[[int], Any],
) -> Iterator[Turn]:
    """This process's batches. mine: the rows that it has done, which grows."""
    # The others are about as far as this one.
    size = parallel.shares()
    for number in parallel.handed_out(len(planned)):
        rows = planned[number]
        yield Turn(rows, lambda steps: report(steps * size))
        mine.append(np.arange(rows.start, rows.stop))
        if saved:
            saved.keep(ledger, mine)


def add_up(ledger: Ledger, mine: Rows) -> None:
    """Make the ledger of these samples that of all processes' samples."""
    if parallel.team().size == 1:
        return
    for sums in ledger.parts:
        for name, values in sums.state.items():
            if sums.of_samples(name):
                others = np.ones(len(values), dtype=bool)
                others[mine] = False
                values[others] = 0
        parallel.add(sums.state.values())


def check_alike(setup: Setup) -> None:
    """Raise InputError where processes have different runs, naming what differs."""
    team = parallel.team()
    if team.size == 1:
        return
    everyone = parallel.gathered_objects((setup.run.to_json(), setup.n, setup.first))
    for rank, (run, n, first) in enumerate(everyone):
        what = f"processes 0 and {rank} have different runs"
        Run.from_json(everyone[0][0]).refuse_differences(Run.from_json(run), what)
        if (n, first) != everyone[0][1:]:
            raise InputError(f"{what}: {everyone[0][1]} samples against {n}")


def write(
    path: str | os.PathLike[str], setup: Setup, tree: xr.DataTree, rows: Rows, size: int
) -> None:
    """Write what a run has so far of the samples in these rows, or its result, to one file."""
    how = made(batch_size=size, device=str(setup.model.device), processes=parallel.team().size)
    known = provenance(setup.run, setup.n, len(rows), setup.first, how)
    files.write_tree(path, tree, known | {"rows": _spans(rows)})


class _Saved:
    """The checkpoints of a loop: the file itself, and those of further processes beside it."""

    def __init__(self, path: Path, setup: Setup, size: int) -> None:
        self.path, self.setup, self.size = path, setup, size
        rank = parallel.team().rank
        self.mine = path if rank == 0 else path.with_name(f"{path.name}.part{rank}")
        self.saving, self.last = 0.0, time.monotonic()

    def restored(self, ledger: Ledger) -> Rows:
        """Fill the ledger from what there is of the same run; the rows that it holds.

        Parts of several processes become one file.
        """
        done = np.arange(0)
        parts = self._parts()
        for path in [self.path, *parts] if self.path.exists() else parts:
            tree, rows = _read(path, self.setup)
            if np.isin(rows, done).all():
                continue  # killed after it was added up
            if np.isin(rows, done).any():
                raise InputError(f"{path} and {self.path} hold the same samples: remove one")
            ledger.restore(tree, rows)
            done = np.union1d(done, rows)
        if parts:
            write(self.path, self.setup, ledger.to_tree(done), done, self.size)
            for part in parts:
                part.unlink()
        return done

    def keep(self, ledger: Ledger, mine: Sequence[Rows]) -> None:
        """Save this process's part, unless that was done a short while ago."""
        if not parallel.leads():
            return
        now = time.monotonic()
        rows = np.sort(np.concatenate(mine))
        # The whole is written once all have added up.
        passed = abs(now - self.last)  # a clock may run backwards
        if len(rows) < self.setup.n and SAVING_SHARE * passed >= self.saving:
            write(self.mine, self.setup, ledger.to_tree(rows), rows, self.size)
            self.last = time.monotonic()
            self.saving = min(max(self.last - now, 0.0), LONGEST_SAVING)

    def finish(self, ledger: Ledger) -> None:
        """Write the whole, and remove the parts."""

        def finish() -> None:
            everyone = np.arange(self.setup.n)
            write(self.path, self.setup, ledger.to_tree(everyone), everyone, self.size)
            for part in self._parts():
                part.unlink()

        parallel.once(finish)

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{glob.escape(self.path.name)}.part*"))


def _read(path: Path, setup: Setup) -> tuple[xr.DataTree, Rows]:
    """A checkpoint of a run, and the rows that it holds."""
    tree, known = files.read_tree(path, own=True)
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
    rows = _rows(known.get("rows", [[0, done]]), setup.n)
    if rows is None or len(rows) != done:
        raise InputError(f"{what}: it does not say which samples it holds")
    return tree, rows


def _rows(spans: Any, n: int) -> Rows | None:
    """What `_spans` wrote, of a run of n samples; None for anything else, which may be large."""
    try:
        ends = [end for first, last in spans for end in (first, last)]
        known = all(type(end) is int for end in ends) and ends == sorted(ends)
        if not known or not ends or ends[0] < 0 or ends[-1] > n:
            return None
        return np.concatenate([np.arange(*span) for span in spans])
    except (TypeError, ValueError):
        return None


def _spans(rows: Rows) -> list[list[int]]:
    """Rows in order as [first, last + 1] of each run of them."""
    if not len(rows):
        return [[0, 0]]
    runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    return [[int(run[0]), int(run[-1]) + 1] for run in runs]
