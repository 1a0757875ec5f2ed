"""Errors of chains: their distribution by pixel, and the Gaussian beside it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import seaborn as sns
import xarray as xr
from matplotlib.figure import Figure

from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.plots.style import PALETTE, REFERENCE, grid, legend, panels, picture, style


def error_histograms(
    errors: xr.Dataset,
    pixels: Sequence[tuple[int, int, int]] | None = None,
    *,
    axes: Any = None,
    column: str = "double",
) -> Figure:
    """Histograms of e_t (the talk's Fig. 6), a row for each length.

    A column for each pixel (c, y, x), by default three spread over the image, then all pooled.

    The line is the Gaussian of the same mean and standard deviation. The pooled column leaves out
    pixels at which x_0 is constant, and its density is logarithmic: background pixels pile up at
    zero."""
    lengths = errors["length"].values
    pixels = spread_pixels(errors["x0"].shape[1:]) if pixels is None else pixels
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


def spread_pixels(shape: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """Three pixels (c, y, x) of a (C, H, W) image.

    At a quarter, the middle and three quarters of both sides."""
    channels, height, width = shape
    return [(i % channels, (i + 1) * height // 4, (i + 1) * width // 4) for i in range(3)]


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
    ax: Any = None,
    axes: Any = None,
    column: str = "double",
) -> Figure:
    """The power of e_t over frequency; of errors that are given also their quantiles.

    Each pixel is standardised, and its quantiles are drawn against the Gaussian's."""
    colours = sns.color_palette("viridis", shape.sizes["length"])
    with style():
        figure, drawn = panels(["quantiles", "power"][errors is None :], ax, axes, column, 2.9)
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
    """Standard deviation of e_t per pixel as images, one column a length.

    The model above and the Gaussian reference below."""
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
                drawn = picture(axis, errors[name].sel(length=length), top)
                axis.set(xticks=[], yticks=[])
                if row == 0:
                    axis.set_title(f"length {length}", fontsize=8)
                if k == 0:
                    axis.set_ylabel(label)
        figure.colorbar(
            drawn, ax=list(places.ravel()), label=r"std of $e_t$ (mean over channels)", shrink=0.8
        )
    return figure
