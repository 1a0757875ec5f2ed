"""Drift: the error budget of a model that draws each frame from the frames that it drew before.

With S any statistic of frame k (`drift_sums`), exactly

    total_k = [free − forced] feedback
            + [forced − limit from noise] discretisation
            + [limit from noise − limit from α_T x_k + σ_T ε] initialisation
            + [that limit − data] score

where *free* frames follow the model's own frames, *forced* frames and the limits follow the true
ones. A limit is what the network draws with infinitely many steps (`drift_limit`), so that the
terms are those of `error_budget`, at the clean end, which is what is fed back. All cuts of a frame
read one Brownian path, and jackknife groups are sequences.

Feedback accuses nobody: whatever one frame's own error is, it grows. A free-running limit
(`free_limit`) splits feedback into what the score, initialisation and discretisation errors grow
to. An exact network with few steps drifts too (docs/findings/drift.md).

*The limit is extrapolated* from grids of N, N/2 and N/4 steps, p_N on half of the sequences (H):

    G∞ = (4 p_{N/2} − p_{N/4})/3 + [(32 p_N − 40 p_{N/2} + 8 p_{N/4})/21]_H,

which with p_N of all sequences is (32 p_N − 12 p_{N/2} + p_{N/4})/21. The initialisation error is
the difference of two limits on the grid of N/4, because the error of the grid is nearly the same in
both. D, the difference between the extrapolations from (N/2, N) and from (N/4, N/2), predicts the
error that is left; |D|/10 counts as part of the interval.
"""

import os
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.adapters import adapt
from exposure_bias.adapters.schedulers import sampler_for
from exposure_bias.autoregression import growth, terms
from exposure_bias.contexts import Context
from exposure_bias.data import Data
from exposure_bias.data.sequences import Sequences
from exposure_bias.denoisers import Denoiser, FractionalTimestep, probe
from exposure_bias.errors import InputError, printable, whole_number
from exposure_bias.experiments.drift_chains import FREE_LIMIT, LIMIT, OWN, RUNNING, Roll, add
from exposure_bias.experiments.drift_limit import Grid
from exposure_bias.experiments.drift_limit import grid as limit_grid
from exposure_bias.experiments.drift_sums import Layout, Totals
from exposure_bias.jackknife import (
    GROUPS,
    T_QUANTILE,
    Array,
    Estimate,
    jackknife,
    why_no_interval,
    with_interval,
)
from exposure_bias.paths import Draws
from exposure_bias.run import DataId, Run, Start
from exposure_bias.running.loop import SumsLedger, batches
from exposure_bias.running.setup import Setup, check_processes, clip_of, identities
from exposure_bias.samplers import named
from exposure_bias.schedules import Level
from exposure_bias.schedules import timestep_spacing as spacing_of
from exposure_bias.statistics.accumulator import Sums

STEPS, SAMPLES = 50, 512
FEW = 8  # sequences that a network is asked about before a run
SPREAD_OF = 256  # sequences that the data's largest spread is taken from
DIMS = ("statistic", "frame")


def drift_budget(
    model: Any,
    sequences: Any,
    *,
    sampler: Any = "ddpm",
    steps: int = STEPS,
    frames: int | None = None,
    free_limit: bool = False,
    stationary: bool = False,
    n: int | None = None,
    grid: str = "linspace",
    timestep_spacing: str | None = None,
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Split the drift of a model's own sequences into feedback, solver, start and network.

    Parameters
    ----------
    model
        A `Denoiser(…, context=p)`, which draws a frame from the p frames before it.
    sequences
        A `Sequences`, or what it is made of: true sequences of more than p frames. Their first p
        frames are the first context.
    sampler, steps, grid, timestep_spacing, clip, seed, batch_size, checkpoint
        The chain that draws a frame, as in `record`.
    frames
        How many frames are drawn, at most the sequences' length less p, which is the default.
    free_limit
        Whether the limit also runs on its own frames, which splits the feedback and about doubles
        the time.
    stationary
        Whether the data's law is the same at every frame, so that its statistics are means over
        frames.
    n
        How many sequences, by default all, at most 512. 256 or more give intervals.

    Returns
    -------
    xarray.Dataset
        Over (statistic, frame): total, feedback, discretisation, initialisation, score and own
        (forced − data: what one frame does without feedback), each with `_se`, `_low` and `_high`
        (95 %, NaN for fewer than 256 sequences); with `free_limit` also feedback_discretisation,
        feedback_initialisation and feedback_score; limit_error, the difference D of the module
        docstring. `variance`, `change` and `tails` are relative, `mean` is in standard deviations
        of the data, `lag` is a difference of correlations, `hf` and bands are in dB; zero is right
        for all. Frames count from 1, the first that is drawn.

    Raises
    ------
    InputError
        For a model without a context, sequences that are too short, a sampler or a grid that does
        not fit, and for whatever else `record` refuses.

    Notes
    -----
    It takes about 1.5 N + 8 + 2 T′ network calls for each frame and sequence, N = 84 on the linear
    schedule. Where a network answers NaN from some frame on, everything before it is kept, and the
    attribute `stopped` names the frame.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> model = eb.oracles.LinearAutoregression(0.9, eb.schedules.linear())
    >>> sequences = eb.Sequences(model.law.sample(256, 5))
    >>> drift = eb.drift_budget(model, sequences, sampler="ddim", steps=10)
    >>> bool((drift.feedback.sel(frame=1).dropna("statistic") == 0).all())
    True

    Source: docs/mathematics.md, "Drift of sequences".
    """
    denoiser, data = _checked_model(model), _checked_sequences(sequences)
    setup = _setup(
        denoiser,
        data.fitted(denoiser.shape),
        sampler=sampler,
        steps=steps,
        frames=frames,
        n=n,
        spacing=spacing_of(grid, timestep_spacing),
        clip=clip,
        seed=seed,
        batch_size=batch_size,
        free_limit=bool(free_limit),
    )
    roll = _roll(setup, data.fitted(denoiser.shape), bool(free_limit))
    notes = _ignored(roll)
    sums = roll.layout.sums()
    with batches(
        setup,
        SumsLedger(sums),
        size=batch_size,
        evaluations=roll.calls * roll.layout.frames,
        checkpoint=checkpoint,
    ) as turns:
        for turn in turns:
            add(roll, sums, turn.rows, turn)
    result = budget_of(roll, sums, stationary)
    result.attrs |= notes
    return result


def _checked_model(model: Any) -> Denoiser:
    denoiser = adapt(model)
    if denoiser.context is None:
        raise InputError(
            f"{denoiser.name} draws single states: give a model of sequences,"
            " Denoiser(net, …, context=p), or measure it with error_budget"
        )
    return denoiser


def _checked_sequences(sequences: Any) -> Sequences:
    return sequences if isinstance(sequences, Sequences) else Sequences(sequences)


def _setup(
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
) -> Setup:
    """Check what a user gave and make a `Setup` of it, whose samples are sequences."""
    n = min(len(data), SAMPLES) if n is None else whole_number(n, "n, the number of sequences,")
    frames = _frames(model, data, frames)
    seed = whole_number(seed, "a seed", -(2**63))
    whole_number(batch_size, "batch_size")
    if n > len(data):
        raise InputError(f"n is {n}, but there are {len(data)} sequences: give fewer")
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
        probe=probe(model.within(_context(model, data, np.array([0]), seed))),
        transitions=None if named(str(chosen)) else chosen.transition(levels),
        options=options | {"free_limit": free_limit, "limit": "nested trapezoid, half at N"},
    )
    first = Data(data.frame(np.arange(n), model.context or 0), data.name, value_range=None)
    return Setup(run, model, first, chosen, np.arange(len(levels)), n)


def _frames(model: Denoiser, data: Sequences, frames: int | None) -> int:
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


def _context(
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


def _roll(setup: Setup, data: Sequences, free_limit: bool) -> Roll:
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
    centre = _centre(data, setup.n, context, frames)
    return Roll(setup, data, layout, route, free_limit, centre)


def _centre(data: Sequences, n: int, context: int, frames: int) -> Array:
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
    """The limit's grid, None where the sampler has no known limit or the model is guided."""
    kind = setup.sampler.limit
    if kind is None or setup.run.steps < 2:
        return None
    first = setup.data.batch(np.arange(min(setup.n, SPREAD_OF))).reshape(
        -1, int(np.prod(data.shape))
    )
    spread = float(np.linalg.norm(first - first.mean(0), 2) / np.sqrt(len(first)))
    fractional = _takes_fractions(setup, data)
    return limit_grid(setup.model.schedule, setup.levels, kind, fractional, max(spread, 1e-3))


def _takes_fractions(setup: Setup, data: Sequences) -> bool:
    """Whether the network answers between whole timesteps; it is asked once."""
    schedule = setup.model.schedule
    if schedule.continuous or len(schedule) < 2:
        return schedule.continuous
    level = schedule.level(len(schedule) // 2 - 0.5)
    context = _context(setup.model, data, np.array([0]), setup.run.seed)
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


def _ignored(roll: Roll) -> dict[str, str]:
    """An attribute that says so if the network's answer does not depend on its context."""
    setup, n = roll.setup, min(FEW, roll.setup.n)
    ids = np.arange(n)
    level = setup.model.schedule.level(len(setup.model.schedule) // 2)
    own, other = (
        _context(setup.model, roll.sequences, ids, setup.run.seed, shift) for shift in (0, 1)
    )
    if n < 2 or torch.equal(own.frames, other.frames):
        return {}
    one, two = (_asked(setup.model, context, level) for context in (own, other))
    if not torch.equal(one, two):
        return {}
    sentence = (
        f"{setup.model.name} ignores its context: it answers alike to the contexts of different"
        " sequences, so that no frame depends on the one before"
    )
    warnings.warn(f"{sentence}; check the call of the network", stacklevel=3)
    return {"context_ignored": sentence}


def budget_of(roll: Roll, sums: Sums, stationary: bool) -> xr.Dataset:
    """The budget from the sums of all sequences."""
    layout, state = roll.layout, sums.state
    complete, stopped = _complete(roll, state)
    names = [name for name in state if name != "count"]
    arrays = [np.where(complete, state["count"], 0.0), *(state[name] for name in names)]

    def parts(_: float, *totals: Array) -> Array:
        found = Totals(layout, dict(zip(["count", *names], totals, strict=True)))
        return np.stack(list(budget_terms(found, roll, stationary).values()))

    every = Totals(layout, {"count": arrays[0].sum(0), **{k: state[k].sum(0) for k in names}})
    labels = list(budget_terms(every, roll, stationary))
    row = layout.cuts.index("data")
    count = state["count"][:, row, 0]
    estimate = jackknife(parts, count, *arrays)
    coords = {"statistic": layout.names, "frame": np.arange(1, layout.frames + 1)}
    result = xr.Dataset(coords=coords)
    beyond = estimate.value[labels.index("limit_error")] if "limit_error" in labels else None
    for k, label in enumerate(labels):
        value, error = estimate.value[k], estimate.error[k]
        if beyond is not None and label in ("discretisation", "score"):
            error = np.hypot(error, np.abs(beyond) / 10 / T_QUANTILE)
        result = with_interval(result, DIMS, **{label: Estimate(value, error)})
    result = result.drop_vars([v for v in result.data_vars if "_band_" in str(v)])
    result.attrs = roll.setup.attributes | _about(roll) | stopped | why_no_interval(count)
    return result


def budget_terms(found: Totals, roll: Roll, stationary: bool) -> dict[str, Array]:
    """Every term by name, (statistic, frame) each."""

    def of(cut: str) -> Array:
        return found.statistics(cut, stationary)

    free, forced = of("free"), of("forced")
    if roll.grid is None:
        unknown = np.full_like(free, np.nan)
        return terms(free, forced, unknown, unknown) | {"own": forced}
    noise, error = _extrapolated(of, "limit", "half")
    started = of("limit 4") - of("start 4")
    parts = terms(free, forced, noise, noise - started) | {"own": forced, "limit_error": error}
    if roll.free_limit:
        free_noise, _ = _extrapolated(of, "free", "free half")
        grown = of("free 4") - of("free start 4")
        parts |= growth(parts, free, free_noise, free_noise - grown)
    return parts


def _extrapolated(of: Any, name: str, half: str) -> tuple[Array, Array]:
    """G∞ and D (module docstring)."""
    four, two = of(f"{name} 4"), of(f"{name} 2")
    h4, h2, h1 = (of(f"{half} {factor}") for factor in (4, 2, 1))
    limit = (4 * two - four) / 3 + (32 * h1 - 40 * h2 + 8 * h4) / 21
    return limit, (4 * h1 - 5 * h2 + h4) / 3


def _complete(roll: Roll, state: Mapping[str, Array]) -> tuple[NDArray[np.bool_], dict[str, str]]:
    """Which cuts and frames all sequences have, (1, cut, frame), and where one stopped."""
    layout, ids = roll.layout, roll.setup.ids
    halves = ids[(ids // GROUPS) % 2 == 0]
    expected = np.array([len(halves) if "half" in cut else len(ids) for cut in layout.cuts])
    complete = state["count"].sum(0) == expected[:, None]
    said = {}
    for cut in ("free", "forced"):
        missing = np.flatnonzero(~complete[layout.cuts.index(cut)])
        if len(missing):
            said[f"stopped_{cut}"] = (
                f"the network returned NaN or infinity at frame {missing[0] + 1} of the {cut}"
                " frames; the frames before it are kept"
            )
    return complete[None], said


def _about(roll: Roll) -> dict[str, str]:
    """What was drawn, and by which limit, in words."""
    options = roll.setup.run.options
    said = {"frames": str(options["frames"]), "context": str(options["context"])}
    if options["chunk"] > 1:
        said["chunk"] = str(options["chunk"])
    if roll.grid is None:
        return said | {
            "limit": "unknown: the sampler has none, so that totals and feedback are all"
        }
    return said | {"limit": f"{roll.grid.kind.upper()} on {roll.grid.steps} steps of its own"}
