"""A result as tables: what its CSV files hold, and the few columns that a person wants to see.

A `Table` holds a tidy frame with everything, and cells made for reading: value ± half of the 95 %
interval, the unit in the heading, words in place of names. No torch here."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from exposure_bias.jackknife import interval
from exposure_bias.results.numbers import half_width, number

CLEAN_END = "clean end"
MOST_ROWS = 11  # of a curve along the chain
MOST_PLACES = 24  # and along any other dimension, of bands for example, which are no curve

Row = Mapping[str, Any]


class Column(NamedTuple):
    """A column to be read: its heading with the unit, the variable, and how a row is written.

    factor: what values are multiplied by, 100 for per cent, or a function of the row.
    """

    heading: str
    name: str
    factor: float | Callable[[Row], float] = 1.0
    signed: bool = False
    write: Callable[[Row], str] | None = None

    def cell(self, row: Row) -> str:
        """The row's value, with half of its 95 % interval if there is one."""
        if self.write is not None:
            return self.write(row)
        value = row[self.name]
        if isinstance(value, str):
            return value
        if isinstance(value, int | np.integer):
            return str(value)
        factor = self.factor(row) if callable(self.factor) else self.factor
        return number(factor * float(value), factor * half_width(row, self.name), self.signed)


@dataclass(frozen=True)
class Table:
    """One table of a result.

    name: in JSON, and for `table`. title: as a heading; without what is in brackets it is part of a
    file's name. frame: everything, tidy. columns: those to be read; rows: which, by default all.
    main: whether it is shown unasked.
    """

    name: str
    title: str
    frame: pd.DataFrame
    columns: tuple[Column, ...] = ()
    rows: Sequence[int] | None = None
    main: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def file(self) -> str:
        """The title as part of a file's name, in plain letters."""
        plain = unicodedata.normalize("NFKD", self.title.split(" (")[0])
        return re.sub(r"[^A-Za-z0-9-]+", "-", plain.encode("ascii", "ignore").decode())

    def csv(self, of: str) -> str:
        """The name of its CSV file beside a result's other files, which are called `of`."""
        return f"{of}.csv" if self.file == of else f"{of}-{self.file}.csv"

    @property
    def shown(self) -> tuple[Column, ...]:
        """The columns that this frame has something for."""
        here = (c for c in self.columns if c.name in self.frame)
        return tuple(c for c in here if self.frame[c.name].notna().any())

    @property
    def cells(self) -> list[list[str]]:
        """The rows to be read."""
        frame = self.frame if self.rows is None else self.frame.iloc[list(self.rows)]
        return [[c.cell(row) for c in self.shown] for row in frame.to_dict("records")]

    @property
    def told(self) -> tuple[str, ...]:
        """The notes, and how many rows there are beside those to be read."""
        if self.rows is None or len(self.rows) >= len(self.frame):
            return self.notes
        counts = f"{self.title}: {len(self.rows)} of {len(self.frame)} rows"
        return (*self.notes, f"{counts} are shown; --wide, CSV and JSON have all")


def facts(title: str, rows: Mapping[str, Any]) -> str:
    """Return a few facts about an object as HTML, for a notebook; those without a value go."""
    cells = (
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
        if value not in (None, "", ())
    )
    return f"<table><caption>{escape(title)}</caption><tbody>{''.join(cells)}</tbody></table>"


def listed(
    name: str, rows: Sequence[Row], columns: Sequence[Column] = (), main: bool = False
) -> Table:
    """A table of rows that are no dataset."""
    return Table(name, name, pd.DataFrame(list(rows)), tuple(columns), main=main)


def tidy(dataset: xr.Dataset, *dims: str) -> pd.DataFrame:
    """All variables over just these dimensions, a row for each place.

    Columns without a number are left out."""
    names = [k for k, v in dataset.data_vars.items() if set(v.dims) == set(dims)]
    chosen = _with_ends(dataset, [str(k) for k in names])
    frame: pd.DataFrame
    if dims:
        frame = chosen.to_dataframe(dim_order=list(dims)).reset_index()
    else:
        scalars = chosen.reset_coords(drop=True).data_vars
        frame = pd.DataFrame([{k: v.item() for k, v in scalars.items()}])
    return frame.dropna(axis="columns", how="all")


def _with_ends(dataset: xr.Dataset, names: list[str]) -> xr.Dataset:
    """The variables; those whose error is on another scale have their interval's ends, too."""
    ends = {}
    for name in names:
        scale = dataset[f"{name}_se"].attrs.get("scale") if f"{name}_se" in names else None
        if scale in ("log", "log1p") and f"{name}_low" not in dataset:
            ends[f"{name}_low"], ends[f"{name}_high"] = interval(dataset, name)
    return dataset[names].assign(ends)


def level(row: Row) -> str:
    """A noise level in words: its timestep, or the clean end."""
    clean = row["sigma"] == 0 if "sigma" in row else row["timestep"] == -1
    return CLEAN_END if clean else f"{row['timestep']:g}"


def level_in_words(here: xr.Dataset) -> str:
    """The noise level of a dataset of one step, in words."""
    clean = float(here["sigma"]) == 0
    return f"the {CLEAN_END}" if clean else f"timestep {float(here['timestep']):g}"


def spread_rows(count: int, most: int = MOST_ROWS) -> list[int]:
    """At most eleven rows, or `most`, evenly spread, the first and the last among them."""
    places = np.linspace(0, count - 1, min(count, most)).round().astype(int)
    return [int(i) for i in np.unique(places)]


LEVEL = Column("timestep t", "timestep", write=level)
START = Column("start t", "start", write=lambda row: f"{row['start']:g}")


def table_of(
    result: xr.Dataset, name: str, title: str, columns: Sequence[Column], main: bool = True
) -> Table:
    """A table over the dimensions of its first variable, which stand in its first columns.

    Of more than eleven rows along a chain eleven are shown, evenly spread; of other dimensions 24.
    The table's note says so."""
    first = next((c.name for c in columns if c.name in result.data_vars), None)
    dims = [str(d) for d in result[first].dims] if first else []
    frame = tidy(result, *dims)
    places = [_place(result, d) for d in dims if d not in [c.name for c in columns]]
    most = MOST_ROWS if dims == ["step"] else MOST_PLACES
    rows = spread_rows(len(frame), most) if len(dims) == 1 else None
    return Table(name, title, frame, (*places, *columns), rows, main)


def _place(result: xr.Dataset, dim: str) -> Column:
    """The column that says where along a dimension a row is."""
    if dim == "step" and "timestep" in result.coords:
        return LEVEL
    if dim == "start":
        return START
    return Column(str(result[dim].attrs.get("long_name", dim)) if dim in result else dim, dim)
