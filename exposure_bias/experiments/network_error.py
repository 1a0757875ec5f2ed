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
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr

from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import differentiating
from exposure_bias.diagnostics.orthogonality import (
    LEAST_IMAGES,
    Orthogonality,
    effective_images,
    orthogonality,
)
from exposure_bias.diagnostics.predicted_share import FIRST_ORDER, Cost, cost, holds_first_order
from exposure_bias.diagnostics.strict_exposure import FLOOR, Exposure, strict_exposure
from exposure_bias.errors import InputError, whole_number
from exposure_bias.experiments.recorded_predictions import scored
from exposure_bias.experiments.state_functions import CLASSES, Family, StateFunction, checked
from exposure_bias.experiments.strict_exposure import measured_restarts, walks
from exposure_bias.experiments.true_states import Pass, add, levels_of
from exposure_bias.experiments.value_function import Modes, laws_of_halves
from exposure_bias.jackknife import (
    GROUPS,
    Array,
    Estimate,
    jackknife,
    ratio_of,
    standard_error,
    too_few,
    why_no_interval,
    with_estimates,
)
from exposure_bias.recording import Recording
from exposure_bias.run import Stream
from exposure_bias.running.loop import fill
from exposure_bias.running.setup import Setup, prepare, varied, with_options
from exposure_bias.schedules import Level
from exposure_bias.states import State
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.streams import noised

SAMPLES = 4096
RESTARTED = 1024
LEVELS = 20
FEWEST_LEVELS = 4
STEPS = 20
PROBED, PROBE_STEP, PROBE_TOLERANCE = 8, 0.02, 0.25
BY_LEVEL = ("level", "band")


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
        few = too_few([_count(walked.setup)])
        at = [walked.levels[c] for c in walked.cuts]
        result = _with_exposure(result, found, np.array([level.ratio for level in at]), few)
    return result


def _of_recording(recording: Recording, data: Any, functions: Any) -> xr.Dataset:
    """The test alone, from the predictions that a recording kept."""
    images = load_data(data).fitted(recording["data"]["mean"].shape)
    conditional = recording.run.model.classes is not None
    family = _family(images, images.shape, conditional, functions)
    found = scored(recording, images, family)
    count = np.bincount(found.images % GROUPS, minlength=GROUPS).astype(np.float64)
    spread = float(recording["data"]["variance"].sum())
    judged = orthogonality(found.score, found.weight, found.images, spread)
    few = _too_few(count, found.power)
    result = _slopes(found.levels, family, judged, few)
    result.attrs = recording.description | why_no_interval(count) | {"n": str(len(found.images))}
    if few:
        result.attrs["no_verdict"] = few
    result.attrs["no_costs"] = result.attrs["no_exposure"] = (
        "a recording holds no gradients and no restarts: give the model itself"
    )
    return _with_split(result, images)


def _with_split(result: xr.Dataset, data: Data) -> xr.Dataset:
    """The dataset, with a warning where the images are those of the training."""
    if data.split == "train":
        result.attrs["warning"] = TRAINED_ON
        warnings.warn(f"{TRAINED_ON}; give held-out ones (--split test)", stacklevel=4)
    return result


def _restarted(restarts: int, n: int) -> int:
    count = whole_number(restarts, "restarts, the number of samples that walk chains,")
    if count > n:
        raise InputError(f"{count} restarts of {n} samples: give at most as many as n")
    return count


def planned(
    model: Any,
    data: Any,
    levels: int,
    functions: Mapping[str, StateFunction] | None,
    costs: bool,
    **chain: Any,
) -> Pass:
    """What is going to be asked of true states. Raises InputError for whatever does not fit."""
    count = whole_number(levels, "levels, the number of noise levels,", FEWEST_LEVELS)
    setup = varied(
        prepare(
            model,
            data,
            kind="network-error",
            steps=STEPS,
            most=SAMPLES,
            streams=(Stream.FORWARD,),
            **chain,
        )
    )
    if setup.run.model.guided:
        raise InputError(
            f"{setup.run.model.name} is guided: a guided field is no denoiser of the data, so that"
            " its error is not defined; give the model without guidance"
        )
    chosen = levels_of(setup.model.schedule, setup.levels[0], count, float(setup.law.values[0]))
    if len(chosen) < FEWEST_LEVELS:
        raise InputError(
            f"this schedule has {len(chosen)} levels between the data and their noise, and at least"
            f" {FEWEST_LEVELS} are needed"
        )
    setup = replace(
        setup, run=replace(setup.run, levels=chosen), places=np.arange(len(chosen)), keep=None
    )
    conditional = setup.model.classes is not None
    family = _family(setup.data, setup.model.shape, conditional, functions)
    even, odd = (law.to(setup.model.device) for law in family.laws)
    family = replace(family, laws=(even, odd))
    wanted = bool(costs) and differentiable(setup)
    options = {"functions": sorted(family.functions), "costs": wanted}
    return Pass(with_options(setup, options), family, wanted)


def _family(data: Data, shape: State, conditional: bool, functions: Any) -> Family:
    """The functions that the residual is tested with."""
    modes, classes = Modes.of(shape), []
    if conditional and data.labels is not None:
        classes = [int(c) for c in np.unique(data.labels)[:CLASSES]]
    family = Family(modes, laws_of_halves(data, modes), classes, {})
    return replace(family, functions=checked(functions, family.names))


TRAINED_ON = (
    "the images are of the training split: a small error on images that the network has seen proves"
    " nothing"
)


def differentiable(setup: Setup) -> bool:
    """Whether automatic differentiation reaches through the network.

    The derivative of its output along a direction is compared with a difference, so that a part of
    the network that hides its gradient is found too. One of three levels must agree: where a
    network saturates, differences tell nothing.
    """
    places = np.linspace(0, len(setup.levels) - 1, 5).round().astype(int)[1:-1]
    try:
        return any(_differentiable_at(setup, setup.levels[place]) for place in places)
    except (RuntimeError, NotImplementedError):
        return False


def _differentiable_at(setup: Setup, level: Level) -> bool:
    batch = setup.samples(slice(0, min(PROBED, setup.n)))
    model, draws = setup.conditioned(batch.images), setup.noise("gradient", batch.ids)
    x, along = noised(batch.x0, level, draws(0)), PROBE_STEP * draws(1).double()
    with differentiating(), setup.model.evaluating():
        difference = (model(x + along, level) - model(x - along, level)).detach() / 2
        states = x.clone().requires_grad_()
        output = model(states, level)
        if not output.requires_grad:
            return False
        (back,) = torch.autograd.grad(output, states, difference, allow_unused=True)
    square = float(difference.double().square().sum())
    ratio = 0.0 if back is None or square == 0 else float((back * along).sum()) / square
    return abs(ratio - 1) < PROBE_TOLERANCE


def measured_sums(plan: Pass, batch_size: int, folder: Path | None = None) -> Sums:
    """The sums of one pass over true states, kept in a folder where there is one."""
    sums = plan.sums()
    fill(
        plan.setup,
        sums,
        partial(add, plan, sums),
        size=batch_size,
        evaluations=len(plan.levels),
        checkpoint=None if folder is None else folder / "true-states.nc",
    )
    return sums


def _count(setup: Setup) -> Array:
    """Samples by group."""
    images = setup.ids % len(setup.data)
    return np.bincount(images % GROUPS, minlength=GROUPS).astype(np.float64)


def of_true_states(plan: Pass, sums: Sums) -> xr.Dataset:
    """The part of the dataset that comes from a finished pass over true states."""
    setup = plan.setup
    count, spread = _count(setup), float(setup.law.variance.sum())
    images = setup.ids % len(setup.data)
    found = orthogonality(sums.state["score"], sums.state["weight"], images, spread)
    few = _too_few(count, sums.state["power"].astype(np.float64))
    result = _slopes(plan.levels, plan.family, found, few).merge(_reliability(plan, sums, count))
    if plan.costs:
        result = _with_costs(result, plan, cost(plan.cost_sums(sums)))
    result.attrs = setup.attributes | why_no_interval(count)
    if few:
        result.attrs["no_verdict"] = few
    if not plan.costs:
        result.attrs["no_costs"] = (
            "the network's prediction cannot be differentiated, or costs were not asked for"
        )
    return _with_split(result, setup.data)


def _too_few(count: Array, power: Array) -> str:
    """Why there is no verdict; empty if there is one."""
    effective = effective_images(power)
    if too_few([count]) or effective >= LEAST_IMAGES:
        return too_few([count])
    return (
        f"about {effective:.0f} of {len(power)} images carry the variance of the data, which is too"
        f" few for a verdict: give so many that {LEAST_IMAGES:.0f} or more do"
    )


def _slopes(levels: Sequence[Level], family: Family, found: Orthogonality, few: str) -> xr.Dataset:
    timestep, alpha, sigma = np.array(levels).T
    result = xr.Dataset(
        coords={
            "level": timestep,
            "alpha": ("level", alpha),
            "sigma": ("level", sigma),
            "test": family.names,
        }
    )
    result = with_estimates(result, ("level", "test"), slope=found.slope)
    adjusted = np.full_like(found.adjusted, np.nan) if few else found.adjusted
    return result.assign(
        p_value=((), float("nan") if few else found.p_value),
        flagged=((), np.int8(not few and found.flagged)),
        p_adjusted=(("level", "test"), adjusted),
    )


def _reliability(plan: Pass, sums: Sums, count: Array) -> xr.Dataset:
    bins = sums.state["bins"]

    def mean(n: float, above: Array, below: Array) -> Array:
        return ratio_of(n, above, below)

    curves = [jackknife(mean, count, bins[..., i], bins[..., 0]) for i in (1, 2)]
    result = xr.Dataset(coords={"band": list(plan.modes.names), "bin": range(bins.shape[3])})
    return with_estimates(
        result,
        ("level", "band", "bin"),
        reliability_predicted=curves[0],
        reliability_observed=curves[1],
    )


def _with_costs(result: xr.Dataset, plan: Pass, found: Cost) -> xr.Dataset:
    """The cost map, its sum, and the shares of each statistic."""
    modes = plan.modes
    which = {"variance": np.ones(len(modes.names))}
    if modes.high.any():
        which["high frequencies"] = modes.high.astype(float)
    if len(modes.names) > 1:
        which |= dict(zip(modes.names, np.eye(len(modes.names)), strict=True))
    parts = {name: found.of(members) for name, members in which.items()}
    value, deviations = parts["variance"]
    result = with_estimates(result, BY_LEVEL, cost=_estimate(value, deviations))
    totals = [_estimate(v.sum(), d.sum((1, 2))) for v, d in parts.values()]
    levels = [_estimate(v.sum(1), d.sum(2)) for v, d in parts.values()]
    holds = np.array([holds_first_order(v.sum(1)) for v, _ in parts.values()])
    share = _stacked(totals)
    believed = Estimate(np.where(holds, share.value, np.nan), np.where(holds, share.error, np.nan))
    result = result.assign_coords(statistic=list(parts))
    result = with_estimates(result, ("statistic",), share=believed)
    result = with_estimates(result, ("statistic", "level"), share_by_level=_stacked(levels))
    result = with_estimates(
        result, (), predicted_share=Estimate(believed.value[0], believed.error[0])
    )
    result = with_estimates(result, ("statistic",), first_order_sum=share)
    return result.assign(first_order=("statistic", holds.astype(np.int8)))


def _estimate(value: Array, deviations: Array) -> Estimate:
    return Estimate(value, standard_error(deviations - deviations.mean(0)))


def _stacked(estimates: Sequence[Estimate]) -> Estimate:
    return Estimate(np.stack([e.value for e in estimates]), np.stack([e.error for e in estimates]))


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


__all__ = ["FIRST_ORDER", "differentiable", "network_error", "planned"]
