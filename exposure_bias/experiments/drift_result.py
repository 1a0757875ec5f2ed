"""The drift budget from sums: terms, their intervals, and what is said of a run."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.autoregression import growth, terms
from exposure_bias.experiments.drift_chains import NOISE, Roll
from exposure_bias.experiments.drift_sums import EXAMPLES, SHOWN, Totals
from exposure_bias.jackknife import (
    GROUPS,
    T_QUANTILE,
    Array,
    Estimate,
    jackknife,
    why_no_interval,
    with_interval,
)
from exposure_bias.states import dimensions
from exposure_bias.statistics.accumulator import Sums

DIMS = ("statistic", "frame")
START_ERROR = 0.06  # of the initialisation error on the grid of N/4 steps; measured 0.02 to 0.1


def budget_of(roll: Roll, sums: Sums, stationary: bool) -> xr.Dataset:
    """The budget from the sums of all sequences."""
    layout, state = roll.layout, sums.state
    complete, stopped = _complete(roll, state)
    count, estimate, labels = _estimated([roll], [sums], stationary)
    coords = {"statistic": layout.names, "frame": np.arange(1, layout.frames + 1)}
    result = xr.Dataset(coords=coords)
    values = dict(zip(labels, estimate.value, strict=True))
    for k, label in enumerate(labels):
        error = np.hypot(estimate.error[k], beyond(label, values) / T_QUANTILE)
        result = with_interval(result, DIMS, **{label: Estimate(values[label], error)})
    result = result.drop_vars([v for v in result.data_vars if "_band_" in str(v)])
    result["shown"] = _shown(roll, state, complete[0])
    result.attrs = roll.setup.attributes | _about(roll) | stopped | why_no_interval(count)
    return result


def _estimated(
    rolls: Sequence[Roll], sums: Sequence[Sums], stationary: bool
) -> tuple[Array, Estimate, list[str]]:
    """Every term (term, statistic, frame) of a budget, or of a second less a first, with errors.

    A difference is paired: a group of sequences goes from both at once.
    """
    arrays, names = [], []
    for roll, one in zip(rolls, sums, strict=True):
        complete, _ = _complete(roll, one.state)
        names.append([name for name in one.state if name != "shown"])
        arrays += [
            np.where(complete, one.state[k], 0.0) if k == "count" else one.state[k]
            for k in names[-1]
        ]
    ends = np.cumsum([0, *map(len, names)]).tolist()

    def each(totals: Sequence[Array]) -> list[dict[str, Array]]:
        found = []
        for roll, own, (a, b) in zip(rolls, names, pairwise(ends), strict=True):
            given = Totals(roll.layout, dict(zip(own, totals[a:b], strict=True)))
            found.append(budget_terms(given, roll, stationary))
        return found

    labels = list(each([array.sum(0) for array in arrays])[0])

    def parts(_: float, *totals: Array) -> Array:
        found = [np.stack([terms[label] for label in labels]) for terms in each(totals)]
        return found[0] if len(found) == 1 else found[1] - found[0]

    count = sums[0].state["count"][:, rolls[0].layout.cuts.index("data"), 0]
    return count, jackknife(parts, count, *arrays), labels


def differences_of(
    first: tuple[Roll, Sums], second: tuple[Roll, Sums], stationary: bool
) -> dict[str, Estimate]:
    """Every term of the second budget less the first one's, of the same sequences and paths."""
    rolls, sums = [first[0], second[0]], [first[1], second[1]]
    _, estimate, labels = _estimated(rolls, sums, stationary)
    values = dict(zip(labels, estimate.value, strict=True))
    found = {}
    for k, label in enumerate(labels):
        error = np.hypot(estimate.error[k], beyond(label, values) / T_QUANTILE)
        found[label] = Estimate(values[label], error)
    return found


def _shown(roll: Roll, state: Mapping[str, Array], complete: NDArray[np.bool_]) -> xr.DataArray:
    """The frames of some sequences as they are; NaN where none were drawn."""
    layout = roll.layout
    count = min(EXAMPLES, len(roll.ids))
    values = state["shown"][:, :count].astype(np.float32)
    rows = [layout.cuts.index(cut) for cut in SHOWN]
    there = complete[rows][:, layout.shown]
    values = np.where(there[:, None, :, None], values, np.nan)
    dims = ("shown_as", "sequence", "shown_frame", *dimensions(layout.shape))
    coords = {
        "shown_as": ["true", "forced", "free"],
        "shown_frame": np.array(layout.shown) + 1,
    }
    return xr.DataArray(values.reshape(*values.shape[:3], *layout.shape), coords, dims)


def budget_terms(found: Totals, roll: Roll, stationary: bool) -> dict[str, Array]:
    """Every term by name, (statistic, frame) each."""

    def of(cut: str) -> Array:
        return found.statistics(cut, stationary)

    free, forced = of("free"), of("forced")
    if roll.function is not None:
        return {"total": free, "feedback": free - forced, "own": forced}
    if roll.grid is None:
        unknown = np.full_like(free, np.nan)
        return terms(free, forced, unknown, unknown) | {"own": forced}
    noise, error = _extrapolated(of, "limit", "half")
    started = of("limit 4") - of("start 4")
    parts = terms(free, forced, noise, noise - started) | {"own": forced, "limit_error": error}
    if roll.free_limit:
        free_noise, free_error = _extrapolated(of, "free", "free half")
        grown = of("free 4") - of("free start 4")
        parts |= growth(parts, free, free_noise, free_noise - grown)
        parts |= {"total_limit": free_noise, "total_limit_error": free_error}
    return parts


def beyond(label: str, values: Mapping[str, Array]) -> Array | float:
    """Half of an interval for what the grids of the limit leave out of a term.

    It is a tenth of D for the extrapolation, and START_ERROR of the initialisation error, which is
    of one grid.
    """
    extrapolation = np.abs(values.get("limit_error", 0.0)) / 10
    start = START_ERROR * np.abs(values.get("initialisation", 0.0))
    known: dict[str, Array | float] = {
        "discretisation": extrapolation,
        "initialisation": start,
        "score": extrapolation + start,
        "feedback_initialisation": START_ERROR * np.abs(_grown_start(values)),
        "total_limit": np.abs(values.get("total_limit_error", 0.0)) / 10,
    }
    return np.nan_to_num(known.get(label, 0.0))


def _grown_start(values: Mapping[str, Array]) -> Array | float:
    """What the initialisation error grows to, free-running."""
    return values.get("initialisation", 0.0) + values.get("feedback_initialisation", 0.0)


def _extrapolated(of: Any, name: str, half: str) -> tuple[Array, Array]:
    """G∞ and D (module docstring)."""
    four, two = of(f"{name} 4"), of(f"{name} 2")
    h4, h2, h1 = (of(f"{half} {factor}") for factor in (4, 2, 1))
    limit = (4 * two - four) / 3 + (32 * h1 - 40 * h2 + 8 * h4) / 21
    return limit, (4 * h1 - 5 * h2 + h4) / 3


def _complete(roll: Roll, state: Mapping[str, Array]) -> tuple[NDArray[np.bool_], dict[str, str]]:
    """Which cuts and frames all sequences have, (1, cut, frame), and where one stopped."""
    layout, ids = roll.layout, roll.ids
    halves = ids[(ids // GROUPS) % 2 == 0]
    expected = np.array([len(halves) if "half" in cut else len(ids) for cut in layout.cuts])
    complete = state["count"].sum(0) == expected[:, None]
    said = {}
    for cut in ("free", "forced"):
        missing = np.flatnonzero(~complete[layout.cuts.index(cut)])
        if len(missing):
            said[f"stopped_{cut}"] = (
                f"the network returned NaN or infinity at frame {missing[0] + 1} of the {cut}"
                " frames; the frames before it are kept"
            )
    return complete[None], said


def _about(roll: Roll) -> dict[str, str]:
    """What was drawn, and by which limit, in words."""
    options = roll.setup.run.options
    said = {"frames": str(options["frames"]), "context": str(options["context"])}
    if roll.start != NOISE:
        said["start"] = roll.start
    if options["chunk"] > 1:
        said["chunk"] = str(options["chunk"])
    if roll.function is not None:
        none = "none: a function from context to frame has no steps that could be made smaller"
        return said | {"limit": none, "n": str(len(roll.ids))}
    if roll.grid is None:
        return said | {
            "limit": "unknown: the sampler has none, so that totals and feedback are all"
        }
    return said | {"limit": f"{roll.grid.kind.upper()} on {roll.grid.steps} steps of its own"}
