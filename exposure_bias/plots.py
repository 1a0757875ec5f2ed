"""Datasets to figures: one function for each diagnostic, one style. Plots never compute statistics."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from exposure_bias.diagnostics.jackknife import T_QUANTILE, interval

PALETTE = "colorblind"
REFERENCE = {"color": "0.35", "linestyle": "--", "linewidth": 1.2}
COLUMN = 3.3  # inches
STEP_LABEL = "step (0 = noise)"


@contextmanager
def style() -> Iterator[None]:
    """The one look of all figures: readable at a paper's column width, safe for colour-blind readers."""
    settings = {
        **sns.axes_style("ticks"),
        **sns.plotting_context("paper"),
        "axes.prop_cycle": plt.cycler(color=sns.color_palette(PALETTE)),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "savefig.dpi": 200,
        "pdf.fonttype": 42,
    }
    with plt.rc_context(settings):
        yield


def error_histograms(errors: xr.Dataset, pixels: Sequence[tuple[int, int, int]]) -> Figure:
    """Histograms of e_t (the talk's Fig. 6): a row for each length, a column for each pixel (c, y, x), then all pooled.

    The line is the Gaussian of the same mean and standard deviation.
    """
    lengths = errors["length"].values
    with style():
        figure, axes = plt.subplots(
            len(lengths), len(pixels) + 1, figsize=(1.75 * (len(pixels) + 1), 1.35 * len(lengths)), squeeze=False
        )
        for row, length in enumerate(lengths):
            here = errors["error"].sel(length=length)
            panels = [here.isel(channel=c, y=y, x=x).values.ravel() for c, y, x in pixels] + [here.values.ravel()]
            titles = [f"pixel ({c}, {y}, {x})" for c, y, x in pixels] + ["all pixels"]
            for column, (values, title) in enumerate(zip(panels, titles, strict=True)):
                axis = axes[row, column]
                _histogram(axis, values)
                if row == 0:
                    axis.set_title(title, fontsize=8)
                if column == 0:
                    axis.set_ylabel(f"length {length}\ndensity")
                if row == len(lengths) - 1:
                    axis.set_xlabel(r"$e_t = x_0 - \hat x_0$")
        sns.despine(figure)
    return figure


def _histogram(axis: Any, values: np.ndarray) -> None:
    mean, std = values.mean(), values.std()
    if std < 1e-8:
        axis.text(0.5, 0.5, "constant", ha="center", transform=axis.transAxes)
        return
    axis.hist(
        values, bins="auto" if len(values) < 5000 else 80, density=True, color=sns.color_palette(PALETTE)[0], alpha=0.6
    )
    grid = np.linspace(values.min(), values.max(), 200)
    axis.plot(grid, np.exp(-0.5 * ((grid - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi)), **REFERENCE)


def normality(shape: xr.Dataset, errors: xr.Dataset) -> Figure:
    """Quantiles of e_t, each pixel standardised, against the Gaussian's; and the power of e_t over frequency."""
    from scipy.special import ndtr

    grid = np.linspace(-3, 3, 121)
    colours = sns.color_palette("viridis", shape.sizes["length"])
    with style():
        figure, (quantiles, power) = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.6))
        quantiles.axline((0, 0), slope=1, **REFERENCE)
        power.axhline(1, label="white", **REFERENCE)
        for colour, length in zip(colours, shape["length"].values, strict=True):
            here, flat = errors.sel(length=length), shape.sel(length=length)
            z = ((here["error"] - here["mean"]) / here["std"].where(here["std"] > 1e-8)).values
            quantiles.plot(grid, np.nanquantile(z, ndtr(grid)), color=colour, label=f"length {length}")
            half = T_QUANTILE * flat["whiteness_se"].fillna(0)
            power.errorbar(shape["frequency"], flat["whiteness"], yerr=half, color=colour, label=f"length {length}")
        quantiles.set(xlabel="Gaussian quantile", ylabel=r"quantile of standardised $e_t$")
        quantiles.legend(fontsize=7)
        power.set(xlabel="frequency (cycles per pixel)", ylabel=r"power of $e_t$ over its mean", ylim=(0, None))
        sns.despine(figure)
    return figure


def error_std(errors: xr.Dataset) -> Figure:
    """Standard deviation of e_t per pixel as images, model above and Gaussian reference below, one column a length."""
    lengths = errors["length"].values
    rows = [("std", "model")] + ([("std_gaussian", "Gaussian ref.")] if "std_gaussian" in errors else [])
    top = max(float(errors[name].max()) for name, _ in rows)
    with style():
        figure, axes = plt.subplots(
            len(rows), len(lengths), figsize=(1.5 * len(lengths) + 0.8, 1.5 * len(rows) + 0.3), squeeze=False
        )
        for row, (name, label) in enumerate(rows):
            for column, length in enumerate(lengths):
                axis = axes[row, column]
                drawn = axis.imshow(errors[name].sel(length=length).mean("channel"), vmin=0, vmax=top, cmap="viridis")
                axis.set(xticks=[], yticks=[])
                if row == 0:
                    axis.set_title(f"length {length}", fontsize=8)
                if column == 0:
                    axis.set_ylabel(label)
        figure.colorbar(drawn, ax=axes, label=r"std of $e_t$ (mean over channels)", shrink=0.8)
    return figure


def state_error(errors: xr.Dataset) -> Figure:
    """RMSE of ξ_t along the chain with its 95 % band and the Gaussian reference; per-pixel RMSE at four levels."""
    steps = errors.sizes["step"]
    shown = np.unique(np.linspace(steps // 4, steps - 1, 4).round().astype(int))
    with style():
        figure = plt.figure(figsize=(2 * COLUMN, 2.3))
        panes: Any = figure.subfigures(1, 2, width_ratios=[1, 1.1])
        left, right = panes
        axis = left.subplots()
        low, high = interval(errors, "pooled_rmse")
        axis.plot(errors["step"], errors["pooled_rmse"], label="model")
        axis.fill_between(errors["step"], low, high, alpha=0.3)
        if "pooled_rmse_gaussian" in errors:
            axis.plot(errors["step"], errors["pooled_rmse_gaussian"], label="Gaussian reference", **REFERENCE)
        axis.set(xlabel="step (0 = noise, last = clean)", ylabel=r"RMSE of $\hat x_t - x_t$")
        axis.legend()
        panels = right.subplots(1, len(shown), squeeze=False)[0]
        top = float(errors["rmse"].isel(step=shown).max())
        for panel, step in zip(panels, shown, strict=True):
            drawn = panel.imshow(errors["rmse"].isel(step=step).mean("channel"), vmin=0, vmax=top, cmap="viridis")
            panel.set(xticks=[], yticks=[])
            panel.set_title(f"step {int(errors['step'][step])}", fontsize=8)
        right.colorbar(drawn, ax=panels, label="RMSE per pixel", shrink=0.6)
        sns.despine(left)
    return figure


def spectrum(spectra: xr.Dataset) -> Figure:
    """Power at the clean end, and the ratio chain/forward at five levels with 95 % bands and the Gaussian reference."""
    steps = spectra.sizes["step"]
    shown = np.unique(np.linspace(steps // 4, steps - 1, 4).round().astype(int))
    colours = sns.color_palette("viridis", len(shown))
    f = spectra["frequency"].values
    with style():
        figure, (power, ratio) = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.6))
        last = spectra.isel(step=-1)
        power.plot(f, last["power_data"], color="k", label="data", linewidth=1.2)
        power.plot(f, last["power_chain"], label="chain")
        if "power_gaussian" in spectra:
            power.plot(f, last["power_gaussian"], label="Gaussian reference", **REFERENCE)
        power.set(yscale="log", xlabel="frequency (cycles per pixel)", ylabel="power, clean end")
        power.legend()
        for colour, step in zip(colours, shown, strict=True):
            here = spectra.isel(step=step)
            name = "clean end" if step == steps - 1 else f"t = {float(here['timestep']):g}"
            ratio.plot(f, here["ratio"], color=colour, label=name)
            ratio.fill_between(f, here["ratio_low"], here["ratio_high"], color=colour, alpha=0.25, linewidth=0)
            if "ratio_gaussian" in spectra:
                ratio.plot(f, here["ratio_gaussian"], **(REFERENCE | {"color": colour}))
        ratio.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        ratio.set(xlabel="frequency (cycles per pixel)", ylabel="power, chain / forward")
        ratio.plot([], [], label="Gaussian ref.", **REFERENCE)
        ratio.legend(fontsize=7)
        sns.despine(figure)
    return figure


def variance_gap(gaps: xr.Dataset) -> Figure:
    """The gap along the chain with its bands and references, and the gap by eigen-direction at the clean end."""
    with style():
        figure, (along, across) = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.4), width_ratios=[1.25, 1])
        along.axhline(0, color="0.7", linewidth=0.8, zorder=0, label="perfect sampler")
        _curve(along, gaps, "gap", "chain")
        if "gap_gaussian" in gaps:
            along.plot(gaps["step"], gaps["gap_gaussian"], label="Gaussian reference", **REFERENCE)
        if "gap_forward" in gaps:
            along.plot(gaps["step"], gaps["gap_forward"], ".", markersize=3, label="against forward draws")
        along.set(xlabel=STEP_LABEL, ylabel="relative variance gap")
        along.legend(fontsize=7)
        last, k = gaps.isel(step=-1), np.arange(1, gaps.sizes["direction"] + 1)
        across.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        if "gap_direction_gaussian" in gaps:
            across.plot(k, last["gap_direction_gaussian"], **REFERENCE)
        half = T_QUANTILE * last["gap_direction_se"].fillna(0)
        across.errorbar(k, last["gap_direction"], yerr=half, fmt="o", markersize=3, linewidth=1)
        across.set(xlabel="data's eigen-direction, largest first", ylabel="gap at the clean end")
        sns.despine(figure)
    return figure


def published_delta(deltas: xr.Dataset) -> Figure:
    """The published δ_t, and its signed root, with bands and both reference lines."""
    with style():
        figure, axes = plt.subplots(1, 2, figsize=(2 * COLUMN, 2.4))
        labels = (r"published $\delta_t$", r"$\overline{\mathrm{std}}_i(\hat x_t - \alpha_t x_0) - \sigma_t$")
        for axis, name, label in zip(axes, ("delta", "root"), labels, strict=True):
            _curve(axis, deltas, name, "chain")
            if f"{name}_perfect" in deltas:
                axis.plot(deltas["step"], deltas[f"{name}_perfect"], color="k", linewidth=1, label="perfect sampler")
            if f"{name}_gaussian" in deltas:
                axis.plot(deltas["step"], deltas[f"{name}_gaussian"], label="Gaussian reference", **REFERENCE)
            axis.set(xlabel=STEP_LABEL, ylabel=label)
        axes[0].legend(fontsize=7)
        sns.despine(figure)
    return figure


def epsilon_norm(norms: xr.Dataset) -> Figure:
    """Norms of ε̂ in both streams (lines: means; shades: 5–95 %), their ratio with bands, and the λ it suggests."""
    step = norms["step"]
    with style():
        figure, (above, ratio, scale) = plt.subplots(1, 3, figsize=(2.4 * COLUMN, 2.4))
        for stream in ("forward", "chain"):
            (line,) = above.plot(step, norms[f"norm_{stream}"], label=stream)
            low, high = (norms[f"quantile_{stream}"].sel(quantile=q) for q in (0.05, 0.95))
            above.fill_between(step, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
        above.set(xlabel=STEP_LABEL, ylabel=r"$\|\hat\epsilon\|_2$")
        above.legend(fontsize=7)
        _curve(ratio, norms, "ratio", "chain / forward")
        if "ratio_gaussian" in norms:
            ratio.plot(step, norms["ratio_gaussian"], label="Gaussian reference", **REFERENCE)
        ratio.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        ratio.set(xlabel=STEP_LABEL, ylabel="ratio of norms")
        ratio.legend(fontsize=7)
        scale.axhline(1, color="0.7", linewidth=0.8, zorder=0)
        scale.set(xlabel=STEP_LABEL, ylabel=r"suggested $\lambda$")
        if "scale" in norms:
            half = T_QUANTILE * norms["scale_se"].fillna(0)
            scale.errorbar(step, norms["scale"], yerr=half, fmt=".", markersize=3, linewidth=0.8, label="per level")
            scale.plot(step, norms["scale_uniform"].broadcast_like(step), label="uniform")
            line = norms["scale_slope"] * norms["call_index"] + norms["scale_offset"]
            scale.plot(step, line, label="linear")
            scale.legend(fontsize=7)
        sns.despine(figure)
    return figure


def compare(compared: xr.Dataset) -> Figure:
    """Differences of each entry from the first, with 95 % intervals: scalars left, curves along the chain right."""
    from exposure_bias.diagnostics.jackknife import T_QUANTILE

    entries = list(compared["entry"].values)
    colours = sns.color_palette(PALETTE, len(entries))
    curves = {
        "gap": "variance gap",
        "epsilon_ratio": r"$\|\hat\epsilon\|$ chain / forward",
        "state_rmse": r"RMSE of $\hat x_t - x_t$",
    }
    shown = [name for name in curves if name in compared]
    with style():
        figure, axes = plt.subplots(1, 1 + len(shown), figsize=(0.95 * COLUMN * (1 + len(shown)) / 1.4, 2.5))
        bars, *panels = axes
        for i, (entry, colour) in enumerate(zip(entries, colours, strict=True)):
            half = T_QUANTILE * float(compared["hf_se"][i])
            bars.errorbar(i, float(compared["hf"][i]), half, fmt="o", color=colour, capsize=3, label=entry)
            for axis, name in zip(panels, shown, strict=True):
                if i == 0:
                    axis.axhline(0, color=colour, linewidth=1)
                    continue
                here = compared.isel(entry=i)
                value, spread = here[f"{name}_difference"], T_QUANTILE * here[f"{name}_difference_se_total"]
                axis.plot(compared["step"], value, color=colour)
                axis.fill_between(
                    compared["step"], value - spread, value + spread, color=colour, alpha=0.25, linewidth=0
                )
        bars.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        bars.set(xticks=[], xlim=(-0.5, len(entries) - 0.5), ylabel="HF (dB)", title="high frequencies")
        for axis, name in zip(panels, shown, strict=True):
            axis.set(xlabel="step (0 = noise)", title=curves[name])
        panels[0].set_ylabel(f"difference from {entries[0]}")
        figure.legend(*bars.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(entries), 4))
        sns.despine(figure)
    return figure


def _curve(axis: Any, dataset: xr.Dataset, name: str, label: str) -> None:
    """A line over steps with its 95 % interval (dark) and simultaneous band (light)."""
    (line,) = axis.plot(dataset["step"], dataset[name], label=label)
    for kind, alpha in (("_band", 0.15), ("", 0.3)):
        low, high = dataset[f"{name}{kind}_low"], dataset[f"{name}{kind}_high"]
        axis.fill_between(dataset["step"], low, high, color=line.get_color(), alpha=alpha, linewidth=0)
