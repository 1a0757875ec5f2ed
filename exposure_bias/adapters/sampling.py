"""What the scheduler in a model's folder says about sampling, which is the sampler's business here.

A scheduler's file holds two things: the noise schedule that the network was trained under, which is
always used, and how its own pipeline would sample. A chain of `record` follows its own options.
Where the two differ, it is said."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from exposure_bias.clipping import Clipping
from exposure_bias.errors import InputError, reason
from exposure_bias.samplers import Sampler

Call = Callable[..., Tensor]

VARIANCES = (
    *(None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    *("learned", "learned_range"),
)
SPACINGS = (None, "linspace", "leading", "trailing")
# Options that change a grid of steps, by what they do.
GRIDS = {
    "use_karras_sigmas": "karras",
    "use_exponential_sigmas": "exponential",
    "use_beta_sigmas": "beta",
    "use_dynamic_shifting": "shifted",
}


def check(name: str, config: Mapping[str, Any]) -> None:
    """Raise InputError for a setting of sampling that no scheduler has.

    diffusers says nothing of it before it samples."""
    for option, allowed in (("variance_type", VARIANCES), ("timestep_spacing", SPACINGS)):
        if config.get(option) not in allowed:
            words = ", ".join(filter(None, allowed))
            raise InputError(
                f"the scheduler of {name} has {option}={config[option]!r:.60}: allowed are {words}"
            )


def left_out(config: Mapping[str, Any], sampler: Sampler, clip: Clipping, spacing: Any) -> str:
    """Say what a scheduler would do and a chain does not, in words; "" if there is nothing.

    Parameters
    ----------
    config : Mapping
        The options of the scheduler in a model's folder, or none.
    sampler : Sampler
        What the chain is made by.
    clip : Clipping
        How the chain clips.
    spacing : str or None
        How its levels were chosen, None where the sampler has a way of its own.
    """
    parts = []
    if config.get("clip_sample") and not clip:
        bound = config.get("clip_sample_range") or 1.0
        parts.append(f"clip x_0 to ±{bound:g} (clip_sample; --clip or clip=True does so here)")
    if config.get("thresholding"):
        parts.append("clip x_0 by dynamic thresholding, which no sampler does here")
    own = config.get("timestep_spacing")
    if spacing is not None and own not in (None, spacing):
        parts.append(f"space its timesteps by {own} (--timestep-spacing {own} does so here)")
    parts += [f"take {kind} steps ({o})" for o, kind in GRIDS.items() if config.get(o)]
    variance = str(config.get("variance_type")).removesuffix("_log")
    if variance in VARIANCES and getattr(sampler, "variance", variance) != variance:
        parts.append(f"use the variance {variance} (--sampler ddpm:{variance} does so here)")
    return ", ".join(parts)


def telling(call: Call, name: str) -> Call:
    """Return a call of a network from files that raises InputError where the network fails.

    Its configuration may build a network that computes nothing."""

    def told(net: Any, *inputs: Tensor) -> Tensor:
        try:
            return call(net, *inputs)
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever torch says to a number of the wrong kind
            raise InputError(
                f"the network of {name} fails when it is called ({type(error).__name__}:"
                f" {reason(error)}): its config.json is not that of a working network"
            ) from error

    return told
