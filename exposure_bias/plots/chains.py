"""Chains from true states: rollouts, their ranks, and where along the chain a gap arises."""

from typing import Any

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from exposure_bias.jackknife import T_QUANTILE, interval
from exposure_bias.plots.style import (
    REFERENCE,
    below,
    grid,
    legend,
    panels,
    percent,
    plain,
    style,
)


def rollouts(
    results: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """Training error S (one step) and generation error A (all steps) by start.

    Lines show what a perfect sampler would.

    V and 2V are those of Gaussian data. With replicates also U and W, calibration W/U and the
    accumulated mean error (U − S)/S; last the state error by the number of steps taken. Bands are
    95 %."""
    calibrated = "U" in results
    names = {"S": "S: one step", "A": "A: all steps"} | (
        {"U": "U: in common", "W": "W: spread"} if calibrated else {}
    )
    with style():
        names_of = ["errors", "depth", *(["calibration", "excess"] if calibrated else [])]
        figure, places = panels(names_of, ax, axes, column, 2.7)
        named = dict(zip(names_of, places, strict=True))
        for name, label in names.items():
            _band(named["errors"], results, name, label)
        if "S_gaussian" in results:
            start = results["timestep"]
            named["errors"].plot(
                start, results["S_gaussian"], label="V, 2V (Gaussian)", **REFERENCE
            )
            named["errors"].plot(start, 2 * results["S_gaussian"], **REFERENCE)
        named["errors"].set(ylabel="mean squared error per pixel", yscale="log")
        if calibrated:
            _calibration(named["calibration"], results)
            _band(named["excess"], results, "U_minus_S_relative", "model")
            named["excess"].axhline(0, color="0.7", linewidth=0.8, zorder=0)
            named["excess"].set(
                xlim=named["calibration"].get_xlim(), ylabel="mean error added, (U − S)/S"
            )
        for name in set(named) - {"depth"}:
            named[name].set_xlabel("start (timestep)")
            # Noise is at the left, as along every chain.
            named[name].xaxis.set_inverted(True)
        for name in set(named) - {"depth", "excess"}:
            legend(named[name])
        _depth(named["depth"], results)
    return figure


def _calibration(axis: Any, results: xr.Dataset) -> None:
    """Spread over skill by start, with its interval."""
    start = results["timestep"]
    drawn = axis.plot(start, results["W_over_U"], marker="o", markersize=3, label="model")
    low, high = results["W_over_U_low"], results["W_over_U_high"]
    axis.fill_between(start, low, high, alpha=0.3, color=drawn[0].get_color())
    if "W_gaussian" in results:
        reference = results["W_gaussian"] / results["U_gaussian"]
        axis.plot(start, reference, label="Gaussian ref.", **REFERENCE)
    axis.axhline(1, color="0.7", linewidth=0.8, zorder=0)
    axis.set(ylabel="spread / skill, W/U")


def _band(axis: Any, results: xr.Dataset, name: str, label: str) -> None:
    low, high = interval(results, name)
    (line,) = axis.plot(results["timestep"], results[name], marker="o", markersize=3, label=label)
    axis.fill_between(
        results["timestep"], low, high, alpha=0.3, color=line.get_color(), linewidth=0
    )


def _depth(axis: Any, results: xr.Dataset) -> None:
    for colour, row in zip(
        sns.color_palette("viridis", results.sizes["start"]),
        range(results.sizes["start"]),
        strict=True,
    ):
        here = results.isel(start=row)
        axis.plot(
            here["depth"],
            here["state_error"],
            color=colour,
            marker=".",
            label=f"t = {float(here['timestep']):g}",
        )
        if "state_error_gaussian" in results:
            axis.plot(
                here["depth"], here["state_error_gaussian"], **(REFERENCE | {"color": colour})
            )
    axis.set(xscale="log", yscale="log", xlabel="steps taken", ylabel="RMSE of x̂ − x (teacher)")
    plain(axis.xaxis)
    legend(axis, 3)


def rank_histogram(results: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """Ranks of x_0 among the chains by start; the line is even.

    Over pixels and along the data's leading directions."""
    starts, ranks = results.sizes["start"], results["rank"].values
    with style():
        figure, places = grid(1, starts, axes, column, 1.9, sharey=True)
        for row, axis in enumerate(places[0]):
            here = results.isel(start=row)
            for shift, name, label in (
                (-0.2, "ranks", "pixels"),
                (0.2, "ranks_direction", "directions"),
            ):
                axis.bar(
                    ranks + shift,
                    here[name],
                    0.4,
                    yerr=T_QUANTILE * here[f"{name}_se"].fillna(0),
                    label=label,
                    error_kw={"elinewidth": 0.8},
                )
            axis.axhline(1 / len(ranks), **REFERENCE)
            axis.set(
                title=f"from t = {float(here['timestep']):g}",
                xlabel="chains below $x_0$",
                xticks=ranks,
            )
            axis.title.set_fontsize(8)
        places[0, 0].set_ylabel("share")
        below(figure, places[0, 0], column, axes is None)
    return figure


def telescope(
    results: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """The variance gap by target, stacked from its brackets.

    At the clean end each bracket with its 95 % interval.

    Where there are spectra, also the brackets at high frequencies in dB and by frequency.
    """
    spectral = "bracket_high" in results
    with style():
        names = ["along", "brackets", *(["brackets_high", "spectrum"] if spectral else [])]
        figure, places = panels(names, ax, axes, column, 2.8)
        _stacked(places[0], results)
        _brackets(places[1], results, "bracket", "variance gap at the clean end (%), from")
        percent(places[1].xaxis)
        if spectral:
            _brackets(places[2], results, "bracket_high", "HF at the clean end (dB), from")
            end = results["bracket_spectrum"].isel(target=-1)
            for colour, row in zip(_block_colours(results), range(end.sizes["block"]), strict=True):
                here, name = end.isel(block=row), str(results["block"].values[row])
                places[3].plot(end["frequency"], here, color=colour, marker=".", label=name)
            places[3].axhline(0, color="0.7", linewidth=0.8, zorder=0)
            legend(places[3], 3)
            places[3].set(xlabel="frequency (cycles per pixel)", ylabel="relative power, clean end")
    return figure


def _block_colours(results: xr.Dataset) -> Any:
    return sns.color_palette("viridis", results.sizes["block"])


def _stacked(axis: Any, results: xr.Dataset) -> None:
    places, bracket = np.arange(results.sizes["target"]), results["bracket"].values
    for row, (block, colour) in enumerate(
        zip(results["block"].values, _block_colours(results), strict=True)
    ):
        # Gains pile up above zero and losses below.
        same_sign = np.where(np.sign(bracket[:row]) == np.sign(bracket[row]), bracket[:row], 0)
        axis.bar(places, bracket[row], 0.7, bottom=same_sign.sum(0), color=colour, label=block)
    axis.errorbar(
        places,
        results["gap"],
        T_QUANTILE * results["gap_se"].fillna(0),
        fmt="o",
        color="k",
        markersize=3,
        label="gap",
    )
    if "gap_gaussian" in results:
        axis.plot(
            places,
            results["gap_gaussian"],
            linestyle="none",
            marker="_",
            markersize=14,
            color="0.35",
            label="Gaussian ref.",
        )
    axis.axhline(0, color="0.7", linewidth=0.8)
    names = [
        "clean" if s == 0 else f"{t:g}"
        for t, s in zip(results["timestep"].values, results["sigma"].values, strict=True)
    ]
    axis.set(
        xticks=places,
        xticklabels=names,
        xlabel="level t (timestep)",
        ylabel="variance gap (%)",
    )
    percent(axis.yaxis)
    legend(axis, 3)


def _brackets(axis: Any, results: xr.Dataset, name: str, label: str) -> None:
    end = results.isel(target=-1)
    places = np.arange(results.sizes["block"])
    axis.barh(
        places,
        end[name],
        xerr=T_QUANTILE * end[f"{name}_se"].fillna(0),
        color=_block_colours(results),
        error_kw={"elinewidth": 0.8},
    )
    if f"{name}_gaussian" in results:
        axis.plot(
            end[f"{name}_gaussian"],
            places,
            linestyle="none",
            marker="|",
            markersize=10,
            color="0.35",
            label="Gaussian ref.",
        )
        legend(axis, 1)
    axis.axvline(0, color="0.7", linewidth=0.8)
    axis.set(yticks=places, yticklabels=results["block"].values, xlabel=label)
    axis.invert_yaxis()
