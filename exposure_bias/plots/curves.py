"""Curves of any result along one numeric dimension."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from exposure_bias.errors import InputError
from exposure_bias.jackknife import interval
from exposure_bias.plots.style import REFERENCE, STEP_LABEL, panels, style
from exposure_bias.results.generic import curves_of, unit_of, words_of


def curves(
    result: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """Draw up to four variables of any result, each along its numeric dimension.

    Bands are 95 % intervals, and a dashed line is the value that is right. Raises InputError where
    no variable lies along one numeric dimension.
    """
    names = curves_of(result)
    if not names:
        raise InputError("no variable of this dataset lies along one numeric dimension: draw it")
    with style():
        figure, places = panels(names, ax, axes, column, 2.6)
        for axis, name in zip(places, names, strict=True):
            _curve(axis, result, name)
    return figure


def _curve(axis: Any, result: xr.Dataset, name: str) -> None:
    dim = str(result[name].dims[0])
    x, right = result[dim].values, result[name].attrs.get("right")
    (line,) = axis.plot(x, result[name], marker="." if len(x) < 30 else None)
    ends = _ends(result, name)
    if ends is not None:
        axis.fill_between(x, *ends, color=line.get_color(), alpha=0.3, linewidth=0)
    if isinstance(right, int | float | np.number):
        axis.axhline(float(right), **REFERENCE)
    unit = unit_of(result, name).strip()
    axis.set(
        xlabel=STEP_LABEL if dim == "step" else words_of(result, dim),
        ylabel=words_of(result, name) + (f" ({unit})" if unit else ""),
    )


def _ends(result: xr.Dataset, name: str) -> tuple[Any, Any] | None:
    if f"{name}_low" in result and f"{name}_high" in result:
        return result[f"{name}_low"], result[f"{name}_high"]
    return interval(result, name) if f"{name}_se" in result else None
