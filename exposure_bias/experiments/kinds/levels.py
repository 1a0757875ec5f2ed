"""The kinds of what `optimise_levels` and `level_curve` return."""

from typing import Any

import numpy as np
import xarray as xr

from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.results import Column, Drawing, Kind, Table, Term
from exposure_bias.results.numbers import NO_INTERVAL, half_of, number
from exposure_bias.results.tables import Row, tidy
from exposure_bias.results.terms import SHARE, TEXT, VARIES

OBJECTIVES = {"gap": "of the variance", "hf": "of the high frequencies"}
FORMS = {"diffusers": "diffusers", "k_diffusion": "k-diffusion", "comfyui": "ComfyUI"}


def _unit(result: xr.Dataset) -> tuple[float, str]:
    """What a number is multiplied by, and its unit."""
    return (1.0, "dB") if result.attrs.get("decibels") else (100.0, "%")


def _told(result: xr.Dataset, name: str) -> str:
    factor, unit = _unit(result)
    value, half = float(result[name]), half_of(result, name)
    return f"{number(factor * value, factor * half, signed=True)} {unit}"


def _of(result: xr.Dataset) -> str:
    named = str(result.attrs.get("objective", "gap"))
    return OBJECTIVES.get(named, f"of {named}")


def _sentence(result: xr.Dataset) -> str:
    calls = result.sizes["step"]
    if not np.isfinite(float(result["certified"])):
        predicted = _told(result, "predicted")
        return (
            f"{calls} calls through the chosen levels are predicted to leave {predicted}"
            f" {_of(result)} to the sampler; they were not certified: no interval."
        )
    lack = "" if np.isfinite(half_of(result, "certified")) else NO_INTERVAL
    return (
        f"{calls} calls through the chosen levels leave {_told(result, 'certified')} {_of(result)}"
        f" to the sampler, on images that did not choose them{lack}."
    )


def _details(result: xr.Dataset) -> list[str]:
    factor, unit = _unit(result)
    rules = [
        f"{rule} {number(factor * float(value), signed=True)} {unit}"
        for rule, value in zip(
            result["rule"].values, result["predicted_by_rule"].values, strict=True
        )
    ]
    said = f"The prediction is {_told(result, 'predicted')}"
    return [f"{said}; of fixed rules it is {', '.join(rules)}."] if rules else [f"{said}."]


def _to_do(result: xr.Dataset) -> tuple[str, str]:
    """The levels as other libraries take them."""
    known = [(words, result.attrs[form]) for form, words in FORMS.items() if form in result.attrs]
    code = "\n".join(f"# {words}\n{line}" for words, line in known)
    return ("The chosen levels, to paste:", code) if code else ("", "")


def _tables(result: xr.Dataset) -> list[Table]:
    levels = result[["timestep", "ratio", "alpha", "sigma"]]
    columns = (Column("call", "step"), Column("timestep", "timestep"), Column("σ/α", "ratio"))
    rules = tidy(result[["predicted_by_rule"]], "rule")
    factor, unit = _unit(result)
    by_rule = (
        Column("rule", "rule"),
        Column(f"predicted ({unit})", "predicted_by_rule", factor, True),
    )
    return [
        Table("levels", "chosen levels", tidy(levels, "step"), columns, main=True),
        Table("rules", "fixed rules", rules, by_rule),
    ]


def _factor(row: Row) -> float:
    return 1.0 if row["decibels"] else 100.0


def _curve_tables(result: xr.Dataset) -> list[Table]:
    decibels = bool(result.attrs.get("decibels"))
    frame = tidy(result, "calls", "rule").assign(decibels=decibels)
    mark = _unit(result)[1]
    columns = (
        Column("calls", "calls"),
        Column("levels", "rule"),
        Column(f"predicted ({mark})", "predicted", _factor, True),
        Column(f"certified ({mark})", "certified", _factor, True),
        Column(f"chosen ones are better by ({mark})", "advantage", _factor, True),
    )
    return [Table("levels", "levels by calls", frame, columns, main=True)]


def _curve_sentence(result: xr.Dataset) -> str:
    fewest = result.isel(calls=0)
    chosen = fewest.sel(rule="chosen")
    others = fewest.drop_sel(rule="chosen")
    sizes = np.abs(others["certified"].values)
    said = (
        f"{int(fewest['calls'])} calls through the chosen levels leave"
        f" {_told(chosen, 'certified')} {_of(result)} to the sampler"
    )
    lack = "" if np.isfinite(half_of(chosen, "certified")) else NO_INTERVAL
    if not np.isfinite(sizes).any():
        return f"{said}{lack}."
    best = others.isel(rule=int(np.nanargmin(sizes)))
    least = f"{best['rule'].item()}, leaves {_told(best, 'certified')}{lack}"
    return f"{said}; the best fixed rule, {least}."


def _curve_details(result: xr.Dataset) -> list[str]:
    """At which numbers of calls the chosen levels are shown to be better than all rules."""
    rules = result.drop_sel(rule="chosen")
    least = rules["advantage"] - T_QUANTILE * rules["advantage_se"]
    known = np.isfinite(rules["advantage"].values)
    if not np.isfinite(rules["advantage_se"].values).any():
        return []
    better = [
        int(calls)
        for calls, row, some in zip(result["calls"].values, least.values, known, strict=True)
        if some.any() and (row[some] > 0).all()
    ]
    words = ", ".join(map(str, better)) or "no number of"
    return [f"They are better than every fixed rule, beyond their intervals, at {words} calls."]


VARIABLES = {
    "ratio": Term("noise-to-signal ratio σ/α", SHARE, "Of a chosen level."),
    "predicted": Term(
        "predicted share of the sampler",
        VARIES,
        "What the steps between the levels leave out, predicted from one forward pass.",
        0,
    ),
    "certified": Term(
        "certified share of the sampler",
        VARIES,
        "The same as chains show it, on images and noise that did not choose the levels.",
        0,
    ),
    "predicted_by_rule": Term(
        "predicted share, fixed rules", VARIES, "The prediction for levels by a fixed rule.", 0
    ),
    "advantage": Term(
        "advantage of the chosen levels",
        VARIES,
        "By how much the size of a rule's certified share exceeds that of the chosen levels.",
    ),
    "rule": Term("rule", TEXT, "How the levels were placed."),
    "calls": Term("network calls", "count", "How often one chain asks the network."),
}
NEEDS: dict[str, Any] = {"certified": (), "predicted": (), "timestep": ("step",)}
OPTIMISE_LEVELS = Kind(
    name="optimise_levels",
    title="Chosen levels",
    question=(
        "At which noise levels should a chain of few network calls ask the network? The levels are"
        " chosen on one half of the images. What they leave to the sampler is measured on the"
        " other."
    ),
    variables=VARIABLES,
    tables=_tables,
    sentence=_sentence,
    details=_details,
    to_do=_to_do,
    figures=(Drawing("exposure_bias.plots:chosen_levels"),),
    needs=NEEDS,
    command="levels",
)
LEVEL_CURVE = Kind(
    name="level_curve",
    title="Chosen levels and fixed rules",
    question=(
        "How much do chosen noise levels gain over fixed rules, by the number of network calls?"
        " Shares of the sampler, predicted from one forward pass and measured on other images."
    ),
    variables=VARIABLES,
    tables=_curve_tables,
    sentence=_curve_sentence,
    details=_curve_details,
    figures=(Drawing("exposure_bias.plots:level_curve"),),
    needs={"certified": ("calls", "rule"), "advantage": ("calls", "rule")},
    command="levels",
)
