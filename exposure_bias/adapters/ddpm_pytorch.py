"""denoising-diffusion-pytorch: a `GaussianDiffusion`.

It holds its network, its betas and what the network predicts.

Its `normalize` takes images from [0, 1] to [−1, 1], where the network works and where our data
already lie. ᾱ is the float64 product of the float32 betas. Its samplers are ours on these settings:

    p_sample_loop                             sampler="ddpm", steps=T, clip=True
    ddim_sample, T′ steps that divide T, η    sampler="ddim:η", steps=T′, grid="trailing", clip=True

Source: the public attributes of `GaussianDiffusion`, `LearnedGaussianDiffusion` and the
class-conditional `classifier_free_guidance` in lucidrains/denoising-diffusion-pytorch."""

import warnings
from typing import Any

import numpy as np
from torch import Tensor

from exposure_bias.adapters.unwrap import unwrapped
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.files.library import class_among
from exposure_bias.schedules import from_alphas_cumprod

OBJECTIVES = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}
READ = ("betas", "objective", "image_size", "channels", "model")


def recognises(value: Any) -> bool:
    """Whether an object is of this library, or has all that `adapt` reads."""
    return type(value).__module__.startswith("denoising_diffusion_pytorch.") or all(
        hasattr(value, n) for n in READ
    )


def adapt(*objects: Any) -> Denoiser:
    """A Denoiser of one `GaussianDiffusion`; of a Trainer's average give `trainer.ema.ema_model`.

    Noise other than white (offset, immiscible) and self-conditioning are `laws.check`'s business.

    Raises InputError for anything else of the library, and for weighted or unknown objectives.
    """
    if len(objects) != 1 or not all(hasattr(objects[0], name) for name in READ):
        came = ", ".join(type(o).__name__ for o in objects)
        raise InputError(
            "of denoising-diffusion-pytorch one GaussianDiffusion for images is supported, which"
            f" holds network and betas, got {came}: of a Trainer give trainer.ema.ema_model; of"
            " others say what they leave implicit with Denoiser(net, schedule=, prediction_type=,"
            " shape=)"
        )
    diffusion = objects[0]
    net, learned = (
        unwrapped(diffusion.model),
        class_among(diffusion, ("LearnedGaussianDiffusion",)) is not None,
    )
    _refuse_unlike(diffusion, learned)
    if hasattr(diffusion, "normalize") and diffusion.normalize(0.0) == 0.0:
        warnings.warn(
            "this diffusion was made with auto_normalize=False: give data in the range it was"
            " trained on, load_data(..., value_range=None) where that is not [-1, 1]",
            stacklevel=2,
        )
    size = diffusion.image_size
    height, width = (size, size) if isinstance(size, int) else size
    embedding = getattr(net, "classes_emb", None)
    return Denoiser(
        net,
        schedule=from_alphas_cumprod(
            np.cumprod(1 - diffusion.betas.double().cpu().numpy()), "GaussianDiffusion"
        ),
        prediction_type=OBJECTIVES[diffusion.objective],
        shape=(diffusion.channels, height, width),
        call=None if embedding is None else _call_with_class,
        learned_variance=learned,
        classes=None if embedding is None else embedding.num_embeddings,
    )


def _call_with_class(net: Any, x: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
    output: Tensor = net(x, timestep, labels, cond_drop_prob=0.0)
    return output


def _refuse_unlike(diffusion: Any, learned: bool) -> None:
    if class_among(diffusion, ("WeightedObjectiveGaussianDiffusion",)):
        raise InputError(
            "WeightedObjectiveGaussianDiffusion is not supported: its output mixes two predictions"
        )
    allowed = ("pred_noise",) if learned else tuple(OBJECTIVES)
    if diffusion.objective not in allowed:
        raise InputError(
            f"{type(diffusion).__name__} has objective {diffusion.objective!r}: allowed are"
            f" {', '.join(allowed)}"
        )
