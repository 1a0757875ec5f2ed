"""flow_matching: a velocity model and its affine path.

Their time τ runs up, from noise x_0 to data x_1:

    x_τ = a(τ) x_1 + b(τ) x_0,        u(x_τ, τ) = E[a′ x_1 + b′ x_0 | x_τ]

In our words x_1 is the data x_0, x_0 is ε, a is α and b is σ. Two kinds of path determine one of
our predictions:

    a + b = 1       b′ = −a′            u = a′ (x_0 − ε)               flow_prediction = −u / a′
    a² + b² = 1     b′ = −a a′ / b      u = (a′/b)(σ x_0 − α ε)        v_prediction = −u b / a′

The first is `CondOTScheduler`, a = τ: our flow schedule with t = 1 − τ, and `ODESolver`'s "euler"
in steps of 1/T′ is `sampler="euler", steps=T′, grid="trailing"`. The second is `VPScheduler`,
`CosineScheduler` or `LinearVPScheduler`: a vp schedule of 1000 levels at τ_i = 1 − (i + ½)/1000, as
α may be 0 at τ = 0. There the predictions are the same, but ODESolver's chain cannot be had: its
Euler is straight in x and τ, ours in x/α and σ/α (`adapt` warns, `eb.observe` watches it).
ODESolver's "midpoint" and "dopri5" have no counterpart on any path.

Source: Lipman et al. 2024 (arXiv 2412.06264) and the public interface of
facebookresearch/flow_matching."""

import warnings
from typing import Any

import torch
from torch import Tensor

from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.schedules import flow, from_alphas_cumprod

LEVELS = 1000


def recognises(value: Any) -> bool:
    """Whether an object is a scheduler, a path or a model of this library."""
    return hasattr(getattr(value, "scheduler", value), "snr_inverse") or any(
        base.__module__.startswith("flow_matching.") for base in type(value).__mro__
    )


def adapt(*objects: Any) -> Denoiser:
    """A Denoiser of (velocity model, path, (C, H, W)).

    The path is an `AffineProbPath` or its scheduler.

    The model is called as ODESolver does, by `x=` and `t=`; bind further arguments in a function of
    these two.

    Warns of a path other than CondOT's, on which no sampler here takes ODESolver's steps.

    Raises InputError for a missing part, a discrete or geodesic path, and a path whose velocity
    does not determine x_0."""
    shapes = [o for o in objects if isinstance(o, tuple)]
    paths = [o for o in objects if hasattr(getattr(o, "scheduler", o), "snr_inverse")]
    models = [o for o in objects if callable(o) and o not in paths]
    if not (len(shapes) == len(paths) == len(models) == 1 and len(objects) == 3):
        came = ", ".join(type(o).__name__ for o in objects)
        raise InputError(
            f"a flow_matching model needs its path and its shape, got {came}: give adapt(model,"
            " path, (C, H, W))"
        )
    path, model = paths[0], models[0]
    if hasattr(path, "scheduler") and not hasattr(path, "velocity_to_target"):
        raise InputError(
            f"{type(path).__name__} is not supported: x_t = a x_1 + b x_0 needs an AffineProbPath"
        )
    scheduler = getattr(path, "scheduler", path)
    tau = 1 - (torch.arange(LEVELS, dtype=torch.float64) + 0.5) / LEVELS
    at = scheduler(tau)
    if torch.allclose(at.alpha_t, tau) and torch.allclose(at.sigma_t, 1 - tau):
        return Denoiser(
            model,
            schedule=flow(),
            prediction_type="flow_prediction",
            shape=shapes[0],
            call=_call_straight,
        )
    if not torch.allclose(at.alpha_t**2 + at.sigma_t**2, torch.ones_like(tau)):
        raise InputError(
            f"{type(scheduler).__name__} is not supported: a velocity determines x_0 at all times"
            " if a = t, b = 1 - t (CondOTScheduler) or a^2 + b^2 = 1 (VPScheduler,"
            " CosineScheduler, LinearVPScheduler)"
        )

    def call_curved(net: Any, x: Tensor, index: Tensor) -> Tensor:
        tau = 1 - (index.double() + 0.5) / LEVELS
        at = scheduler(tau)
        factor = (at.sigma_t / at.d_alpha_t).view(-1, 1, 1, 1)
        return -factor * net(x=x, t=tau.float())

    name = type(scheduler).__name__
    note = f"on {name}'s path ODESolver's Euler steps are straight in x, and those here in x/alpha"
    warnings.warn(
        f"{note}: predictions are the same, but no sampler here gives ODESolver's chain, as 'euler'"
        " does on CondOTScheduler's; to see that chain itself, watch it with eb.observe",
        stacklevel=4,
    )
    schedule = from_alphas_cumprod(at.alpha_t.square().numpy(), name)
    curved = Denoiser(
        model, schedule=schedule, prediction_type="v_prediction", shape=shapes[0], call=call_curved
    )
    curved.note = note
    return curved


def _call_straight(net: Any, x: Tensor, t: Tensor) -> Tensor:
    velocity: Tensor = net(x=x, t=1 - t)
    return -velocity
