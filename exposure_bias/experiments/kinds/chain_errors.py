"""The kind of what `chain_errors` returns."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import xarray as xr

from exposure_bias.results import Column, Drawing, Kind, Table, Term
from exposure_bias.results.numbers import missing, told
from exposure_bias.results.tables import tidy
from exposure_bias.results.terms import DATA, SHARE

Pixel = tuple[int, ...]


def _sentence(errors: xr.Dataset) -> str:
    longest = errors[["pooled_rmse", "pooled_rmse_se"]].isel(length=-1)
    size, lack = told(longest, "pooled_rmse"), missing(longest, "pooled_rmse")
    return f"Chains of {int(longest['length'])} steps miss x_0 by {size} data units{lack}."


def _tables(errors: xr.Dataset) -> list[Table]:
    frame = tidy(errors, "length")
    if "std_gaussian" in errors:
        axes = [dim for dim in errors["std_gaussian"].dims if dim != "length"]
        frame["nu_gaussian"] = errors["std_gaussian"].mean(axes).values
    columns = (
        Column("chain length T′", "length"),
        Column("RMSE (data units)", "pooled_rmse"),
        Column("mean std over pixels ν (data units)", "nu"),
        Column("ν, Gaussian reference", "nu_gaussian"),
    )
    return [Table("errors", "errors", frame, columns, main=True)]


def pixel_table(errors: xr.Dataset, tests: xr.Dataset, pixels: Sequence[Pixel]) -> Table:
    """The errors at some pixels (c, y, x), each with its test of normality."""
    columns = (
        Column("chain length T′", "length"),
        Column("pixel (c,y,x)", "pixel"),
        Column("mean (data units)", "mean", signed=True),
        Column("std (data units)", "std"),
        Column("skewness", "skewness", signed=True),
        Column("p-value", "p"),
    )
    lengths = range(errors.sizes["length"])
    rows = [_pixel_row(errors, tests, i, p) for i in lengths for p in pixels]
    return Table("pixels", "pixels", pd.DataFrame(rows), columns)


def _pixel_row(errors: xr.Dataset, tests: xr.Dataset, row: int, pixel: Pixel) -> dict[str, Any]:
    place = {"length": row, **dict(zip(("channel", "y", "x"), pixel, strict=True))}
    here, test = errors.isel(place), tests.isel(place | {"block": 0})
    names = ("mean", "mean_se", "std", "std_se", "skewness", "skewness_se", "kurtosis")
    return {
        "length": int(here["length"]),
        "pixel": ",".join(map(str, pixel)),
        **{k: float(here[k]) for k in (*names, "kurtosis_se")},
        "W": float(test["statistic"]),
        "p": float(test["pvalue"]),
    }


CHAIN_ERRORS = Kind(
    name="chain_errors",
    title="Chain errors",
    question="What do chains from a noisy image miss of the clean one, by length?",
    variables={
        "error": Term(
            "chain error e_t", DATA, "x_0 less the x_0 that a chain from x_t arrives at."
        ),
        "x0": Term("image x_0", DATA, "The held-out images themselves."),
        "mean": Term("mean of e_t", DATA, "Mean over samples at a pixel; 0 for a perfect sampler."),
        "std": Term("spread of e_t", DATA, "Standard deviation over samples at a pixel."),
        "std_gaussian": Term(
            "spread of e_t, Gaussian reference",
            DATA,
            "What a perfect denoiser of Gaussian data has.",
        ),
        "skewness": Term("skewness of e_t", SHARE, "0 for a perfect sampler and for a Gaussian."),
        "kurtosis": Term("excess kurtosis of e_t", SHARE, "0 for a Gaussian."),
        "nu": Term(
            "spread of chain errors ν",
            DATA,
            "The mean over pixels of the standard deviation of e_t, Ning et al.'s ν_t.",
        ),
        "nu_gaussian": Term(
            "spread of chain errors, Gaussian reference",
            DATA,
            "ν of a perfect denoiser of Gaussian data.",
        ),
        "pooled_rmse": Term(
            "size of chain errors", DATA, "Root mean square of e_t over all pixels."
        ),
    },
    tables=_tables,
    sentence=_sentence,
    figures=(
        Drawing("exposure_bias.plots:error_histograms", needs=("error", "x0")),
        Drawing("exposure_bias.plots:error_std", "-std", needs=("std",)),
    ),
    needs={"pooled_rmse": ("length",), "nu": ("length",)},
    aliases=("errors", "chain errors"),
    command="error-hist",
)
