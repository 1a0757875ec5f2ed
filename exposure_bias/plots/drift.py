"""Drift over frames: what each term adds, and what the frames look like."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from exposure_bias.errors import InputError
from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.plots.style import colour_of, grid, legend, panels, style, unless_empty

# Variable and label; the total comes last, on top.
TERMS = (
    ("feedback", "feedback"),
    ("discretisation", "sampler"),
    ("initialisation", "start"),
    ("score", "network"),
)
FIRST = ("variance", "change", "lag 1")
TITLES = {"change": "power of change", "hf": "high frequencies"}
RELATIVE = ("variance", "change", "tails")
MOST_SHOWN = 10


def drift(
    result: xr.Dataset,
    *,
    statistics: tuple[str, ...] = FIRST,
    ax: Any = None,
    axes: Any = None,
    column: str = "double",
) -> Figure:
    """Draw every term of the drift over frames, with 95 % intervals, a panel for each statistic.

    Raises InputError for a statistic that the result does not have.
    """
    known = [str(name) for name in result["statistic"].values]
    missing = [name for name in statistics if name not in known]
    if missing:
        raise InputError(f"there is no statistic {missing[0]!r}: allowed are {', '.join(known)}")
    with style():
        figure, found = panels(statistics, ax, axes, column, 2.6)
        for axis, name in zip(found, statistics, strict=True):
            _lines(axis, result.sel(statistic=name))
            axis.set(xlabel="frame", ylabel=_label(name))
            axis.xaxis.get_major_locator().set_params(integer=True)
        legend(found[0], 3)
    return figure


def _label(name: str) -> str:
    """What an axis of a statistic's differences says."""
    words = TITLES.get(name, name)
    if name in RELATIVE:
        return f"{words} (%, right is 0)"
    if name == "hf" or name.startswith("band"):
        return f"{words} (dB, right is 0)"
    return f"{words} (right is 0)"


def _factor(row: xr.Dataset) -> float:
    return 100.0 if str(row["statistic"].item()) in RELATIVE else 1.0


def _lines(axis: Any, row: xr.Dataset) -> None:
    """One statistic's terms over frames."""
    frame = row["frame"].values
    axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    for term, label in TERMS:
        if term in row and np.isfinite(row[term]).any():
            _line(axis, frame, row, term, label, {"color": colour_of(label), "linewidth": 1.2})
    _line(axis, frame, row, "total", "total", {"color": "k", "linewidth": 1.6})
    unless_empty(axis, row["total"])


def _line(
    axis: Any, frame: Any, row: xr.Dataset, term: str, label: str, look: dict[str, Any]
) -> None:
    factor = _factor(row)
    value, half = factor * row[term].values, factor * T_QUANTILE * row[f"{term}_se"].values
    marker = "o" if len(frame) == 1 else None
    axis.plot(frame, value, label=label, marker=marker, markersize=3, **look)
    band = {"color": look["color"], "alpha": 0.2, "linewidth": 0}
    axis.fill_between(frame, value - half, value + half, **band)


def drift_frames(
    result: xr.Dataset, *, sequence: int = 0, axes: Any = None, column: str = "double"
) -> Figure:
    """Draw the true, forced and free frames of one sequence, a row of pictures for each.

    Frames of vectors and signals become one picture over frames for each. Raises InputError for a
    sequence that was not kept.
    """
    kept = result["shown"]
    if not 0 <= sequence < kept.sizes["sequence"]:
        raise InputError(
            f"sequence {sequence} was not kept: allowed are 0 to {kept.sizes['sequence'] - 1}"
        )
    one = kept.isel(sequence=sequence)
    images = "y" in one.dims and "z" not in one.dims
    with style():
        if not images:
            return _over_frames(one, axes, column)
        places = np.linspace(
            0, one.sizes["shown_frame"] - 1, min(MOST_SHOWN, one.sizes["shown_frame"])
        )
        some = one.isel(shown_frame=np.unique(places.round().astype(int)))
        rows, columns = some.sizes["shown_as"], some.sizes["shown_frame"]
        figure, found = grid(rows, columns, axes, column, 0.7)
        low, high = float(one.sel(shown_as="true").min()), float(one.sel(shown_as="true").max())
        for r, name in enumerate(some["shown_as"].values):
            for c in range(columns):
                axis = found[r, c]
                values = some.isel(shown_as=r, shown_frame=c).transpose("y", "x", "channel").values
                _picture(axis, values, low, high)
                if c == 0:
                    axis.set_ylabel(str(name), fontsize=7)
                if r == 0:
                    axis.set_title(f"{int(some['shown_frame'][c])}", fontsize=7)
    return figure


def _picture(axis: Any, values: np.ndarray, low: float, high: float) -> None:
    axis.set(xticks=[], yticks=[])
    shade = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    if values.shape[-1] == 3:
        axis.imshow(np.nan_to_num(shade))
    else:
        axis.imshow(shade.mean(-1), cmap="gray", vmin=0, vmax=1)


def _over_frames(one: xr.DataArray, axes: Any, column: str) -> Figure:
    """Every number of a frame over frames, side by side for true, forced and free."""
    names = [str(name) for name in one["shown_as"].values]
    figure, found = panels(names, None, axes, column, 2.2)
    most = float(np.abs(one.sel(shown_as="true")).max())
    for axis, name in zip(found, names, strict=True):
        values = one.sel(shown_as=name).values
        flat = values.reshape(len(values), -1).T
        first, last = int(one["shown_frame"][0]), int(one["shown_frame"][-1])
        place = (first - 0.5, last + 0.5, len(flat) - 0.5, -0.5)
        look = {"cmap": "RdBu_r", "vmin": -most, "vmax": most}
        axis.imshow(flat, aspect="auto", interpolation="none", extent=place, **look)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set_title(name, fontsize=8)
        axis.set_xlabel("frame")
    found[0].set_ylabel("number")
    return figure


def compare_drift(
    compared: xr.Dataset,
    *,
    statistic: str = "variance",
    ax: Any = None,
    axes: Any = None,
    column: str = "double",
) -> Figure:
    """Draw the total of every entry over frames, and what each changes in each term at the end.

    Raises InputError for a statistic that the result does not have.
    """
    known = [str(name) for name in compared["statistic"].values]
    if statistic not in known:
        raise InputError(f"there is no statistic {statistic!r}: allowed are {', '.join(known)}")
    here = compared.sel(statistic=statistic)
    with style():
        figure, (left, right) = panels(("total", "change"), ax, axes, column, 2.8)
        left.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        for k, entry in enumerate(compared["entry"].values):
            look = {"color": f"C{k}", "linewidth": 1.3}
            one = here.isel(entry=k)
            _line(left, one["frame"].values, one, "total", str(entry), look)
        left.set(xlabel="frame", ylabel=_label(statistic))
        left.xaxis.get_major_locator().set_params(integer=True)
        legend(left, 2)
        _changes(right, here)
    return figure


def _changes(axis: Any, here: xr.Dataset) -> None:
    """How far each entry is from the first at the last known frame, term by term."""
    total = np.isfinite(here["total"].values).all(0)
    end = here.isel(frame=int(np.flatnonzero(total)[-1]) if total.any() else 0)
    terms = [("total", "total", "k"), *((t, label, colour_of(label)) for t, label in TERMS)]
    terms = [one for one in terms if one[0] in end]
    entries, factor = range(1, end.sizes["entry"]), _factor(end)
    for place, (term, label, colour) in enumerate(terms):
        height = np.array(entries) + 0.13 * (place - (len(terms) - 1) / 2)
        value = factor * end[f"{term}_difference"].values[1:]
        half = factor * np.nan_to_num(T_QUANTILE * end[f"{term}_difference_se"].values[1:])
        axis.errorbar(value, height, xerr=half, fmt="o", markersize=3, color=colour, label=label)
    axis.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axis.set_yticks(list(entries), [str(e) for e in end["entry"].values[1:]], fontsize=7)
    axis.set_ylim(end.sizes["entry"] - 0.4, 0.4)
    unit = " (%)" if factor > 1 else ""
    axis.set_xlabel(f"change at frame {int(end['frame'])}{unit}")
    legend(axis, 3)
