"""k-diffusion: the wrappers of `external.py` and `layers.Denoiser`.

They are called as (x, σ) and return x̂_0.

    q(x_σ | x_0) = N(x_0, σ² I)

A wrapper of a discrete model carries its σ = √((1 − ᾱ)/ᾱ), and those are the schedule's points, so
that "linspace" is even in the model's timesteps. `layers.Denoiser` and `VDenoiser` carry none: the
range is in the configuration file. `sample_euler` and `sample_heun` on `get_sigmas_karras` are
`sampler="euler"` and `"heun"` with `grid="karras"`.

Source: the public attributes of the wrappers in crowsonkb/k-diffusion.
"""

from typing import Any

import numpy as np

from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.schedules import Schedule, edm


def recognises(value: Any) -> bool:
    """Whether an object is a wrapper of this library, by its attributes."""
    return hasattr(value, "inner_model") and hasattr(value, "get_scalings")


def adapt(*objects: Any) -> Denoiser:
    """A Denoiser of (wrapper, (C, H, W)).

    A wrapper without `sigmas` comes as (wrapper, schedule, (C, H, W)).

    Raises InputError for a missing part, for a schedule that would replace the wrapper's own, and
    for text-conditional models."""
    wrappers = [o for o in objects if recognises(o)]
    schedules = [o for o in objects if isinstance(o, Schedule)]
    shapes = [o for o in objects if isinstance(o, tuple)]
    if not (
        len(wrappers) == len(shapes) == 1
        and len(schedules) <= 1
        and len(objects) == 2 + len(schedules)
    ):
        came = ", ".join(type(o).__name__ for o in objects)
        raise InputError(
            "a k-diffusion wrapper needs its images' shape: give adapt(wrapper, (C, H, W)), got"
            f" {came}"
        )
    wrapper = wrappers[0]
    kind = type(wrapper).__name__
    if hasattr(wrapper, "sigmas") == bool(schedules):
        needs = (
            f"{kind} knows its noise levels: leave the schedule out"
            if schedules
            else (
                f"{kind} does not know its noise levels: give them, as in adapt(wrapper, "
                "eb.schedules.edm(sigma_min, sigma_max), (C, H, W))"
            )
        )
        raise InputError(needs)
    if schedules and schedules[0].parameterisation != "edm":
        raise InputError(
            f"k-diffusion's states are x_0 + σ ε: give eb.schedules.edm, not {schedules[0].name}"
        )
    latent_diffusion = kind.startswith("CompVis")
    if (
        latent_diffusion
        and getattr(getattr(wrapper.inner_model, "model", None), "conditioning_key", None)
        is not None
    ):
        raise InputError(
            f"this {kind} is conditional, and no embedding comes with it: give Denoiser a function"
            " (x, sigma) that calls it with one, schedule=eb.schedules.edm(...),"
            ' prediction_type="sample"'
        )
    return Denoiser(
        wrapper,
        schedule=schedules[0] if schedules else _own(wrapper),
        prediction_type="sample",
        shape=shapes[0],
        call=(lambda net, x, sigma: net(x, sigma, cond=None)) if latent_diffusion else None,
        name=f"{kind}({type(wrapper.inner_model).__name__})",
    )


def _own(wrapper: Any) -> Schedule:
    sigma = np.asarray(getattr(wrapper.sigmas, "cpu", lambda: wrapper.sigmas)(), dtype=np.float64)
    if (
        sigma.ndim != 1
        or not len(sigma)
        or not (np.diff(sigma, prepend=0) > 0).all()
        or not np.isfinite(sigma).all()
    ):
        raise InputError(
            f"the sigmas of this {type(wrapper).__name__} are no increasing positive numbers (T,):"
            " give a schedule by hand, eb.Denoiser(wrapper, schedule=eb.schedules.edm(...),"
            " prediction_type='sample', shape=)"
        )
    return Schedule("edm", "edm", sigma, np.ones_like(sigma), sigma, edm().curve)
