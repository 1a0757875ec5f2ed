"""A model by name and data, made to fit each other: what a command line is given.

A latent model's images are encoded by the pipeline's own autoencoder, and a text-conditional
model's prompts by its own encoders, each once. The data's labels then choose the prompts."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from exposure_bias import strangers
from exposure_bias.adapters import adapt, latents, load_model, pipelines, place_of
from exposure_bias.adapters.hub import Downloads
from exposure_bias.data import Data
from exposure_bias.data.prompts import distinct
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.states import described


def open_pair(
    place: str | os.PathLike[str],
    data: Data,
    *,
    preset: str | None = None,
    prompts: Sequence[str] | None = None,
    negative_prompt: str | None = None,
    guidance_scale: float | None = None,
    encoded: Path | None = None,
    device: Any = None,
) -> tuple[Denoiser, Data]:
    """Load a model, and make data of its kind of the images.

    Parameters
    ----------
    place
        What `load_model` takes.
    data
        Images, or states that the model works on already.
    prompts
        One for all images, or one for each.
    encoded
        A file in which the encoders' output is kept.
    device
        Where images are encoded.

    Returns
    -------
    Denoiser, Data
        The data are latents where the model works on those, and their labels are the numbers of the
        prompts where there are several.

    Raises
    ------
    InputError
        As `load_model` and `adapt`; where prompts are neither one nor as many as images; and where
        the model works on latents, but the images cannot be encoded to such."""
    if prompts is not None and len(prompts) not in (1, len(data)):
        raise InputError(
            f"{len(prompts)} prompts were given for the {len(data)} images of {data.name}: give one"
            " for all of them, or one for each"
        )
    texts, index = distinct(prompts or [""], len(data))
    given: dict[str, Any] = {
        "prompts": None if prompts is None else texts,
        "negative_prompt": negative_prompt,
        "guidance_scale": guidance_scale,
    }
    options = {key: value for key, value in given.items() if value is not None}
    if options and preset is not None:
        raise InputError(
            f"a preset and {next(iter(options))} are never for one model: leave one out"
        )
    if "prompts" in options:
        options["encoded"] = encoded
    model = adapt(place, **options) if options else load_model(place, preset)
    data = _as_states(place, model, data, device)
    return model, data if len(texts) == 1 else replace(data, labels=index)


def _as_states(place: str | os.PathLike[str], model: Denoiser, data: Data, device: Any) -> Data:
    """The data as they are if the model works on them; else their latents."""
    data = data.fitted(model.shape)
    fits = model.fitted(data.shape).shape == data.shape
    repository = None if fits or strangers.is_name(place) else _repository(place)
    if repository is None or data.shape[0] not in (1, 3) or model.shape[0] in (1, 3):
        return data  # as they are: what does not fit is said where a run begins
    vae = pipelines.autoencoder(repository)
    if device is not None:
        vae.to(device)
    first = latents.encode(vae, replace(data, images=data.images[:1], labels=None))
    if model.fitted(first.shape).shape != first.shape:
        raise InputError(_misfit(model, data, first, latents.factors(vae).get("spatial", 8)))
    return latents.encode(vae, data, sample=latents.has_posterior(vae), keep=True)


def _misfit(model: Denoiser, data: Data, first: Data, factor: int) -> str:
    """What to say of images whose latents the model does not work on."""
    made = (
        f"the autoencoder makes of {data.name}, {described(data.shape)}, {described(first.shape)}"
    )
    wanted = f"but the model works on {described(model.shape)}"
    if len(first.shape) == len(model.shape) and first.shape[0] == model.shape[0]:
        sides = " x ".join(str(factor * side) for side in np.flip(model.shape[-2:]))
        return f"{made}, {wanted}: give images of {sides} pixels, or a model of another size"
    return f"{made}, {wanted}: it is another model's autoencoder"


def _repository(place: str | os.PathLike[str]) -> pipelines.Repository | None:
    """The files of a pipeline; None for a checkpoint in one file."""
    found = place_of(place)
    if isinstance(found, Downloads):
        return found.repository
    return pipelines.local(found) if found.is_dir() else None
