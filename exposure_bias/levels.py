"""Levels that somebody chose, in place of a timestep spacing. No torch here.

A list of levels is given as

    [999, 725, 500, 225, 20]              timesteps, the network's own labels
    {"sigmas": [157, 20, 3, 0.5]}         noise levels σ/α; of flow models σ, as diffusers has it
    "999,725,500" or "sigmas:157,20,3"    the same as text, for the command line
    schedule.levels(10, "karras")         `Level`s

noisiest first. The clean end follows by itself, and may be left out or given.
"""

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np

from exposure_bias.errors import InputError
from exposure_bias.schedules import Level, Schedule

KINDS = ("timesteps", "sigmas")
SAME = 1e-3  # how far a level's σ/α may be from what its label says, relative


def chosen_levels(schedule: Schedule, given: Any) -> tuple[Level, ...]:
    """Make the levels of a chain, the clean end last, from a list of timesteps or sigmas.

    Parameters
    ----------
    schedule : Schedule
        The network's schedule.
    given : sequence, mapping or str
        See the module docstring.

    Returns
    -------
    tuple of Level
        One more than were given.

    Raises
    ------
    InputError
        For an empty list, numbers that are none, levels that do not decrease in noise or lie
        outside the schedule, and a kind of list that is not known.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> from exposure_bias.levels import chosen_levels
    >>> [level.timestep for level in chosen_levels(eb.schedules.linear(), [999, 500, 20])]
    [999.0, 500.0, 20.0, -1.0]
    """
    kind, items = _read(given)
    if items and all(isinstance(item, Level) for item in items):
        levels = [_same(schedule, item) for item in items if item.sigma > 0]
    else:
        numbers = [_number(item) for item in items]
        levels = _of_numbers(schedule, kind, numbers)
    if not levels:
        raise InputError(f"no levels were given: give at least one of the {kind} of a chain")
    for before, after in pairwise(levels):
        if not after.ratio < before.ratio:
            raise InputError(
                f"levels go from much noise to little: {kind} {_told(schedule, kind, after)} does"
                f" not come after {_told(schedule, kind, before)}"
            )
    return (*levels, schedule.clean)


def _read(given: Any) -> tuple[str, list[Any]]:
    """The kind of a list, and its items."""
    kind = "timesteps"
    if isinstance(given, str):
        head, colon, rest = given.partition(":")
        kind, given = (head.strip(), rest) if colon else (kind, given)
        given = [part for part in given.split(",") if part.strip()]
    elif isinstance(given, Mapping):
        if len(given) != 1:
            raise InputError(
                f"levels are one list, got {', '.join(map(str, given)) or 'none'}: give timesteps"
                " or sigmas"
            )
        ((kind, given),) = given.items()
    if kind not in KINDS:
        raise InputError(f"levels are timesteps or sigmas, got {kind!r}")
    items = getattr(given, "tolist", lambda: given)()
    if not isinstance(items, Iterable):
        raise InputError(f"levels are a list of {kind}, noisiest first, got {given!r:.60}")
    return kind, list(items)


def _number(item: Any) -> float:
    try:
        number = float(item)
    except (TypeError, ValueError):
        number = np.nan
    if isinstance(item, bool) or not np.isfinite(number):
        raise InputError(f"levels are finite numbers, got {item!r:.60}")
    return number


def _of_numbers(schedule: Schedule, kind: str, numbers: list[float]) -> list[Level]:
    ends_clean = kind == "sigmas" or schedule.continuous
    clean = 0.0 if kind == "sigmas" else schedule.clean.timestep
    if numbers and numbers[-1] == clean and ends_clean:
        numbers = numbers[:-1]
    return [_of_sigma(schedule, n) if kind == "sigmas" else _of_label(schedule, n) for n in numbers]


def _of_label(schedule: Schedule, label: float) -> Level:
    low, high = schedule.range
    if not schedule.continuous and not low <= label <= high:
        raise InputError(
            f"timestep {label:g} lies outside the {schedule.name} schedule: allowed are {low:g} to"
            f" {high:g}"
        )
    return schedule.at(label)


def _of_sigma(schedule: Schedule, sigma: float) -> Level:
    ratio = sigma
    if schedule.parameterisation == "flow":
        ratio = sigma / (1 - sigma) if sigma < 1 else np.inf if sigma == 1 else -1.0
    if schedule.curve is not None and schedule.curve.unbounded and sigma > 0:
        return schedule.at(schedule.curve.label(sigma))
    level = schedule.at_ratio(ratio)
    near = level.ratio == ratio or abs(level.ratio - ratio) <= SAME * ratio
    if ratio <= 0 or not near:
        lowest, highest = (schedule.level(i) for i in (0, len(schedule) - 1))
        raise InputError(
            f"sigma {sigma:g} lies outside the {schedule.name} schedule: allowed are"
            f" {_told(schedule, 'sigmas', lowest)} to {_told(schedule, 'sigmas', highest)}"
        )
    return level


def _same(schedule: Schedule, level: Level) -> Level:
    """A level that the schedule knows under its label."""
    own = _of_label(schedule, level.timestep)
    if level.ratio != own.ratio and not abs(level.ratio - own.ratio) <= SAME * own.ratio:
        raise InputError(
            f"at timestep {level.timestep:g} the {schedule.name} schedule has σ/α = {own.ratio:g},"
            f" not {level.ratio:g}: take levels from the model's own schedule"
        )
    return own


def sigma_of(schedule: Schedule, level: Level) -> float:
    """σ of a level as diffusers and k-diffusion have it: σ/α, of flow models σ."""
    return level.sigma if schedule.parameterisation == "flow" else level.ratio


def _told(schedule: Schedule, kind: str, level: Level) -> str:
    value = level.timestep if kind == "timesteps" else sigma_of(schedule, level)
    return f"{value:.6g}"
