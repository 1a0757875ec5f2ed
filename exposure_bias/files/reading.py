"""Files that anybody may have made: each is looked at, and its size bounded, before it is read."""

import json
import os
import stat
from collections.abc import Container
from typing import Any, BinaryIO

from exposure_bias.errors import InputError, reason

DEEPEST = 64  # brackets within brackets, of JSON and TOML
CONSTANTS = ("NaN", "Infinity", "-Infinity")  # what Python writes and JSON does not have


def opened(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading; a device or a pipe could go on for ever.

    Raises InputError for anything else."""
    try:
        file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115 (the caller closes it)
    except (OSError, ValueError, TypeError) as error:  # ValueError: a null byte in the name
        raise InputError(f"cannot read {path}: {why(error)}") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise InputError(f"cannot read {path}: it is a device or a pipe; give a file")
    return file


def _without_waiting(path: str, flags: int) -> int:
    """Open a pipe without waiting for who writes to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def why(error: Exception) -> str:
    """Return the system's reason."""
    return getattr(error, "strerror", None) or str(error)


def size_of(path: str | os.PathLike[str], limit: int | None = None) -> int:
    """Return the bytes of a regular file.

    Raises InputError for anything else (a pipe would hang), and beyond the limit."""
    with opened(path) as file:
        return checked_size(file, path, limit)


def checked_size(file: BinaryIO, path: str | os.PathLike[str], limit: int | None) -> int:
    """Return the bytes of an open file; raises InputError beyond the limit."""
    size = os.fstat(file.fileno()).st_size
    if limit is not None and size > limit:
        raise InputError(
            f"{path} has {size:,} bytes, at most {limit:,} are read: it is none of what it claims"
        )
    return size


def content(path: str | os.PathLike[str], limit: int) -> bytes:
    """Return what a regular file of at most `limit` bytes holds.

    Raises InputError for anything else, and for a file that grows meanwhile."""
    with opened(path) as file:
        checked_size(file, path, limit)
        try:
            found = file.read(limit + 1)
        except OSError as error:
            raise InputError(f"cannot read {path}: {why(error)}") from error
    if len(found) > limit:
        raise InputError(f"{path} grows while it is read: wait until it is whole")
    return found


def text(path: str | os.PathLike[str], limit: int) -> str:
    """Return the text in a file of at most `limit` bytes, which is UTF-8. Raises InputError."""
    try:
        return content(path, limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"cannot read {path}: it is no text in UTF-8 ({error.reason} at byte {error.start:,});"
            " save it so"
        ) from error


class Contradiction(ValueError):
    """A text that says one thing twice, in two ways."""


def parsed(given: str | bytes, constants: Container[str] = ()) -> Any:
    """Return the values of a JSON text in which every key stands once.

    Parameters
    ----------
    given : str or bytes
        The text, in UTF-8.
    constants : container of str
        Which of `NaN`, `Infinity` and `-Infinity` are read as numbers. They are no JSON.

    Raises
    ------
    ValueError
        For whatever is no such text: deep brackets and numbers of thousands of digits among it.
    """
    try:
        as_text = given if isinstance(given, str) else given.decode("utf-8-sig")

        def constant(word: str) -> float:
            if word not in constants:
                raise ValueError(f"{word} is no JSON number")
            return float(word)

        found = json.loads(as_text, object_pairs_hook=_once, parse_constant=constant)
    except RecursionError as error:
        raise ValueError("its brackets are too deep") from error
    check_depth(found)
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    known: dict[str, Any] = {}
    for key, value in pairs:
        if key in known and repr(known[key]) != repr(value):
            raise Contradiction(f"{key!r:.60} stands there twice, with two values")
        known[key] = value
    return known


def check_depth(value: Any, deepest: int = DEEPEST) -> None:
    """Raise ValueError for lists and objects nested deeper than that."""
    layer = [value]
    for _ in range(deepest + 1):
        layer = [inner for outer in layer for inner in _inside(outer)]
        if not layer:
            return
    raise ValueError(f"its brackets are more than {deepest} deep")


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def read_json(
    path: str | os.PathLike[str], limit: int, constants: Container[str] = ()
) -> dict[str, Any]:
    """Return the object in a JSON file of at most `limit` bytes.

    Raises InputError for anything else; for a key that stands there twice with two values; and for
    those of NaN, Infinity and -Infinity that are not among `constants`."""
    try:
        found = parsed(content(path, limit), constants)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"cannot read {path} as JSON: {reason(error)}") from error
    if not isinstance(found, dict):
        raise InputError(
            f"{path} holds a JSON {type(found).__name__}: an object {{name: value}} is needed"
        )
    return found
