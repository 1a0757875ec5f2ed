"""Which sampler at how many calls is good enough for a network.

The solver's share of the gap by sampler and steps.

Each chain gets its own error budget (`experiments.budget`). All chains that tend to one limit from
one noisiest level share it, whatever their sampler, length and spacing."""

import os
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import xarray as xr

from exposure_bias.errors import InputError, whole_number
from exposure_bias.experiments.bench import Bench, Limits
from exposure_bias.experiments.budget import MARGIN, budget_of, checked_limit_n, planned
from exposure_bias.experiments.kinds.budgets import SOLVER_CURVE
from exposure_bias.results import returns
from exposure_bias.samplers import Asking, Prediction, Sampler
from exposure_bias.schedules import Level

STEPS = (10, 20, 50)


@returns(SOLVER_CURVE)
def solver_curve(
    model: Any,
    data: Any,
    samplers: Sequence[Any] = ("ddpm", "ddim", "heun"),
    steps: Sequence[int] = STEPS,
    *,
    n: int | None = None,
    margin: float = MARGIN,
    start: str = "data",
    grid: str = "linspace",
    timestep_spacing: str | None = None,
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    limit_n: int | None = None,
    limit_steps: int = 0,
    folder: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """The error budget of every sampler at every number of steps, on the same images and paths.

    samplers, steps: several, different. The others as in `error_budget`.

    Returns, over (sampler, steps) and statistic, what `error_budget` does but for restarts and the
    last step; and calls (sampler, steps), how often a chain asks the network. A chain whose limit
    is unknown or not reached says so in `answer`.

    Raises InputError for whatever does not fit.
    """
    samplers, steps = list(samplers), sorted(set(steps))
    if not samplers or not steps:
        raise InputError(
            "there is no sampler or no number of steps to measure: give at least one of each"
        )
    chain = partial(
        planned,
        model,
        data,
        margin,
        n=n,
        start=start,
        grid=grid,
        timestep_spacing=timestep_spacing,
        clip=clip,
        seed=seed,
        batch_size=batch_size,
    )
    setups = [[chain(sampler=one, steps=length) for length in steps] for one in samplers]
    place = None if folder is None else Path(folder)
    limits = Limits(batch_size, place, whole_number(limit_steps, "limit_steps", 0))
    few = checked_limit_n(limit_n)
    rows = []
    for row in setups:
        cells = []
        for setup in row:
            name = f"{setup.run.sampler}-{setup.run.steps}".replace("/", "-").replace(":", "-")
            bench = Bench(setup, batch_size, place and place / name, limits=limits, limit_n=few)
            found = budget_of(bench, margin, ())
            cells.append(
                found.drop_dims(["curve", "step"], errors="ignore").sel(statistic=_shared(found))
            )
        rows.append(xr.concat(cells, "steps", join="inner", combine_attrs="drop_conflicts"))
    result = xr.concat(rows, "sampler", join="inner", combine_attrs="drop_conflicts")
    names = [row[0].run.sampler for row in setups]
    if len(set(names)) < len(names):
        raise InputError(f"samplers must be different, got {', '.join(names)}")
    calls = [[network_calls(setup.sampler, setup.levels) for setup in row] for row in setups]
    result = result.assign_coords(sampler=names, steps=steps)
    return result.assign(calls=(("sampler", "steps"), calls))


def _shared(found: xr.Dataset) -> list[str]:
    """The statistics that all chains have."""
    return [
        str(s) for s in found["statistic"].values if not str(s).startswith(("restart", "last step"))
    ]


def network_calls(sampler: Sampler, levels: Sequence[Level]) -> int:
    """How often one chain asks the network.

    Once a step, and as often as its steps ask themselves."""
    calls = 0

    def predict(x: Any, level: Level) -> Prediction:
        nonlocal calls
        calls += 1
        zero = 0 * x
        return Prediction(zero, zero)

    import torch

    steps, x = sampler.begin(levels), torch.zeros(1, 1, dtype=torch.float64)
    for s, t in pairwise(levels):
        now = predict(x, s)
        noise = torch.zeros_like(x) if sampler.stochastic else None
        x = steps.step(x, now, s, t, noise, Asking(predict, lambda s, *_: s))
    return calls
