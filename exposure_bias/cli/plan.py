"""How many network calls a command will take, from its options and its chain."""

import argparse
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from exposure_bias.errors import InputError
from exposure_bias.jackknife import GROUPS, MINIMUM_PER_GROUP

if TYPE_CHECKING:
    from exposure_bias.running.progress import Plan
    from exposure_bias.running.setup import Setup

Options = argparse.Namespace
RULES = 4  # fixed ones beside chosen levels
# About what a limit takes, whatever the chain's length, a restart, and the candidates for advice.
LIMIT, RESTART, ADVICE = 150, 60, 60


def planned(options: Options) -> "Callable[[Setup], Plan]":
    """What a command takes, once the setup of its first loop is known."""
    return partial(_planned, options)


def _planned(options: Options, setup: "Setup") -> "Plan":
    from exposure_bias.experiments import (
        budget,
        chain_errors,
        chain_length_fid,
        drift_setup,
        levels,
    )
    from exposure_bias.running.progress import Plan
    from exposure_bias.running.setup import DEFAULT_SAMPLES

    most = {
        "budget": budget.SAMPLES,
        "drift": drift_setup.SAMPLES,
        "diagnose": budget.SAMPLES,
        "levels": levels.SAMPLES,
        "error-hist": chain_errors.DEFAULT_SAMPLES,
        "normality": chain_errors.DEFAULT_SAMPLES,
        "chain-length-fid": chain_length_fid.DEFAULT_SAMPLES,
    }
    samples = options.n or min(len(setup.data), most.get(options.name, DEFAULT_SAMPLES))
    count = CALLS.get(options.name, _recording)
    return Plan(samples, count(options, setup), options.name != "chain-length-fid")


def _step(setup: "Setup") -> int:
    from exposure_bias.running.progress import calls_a_step

    return calls_a_step(setup)


def _recording(options: Options, setup: "Setup") -> float:
    streams = getattr(options, "streams", "forward,chain").split(",")
    forward = len(setup.kept) - 1 if "forward" in streams else 0
    return forward + (_step(setup) * setup.run.steps if "chain" in streams else 0)


def _errors(options: Options, setup: "Setup") -> float:
    lengths = options.lengths
    return _step(setup) * sum(lengths) if options.mode == "chain" else len(lengths)


def _rollouts(options: Options, setup: "Setup") -> float:
    end = setup.run.steps
    replicates = getattr(options, "replicates", 2)
    return replicates * _step(setup) * sum(end - s for s in setup.starts(options.starts))


def _telescope(options: Options, setup: "Setup") -> float:
    end = setup.run.steps
    starts = sorted({0, *setup.starts(options.starts)})
    targets = starts[1:] if options.targets is None else setup.starts(options.targets)
    alone = [t for t in (*targets, end) if t - 1 not in starts]  # a step of their own
    return _step(setup) * (end + sum(end - s for s in starts) + len(alone))


def _split(setup: "Setup", steps: int, limit: float = LIMIT) -> float:
    """The chain and its limit."""
    return steps * _step(setup) + (limit if setup.sampler.limit else 0)


def _budget(options: Options, setup: "Setup") -> float:
    lengths = options.steps if isinstance(options.steps, list) else [options.steps]
    samplers = getattr(options, "samplers", None) or [options.sampler]
    if len(lengths) * len(samplers) > 1:
        return sum(_split(setup, length, 0) for length in lengths) * len(samplers) + LIMIT
    from exposure_bias.experiments.budget import restart_places

    try:
        places = restart_places(setup, options.restarts)[0]
    except InputError:
        places = []
    tails = [setup.run.steps - place for place in places]
    whole = _split(setup, setup.run.steps) + sum(_split(setup, s, RESTART) for s in tails)
    return whole + (_step(setup) * setup.run.steps if options.start == "noise" else 0)


def _drift(options: Options, setup: "Setup") -> float:
    limit = LIMIT if setup.sampler.limit else 0
    own = 2 * _step(setup) * setup.run.steps
    entries = 1 + len(options.against)
    return entries * setup.run.options["frames"] * (own + limit * (1 + options.free_limit))


def _diagnosis(options: Options, setup: "Setup") -> float:
    forward, probe = len(setup.kept) - 1, _step(setup) * setup.run.steps
    rollouts = _rollouts(options, setup) if setup.sampler.ancestral else 0
    advised = not options.quick and setup.n >= GROUPS * MINIMUM_PER_GROUP
    tried = LIMIT + ADVICE if advised and not setup.run.model.guided else 0
    return forward + _budget(options, setup) + rollouts + probe + tried


def _levels(options: Options, setup: "Setup") -> float:
    asked = len(setup.kept) - 1
    if options.no_certificate:
        return asked
    several = len(options.calls) > 1
    return asked + LIMIT + sum(options.calls) * (1 + RULES * several)


def _comparison(options: Options, setup: "Setup") -> float:
    one = len(setup.kept) - 1 + _split(setup, setup.run.steps)
    return len(options.models) * (one + sum(options.lengths))


def _curves(options: Options, setup: "Setup") -> float:
    from exposure_bias.experiments.chain_length_fid import LENGTHS

    chains = (1 + len(options.against)) * len(options.samplers or [options.sampler])
    lengths = options.lengths or LENGTHS
    limit = LIMIT if options.limit else 0
    return chains * (_step(setup) * sum(lengths) + limit)


CALLS: "dict[str, Callable[[Options, Setup], float]]" = {
    "error-hist": _errors,
    "normality": _errors,
    "rollouts": _rollouts,
    "telescope": _telescope,
    "budget": _budget,
    "diagnose": _diagnosis,
    "drift": _drift,
    "levels": _levels,
    "compare": _comparison,
    "chain-length-fid": _curves,
}
