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
error that is left; |D|/10 counts as part of the interval, and so does 6 % of the initialisation
error.
"""

import os
import warnings
from typing import Any

import numpy as np
import torch
import xarray as xr

from exposure_bias import schedules
from exposure_bias.data import Data
from exposure_bias.data.sequences import Sequences
from exposure_bias.denoisers import PROBED, ROUND_OFF, Denoiser
from exposure_bias.errors import InputError, printable, whole_number
from exposure_bias.experiments.drift_chains import (
    NOISE,
    OWN,
    Function,
    Roll,
    add,
    drawn_by,
    seed_of,
)
from exposure_bias.experiments.drift_result import budget_of
from exposure_bias.experiments.drift_setup import (
    centre_of,
    checked_model,
    checked_sequences,
    count_of,
    first_context,
    frames_of,
    ignored,
    ignores,
    prepared,
    roll_of,
)
from exposure_bias.experiments.drift_sums import Layout
from exposure_bias.experiments.kinds.drift import DRIFT, DRIFT_BUDGET
from exposure_bias.jackknife import (
    GROUPS,
)
from exposure_bias.results import returns
from exposure_bias.run import DataId, Probe, Run, Start
from exposure_bias.running.loop import SumsLedger, batches
from exposure_bias.running.setup import Setup, check_processes, identities
from exposure_bias.samplers import DDPM
from exposure_bias.schedules import Level
from exposure_bias.schedules import timestep_spacing as spacing_of
from exposure_bias.statistics.accumulator import Sums

STEPS = 50


@returns(DRIFT_BUDGET)
def drift_budget(
    model: Any,
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
    start
        What a chain begins at: "noise"; or "one call", which asks the network once more and begins
        at σ z + α f(σ z), f its prediction of the frame. So does the limit.
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
        feedback_initialisation, feedback_score and total_limit, the drift with infinitely many
        steps; limit_error, the difference D of the module
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
    denoiser, data = checked_model(model), checked_sequences(sequences)
    setup = prepared(
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
        start=start,
    )
    roll = roll_of(setup, data.fitted(denoiser.shape), bool(free_limit))
    return _drawn(roll, stationary, batch_size, checkpoint, ignored(roll))


@returns(DRIFT)
def drift(
    next_frame: Function,
    sequences: Any,
    *,
    context: int = 1,
    frames: int | None = None,
    stationary: bool = False,
    n: int | None = None,
    seed: int = 0,
    batch_size: int = GROUPS,
    device: torch.device | str | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Measure the drift of any code that draws a frame from the frames before it.

    Parameters
    ----------
    next_frame
        A function (c, seed) -> frames (B, *shape). c is a `contexts.Context`: c.frames
        (B, p, *shape) float64, the oldest first, c["action"], c.index. seed is a whole number below
        2^31 that belongs to the frame and to these sequences: all that is random has to follow from
        it, so that two calls give one answer.
    sequences
        A `Sequences`, or what it is made of. The first p frames are the first context.
    context
        p, how many frames next_frame is given.
    frames, stationary, n, seed, checkpoint
        As in `drift_budget`.
    batch_size
        How many sequences next_frame draws at once. It is always given the same ones together, so
        that this is part of the run.
    device
        Where c's tensors are, by default the CPU.

    Returns
    -------
    xarray.Dataset
        Over (statistic, frame): total (free-running less the data), feedback (free-running less
        forced) and own (forced less the data), each with `_se`, `_low` and `_high`; statistics as
        in `drift_budget`. There is no further split: a function has no steps that could be made
        smaller, and a network that was distilled to few steps has no limit.

    Raises
    ------
    InputError
        For sequences that are too short, and for a function that returns anything but frames.

    Examples
    --------
    >>> import numpy as np
    >>> import exposure_bias as eb
    >>> def next_frame(c, seed):
    ...     noise = np.random.default_rng(seed).normal(size=c.frames[:, -1].shape)
    ...     return 0.8 * c.frames[:, -1].numpy() + 0.3 * noise
    >>> frames = eb.autoregression.Autoregression.of(0.9).sample(256, 4)
    >>> measured = eb.drift(next_frame, frames)
    >>> float(measured.feedback.sel(statistic="variance", frame=1))
    0.0

    Source: docs/mathematics.md, "Drift of sequences".
    """
    if not callable(next_frame):
        raise InputError(f"next_frame is a function (c, seed) -> frames, got {next_frame!r:.60}")
    data = checked_sequences(sequences)
    model = Denoiser(
        next_frame,
        schedule=schedules.edm(),
        prediction_type="sample",
        shape=data.shape,
        context=context,
        device=None if isinstance(next_frame, torch.nn.Module) else device,
    )
    roll, notes = _function_roll(model, data, frames, n, seed, batch_size)
    return _drawn(roll, stationary, 1, checkpoint, notes)


def _function_roll(
    model: Denoiser, data: Sequences, frames: int | None, n: int | None, seed: int, block: int
) -> tuple[Roll, dict[str, str]]:
    """Which frames a function draws. The samples of its setup are blocks of sequences."""
    count = count_of(data, n)
    block = min(whole_number(block, "batch_size"), count)
    seed = whole_number(seed, "a seed", -(2**63))
    frames = frames_of(model, data, frames)
    blocks = -(-count // block)
    check_processes(blocks)
    levels = (Level(1.0, 0.0, 1.0), model.schedule.clean)
    asked, notes = _asked_of(model, data, block, seed)
    known = identities(model, None) | {"data": DataId(printable(data.name), None, data.hash, count)}
    run = Run(
        **known,
        levels=levels,
        sampler="next_frame",
        kind="drift",
        start=Start.NOISE,
        seed=seed,
        probe=asked,
        options={
            "frames": frames,
            "context": model.context,
            "chunk": data.chunk,
            "block": block,
        },
    )
    first = Data(data.frame(np.arange(count), model.context or 0), data.name, value_range=None)
    setup = Setup(run, model, first, DDPM(), np.arange(2), blocks)
    context = model.context or 1
    layout = Layout.of(OWN, ("free",), frames, context, model.shape, seed)
    centre = centre_of(data, count, context, frames)
    return Roll(setup, data, layout, None, False, centre, model.net, block, count), notes


def _asked_of(
    model: Denoiser, data: Sequences, block: int, seed: int
) -> tuple[Probe, dict[str, str]]:
    """What a function answers to one context, and what is to be said of its answers."""
    ids, index = np.arange(block), model.context or 0

    def answer(shift: int) -> torch.Tensor:
        context = first_context(model, data, ids, seed, shift)
        return drawn_by(model.net, context, seed_of(seed, index, 0), model.shape)

    with model.evaluating():
        one, two = answer(0), answer(0)
        other = answer(1) if block > 1 else None
    flat = one.flatten()
    places = torch.linspace(0, len(flat) - 1, min(PROBED, len(flat))).long()
    asked = Probe(tuple(float(f"{v:.6g}") for v in flat[places].tolist()), ROUND_OFF)
    notes = {}
    if not torch.equal(one, two):
        notes["unseeded"] = (
            f"{model.name} draws other frames when it is called again with the same seed, so that"
            " intervals are wider than they need to be, and a run that is resumed differs"
        )
    elif other is not None and torch.equal(one, other):
        notes["context_ignored"] = ignores(model)
    for sentence in notes.values():
        warnings.warn(sentence, stacklevel=5)
    return asked, notes


def summed(roll: Roll, size: int, checkpoint: str | os.PathLike[str] | None) -> Sums:
    """The sums of all frames of a roll, which goes on from a checkpoint."""
    sums = roll.layout.sums()
    evaluations = roll.calls * roll.layout.frames
    with batches(
        roll.setup, SumsLedger(sums), size=size, evaluations=evaluations, checkpoint=checkpoint
    ) as turns:
        for turn in turns:
            add(roll, sums, turn.rows, turn)
    return sums


def _drawn(
    roll: Roll,
    stationary: bool,
    size: int,
    checkpoint: str | os.PathLike[str] | None,
    notes: dict[str, str],
) -> xr.Dataset:
    """Draw all frames of a roll, and the result."""
    sums = summed(roll, size, checkpoint)
    result = budget_of(roll, sums, stationary)
    result.attrs |= notes
    return result
