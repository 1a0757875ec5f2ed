"""Which levels should a chain of few network calls go through? Chosen, predicted and certified.

The levels are chosen on one half of the images: one forward pass predicts what each step between
two levels costs (`experiments.discretisation`), and dynamic programming finds the cheapest way from
the schedule's noisiest level to the clean end in so many steps. They are certified on the other
half: the chain is walked with noise of its own, and its discretisation error is measured against
the network's own limit as in an error budget (`experiments.budget`).

The fixed rules beside them: `linspace` and `karras` as in `Schedule.levels`; `quadratic`, timesteps
in proportion to squares (Song et al. 2021, arXiv 2010.02502, appendix D.2); `log-linear`, even in
log σ/α (Lu et al. 2022, arXiv 2206.00927).
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from exposure_bias.errors import InputError
from exposure_bias.experiments.choice import CHOSEN, RULES, Choice, checked_calls, choice_of, ruled
from exposure_bias.experiments.discretisation import Objective
from exposure_bias.experiments.kinds.levels import LEVEL_CURVE, OPTIMISE_LEVELS
from exposure_bias.jackknife import GROUPS, Array, Estimate, standard_error, with_interval
from exposure_bias.levels import sigma_of
from exposure_bias.results import returns
from exposure_bias.schedules import Level, Schedule

CALLS, SAMPLES = 10, 256
NOTHING = Estimate(np.asarray(np.nan), np.asarray(np.nan))


@returns(OPTIMISE_LEVELS)
def optimise_levels(
    model: Any,
    data: Any,
    *,
    sampler: Any = "ddpm",
    calls: int = CALLS,
    objective: str | Objective = "gap",
    n: int = SAMPLES,
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    certify: bool = True,
    folder: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Choose the levels at which a chain of few calls errs least, and certify them on other images.

    Parameters
    ----------
    model : Denoiser, or what `adapt` takes
        The network.
    data : Data, or what `load_data` takes
        At least 64 held-out images. Every other one chooses, the rest certify.
    sampler : str or Sampler
        `ddpm`, `ddpm:fixed_large` or `ddim:1`: a sampler of the SDE that asks once a step.
    calls : int
        The number of network calls, at least 2.
    objective : "gap", "hf" or callable
        What is to be right at the end: the samples' variance, their power at a quarter of a cycle
        per pixel and above, or the mean of a function that takes images (N, *shape) and returns one
        number for each.
    n : int
        Samples for each of the two halves, at most one for each image.
    certify : bool
        Whether the chosen levels are certified, which takes about 150 calls a sample for the limit.
    folder : path, optional
        Where the chains are kept; the same call goes on there.
    clip, seed, batch_size
        As in `record`.

    Returns
    -------
    xarray.Dataset
        Over (step): timestep, alpha, sigma and ratio (σ/α) of the chosen levels, the clean end left
        out, so that `record(..., levels=result["timestep"])` goes through them. predicted and
        certified, the discretisation error with `_se`, `_low` and `_high`: relative, in decibels
        for hf. Over (rule): predicted_by_rule, of the fixed rules. Attributes: answer, a sentence;
        diffusers, k_diffusion and comfyui, the levels in the form that each takes.

    Raises
    ------
    InputError
        For calls that the schedule has no room for, a sampler whose steps are not understood, an
        unknown objective or one that returns NaN, a guided model, and fewer than 64 images.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> data = eb.load_data("digits")
    >>> found = eb.optimise_levels("digits", data, calls=6, n=32, certify=False)
    >>> found.sizes["step"]
    6
    """
    choice = choice_of(
        model,
        data,
        objective,
        n,
        folder,
        sampler=sampler,
        clip=clip,
        seed=seed,
        batch_size=batch_size,
    )
    calls = checked_calls(calls, choice.model.schedule)
    levels = choice.best(calls)
    columns = {k: ("step", [getattr(v, k) for v in levels[:-1]]) for k in (*Level._fields, "ratio")}
    result = xr.Dataset(columns, {"step": np.arange(calls)})
    certified = choice.certified(levels)[0] if certify else NOTHING
    result = _with_intervals(result, (), predicted=choice.predicted(levels), certified=certified)
    chains = {rule: ruled(choice.setup, rule, calls) for rule in RULES}
    known = {rule: chain for rule, chain in chains.items() if chain is not None}
    by_rule = [float(choice.predicted(chain).value) for chain in known.values()]
    result = result.assign_coords(rule=list(known)).assign(predicted_by_rule=("rule", by_rule))
    result.attrs = choice.attributes | forms(choice.model.schedule, levels)
    return result


@returns(LEVEL_CURVE)
def level_curve(
    model: Any,
    data: Any,
    *,
    sampler: Any = "ddpm",
    calls: Sequence[int] = (6, 8, 10, 20),
    rules: Sequence[str] = RULES,
    objective: str | Objective = "gap",
    n: int = SAMPLES,
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    folder: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Predict and certify the chosen levels and the fixed rules at several numbers of calls.

    Parameters
    ----------
    calls : sequence of int
        Numbers of network calls, each at least 2.
    rules : sequence of str
        Fixed rules to stand beside the chosen levels (module docstring).
    model, data, sampler, objective, n, clip, seed, batch_size, folder
        As in `optimise_levels`.

    Returns
    -------
    xarray.Dataset
        Over (calls, rule), the chosen levels first: predicted and certified, the discretisation
        error with `_se`, `_low` and `_high`; advantage with the same, by how much the chosen
        levels' error is smaller than the rule's, paired (above 0 where they are better). NaN where
        a rule has no levels of its own for so many calls.

    Raises
    ------
    InputError
        As `optimise_levels`, and for an unknown rule.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> curve = eb.level_curve("digits", "digits", calls=(4,), rules=("linspace",), n=32)
    >>> curve["rule"].values.tolist()
    ['chosen', 'linspace']
    """
    unknown = [rule for rule in rules if rule not in RULES]
    if unknown:
        raise InputError(f"unknown rule {unknown[0]!r}: allowed are {', '.join(RULES)}")
    choice = choice_of(
        model,
        data,
        objective,
        n,
        folder,
        sampler=sampler,
        clip=clip,
        seed=seed,
        batch_size=batch_size,
    )
    calls = sorted({checked_calls(k, choice.model.schedule) for k in calls})
    every = [CHOSEN, *dict.fromkeys(rules)]
    cells = [[_Cell.of(choice, rule, k) for rule in every] for k in calls]
    result = xr.Dataset(coords={"calls": calls, "rule": every})
    result = _with_intervals(
        result,
        ("calls", "rule"),
        predicted=_stacked([[cell.predicted for cell in row] for row in cells]),
        certified=_stacked([[cell.certified for cell in row] for row in cells]),
        advantage=_stacked([[cell.worse_than(row[0]) for cell in row] for row in cells]),
    )
    result.attrs = choice.attributes
    return result


@dataclass(frozen=True)
class _Cell:
    """One rule at one number of calls. deviations (16,): the jackknife's of `certified`."""

    predicted: Estimate
    certified: Estimate
    deviations: Array

    @classmethod
    def of(cls, choice: Choice, rule: str, calls: int) -> "_Cell":
        """That of a rule; NaN where it has no levels for so many calls."""
        chosen = rule == CHOSEN
        levels = choice.best(calls) if chosen else ruled(choice.setup, rule, calls)
        if levels is None:
            return cls(NOTHING, NOTHING, np.full(GROUPS, np.nan))
        certified, deviations = choice.certified(levels)
        return cls(choice.predicted(levels), certified, deviations)

    def worse_than(self, other: "_Cell") -> Estimate:
        """By how much the size of its error exceeds another's, paired."""
        sizes = [np.abs(cell.certified.value) for cell in (self, other)]
        signed = [np.sign(cell.certified.value) * cell.deviations for cell in (self, other)]
        return Estimate(sizes[0] - sizes[1], standard_error(signed[0] - signed[1]))


def _stacked(cells: Sequence[Sequence[Estimate]]) -> Estimate:
    value = np.array([[float(cell.value) for cell in row] for row in cells])
    return Estimate(value, np.array([[float(cell.error) for cell in row] for row in cells]))


def _with_intervals(result: xr.Dataset, dims: tuple[str, ...], **estimates: Estimate) -> xr.Dataset:
    """The dataset with estimates, their errors and intervals; without simultaneous bands."""
    result = with_interval(result, dims, **estimates)
    return result.drop_vars([name for name in result.data_vars if "_band_" in str(name)])


def forms(schedule: Schedule, levels: Sequence[Level]) -> dict[str, str]:
    """A chain's levels as diffusers, k-diffusion and ComfyUI take them."""
    sigmas = ", ".join(f"{sigma_of(schedule, level):.6g}" for level in levels)
    known = {
        "k_diffusion": f"sigmas = torch.tensor([{sigmas}])",
        "comfyui": f"ManualSigmas: {sigmas}",
    }
    whole = all(float(level.timestep).is_integer() for level in levels[:-1])
    if schedule.parameterisation == "vp" and not schedule.continuous and whole:
        timesteps = ", ".join(f"{level.timestep:.0f}" for level in levels[:-1])
        return {"diffusers": f"scheduler.set_timesteps(timesteps=[{timesteps}])"} | known
    return {"diffusers": f"scheduler.set_timesteps(sigmas=[{sigmas}])"} | known
