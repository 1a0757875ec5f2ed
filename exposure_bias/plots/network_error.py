"""Errors on true states: the maps of slopes and costs, strict exposure, and calibration curves."""

from typing import Any

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.plots.style import REFERENCE, legend, panels, style

LEVELS = 3  # that the reliability diagram shows
RATIO = r"noise-to-signal ratio $\sigma/\alpha$"


def network_error(
    results: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """The cost by level and band, and strict exposure at each cut; the slopes where neither is."""
    draw = {"cost": _costs, "exposure": _exposure}
    parts = [name for name in draw if name in results]
    if not parts:
        return slopes(results, ax=ax, axes=axes, column=column)
    with style():
        figure, places = panels(parts, ax, axes, column, 3.2)
        for axis, name in zip(places, parts, strict=True):
            draw[name](axis, results)
    return figure


def slopes(
    results: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """The slopes of all functions at all levels, in standard errors.

    A dot marks what is certain at one 5 % error rate for the whole table.
    """
    with style():
        figure, places = panels(("slopes",), ax, axes, column, 3.6)
        _slopes(places[0], results)
    return figure


def _slopes(axis: Any, results: xr.Dataset) -> None:
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = (results["slope"] / results["slope_se"]).values.T
    drawn = axis.imshow(distance, aspect="auto", cmap="RdBu_r", vmin=-8, vmax=8, origin="upper")
    certain = np.argwhere(results["p_adjusted"].values.T < 0.05)
    axis.plot(certain[:, 1], certain[:, 0], "k.", markersize=2)
    _levels(axis, results)
    axis.set_yticks(range(results.sizes["test"]), results["test"].values, fontsize=6)
    axis.figure.colorbar(drawn, ax=axis, label="slope / standard error (right is 0)", shrink=0.9)


def _levels(axis: Any, results: xr.Dataset) -> None:
    ratios = (results["sigma"] / results["alpha"]).values
    places = np.unique(np.linspace(0, len(ratios) - 1, 5).round().astype(int))
    axis.set_xticks(places, [f"{ratios[i]:.2g}" for i in places], fontsize=7)
    axis.set_xlabel(RATIO)


def _costs(axis: Any, results: xr.Dataset) -> None:
    """Cost by level, one stack for each band, in per cent of the samples' variance."""
    cost = 100 * results["cost"].values
    colours = sns.color_palette("viridis", cost.shape[1])
    places = np.arange(len(cost))
    for band in range(cost.shape[1]):
        same = np.where(np.sign(cost[:, :band]) == np.sign(cost[:, [band]]), cost[:, :band], 0)
        axis.bar(
            places,
            cost[:, band],
            0.8,
            bottom=same.sum(1),
            color=colours[band],
            label=str(results["band"].values[band]),
        )
    axis.axhline(0, **REFERENCE)
    _levels(axis, results)
    axis.set_ylabel("change of the samples' variance (%)")
    legend(axis, 1)


def _exposure(axis: Any, results: xr.Dataset) -> None:
    names = {"above": "from above the cut", "restart": "restart below it", "exposure": "exposure"}
    places = np.arange(results.sizes["cut"])
    for shift, (name, label) in enumerate(names.items()):
        axis.errorbar(
            places + 0.2 * (shift - 1),
            100 * results[name],
            100 * T_QUANTILE * results[f"{name}_se"].fillna(0),
            fmt="o",
            markersize=4,
            label=label,
        )
    floor = 100 * float(results["floor"][0])
    axis.axhspan(-floor, floor, color="0.9", zorder=0, label="floor of exposure")
    axis.axhline(0, **REFERENCE)
    axis.set_xticks(places, [f"{cut:.2g}" for cut in results["cut"].values])
    axis.set(xlabel=r"cut at $\sigma/\alpha$", ylabel="change of the samples' variance (%)")
    legend(axis, 1)


def reliability(
    results: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """Mean x_0 against mean x̂_0 by band, at three noise levels: a calibration curve.

    Both are in standard deviations of a linear prediction. Right is the diagonal.
    """
    chosen = np.linspace(0, results.sizes["level"] - 1, LEVELS + 2).round().astype(int)[1:-1]
    with style():
        figure, places = panels([f"level_{place}" for place in chosen], ax, axes, column, 2.6)
        colours = sns.color_palette("viridis", results.sizes["band"])
        for axis, place in zip(places, chosen, strict=True):
            here = results.isel(level=int(place))
            for band, colour in enumerate(colours):
                one = here.isel(band=band)
                axis.errorbar(
                    one["reliability_predicted"],
                    one["reliability_observed"],
                    T_QUANTILE * one["reliability_observed_se"].fillna(0),
                    color=colour,
                    marker=".",
                    linewidth=1,
                    label=str(one["band"].item()),
                )
            axis.axline((0, 0), slope=1, **REFERENCE)
            ratio = float(here["sigma"] / here["alpha"])
            axis.set(
                title=rf"$\sigma/\alpha$ = {ratio:.2g}",
                xlabel=r"prediction $\hat{x}_0$",
                xlim=(-4, 4),
                ylim=(-4, 4),
            )
        places[0].set_ylabel(r"image $x_0$")
        places[-1].legend(fontsize=6, loc="upper left")
    return figure


def effective_level(
    results: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """The effective σ/α over the level's own: as the network says, and by power in each frequency.

    Dashed lines are a perfect network of Gaussian data with the same steps.
    """
    spectral = "power_ratio" in results
    with style():
        figure, places = panels(["network", "power"][: 1 + spectral], ax, axes, column, 2.6)
        _ratio_of(places[0], results, "network_ratio", "the network's say")
        if spectral:
            shown = np.linspace(0, results.sizes["frequency"] - 1, 4).round().astype(int)
            for colour, place in zip(
                sns.color_palette("viridis", 4), np.unique(shown), strict=False
            ):
                one = results.isel(frequency=int(place))
                label = f"{float(one['frequency']):.2g} cycles per pixel"
                _ratio_of(places[1], one, "power_ratio", label, colour)
            legend(places[1], 1)
    return figure


def _ratio_of(axis: Any, results: xr.Dataset, name: str, label: str, colour: Any = None) -> None:
    ratio = (results["sigma"] / results["alpha"]).values
    value, half = results[name].values, T_QUANTILE * results[f"{name}_se"].values
    (line,) = axis.plot(ratio, value, marker=".", color=colour, label=label)
    axis.fill_between(
        ratio, value * np.exp(-half), value * np.exp(half), color=line.get_color(), alpha=0.3
    )
    if f"{name}_gaussian" in results:
        axis.plot(ratio, results[f"{name}_gaussian"], color=line.get_color(), linestyle="--")
    axis.axhline(1, **REFERENCE)
    axis.set(
        xscale="log", xlabel=RATIO, ylabel=f"effective over own $\\sigma/\\alpha$, {label}"[:46]
    )
    axis.invert_xaxis() if not axis.xaxis_inverted() else None
