"""Which levels a chain of few calls goes through: the chosen ones, and what they gain."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.plots.style import legend, panels, plain, style


def chosen_levels(
    result: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "single"
) -> Figure:
    """Draw the noise-to-signal ratio of each call's level."""
    with style():
        figure, (levels,) = panels(("levels",), ax, axes, column, 2.6)
        ratio = result["ratio"].values
        finite = np.isfinite(ratio)
        levels.plot(result["step"].values[finite], ratio[finite], "o-", markersize=4)
        levels.set(yscale="log", xlabel="network call", ylabel="σ/α")
        levels.xaxis.get_major_locator().set_params(integer=True)
    return figure


def level_curve(
    result: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """Draw the sampler's share against calls, predicted and certified, for every rule."""
    decibel = bool(result.attrs.get("decibels"))
    factor, unit = (1.0, "dB") if decibel else (100.0, "%")
    with style():
        figure, found = panels(("predicted", "certified"), ax, axes, column, 2.6)
        for axis, name in zip(found, ("predicted", "certified"), strict=True):
            for rule in result["rule"].values:
                here = result.sel(rule=rule)
                axis.errorbar(
                    here["calls"],
                    factor * here[name],
                    factor * T_QUANTILE * here[f"{name}_se"].fillna(0),
                    marker="o",
                    markersize=3,
                    linewidth=2 if rule == "chosen" else 1,
                    capsize=2,
                    label=str(rule),
                )
            axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
            axis.set(xscale="log", xlabel="network calls", ylabel=f"sampler's share ({unit})")
            axis.set_title(name, fontsize=8)
            plain(axis.xaxis)
        legend(found[0])
    return figure
