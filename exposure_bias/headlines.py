"""The first line of every result: one sentence with a number and its interval.

Without an interval it says why there is none. Short, for a line of 80 columns. No torch here."""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from exposure_bias.glossary import kind_of
from exposure_bias.jackknife import T_QUANTILE, interval
from exposure_bias.sentences import curve, number, percent, steps_needed, threshold_in_words

NO_INTERVAL = "; too few samples for an interval"


def headline(result: xr.Dataset, **beside: Any) -> str:
    """What a result says, in one sentence. beside: as in `tables.tables`."""
    kind = kind_of(result)
    return MAKERS[kind](result, **beside) if kind in MAKERS else "This is no result to tell."


def details(result: xr.Dataset) -> list[str]:
    """What else a result says, a paragraph each."""
    if "order_ratio" in result and "sampler" not in result.dims:
        return _advice(result) + [
            _sentence(str(result.attrs[k]))
            for k in ("restarts", "calibration", "remedy", "left_out")
            if k in result.attrs
        ]
    if "answer" in result.attrs:
        return [str(result.attrs["answer"])]
    if "frechet" in result:
        return [f"{line}." for line in curve(result)]
    return []


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


def _told(dataset: xr.Dataset, name: str, factor: float = 1.0, unit: str = "") -> str:
    """A scalar variable with half of its interval; signed only where it is a difference."""
    value = float(dataset[name])
    half = _half(dataset, name)
    said = number(factor * value, factor * half, signed=bool(unit))
    return said + (f" {unit}" if unit else "")


def _half(dataset: xr.Dataset, name: str) -> float:
    if f"{name}_low" in dataset:
        return (float(dataset[f"{name}_high"]) - float(dataset[f"{name}_low"])) / 2
    if f"{name}_se" not in dataset:
        return float("nan")
    low, high = interval(dataset, name)
    return (float(high) - float(low)) / 2


def _known(dataset: xr.Dataset, name: str) -> str:
    """The words for an interval that is missing."""
    return "" if np.isfinite(_half(dataset, name)) else NO_INTERVAL


def _farthest(ratios: Any) -> int:
    """Where a ratio is farthest from 1, on the log scale; the first place if none is known."""
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log(ratios))
    return int(np.where(np.isfinite(distance), distance, -1.0).argmax())


def _at(dataset: xr.Dataset) -> str:
    clean = float(dataset["sigma"]) == 0
    return "the clean end" if clean else f"timestep {float(dataset['timestep']):g}"


def _gap(gaps: xr.Dataset) -> str:
    end = gaps.isel(step=-1)
    gap, missing = _told(end, "gap", 100, "%"), _known(end, "gap")
    return f"The samples' variance is off by {gap} at {_at(end)}{missing}."


def _delta(deltas: xr.Dataset) -> str:
    end = deltas.isel(step=-1)
    perfect = number(float(end["delta_perfect"])) if "delta_perfect" in end else ""
    beside = f", a perfect sampler's {perfect}" if perfect else ""
    return f"The published δ is {_told(end, 'delta')} at {_at(end)}{beside}{_known(end, 'delta')}."


def _norm(norms: xr.Dataset) -> str:
    farthest = _farthest(norms["ratio"].values)
    here = norms.isel(step=farthest)
    ratio, missing = _told(here, "ratio"), _known(here, "ratio")
    return f"The chain's noise norm is {ratio} times the true one at {_at(here)}{missing}."


def _state(states: xr.Dataset) -> str:
    end = states.isel(step=-1)
    size, missing = _told(end, "pooled_rmse"), _known(end, "pooled_rmse")
    return f"State errors grow to an RMSE of {size} data units at {_at(end)}{missing}."


def _spectrum(spectra: xr.Dataset) -> str:
    if not np.isfinite(spectra["hf"]):
        return "High frequencies cannot be compared: there is no mode or no power there."
    high, missing = _told(spectra, "hf", 1, "dB"), _known(spectra, "hf")
    return f"Power above ¼ cycle per pixel is off by {high} at the clean end{missing}."


def _errors(errors: xr.Dataset, **_: Any) -> str:
    longest = errors[["pooled_rmse", "pooled_rmse_se"]].isel(length=-1)
    size, missing = _told(longest, "pooled_rmse"), _known(longest, "pooled_rmse")
    return f"Chains of {int(longest['length'])} steps miss x_0 by {size} data units{missing}."


def _tests(tests: xr.Dataset) -> str:
    longest = tests[["rate", "rate_low", "rate_high"]].isel(length=-1)
    rate, alpha = _told(longest, "rate", 100), 100 * float(tests.attrs["alpha"])
    missing = "" if np.isfinite(_half(longest, "rate")) else "; one block gives no interval"
    where = f"at T′ = {int(longest['length'])}"
    return f"Of the pixels {rate} % are not Gaussian {where} ({alpha:g} % by chance){missing}."


def _shape(shape: xr.Dataset, tests: Any = (), **_: Any) -> str:
    if tests:
        return _tests(tests[0])
    longest = shape.drop_dims("frequency", errors="ignore").isel(length=-1)
    found, missing = _told(longest, "correlation"), _known(longest, "correlation")
    return f"Errors of two pixels have a squared correlation of {found}{missing}."


def _rollouts(results: xr.Dataset) -> str:
    known = results["W_over_U"].notnull().values if "W_over_U" in results else np.array([False])
    if not known.any():
        first = results[["S", "S_se"]].isel(start=0)
        size, missing = _told(first, "S"), _known(first, "S")
        return f"One prediction from {float(first['start']):g} errs by S = {size}{missing}."
    names = [f"W_over_U{end}" for end in ("", "_se", "_low", "_high")]
    worst = results[names].isel(start=_farthest(results["W_over_U"].values))
    ratio, missing = _told(worst, "W_over_U"), _known(worst, "W_over_U")
    return f"Spread over skill is {ratio} from {float(worst['start']):g}, ideally 1{missing}."


def _telescope(results: xr.Dataset) -> str:
    blocks = results[["bracket", "bracket_se"]].isel(target=-1)
    most = blocks.isel(block=int(np.abs(blocks["bracket"].values).argmax()))
    gap, missing = _told(most, "bracket", 100, "%"), _known(most, "bracket")
    return f"Most of the variance gap, {gap}, arises in block {most['block'].item()}{missing}."


def _compared(compared: xr.Dataset) -> str:
    end = compared.isel(step=-2)
    moves = np.abs(end["gap_difference"].values[1:])
    most = 1 + int(np.nanargmax(moves)) if np.isfinite(moves).any() else 1
    value, error = (
        100 * float(end[f"gap_difference{ending}"][most]) for ending in ("", "_se_total")
    )
    name = _short(str(end["entry"].values[most]))
    missing = "" if np.isfinite(error) else NO_INTERVAL
    return f"{name} moves the variance gap by {number(value, T_QUANTILE * error)} %{missing}."


def _short(name: str, most: int = 32) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _quality(curve: xr.Dataset, **_: Any) -> str:
    corrected = np.isfinite(curve["frechet_corrected"]).any()
    name = "frechet_corrected" if corrected else "frechet"
    one = curve[[k for k in (name, f"{name}_se") if k in curve]]
    one = one.isel({dim: 0 for dim in one.dims if dim != "length"})
    least = one.isel(length=int(one[name].fillna(np.inf).argmin("length")))
    missing = "" if corrected else NO_INTERVAL
    measure = str(curve.attrs["measure"]).partition(" (")[0]
    return f"{measure} is least, {_told(least, name)}, at T′ = {int(least['length'])}{missing}."


def _budget(result: xr.Dataset) -> str:
    if "sampler" in result.dims:
        return _solvers(result)
    gap = result.sel(statistic="gap")
    if not np.isfinite(gap["total"]):
        return "No verdict: this model is no denoiser of these data, for the reason below."
    total = percent(float(gap["total"]), float(gap["total_se"]))
    if not np.isfinite(gap["total_se"]):
        return f"No verdict yet: the variance is off by {total}{NO_INTERVAL}."
    special = {
        "limit not reached": "the network's limit is not reached, so that it is not split",
        "limit unknown": "this sampler tends to no known limit, which would split it",
    }
    answer = str(gap["answer"].values)
    if answer in special:
        return f"Variance is off by {total}; {special[answer]}."
    parts = {"start": "initialisation", "sampler": "discretisation", "network": "score"}
    shares = [
        f"{who} {percent(float(gap[part]), float(gap[f'{part}_se']))}"
        for who, part in parts.items()
        if float(gap[f"{part}_se"]) > 0
    ]
    return f"Variance is off by {total}: {', '.join(shares)}."


def _solvers(result: xr.Dataset) -> str:
    gap = result.sel(statistic="gap")
    share = np.abs(gap["discretisation"].values)
    if not np.isfinite(share).any():
        return "No chain here tends to a known limit, so that none is split."
    place = np.unravel_index(int(np.nanargmin(share)), share.shape)
    best = gap.isel({dim: int(k) for dim, k in zip(gap["discretisation"].dims, place, strict=True)})
    part, missing = _told(best, "discretisation", 100, "%"), _known(best, "discretisation")
    who = f"{_short(best['sampler'].item(), 24)} in {best['steps'].item()} steps"
    return f"The sampler's share is least for {who}: {part}{missing}."


def _advice(result: xr.Dataset) -> list[str]:
    """What a budget's verdict is, and what to do about it."""
    gap = result.sel(statistic="gap")
    answer = str(gap["answer"].values)
    if not np.isfinite(gap["total"]):
        return [_sentence(str(result.attrs["denoising_sentence"]))]
    if answer == "limit not reached":
        return [_sentence(str(result.attrs["limit"]))]
    if not np.isfinite(gap["score_se"]):
        return []
    margin = f"{100 * float(gap['margin']):.2g} %"
    verdicts = {
        "score error +": "The network's share is a score error that widens.",
        "score error -": "The network's share is a score error that narrows.",
        "none larger than margin": f"The network has no score error larger than {margin}.",
        "not decided": (
            f"Whether the network has a score error of {margin} is not decided: about"
            f" {int(gap['needed_n'])} images would do."
        ),
    }
    said = [verdicts[answer]] if answer in verdicts else []
    wanted = steps_needed(result)
    if wanted is not None:
        less = threshold_in_words(gap)
        said.append(f"About {wanted} steps would bring the sampler's share below {less}.")
    return [" ".join(said)] if said else []


MAKERS: dict[str, Callable[..., str]] = {
    "variance_gap": _gap,
    "published_delta": _delta,
    "epsilon_norm": _norm,
    "state_error": _state,
    "spectrum": _spectrum,
    "chain_errors": _errors,
    "normality": _tests,
    "isotropy": _shape,
    "rollouts": _rollouts,
    "telescope": _telescope,
    "compare": _compared,
    "chain_length_fid": _quality,
    "error_budget": _budget,
}
