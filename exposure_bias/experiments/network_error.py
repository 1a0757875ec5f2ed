"""Is a network wrong on true states, where, at what cost to the samples, and is it exposure bias?

Three questions, in this order (docs/exposure.md; docs/mathematics.md, *The network's share*):

1. *Is it wrong on true states?* The residual x_0 − f(x_t) of a right network is orthogonal to every
   function of x_t (`diagnostics.orthogonality`). No chain is needed.
2. *What does that cost?* The share of the samples' variance that these errors will move, by level
   and frequency band, from true states alone (`diagnostics.predicted_share`).
3. *Is it exposure bias in the strict sense?* Whether the network errs more on its own states than
   on true ones (`diagnostics.strict_exposure`).
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from exposure_bias.checking import check_arguments
from exposure_bias.data import load_data
from exposure_bias.diagnostics.orthogonality import orthogonality
from exposure_bias.diagnostics.strict_exposure import FLOOR, Exposure, strict_exposure
from exposure_bias.errors import InputError, whole_number
from exposure_bias.experiments.kinds.network_error import NETWORK_ERROR
from exposure_bias.experiments.recorded_predictions import scored
from exposure_bias.experiments.strict_exposure import measured_restarts, walks
from exposure_bias.jackknife import (
    GROUPS,
    Array,
    Estimate,
    too_few,
    why_no_interval,
    with_estimates,
)
from exposure_bias.recording import Recording
from exposure_bias.results import returns
from exposure_bias.true_states.functions import StateFunction
from exposure_bias.true_states.plan import LEVELS, family_of, measured_sums, planned
from exposure_bias.true_states.result import (
    count_of,
    of_true_states,
    slopes,
    why_no_verdict,
    with_split,
)

RESTARTED = 1024


@returns(NETWORK_ERROR)
def network_error(
    model: Any,
    data: Any,
    *,
    n: int | None = None,
    levels: int = LEVELS,
    functions: Mapping[str, StateFunction] | None = None,
    costs: bool = True,
    cuts: Sequence[float] | None = None,
    restarts: int | None = None,
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    folder: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Test a network on true states, predict what its errors cost, and look for strict exposure.

    Parameters
    ----------
    model
        A `Denoiser`, or what `adapt` takes. Or a recording that kept its predictions (`record(...,
        keep=512)`): then only the test is made, without a call of the network.
    data
        Held-out images: `Data`, or what `load_data` takes. On images that the network was trained
        on a small error proves nothing, which a warning says.
    n : int, optional
        How many samples. By default all images, at most 4,096. Fewer than 256 give no verdict.
    levels : int
        How many noise levels are asked, even in log σ/α. 4 or more.
    functions : mapping of str to callable, optional
        Further functions g of the state to test the residual with: g(x, level, f), with x the
        states and f the network's x̂_0 there, both (B, *shape), returns an array of that shape. It
        must depend on each state alone.
    costs : bool
        Whether to predict the costs. They take two to three times as long as the test alone.
    cuts : sequence of float, optional
        The σ/α at which strict exposure is measured. By default two, where σ/α is 1 and 0.3 of the
        standard deviation of the data's pixels. An empty one leaves it out, and with it all chains.
    restarts : int, optional
        How many samples walk the chains of strict exposure. By default n, at most 1,024. They take
        about 120 network calls each.
    clip, seed, batch_size
        As in `record`.
    folder : path, optional
        Where the sums are kept; the same call goes on there.

    Returns
    -------
    xarray.Dataset
        `p_value` and `flagged`: the p-value of the whole table of tests, and 1 where it is below
        5 %. By (level, test): `slope` with `_se`, right is 0, and `p_adjusted`. By (level, band):
        `cost` with `_se`, the change of the samples' variance that the error at this level and in
        this band makes, relative; its sum is `predicted_share`, NaN where `first_order` is 0. By
        (statistic): `share` with `_se` of the variance, the high frequencies and each band. By
        (cut): `exposure` with `_se` and `floor`, `restart`, `above`, `said`; the same with
        `_high` for high frequencies. By (level, band, bin): `reliability_predicted` and
        `reliability_observed`, a calibration curve of x̂_0.

    Raises
    ------
    InputError
        For a guided model, too few levels, a function that does not fit, and whatever else
        `record` refuses.
    """
    check_arguments(network_error, locals())
    if isinstance(model, Recording):
        return _of_recording(model, data, functions)
    plan = planned(
        model, data, levels, functions, costs, n=n, clip=clip, seed=seed, batch_size=batch_size
    )
    setup, kept = plan.setup, None if folder is None else Path(folder)
    walked = None
    if cuts is None or len(cuts):
        count = min(setup.n, RESTARTED) if restarts is None else _restarted(restarts, setup.n)
        walked = walks(setup, cuts, plan.modes, plan.laws, count)
    result = of_true_states(plan, measured_sums(plan, batch_size, kept))
    if walked is not None:
        found = [strict_exposure(states) for states in measured_restarts(walked, batch_size, kept)]
        few = too_few([count_of(walked.setup)])
        at = [walked.levels[c] for c in walked.cuts]
        result = _with_exposure(result, found, np.array([level.ratio for level in at]), few)
    return result


def _of_recording(recording: Recording, data: Any, functions: Any) -> xr.Dataset:
    """The test alone, from the predictions that a recording kept."""
    images = load_data(data).fitted(recording["data"]["mean"].shape)
    conditional = recording.run.model.classes is not None
    family = family_of(images, images.shape, conditional, functions)
    found = scored(recording, images, family)
    count = np.bincount(found.images % GROUPS, minlength=GROUPS).astype(np.float64)
    spread = float(recording["data"]["variance"].sum())
    judged = orthogonality(found.score, found.weight, found.images, spread)
    few = why_no_verdict(count, found.power)
    result = slopes(found.levels, family, judged, few, spread)
    result.attrs = recording.description | why_no_interval(count) | {"n": str(len(found.images))}
    if few:
        result.attrs["no_verdict"] = few
    result.attrs["no_costs"] = result.attrs["no_exposure"] = (
        "a recording holds no gradients and no restarts: give the model itself"
    )
    return with_split(result, images)


def _restarted(restarts: int, n: int) -> int:
    count = whole_number(restarts, "restarts, the number of samples that walk chains,")
    if count > n:
        raise InputError(f"{count} restarts of {n} samples: give at most as many as n")
    return count


def _with_exposure(
    result: xr.Dataset, found: Sequence[Exposure], ratios: Array, few: str
) -> xr.Dataset:
    """Strict exposure at each cut, of the variance and of high frequencies."""
    result = result.assign_coords(cut=ratios)
    nothing = np.nan if few else 1.0
    for end, exposure in zip(("", "_high"), found, strict=False):
        names = {
            "exposure": exposure.exposure,
            "restart": exposure.restart,
            "above": exposure.above,
        }
        estimates = {f"{k}{end}": Estimate(v, nothing * e) for k, (v, e) in names.items()}
        result = with_estimates(result, ("cut",), **estimates)
        value, error = exposure.total
        total = {f"total{end}": Estimate(np.asarray(value), np.asarray(nothing * error))}
        result = with_estimates(result, (), **total)
        said = np.zeros_like(exposure.beyond) if few else exposure.beyond
        result[f"said{end}"] = ("cut", said.astype(np.int8))
    result["floor"] = ("cut", np.full(len(ratios), FLOOR))
    return result
