"""The kind of what `compare` returns."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from exposure_bias.diagnostics.spectra import HIGH_FREQUENCIES
from exposure_bias.diagnostics.variance_gap import GAP
from exposure_bias.experiments.kinds.budgets import factor_of, statistic_in_words
from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.results import Column, Drawing, Kind, Table, Term
from exposure_bias.results.numbers import NO_INTERVAL, number, percent
from exposure_bias.results.tables import Row
from exposure_bias.results.terms import COUNT, DATA, DECIBELS, SHARE, TEXT, VARIES


def _sentence(compared: xr.Dataset) -> str:
    """Of the entry that moves the gap most."""
    end = compared.isel(step=-2)
    moves = np.abs(end["gap_difference"].values[1:])
    most = 1 + int(np.nanargmax(moves)) if np.isfinite(moves).any() else 1
    if "gap_score" in compared and np.isfinite(end["gap_difference_se_total"][most]):
        return _one_compared(compared, most)
    value, error = (float(end[f"gap_difference{e}"][most]) for e in ("", "_se_total"))
    name = shortened(str(end["entry"].values[most]))
    missing = "" if np.isfinite(error) else NO_INTERVAL
    return f"{name} moves the variance gap by {percent(value, error)}{missing}."


def _details(compared: xr.Dataset) -> list[str]:
    if "gap_score" not in compared:
        return []
    said = [_one_compared(compared, k) for k in range(1, compared.sizes["entry"])]
    return said if len(said) > 1 else []


def shortened(name: str, most: int = 32) -> str:
    """Return a name of at most so many letters."""
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _one_compared(result: xr.Dataset, k: int) -> str:
    name, first = str(result["entry"].values[k]), str(result["entry"].values[0])
    end = result["gap"].isel(step=-2)
    before, after = float(end[0]), float(end[k])
    change, error = (
        float(result[f"gap_difference{e}"].isel(step=-2)[k]) for e in ("", "_se_total")
    )
    said = (
        f"{name}: variance {percent(after)} against {percent(before)} of {first} (difference"
        f" {percent(change, error)})"
    )
    score, score_error = (float(result[f"gap_score_difference{e}"][k]) for e in ("", "_se_total"))
    own, own_error = float(result["gap_score"][0]), float(result["gap_score_se"][0])
    solver, solver_error = (
        float(result[f"gap_discretisation_difference{e}"][k]) for e in ("", "_se_total")
    )
    began = float(result["gap_discretisation"][0])
    began_error = float(result["gap_discretisation_se"][0])
    told = (
        f"{said}; the network's part moves by {_moves(score, score_error)} from"
        f" {percent(own, own_error)}, the sampler's by {_moves(solver, solver_error)} from"
        f" {percent(began, began_error)}"
    )
    parts = (own, (score, score_error), (solver, solver_error))
    return f"{told}: {_what_it_does(before, after, (change, error), *parts)}."


def _moves(value: float, error: float) -> str:
    """A change with its interval; exactly none has no interval."""
    return "0 %" if value == error == 0 else percent(value, error)


def _what_it_does(
    before: float,
    after: float,
    change: tuple[float, float],
    own: float,
    score: tuple[float, float],
    solver: tuple[float, float],
) -> str:
    if not np.isfinite(change[1]):
        return "too few images for intervals"
    closes = abs(after) < abs(before) and abs(change[0]) > T_QUANTILE * change[1]
    moved = abs(score[0]) > T_QUANTILE * score[1]
    acts = abs(solver[0]) > T_QUANTILE * solver[1]
    if moved and abs(own + score[0]) > abs(own):
        return (
            "it only compensates the sampler, at the price of the network"
            if closes
            else "it harms the network"
        )
    if moved:
        return "it mends the network"
    if acts and closes:
        return "it compensates the sampler, and no change of the network shows"
    if acts:
        return "it moves the sampler's part, and the gap does not close"
    return (
        "it closes the gap, but not by a change of the network that shows"
        if closes
        else "no effect that shows"
    )


def _tables(compared: xr.Dataset) -> list[Table]:
    rows = []
    for name, step in (("hf", -1), ("gap", -1), ("state_rmse", -1), ("epsilon_ratio", -2)):
        if name in compared:
            rows += _entries(name, compared.isel(step=step))
    for name in ("gap_score", "gap_discretisation", "hf_score", "hf_discretisation"):
        if name in compared:
            rows += _entries(name, compared)
    for length in compared["length"].values if "length" in compared else ():
        rows += _entries("error_rmse", compared.sel(length=length), f"error_rmse({length})")
    first = str(compared["entry"].values[0])
    columns = (
        Column("statistic", "statistic", write=lambda r: statistic_in_words(r["statistic"])),
        Column("entry", "entry"),
        Column("value", "value", write=lambda r: _written(r, "value", "se")),
        Column(
            "difference from the first",
            "difference",
            write=lambda r: "" if r["entry"] == first else _written(r, "difference"),
        ),
    )
    title = "comparison (clean end; epsilon_ratio at the last network call)"
    frame = pd.DataFrame(rows)
    others = sorted({r["note"] for r in rows if r["note"]})
    return [Table("comparison", title, frame, columns, main=True, notes=tuple(others))]


def _written(row: Row, name: str, error: str | None = None) -> str:
    factor = factor_of(row)
    return number(factor * row[name], factor * T_QUANTILE * row[error or f"{name}_se"], True)


def _entries(name: str, here: xr.Dataset, label: str | None = None) -> list[dict[str, Any]]:
    parts = {
        "value": "",
        "se": "_se",
        "difference": "_difference",
        "difference_se": "_difference_se_total",
    }
    return [
        {"statistic": label or name, "entry": entry, "seeds": int(here["seeds"][i])}
        | {k: float(here[f"{name}{suffix}"][i]) for k, suffix in parts.items()}
        | {"note": str(here["note"].values[i])}
        for i, entry in enumerate(here["entry"].values)
    ]


COMPARE = Kind(
    name="compare",
    title="Comparison",
    question=(
        "What does each model or remedy change, on the same images and noise? Intervals that hold"
        " zero show no difference."
    ),
    variables={
        "gap": GAP,
        "hf": HIGH_FREQUENCIES,
        "entry": Term("entry", TEXT, "A model, with its remedies."),
        "seeds": Term("training seeds", COUNT, "How many networks an entry is the mean of."),
        "note": Term("note", TEXT, "What a difference rests on."),
        "statistic": Term("statistic", TEXT, "What is compared, at the clean end or of a chain."),
        "value": Term("value", VARIES, "The statistic of an entry, with that of its images."),
        "se": Term("standard error of the value", VARIES, "Over images."),
        "difference": Term(
            "difference from the first entry", VARIES, "Paired: same images, same noise."
        ),
        "epsilon_ratio": Term(
            "noise-norm ratio", SHARE, "Noise norm of the chain over the forward stream's."
        ),
        "state_rmse": Term("size of state errors", DATA, "RMSE of x̂_t − x_t."),
        "error_rmse": Term("size of chain errors", DATA, "RMSE of x_0 − x̂_0 of one length."),
        "gap_score": Term("variance, the network's share", SHARE, "Of the variance gap."),
        "gap_discretisation": Term("variance, the sampler's share", SHARE, "Of the variance gap."),
        "hf_score": Term("high frequencies, the network's share", DECIBELS, "Of hf."),
        "hf_discretisation": Term("high frequencies, the sampler's share", DECIBELS, "Of hf."),
    },
    tables=_tables,
    sentence=_sentence,
    details=_details,
    figures=(Drawing("exposure_bias.plots:compare"),),
    needs={
        "gap": ("entry", "step"),
        "gap_difference": ("entry", "step"),
        "gap_difference_se_total": ("entry", "step"),
        "seeds": ("entry",),
        "note": ("entry",),
    },
)
