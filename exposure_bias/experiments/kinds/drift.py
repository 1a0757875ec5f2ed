"""The kinds of what `drift_budget` and `drift` return."""

import numpy as np
import xarray as xr

from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.results import Column, Drawing, Kind, Table, Term, name_of
from exposure_bias.results.numbers import NO_INTERVAL, number, percent, sentence_of
from exposure_bias.results.tables import Row, spread_rows, tidy
from exposure_bias.results.terms import COUNT, DATA, TEXT, VARIES

RELATIVE = ("variance", "change", "tails")
WORDS = {
    "variance": "variance (%)",
    "mean": "mean (standard deviations)",
    "change": "power of change (%)",
    "tails": "tails (%)",
    "hf": "high frequencies (dB)",
}
# How many half-widths a statistic lies from zero before it is named: about 5 % for a dozen of them.
CLEAR = 1.5
MOST_NAMED = 4
OWN_PARTS = {
    "discretisation": "the sampler's",
    "initialisation": "the start's",
    "score": "the network's",
}


def statistic_in_words(name: str) -> str:
    """A statistic of drift, with its unit."""
    kind, _, place = name.partition(" ")
    if kind == "lag":
        return f"correlation at lag {place}"
    if kind == "band":
        return f"frequency {place} (dB)"
    if kind == "mean" and place:
        return f"mean of channel {place} (standard deviations)"
    return WORDS.get(name, name)


def factor_of(row: Row) -> float:
    """100 for relative statistics, which are written in per cent, and 1 for all else."""
    return 100.0 if row["statistic"] in RELATIVE else 1.0


def last_frame(result: xr.Dataset) -> xr.Dataset | None:
    """The result at the last frame whose total is known; None where there is none."""
    known = np.flatnonzero(np.isfinite(result["total"].sel(statistic="variance").values))
    return result.isel(frame=int(known[-1])) if len(known) else None


def _sentence(result: xr.Dataset) -> str:
    end = last_frame(result)
    if end is None:
        return "No drift was measured: no frame was drawn by the network, so no interval."
    row = end.sel(statistic="variance")
    frame, total = int(end["frame"]), _percent(row, "total")
    if not np.isfinite(row["total_se"]):
        return f"By frame {frame} the variance is off by {total} (right is 0){NO_INTERVAL}."
    unclear = "" if _clear(row, "total", 1.0) else ", which cannot be told from 0"
    said = f"By frame {frame} the variance is off by {total} (right is 0){unclear}"
    if frame == 1:
        return f"{said}. This is the first frame, whose context is true."
    return (
        f"{said}: one frame's own error is {_percent(row, 'own')}, and feeding frames back adds"
        f" {_percent(row, 'feedback')}."
    )


def _percent(row: xr.Dataset, name: str) -> str:
    return percent(float(row[name]), float(row[f"{name}_se"]))


def _clear(row: xr.Dataset, name: str, times: float) -> bool:
    """Whether a value lies so many half-widths of its interval from zero."""
    return bool(np.abs(float(row[name])) > times * T_QUANTILE * float(row[f"{name}_se"]))


def _details(result: xr.Dataset) -> list[str]:
    end = last_frame(result)
    told = [result.attrs[k] for k in ("stopped_free", "stopped_forced") if k in result.attrs]
    if end is not None and np.isfinite(end["total_se"].sel(statistic="variance")):
        row = end.sel(statistic="variance")
        parts = [_parts(row, result), _limit(row, result), _others(end)]
        told = [part for part in parts if part] + told
    told += [result.attrs[k] for k in ("context_ignored", "unseeded") if k in result.attrs]
    return [sentence_of(str(part)) for part in told]


def _parts(row: xr.Dataset, result: xr.Dataset) -> str:
    """Whose part one frame's own error is."""
    if "score" not in row:
        return (
            "There is no further split, because a function from context to frame has no steps that"
            " could be made smaller"
        )
    if not np.isfinite(row["score"]):
        return f"{result.attrs['sampler']} tends to no known limit, so that there is no split"
    parts = [f"{_percent(row, name)} is {who}" for name, who in OWN_PARTS.items()]
    return f"Of one frame's own error {', '.join(parts[:-1])} and {parts[-1]}"


def _limit(row: xr.Dataset, result: xr.Dataset) -> str:
    """What the drift would be with very many steps."""
    if "total_limit" not in row:
        return ""
    start = float(row["initialisation"] + row["feedback_initialisation"])
    network = float(row["score"] + row["feedback_score"])
    return (
        f"With ever smaller steps the drift would be {_percent(row, 'total_limit')} in place of"
        f" {_percent(row, 'total')}. Of that, {percent(start)} grows from the start and"
        f" {percent(network)} from the network"
    )


def _others(end: xr.Dataset) -> str:
    """The other statistics that are clearly off, the clearest first."""
    value, error = end["total"].values, end["total_se"].values
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.nan_to_num(np.abs(value) / (T_QUANTILE * error), posinf=0.0)
    named = []
    for place in np.argsort(-distance):
        name = str(end["statistic"].values[place])
        if name != "variance" and distance[place] > CLEAR:
            named.append(f"{_in_a_sentence(name)} {_written(name, value[place], error[place])}")
    if not named:
        return ""
    if len(named) <= MOST_NAMED:
        return f"Also off at that frame: {'; '.join(named)}"
    some = f"{len(named)} other statistics are off at that frame, most clearly"
    return f"{some} {'; '.join(named[:MOST_NAMED])}"


def _in_a_sentence(name: str) -> str:
    return statistic_in_words(name).partition(" (")[0]


def _written(name: str, value: float, error: float) -> str:
    """A statistic with its interval and unit."""
    if name in RELATIVE:
        return percent(value, error)
    unit = {"hf": " dB", "band": " dB", "mean": " standard deviations"}
    return number(value, T_QUANTILE * error, signed=True) + unit.get(name.partition(" ")[0], "")


PARTS = (
    Column("total", "total", factor_of, True),
    Column("feedback", "feedback", factor_of, True),
    Column("one frame's own", "own", factor_of, True),
    Column("sampler's", "discretisation", factor_of, True),
    Column("start's", "initialisation", factor_of, True),
    Column("network's", "score", factor_of, True),
)
FUNCTION = PARTS[:3]
GROWN = (
    Column("feedback of the sampler's", "feedback_discretisation", factor_of, True),
    Column("feedback of the start's", "feedback_initialisation", factor_of, True),
    Column("feedback of the network's", "feedback_score", factor_of, True),
    Column("total in the limit", "total_limit", factor_of, True),
)


def _tables(result: xr.Dataset) -> list[Table]:
    frame = tidy(result, "statistic", "frame")
    variance = [i for i, s in enumerate(frame["statistic"]) if s == "variance"]
    rows = [variance[i] for i in spread_rows(len(variance))]
    where = (Column("frame", "frame", write=lambda row: f"{row['frame']:.0f}"),)
    split = "score" in result
    parts = tuple(c for c in (PARTS if split else FUNCTION) if c.name != "own" or not split)
    name = name_of(result).replace("_", " ")
    shown = [Table("drift", name, frame, (*where, *parts), rows, main=True, notes=(IN_PERCENT,))]
    end = last_frame(result)
    if end is None:
        return shown
    at = int(end["frame"])
    last = frame[frame["frame"] == at].reset_index(drop=True)
    what = (
        Column("statistic", "statistic", write=lambda row: statistic_in_words(row["statistic"])),
    )
    title = f"statistics (at frame {at})"
    every = (*what, *(PARTS if split else FUNCTION), *(GROWN if "feedback_score" in result else ()))
    return [*shown, Table("statistics", title, last, every)]


IN_PERCENT = "This table is about the variance, in per cent of the data's; right is 0."
COMMON = {
    "statistic": Term(
        "statistic",
        TEXT,
        "What drifts: the variance, the mean in standard deviations of the data, the power of the"
        " change from frame to frame, the correlation with frames before (lag), the tails (fourth"
        " moment over the squared second one), power at ¼ cycle per pixel and above (hf), and in"
        " each frequency band.",
    ),
    "frame": Term(
        "frame", COUNT, "The number of a drawn frame; 1 is the first, whose context is true."
    ),
    "total": Term("drift", VARIES, "The statistic of free-running frames against the data's.", 0),
    "feedback": Term(
        "feedback",
        VARIES,
        "What is added because frames are drawn from the network's own frames: free-running less"
        " teacher-forced frames. It grows from any error of one frame, whoever is to blame.",
        0,
    ),
    "own": Term(
        "one frame's own error",
        VARIES,
        "The statistic of frames that are drawn from true contexts (teacher forcing) against the"
        " data's.",
        0,
    ),
    "shown": Term("example frames", DATA, "Frames of a few sequences: true, forced and free."),
    "shown_as": Term("drawn how", TEXT, "True frames; drawn from true contexts; drawn free."),
    "sequence": Term("sequence", COUNT, "The number of a sequence."),
    "shown_frame": Term("frame", COUNT, "The number of a frame that is kept as it is."),
}
SPLIT = {
    "discretisation": Term(
        "the sampler's part",
        VARIES,
        "Of one frame's own error, what would vanish with ever smaller steps.",
        0,
    ),
    "initialisation": Term(
        "the start's part",
        VARIES,
        "Of one frame's own error, what changes where a chain begins at pure noise rather than at"
        " the noised frame.",
        0,
    ),
    "score": Term(
        "the network's part",
        VARIES,
        "Of one frame's own error, what remains in the limit of small steps: the score error.",
        0,
    ),
    "feedback_discretisation": Term(
        "feedback of the sampler's part", VARIES, "What the sampler's part grows to, less itself."
    ),
    "feedback_initialisation": Term(
        "feedback of the start's part", VARIES, "What the start's part grows to, less itself."
    ),
    "feedback_score": Term(
        "feedback of the network's part", VARIES, "What the network's part grows to, less itself."
    ),
    "total_limit": Term(
        "drift in the limit of small steps",
        VARIES,
        "The drift of the same network with infinitely many steps.",
        0,
    ),
    "limit_error": Term(
        "error of the limit",
        VARIES,
        "By how much the extrapolated limit may be off. A tenth of it is part of the intervals.",
    ),
    "total_limit_error": Term(
        "error of the free-running limit", VARIES, "The same, of free frames."
    ),
}
FIGURES = (
    Drawing("exposure_bias.plots:drift"),
    Drawing("exposure_bias.plots:drift_frames", "-frames", ("shown",)),
)
NEEDS = dict.fromkeys(("total", "total_se", "feedback", "own"), ("statistic", "frame"))

DRIFT_BUDGET = Kind(
    name="drift_budget",
    title="Drift over frames",
    question=(
        "How wrong do frames become when a network runs on its own frames, and why? The drift of"
        " each frame is split into one frame's own error, which the sampler, the start and the"
        " network make, and what feeding frames back adds. Bars are 95 % intervals over sequences."
    ),
    variables=COMMON | SPLIT,
    tables=_tables,
    sentence=_sentence,
    details=_details,
    figures=FIGURES,
    needs=NEEDS | dict.fromkeys(("discretisation", "initialisation", "score"), NEEDS["total"]),
    command="drift",
)
DRIFT = Kind(
    name="drift",
    title="Drift over frames of a function",
    question=(
        "How wrong do frames become when any code draws them from its own frames? The drift of"
        " each frame is split into one frame's own error and what feeding frames back adds."
    ),
    variables=COMMON,
    tables=_tables,
    sentence=_sentence,
    details=_details,
    figures=FIGURES,
    needs=NEEDS,
    command="drift",
)
