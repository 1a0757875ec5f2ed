"""Labelled data on disk: one netCDF file, written whole or not at all, read only if every byte is
as written.

A file is HDF5 (any netCDF tool opens it) followed by a trailer with the SHA-256 of what precedes
it: HDF5 itself loads a flipped byte silently and can crash on a truncated file or a full disk, so
bytes are made in memory and checked there."""

import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import xarray as xr

from exposure_bias import netcdf
from exposure_bias.errors import InputError

Check = Callable[[dict[str, Any], netcdf.Headers], None]

_MARK = b"\nexposure_bias sha256 "
_TRAILER = len(_MARK) + 64


def check_writable(path: str | os.PathLike[str], folder: bool) -> None:
    """Raise InputError unless `path` can be written, before a long run: as a folder of results, or
    as one file.

    What is missing on the way there will be made; nothing is made here.
    """
    path = Path(path)
    wanted, other = ("a folder", "a file") if folder else ("a file", "a folder")
    if os.path.exists(path) and path.is_dir() != folder:
        raise InputError(
            f"cannot write {path}: it is {other}, but results go to {wanted}; give another name"
        )
    place = path if folder else path.parent
    while not os.path.exists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"cannot write {path}: {place} is a file, not a folder; give another name")
    if not os.access(place, os.W_OK | os.X_OK):
        raise InputError(f"cannot write {path}: {place} is not writable; give another place")


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


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file atomically: after any failure the old file is as it was and nothing half-written
    remains.

    Raises InputError with the system's reason (no such folder, no permission, disk full).
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot write {path}: {reason}; what was there before is unchanged"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def write_tree(path: str | os.PathLike[str], tree: xr.DataTree, provenance: dict[str, Any]) -> None:
    """Write labelled data with its provenance, which must be JSON, to one netCDF file."""
    tree = tree.copy()
    tree.attrs["provenance"] = json.dumps(provenance, ensure_ascii=False)
    content = netcdf.packed(tree)
    write_bytes(path, content + _MARK + hashlib.sha256(content).hexdigest().encode())


def read_tree(
    path: str | os.PathLike[str], check: Check | None = None
) -> tuple[xr.DataTree, dict[str, Any]]:
    """Read what `write_tree` wrote, into memory.

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
        tree = stored.tree()
    except InputError as error:
        raise InputError(f"cannot use {path}: {error}") from error
    tree.attrs.pop("provenance")
    return tree, provenance


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
    tree, provenance = read_tree(path)
    if provenance.get("kind") != kind:
        raise InputError(
            f"{path} holds no {kind}: give the {kind}.nc that `eb-analyze {kind} -o DIR` wrote"
        )
    return tree.to_dataset()
