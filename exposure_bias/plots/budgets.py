"""Error budgets: of one chain, and of several samplers and lengths."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.plots.levels import variance_gap
from exposure_bias.plots.style import (
    REFERENCE,
    STEP_LABEL,
    colour_of,
    legend,
    panels,
    percent,
    plain,
    style,
)

# Parts of a budget: variable and label.
BUDGET_PARTS = (
    ("discretisation", "sampler"),
    ("score", "network"),
    ("initialisation", "start"),
)


def budget(
    result: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """An error budget: its parts as bars with 95 % intervals, and those of the gap along the chain.

    Of several samplers: the solver's share against network calls, and the parts by chain length.
    """
    if "sampler" in result.dims:
        return _solver_curve(result, ax, axes, column)
    with style():
        figure, (bars, along) = panels(("parts", "along"), ax, axes, column, 2.9, [1.2, 1])
        relative = [
            s for s in result["statistic"].values if s == "gap" or str(s).startswith("restart")
        ]
        _budget_bars(bars, result.sel(statistic=relative), "statistic")
        bars.set_ylabel("error of the variance (%)")
        percent(bars.yaxis)
        along.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        if "score_by_level" in result:
            gap = result.sel(curve="gap")
            for part, label in BUDGET_PARTS[:2]:
                value, half = gap[f"{part}_by_level"], T_QUANTILE * gap[f"{part}_by_level_se"]
                along.plot(gap["step"], value, color=colour_of(label), label=label)
                band = {"color": colour_of(label), "alpha": 0.25, "linewidth": 0}
                along.fill_between(gap["step"], value - half, value + half, **band)
            along.plot(gap["step"], gap["total_by_level"], label="total", **REFERENCE)
            legend(along, 3)
        along.set(xlabel=STEP_LABEL, ylabel="variance gap (%)")
        percent(along.yaxis)
    return figure


def diagnosis(
    result: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """What `diagnose` found: the budget, or of a recording the gap."""
    draw = budget if "score" in result else variance_gap
    return draw(result, ax=ax, axes=axes, column=column)


def _budget_bars(axis: Any, result: xr.Dataset, along: str) -> None:
    """A group of bars for each row, with the total as a mark."""
    places = np.arange(result.sizes[along])
    shown = [p for p in BUDGET_PARTS if bool((result[p[0]].fillna(0) != 0).any())]
    width = 0.8 / max(len(shown), 1)
    for k, (part, label) in enumerate(shown):
        half = T_QUANTILE * result[f"{part}_se"].fillna(0)
        at = places + (k - (len(shown) - 1) / 2) * width
        axis.bar(
            at,
            result[part],
            0.9 * width,
            yerr=half,
            color=colour_of(label),
            label=label,
            error_kw={"linewidth": 1},
        )
    half = T_QUANTILE * result["total_se"].fillna(0)
    axis.errorbar(
        places,
        result["total"],
        half,
        fmt="_",
        color="k",
        markersize=10,
        linewidth=0.8,
        label="total",
    )
    axis.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    axis.set_xticks(places, [_named(str(v)) for v in result[along].values], fontsize=7)
    legend(axis, 4)


def _named(row: str) -> str:
    """A row of a budget as the tables name it."""
    return "variance" if row == "gap" else row.replace("restart ", "restart at\nt = ")


def _solver_curve(result: xr.Dataset, ax: Any, axes: Any, column: str) -> Figure:
    gap = result.sel(statistic="gap")
    with style():
        figure, (calls, bars) = panels(("calls", "parts"), ax, axes, column, 2.9)
        for sampler in gap["sampler"].values:
            here = gap.sel(sampler=sampler)
            size, half = abs(here["discretisation"]), T_QUANTILE * here["discretisation_se"]
            low = np.maximum(size - half, size / 10)  # a logarithmic axis has no zero
            calls.errorbar(
                here["calls"],
                size,
                [size - low, half],
                marker="o",
                markersize=3,
                linewidth=1,
                capsize=2,
                label=sampler,
            )
        score = abs(gap["score"]).isel(steps=-1)
        calls.axhline(float(score.median()), label="network's share", **REFERENCE)
        calls.set(
            xscale="log",
            yscale="log",
            xlabel="network calls",
            ylabel="size of the sampler's share (%)",
        )
        legend(calls)
        plain(calls.xaxis)
        percent(calls.yaxis)
        first = gap.isel(sampler=0)
        _budget_bars(bars, first, "steps")
        bars.set(xlabel=f"steps of {first['sampler'].item()}", ylabel="error of the variance (%)")
        percent(bars.yaxis)
    return figure
