"""What results say in words: one place for every sentence a person reads. No torch here.

Each function takes a result and returns text with numbers and intervals in it. Nothing in the
package reads these texts.
"""

from collections.abc import Callable
from math import ceil

import numpy as np
import xarray as xr

from exposure_bias.jackknife import T_QUANTILE, interval

# A first-order solver's error falls as 1/T′, Heun's as 1/T′².
ORDER = {"heun": 2}
DEFAULT_ORDER = 1
MOST_STEPS = 100_000
LARGE = 1e6  # from here on a power of ten
MOST_DIGITS = 5  # behind the point; beyond, a power of ten


def percent(value: float, error: float = float("nan")) -> str:
    """A share with its 95 % half-width: −4.3 ± 0.5 %."""
    return measured(100 * value, 100 * error) + " %"


def decibel(value: float, error: float = float("nan")) -> str:
    """A level with its 95 % half-width: −0.30 ± 0.15 dB."""
    return measured(value, error) + " dB"


def measured(value: float, error: float) -> str:
    """A value and its 95 % half-width, to two digits of the latter; without one, three digits."""
    half = T_QUANTILE * error
    if not np.isfinite(half) or half == 0:
        return _signed(
            value, 3 if value == 0 else max(0, 2 - int(np.floor(np.log10(abs(value) or 1))))
        )
    digits = int(max(0, 1 - np.floor(np.log10(half))))
    return f"{_signed(value, digits)} ± {half:.{digits}f}"


def number(value: float, half: float = float("nan"), signed: bool = False) -> str:
    """A value with half of its 95 % interval, to two digits of the latter.

    Without one, three digits. A dash for no number."""
    if not np.isfinite(value):
        return "–"
    sign = "+" if signed else ""
    if not np.isfinite(half) or half == 0:
        short = f"{value:{sign}.3g}"
        whole = "e+" in short and abs(value) < LARGE
        return (f"{value:{sign}.0f}" if whole else short).replace("-", "−")
    digits = max(0, 1 - int(np.floor(np.log10(half))))
    power = int(np.floor(np.log10(max(abs(value), half))))
    if digits > MOST_DIGITS and power < -2:
        places = min(MOST_DIGITS, digits + power)
        scaled = number_to(value / 10.0**power, half / 10.0**power, places, sign)
        return f"({scaled})e{power}".replace("-", "−")
    return number_to(value, half, min(digits, MOST_DIGITS), sign)


def number_to(value: float, half: float, digits: int, sign: str = "") -> str:
    """value ± half, each with so many digits behind the point."""
    return f"{value:{sign}.{digits}f} ± {half:.{digits}f}".replace("-", "−")


STATISTICS = {
    "gap": "variance (%)",
    "hf": "high freq. (dB)",
    "mean shift": "shift of the mean (%)",
    "last step": "variance, last step (%)",
    "state_rmse": "state error, RMSE",
    "epsilon_ratio": "noise-norm ratio",
    "gap_score": "variance, network's (%)",
    "gap_discretisation": "variance, sampler's (%)",
    "hf_score": "high freq., network's (dB)",
    "hf_discretisation": "high freq., sampler's (dB)",
}


def statistic_in_words(name: str) -> str:
    """A statistic of a budget or a comparison, with its unit."""
    kind, _, place = name.partition(" ")
    if kind == "restart":
        return f"restart at {place} (%)"
    if kind == "band":
        return f"frequency {place} (dB)"
    if name.startswith("error_rmse("):
        return f"chain error, T′ = {name[len('error_rmse(') : -1]}"
    return STATISTICS.get(name, name)


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def budget(result: xr.Dataset) -> str:
    """The first line of a budget.

    What part of the variance gap is whose, and what to do about it.
    """
    gap = result.sel(statistic="gap")
    answer = str(gap["answer"].values)
    special: dict[str, Callable[[xr.Dataset, xr.Dataset], str]] = {
        "not a denoiser of these data": lambda r, _: (
            f"No verdict: {r.attrs['denoising_sentence']}."
        ),
        "limit not reached": _not_reached,
        "limit unknown": _unknown,
        "guided: no target": _guided,
    }
    if answer in special:
        return special[answer](result, gap)
    if not np.isfinite(gap["score_se"]):
        return f"No verdict yet: {result.attrs.get('no_interval', 'too few images')}."
    return f"{_whole(gap)}: {_solver(result, gap)}, and {_network(gap, answer)}."


def _whole(gap: xr.Dataset) -> str:
    total, error = float(gap["total"]), float(gap["total_se"])
    if abs(total) <= T_QUANTILE * error:
        return f"The samples' variance is right within its error ({percent(total, error)})"
    side = "too narrow" if total < 0 else "too wide"
    return f"The samples are {side} (variance {percent(total, error)})"


def _solver(result: xr.Dataset, gap: xr.Dataset) -> str:
    value, error = float(gap["discretisation"]), float(gap["discretisation_se"])
    start = float(gap["initialisation"]), float(gap["initialisation_se"])
    begun = f"{percent(*start)} is the start's, " if np.isfinite(start[1]) and start[1] > 0 else ""
    said = f"{begun}{percent(value, error)} is the sampler's ({result.attrs['steps']} steps)"
    wanted = steps_needed(result)
    if wanted is None:
        return said
    return f"{said}, of which about {wanted} steps would leave less than {threshold_in_words(gap)}"


def steps_needed(result: xr.Dataset) -> int | None:
    """About how many steps make the solver's share smaller than the network's.

    With no such share it is held against the margin; None if it is smaller already.
    """
    gap = result.sel(statistic="gap")
    value, error = float(gap["discretisation"]), float(gap["discretisation_se"])
    goal = _threshold(gap)
    if not abs(value) - T_QUANTILE * error > 0 or abs(value) <= goal:
        return None
    order = ORDER.get(result.attrs["sampler"], DEFAULT_ORDER)
    taken = int(result.attrs["steps"].partition(",")[0])
    wanted = taken * (abs(value) / goal) ** (1 / order)
    return min(ceil(wanted / 10) * 10, MOST_STEPS)


def _threshold(gap: xr.Dataset) -> float:
    """What the solver's share is held against.

    The network's where there is one, else a fifth of the margin.
    """
    score, error = abs(float(gap["score"])), float(gap["score_se"])
    return score if score > T_QUANTILE * error else float(gap["margin"]) / 5


def threshold_in_words(gap: xr.Dataset) -> str:
    """What the solver's share should become less than."""
    score, error = abs(float(gap["score"])), float(gap["score_se"])
    return (
        "the network's" if score > T_QUANTILE * error else f"{100 * float(gap['margin']) / 5:.2g} %"
    )


def _network(gap: xr.Dataset, answer: str) -> str:
    told = f"{percent(float(gap['score']), float(gap['score_se']))} is the network's"
    if answer.startswith("score error"):
        return f"{told}, a score error"
    margin = f"{100 * float(gap['margin']):.2g} %"
    if answer == "not decided":
        return (
            f"{told}, which does not decide: about {int(gap['needed_n'])} images would, to within"
            f" {margin}"
        )
    return f"{told}, none larger than {margin}"


def _not_reached(result: xr.Dataset, gap: xr.Dataset) -> str:
    return (
        f"{_whole(gap)}, but what the network would do with ever smaller steps is not known well"
        f" enough to say whose that is ({result.attrs['limit']})."
    )


def _unknown(result: xr.Dataset, gap: xr.Dataset) -> str:
    return (
        f"{_whole(gap)}; {result.attrs['sampler']} tends to no known limit, so that it is not"
        " split."
    )


def _guided(result: xr.Dataset, gap: xr.Dataset) -> str:
    value, error = float(gap["discretisation"]), float(gap["discretisation_se"])
    return (
        f"{percent(value, error)} of the variance is the sampler's doing; what is left has no"
        " target, because guidance aims at another distribution than the data's."
    )


def compared(result: xr.Dataset) -> str:
    """What each entry of a comparison does to the gap.

    It either mends the network or pays for the solver."""
    if "gap_score" not in result:
        return ""
    return " ".join(_one_compared(result, k) for k in range(1, result.sizes["entry"]))


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
    told = (
        f"{said}; the network's part moves by {percent(score, score_error)} from"
        f" {percent(own, own_error)}"
    )
    return f"{told}: {_what_it_does(before, after, (change, error), own, (score, score_error))}."


def _what_it_does(
    before: float, after: float, change: tuple[float, float], own: float, score: tuple[float, float]
) -> str:
    if not np.isfinite(change[1]):
        return "too few images for intervals"
    closes = abs(after) < abs(before) and abs(change[0]) > T_QUANTILE * change[1]
    moved = abs(score[0]) > T_QUANTILE * score[1]
    if moved and abs(own + score[0]) > abs(own):
        return (
            "it only compensates the sampler, at the price of the network"
            if closes
            else "it harms the network"
        )
    if moved:
        return "it mends the network"
    return (
        "it closes the gap, but not by a change of the network that shows"
        if closes
        else "no effect that shows"
    )


def restarts(result: xr.Dataset) -> str:
    """What restarts near the clean end say of the network, where it is known best."""
    rows = [str(s) for s in result["statistic"].values if str(s).startswith("restart")]
    said = []
    for name in rows:
        row = result.sel(statistic=name)
        score = percent(float(row["score"]), float(row["score_se"]))
        place = name.removeprefix("restart ")
        said.append(f"{score} from timestep {place} ({row['answer'].values!s})")
    return "restarted on true states, the network's share is " + ", ".join(said) if said else ""


def calibration(rollouts: xr.Dataset) -> str:
    """What rollouts say of spread and of the accumulated mean error.

    At the level that departs most.
    """
    low, high = interval(rollouts, "W_over_U")
    known = np.isfinite(rollouts["W_over_U"].values)
    if not known.any():
        return ""
    ratio = rollouts["W_over_U"].values
    worst = int(np.nanargmax(np.abs(np.log(np.where(known, ratio, np.nan)))))
    bounds = f"{float(low[worst]):.3g} to {float(high[worst]):.3g}"
    right = float(low[worst]) <= 1 <= float(high[worst])
    what = "which may be the ideal 1" if right else "and would ideally be 1"
    where = float(rollouts["start"][worst])
    text = f"spread over skill is {ratio[worst]:.3g} (95 %: {bounds}) from {where:g}, {what}"
    added = rollouts["U_minus_S_relative"].values
    if np.isfinite(added).any():
        most = int(np.nanargmax(np.abs(added)))
        share = percent(float(added[most]), float(rollouts["U_minus_S_relative_se"][most]))
        text += (
            f"; the chain adds {share} to one prediction's mean error from"
            f" {float(rollouts['start'][most]):g}"
        )
    return text


def remedy(result: xr.Dataset) -> str:
    """Whether a uniform epsilon scaling would help, and whom it would pay for."""
    if "es_scale" not in result:
        return ""
    scale, own = result["es_scale"], result["es_scale_score"]
    reason = scale.attrs.get("reason")
    answer = str(result.sel(statistic="gap")["answer"].values)
    named = answer.startswith("score error") and not own.attrs.get("reason")
    share = f"{_scale(own, result['es_scale_score_se'])} would mend the network's share"
    if reason and not named:
        return f"no epsilon scaling is suggested: {reason}"
    if reason:
        return (
            f"epsilon scaling by {share}; the rest is the sampler's, which more steps mend: try it"
            " with compare"
        )
    said = f"epsilon scaling by {_scale(scale, result['es_scale_se'])} would close the gap"
    if named:
        return f"{said}; {share}, and the rest only compensates the sampler: try it with compare"
    return f"{said}, but only by compensating the sampler: more steps mend the cause"


def _scale(value: xr.DataArray, error: xr.DataArray) -> str:
    half = T_QUANTILE * float(error)
    return f"{float(value):.4f}" + (f" ± {half:.4f}" if np.isfinite(half) else "")


def curve(result: xr.Dataset) -> list[str]:
    """For every curve of quality against chain length one line.

    It says where the curve is lowest and whether it rises after that.
    """
    name = "frechet_corrected" if np.isfinite(result["frechet_corrected"]).all() else "frechet"
    others = [dim for dim in result[name].dims if dim != "length"]
    lines = []
    for place in np.ndindex(*(result.sizes[dim] for dim in others)):
        one = result[name].isel(dict(zip(others, place, strict=True)))
        low, last = int(one.argmin("length")), one.sizes["length"] - 1
        known = [dim for dim in ("model", "iteration", "sampler") if dim in one.coords]
        where = ", ".join(str(one[dim].values) for dim in known) or "curve"
        lowest = f"{where}: lowest at T′ = {int(one['length'][low])} ({float(one[low]):.4g})"
        if low == last:
            lines.append(f"{lowest}, the longest chain")
            continue
        rise = float(one[last] - one[low])
        lines.append(
            f"{lowest}, {rise:.2g} higher at T′ = {int(one['length'][last])}; the curve does not"
            " say why: see diagnose"
        )
    return lines
