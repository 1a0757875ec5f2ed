"""The kind of what `rollouts` returns."""

import numpy as np
import xarray as xr

from exposure_bias.jackknife import interval
from exposure_bias.results import Column, Drawing, Kind, Table, Term
from exposure_bias.results.numbers import farthest_from_one, missing, percent, told
from exposure_bias.results.tables import START, tidy
from exposure_bias.results.terms import COUNT, DATA, SHARE, SQUARE


def _sentence(results: xr.Dataset) -> str:
    known = results["W_over_U"].notnull().values if "W_over_U" in results else np.array([False])
    if not known.any():
        first = results[["S", "S_se"]].isel(start=0)
        size, lack = told(first, "S"), missing(first, "S")
        return f"One prediction from {float(first['start']):g} errs by S = {size}{lack}."
    names = [f"W_over_U{end}" for end in ("", "_se", "_low", "_high")]
    worst = results[names].isel(start=farthest_from_one(results["W_over_U"].values))
    ratio, lack = told(worst, "W_over_U"), missing(worst, "W_over_U")
    text = f"Spread over skill is {ratio} from {float(worst['start']):g}{lack}"
    if "W_gaussian" not in results:
        return f"{text}. With many steps the right value is 1."
    place = results.isel(start=farthest_from_one(results["W_over_U"].values))
    perfect = float(place["W_gaussian"] / place["U_gaussian"])
    return f"{text}. A perfect network of Gaussian data with these steps would show {perfect:.2g}."


def _tables(results: xr.Dataset) -> list[Table]:
    columns: tuple[Column, ...] = (
        START,
        Column("one-step error S (data units²)", "S"),
        Column("shared error U", "U"),
        Column("spread over skill W/U", "W_over_U"),
        Column("added mean error (%)", "U_minus_S_relative", 100, True),
    )
    if "U" not in results:
        columns = (*columns[:2], Column("chain error A (data units²)", "A"))
    found = [Table("rollouts", "rollouts", tidy(results, "start"), columns, main=True)]
    if "ranks" in results:
        shown = (
            START,
            Column("rank of x_0", "rank"),
            Column("share of pixels (%)", "ranks", 100),
            Column("along directions (%)", "ranks_direction", 100),
        )
        found.append(Table("ranks", "ranks", tidy(results, "start", "rank"), shown))
    states = tidy(results, "start", "depth")
    if "state_error" in states:
        shown = (
            START,
            Column("steps taken", "depth"),
            Column("state error (data units)", "state_error"),
            Column("Gaussian reference", "state_error_gaussian"),
        )
        frame = states.dropna(subset="state_error")
        found.append(Table("state_error", "state error", frame, shown))
    return found


def calibration(results: xr.Dataset) -> str:
    """Say how rollouts are calibrated where they are worst; "" where none are."""
    known = np.isfinite(results["W_over_U"].values) if "W_over_U" in results else np.array([False])
    if not known.any():
        return ""
    names = [
        f"W_over_U{end}"
        for end in ("", "_se", "_low", "_high", "_gaussian")
        if f"W_over_U{end}" in results
    ]
    worst = results[names].isel(start=farthest_from_one(results["W_over_U"].values))
    low, high = interval(worst, "W_over_U")
    perfect = float(worst.get("W_over_U_gaussian", np.nan))
    if float(low) <= 1 <= float(high):
        what = "the right value is 1, which is within the interval"
    elif np.isfinite(perfect):
        what = f"a perfect network of Gaussian data with these steps would show {perfect:.2g}"
    else:
        what = "the right value with many steps is 1"
    text = (
        f"repeated samples of one image, from timestep {float(worst['start']):g}, differ"
        f" {told(worst, 'W_over_U')} times as much as they should; {what}"
    )
    added = results["U_minus_S_relative"].values
    if np.isfinite(added).any():
        most = int(np.nanargmax(np.abs(added)))
        share = percent(float(added[most]), float(results["U_minus_S_relative_se"][most]))
        text += (
            f"; the chain adds {share} to one prediction's mean error from"
            f" {float(results['start'][most]):g}"
        )
    return text


CALIBRATION = {
    "W_over_U_gaussian": Term(
        "spread over skill of a perfect network",
        SHARE,
        "That of a perfect network of Gaussian data with the same steps.",
    ),
    "W_over_U": Term(
        "spread over skill W/U",
        SHARE,
        "Half the squared distance of two chains from one state over the error they share. 1 for a"
        " perfect sampler on any data; below 1 the chains are too sure.",
        1,
    ),
    "U_minus_S": Term(
        "mean error that the chain adds U − S",
        SQUARE,
        "What a whole chain adds to the squared error of a single prediction's mean.",
        0,
    ),
    "U_minus_S_relative": Term(
        "mean error that the chain adds (U − S)/S",
        SHARE,
        "What a whole chain adds to a single prediction's squared mean error, relative to it; 0 for"
        " a perfect sampler.",
        0,
    ),
    "bounded": Term(
        "prediction bounded",
        "1 or 0",
        "0 where the one-step prediction is worse than the mean image, so that U − S says nothing.",
    ),
}
ROLLOUTS = Kind(
    name="rollouts",
    title="Rollouts",
    question=(
        "Started on true noisy images, are chains as uncertain as they are wrong? Spread over skill"
        " is one for a perfect sampler."
    ),
    variables={
        **CALIBRATION,
        "S": Term(
            "one-step error S", SQUARE, "Squared error of the x_0 predicted at once: training error"
        ),
        "A": Term("chain error A", SQUARE, "Squared error of the chain's end: generation error."),
        "U": Term("shared error U", SQUARE, "The part of the error that two chains have in common"),
        "W": Term("spread of chains W", SQUARE, "Half the squared distance of two chains."),
        "rank": Term("rank of x_0", COUNT, "How many of the chains x_0 lies above."),
        "ranks": Term("share of pixels", SHARE, "At which x_0 has this rank; uniform if perfect."),
        "ranks_direction": Term(
            "share along directions", SHARE, "The same along the data's eigen-directions."
        ),
        "depth": Term("steps from the start", COUNT, "After how many steps states are compared."),
        "depth_timestep": Term("timestep reached", "model's own time", "After these steps."),
        "state_error": Term(
            "size of state errors", DATA, "RMSE of x̂ − x against the teacher chain."
        ),
    },
    tables=_tables,
    sentence=_sentence,
    figures=(
        Drawing("exposure_bias.plots:rollouts"),
        Drawing("exposure_bias.plots:rank_histogram", "-ranks", needs=("ranks",)),
    ),
    needs={"S": ("start",), "A": ("start",)},
    aliases=("rollout",),
)
