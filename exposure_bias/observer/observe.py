"""The public function: what was given, and which kind of loop it is."""

from collections.abc import Sequence
from typing import Any

import torch

from exposure_bias.adapters import adapt, diffusers
from exposure_bias.clipping import UNCLIPPED
from exposure_bias.data import load_data
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError, whole_number
from exposure_bias.observer.network_loop import NetworkLoop
from exposure_bias.observer.observation import Observation
from exposure_bias.observer.scheduler_loop import SchedulerLoop
from exposure_bias.running.setup import check_fit


def observe(
    *objects: Any, data: Any = None, model: Any = None, seed: int = 0, first: int = 0
) -> "Observation":
    """A context manager that records the chains of every loop that runs in it.

    `Observation.recording` has the result.

    objects: a diffusers pipeline, or (network, scheduler), or a scheduler with `model`: watched at
    `scheduler.step`.
    Or a `Denoiser`, or what `adapt` takes: its network is watched by a hook. data: the images that
    the chain should look like, `Data` or what `load_data` takes; without them there is a chain and
    nothing to compare it with.
    model: what `adapt` makes of the objects, where that takes more than them: a prompt's
    embeddings, a guidance scale.
    seed: of the forward stream's noise. first: the first sample's number, for recordings that are
    to be merged.

    Several batches in one `with` add up, if their levels are the same. Observers may be nested. A
    batch that is not finished when its loop stops or raises is left out; those before it are kept.
    On leaving, network, scheduler and pipeline are as they were.

    Raises InputError for objects that cannot be adapted or hooked, for data that do not fit, and,
    out of the loop, for states that are no images, for other levels than in the batch before, and
    for guidance that `model` does not have."""
    first = whole_number(first, "the first sample's number", 0)
    seed = whole_number(seed, "a seed", -(2**63))
    data = None if data is None else load_data(data)
    scheduler = next(
        (s for s in _parts(objects) if hasattr(s, "set_timesteps") and hasattr(s, "step")), None
    )
    networks = [part for part in _parts(objects) if isinstance(part, torch.nn.Module)]
    model = _model(objects, model, data is None and scheduler is not None)
    if data is not None:
        data = data.fitted(model.shape)
        model = model.fitted(data.shape)
        check_fit(model, data, 1, UNCLIPPED)
    if scheduler is not None:
        return SchedulerLoop(model, data, seed, first, scheduler, networks)
    return NetworkLoop(model, data, seed, first)


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
