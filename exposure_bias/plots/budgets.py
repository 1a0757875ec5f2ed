"""Error budgets: of one chain, and of several samplers and lengths."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.plots.levels import variance_gap
from exposure_bias.plots.style import REFERENCE, STEP_LABEL, legend, panels, plain, style

# Parts of a budget: variable, label, colour of the palette.
BUDGET_PARTS = (
    ("discretisation", "sampler", 0),
    ("score", "network", 1),
    ("initialisation", "start", 2),
)


def budget(result: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """An error budget: its parts as bars with 95 % intervals, and those of the gap along the chain.

    Of several samplers: the solver's share against network calls, and the parts by chain length.
    """
    if "sampler" in result.dims:
        return _solver_curve(result, axes, column)
    with style():
        figure, (bars, along) = panels(2, axes, column, 2.9, [1.2, 1])
        relative = [
            s for s in result["statistic"].values if s == "gap" or str(s).startswith("restart")
        ]
        _budget_bars(bars, result.sel(statistic=relative), "statistic")
        bars.set_ylabel("relative variance")
        bars.tick_params(axis="x", rotation=20)
        along.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        if "score_by_level" in result:
            gap = result.sel(curve="gap")
            for part, label, colour in BUDGET_PARTS[:2]:
                value, half = gap[f"{part}_by_level"], T_QUANTILE * gap[f"{part}_by_level_se"]
                along.plot(gap["step"], value, color=f"C{colour}", label=label)
                band = {"color": f"C{colour}", "alpha": 0.25, "linewidth": 0}
                along.fill_between(gap["step"], value - half, value + half, **band)
            along.plot(gap["step"], gap["total_by_level"], label="total", **REFERENCE)
            legend(along, 3)
        along.set(xlabel=STEP_LABEL, ylabel="relative variance gap")
    return figure


def diagnosis(result: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """What `diagnose` found: the budget, or of a recording the gap."""
    draw = budget if "score" in result else variance_gap
    return draw(result, axes=axes, column=column)


def _budget_bars(axis: Any, result: xr.Dataset, along: str) -> None:
    """A group of bars for each row, with the total as a mark."""
    places = np.arange(result.sizes[along])
    shown = [p for p in BUDGET_PARTS if bool((result[p[0]].fillna(0) != 0).any())]
    width = 0.8 / max(len(shown), 1)
    for k, (part, label, colour) in enumerate(shown):
        half = T_QUANTILE * result[f"{part}_se"].fillna(0)
        at = places + (k - (len(shown) - 1) / 2) * width
        axis.bar(
            at,
            result[part],
            0.9 * width,
            yerr=half,
            color=f"C{colour}",
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
    axis.set_xticks(places, [str(v) for v in result[along].values], fontsize=7)
    legend(axis, 4)


def _solver_curve(result: xr.Dataset, axes: Any, column: str) -> Figure:
    gap = result.sel(statistic="gap")
    with style():
        figure, (calls, bars) = panels(2, axes, column, 2.9)
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
            ylabel="|sampler's share of the variance|",
        )
        legend(calls)
        plain(calls.xaxis)
        first = gap.isel(sampler=0)
        _budget_bars(bars, first, "steps")
        bars.set(xlabel=f"steps of {first['sampler'].item()}", ylabel="relative variance")
    return figure
