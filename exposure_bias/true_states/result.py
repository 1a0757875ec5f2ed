"""The dataset of a pass over true states."""

import warnings
from collections.abc import Sequence

import numpy as np
import xarray as xr

from exposure_bias.data import Data
from exposure_bias.diagnostics.orthogonality import (
    LEAST_IMAGES,
    Orthogonality,
    effective_images,
    orthogonality,
)
from exposure_bias.diagnostics.predicted_share import Cost, cost, holds_first_order
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
from exposure_bias.running.setup import Setup
from exposure_bias.schedules import Level
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.true_states.functions import Family
from exposure_bias.true_states.single_pass import Pass

BY_LEVEL = ("level", "band")
TRAINED_ON = (
    "the images are of the training split: a small error on images that the network has seen proves"
    " nothing"
)


def with_split(result: xr.Dataset, data: Data) -> xr.Dataset:
    """The dataset, with a warning where the images are those of the training."""
    if data.split == "train":
        result.attrs["warning"] = TRAINED_ON
        warnings.warn(f"{TRAINED_ON}; give held-out ones (--split test)", stacklevel=4)
    return result


def count_of(setup: Setup) -> Array:
    """Samples by group."""
    images = setup.ids % len(setup.data)
    return np.bincount(images % GROUPS, minlength=GROUPS).astype(np.float64)


def of_true_states(plan: Pass, sums: Sums) -> xr.Dataset:
    """The part of the dataset that comes from a finished pass over true states."""
    setup = plan.setup
    count, spread = count_of(setup), float(setup.law.variance.sum())
    images = setup.ids % len(setup.data)
    found = orthogonality(sums.state["score"], sums.state["weight"], images, spread)
    few = why_no_verdict(count, sums.state["power"].astype(np.float64))
    result = slopes(plan.levels, plan.family, found, few, spread).merge(
        _reliability(plan, sums, count)
    )
    if plan.costs:
        result = _with_costs(result, plan, cost(plan.cost_sums(sums)))
    result.attrs = setup.attributes | why_no_interval(count)
    if few:
        result.attrs["no_verdict"] = few
    if not plan.costs:
        result.attrs["no_costs"] = (
            "the network's prediction cannot be differentiated, or costs were not asked for"
        )
    return with_split(result, setup.data)


def why_no_verdict(count: Array, power: Array) -> str:
    """Why there is no verdict; empty if there is one."""
    effective = effective_images(power)
    if too_few([count]) or effective >= LEAST_IMAGES:
        return too_few([count])
    return (
        f"about {effective:.0f} of {len(power)} images carry the variance of the data, which is too"
        f" few for a verdict: give so many that {LEAST_IMAGES:.0f} or more do"
    )


def slopes(
    levels: Sequence[Level], family: Family, found: Orthogonality, few: str, spread: float
) -> xr.Dataset:
    """The slopes of a table of tests. spread: the data's variance, summed over a state."""
    timestep, alpha, sigma = np.array(levels).T
    signal = alpha**2 * spread
    signal = signal / (signal + sigma**2 * np.prod(family.modes.shape))
    result = xr.Dataset(
        coords={
            "level": timestep,
            "signal": ("level", signal),
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
    result = result.assign_coords(statistic=list(parts), high=("band", modes.high.astype(np.int8)))
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
