"""Results on disk: one netCDF file with the kind's name in it.

    save(result, "edge-gap.nc");  result = load("edge-gap.nc")

The kind that the file names is what the result is; no variable's name says anything. Files that
earlier versions wrote name their kind by an older name, which is an alias now."""

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import xarray as xr

from exposure_bias import files
from exposure_bias.errors import InputError
from exposure_bias.files.netcdf import ROOT
from exposure_bias.results.kind import ANSWER, KIND, every_kind, find, name_of, sentence, tables

SCHEMA = 1
RECORDING = "recording"  # what `record` writes; the kinds of checkpoints have "rows" beside it
WORK = "work"  # in a folder of results: what its runs go on from, the recording among it


def save(
    result: xr.Dataset, path: str | os.PathLike[str], made: dict[str, Any] | None = None
) -> None:
    """Write a result to one file, atomically.

    Parameters
    ----------
    result
        What a public function returned, or a dataset of your own.
    path
        The file, of which the old one is kept if the new one cannot be written.
    made
        How it came about, as JSON values: versions and the machine.

    Raises
    ------
    InputError
        If the file cannot be written, or `result` is no dataset.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> gaps = eb.variance_gap(eb.record("digits", "digits", steps=5, n=32))
    >>> eb.save(gaps, "variance-gap.nc")
    """
    if not isinstance(result, xr.Dataset):
        raise InputError(
            f"a result is an xarray.Dataset, got {type(result).__name__}; a recording has save()"
        )
    said = {"schema": SCHEMA, "kind": name_of(result), "attributes": result.attrs}
    files.write_tree(path, xr.DataTree(result), said | ({"made": made} if made else {}))


def load_result(path: str | os.PathLike[str], *kinds: str) -> xr.Dataset:
    """Read what `save` or a command with `-o` wrote.

    Parameters
    ----------
    path
        The file.
    kinds
        Which kinds are wanted; by default any.

    Raises
    ------
    InputError
        If the file is missing or corrupt, holds no result or one of another kind, or if its
        variables do not fit its kind.
    """
    path = _renamed(path)
    groups, known = files.read_groups(path)
    return result_of(path, groups, known, *kinds)


def result_of(
    path: str | os.PathLike[str],
    groups: dict[str, xr.Dataset],
    known: dict[str, Any],
    *kinds: str,
) -> xr.Dataset:
    """Return the result in what was read from a file; as `load_result`."""
    name = known.get("kind")
    alone = set(groups) == {ROOT}
    if not isinstance(name, str) or name == RECORDING or "rows" in known or not alone:
        raise InputError(f"{path} holds no result but {_what(known)}")
    kind = find(name)
    if kinds and (kind is None or kind.name not in kinds):
        wanted = " or ".join(kinds)
        raise InputError(
            f"{path} holds no {wanted} but {name}: give the file that {_command(kinds[0])} wrote"
        )
    result = groups[ROOT]
    attributes = known.get("attributes")
    if isinstance(attributes, dict):
        result.attrs = {**attributes, **result.attrs}
    result.attrs[KIND] = name if kind is None else kind.name
    _check(path, result)
    return result


def saved_file(path: str | os.PathLike[str], *kinds: str) -> Path:
    """Return the file of one of these kinds that a folder of results holds.

    Parameters
    ----------
    path
        A folder that a command with `-o` wrote; a file is returned as it is.
    kinds
        Which kinds are wanted, the most wanted first; "recording" is what `record` wrote.

    Raises
    ------
    InputError
        If the folder holds none of them.
    """
    if not os.path.isdir(path):
        return Path(path)
    held = saved_files(path)
    for kind in kinds:
        for name, file in held.items():
            if name == kind:
                return file
    there = f"it holds {', '.join(map(_hyphened, held))}" if held else "it holds no result at all"
    raise InputError(f"{path} holds no {' and no '.join(map(_hyphened, kinds))}: {there}")


def saved_files(folder: str | os.PathLike[str], but: Collection[str] = ()) -> dict[str, Path]:
    """Return the results in a folder that a command with `-o` wrote, and its recording, by kind.

    but: kinds that are left out, whose files are not opened.
    """
    places = {f"{kind.hyphened}.nc": kind.name for kind in every_kind()}
    for kind in every_kind():
        for name in kind.names:
            places.setdefault(f"{name}.nc", kind.name)
    places |= dict.fromkeys((f"{RECORDING}.nc", f"{WORK}/{RECORDING}.nc"), RECORDING)
    found: dict[str, Path] = {}
    for place, of in places.items():
        file = Path(folder, place)
        if of not in (*found, *but) and file.is_file() and not _unfinished(file):
            found[of] = file
    return found


def _unfinished(path: Path) -> bool:
    """Whether a file keeps a part of a run that goes on, under the name of a result."""
    known = files.read_groups(path)[1]
    if known.get("kind") == RECORDING:
        return bool(known.get("done") != known.get("n"))
    return "rows" in known


def _hyphened(name: str) -> str:
    kind = find(name)
    return kind.names[0] if kind else name


def _renamed(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Return the file of this name; where there is none, that of the name that its kind has now."""
    place = Path(path)
    kind = find(place.stem)
    now = place.with_name(f"{kind.hyphened}.nc") if kind else place
    return now if now.is_file() and not place.exists() else path


def _what(known: dict[str, Any]) -> str:
    if known.get("kind") == RECORDING:
        return "a recording: give it to record's readers, or to eb.load"
    return (
        "an unfinished run: the same command goes on from there"
        if "rows" in known
        else "other data"
    )


def _command(name: str) -> str:
    kind = find(name)
    return f"`eb-analyze {kind.names[0] if kind else name} -o DIR`"


def _check(path: str | os.PathLike[str], result: xr.Dataset) -> None:
    """Raise InputError unless all can be said of a result that its kind says."""
    try:
        result.attrs[ANSWER] = sentence(result)
        for table in tables(result):
            table.cells  # noqa: B018 (it is computed)
    except InputError as error:
        raise InputError(f"cannot use {path}: {error}") from error
    except Exception as error:
        raise InputError(
            f"cannot use {path}: it does not hold what a result of the kind"
            f" {result.attrs[KIND]} does ({type(error).__name__}: {error}); make it again"
        ) from error
