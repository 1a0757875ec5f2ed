"""Tables in parquet, as the hub keeps its datasets: a column of pictures, perhaps one of classes.

A picture is {"bytes", "path"}, as the library datasets writes it, or its bytes alone; a state may
also be a list of numbers. A row group is read when one of its rows is asked for."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure_bias.data.dataset import Data, Labels, Range, unreadable
from exposure_bias.data.sources import LABELS, Pictures, held, integers
from exposure_bias.errors import InputError, reason
from exposure_bias.files.library import library
from exposure_bias.files.limits import Limit


def from_parquet(
    paths: Sequence[Path],
    name: str,
    value_range: Range | None,
    limit: Limit,
    column: str | None = None,
    labels: str | None = None,
) -> Data:
    """The states of one table, in one or several files.

    column, labels: names of the columns of states and of classes; without them the only column of
    pictures, and the one that is declared to hold classes or is called like one."""
    tables = [_Table(path) for path in paths]
    if not sum(table.rows for table in tables):
        raise InputError(f"{name} has no rows: give at least one")
    schema = tables[0].file.schema_arrow
    column = _state_column(schema, column, paths[0])
    rows = _Rows(tables, column, limit)
    source: Any = rows
    if rows.pictures:
        source = Pictures(len(rows), rows.content, paths[0], limit)
    images = held(source, name, value_range, limit)
    bounded: Range | None = (-1.0, 1.0) if images.dtype == np.uint8 else value_range
    return Data(
        images,
        name,
        labels=_labels(tables, _label_column(schema, labels, paths[0])),
        note="; ".join(sorted(getattr(source, "notes", ()))),
        value_range=bounded,
    )


class _Table:
    """One file: where its row groups begin, and the one that was read last."""

    def __init__(self, path: Path) -> None:
        parquet = library("pyarrow.parquet", "ParquetFile", "pyarrow")
        self.path = path
        try:
            self.file = parquet.ParquetFile(path, memory_map=True)
            groups = range(self.file.num_row_groups)
            sizes = [self.file.metadata.row_group(i).num_rows for i in groups]
        except Exception as error:  # pyarrow's own, and those of the disk
            raise unreadable(path, "a parquet table", error) from error
        self.ends = np.cumsum([0, *sizes])
        self.rows = int(self.ends[-1])
        self._held: tuple[int, str, Any] | None = None

    def value(self, row: int, column: str) -> Any:
        """One value, as Python has it."""
        group = int(np.searchsorted(self.ends, row, side="right")) - 1
        if self._held is None or self._held[:2] != (group, column):
            self._held = (group, column, self._column(group, column))
        return self._held[2][row - int(self.ends[group])].as_py()

    def whole(self, column: str) -> list[Any]:
        """All values of a column."""
        return [v for g in range(len(self.ends) - 1) for v in self._column(g, column).to_pylist()]

    def _column(self, group: int, column: str) -> Any:
        try:
            return self.file.read_row_group(group, columns=[column]).column(column)
        except Exception as error:  # pyarrow's own, for pages that are damaged
            raise InputError(f"cannot read {column} of {self.path}: {reason(error)}") from error


class _Rows:
    """The states of several files as one."""

    def __init__(self, tables: Sequence[_Table], column: str, limit: Limit) -> None:
        self.tables, self.column, self.limit = tables, column, limit
        self.ends = np.cumsum([0, *(table.rows for table in tables)])
        first = self.value(0)
        self.pictures = isinstance(first, bytes | dict)
        self.shape: tuple[int, ...] = () if self.pictures else self._numbers(0).shape

    def __len__(self) -> int:
        return int(self.ends[-1])

    def value(self, row: int) -> Any:
        """The value of a row."""
        place = int(np.searchsorted(self.ends, row, side="right")) - 1
        return self.tables[place].value(row - int(self.ends[place]), self.column)

    def content(self, row: int) -> tuple[str, bytes]:
        """A picture's name and its bytes."""
        value = self.value(row)
        content = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(content, bytes):
            raise InputError(
                f"row {row} of {self.tables[0].path} holds no picture in {self.column!r}: its bytes"
                " are needed, {'bytes', 'path'}"
            )
        name = value.get("path") if isinstance(value, dict) else None
        return str(name or f"row {row}"), content

    def batch(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        rows = [self._numbers(int(i)) for i in ids]
        odd = next((k for k, r in enumerate(rows) if r.shape != self.shape), None)
        if odd is not None:
            raise InputError(
                f"row {ids[odd]} of {self.column!r} is {rows[odd].shape} where the first is"
                f" {self.shape}: all must be alike"
            )
        return np.stack(rows)

    def _numbers(self, row: int) -> NDArray[Any]:
        try:
            values = np.asarray(self.value(row))
        except ValueError as error:
            raise InputError(f"row {row} of {self.column!r} is ragged: {reason(error)}") from error
        if values.dtype.kind not in "fiu" or values.ndim == 0:
            raise InputError(
                f"row {row} of {self.column!r} holds {values.dtype} of shape {values.shape}:"
                " allowed are pictures, and lists of numbers"
            )
        return values[None] if values.ndim == 2 else values.astype(np.float32)


def _state_column(schema: Any, wanted: str | None, path: Path) -> str:
    if wanted is not None:
        if wanted not in schema.names:
            raise InputError(f"{path} has no column {wanted!r}: it has {', '.join(schema.names)}")
        return wanted
    pictures = [f.name for f in schema if _is_picture(f.type)]
    found = pictures or [f.name for f in schema if "list" in str(f.type)]
    if len(found) != 1:
        what = f"several columns of images, {', '.join(found)}" if found else "no column of images"
        raise InputError(
            f"{path} has {what} among {', '.join(schema.names)}: name one with column= (--column)"
        )
    return str(found[0])


def _is_picture(kind: Any) -> bool:
    text = str(kind)
    return text in ("binary", "large_binary") or text.startswith("struct<bytes: binary")


def _label_column(schema: Any, wanted: str | None, path: Path) -> str | None:
    if wanted is not None:
        if wanted not in schema.names:
            raise InputError(f"{path} has no column {wanted!r}: it has {', '.join(schema.names)}")
        return wanted
    whole = [f.name for f in schema if str(f.type).startswith(("int", "uint"))]
    declared = [name for name in _declared(schema) if name in whole]
    named = [name for name in LABELS if name in whole]
    found = declared or named
    return found[0] if len(found) == 1 or (found and not declared) else None


def _declared(schema: Any) -> list[str]:
    """The columns that the library datasets declared to hold classes."""
    try:
        known = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = known["info"]["features"]
        return [k for k, v in features.items() if v.get("_type") == "ClassLabel"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _labels(tables: Sequence[_Table], column: str | None) -> Labels:
    if column is None:
        return None
    return integers([value for table in tables for value in table.whole(column)], column)
