"""Datasets to figures: one function for each diagnostic, one style. Plots never compute
statistics.

Every function takes `axes=`, matplotlib Axes to draw into (as many as it has panels), and
`column=`, "single" or "double", the width in a paper; it returns the figure. Pure noise is at the
left of every axis along the chain."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from exposure_bias.jackknife import T_QUANTILE, interval
from exposure_bias.plots.strips import limits, pictures, strip
from exposure_bias.plots.style import (
    PALETTE,
    REFERENCE,
    STEP_LABEL,
    grid,
    legend,
    panels,
    plain,
    save,
    style,
    unless_empty,
    wrapped,
)


def error_histograms(
    errors: xr.Dataset,
    pixels: Sequence[tuple[int, int, int]],
    *,
    axes: Any = None,
    column: str = "double",
) -> Figure:
    """Histograms of e_t (the talk's Fig. 6): a row for each length, a column for each pixel (c, y,
    x), then all pooled.

    The line is the Gaussian of the same mean and standard deviation. The pooled column leaves out
    pixels at which x_0 is constant, and its density is logarithmic: background pixels pile up at
    zero."""
    lengths = errors["length"].values
    varies = errors["x0"].std("sample").values > 0
    with style():
        figure, places = grid(len(lengths), len(pixels) + 1, axes, column, 1.35, sharex="row")
        for row, length in enumerate(lengths):
            here = errors["error"].sel(length=length)
            chosen = [here.isel(channel=c, y=y, x=x).values.ravel() for c, y, x in pixels]
            titles = [f"pixel ({c}, {y}, {x})" for c, y, x in pixels] + ["all varying pixels"]
            for k, (values, title) in enumerate(
                zip([*chosen, here.values[:, varies]], titles, strict=True)
            ):
                axis = places[row, k]
                _histogram(axis, values.ravel(), pooled=k == len(pixels))
                if row == 0:
                    axis.set_title(title, fontsize=8)
                if k == 0:
                    axis.set_ylabel(f"length {length}\ndensity")
                if row == len(lengths) - 1:
                    axis.set_xlabel(r"$e_t = x_0 - \hat x_0$")
    return figure


def _histogram(axis: Any, values: np.ndarray, pooled: bool) -> None:
    mean, std = values.mean(), values.std()
    if std < 1e-8:
        axis.text(0.5, 0.5, "constant", ha="center", transform=axis.transAxes)
        return
    colour = sns.color_palette(PALETTE)[0]
    heights, *_ = axis.hist(
        values, bins=61 if pooled else 25, density=True, color=colour, alpha=0.6
    )
    grid = np.linspace(values.min(), values.max(), 200)
    axis.plot(
        grid, np.exp(-0.5 * ((grid - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi)), **REFERENCE
    )
    if pooled:
        axis.set(yscale="log", ylim=(0.5 * heights[heights > 0].min(), None))


def normality(
    shape: xr.Dataset,
    errors: xr.Dataset | None = None,
    *,
    axes: Any = None,
    column: str = "double",
) -> Figure:
    """The power of e_t over frequency; and of errors that are given the quantiles, each pixel
    standardised, against the Gaussian's."""
    colours = sns.color_palette("viridis", shape.sizes["length"])
    with style():
        figure, drawn = panels(1 if errors is None else 2, axes, column, 2.9)
        power = drawn[-1]
        if errors is not None:
            _quantiles(drawn[0], errors, shape["length"].values, colours)
        power.axhline(1, label="white", **REFERENCE)
        for colour, length in zip(colours, shape["length"].values, strict=True):
            flat = shape.sel(length=length)
            half = T_QUANTILE * flat["whiteness_se"].fillna(0)
            power.errorbar(
                shape["frequency"],
                flat["whiteness"],
                yerr=half,
                color=colour,
                label=f"length {length}",
            )
        power.set(
            xlabel="frequency (cycles per pixel)",
            ylabel=r"power of $e_t$ over its mean",
            ylim=(0, None),
        )
        legend(power)
    return figure


def _quantiles(axes: Any, errors: xr.Dataset, lengths: Any, colours: Any) -> None:
    from scipy.special import ndtr

    grid = np.linspace(-3, 3, 121)
    axes.axline((0, 0), slope=1, **REFERENCE)
    for colour, length in zip(colours, lengths, strict=True):
        here = errors.sel(length=length)
        z = ((here["error"] - here["mean"]) / here["std"].where(here["std"] > 1e-8)).values
        axes.plot(grid, np.nanquantile(z, ndtr(grid)), color=colour, label=f"length {length}")
    axes.set(xlabel="Gaussian quantile", ylabel=r"quantile of standardised $e_t$")
    legend(axes)


def error_std(errors: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """Standard deviation of e_t per pixel as images, model above and Gaussian reference below, one
    column a length."""
    lengths = errors["length"].values
    rows = [("std", "model")] + (
        [("std_gaussian", "Gaussian ref.")] if "std_gaussian" in errors else []
    )
    top = max(float(errors[name].max()) for name, _ in rows)
    with style():
        figure, places = grid(len(rows), len(lengths), axes, column, 1.5, 1.5 * len(lengths) + 1.2)
        for row, (name, label) in enumerate(rows):
            for k, length in enumerate(lengths):
                axis = places[row, k]
                drawn = _picture(axis, errors[name].sel(length=length), top)
                axis.set(xticks=[], yticks=[])
                if row == 0:
                    axis.set_title(f"length {length}", fontsize=8)
                if k == 0:
                    axis.set_ylabel(label)
        figure.colorbar(
            drawn, ax=list(places.ravel()), label=r"std of $e_t$ (mean over channels)", shrink=0.8
        )
    return figure


def _picture(axis: Any, values: xr.DataArray, top: float) -> Any:
    """A number for each element of a state, channels averaged: an image; a vector or signal as one
    row, frames side by side."""
    array = np.asarray(values)
    array = np.atleast_2d(array if array.ndim == 1 else array.mean(0))
    if array.ndim == 3:
        array = np.concatenate(list(array), axis=1)
    aspect = "auto" if len(array) == 1 else "equal"
    return axis.imshow(array, vmin=0, vmax=top, cmap="viridis", aspect=aspect)


def state_error(errors: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """RMSE of ξ_t along the chain with its 95 % band and the Gaussian reference; and by element of
    the state at the clean end.
    """
    end = errors["rmse"].isel(step=-1)
    with style():
        figure, (axis, panel) = panels(2, axes, column, 2.6, [1.6, 1])
        low, high = interval(errors, "pooled_rmse")
        axis.plot(errors["step"], errors["pooled_rmse"], label="model")
        axis.fill_between(errors["step"], low, high, alpha=0.3, linewidth=0)
        if "pooled_rmse_gaussian" in errors:
            reference = errors["pooled_rmse_gaussian"]
            axis.plot(errors["step"], reference, label="Gaussian reference", **REFERENCE)
        axis.set(xlabel=STEP_LABEL, ylabel=r"RMSE of $\hat x_t - x_t$")
        legend(axis)
        drawn = _picture(panel, end, float(end.max()))
        panel.set(xticks=[], yticks=[])
        panel.set_title("clean end, by element", fontsize=8)
        figure.colorbar(drawn, ax=panel, label="RMSE", shrink=0.8)
    return figure


def chain_length_fid(curve: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """Fréchet distance (bias-corrected where the samples allow), KID, precision and recall against
    chain length.

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
        figure, places = panels(len(shown), axes, column, 2.5)
        for axis, (name, label) in zip(places, shown, strict=True):
            floor = float(curve[f"floor_{name}"])
            if f"floor_{name}_se" in curve and np.isfinite(curve[f"floor_{name}_se"]):
                low, high = interval(curve, f"floor_{name}")
                axis.axhspan(float(low), float(high), color="0.9", linewidth=0)
            axis.axhline(floor, label="real against real", **REFERENCE)
            for i in range(lines.sizes["line"]):
                line = lines.isel(line=i)
                coordinates = [
                    dim
                    for dim in ("model", "sampler", "length")
                    if dim in line.coords and dim != along
                ]
                called = ", ".join(str(line[dim].values) for dim in coordinates)
                (drawn,) = axis.plot(
                    line[along], line[name], marker="o", markersize=3, label=called
                )
                if f"{name}_se" in line:
                    low, high = interval(line, name)
                    axis.fill_between(
                        line[along], low, high, color=drawn.get_color(), alpha=0.2, linewidth=0
                    )
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
        _below(figure, places[0], axes, column)
    return figure


def spectrum(spectra: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """Power at the clean end, and the ratio chain/forward at five levels with 95 % bands and the
    Gaussian reference."""
    steps = spectra.sizes["step"]
    shown = np.unique(np.linspace(steps // 4, steps - 1, 4).round().astype(int))
    colours = sns.color_palette("viridis", len(shown))
    f, basis = spectra["frequency"].values, spectra.attrs["basis"]
    with style():
        figure, (power, ratio) = panels(2, axes, column, 2.9)
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


def variance_gap(gaps: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """The gap along the chain with its bands and references, and the gap by eigen-direction at the
    clean end."""
    with style():
        figure, (along, across) = panels(2, axes, column, 2.8, [1.25, 1])
        along.axhline(0, color="0.7", linewidth=0.8, zorder=0, label="perfect sampler")
        _curve(along, gaps, "gap", "chain")
        if "gap_gaussian" in gaps:
            along.plot(gaps["step"], gaps["gap_gaussian"], label="Gaussian reference", **REFERENCE)
        if "gap_forward" in gaps:
            along.plot(
                gaps["step"], gaps["gap_forward"], ".", markersize=3, label="against forward draws"
            )
        along.set(xlabel=STEP_LABEL, ylabel="relative variance gap")
        legend(along)
        last, k = gaps.isel(step=-1), np.arange(1, gaps.sizes["direction"] + 1)
        across.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        if "gap_direction_gaussian" in gaps:
            across.plot(k, last["gap_direction_gaussian"], **REFERENCE)
        half = T_QUANTILE * last["gap_direction_se"].fillna(0)
        across.errorbar(k, last["gap_direction"], yerr=half, fmt="o", markersize=3, linewidth=1)
        across.set(xlabel="data's eigen-direction, largest first", ylabel="gap at the clean end")
        unless_empty(across, last["gap_direction"])
    return figure


def published_delta(deltas: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """The published δ_t, and its signed root, with bands and both reference lines."""
    with style():
        figure, places = panels(2, axes, column, 2.8)
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


def epsilon_norm(norms: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """Norms of ε̂ in both streams (lines: means; shades: 5–95 %), their ratio with bands, and the λ
    it suggests."""
    step = norms["step"]
    with style():
        figure, (above, ratio, scale) = panels(3, axes, column, 2.7)
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


def compare(compared: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """Differences of each entry from the first, with 95 % intervals: scalars left, curves along the
    chain right."""
    entries = list(compared["entry"].values)
    colours = sns.color_palette(PALETTE, len(entries))
    curves = {
        "gap": "variance gap",
        "epsilon_ratio": r"$\|\hat\epsilon\|$ chain / forward",
        "state_rmse": r"RMSE of $\hat x_t - x_t$",
    }
    shown = [name for name in curves if name in compared]
    scalar, title, unit = _scalar(compared)
    with style():
        figure, (bars, *others) = panels(1 + len(shown), axes, column, 2.6)
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
        if others:
            others[0].set_ylabel(wrapped(f"difference from {entries[0]}"))
        _below(figure, bars, axes, column)
    return figure


def _below(figure: Figure, axis: Any, axes: Any, column: str) -> None:
    """One legend for all panels under a figure of ours; in somebody else's, above the first."""
    if axes is not None:
        legend(axis, 1)
        return
    most = 3 if column == "double" else 1
    handles = axis.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=most, fontsize=7)


def _scalar(compared: xr.Dataset) -> tuple[tuple[xr.DataArray, xr.DataArray], str, str]:
    """What stands at the left of a comparison: high frequencies, or of states without space the
    gap at the clean end."""
    if "hf" in compared:
        return (compared["hf"], compared["hf_se"]), "high frequencies", "HF (dB)"
    gap, error = (compared[k].isel(step=-1) for k in ("gap", "gap_se"))
    return (gap, error), "variance at the clean end", "variance gap"


def _curve(axis: Any, dataset: xr.Dataset, name: str, label: str) -> None:
    """A line over steps with its 95 % interval (dark) and simultaneous band (light)."""
    (line,) = axis.plot(dataset["step"], dataset[name], label=label)
    for kind, alpha in (("_band", 0.15), ("", 0.3)):
        low, high = dataset[f"{name}{kind}_low"], dataset[f"{name}{kind}_high"]
        axis.fill_between(
            dataset["step"], low, high, color=line.get_color(), alpha=alpha, linewidth=0
        )


def rollouts(results: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """Training error S (one step) and generation error A (all steps) by start, with what a perfect
    sampler would show.

    V and 2V are those of Gaussian data. With replicates also U and W, calibration W/U and the
    accumulated mean error (U − S)/S; last the state error by the number of steps taken. Bands are
    95 %."""
    calibrated = "U" in results
    names = {"S": "S: one step", "A": "A: all steps"} | (
        {"U": "U: in common", "W": "W: spread"} if calibrated else {}
    )
    with style():
        names_of = ["errors", "depth", *(["calibration", "excess"] if calibrated else [])]
        figure, places = panels(len(names_of), axes, column, 2.7)
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
            axis = named["calibration"]
            drawn = axis.plot(
                results["timestep"], results["W_over_U"], marker="o", markersize=3, label="model"
            )
            axis.fill_between(
                results["timestep"],
                results["W_over_U_low"],
                results["W_over_U_high"],
                alpha=0.3,
                color=drawn[0].get_color(),
            )
            if "W_gaussian" in results:
                axis.plot(
                    results["timestep"],
                    results["W_gaussian"] / results["U_gaussian"],
                    label="Gaussian ref.",
                    **REFERENCE,
                )
            axis.axhline(1, color="0.7", linewidth=0.8, zorder=0)
            axis.set(ylabel="spread / skill, W/U")
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
    """Ranks of x_0 among the chains by start, over pixels and along the data's leading directions;
    the line is even."""
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
        _below(figure, places[0, 0], axes, column)
    return figure


def telescope(results: xr.Dataset, *, axes: Any = None, column: str = "double") -> Figure:
    """The variance gap by target, stacked from its brackets; at the clean end each bracket with its
    95 % interval.

    Where there are spectra, also the brackets at high frequencies in dB and by frequency.
    """
    spectral = "bracket_high" in results
    with style():
        figure, places = panels(4 if spectral else 2, axes, column, 2.8)
        _stacked(places[0], results)
        _brackets(places[1], results, "bracket", "variance gap at the clean end, from")
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
        ylabel="relative variance gap",
    )
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


__all__ = [
    "budget",
    "chain_length_fid",
    "compare",
    "diagnosis",
    "epsilon_norm",
    "error_histograms",
    "error_std",
    "limits",
    "normality",
    "pictures",
    "published_delta",
    "rank_histogram",
    "rollouts",
    "save",
    "spectrum",
    "state_error",
    "strip",
    "style",
    "telescope",
    "variance_gap",
]
