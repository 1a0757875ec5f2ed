"""denoising-diffusion-pytorch: a diffusion that holds its network and what that predicts.

    GaussianDiffusion, LearnedGaussianDiffusion      betas, objective            images
    GaussianDiffusion1D                              betas, objective            signals (C, L)
    ContinuousTimeGaussianDiffusion                  log SNR(t), predicts ε      images
    VParamContinuousTimeGaussianDiffusion            log SNR(t), predicts v      images
    ElucidatedDiffusion                              EDM's preconditioning, x_0  images

They take data from [0, 1] to [−1, 1], where their networks work and where our data already lie. ᾱ
is the float64 product of the float32 betas; in continuous time α² = sigmoid(log SNR) and the label
is their t in [0, 1]. Their samplers are ours on these settings:

    p_sample_loop of T steps                  sampler="ddpm", steps=T, clip=True
    ddim_sample, T′ steps that divide T, η    sampler="ddim:η", steps=T′, grid="trailing", clip=True

Those of `ElucidatedDiffusion`, with its churn, and of continuous time are watched by `eb.observe`.

Source: the public attributes of these classes in lucidrains/denoising-diffusion-pytorch."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exposure_bias.adapters.unwrap import unwrapped
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.files.library import class_among
from exposure_bias.schedules import Schedule, continuous, edm, from_alphas_cumprod

OBJECTIVES = {"pred_noise": "epsilon", "pred_x0": "sample", "pred_v": "v_prediction"}
CONTINUOUS = {
    "ContinuousTimeGaussianDiffusion": "epsilon",
    "VParamContinuousTimeGaussianDiffusion": "v_prediction",
}
# What `adapt` reads of each.
DISCRETE = ("betas", "objective", "channels", "model")
ELUCIDATED = ("net", "sigma_min", "sigma_max", "c_skip", "c_out", "c_in", "c_noise", "channels")
TIMED = ("log_snr", "model", "image_size", "channels")


def recognises(value: Any) -> bool:
    """Whether an object is of this library, or has all that `adapt` reads."""
    return type(value).__module__.startswith("denoising_diffusion_pytorch.") or any(
        _has(value, names) for names in (DISCRETE, ELUCIDATED, TIMED)
    )


def adapt(*objects: Any) -> Denoiser:
    """A Denoiser of one diffusion; of a Trainer's average give `trainer.ema.ema_model`.

    Noise other than white (offset, immiscible) and self-conditioning are `laws.check`'s business.

    Raises InputError for anything else of the library, and for weighted or unknown objectives.
    """
    if len(objects) == 1:
        diffusion = objects[0]
        if _has(diffusion, ELUCIDATED):
            return _elucidated(diffusion)
        if _has(diffusion, TIMED):
            return _in_continuous_time(diffusion)
        if _has(diffusion, DISCRETE) and _shape(diffusion):
            return _discrete(diffusion)
    came = ", ".join(type(o).__name__ for o in objects)
    raise InputError(
        "of denoising-diffusion-pytorch one diffusion is supported, which holds network and noise"
        f" schedule, got {came}: of a Trainer give trainer.ema.ema_model; of others say what they"
        " leave implicit with Denoiser(net, schedule=, prediction_type=, shape=)"
    )


def _has(value: Any, names: tuple[str, ...]) -> bool:
    return all(hasattr(value, name) for name in names)


def _shape(diffusion: Any) -> tuple[int, ...]:
    """The shape of a state, () where it is none of images or signals."""
    if hasattr(diffusion, "seq_length"):
        return diffusion.channels, diffusion.seq_length
    size = getattr(diffusion, "image_size", ())
    return (diffusion.channels, *((size, size) if isinstance(size, int) else size)) if size else ()


def _discrete(diffusion: Any) -> Denoiser:
    net = unwrapped(diffusion.model)
    learned = class_among(diffusion, ("LearnedGaussianDiffusion",)) is not None
    _refuse_unlike(diffusion, learned)
    if hasattr(diffusion, "normalize") and diffusion.normalize(0.0) == 0.0:
        warnings.warn(
            "this diffusion was made with auto_normalize=False: give data in the range it was"
            " trained on, load_data(..., value_range=None) where that is not [-1, 1]",
            stacklevel=3,
        )
    embedding = getattr(net, "classes_emb", None)
    call: Callable[..., Tensor] | None = None if embedding is None else _call_with_class
    if not getattr(diffusion, "channel_first", True):
        call = _call_channels_last
    return Denoiser(
        net,
        schedule=from_alphas_cumprod(
            np.cumprod(1 - diffusion.betas.double().cpu().numpy()), type(diffusion).__name__
        ),
        prediction_type=OBJECTIVES[diffusion.objective],
        shape=_shape(diffusion),
        call=call,
        learned_variance=learned,
        classes=None if embedding is None else embedding.num_embeddings,
    )


def _call_with_class(net: Any, x: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
    output: Tensor = net(x, timestep, labels, cond_drop_prob=0.0)
    return output


def _call_channels_last(net: Any, x: Tensor, timestep: Tensor) -> Tensor:
    output: Tensor = net(x.transpose(1, 2), timestep)
    return output.transpose(1, 2)


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


def _elucidated(diffusion: Any) -> Denoiser:
    def call(net: Any, x: Tensor, sigma: Tensor) -> Tensor:
        each = sigma.view(-1, 1, 1, 1)
        raw = net(diffusion.c_in(each) * x, diffusion.c_noise(sigma))
        output: Tensor = diffusion.c_skip(each) * x + diffusion.c_out(each) * raw
        return output

    return Denoiser(
        unwrapped(diffusion.net),
        schedule=edm(diffusion.sigma_min, diffusion.sigma_max),
        prediction_type="sample",
        shape=_shape(diffusion),
        call=call,
    )


def _in_continuous_time(diffusion: Any) -> Denoiser:
    kind = class_among(diffusion, tuple(CONTINUOUS))
    if kind is None:
        raise InputError(
            f"what the network of {type(diffusion).__name__} predicts is not known: allowed are"
            f" {', '.join(CONTINUOUS)}"
        )
    return Denoiser(
        unwrapped(diffusion.model),
        schedule=_of_log_snr(diffusion, type(diffusion).__name__),
        prediction_type=CONTINUOUS[kind],
        shape=_shape(diffusion),
        call=lambda net, x, t: net(x, diffusion.log_snr(t.to(x.dtype))),
    )


def _of_log_snr(diffusion: Any, name: str) -> Schedule:
    """α² = sigmoid(log SNR(t)) for t in [0, 1].

    log SNR is computed in the network's own precision, as it is told it: at t = 1 the cosine's
    differs between float32 and float64 by a factor of 10¹⁷.
    """
    like = next(diffusion.model.parameters())

    @torch.no_grad()
    def log_alpha(t: float) -> float:
        log_snr = diffusion.log_snr(torch.tensor(t, dtype=like.dtype, device=like.device))
        return -0.5 * float(torch.nn.functional.softplus(-log_snr.double()))

    return continuous(log_alpha, 0.0, 1.0, name=name)
