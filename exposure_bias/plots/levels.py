"""What a recording says level by level: gaps, spectra, norms and state errors."""

from typing import Any

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from exposure_bias.jackknife import T_QUANTILE, interval
from exposure_bias.plots.style import (
    REFERENCE,
    STEP_LABEL,
    legend,
    panels,
    percent,
    picture,
    style,
    unless_empty,
)


def state_error(
    errors: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """RMSE of ξ_t along the chain with its 95 % band and the Gaussian reference.

    Beside it the RMSE by element of the state at the clean end.
    """
    end = errors["rmse"].isel(step=-1)
    with style():
        figure, (axis, panel) = panels(("along", "clean_end"), ax, axes, column, 2.6, [1.6, 1])
        low, high = interval(errors, "pooled_rmse")
        axis.plot(errors["step"], errors["pooled_rmse"], label="model")
        axis.fill_between(errors["step"], low, high, alpha=0.3, linewidth=0)
        if "pooled_rmse_gaussian" in errors:
            reference = errors["pooled_rmse_gaussian"]
            axis.plot(errors["step"], reference, label="Gaussian reference", **REFERENCE)
        axis.set(xlabel=STEP_LABEL, ylabel=r"RMSE of $\hat x_t - x_t$")
        legend(axis)
        drawn = picture(panel, end, float(end.max()))
        panel.set(xticks=[], yticks=[])
        panel.set_title("clean end, by element", fontsize=8)
        panel.figure.colorbar(drawn, ax=panel, label="RMSE", shrink=0.8)
    return figure


def spectrum(
    spectra: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """Power at the clean end, and the ratio chain/forward at five levels.

    With 95 % bands and the Gaussian reference."""
    steps = spectra.sizes["step"]
    shown = np.unique(np.linspace(steps // 4, steps - 1, 4).round().astype(int))
    colours = sns.color_palette("viridis", len(shown))
    f, basis = spectra["frequency"].values, spectra.attrs["basis"]
    with style():
        figure, (power, ratio) = panels(("power", "ratio"), ax, axes, column, 2.9)
        last = spectra.isel(step=-1)
        power.plot(f, last["power_data"], color="k", label="data", linewidth=1.2)
        power.plot(f, last["power_chain"], label="chain")
        if "power_gaussian" in spectra:
            power.plot(f, last["power_gaussian"], label="Gaussian reference", **REFERENCE)
        power.set(
            yscale="log",
            xlabel="frequency (cycles per pixel)",
            ylabel=f"power, clean end ({basis})",
        )
        power.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        power.yaxis.set_major_formatter("{x:g}")
        power.yaxis.set_minor_formatter(NullFormatter())
        legend(power)
        for colour, step in zip(colours, shown, strict=True):
            here = spectra.isel(step=step)
            name = "clean end" if step == steps - 1 else f"t = {float(here['timestep']):g}"
            ratio.plot(f, here["ratio"], color=colour, label=name)
            ratio.fill_between(
                f, here["ratio_low"], here["ratio_high"], color=colour, alpha=0.25, linewidth=0
            )
            if "ratio_gaussian" in spectra:
                ratio.plot(f, here["ratio_gaussian"], **(REFERENCE | {"color": colour}))
        ratio.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        ratio.set(xlabel="frequency (cycles per pixel)", ylabel="power, chain / forward")
        ratio.plot([], [], label="Gaussian ref.", **REFERENCE)
        legend(ratio, 3)
    return figure


def variance_gap(
    gaps: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """The gap along the chain with its bands and references.

    Beside it the gap by eigen-direction at the clean end."""
    with style():
        figure, (along, across) = panels(("along", "direction"), ax, axes, column, 2.8, [1.25, 1])
        along.axhline(0, color="0.7", linewidth=0.8, zorder=0, label="perfect sampler")
        _curve(along, gaps, "gap", "chain")
        if "gap_gaussian" in gaps:
            along.plot(gaps["step"], gaps["gap_gaussian"], label="Gaussian reference", **REFERENCE)
        if "gap_forward" in gaps:
            along.plot(
                gaps["step"], gaps["gap_forward"], ".", markersize=3, label="against forward draws"
            )
        along.set(xlabel=STEP_LABEL, ylabel="variance gap (%)")
        percent(along.yaxis)
        legend(along)
        last, k = gaps.isel(step=-1), np.arange(1, gaps.sizes["direction"] + 1)
        across.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        if "gap_direction_gaussian" in gaps:
            across.plot(k, last["gap_direction_gaussian"], **REFERENCE)
        half = T_QUANTILE * last["gap_direction_se"].fillna(0)
        across.errorbar(k, last["gap_direction"], yerr=half, fmt="o", markersize=3, linewidth=1)
        across.set(
            xlabel="data's eigen-direction, largest first", ylabel="gap at the clean end (%)"
        )
        percent(across.yaxis)
        unless_empty(across, last["gap_direction"])
    return figure


def published_delta(
    deltas: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """The published δ_t, and its signed root, with bands and both reference lines."""
    with style():
        figure, places = panels(("delta", "root"), ax, axes, column, 2.8)
        labels = (
            r"published $\delta_t$",
            r"$\overline{\mathrm{std}}_i(\hat x_t - \alpha_t x_0) - \sigma_t$",
        )
        for axis, name, label in zip(places, ("delta", "root"), labels, strict=True):
            _curve(axis, deltas, name, "chain")
            if f"{name}_perfect" in deltas:
                axis.plot(
                    deltas["step"],
                    deltas[f"{name}_perfect"],
                    color="k",
                    linewidth=1,
                    label="perfect sampler",
                )
            if f"{name}_gaussian" in deltas:
                axis.plot(
                    deltas["step"],
                    deltas[f"{name}_gaussian"],
                    label="Gaussian reference",
                    **REFERENCE,
                )
            axis.set(xlabel=STEP_LABEL, ylabel=label)
            legend(axis)
    return figure


def epsilon_norm(
    norms: xr.Dataset, *, ax: Any = None, axes: Any = None, column: str = "double"
) -> Figure:
    """Norms of ε̂ in both streams, their ratio with bands, and the λ it suggests.

    Lines are means, shades 5–95 %."""
    step = norms["step"]
    with style():
        figure, (above, ratio, scale) = panels(("norm", "ratio", "scale"), ax, axes, column, 2.7)
        for stream in ("forward", "chain"):
            (line,) = above.plot(step, norms[f"norm_{stream}"], label=stream)
            low, high = (norms[f"quantile_{stream}"].sel(quantile=q) for q in (0.05, 0.95))
            above.fill_between(step, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        above.set(xlabel=STEP_LABEL, ylabel=r"$\|\hat\epsilon\|_2$")
        legend(above, 1)
        _curve(ratio, norms, "ratio", "chain / forward")
        if "ratio_gaussian" in norms:
            ratio.plot(step, norms["ratio_gaussian"], label="Gaussian reference", **REFERENCE)
        ratio.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        ratio.set(xlabel=STEP_LABEL, ylabel="ratio of norms")
        legend(ratio, 1)
        scale.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        scale.set(xlabel=STEP_LABEL, ylabel=r"suggested $\lambda$")
        if "scale" in norms:
            half = T_QUANTILE * norms["scale_se"].fillna(0)
            scale.errorbar(
                step,
                norms["scale"],
                yerr=half,
                fmt=".",
                markersize=3,
                linewidth=0.8,
                label="per level",
            )
            scale.plot(step, norms["scale_uniform"].broadcast_like(step), label="uniform")
            line = norms["scale_slope"] * norms["call_index"] + norms["scale_offset"]
            scale.plot(step, line, label="linear")
            legend(scale, 1)
        unless_empty(scale, norms.get("scale", np.nan))
    return figure


def _curve(axis: Any, dataset: xr.Dataset, name: str, label: str) -> None:
    """A line over steps with its 95 % interval (dark) and simultaneous band (light)."""
    (line,) = axis.plot(dataset["step"], dataset[name], label=label)
    for kind, alpha in (("_band", 0.15), ("", 0.3)):
        low, high = dataset[f"{name}{kind}_low"], dataset[f"{name}{kind}_high"]
        axis.fill_between(
            dataset["step"], low, high, color=line.get_color(), alpha=alpha, linewidth=0
        )
