"""The kinds of what `error_budget`, `solver_curve` and `diagnose` return.

One sentence says whose part of the variance gap is how large; what follows from it, the details
say."""

from math import ceil

import numpy as np
import pandas as pd
import xarray as xr

from exposure_bias.diagnostics.spectra import HIGH_FREQUENCIES
from exposure_bias.diagnostics.variance_gap import VARIANCE_GAP
from exposure_bias.experiments.kinds.rollouts import CALIBRATION
from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.results import Column, Drawing, Kind, Table, Term
from exposure_bias.results.numbers import (
    NO_INTERVAL,
    missing,
    number,
    percent,
    rounded,
    sentence_of,
    told,
)
from exposure_bias.results.tables import START, Row, tidy
from exposure_bias.results.terms import COUNT, SHARE, TEXT, VARIES

MOST_STEPS = 100_000
# What a power law leads to was too few in most cases, but 3 times that sufficed in 19 of 20
# (docs/verdict.md).
MORE_STEPS = 3
# A gap beyond which a chain is said to diverge; half of an interval that is too wide to be of use;
# and how much the last step must change a gap to be spoken of.
DIVERGED, HOPELESS, LAST_STEP_MATTERS = 2.0, 0.5, 0.01


def _sentence(result: xr.Dataset) -> str:
    """Whose part of the variance gap is how large."""
    gap = result.sel(statistic="gap")
    answer = str(gap["answer"].values)
    if answer == "not a denoiser of these data":
        return f"No verdict: {result.attrs['denoising_sentence']}."
    if not np.isfinite(gap["total_se"]):
        total = percent(float(gap["total"]))
        return f"No verdict yet: the samples' variance is off by {total}{NO_INTERVAL}."
    special = {
        "limit not reached": (
            "what the network would do with ever smaller steps is not known well enough to say"
            " whose part that is"
        ),
        "limit unknown": f"{result.attrs['sampler']} tends to no known limit, so it is not split",
        "guided: no target": _guided(gap),
    }
    if answer in special:
        return f"{_whole(result)}; {special[answer]}."
    names = {
        "initialisation": "the start",
        "discretisation": f"the sampler's {result.attrs['steps']} steps",
        "score": "the network",
    }
    parts = [
        f"{percent(float(gap[part]), float(gap[f'{part}_se']))} comes from {who}"
        for part, who in names.items()
        if float(gap[f"{part}_se"]) > 0
    ]
    return f"{_whole(result)}: {', '.join(parts[:-1])}, and {parts[-1]}."


def _guided(gap: xr.Dataset) -> str:
    """What can be said under guidance."""
    if T_QUANTILE * float(gap["discretisation_se"]) > HOPELESS:
        return (
            "the sampler's part of it is too uncertain to tell"
            f" ({told(gap, 'discretisation', 100, '%')}), and what is left has no target, because"
            " guidance aims at another distribution than the data's"
        )
    return (
        f"{told(gap, 'discretisation', 100, '%')} of it is the sampler's, and what is left has no"
        " target, because guidance aims at another distribution than the data's"
    )


def _whole(result: xr.Dataset) -> str:
    """How wrong the samples' variance is, and where if that matters."""
    gap = result.sel(statistic="gap")
    total, error = float(gap["total"]), float(gap["total_se"])
    if total > DIVERGED:
        return f"The chain diverges: the samples' variance is {1 + total:.3g} times the images'"
    where, after = _last_step(result, total)
    if abs(total) <= T_QUANTILE * error:
        right = f"samples' variance is right within its error ({percent(total, error)})"
        return f"{where or 'The '}{right}{after}"
    size = number(100 * abs(total), 100 * T_QUANTILE * error)
    off = f"samples' variance is {size} % too {'low' if total < 0 else 'high'}"
    return f"{where or 'The '}{off}{after}"


def _last_step(result: xr.Dataset, total: float) -> tuple[str, str]:
    """The words for the level that a gap is of, where the step to the clean end changes it."""
    known = "after_last_step" in result.attrs and "last step" in result["statistic"]
    if not known or result.attrs["after_last_step"] == "yes":
        return "", ""
    moved = float(result["total"].sel(statistic="last step"))
    if not abs(moved) > LAST_STEP_MATTERS:
        return "", ""
    end = total + moved
    return "Before the last, noise-free step the ", f" (after that step: {percent(end)})"


def _details(result: xr.Dataset) -> list[str]:
    """What the verdict is, and what to do about it."""
    more = ("stops_at", "restarts", "calibration", "remedy", "left_out")
    said = [sentence_of(str(result.attrs[k])) for k in more if result.attrs.get(k)]
    if "score" not in result:
        return said
    return [*([" ".join(found)] if (found := _advice(result)) else []), *said]


def _advice(result: xr.Dataset) -> list[str]:
    gap = result.sel(statistic="gap")
    answer = str(gap["answer"].values)
    if answer == "limit not reached":
        return [sentence_of(str(result.attrs.get("not_reached", result.attrs["limit"])))]
    if not np.isfinite(gap["score_se"]):
        return []
    margin = f"{rounded(100 * float(gap['margin']))} %"
    verdicts = {
        "score error +": "The network itself makes the samples too different from each other.",
        "score error -": "The network itself makes the samples too alike.",
        "none larger than margin": (
            f"The network's own part is smaller than {margin}, with 95 % confidence."
        ),
        "not decided": (
            f"Whether the network's own part reaches {margin} is not decided:"
            f" {int(gap['needed_n'])} to {2 * int(gap['needed_n'])} images would decide it."
        ),
    }
    said = [verdicts[answer]] if answer in verdicts else []
    # What was tried is said in place of what a power law would lead to.
    unasked = "advice_sampler" in result.attrs or float(gap["total"]) > DIVERGED
    wanted = None if unasked else steps_needed(result)
    if wanted is not None:
        less = threshold_in_words(gap)
        said.append(
            f"{wanted} to {MORE_STEPS * wanted} steps would bring the sampler's part below {less}."
        )
    return said


def steps_needed(result: xr.Dataset) -> int | None:
    """The least number of steps that may make the solver's share smaller than the network's.

    It follows from the sampler's order; `MORE_STEPS` times as many nearly always do.
    With no such share it is held against the margin; None if it is smaller already.
    """
    gap = result.sel(statistic="gap")
    value, error = float(gap["discretisation"]), float(gap["discretisation_se"])
    goal = _threshold(gap)
    small = not abs(value) - T_QUANTILE * error > 0 or abs(value) <= goal
    if small or "steps_taken" not in result.attrs:
        return None
    order, taken = int(result.attrs.get("order", 1)), int(result.attrs["steps_taken"])
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
        "the network's"
        if score > T_QUANTILE * error
        else f"{rounded(100 * float(gap['margin']) / 5)} %"
    )


RESTARTED = {
    "score error +": "shown",
    "score error -": "shown",
    "none larger than margin": "below the margin",
    "not decided": "too uncertain to tell",
    "limit not reached": "its limit is not reached",
}


def restarts_in_words(result: xr.Dataset) -> str:
    """What restarts near the clean end say of the network, where it is known best."""
    rows = [str(s) for s in result["statistic"].values if str(s).startswith("restart")]
    said = []
    for name in rows:
        row = result.sel(statistic=name)
        if not np.isfinite(row["score"]):
            continue
        score = percent(float(row["score"]), float(row["score_se"]))
        place = name.removeprefix("restart ")
        words = RESTARTED.get(str(row["answer"].values), str(row["answer"].values))
        said.append(f"{score} from timestep {place} ({words})")
    if not said:
        return ""
    start = "if sampling starts from a real noisy image, the network's part of the error is "
    return start + ", ".join(said)


def remedy(result: xr.Dataset) -> str:
    """Whether a uniform epsilon scaling narrows the gap, as far as it was tried."""
    if "es_scale" not in result:
        return ""
    gap = result.sel(statistic="gap")
    if float(gap["total"]) > DIVERGED:
        return "no epsilon scaling is suggested, because the chain diverges"
    if reason := result["es_scale"].attrs.get("reason"):
        return f"no epsilon scaling is suggested: {reason}"
    if "es_trial" not in result:
        return ""
    before, after = (
        percent(float(result[f"es_trial_{k}"]), float(result[f"es_trial_{k}_se"]))
        for k in ("before", "after")
    )
    scale = rounded(float(result["es_trial"]), 5)
    tried = f"epsilon scaling by {scale} was tried on images that did not"
    changed = f"{tried} choose it: the variance gap went from {before} to {after}"
    if not float(result["es_trial_gain"]) > T_QUANTILE * float(result["es_trial_gain_se"]):
        return f"no epsilon scaling is suggested, because none is known to help: {changed}"
    if abs(float(gap["discretisation"])) > abs(float(gap["score"])):
        return f"{changed}. It compensates the sampler's part, whose cause more steps mend"
    return changed


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


def factor_of(row: Row) -> float:
    """Return 100 for relative gaps, which are written in per cent, and 1 for all else."""
    name = str(row["statistic"])
    return 100.0 if name.startswith(("gap", "mean shift", "restart", "last step")) else 1.0


# The fixed answers in a reader's words, short enough for a column.
VERDICTS = {
    "none larger than margin": "below margin",
    "score error -": "network too low",
    "score error +": "network too high",
}


def verdict(row: Row) -> str:
    """A fixed answer in words."""
    return VERDICTS.get(row["answer"], str(row["answer"]))


PARTS = (
    Column("whole gap", "total", factor_of, True),
    Column("start's", "initialisation", factor_of, True),
    Column("sampler's", "discretisation", factor_of, True),
    Column("network's", "score", factor_of, True),
    Column("verdict", "answer", write=verdict),
)


CANDIDATES = (
    Column("sampler", "candidate"),
    Column("sampler's share (%)", "confirmed_share", 100, True),
    Column("network's share (%)", "network_share", 100, True),
    Column("verdict", "verdict"),
)


def _tables(result: xr.Dataset) -> list[Table]:
    frame = tidy(result, "statistic")
    name = Column("statistic", "statistic", write=lambda r: statistic_in_words(r["statistic"]))
    begun = frame.get("initialisation_se", pd.Series(dtype=float)) > 0
    parts = tuple(c for c in PARTS if c.name != "initialisation" or begun.any())
    hidden = ("band", "mean shift", "last step")
    rows = [i for i, s in enumerate(frame["statistic"]) if not s.startswith(hidden)]
    found = [Table("budget", "error budget", frame, (name, *parts), rows, main=True)]
    if "W_over_U" in result:
        shown = (
            START,
            Column("spread over skill W/U", "W_over_U"),
            Column("added mean error (%)", "U_minus_S_relative", 100, True),
        )
        found.append(Table("rollouts", "rollouts", tidy(result, "start"), shown))
    if "candidate" in result.dims:
        found.append(Table("candidates", "samplers tried", tidy(result, "candidate"), CANDIDATES))
    return found


def _to_do(result: xr.Dataset) -> tuple[str, str]:
    """The advice that was tried, and its code."""
    attrs = result.attrs
    code = attrs.get("advice_diffusers", attrs.get("advice_python", ""))
    return str(attrs.get("advice", "")), str(code)


def _solver_tables(result: xr.Dataset) -> list[Table]:
    frame = tidy(result.sel(statistic="gap").reset_coords("statistic"), "sampler", "steps")
    columns = (
        Column("sampler", "sampler"),
        Column("steps T′", "steps"),
        Column("whole gap (%)", "total", 100, True),
        Column("sampler's (%)", "discretisation", 100, True),
        Column("network's (%)", "score", 100, True),
        Column("verdict", "answer", write=verdict),
    )
    return [Table("solvers", "variance gap by sampler and steps", frame, columns, main=True)]


def _solver_sentence(result: xr.Dataset) -> str:
    gap = result.sel(statistic="gap")
    share = np.abs(gap["discretisation"].values)
    if not np.isfinite(share).any():
        return "No chain here tends to a known limit, so that none is split: no interval."
    place = np.unravel_index(int(np.nanargmin(share)), share.shape)
    best = gap.isel({dim: int(k) for dim, k in zip(gap["discretisation"].dims, place, strict=True)})
    part, lack = told(best, "discretisation", 100, "%"), missing(best, "discretisation")
    who = f"{best['sampler'].item()} in {best['steps'].item()} steps"
    return f"The sampler's part is least for {who}: {part}{lack}."


def _diagnosis(result: xr.Dataset) -> str:
    """Of a model the budget's sentence; of a recording its gap, which is not split."""
    if "score" in result:
        return _sentence(result)
    end = result.isel(step=-1)
    return (
        f"The variance gap at the clean end is {told(end, 'gap', 100, '%')}{missing(end, 'gap')};"
        " how much of it is the sampler's and how much the network's takes the network: diagnose"
        " MODEL --data IMAGES."
    )


def _diagnosis_tables(result: xr.Dataset) -> list[Table]:
    make = _tables if "score" in result else VARIANCE_GAP.tables
    assert make is not None
    return make(result)


QUESTION = (
    "Whose fault is it? The gap between the samples' variance and the data's is split into what"
    " the start, the sampler's steps and the network are each to blame for. Bars are 95 %"
    " intervals; a part whose interval holds zero does not show."
)
VARIABLES = {
    "answer": Term(
        "verdict",
        TEXT,
        "What is known of the network's share. Its 95 % interval excludes 0 (score error + or -; in"
        " tables: network too high or too low); or it is smaller than the margin with 95 %"
        " confidence (below margin); or it is not decided; or the limit is not reached; or why it"
        " was not asked.",
    ),
    "statistic": Term(
        "statistic",
        TEXT,
        "What is split: gap, the variance gap at the last noisy level; hf, power at ¼ cycle per"
        " pixel and above; a frequency band; mean shift; a restart on true states at a timestep;"
        " and what the last, noise-free step adds.",
    ),
    "curve": Term("statistic by level", TEXT, "The same statistics, at every recorded level."),
    "total": Term("whole gap", VARIES, "The statistic of the chain less that of noised data."),
    "initialisation": Term(
        "the start's share",
        VARIES,
        "What changes where chains begin at pure noise rather than at noised data.",
    ),
    "discretisation": Term(
        "the sampler's share",
        VARIES,
        "What would vanish with ever smaller steps: the chain less its own limit.",
    ),
    "score": Term(
        "the network's share",
        VARIES,
        "What remains in the limit of small steps: the score error.",
    ),
    "order_ratio": Term(
        "order ratio",
        SHARE,
        "How errors fall as the limit's steps are halved: about 4 where the limit is reached.",
    ),
    "limit_error": Term(
        "error of the limit",
        VARIES,
        "By how much the extrapolated limit may be off. It is part of the interval.",
    ),
    "needed_n": Term(
        "images that would decide",
        COUNT,
        "About how many images would decide a verdict that is open; 0 where it is decided.",
    ),
    "margin": Term("margin", VARIES, "The score error that matters."),
    "gaussian": Term(
        "Gaussian reference", SHARE, "The gap of a perfect denoiser of Gaussian data, as context."
    ),
    "oracle": Term(
        "exact denoiser", SHARE, "The gap of the exact denoiser of given images, as context."
    ),
    "es_scale": Term(
        "epsilon scaling that would close the gap",
        SHARE,
        "Dividing every noise prediction by this would, by proportion, close the whole gap.",
    ),
    "es_scale_score": Term(
        "epsilon scaling that would mend the network",
        SHARE,
        "The same for the network's share of the gap alone.",
    ),
    "es_trial": Term(
        "epsilon scaling that was tried",
        SHARE,
        "The scaling that would close the gap of every other group of images.",
    ),
    "es_trial_before": Term("gap without it", SHARE, "Of the images that did not choose it."),
    "es_trial_after": Term("gap with it", SHARE, "Of the images that did not choose it."),
    "es_trial_gain": Term(
        "by how much it narrows the gap",
        SHARE,
        "The size of the gap without it less that with it. It is suggested only above its error.",
    ),
    "calls": Term("network calls", COUNT, "How often one chain asks the network."),
    "sampler": Term("sampler", TEXT, "The rule that takes the chain's steps."),
    "steps": Term("steps T′", COUNT, "The chain's length."),
}
TRIED = {
    "candidate": Term("sampler that was tried", TEXT, "A sampler and how often it asks."),
    "candidate_calls": Term("network calls", COUNT, "How often one chain asks the network."),
    "chosen_share": Term(
        "sampler's share, half that chooses",
        SHARE,
        "The sampler's share of the variance gap on every other group of images.",
    ),
    "confirmed_share": Term(
        "sampler's share, half that confirms",
        SHARE,
        "The same on the other images, which did not choose. The interval rests on 8 groups.",
    ),
    "network_share": Term(
        "network's share", SHARE, "The score error in the limit that the sampler tends to."
    ),
    "verdict": Term(
        "verdict",
        TEXT,
        "Advised; or the share is too large, or was not confirmed; or the samples are worse in"
        " their variance, high frequencies or Fréchet distance than those of the chain that was"
        " asked about; or the limit was not reached; or a cheaper chain does as well (dearer).",
    ),
}
NEEDS = dict.fromkeys(("total", "discretisation", "score", "answer", "margin"), ("statistic",))
ERROR_BUDGET = Kind(
    name="error_budget",
    title="Error budget",
    question=QUESTION,
    variables=VARIABLES,
    tables=_tables,
    sentence=_sentence,
    details=_details,
    figures=(Drawing("exposure_bias.plots:budget", needs=("score_by_level",)),),
    needs=NEEDS,
    aliases=("budget",),
    command="budget",
)
SOLVER_CURVE = Kind(
    name="solver_curve",
    title="Samplers and numbers of steps",
    question=(
        "Which sampler in how many steps is good enough for this network? The sampler's part of the"
        " variance gap, by how often a chain asks the network."
    ),
    variables=VARIABLES,
    tables=_solver_tables,
    sentence=_solver_sentence,
    figures=(Drawing("exposure_bias.plots:budget"),),
    needs={name: ("sampler", "steps", *dims) for name, dims in NEEDS.items()},
    command="budget",
)
DIAGNOSE = Kind(
    name="diagnose",
    title="Diagnosis",
    question=QUESTION,
    variables={
        **VARIABLES,
        **VARIANCE_GAP.variables,
        "hf": HIGH_FREQUENCIES,
        **CALIBRATION,
        **TRIED,
    },
    tables=_diagnosis_tables,
    sentence=_diagnosis,
    details=_details,
    to_do=_to_do,
    figures=(Drawing("exposure_bias.plots:diagnosis"),),
    aliases=("diagnosis",),
)
