"""Remedies at sampling time. None needs training.

A remedy of the network (`remedies.network`) takes a denoiser and returns one: epsilon scaling,
input perturbation without training, time shift, temporal score rescaling, context noise. A remedy
of the step (`remedies.steps`) takes a sampler and returns one: DCW.
"""

from exposure_bias.remedies.network import (
    SPECIFICATIONS,
    Remedied,
    Scale,
    context_noised,
    epsilon_scaled,
    ip_equivalent,
    remedied,
    time_shifted,
    tsr,
)
from exposure_bias.remedies.steps import Corrected, corrected, dcw, is_of_steps

__all__ = [
    "SPECIFICATIONS",
    "Corrected",
    "Remedied",
    "Scale",
    "context_noised",
    "corrected",
    "dcw",
    "epsilon_scaled",
    "ip_equivalent",
    "is_of_steps",
    "remedied",
    "time_shifted",
    "tsr",
]
