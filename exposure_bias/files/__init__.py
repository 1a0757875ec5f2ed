"""Labelled data on disk: one netCDF file.

It is written whole or not at all, and read only if every byte is as written.

A file is HDF5 (any netCDF tool opens it) followed by a trailer with the SHA-256 of what precedes
it: HDF5 itself loads a flipped byte silently and can crash on a truncated file or a full disk, so
bytes are made in memory and checked there."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import xarray as xr

from exposure_bias.errors import InputError
from exposure_bias.files import netcdf
from exposure_bias.files.limits import limit_of, readable
from exposure_bias.files.reading import CONSTANTS, checked_size, opened, parsed
from exposure_bias.files.writing import CannotWrite, check_writable, output, target_of, write_bytes

Check = Callable[[dict[str, Any], netcdf.Headers], None]

# Bytes of a file of results that a stranger may have made; reading takes twice that. This many, or
# what the variable of the environment says, as 2GB.
LIMIT, LIMIT_VARIABLE = 2**29, "EXPOSURE_BIAS_LIMIT"
_MARK = b"\nexposure_bias sha256 "
_TRAILER = len(_MARK) + 64


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
    path: str | os.PathLike[str], check: Check | None = None, own: bool = False
) -> tuple[dict[str, xr.Dataset], dict[str, Any]]:
    """Read what `write_groups` wrote, into memory.

    check: called with the provenance and every variable's header before any values are read. own:
    whether this run wrote the file itself, so that it may be of any size.
    Raises InputError if the file is missing, was not written by this package, differs in a single
    bit, is beyond the limit, or holds what this package does not write."""
    body = _body(path, own)
    try:
        stored = netcdf.Stored(body)
        del body  # HDF5 has a copy of its own
        provenance = _provenance(stored.attrs.get("provenance"))
        if check is not None:
            check(provenance, stored.headers)
        groups = stored.datasets()
    except InputError as error:
        raise InputError(f"cannot use {path}: {error}") from error
    groups[netcdf.ROOT].attrs.pop("provenance")
    return groups, provenance


def _body(path: str | os.PathLike[str], own: bool) -> bytes:
    """What precedes a file's trailer, which it matches."""
    with opened(path) as file:
        size = checked_size(file, path, None)
        file.seek(max(size - _TRAILER, 0))
        trailer = file.read(_TRAILER)
        if not trailer.startswith(_MARK):
            raise InputError(
                f"{path} is not a complete file of exposure_bias: truncated, or written by"
                " something else"
            )
        limit = limit_of(os.environ.get(LIMIT_VARIABLE) or LIMIT).bytes
        if size > limit and not own:
            raise InputError(
                f"{path} has {readable(size)}, at most {readable(limit)} are read: set"
                f" {LIMIT_VARIABLE}={size} if you trust it and have twice that memory"
            )
        file.seek(0)
        body = file.read(size - _TRAILER)
    if trailer[len(_MARK) :].decode(errors="replace") != hashlib.sha256(body).hexdigest():
        raise InputError(
            f"{path} is corrupt: its checksum does not match; restore it or make it again"
        )
    return body


def read_tree(
    path: str | os.PathLike[str], own: bool = False
) -> tuple[xr.DataTree, dict[str, Any]]:
    """The same as a tree."""
    groups, provenance = read_groups(path, own=own)
    return xr.DataTree.from_dict({f"/{name}": d for name, d in groups.items()}), provenance


def _provenance(text: Any) -> dict[str, Any]:
    try:
        known = parsed(text, constants=CONSTANTS)
    except (TypeError, ValueError, AttributeError) as error:
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


__all__ = [
    "CannotWrite",
    "check_writable",
    "opened",
    "output",
    "read_dataset",
    "read_groups",
    "read_tree",
    "target_of",
    "write_bytes",
    "write_groups",
    "write_tree",
]
