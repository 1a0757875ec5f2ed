"""Files that are written whole or not at all.

A file is written beside its place, flushed to the disk and renamed, by one process at a time
(`locks`). What a killed process left beside it, `.NAME.….partial`, is removed by the next one that
writes the same file."""

import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from exposure_bias.errors import InputError
from exposure_bias.files import locks
from exposure_bias.files.locks import LONGEST, short

DAY = 86_400.0
PARTIAL = ".partial"
OURS = re.compile(rf"\..+\.[0-9a-f]{{16}}{re.escape(PARTIAL)}|(\..+)?{re.escape(locks.SUFFIX)}")


class CannotWrite(InputError):
    """A file that could not be written; what was there before is as it was."""


def check_writable(path: str | os.PathLike[str], folder: bool) -> None:
    """Raise InputError unless a file, or a folder of results, can be written.

    It is asked before a long run. What is missing on the way there will be made later; here a small
    file is made and removed, the only way to know."""
    target = target_of(path)
    wanted, other = ("a folder", "a file") if folder else ("a file", "a folder")
    if os.path.exists(target) and target.is_dir() != folder:
        raise InputError(
            f"cannot write {path}: it is {other}, but results go to {wanted}; give another name"
        )
    place = target if folder else target.parent
    try:
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        if not place.is_dir():
            raise InputError(
                f"cannot write {path}: {place} is a file, not a folder; give another name"
            )
        trial = temporary(place / "trial")
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {place} is not writable ({reason(error)}); give another place"
        ) from error


def target_of(path: str | os.PathLike[str]) -> Path:
    """Return where a path leads, links followed, so that a link stays one.

    Raises InputError for a name that no file can have, for the names of files that are being
    written, and for what is no file or folder."""
    try:
        text = os.fspath(path)
    except TypeError as error:
        raise InputError(
            f"a file's name is text or a path, got {type(path).__name__} {path!r:.40}: give one"
        ) from error
    if not isinstance(text, str):
        raise InputError(f"a file's name is text, got {type(text).__name__}: give it as text")
    if not text:
        raise InputError("cannot write to an empty name: give one")
    try:
        long = [part for part in Path(text).parts if len(part.encode()) > LONGEST]
    except UnicodeEncodeError as error:
        raise InputError(f"cannot write {text}: the name is no text (UTF-8)") from error
    if "\0" in text or long:
        what = f"is over {LONGEST} bytes long" if long else "has a null byte in it"
        raise InputError(f"cannot write {text:.300}: the name {what}; give another")
    target = Path(os.path.realpath(text))
    if OURS.fullmatch(target.name):
        raise InputError(
            f"cannot write {path}: names like {target.name:.100} belong to files that are being"
            " written; give another"
        )
    if os.path.islink(target):
        raise InputError(f"cannot write {path}: it is a link that leads in a circle; remove it")
    if os.path.exists(target) and not (target.is_file() or target.is_dir()):
        raise InputError(f"cannot write {path}: it is a device or a pipe; give a file's name")
    return target


def temporary(path: Path) -> Path:
    """Return a name under which a file is written before it takes its place."""
    return path.with_name(f".{short(path.name)}.{secrets.token_hex(8)}{PARTIAL}")


@contextmanager
def output(path: str | os.PathLike[str], folder: bool = False) -> Iterator[Path]:
    """Hold a file, or a folder of results, for this run and yield where it lies.

    The folder that is needed is made. Raises InputError where that cannot be, and where another
    process writes the same output."""
    target = target_of(path)
    with ExitStack() as held:
        try:
            (target if folder else target.parent).mkdir(parents=True, exist_ok=True)
            alone = held.enter_context(locks.claimed(target, folder))
        except OSError as error:
            raise CannotWrite(
                f"cannot write {path}: {reason(error)}; what was there before is unchanged"
            ) from error
        if not folder:
            _clean(target, alone)
        yield target


def _clean(target: Path, alone: bool) -> None:
    """Remove what killed writers of the same file left.

    alone: whether no other process can write the file now; if not, what is a day old goes."""
    name = re.escape(short(target.name))
    partial = re.compile(rf"\.{name}\.[0-9a-f]{{16}}{re.escape(PARTIAL)}")
    for left in os.listdir(target.parent):
        if partial.fullmatch(left):
            with suppress(OSError):
                path = target.with_name(left)
                if alone or time.time() - path.stat().st_mtime > DAY:
                    path.unlink()


def reason(error: Exception) -> str:
    """Return the system's reason."""
    return getattr(error, "strerror", None) or str(error)


def write_bytes(path: str | os.PathLike[str], *parts: bytes) -> None:
    """Write a file of these parts atomically.

    After any failure the old file is as it was and nothing half-written remains.

    Raises InputError with the system's reason (no such folder, no permission, disk full), and where
    another process writes the same file."""
    with output(path) as target:
        beside = temporary(target)
        try:
            with open(beside, "wb") as file:
                file.writelines(parts)
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, target)
            _sync_folder(target.parent)
        except OSError as error:
            raise CannotWrite(
                f"cannot write {path}: {reason(error)}; what was there before is unchanged"
            ) from error
        finally:
            with suppress(OSError):
                beside.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename outlive a power cut, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
