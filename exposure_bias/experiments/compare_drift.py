"""What a remedy changes in the drift of a model, and in which of its terms.

Every entry draws the same frames of the same sequences on the same Brownian paths. A difference
from the first entry is paired: the jackknife deletes a group of sequences from both.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from exposure_bias.errors import InputError
from exposure_bias.experiments.drift import STEPS, summed
from exposure_bias.experiments.drift_chains import NOISE, Roll
from exposure_bias.experiments.drift_result import DIMS, budget_of, differences_of
from exposure_bias.experiments.drift_setup import (
    checked_model,
    checked_sequences,
    prepared,
    roll_of,
)
from exposure_bias.experiments.kinds.compare_drift import COMPARE_DRIFT
from exposure_bias.jackknife import Estimate, with_estimates
from exposure_bias.results import returns
from exposure_bias.schedules import timestep_spacing as spacing_of

# What an entry may say of its own.
OWN = ("sampler", "steps", "start", "grid", "timestep_spacing", "clip")


@returns(COMPARE_DRIFT)
def compare_drift(
    entries: Mapping[str, Any],
    sequences: Any,
    *,
    sampler: Any = "ddpm",
    steps: int = STEPS,
    frames: int | None = None,
    start: str = NOISE,
    free_limit: bool = False,
    stationary: bool = False,
    n: int | None = None,
    grid: str = "linspace",
    timestep_spacing: str | None = None,
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    folder: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Measure what remedies change in each term of a model's drift.

    Parameters
    ----------
    entries
        Each entry by its name: a `Denoiser(…, context=p)`, or a pair of one and a dictionary of
        what is different: sampler, steps, start, grid, timestep_spacing or clip. The others are
        compared with the first.
    sequences, sampler, steps, frames, start, free_limit, stationary, n, grid, timestep_spacing, \
clip, seed, batch_size
        As in `drift_budget`, for entries that do not say it themselves.
    folder
        Where finished batches are kept; the same call goes on there.

    Returns
    -------
    xarray.Dataset
        Over (entry, statistic, frame): the terms of `drift_budget` with `_se`, and each one's
        `_difference` from the first entry with its paired `_difference_se`.

    Raises
    ------
    InputError
        For fewer than two entries, for entries of different contexts, shapes or limits, and for
        whatever `drift_budget` refuses.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> model = eb.oracles.LinearAutoregression(0.9, eb.schedules.edm(0.05, 5.0))
    >>> sequences = eb.Sequences(model.law.sample(256, 3))
    >>> entries = {"plain": model, "one call": (model, {"start": "one call"})}
    >>> compared = eb.compare_drift(entries, sequences, sampler="heun", steps=4)
    >>> last = compared.sel(entry="one call", statistic="variance").isel(frame=-1)
    >>> bool(last.initialisation_difference > 0)
    True

    Source: docs/mathematics.md, "Drift of sequences".
    """
    common = {
        "sampler": sampler,
        "steps": steps,
        "start": start,
        "grid": grid,
        "timestep_spacing": timestep_spacing,
        "clip": clip,
    }
    data = checked_sequences(sequences)
    rolls: dict[str, Roll] = {}
    for name, (model, own) in _entries(entries).items():
        options: dict[str, Any] = common | own
        spacing = spacing_of(options.pop("grid"), options.pop("timestep_spacing"))
        fitted = data.fitted(model.shape)
        setup = prepared(
            model,
            fitted,
            frames=frames,
            n=n,
            spacing=spacing,
            seed=seed,
            batch_size=batch_size,
            free_limit=bool(free_limit),
            **options,
        )
        rolls[name] = roll_of(setup, fitted, bool(free_limit))
    _check_alike(rolls)
    place = None if folder is None else Path(folder)
    found = {
        name: (roll, summed(roll, batch_size, place and place / f"{_plain(name)}.nc"))
        for name, roll in rolls.items()
    }
    budgets = [budget_of(*one, stationary) for one in found.values()]
    labels = [str(v) for v in budgets[0].data_vars if f"{v}_se" in budgets[0]]
    result = xr.Dataset(coords={"entry": list(found)} | dict(budgets[0].coords))
    result = result.drop_vars([k for k in ("shown_as", "shown_frame") if k in result])
    differences = [
        differences_of(next(iter(found.values())), one, stationary) for one in found.values()
    ]
    for label in labels:
        values = Estimate(
            np.stack([b[label].values for b in budgets]),
            np.stack([b[f"{label}_se"].values for b in budgets]),
        )
        change = Estimate(
            np.stack([d[label].value for d in differences]),
            np.stack([d[label].error for d in differences]),
        )
        estimates = {label: values, f"{label}_difference": change}
        result = with_estimates(result, ("entry", *DIMS), **estimates)
    names = ("data", "n", "seed", "frames", "context", "chunk", "no_interval")
    result.attrs = {k: budgets[0].attrs[k] for k in names if k in budgets[0].attrs}
    for key in ("model", "sampler", "steps", "start"):
        said = dict.fromkeys(b.attrs[key] for b in budgets)
        result.attrs[key] = ", ".join(said)
    return result


def _entries(entries: Mapping[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    if not isinstance(entries, Mapping) or len(entries) < 2:
        raise InputError(
            "a comparison takes at least two entries by name, as {'4 steps': model, '8 steps':"
            " (model, {'steps': 8})}"
        )
    found = {}
    for name, given in entries.items():
        model, own = given if isinstance(given, tuple) and len(given) == 2 else (given, {})
        unknown = [key for key in own if key not in OWN] if isinstance(own, Mapping) else [own]
        if unknown:
            raise InputError(
                f"{name}: {unknown[0]!r:.60} is nothing that an entry may differ in: allowed are"
                f" {', '.join(OWN)}, or another model"
            )
        found[str(name)] = (checked_model(model), dict(own))
    return found


def _check_alike(rolls: Mapping[str, Roll]) -> None:
    """Raise InputError unless all draw the same frames, by the same terms."""
    first, *others = rolls
    told = {
        name: {
            "contexts": roll.layout.context,
            "frames of shapes": roll.layout.shape,
            "terms": roll.layout.cuts,
        }
        for name, roll in rolls.items()
    }
    for name in others:
        for what, value in told[name].items():
            if value != told[first][what]:
                raise InputError(
                    f"{first} and {name} have different {what}, {told[first][what]} and {value}:"
                    " nothing to compare; a shorter memory is a network that looks at"
                    " c.frames[:, -1:] alone"
                )


def _plain(name: str) -> str:
    """A name as that of a file."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-") or "entry"
