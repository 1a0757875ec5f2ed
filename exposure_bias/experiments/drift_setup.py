"""What a drift budget runs: model, sequences and sampler, checked before anything is drawn."""

import warnings
from math import hypot
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from exposure_bias.adapters import adapt
from exposure_bias.adapters.schedulers import sampler_for
from exposure_bias.contexts import Context
from exposure_bias.data import Data
from exposure_bias.data.sequences import Sequences
from exposure_bias.denoisers import Denoiser, FractionalTimestep, probe
from exposure_bias.errors import InputError, printable, whole_number
from exposure_bias.experiments.drift_chains import (
    FREE_LIMIT,
    LIMIT,
    NOISE,
    OWN,
    RUNNING,
    STARTS,
    Roll,
)
from exposure_bias.experiments.drift_limit import Grid
from exposure_bias.experiments.drift_sums import Layout
from exposure_bias.experiments.limits import RULE, limit_grid
from exposure_bias.jackknife import (
    Array,
)
from exposure_bias.paths import Draws
from exposure_bias.run import DataId, Run, Start
from exposure_bias.running.setup import Setup, check_processes, clip_of, identities
from exposure_bias.samplers import named
from exposure_bias.schedules import Level

SAMPLES = 512
FEW = 8  # sequences that a network is asked about before a run
SPREAD_OF = 256  # sequences that the data's largest spread is taken from


def count_of(data: Sequences, n: int | None) -> int:
    """How many sequences are drawn."""
    count = min(len(data), SAMPLES) if n is None else whole_number(n, "n, the number of sequences,")
    if count > len(data):
        raise InputError(f"n is {count}, but there are {len(data)} sequences: give fewer")
    return count


def checked_model(model: Any) -> Denoiser:
    denoiser = adapt(model)
    if denoiser.context is None:
        raise InputError(
            f"{denoiser.name} draws single states: give a model of sequences,"
            " Denoiser(net, …, context=p), or measure it with error_budget"
        )
    return denoiser


def checked_sequences(sequences: Any) -> Sequences:
    return sequences if isinstance(sequences, Sequences) else Sequences(sequences)


def prepared(
    model: Denoiser,
    data: Sequences,
    *,
    sampler: Any,
    steps: int,
    frames: int | None,
    n: int | None,
    spacing: str,
    clip: Any,
    seed: int,
    batch_size: int,
    free_limit: bool,
    start: str = NOISE,
) -> Setup:
    """Check what a user gave and make a `Setup` of it, whose samples are sequences."""
    if start not in STARTS:
        raise InputError(f"unknown start {start!r:.60}: allowed are {' and '.join(STARTS)}")
    n = count_of(data, n)
    frames = frames_of(model, data, frames)
    seed = whole_number(seed, "a seed", -(2**63))
    whole_number(batch_size, "batch_size")
    if model.shape != data.shape:
        raise InputError(
            f"the model draws frames of shape {model.shape}, but {data.name} has {data.shape}"
            f" (chunk={data.chunk}): give frames of the model's shape"
        )
    chosen = sampler_for(sampler, model, steps, spacing)
    levels = chosen.levels(model.schedule, steps, spacing)
    chosen.begin(levels)
    check_processes(n)
    known = identities(model, None)
    known["data"] = DataId(printable(data.name), None, data.hash, len(data))
    options = {"frames": frames, "context": model.context, "chunk": data.chunk}
    run = Run(
        **known,
        levels=levels,
        sampler=str(chosen),
        kind="drift",
        exact_teacher=chosen.exact_teacher,
        prior=chosen.prior_scale(levels[0]),
        start=Start.NOISE,
        clip=clip_of(clip, chosen),
        seed=seed,
        probe=probe(model.within(first_context(model, data, np.array([0]), seed))),
        transitions=None if named(str(chosen)) else chosen.transition(levels),
        options=options
        | {"free_limit": free_limit, "limit": f"{RULE}, half"}
        | ({} if start == NOISE else {"start": start}),
    )
    first = Data(data.frame(np.arange(n), model.context or 0), data.name, value_range=None)
    return Setup(run, model, first, chosen, np.arange(len(levels)), n)


def frames_of(model: Denoiser, data: Sequences, frames: int | None) -> int:
    """How many frames are drawn; InputError where the sequences are too short."""
    context = model.context or 0
    room = data.length - context
    if room < 1:
        raise InputError(
            f"sequences of {data.length} frames leave nothing to draw after a context of"
            f" {context}: give sequences of at least {context + 1}"
        )
    frames = room if frames is None else whole_number(frames, "frames")
    if frames > room:
        raise InputError(
            f"{frames} frames were asked for, but sequences of {data.length} frames have {room}"
            f" after a context of {context}: ask for at most {room}"
        )
    return frames


def first_context(
    model: Denoiser, data: Sequences, ids: NDArray[np.int64], seed: int, shift: int = 0
) -> Context:
    """The true context of the first frame that is drawn, or that of the sequences `shift` on."""
    count = model.context or 0
    others = np.roll(ids, shift)
    frames = np.stack([data.frame(others, k) for k in range(count)], axis=1)
    extra = {
        k: torch.from_numpy(v).to(model.device) for k, v in data.extra(others, 0, count).items()
    }
    draws = Draws(seed, f"context of frame {count}", ids.tolist(), frames.shape[1:], model.device)
    return Context(torch.from_numpy(frames).to(model.device).double(), count, extra, draws)


def roll_of(setup: Setup, data: Sequences, free_limit: bool) -> Roll:
    """Which frames are drawn, and by which limit."""
    frames, context = setup.run.options["frames"], setup.run.options["context"]
    route = _grid(setup, data)
    if free_limit and route is None:
        raise InputError(f"free_limit needs a sampler with a limit, which {setup.sampler} has not")
    cuts: tuple[str, ...] = OWN
    free: tuple[str, ...] = ("free",)
    if route is not None:
        cuts += LIMIT + (FREE_LIMIT if free_limit else ())
        free = RUNNING if free_limit else free
    layout = Layout.of(cuts, free, frames, context, setup.model.shape, setup.run.seed)
    centre = centre_of(data, setup.n, context, frames)
    start = setup.run.options.get("start", NOISE)
    return Roll(setup, data, layout, route, free_limit, centre, start=start)


def centre_of(data: Sequences, n: int, context: int, frames: int) -> Array:
    """The mean frame of the data, (D,); raises InputError where nothing varies."""
    total, square = np.zeros(int(np.prod(data.shape))), 0.0
    ids = np.arange(n)
    count = 0
    for index in range(context, context + frames):
        for start in range(0, n, SPREAD_OF):
            values = data.frame(ids[start : start + SPREAD_OF], index).reshape(-1, len(total))
            total += values.sum(0, dtype=np.float64)
            square += float(np.square(values, dtype=np.float64).sum())
            count += len(values)
    mean = total / count
    if square / count - np.square(mean).sum() <= 1e-12 * square / count:
        raise InputError(f"all frames of {data.name} are the same: give sequences that differ")
    return mean


def _grid(setup: Setup, data: Sequences) -> Grid | None:
    """The limit's grid, None where the sampler has no known limit."""
    kind, schedule = setup.sampler.limit, setup.model.schedule
    if kind is None:
        return None
    some = setup.data.batch(np.arange(min(setup.n, SPREAD_OF)))
    flat = some.reshape(len(some), -1)
    largest = float(np.linalg.norm(flat - flat.mean(0), 2) ** 2 / len(flat))
    start, whole = setup.levels[0], not _takes_fractions(setup, data)
    levels = limit_grid(schedule, start, max(largest, 1e-6), whole)
    # A sampler may keep its states in other coordinates than the schedule's.
    scale = hypot(levels[0].alpha, levels[0].sigma) / hypot(start.alpha, start.sigma)
    prior = setup.sampler.prior_scale(start) * scale
    return Grid(kind, levels, schedule.clean, prior)


def _takes_fractions(setup: Setup, data: Sequences) -> bool:
    """Whether the network answers between whole timesteps; it is asked once."""
    schedule = setup.model.schedule
    if schedule.continuous or len(schedule) < 2:
        return schedule.continuous
    level = schedule.level(len(schedule) // 2 - 0.5)
    context = first_context(setup.model, data, np.array([0]), setup.run.seed)
    try:
        _asked(setup.model, context, level)
    except FractionalTimestep:
        return False
    return True


def _asked(model: Denoiser, context: Context, level: Level) -> torch.Tensor:
    """What the network says to zeros at a level, given a context."""
    x = torch.zeros(len(context), *model.shape, dtype=torch.float64, device=model.device)
    with model.evaluating():
        return model.within(context)(x, level)


def ignored(roll: Roll) -> dict[str, str]:
    """An attribute that says so if the network's answer does not depend on its context."""
    setup, n = roll.setup, min(FEW, roll.setup.n)
    ids = np.arange(n)
    level = setup.model.schedule.level(len(setup.model.schedule) // 2)
    own, other = (
        first_context(setup.model, roll.sequences, ids, setup.run.seed, shift) for shift in (0, 1)
    )
    if n < 2 or torch.equal(own.frames, other.frames):
        return {}
    one, two = (_asked(setup.model, context, level) for context in (own, other))
    if not torch.equal(one, two):
        return {}
    sentence = ignores(setup.model)
    warnings.warn(f"{sentence}; check the call of the network", stacklevel=4)
    return {"context_ignored": sentence}


def ignores(model: Denoiser) -> str:
    return (
        f"{model.name} ignores its context: it answers alike to the contexts of different"
        " sequences, so that no frame depends on the one before"
    )
