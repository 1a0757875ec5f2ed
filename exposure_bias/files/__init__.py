"""Labelled data on disk: one netCDF file.

It is written whole or not at all, and read only if every byte is as written.

A file is HDF5 (any netCDF tool opens it) followed by a trailer with the SHA-256 of what precedes
it: HDF5 itself loads a flipped byte silently and can crash on a truncated file or a full disk, so
bytes are made in memory and checked there."""

import hashlib
import json
import os
import platform
import re
import stat
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import xarray as xr

from exposure_bias.errors import InputError
from exposure_bias.files import netcdf

Check = Callable[[dict[str, Any], netcdf.Headers], None]

LONGEST = 255  # bytes in a name, on nearly every file system
DAY = 86_400.0
_HOST = re.sub(r"\W", "", platform.node())[:32]
_MARK = b"\nexposure_bias sha256 "
_TRAILER = len(_MARK) + 64


class CannotWrite(InputError):
    """A file that could not be written; what was there before is as it was."""


def check_writable(path: str | os.PathLike[str], folder: bool) -> None:
    """Raise InputError unless `path` can be written, before a long run.

    It is to be a folder of results, or one file.

    What is missing on the way there will be made later; here a small file is made and removed, the
    only way to know."""
    target = _target(path)
    wanted, other = ("a folder", "a file") if folder else ("a file", "a folder")
    if os.path.exists(target) and target.is_dir() != folder:
        raise InputError(
            f"cannot write {path}: it is {other}, but results go to {wanted}; give another name"
        )
    place = target if folder else target.parent
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"cannot write {path}: {place} is a file, not a folder; give another name")
    trial = _temporary(place / "trial")
    try:
        _clean(trial)
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {place} is not writable ({_reason(error)}); give another place"
        ) from error


def _target(path: str | os.PathLike[str]) -> Path:
    """Where a path leads, links followed, so that a link stays one.

    Raises InputError for a name that no file can have, and for what is no file or folder."""
    text = os.fspath(path)
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
    if os.path.islink(target):
        raise InputError(f"cannot write {path}: it is a link that leads in a circle; remove it")
    if os.path.exists(target) and not (target.is_file() or target.is_dir()):
        raise InputError(f"cannot write {path}: it is a device or a pipe; give a file's name")
    return target


def _temporary(path: Path) -> Path:
    """Where a file is written before it takes its place; the name says which process does."""
    name = path.name if len(path.name.encode()) < LONGEST - 100 else _short(path.name)
    return path.with_name(f".{name}.{_HOST}-{os.getpid()}.partial")


def _short(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _clean(temporary: Path) -> None:
    """Remove what killed writers of the same file left behind.

    Those of this machine that no longer run, and what is a day old."""
    mine = f"{_HOST}-{os.getpid()}.partial"
    begins = temporary.name.removesuffix(mine)
    for name in os.listdir(temporary.parent):
        if name.startswith(begins) and name.endswith(".partial") and not name.endswith(mine):
            left = temporary.with_name(name)
            if _abandoned(left, name.removeprefix(begins).removesuffix(".partial")):
                left.unlink(missing_ok=True)


def _abandoned(left: Path, writer: str) -> bool:
    host, _, process = writer.rpartition("-")
    try:
        if time.time() - left.stat().st_mtime > DAY:
            return True
        if host != _HOST or not process.isdecimal():
            return False
        os.kill(int(process), 0)
    except (ProcessLookupError, FileNotFoundError):
        return True
    except (OSError, OverflowError):
        return False
    return False


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file for reading: a device or a pipe could go on for ever. Raises InputError."""
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (the caller closes it)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise InputError(f"cannot read {path}: {_reason(error)}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InputError(f"cannot read {path}: it is a device or a pipe; give a file")
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Open a pipe without waiting for who writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def write_bytes(path: str | os.PathLike[str], *parts: bytes) -> None:
    """Write a file of these parts atomically.

    After any failure the old file is as it was and nothing half-written remains.

    Raises InputError with the system's reason (no such folder, no permission, disk full).
    """
    target = _target(path)
    temporary = _temporary(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean(temporary)
        with open(temporary, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise CannotWrite(
            f"cannot write {path}: {_reason(error)}; what was there before is unchanged"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename outlive a power cut, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_groups(
    path: str | os.PathLike[str], groups: Mapping[str, xr.Dataset], provenance: dict[str, Any]
) -> None:
    """Write datasets by group, with their provenance, to one netCDF file.

    The root's name is empty; provenance must be JSON."""
    root = groups.get(netcdf.ROOT, xr.Dataset())
    said = json.dumps(provenance, ensure_ascii=False)
    content = netcdf.packed({**groups, netcdf.ROOT: root.assign_attrs(provenance=said)})
    write_bytes(path, content, _MARK + hashlib.sha256(content).hexdigest().encode())


def write_tree(path: str | os.PathLike[str], tree: xr.DataTree, provenance: dict[str, Any]) -> None:
    """The same of a tree of one floor."""
    groups = {str(name): node.to_dataset(inherit=False) for name, node in tree.children.items()}
    write_groups(path, groups | {netcdf.ROOT: tree.to_dataset(inherit=False)}, provenance)


def read_groups(
    path: str | os.PathLike[str], check: Check | None = None
) -> tuple[dict[str, xr.Dataset], dict[str, Any]]:
    """Read what `write_groups` wrote, into memory.

    check: called with the provenance and every variable's header before any values are read.
    Raises InputError if the file is missing, was not written by this package, differs in a single
    bit, or holds what this package does not write."""
    with opened(path) as file:
        content = file.read()
    body, trailer = content[:-_TRAILER], content[-_TRAILER:]
    if not trailer.startswith(_MARK):
        raise InputError(
            f"{path} is not a complete file of exposure_bias: truncated, or written by something"
            " else"
        )
    if trailer[len(_MARK) :].decode(errors="replace") != hashlib.sha256(body).hexdigest():
        raise InputError(
            f"{path} is corrupt: its checksum does not match; restore it or make it again"
        )
    try:
        stored = netcdf.Stored(body)
        provenance = _provenance(stored.attrs.get("provenance"))
        if check is not None:
            check(provenance, stored.headers)
        groups = stored.datasets()
    except InputError as error:
        raise InputError(f"cannot use {path}: {error}") from error
    groups[netcdf.ROOT].attrs.pop("provenance")
    return groups, provenance


def read_tree(path: str | os.PathLike[str]) -> tuple[xr.DataTree, dict[str, Any]]:
    """The same as a tree."""
    groups, provenance = read_groups(path)
    return xr.DataTree.from_dict({f"/{name}": d for name, d in groups.items()}), provenance


def _provenance(text: Any) -> dict[str, Any]:
    try:
        known = json.loads(text)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError("it does not say where it comes from") from error
    if not isinstance(known, dict):
        raise InputError("it does not say where it comes from")
    return known


def read_dataset(path: str | os.PathLike[str], kind: str) -> xr.Dataset:
    """Read what `eb-analyze KIND -o` wrote.

    Raises InputError if it is missing, corrupt or something else.
    """
    groups, provenance = read_groups(path)
    if provenance.get("kind") != kind:
        raise InputError(
            f"{path} holds no {kind}: give the {kind}.nc that `eb-analyze {kind} -o DIR` wrote"
        )
    return groups[netcdf.ROOT]
