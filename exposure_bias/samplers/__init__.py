"""Samplers: one step s → t of a chain (t cleaner). No torch here.

A sampler is anything with the members of `Sampler` (`samplers.protocol`), so that a stranger's
works wherever ours do. diffusers' schedulers are samplers like any other (`adapters.schedulers`).
Ours are named by a text, the same in Python and at the command line (`samplers.names`): `ddpm`
(= `ddpm:fixed_small`), `ddpm:fixed_large`, `ddpm:learned_range`, `ddim` (= `ddim:0`), `ddim:0.5`,
`euler`, `heun`, `edm:CHURN` (or `edm:churn=40,s_min=0.05,s_max=50,s_noise=1.003`),
`dpm_2_ancestral`, `dpmpp_2s_ancestral`, `dpmpp_2m`, `dpmpp_2m_sde`. A stranger's is `module:Class`,
with options `module:Class:KEY=VALUE,…`.
"""

from exposure_bias.samplers.churn import EDM
from exposure_bias.samplers.first_order import DDIM, DDPM, Euler, Heun
from exposure_bias.samplers.names import SPECIFICATIONS, checked, named, parse
from exposure_bias.samplers.protocol import (
    Asking,
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
    order_of,
    prepared,
    prior_scale,
    specification,
    straight_in_x,
    wants_variance,
)
from exposure_bias.samplers.second_order import DPMPP2M, DPM2Ancestral, DPMPP2SAncestral

__all__ = [
    "DDIM",
    "DDPM",
    "DPMPP2M",
    "EDM",
    "SPECIFICATIONS",
    "Asking",
    "DPM2Ancestral",
    "DPMPP2SAncestral",
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
    "order_of",
    "parse",
    "prepared",
    "prior_scale",
    "specification",
    "straight_in_x",
    "wants_variance",
]
