"""Samplers: one step s → t of a chain (t cleaner). No torch here.

A sampler is anything with the members of `Sampler` (`samplers.protocol`), so that a stranger's
works wherever ours do. diffusers' schedulers are samplers like any other (`adapters.schedulers`).
Ours are named by a text, the same in Python and at the command line (`samplers.names`): `ddpm`
(= `ddpm:fixed_small`), `ddpm:fixed_large`, `ddpm:learned_range`, `ddim` (= `ddim:0`), `ddim:0.5`,
`euler`, `heun`. A stranger's is `module:Class`, with options `module:Class:KEY=VALUE,…`.
"""

from exposure_bias.samplers.first_order import DDIM, DDPM, Euler, Heun
from exposure_bias.samplers.names import SPECIFICATIONS, checked, named, parse
from exposure_bias.samplers.protocol import (
    Limit,
    OneStep,
    Predict,
    Prediction,
    Sampler,
    Stage,
    Steps,
    Transition,
    conditional_variance,
    option,
    prior_scale,
    specification,
    straight_in_x,
)

__all__ = [
    "DDIM",
    "DDPM",
    "SPECIFICATIONS",
    "Euler",
    "Heun",
    "Limit",
    "OneStep",
    "Predict",
    "Prediction",
    "Sampler",
    "Stage",
    "Steps",
    "Transition",
    "checked",
    "conditional_variance",
    "named",
    "option",
    "parse",
    "prior_scale",
    "specification",
    "straight_in_x",
]
