"""Is a network wrong on true states, where, at what cost to the samples, and is it exposure bias?

Three questions, in this order (docs/exposure.md; docs/mathematics.md, *The network's share*):

1. *Is it wrong on true states?* The residual x_0 − f(x_t) of a right network is orthogonal to every
   function of x_t (`diagnostics.orthogonality`). No chain is needed.
2. *What does that cost?* The share of the samples' variance that these errors will move, by level
   and frequency band, from true states alone (`diagnostics.predicted_share`).
3. *Is it exposure bias in the strict sense?* Whether the network errs more on its own states than on
   true ones (`experiments.strict_exposure`).
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

from exposure_bias.denoisers import differentiating
from exposure_bias.diagnostics.denoising import warn_unless_denoises
from exposure_bias.diagnostics.orthogonality import Orthogonality, orthogonality
from exposure_bias.diagnostics.predicted_share import Cost, cost, error_of, holds_first_order
from exposure_bias.errors import InputError, whole_number
from exposure_bias.experiments.true_states import Pass, StateFunction, add, edges, levels_of
from exposure_bias.jackknife import (
    Array,
    Estimate,
    jackknife,
    ratio_of,
    too_few,
    why_no_interval,
    with_estimates,
)
from exposure_bias.run import Stream
from exposure_bias.running.loop import fill
from exposure_bias.running.setup import Setup, prepare, varied, with_options
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.streams import evaluate

SAMPLES = 4096
LEVELS = 20
FEWEST_LEVELS = 4
STEPS = 20


def network_error(
    model: Any,
    data: Any,
    *,
    levels: int = LEVELS,
    n: int | None = None,
    functions: Mapping[str, StateFunction] | None = None,
    costs: bool = True,
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    folder: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Test a network on true states, and predict what its errors there cost the samples."""
    plan = planned(model, data, levels, functions, costs, n=n, clip=clip, seed=seed, batch_size=batch_size)
    sums = measured_sums(plan, batch_size, None if folder is None else Path(folder))
    return assembled(plan, sums)


def planned(
    model: Any,
    data: Any,
    levels: int,
    functions: Mapping[str, StateFunction] | None,
    costs: bool,
    **options: Any,
) -> Pass:
    """What is going to be asked. Raises InputError for whatever does not fit."""
    count = whole_number(levels, "levels, the number of noise levels,", FEWEST_LEVELS)
    own = dict(functions or {})
    base = prepare(
        model,
        data,
        kind="network-error",
        steps=STEPS,
        most=SAMPLES,
        streams=(Stream.FORWARD,),
        **options,
    )
    setup = varied(base)
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
    run = replace(setup.run, levels=chosen)
    setup = replace(setup, run=run, places=np.arange(len(chosen)))
    wanted = bool(costs) and differentiable(setup)
    setup = with_options(setup, {"functions": sorted(own), "costs": wanted})
    plan = Pass(setup, own, wanted)
    taken = [name for name in own if plan.tests.count(name) > 1]
    if taken:
        raise InputError(f"a function may not be called {taken[0]!r}: a test of ours has that name")
    return plan


def differentiable(setup: Setup) -> bool:
    """Whether automatic differentiation reaches from a prediction to its state."""
    level = setup.levels[len(setup.levels) // 2]
    batch = setup.samples(slice(0, 1))
    model = setup.conditioned(batch.images)
    x = batch.x0.clone().requires_grad_()
    try:
        with differentiating(), setup.model.evaluating():
            output = evaluate(model, x, level, 0, setup.clip).x0
            return output.requires_grad and torch.autograd.grad(output.sum(), x)[0] is not None
    except (RuntimeError, NotImplementedError):
        return False


def measured_sums(plan: Pass, batch_size: int, folder: Path | None = None) -> Sums:
    """The sums of one pass over true states, kept in a folder where there is one."""
    sums = plan.sums()
    path = None if folder is None else folder / "true-states.nc"
    fill(
        plan.setup,
        sums,
        partial(add, plan, sums),
        size=batch_size,
        evaluations=len(plan.levels),
        checkpoint=path,
    )
    return sums


def assembled(plan: Pass, sums: Sums) -> xr.Dataset:
    """The dataset of a finished pass."""
    setup = plan.setup
    images = setup.ids % len(setup.data)
    spread = float(setup.law.variance.sum())
    found = orthogonality(sums.state["score"], sums.state["weight"], images, spread)
    count = np.bincount(images % 16, minlength=16).astype(float)
    result = _slopes(plan, found, too_few([count]))
    result = result.merge(_reliability(plan, sums))
    result.attrs = setup.attributes | why_no_interval(count)
    if plan.costs:
        result = _with_costs(result, plan, cost(plan.cost_sums(sums)))
    return result


def _slopes(plan: Pass, found: Orthogonality, few: str) -> xr.Dataset:
    timestep, alpha, sigma = np.array(plan.levels).T
    coords = {
        "level": timestep,
        "alpha": ("level", alpha),
        "sigma": ("level", sigma),
        "test": plan.tests,
    }
    result = with_estimates(xr.Dataset(coords=coords), ("level", "test"), slope=found.slope)
    p_value = float("nan") if few else found.p_value
    return result.assign(
        p_value=((), p_value),
        flagged=((), np.int8(not few and found.flagged)),
        p_adjusted=(("level", "test"), np.full_like(found.adjusted, np.nan) if few else found.adjusted),
    )


def _reliability(plan: Pass, sums: Sums) -> xr.Dataset:
    bins = sums.state["bins"]
    count = bins[..., 0].sum((1, 2, 3))
    dims = ("level", "band", "bin")
    predicted, observed = (
        jackknife(lambda n, above, below: ratio_of(n, above, below), count, bins[..., i], bins[..., 0])
        for i in (1, 2)
    )
    result = xr.Dataset(coords={"band": list(plan.modes.names), "bin": range(bins.shape[3])})
    return with_estimates(result, dims, reliability_predicted=predicted, reliability_observed=observed)


def _with_costs(result: xr.Dataset, plan: Pass, found: Cost) -> xr.Dataset:
    j = len(plan.modes.names)
    value, deviations = found.of(np.ones(j))
    total = Estimate(value.sum(), error_of(deviations.sum((1, 2))))
    result = with_estimates(result, ("level", "band"), cost=Estimate(value, error_of(deviations)))
    return with_estimates(result, (), predicted_share=total)
