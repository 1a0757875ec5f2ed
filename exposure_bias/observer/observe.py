"""The public function: what was given, and which kind of loop it is."""

from collections.abc import Sequence
from typing import Any

import torch

from exposure_bias.adapters import adapt, diffusers
from exposure_bias.clipping import UNCLIPPED
from exposure_bias.data import load_data
from exposure_bias.data.sequences import Sequences
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError, whole_number
from exposure_bias.observer.network_loop import NetworkLoop
from exposure_bias.observer.observation import Observation, frame_of
from exposure_bias.observer.scheduler_loop import SchedulerLoop
from exposure_bias.running.setup import check_fit


def observe(
    *objects: Any, data: Any = None, model: Any = None, seed: int = 0, first: int = 0
) -> "Observation":
    """Record the chains of every loop that runs in a `with` block.

    Several batches in one `with` add up, if their levels are the same. Observers may be nested. A
    batch that is not finished when its loop stops or raises is left out; those before it are kept.
    On leaving, network, scheduler and pipeline are as they were. What cannot be recorded of a loop
    is told in a warning and by `recording`; the loop goes on.

    Parameters
    ----------
    *objects : object
        A diffusers pipeline, or a network and its scheduler, or a scheduler with `model`: watched
        at `scheduler.step`. Or a `Denoiser`, or what `adapt` takes: its network is watched by a
        hook.
    data : object
        The images that the chain should look like, `Data` or what `load_data` takes. Without them
        there is a chain and nothing to compare it with. `Sequences` for loops whose frames are
        marked by `frame(x)`: frame k looks like theirs, after as many frames as the model takes.
    model : object
        What `adapt` makes of the objects, where that takes more than them: a prompt's embeddings, a
        guidance scale.
    seed : int
        Of the forward stream's noise.
    first : int
        The first sample's number, for recordings that are to be merged.

    Returns
    -------
    Observation
        A context manager. Its `recording()` has the result, `begin()` marks a batch, `finish(x0)`
        gives a batch's last state, `frame(x)` marks a frame of a roll-out.

    Raises
    ------
    InputError
        For objects that cannot be adapted or hooked, a scheduler that is not supported, and data
        that do not fit.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> from diffusers import DDIMPipeline, DDIMScheduler
    >>> unet = eb.load_model("digits").net
    >>> pipeline = DDIMPipeline(unet, DDIMScheduler(clip_sample=False))
    >>> pipeline.set_progress_bar_config(disable=True)
    >>> with eb.observe(pipeline, data="digits") as chain:
    ...     images = pipeline(batch_size=16, num_inference_steps=5, output_type="np").images
    >>> chain.recording().run.steps
    5
    """
    first = whole_number(first, "the first sample's number", 0)
    seed = whole_number(seed, "a seed", -(2**63))
    sequences = data if isinstance(data, Sequences) else None
    if sequences is None:
        data = None if data is None else load_data(data)
    scheduler = next(
        (s for s in _parts(objects) if hasattr(s, "set_timesteps") and hasattr(s, "step")), None
    )
    networks = [part for part in _parts(objects) if isinstance(part, torch.nn.Module)]
    model = _model(objects, model, data is None and scheduler is not None)
    if sequences is not None:
        sequences = sequences.fitted(model.shape)
        data = frame_of(sequences, _first_frame(model, sequences))
    elif model.context is not None and data is not None:
        raise InputError(
            f"{model.name} draws a frame from those before it: give data=Sequences(…), and call"
            " frame(x) after each frame"
        )
    if data is not None:
        data = data.fitted(model.shape)
        model = model.fitted(data.shape)
        check_fit(model, data, 1, UNCLIPPED)
    if scheduler is not None:
        return SchedulerLoop(model, data, seed, first, scheduler, networks, sequences)
    return NetworkLoop(model, data, seed, first, sequences)


def _first_frame(model: Denoiser, sequences: Sequences) -> int:
    """The place of the first frame that is drawn."""
    context = model.context or 0
    if context >= sequences.length:
        raise InputError(
            f"sequences of {sequences.length} frames leave nothing to draw after a context of"
            f" {context}: give longer ones"
        )
    return context


def _parts(objects: Sequence[Any]) -> list[Any]:
    """The objects themselves, and of pipelines what denoises."""
    parts = []
    for o in objects:
        inside = [getattr(o, name, None) for name in ("unet", "transformer", "scheduler")]
        parts += [part for part in inside if part is not None] if hasattr(o, "components") else [o]
    return parts


def _model(objects: Sequence[Any], model: Any, only_read: bool) -> Denoiser:
    """What the states and outputs mean.

    only_read: the network will not be called, so that no prompt is needed.
    """
    if model is not None:
        return adapt(model)
    try:
        return diffusers.outline(*objects) if only_read else adapt(*objects)
    except InputError as error:
        raise InputError(
            f"{error}; or observe(…, model=eb.adapt(…)) with what the loop is called with"
        ) from error
