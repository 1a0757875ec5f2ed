"""Several models, samplers or chain lengths side by side."""

from typing import Any

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from exposure_bias.jackknife import T_QUANTILE, interval
from exposure_bias.plots.style import (
    PALETTE,
    REFERENCE,
    STEP_LABEL,
    below,
    panels,
    percent,
    style,
    wrapped,
)


def chain_length_fid(
    curve: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """Fréchet distance, KID, precision and recall against chain length.

    The distance is bias-corrected where the samples allow.

    Bands are 95 % intervals; grey is real against real images. Against training iteration where the
    curve has that."""
    along = "iteration" if "iteration" in curve.dims else "length"
    corrected = bool(np.isfinite(curve["frechet_corrected"]).all())
    frechet = "frechet_corrected" if corrected else "frechet"
    title = curve.attrs["measure"] + (
        ", bias-corrected" if corrected else f", plug-in, n = {curve.attrs['n']}"
    )
    kernel = (
        "KID" if curve.attrs["measure"] == "FID" else "kernel distance (features)"
    )  # the I is Inception's
    shown = [(frechet, title), ("kid", kernel), ("precision", "precision"), ("recall", "recall")]
    shown = [pair for pair in shown if pair[0] in curve]
    others = [dim for dim in curve[frechet].dims if dim != along]
    lines = curve.stack(line=others, create_index=False) if others else curve.expand_dims("line")
    with style():
        figure, places = panels([name for name, _ in shown], ax, axes, column, 2.5)
        for axis, (name, label) in zip(places, shown, strict=True):
            floor = float(curve[f"floor_{name}"])
            if f"floor_{name}_se" in curve and np.isfinite(curve[f"floor_{name}_se"]):
                low, high = interval(curve, f"floor_{name}")
                axis.axhspan(float(low), float(high), color="0.9", linewidth=0)
            axis.axhline(floor, label="real against real", **REFERENCE)
            for i in range(lines.sizes["line"]):
                _quality(axis, lines.isel(line=i), name, along)
            axis.set(
                xlabel="training iteration" if along == "iteration" else "chain length $T'$",
                ylabel=wrapped(label),
            )
            if along == "length":
                axis.set_xscale("log")
                axis.set_xticks(
                    curve[along].values, [str(length) for length in curve[along].values], fontsize=7
                )
                axis.minorticks_off()
        below(figure, places[0], column, ax is None and axes is None)
    return figure


def _quality(axis: Any, line: xr.Dataset, name: str, along: str) -> None:
    """One model's and sampler's curve of a measure, with its interval where it has one."""
    others = [d for d in ("model", "sampler", "length") if d in line.coords and d != along]
    called = ", ".join(str(line[dim].values) for dim in others)
    (drawn,) = axis.plot(line[along], line[name], marker="o", markersize=3, label=called)
    if f"{name}_se" in line:
        low, high = interval(line, name)
        colour = drawn.get_color()
        axis.fill_between(line[along], low, high, color=colour, alpha=0.2, linewidth=0)


def compare(
    compared: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """Differences of each entry from the first, with 95 % intervals.

    Scalars left, curves along the chain right."""
    entries = list(compared["entry"].values)
    colours = sns.color_palette(PALETTE, len(entries))
    curves = {
        "gap": "variance gap (%)",
        "epsilon_ratio": r"$\|\hat\epsilon\|$ chain / forward",
        "state_rmse": r"RMSE of $\hat x_t - x_t$",
    }
    shown = [name for name in curves if name in compared]
    scalar, title, unit = _scalar(compared)
    with style():
        figure, (bars, *others) = panels(["end", *shown], ax, axes, column, 2.6)
        for i, (entry, colour) in enumerate(zip(entries, colours, strict=True)):
            height, half = float(scalar[0][i]), T_QUANTILE * float(np.nan_to_num(scalar[1][i]))
            bars.errorbar(i, height, half, fmt="o", color=colour, capsize=3, label=entry)
            for axis, name in zip(others, shown, strict=True):
                if i == 0:
                    axis.axhline(0, color=colour, linewidth=1)
                    continue
                here = compared.isel(entry=i)
                moved, spread = (
                    here[f"{name}_difference"],
                    T_QUANTILE * here[f"{name}_difference_se_total"],
                )
                axis.plot(compared["step"], moved, color=colour)
                axis.fill_between(
                    compared["step"],
                    moved - spread,
                    moved + spread,
                    color=colour,
                    alpha=0.25,
                    linewidth=0,
                )
        bars.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        bars.set(xticks=[], xlim=(-0.5, len(entries) - 0.5), ylabel=unit, title=title)
        for axis, name in zip(others, shown, strict=True):
            axis.set(xlabel=STEP_LABEL, title=curves[name])
        if "gap" in shown:
            percent(others[shown.index("gap")].yaxis)
        if others:
            others[0].set_ylabel(wrapped(f"difference from {entries[0]}"))
        below(figure, bars, column, ax is None and axes is None)
    return figure


def _scalar(compared: xr.Dataset) -> tuple[tuple[xr.DataArray, xr.DataArray], str, str]:
    """What stands at the left of a comparison: high frequencies.

    Of states without space it is the gap at the clean end."""
    if "hf" in compared:
        return (compared["hf"], compared["hf_se"]), "high frequencies", "HF (dB)"
    gap, error = (compared[k].isel(step=-1) for k in ("gap", "gap_se"))
    return (gap, error), "variance at the clean end", "variance gap"
