"""guided-diffusion's own objects: (model, diffusion).

Its family's are alike: improved-diffusion, DDPM-IP, ADM-ES.

The diffusion is read for its float64 betas, for what the model predicts and for the labels that the
model sees; the chain is ours. A respaced diffusion knows T′ of T levels: with τ its `timestep_map`,
level i has ᾱ_i = Π_{j≤i} (1 − β_j) of its own betas and the label τ_i, times 1000/T with
`rescale_timesteps`.

Sources: Nichol & Dhariwal 2021 (arXiv 2102.09672, §4) and the public attributes of
`GaussianDiffusion` and `SpacedDiffusion` in openai/guided-diffusion."""

import inspect
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.schedules import from_alphas_cumprod

MEAN_TYPES = {"EPSILON": "epsilon", "START_X": "sample"}
VARIANCE_TYPES = ("FIXED_SMALL", "FIXED_LARGE", "LEARNED_RANGE")


def is_diffusion(value: Any) -> bool:
    """Whether an object is a diffusion of this family, by its attributes.

    A `GaussianDiffusion` or `SpacedDiffusion`."""
    return all(hasattr(value, name) for name in ("betas", "model_mean_type", "model_var_type"))


def adapt(*objects: Any) -> Denoiser:
    """A Denoiser of (model, diffusion).

    A model that does not know its image size comes as (model, diffusion, shape).

    The model's variance type is not the chain's: name it, `ddpm` for FIXED_SMALL,
    `ddpm:fixed_large`, `ddpm:learned_range`. guided-diffusion clips x̂_0 by default: clip=True.

    Raises InputError for a model without its diffusion or size, for mean and variance types that
    cannot be converted, for ADM-ES's own scaling of ε̂ and for super-resolution networks."""
    diffusions = [o for o in objects if is_diffusion(o)]
    models = [o for o in objects if hasattr(o, "parameters")]
    shapes = [o for o in objects if isinstance(o, tuple)]
    if (
        len(diffusions) != 1
        or len(models) != 1
        or len(diffusions + models + shapes) != len(objects)
        or len(shapes) > 1
    ):
        came = ", ".join(type(o).__name__ for o in objects)
        raise InputError(
            f"give adapt(model, diffusion) or adapt(model, diffusion, (C, H, W)), got {came}"
        )
    model, diffusion = models[0], diffusions[0]
    _refuse_unlike(model, diffusion)
    classes = getattr(model, "num_classes", None)
    return Denoiser(
        model,
        schedule=from_alphas_cumprod(
            np.cumprod(1 - np.asarray(diffusion.betas, dtype=np.float64)),
            type(diffusion).__name__,
            _labels(diffusion),
        ),
        prediction_type=MEAN_TYPES[diffusion.model_mean_type.name],
        shape=shapes[0] if shapes else _shape(model),
        learned_variance=diffusion.model_var_type.name == "LEARNED_RANGE",
        classes=classes,
    )


def rescaled(timesteps: ArrayLike, total: int) -> NDArray[np.float64]:
    """Timesteps out of `total` as a network trained with `rescale_timesteps` sees them.

    Times 1000/T, in float32."""
    return (np.asarray(timesteps, dtype=np.float32) * np.float32(1000 / total)).astype(np.float64)


def _labels(diffusion: Any) -> NDArray[np.float64]:
    timesteps = getattr(diffusion, "timestep_map", range(len(diffusion.betas)))
    if getattr(diffusion, "rescale_timesteps", False):
        return rescaled(timesteps, getattr(diffusion, "original_num_steps", len(diffusion.betas)))
    return np.array(timesteps, dtype=np.float64)


def _shape(model: Any) -> tuple[int, int, int]:
    channels, size = getattr(model, "in_channels", None), getattr(model, "image_size", None)
    if channels is None or size is None:
        raise InputError(
            f"{type(model).__name__} does not say its image size: give it, as in adapt(model,"
            " diffusion, (3, 32, 32))"
        )
    return (channels, size, size)


def _refuse_unlike(model: Any, diffusion: Any) -> None:
    mean, variance = diffusion.model_mean_type.name, diffusion.model_var_type.name
    if mean not in MEAN_TYPES:
        raise InputError(
            f"model_mean_type {mean} is not supported, because x_(t-1) determines x_0 on the"
            f" training's own grid only: allowed are {', '.join(MEAN_TYPES)}"
        )
    if variance not in VARIANCE_TYPES:
        raise InputError(
            f"model_var_type {variance} is not supported, because that variance holds on the"
            f" training's own grid only: allowed are {', '.join(VARIANCE_TYPES)}"
        )
    scales = {float(s) for s in getattr(diffusion, "sampling_scaler", ())}
    if scales - {1.0}:
        raise InputError(
            "this diffusion divides the model's output by"
            f" {', '.join(f'{s:g}' for s in sorted(scales))} (ADM-ES): make it with eps_scaler=1,"
            " and scale the adapted model with eb.remedies.epsilon_scaled"
        )
    if "low_res" in inspect.signature(model.forward).parameters:
        raise InputError(
            f"{type(model).__name__} enlarges a given image: cascades are not supported, because"
            " exposure bias also enters through the image that the first network made"
        )
