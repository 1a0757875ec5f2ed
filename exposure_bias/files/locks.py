"""One writer for each output: a lock that ends with the process that holds it.

While a process writes `x.nc` it holds `.x.nc.writing` beside it; for a folder of results that is
`.writing` in the folder. The lock is the system's own (`flock`), so that a killed process leaves
the file behind but holds nothing. Whoever has the lock knows that every partial file of this output
was left by a process that has ended. Systems and file systems without such locks, Windows among
them, are written to without one."""

import errno
import hashlib
import os
import platform
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from exposure_bias.errors import InputError

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

LONGEST = 255  # bytes in a name, on nearly every file system
SUFFIX = ".writing"
MARK = "exposure_bias: process "
FORK_SECONDS = 5.0
UNKNOWN = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
# What this run holds already: a command and the functions that it calls write one output.
_HELD: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())
_OPEN: set[int] = set()


class InUse(InputError):
    """Another process writes this output."""


@contextmanager
def claimed(target: Path, folder: bool = False) -> Iterator[bool]:
    """Hold an output for this run, whose functions may claim it again.

    Parameters
    ----------
    target : Path
        The file or folder that is written, links followed. A folder, and that of a file, must be
        there.
    folder : bool
        Whether it is a folder of results.

    Yields
    ------
    bool
        Whether no other process can write the output meanwhile; False where there are no locks.

    Raises
    ------
    InUse
        If another process, or another thread of this one, writes the output now.
    OSError
        If the lock's file cannot be made.
    """
    place = _place(target, folder)
    if fcntl is None or place in _HELD.get():
        yield fcntl is not None
        return
    handle = _locked(place, target)
    if handle is None:
        yield False
        return
    before = _HELD.set(_HELD.get() | {place})
    try:
        yield True
    finally:
        _HELD.reset(before)
        _OPEN.discard(handle)
        with suppress(OSError):  # removed while it is held, so that no other's is removed
            os.unlink(place)
        # The work is done: a handle that somebody else's library has closed must not end the run.
        with suppress(OSError):
            os.close(handle)


def _place(target: Path, folder: bool) -> Path:
    return target / SUFFIX if folder else target.with_name(f".{short(target.name)}{SUFFIX}")


def short(name: str) -> str:
    """Return a name, or where it leaves no room for more its digest."""
    if len(name.encode()) < LONGEST - 100:
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _locked(place: Path, target: Path) -> int | None:
    """The open file of a lock that is ours; None where there are no locks."""
    # A process that was forked holds its parent's lock until it first runs (`_forget`).
    patience = time.monotonic() + FORK_SECONDS
    while True:
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if isinstance(error, BlockingIOError):
                if time.monotonic() < patience and _has_ended(place):
                    time.sleep(0.01)
                    continue
                raise _in_use(place, target) from error
            if error.errno not in UNKNOWN:
                raise
            warnings.warn(
                f"{place.parent} has no locks ({error.strerror}): start no second command that"
                " writes the same output",
                stacklevel=4,
            )
            return None
        # Whoever held it before may have removed it since it was opened here.
        if _is_still(place, handle):
            break
        os.close(handle)
    written = os.pread(handle, len(MARK), 0).decode(errors="replace")
    if written not in ("", MARK):
        os.close(handle)
        raise InputError(
            f"cannot write {target}: {place} is in the way, which this package did not make;"
            " rename it"
        )
    said = f"{MARK}{os.getpid()} of {platform.node()}, since {time.strftime('%H:%M')}\n"
    os.ftruncate(handle, 0)
    os.pwrite(handle, said.encode(errors="replace"), 0)
    _OPEN.add(handle)
    return handle


def _is_still(place: Path, handle: int) -> bool:
    try:
        there, here = os.stat(place), os.fstat(handle)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)


def _holder(place: Path) -> re.Match[str] | None:
    """Process, machine and time that a lock's file names."""
    try:
        with open(place, encoding="utf-8", errors="replace") as file:
            said = file.readline(300)
    except OSError:
        return None
    return re.fullmatch(rf"{MARK}(\d+) of (.*), since (.*)\n", said)


def _has_ended(place: Path) -> bool:
    """Tell whether the process that a lock's file names ran on this machine and has ended."""
    match = _holder(place)
    if match is None or match[2] != platform.node():
        return False
    try:
        os.kill(int(match[1]), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _in_use(place: Path, target: Path) -> InUse:
    """What to raise where another process holds a lock."""
    match = _holder(place)
    who = f"process {match[1]} of {match[2]} (since {match[3]})" if match else "another process"
    return InUse(
        f"cannot write {target}: {who} writes it now; wait until it ends, or give another name"
    )


def _forget() -> None:
    """Let a fork of this process hold none of its locks."""
    for handle in _OPEN:
        with suppress(OSError):
            os.close(handle)
    _OPEN.clear()
    _HELD.set(frozenset())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
