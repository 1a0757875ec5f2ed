"""Several processes on one run: `torchrun --nproc-per-node N -m exposure_bias COMMAND …`.

Inside `joined` all processes run the same program. What they share is the loop over samples
(`loop.batches`): batches are handed out one by one, so that a slow process holds the others up for
one batch at most, and at its end every process has the sums over all samples. So all come to the
same results and take the same branches; the first one alone writes and prints. Whatever is costly
and is not made of batches, the first one does for all (`once`).

Processes find each other by torch.distributed: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in
their environment, as torchrun sets them. Sums travel over gloo, whatever device the networks are
on. A process that fails is reported by torchrun, which ends the others; one that waits for it says
so instead of hanging, at once if the connection broke, else when its patience ends.
"""

import atexit
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from exposure_bias.errors import InputError, reason

if TYPE_CHECKING:
    from exposure_bias.recording import Recording

PATIENCE = 1800.0  # seconds that a process waits for the others
FAREWELL = 30.0  # seconds that a process that failed waits for others that do
LAST_LOOK, PAUSE = 1.0, 0.05  # seconds that it waits where one of them is gone, and between looks
AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"  # set where torchrun keeps the store
PATIENCE_VARIABLE = "EXPOSURE_BIAS_PATIENCE"
MEETING = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

Result = TypeVar("Result")


class Gone(InputError):
    """Another process of this run has ended, or does not answer."""


class Team(NamedTuple):
    """This process's number, and how many there are."""

    rank: int
    size: int

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0


ALONE = Team(0, 1)
_TEAM: ContextVar[Team] = ContextVar("team", default=ALONE)
# Equal in all processes, which go through the same loops in the same order.
_LOOPS = count()


def team() -> Team:
    """The processes that work together here: one, but inside `joined` under torchrun."""
    return _TEAM.get()


def world() -> Team:
    """What torchrun says, (0, 1) without it.

    Raises InputError for numbers that make no sense, or a number of processes without a place to
    meet.
    """
    given = {name: os.environ[name] for name in MEETING if os.environ.get(name)}
    try:
        size, rank = int(given.get("WORLD_SIZE", 1)), int(given.get("RANK", 0))
    except ValueError:
        size, rank = 0, 0
    if not 0 <= rank < max(size, 1) or size < 1:
        raise InputError(
            f"RANK={given.get('RANK')!s:.40} and WORLD_SIZE={given.get('WORLD_SIZE')!s:.40} are no"
            " process number and number of processes: start with torchrun, or unset both"
        )
    missing = [name for name in MEETING if name not in given]
    if size > 1 and missing:
        raise InputError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set, so that the processes"
            " cannot meet: start with torchrun, or unset WORLD_SIZE"
        )
    if size > 1 and not (given["MASTER_PORT"].isdecimal() and len(given["MASTER_PORT"]) < 6):
        raise InputError(
            f"MASTER_PORT={given['MASTER_PORT']!r:.40} is no port: start with torchrun, or unset"
            " WORLD_SIZE"
        )
    return Team(rank, size)


def is_first() -> bool:
    """Whether this is the first process of a training, whoever started it; never raises."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return bool(dist.get_rank() == 0)
    ranks = (os.environ.get(name) for name in ("RANK", "SLURM_PROCID"))
    return next((rank for rank in ranks if rank), "0") == "0"


def share(count: int, rank: int, size: int) -> range:
    """A rank's items out of range(count), contiguous.

    Sizes differ by one at most; some may be empty."""
    return range(count * rank // size, count * (rank + 1) // size)


def local(device: str) -> str:
    """This process's own GPU where several share "cuda", else the device that was named."""
    return (
        f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        if device == "cuda" and world().size > 1
        else device
    )


def patience() -> timedelta:
    """How long a process waits for another: EXPOSURE_BIAS_PATIENCE seconds, or half an hour.

    It must exceed the time that one batch takes."""
    text = os.environ.get(PATIENCE_VARIABLE) or str(PATIENCE)
    try:
        given = timedelta(seconds=float(text))
    except (ValueError, OverflowError):
        given = timedelta()
    if given <= timedelta():
        raise InputError(f"{PATIENCE_VARIABLE}={text!r:.40} is no number of seconds")
    return given


@contextmanager
def joined() -> Iterator[Team]:
    """All processes of torchrun work together inside; nothing is set up for one.

    Raises `Gone` if another process has gone while this one waits for it.
    """
    here = world()
    if here.size == 1 or team() == here:
        yield here
        return
    # Else torch tells of a lost connection in thirty lines. It has no effect once torch is there.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import torch
    import torch.distributed as dist

    known = _TEAM.set(here)
    try:
        if not dist.is_initialized():
            # Kept until the process ends: the first process serves the others, which a second
            # meeting could not rely on.
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=patience())
            atexit.register(dist.destroy_process_group)
        yield here
        barrier()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error).lower():
            raise
        why = re.sub(r"\[.*?\] ?", "", reason(error)).partition(". ")[0]  # places in gloo's source
        raise Gone(
            f"process {here.rank} of {here.size}: another process of this run is gone ({why})"
        ) from error
    finally:
        _TEAM.reset(known)


def barrier() -> None:
    """Wait for all processes."""
    gathered_objects(None)


def gathered_objects(value: Result) -> list[Result]:
    """The value of every process, in all of them."""
    if team().size == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * team().size
    dist.all_gather_object(values, value)
    return values


def once(function: Callable[[], Result]) -> Result:
    """What a function returns in the first process, in all of them.

    Raises in all the InputError that it raises there."""
    if team().size == 1:
        return function()
    import torch.distributed as dist

    said: list[Any] = [None, None]
    if team().first:
        try:
            said[0] = function()
        except InputError as error:
            said[1] = error
    dist.broadcast_object_list(said)
    if said[1] is not None:
        raise said[1]
    result: Result = said[0]
    return result


@contextmanager
def claimed(path: str | os.PathLike[str], folder: bool = False) -> Iterator[None]:
    """Hold a file, or a folder of results, for this run while it writes there.

    The first process holds it for all. Raises InputError in all where another run holds it."""
    from exposure_bias import files  # it loads xarray, which --help does without

    with ExitStack() as held:

        def claim() -> None:
            held.enter_context(files.output(path, folder))

        once(claim)
        yield


def add(arrays: Iterable[NDArray[Any]]) -> None:
    """Replace arrays by their sums over all processes, in all of them."""
    if team().size == 1:
        return
    import torch
    import torch.distributed as dist

    for array in arrays:
        if array.size:
            whole = np.ascontiguousarray(array)
            dist.all_reduce(torch.from_numpy(whole))
            if whole is not array:
                array[...] = whole


def handed_out(number: int) -> Iterator[int]:
    """The numbers below `number`, each to one process, in order, whoever asks next.

    All processes call this alike.
    """
    if team().size == 1:
        yield from range(number)
        return
    store, key = _store(), f"exposure_bias/loop/{next(_LOOPS)}"
    while (mine := store.add(key, 1) - 1) < number:
        yield mine


def agree(mine: Mapping[str, Any], what: str) -> None:
    """Raise InputError unless all processes have the same settings; it names those that differ."""
    everyone = gathered_objects(dict(mine))
    for rank, theirs in enumerate(everyone):
        keys = sorted(k for k in everyone[0] | theirs if everyone[0].get(k) != theirs.get(k))
        if keys:
            told = (
                f"{k}: {_short(everyone[0].get(k))} against {_short(theirs.get(k))}" for k in keys
            )
            raise InputError(
                f"processes 0 and {rank} have different {what} ({'; '.join(told)}): start all with"
                " the same"
            )


def check_shared(folder: str | os.PathLike[str]) -> None:
    """Raise InputError unless all processes see one folder, which is made."""
    if team().size == 1:
        return
    place = Path(folder)
    name, called = once(lambda: (_left(place), str(folder)))
    seen = gathered_objects((place / name).exists())
    if team().first:
        (place / name).unlink(missing_ok=True)
    if not all(seen):
        blind = ", ".join(str(rank) for rank, sees in enumerate(seen) if not sees)
        raise InputError(
            f"{called} is not the same folder for all processes (not for {blind}): give one on a"
            " file system that all of them share"
        )


def _left(folder: Path) -> str:
    """The name of an empty file left in a folder."""
    name = f".shared-{uuid.uuid4().hex}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror or error}") from error
    return name


def gathered(recording: "Recording") -> "Recording":
    """One recording of the samples of every process, in all of them.

    For loops that are observed: every process observes its own samples with
    `observe(…, first=…)`, and all merge what they saw. Raises InputError where two runs differ.
    """
    from exposure_bias.recording import merge

    everyone = gathered_objects(recording)
    return recording if len(everyone) == 1 else merge(everyone)


def tells(error: InputError) -> bool:
    """Whether this process is the one to tell an error.

    That is the first that comes to any, and the first with each."""
    try:
        size = world().size
    except InputError:  # that is the error
        return True
    if size == 1:
        return True
    import torch.distributed as dist

    if not dist.is_initialized():
        return True
    key = "exposure_bias/error"
    try:
        store = _store()
        before = store.add(key, 1) > 1
        first = not before if isinstance(error, Gone) else store.add(f"{key}/{error}", 1) == 1
    except RuntimeError:  # who kept the store is gone
        return True
    with suppress(RuntimeError):  # as it may be once all have looked
        store.add(f"{key}/seen", 1)
        # Who keeps the store lets the others look; of them one may be gone.
        wait = LAST_LOOK if isinstance(error, Gone) else FAREWELL
        for _ in range(0 if AGENT_STORE in os.environ else round(wait / PAUSE)):
            if store.add(f"{key}/seen", 0) >= size:
                break
            time.sleep(PAUSE)
    return first


def _store() -> Any:
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else text[:57] + "…"
