"""The kind of what `network_error` returns."""

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.predicted_share import FIRST_ORDER, where_it_arises
from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.results import Column, Drawing, Kind, Table, Term
from exposure_bias.results.numbers import percent, rounded, sentence_of, told
from exposure_bias.results.tables import tidy
from exposure_bias.results.terms import SHARE, TEXT

MIDDLE, SIZE = 0.05, 0.05
RATIO = Column("σ/α", "ratio")
HALVES = {
    "all": "in all frequencies",
    "low": "in frequencies below ¼ cycle per pixel",
    "high": "in frequencies above ¼ cycle per pixel",
}


def _sentence(results: xr.Dataset) -> str:
    if "no_verdict" in results.attrs:
        return f"No verdict: {results.attrs['no_verdict']}."
    p_value = float(results["p_value"])
    if not np.isfinite(p_value):
        return "No verdict: no test could be asked of these data."
    if not int(results["flagged"]):
        return f"No error of the network was found on true states (p = {rounded(p_value)})."
    here = _clearest(results)
    return (
        f"The network is wrong on true states (p = {rounded(p_value)}): the slope of the test"
        f" “{here['test'].item()}” is {told(here, 'slope', 100, '%')} at σ/α ="
        f" {rounded(_ratio(here))} (right is 0)."
    )


def _clearest(results: xr.Dataset) -> xr.Dataset:
    """The slope that lies the most standard errors from zero, at a level with signal if it can."""
    asked = results["p_adjusted"].notnull().values
    middle = asked & (results["signal"].values >= MIDDLE)[:, None]
    certain = results["p_adjusted"].values < SIZE
    asked = middle if (middle & certain).any() else asked
    ratio = np.abs((results["slope"] / results["slope_se"]).values)
    distance = np.where(asked & np.isfinite(ratio), ratio, -1.0)
    row, column = np.unravel_index(int(distance.argmax()), distance.shape)
    return results[["slope", "slope_se"]].isel(level=int(row), test=int(column))


def _ratio(here: xr.Dataset) -> float:
    return float(here["sigma"] / here["alpha"])


def _details(results: xr.Dataset) -> list[str]:
    parts = [_costs(results), _exposure(results), results.attrs.get("warning", "")]
    return [sentence_of(part) for part in parts if part]


def _costs(results: xr.Dataset) -> str:
    """What the errors cost, and where it arises."""
    if "cost" not in results:
        return f"No cost is predicted: {results.attrs.get('no_costs', 'it was not asked for')}"
    if not np.isfinite(results["predicted_share"]):
        first = results.isel(statistic=0)
        total = told(first, "first_order_sum", 100, "%")
        return (
            f"The cost of these errors is withheld: to first order it is {total} of the samples'"
            f" variance, and first order holds up to about {FIRST_ORDER:.0%}. Use budget, whose"
            " limit has no such bound"
        )
    share, error = (float(results[f"predicted_share{end}"]) for end in ("", "_se"))
    told_share = percent(share, error)
    if not np.abs(share) > T_QUANTILE * error:
        return (
            f"The errors on true states are predicted to change the samples' variance by"
            f" {told_share}, which cannot be told from 0"
        )
    where = where_it_arises(results["cost"].values, results["high"].values)
    ratios = (results["sigma"] / results["alpha"]).values
    levels = f"{rounded(ratios[where.last])} to {rounded(ratios[where.first])}"
    return (
        f"The errors on true states are predicted to change the samples' variance by {told_share}"
        f" (right is 0). Most of that arises at σ/α {levels} {HALVES[where.bands]}: train there"
    )


def _exposure(results: xr.Dataset) -> str:
    """Whether there is exposure bias in the strict sense."""
    if "exposure" not in results:
        why = results.attrs.get("no_exposure", "it was not asked for")
        return f"Strict exposure was not measured: {why}"
    said = results["said"].values == 1
    values = " and ".join(
        f"{percent(float(here['exposure']), float(here['exposure_se']))} at σ/α ="
        f" {rounded(float(here['cut']))}"
        for here in (results.isel(cut=i) for i in range(results.sizes["cut"]))
    )
    floor = f"{rounded(100 * float(results['floor'][0]))} %"
    if said.any():
        return (
            "The network errs more on its own states than on true ones, which is exposure bias in"
            f" the strict sense: it changes the samples' variance by {values}. Only values beyond"
            f" {floor} and beyond their interval are believed"
        )
    return (
        f"Exposure bias in the strict sense was not found: {values}. Only values beyond {floor} and"
        " beyond their interval are believed"
    )


def _tables(results: xr.Dataset) -> list[Table]:
    found = []
    results = results.assign_coords(ratio=results["sigma"] / results["alpha"])
    if "cost" in results:
        by_level = results[["share_by_level", "share_by_level_se"]].isel(statistic=0)
        columns = (RATIO, Column("change of the variance (%)", "share_by_level", 100, True))
        shares = (
            Column("statistic", "statistic"),
            Column("predicted change (%)", "share", 100, True),
        )
        found += [
            Table("shares", "predicted shares", tidy(results, "statistic"), shares, main=True),
            Table(
                "cost_by_level",
                "cost by level",
                tidy(by_level.drop_vars("statistic"), "level"),
                columns,
                main=True,
            ),
            Table("cost_map", "cost map", tidy(results, "level", "band")),
        ]
    if "exposure" in results:
        by_cut = (
            Column("cut at σ/α", "cut"),
            Column("strict exposure (%)", "exposure", 100, True),
            Column("a restart loses (%)", "restart", 100, True),
            Column("from above the cut (%)", "above", 100, True),
        )
        frame = tidy(results, "cut")
        found.append(Table("exposure", "strict exposure", frame, by_cut, main=True))
    slopes = (
        RATIO,
        Column("test", "test"),
        Column("slope (%)", "slope", 100, True),
        Column("p, of the whole table", "p_adjusted"),
    )
    frame = tidy(results, "level", "test")
    order = frame["p_adjusted"].argsort(kind="stable") if "p_adjusted" in frame else frame.index
    found.append(Table("slopes", "slopes", frame, slopes, rows=list(order[:8]), main=not found))
    return found


NETWORK_ERROR = Kind(
    name="network_error",
    title="Errors on true states",
    question=(
        "Is the network wrong on real noisy images, at which noise levels and frequencies, what"
        " does that cost the samples, and does it err more on its own states?"
    ),
    variables={
        "level": Term("timestep t", "model's own time", "The level whose true states were asked."),
        "test": Term("function of the state", TEXT, "What the residual x_0 − x̂_0 is tested with."),
        "band": Term("band of frequencies", TEXT, "In cycles per pixel."),
        "bin": Term("bin of predictions", "count", "From low to high predictions."),
        "statistic": Term("statistic", TEXT, "The variance, or the power of some frequencies."),
        "cut": Term("σ/α of a cut", SHARE, "Where chains restart from true states."),
        "high": Term("high frequencies", SHARE, "1 for bands at ¼ cycle per pixel and above."),
        "ratio": Term("σ/α", SHARE, "The noise-to-signal ratio of the level."),
        "signal": Term("signal", SHARE, "The share of a state's variance that is the image's."),
        "slope": Term(
            "slope",
            SHARE,
            "How much of a function g of the state the network leaves out: E[(x_0 − x̂_0)·g] over"
            " E[g·g].",
            0,
        ),
        "p_adjusted": Term(
            "adjusted p-value", SHARE, "Of one slope, at one error rate for the whole table."
        ),
        "p_value": Term("p-value", SHARE, "Of the hypothesis that no slope differs from 0."),
        "flagged": Term("flagged", SHARE, "1 where the p-value is below 5 %.", 0),
        "cost": Term(
            "cost",
            SHARE,
            "The change of the samples' variance, relative, that the error at this level and in"
            " this band makes, to first order.",
            0,
        ),
        "predicted_share": Term(
            "predicted share",
            SHARE,
            "The sum of the cost map: what the network's errors on true states will change the"
            " samples' variance by. Empty where first order does not hold.",
            0,
        ),
        "share": Term("predicted share", SHARE, "The same for each statistic.", 0),
        "share_by_level": Term("predicted share by level", SHARE, "For each statistic.", 0),
        "first_order_sum": Term(
            "first-order share", SHARE, "The share, also where first order does not hold.", 0
        ),
        "first_order": Term(
            "first order holds", SHARE, f"1 where the states shift by at most {FIRST_ORDER:.0%}.", 1
        ),
        "reliability_predicted": Term(
            "prediction",
            "deviations",
            "Mean x̂_0 of a bin, in deviations of a linear prediction.",
        ),
        "reliability_observed": Term(
            "image", "deviations", "Mean x_0 of the same pixels or modes."
        ),
        "exposure": Term(
            "strict exposure",
            SHARE,
            "What the network loses below the cut on its own states, less the same on true ones.",
            0,
        ),
        "restart": Term("loss of a restart", SHARE, "From true states at the cut to the end.", 0),
        "above": Term(
            "from above the cut",
            SHARE,
            "What the chain had lost at the cut, carried to the end.",
            0,
        ),
        "total": Term("gap of the limit", SHARE, "Restart, above and exposure together.", 0),
        "said": Term("said", SHARE, "1 where exposure is beyond its interval and its floor.", 0),
        "floor": Term(
            "floor", SHARE, "Below it exposure is not believed: false readings reach it."
        ),
        "exposure_high": Term("strict exposure, high frequencies", SHARE, "As exposure.", 0),
        "restart_high": Term("loss of a restart, high frequencies", SHARE, "As restart.", 0),
        "above_high": Term("from above the cut, high frequencies", SHARE, "As above.", 0),
        "total_high": Term("gap of the limit, high frequencies", SHARE, "As total.", 0),
        "said_high": Term("said, high frequencies", SHARE, "As said.", 0),
    },
    tables=_tables,
    sentence=_sentence,
    details=_details,
    figures=(
        Drawing("exposure_bias.plots:network_error"),
        Drawing("exposure_bias.plots:slopes", "slopes"),
        Drawing("exposure_bias.plots:reliability", "reliability", ("reliability_predicted",)),
    ),
    needs={"slope": ("level", "test"), "p_adjusted": ("level", "test"), "p_value": ()},
)
