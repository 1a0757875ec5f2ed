"""The kind of what `compare_drift` returns."""

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from exposure_bias.experiments.kinds.compare import shortened
from exposure_bias.experiments.kinds.drift import COMMON, SPLIT, factor_of, statistic_in_words
from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.results import Column, Drawing, Kind, Table, Term
from exposure_bias.results.numbers import NO_INTERVAL, percent
from exposure_bias.results.terms import TEXT

TERMS = {
    "total": "total",
    "feedback": "feedback",
    "discretisation": "the sampler's",
    "initialisation": "the start's",
    "score": "the network's",
}


def _last(compared: xr.Dataset) -> xr.Dataset:
    """The last frame at which the total of all entries is known, else the first."""
    total = compared["total"].sel(statistic="variance").values
    known = np.flatnonzero(np.isfinite(total).all(0))
    return compared.isel(frame=int(known[-1]) if len(known) else 0)


def _sentence(compared: xr.Dataset) -> str:
    end = _last(compared).sel(statistic="variance")
    change = np.abs(np.nan_to_num(end["total_difference"].values[1:]))
    return _one(end, 1 + int(change.argmax()))


def _details(compared: xr.Dataset) -> list[str]:
    end = _last(compared).sel(statistic="variance")
    said = [_one(end, k) for k in range(1, compared.sizes["entry"])]
    return said if len(said) > 1 else []


def _one(end: xr.Dataset, k: int) -> str:
    """What an entry does to the variance, and to which term."""
    name, first = (shortened(str(end["entry"].values[i])) for i in (k, 0))
    frame, before, after = int(end["frame"]), float(end["total"][0]), float(end["total"][k])
    change, error = (float(end[f"total_difference{e}"][k]) for e in ("", "_se"))
    said = (
        f"{name} takes the drift of the variance at frame {frame} from {percent(before)} ({first})"
        f" to {percent(after)} (right is 0), a difference of {percent(change, error)}"
    )
    if not np.isfinite(error):
        return said + NO_INTERVAL + "."
    moved = [
        f"{words} by {percent(float(end[f'{term}_difference'][k]), spread)}"
        for term, words in list(TERMS.items())[1:]
        if term in end
        and abs(float(end[f"{term}_difference"][k]))
        > T_QUANTILE * (spread := float(end[f"{term}_difference_se"][k]))
        and spread > 0
    ]
    if not moved:
        return f"{said}; no term moves clearly."
    return f"{said}; it moves {_and(moved)}."


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _tables(compared: xr.Dataset) -> list[Table]:
    end = _last(compared)
    rows = []
    for i, entry in enumerate(end["entry"].values):
        for statistic in end["statistic"].values:
            here = end.sel(statistic=statistic).isel(entry=i)
            row: dict[str, Any] = {"entry": str(entry), "statistic": str(statistic)}
            row |= {str(k): float(v) for k, v in here.data_vars.items()}
            rows.append(row | {"frame": int(end["frame"])})
    frame = pd.DataFrame(rows)
    first = str(end["entry"].values[0])
    heads = {term: words.removeprefix("the ") for term, words in TERMS.items()}
    values = tuple(Column(head, term, factor_of, True) for term, head in heads.items())
    changes = tuple(
        Column(head, f"{term}_difference", factor_of, True) for term, head in heads.items()
    )
    who = Column("entry", "entry")
    what = Column("statistic", "statistic", write=lambda r: statistic_in_words(r["statistic"]))
    variance = [i for i, row in enumerate(rows) if row["statistic"] == "variance"]
    at = f"frame {int(end['frame'])}."
    moved = [i for i in variance if rows[i]["entry"] != first]
    return [
        Table("values", "compare drift", frame, (who, *values), variance, True, (NOTE + at,)),
        Table("differences", f"differences (from {first})", frame, (who, *changes), moved, True),
        Table("statistics", "every statistic", frame, (who, what, *values)),
    ]


NOTE = "These tables are about the variance in per cent of the data's; right is 0. They are of "
COMPARE_DRIFT = Kind(
    name="compare_drift",
    title="Drift with and without remedies",
    question=(
        "What does each remedy change in the drift, and in which of its terms? All entries draw the"
        " same frames on the same noise; an interval that holds zero shows no difference."
    ),
    variables=COMMON
    | SPLIT
    | {"entry": Term("entry", TEXT, "A model with its sampler, steps, start and remedies.")},
    tables=_tables,
    sentence=_sentence,
    details=_details,
    figures=(Drawing("exposure_bias.plots:compare_drift"),),
    needs=dict.fromkeys(
        ("total", "feedback", "total_difference", "total_difference_se"),
        ("entry", "statistic", "frame"),
    ),
    command="drift --against",
)
