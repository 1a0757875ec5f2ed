"""What a network is asked at true states: levels, functions, and whether gradients are taken."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from exposure_bias.data import Data
from exposure_bias.denoisers import differentiating
from exposure_bias.errors import InputError, whole_number
from exposure_bias.run import Stream
from exposure_bias.running.loop import fill
from exposure_bias.running.setup import Setup, prepare, varied, with_options
from exposure_bias.schedules import Level
from exposure_bias.states import State
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.streams import noised
from exposure_bias.true_states.functions import CLASSES, Family, StateFunction, checked
from exposure_bias.true_states.single_pass import Pass, add, levels_of
from exposure_bias.true_states.value_function import Modes, laws_of_halves

SAMPLES = 4096
LEVELS = 20
FEWEST_LEVELS = 4
STEPS = 20
PROBED, PROBE_STEP, PROBE_TOLERANCE = 8, 0.02, 0.25


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
    return plan_of(setup, count, functions, costs)


def plan_of(
    setup: Setup, count: int, functions: Mapping[str, StateFunction] | None, costs: bool
) -> Pass:
    """What is going to be asked of a setup's network. Raises InputError where it cannot be."""
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
    family = family_of(setup.data, setup.model.shape, conditional, functions)
    even, odd = (law.to(setup.model.device) for law in family.laws)
    family = replace(family, laws=(even, odd))
    wanted = bool(costs) and differentiable(setup)
    options = {"functions": sorted(family.functions), "costs": wanted}
    return Pass(with_options(setup, options), family, wanted)


def family_of(data: Data, shape: State, conditional: bool, functions: Any) -> Family:
    """The functions that the residual is tested with."""
    modes, classes = Modes.of(shape), []
    if conditional and data.labels is not None:
        classes = [int(c) for c in np.unique(data.labels)[:CLASSES]]
    family = Family(modes, laws_of_halves(data, modes), classes, {})
    return replace(family, functions=checked(functions, family.names))


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
