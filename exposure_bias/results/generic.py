"""What is said of a result whose kind is not known, or that says no more of itself.

All words come from the dataset: the names, `long_name`, `units` and `right` of its variables."""

from collections.abc import Iterable

import numpy as np
import xarray as xr

from exposure_bias.results.numbers import half_of, missing, number
from exposure_bias.results.tables import CLEAN_END, Column, Table, table_of
from exposure_bias.results.terms import ENDINGS

LARGEST = 100_000  # rows of a table; a number for each pixel is no table
MOST_CURVES = 4
WITHOUT_UNIT = ("", "1", "count", "text")


def main_variables(result: xr.Dataset) -> list[str]:
    """Return the numeric variables of a result that are no error, end or reference of another."""
    return [
        str(name)
        for name, variable in result.data_vars.items()
        if variable.dtype.kind in "iufb" and not _belongs(str(name), result)
    ]


def _belongs(name: str, result: xr.Dataset) -> bool:
    return any(name.endswith(e) and name.removesuffix(e) in result.data_vars for e in ENDINGS)


def generic_sentence(result: xr.Dataset, names: Iterable[str] = ()) -> str:
    """Say one number of a result: the first of these that it has, at its last known place.

    Parameters
    ----------
    result
        Any dataset.
    names
        Variables to choose from, the best first; by default all numeric ones.
    """
    here = main_variables(result)
    chosen = next((n for n in names if n in here), here[0] if here else None)
    if chosen is None:
        return "This result holds no number, and so no interval."
    known = np.argwhere(np.isfinite(result[chosen].values.astype(float)))
    words = words_of(result, chosen)
    if not len(known):
        return f"The {words} is not known anywhere, and so it has no interval."
    dims = result[chosen].dims
    own = [n for n in (chosen, *(f"{chosen}{e}" for e in ("_se", "_low", "_high"))) if n in result]
    one = result[own].isel(dict(zip(dims, map(int, known[-1]), strict=True)))
    value = number(float(one[chosen]), half_of(one, chosen), signed="right" in result[chosen].attrs)
    places = [_at(one, str(dim)) for dim in dims]
    where = f" at {', '.join(places)}" if places else ""
    right = result[chosen].attrs.get("right")
    aim = "" if right is None else f" ({number(float(right))} is right)"
    return f"The {words} is {value}{unit_of(result, chosen)}{where}{aim}{missing(one, chosen)}."


def _at(one: xr.Dataset, dim: str) -> str:
    if dim == "step" and {"timestep", "sigma"} <= set(one.coords):
        return f"the {CLEAN_END}" if float(one["sigma"]) == 0 else f"timestep {one['timestep']:g}"
    if dim not in one.coords:
        return f"the last {dim}"
    value = one[dim].item()
    return f"{words_of(one, dim)} {value:g}" if isinstance(value, float) else f"{dim} {value}"


def words_of(result: xr.Dataset, name: str) -> str:
    """Return a variable's name in words."""
    return str(result[name].attrs.get("long_name", name.replace("_", " ")))


def unit_of(result: xr.Dataset, name: str) -> str:
    """Return a variable's unit after a blank, or "" where it has none."""
    unit = str(result[name].attrs.get("units", ""))
    return "" if unit in WITHOUT_UNIT else f" {unit}"


def generic_tables(result: xr.Dataset, name: str) -> list[Table]:
    """Return a table for every set of dimensions that some numeric variable has."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for variable in main_variables(result):
        groups.setdefault(tuple(map(str, result[variable].dims)), []).append(variable)
    found: list[Table] = []
    for dims, names in groups.items():
        if int(np.prod([result.sizes[d] for d in dims], dtype=int)) > LARGEST:
            continue
        over = f" by {' and '.join(dims)}" if found and dims else ""
        title = f"{name.replace('_', ' ')}{over}"
        columns = [Column(_heading(result, n), n, signed=_signed(result, n)) for n in names]
        found.append(table_of(result, title.replace(" ", "_"), title, columns, main=not found))
    return found


def _heading(result: xr.Dataset, name: str) -> str:
    unit = unit_of(result, name).strip()
    return f"{words_of(result, name)} ({unit})" if unit else words_of(result, name)


def _signed(result: xr.Dataset, name: str) -> bool:
    right = result[name].attrs.get("right")
    return right == 0


def curves_of(result: xr.Dataset) -> list[str]:
    """Return the variables that can be drawn as curves: those along one numeric dimension."""
    return [
        name
        for name in main_variables(result)
        if result[name].ndim == 1
        and result.sizes[result[name].dims[0]] > 1
        and result[result[name].dims[0]].dtype.kind in "iuf"
    ][:MOST_CURVES]
