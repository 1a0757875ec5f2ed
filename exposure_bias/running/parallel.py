"""Several processes on one run: `torchrun --nproc-per-node N -m exposure_bias COMMAND …`.

Inside `joined` all processes run the same program. What they share is the loop over samples
(`loop.batches`): batches are handed out one by one, so that a slow process holds the others up for
one batch at most, and at its end every process has the sums over all samples. So all come to the
same results and take the same branches; the first one alone writes and prints. Whatever is costly
and is not made of batches, the first one does for all (`once`).

*A network that several processes hold together* (`shards`) makes a group of them. A group works on
the same batches, in step, and its first process's sums are the ones that count.

Processes find each other as torchrun or srun started them (`meeting`). Sums travel over gloo,
whatever device the networks are on. A process that fails is reported by torchrun, which ends the
others; one that waits for it says so instead of hanging, at once if the connection broke, else when
its patience ends.
"""

import atexit
import os
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from exposure_bias.errors import InputError, reason
from exposure_bias.running.meeting import MEETING, Team, local, patience, place, world

if TYPE_CHECKING:
    from exposure_bias.recording import Recording

FAREWELL = 30.0  # seconds that a process that failed waits for others that do
LAST_LOOK, PAUSE = 1.0, 0.05  # seconds that it waits where one of them is gone, and between looks
AGENT_STORE = "TORCHELASTIC_USE_AGENT_STORE"  # set where torchrun keeps the store

Result = TypeVar("Result")
Groups = tuple[tuple[int, ...], ...]


class Gone(InputError):
    """Another process of this run has ended, or does not answer."""


ALONE = Team(0, 1)
_TEAM: ContextVar[Team] = ContextVar("team", default=ALONE)
# The processes that hold each network together; None where each holds its own.
_GROUPS: ContextVar[Groups | None] = ContextVar("groups", default=None)
# Equal in all processes, which go through the same loops in the same order.
_LOOPS = count()
# The group that moves numbers of the CPU, where the default one cannot.
_CPU: list[Any] = []


def team() -> Team:
    """The processes that work together here: several inside `joined`, where they were started."""
    return _TEAM.get()


def shares() -> int:
    """Among how many the samples are shared: processes, or groups that hold a network together."""
    groups = _GROUPS.get()
    return team().size if groups is None else len(groups)


def leads() -> bool:
    """Whether this process's sums count: it is the first of those that hold its network."""
    groups = _GROUPS.get()
    return groups is None or any(group[0] == team().rank for group in groups)


@contextmanager
def together(net: Any) -> Iterator[None]:
    """Share samples among groups of the processes that hold one network together.

    Raises InputError where processes hold unlike networks.
    """
    if team().size == 1:
        yield
        return
    from exposure_bias.running.shards import holders

    everyone = gathered_objects(holders(net, team().rank))
    groups = tuple(sorted(set(everyone)))
    for rank, group in enumerate(everyone):
        if any(everyone[other] != group for other in group):
            other = next(other for other in group if everyone[other] != group)
            raise InputError(
                f"process {rank} holds its network together with {_listed(group)}, but process"
                f" {other} holds its own with {_listed(everyone[other])}: make the network alike in"
                " all processes"
            )
    token = _GROUPS.set(None if len(groups) == team().size else groups)
    try:
        yield
    finally:
        _GROUPS.reset(token)


def copies(net: Any) -> int:
    """How many copies of a network the processes hold: among so many samples are shared."""
    if team().size == 1:
        return 1
    from exposure_bias.running.shards import holders

    return team().size // len(holders(net, team().rank))


def _listed(ranks: tuple[int, ...]) -> str:
    return ", ".join(map(str, ranks))


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


@contextmanager
def joined() -> Iterator[Team]:
    """All processes that were started work together inside; nothing is set up for one.

    Raises `Gone` if another process does not come, or has gone while this one waits for it.
    """
    here = world()
    if here.size == 1 or team() == here:
        yield here
        return
    import torch.distributed as dist

    known = _TEAM.set(here)
    try:
        if not dist.is_initialized():
            _meet(here)
        _find_cpu_group()
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


def _meet(here: Team) -> None:
    """Set the processes up, until this one ends: the first one serves the others."""
    import torch
    import torch.distributed as dist

    where = place()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    of_torchrun = all(os.environ.get(name) for name in MEETING)
    method = "env://" if of_torchrun else f"tcp://{where}"
    try:
        dist.init_process_group(
            backend, init_method=method, timeout=patience(), rank=here.rank, world_size=here.size
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise Gone(
            f"process {here.rank} of {here.size} did not meet the others at {where} within"
            f" {patience().total_seconds():g} s ({reason(error).partition('. ')[0]}): start all of"
            " them with torchrun or srun, or unset WORLD_SIZE for one process"
        ) from error
    atexit.register(_part)


def _part() -> None:
    """Leave the other processes before this one ends.

    A group that is still held then would be taken apart after its threads' own library.
    """
    import torch.distributed as dist

    _CPU.clear()
    if dist.is_initialized():
        dist.destroy_process_group()


def _find_cpu_group() -> None:
    """Make a group that moves numbers of the CPU, where the processes met for GPUs alone."""
    import torch.distributed as dist

    default = dist.group.WORLD
    if _CPU and _CPU[0] is default:
        return
    able = any(word in str(dist.get_backend_config()) for word in ("cpu:", "gloo"))
    _CPU[:] = [default, default if able else dist.new_group(backend="gloo", timeout=patience())]


def barrier() -> None:
    """Wait for all processes."""
    gathered_objects(None)


def gathered_objects(value: Result) -> list[Result]:
    """The value of every process, in all of them."""
    if team().size == 1:
        return [value]
    import torch.distributed as dist

    values: list[Any] = [None] * team().size
    dist.all_gather_object(values, value, group=_CPU[1])
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
    dist.broadcast_object_list(said, group=_CPU[1])
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
    """Replace arrays by their sums over all processes, in all of them.

    Of those that hold a network together one counts.
    """
    if team().size == 1:
        return
    import torch
    import torch.distributed as dist

    for array in arrays:
        if array.size:
            if not leads():
                array[...] = 0
            whole = np.ascontiguousarray(array)
            dist.all_reduce(torch.from_numpy(whole), group=_CPU[1])
            if whole is not array:
                array[...] = whole


def handed_out(number: int) -> Iterator[int]:
    """The numbers below `number`, each to one process or group, in order, whoever asks next.

    All processes call this alike.
    """
    if shares() == 1:
        yield from range(number)
        return
    store, key = _store(), f"exposure_bias/loop/{next(_LOOPS)}"
    groups, rank = _GROUPS.get(), team().rank
    group = (rank,) if groups is None else next(g for g in groups if rank in g)
    for turn in count():
        # The first of a group asks for all of it.
        told = f"{key}/{group[0]}/{turn}"
        if rank == group[0]:
            mine = store.add(key, 1) - 1
            if len(group) > 1:
                store.set(told, str(mine))
        else:
            mine = int(store.get(told))
        if mine >= number:
            return
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


__all__ = ["MEETING", "Team", "local", "patience", "place", "world"]
