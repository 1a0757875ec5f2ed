"""What a diffusers network was trained under, read from its scheduler.

The chain is ours, so any scheduler of a kind will do:

    scheduler                                schedule                      the network returns
    with betas (DDPM, DDIM, Euler, DPM, …)   ᾱ_t = Π (1 − β_s)             its `prediction_type`
    FlowMatch…, or with flow sigmas          α = 1 − t, σ = t, label T·t   ε − x_0
    EDM…                                     α = 1, label σ  F of c_skip x + c_out F(c_in x, ¼ ln σ)

ᾱ is the float64 product of the float32 betas, because a scheduler's own float32 ᾱ carries an error
of 0.03 % in σ² at the cleanest level. Betas rescaled to zero terminal SNR (Lin et al. 2023, arXiv
2305.08891, Alg. 1) end at ᾱ_T = 0, also where a scheduler puts 2⁻²⁴. Preconditioning is that of
Karras et al. 2022 (arXiv 2206.00364, eq. 7). What a scheduler says about sampling (spacing, karras
or shifted sigmas, clipping) is the business of `record`, which says what it leaves out
(`sampling`)."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.adapters import pipelines
from exposure_bias.errors import InputError, reason
from exposure_bias.schedules import PREDICTION_TYPES, Schedule, edm, flow, from_alphas_cumprod

Call = Callable[..., Tensor]


def training(scheduler: Any, given: str | None) -> tuple[Schedule, str, float | None]:
    """What the network was trained under: schedule and prediction type.

    And, where EDM preconditions it, σ_data.

    σ_data is negative where F predicts v, whose c_out has the other sign.
    """
    name, config = type(scheduler).__name__, scheduler.config
    stated = config.get("prediction_type")
    pipelines.check_timesteps(config.get("num_train_timesteps"), f"num_train_timesteps of {name}")
    for option in ("sigma_min", "sigma_max", "sigma_data", "snr_shift_scale"):
        value = config.get(option)
        if value is not None and not (isinstance(value, int | float) and 0 < value < np.inf):
            raise InputError(
                f"{option} of {name} is {reason(str(value))}: a number above 0 is allowed"
            )
    if config.get("invert_sigmas") or config.get("timestep_type") == "continuous":
        raise InputError(
            f"{name} with invert_sigmas or timestep_type='continuous' tells time otherwise: not"
            " supported"
        )
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas") or stated == "flow_prediction":
        return (
            flow(config.num_train_timesteps),
            _prediction_type("flow_prediction", given, name),
            None,
        )
    if name.startswith("EDM"):
        if _prediction_type(stated, given, name) not in ("epsilon", "v_prediction"):
            raise InputError(
                f"{name} with prediction_type={stated!r}: allowed are epsilon and v_prediction"
            )
        sigma_data = config.sigma_data if stated == "epsilon" else -config.sigma_data
        return edm(config.sigma_min, config.sigma_max), "sample", sigma_data
    if not hasattr(scheduler, "betas") or not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"{name} states no schedule (it has no betas and is neither FlowMatch nor EDM): give"
            " the scheduler that the network was trained with, for example a DDPMScheduler"
        )
    betas = scheduler.betas.double()
    if not ((betas > 0) & (betas <= 1)).all():
        raise InputError(
            f"{name} has betas from {betas.min():.3g} to {betas.max():.3g}: numbers in (0, 1] are"
            " allowed"
        )
    abar = _alphas_cumprod(scheduler)
    if not np.allclose(abar, scheduler.alphas_cumprod.double().cpu().numpy(), rtol=1e-3, atol=1e-7):
        raise InputError(
            f"{name} changes ᾱ beyond its betas, which is not supported: give a DDPMScheduler of"
            " that ᾱ"
        )
    kind = (
        "trained"
        if config.get("trained_betas") is not None
        else config.get("beta_schedule", "custom")
    )
    return from_alphas_cumprod(abar, kind), _prediction_type(stated, given, name), None


def _alphas_cumprod(scheduler: Any) -> NDArray[np.float64]:
    """ᾱ in float64 from a scheduler's betas.

    For CogVideoX's from what it does to ᾱ afterwards: a shift of the SNR by 1/s, ᾱ ← ᾱ/(s + (1 − s)
    ᾱ), and there too the rescaling to zero terminal SNR."""
    abar: NDArray[np.float64] = np.cumprod(1 - scheduler.betas.double().cpu().numpy())
    shift = scheduler.config.get("snr_shift_scale")
    if shift is None:
        return abar
    abar = abar / (shift + (1 - shift) * abar)
    if scheduler.config.get("rescale_betas_zero_snr"):
        root = np.sqrt(abar)
        abar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return abar


def _prediction_type(stated: str | None, given: str | None, scheduler: str) -> str:
    if None not in (stated, given) and stated != given:
        raise InputError(
            f"prediction_type={given!r}, but {scheduler} says {stated!r}: leave it out or correct"
            " that"
        )
    kind = stated or given
    if kind not in PREDICTION_TYPES:
        says = (
            f"says prediction_type={stated!r}"
            if stated
            else "does not say what the network predicts"
        )
        raise InputError(
            f"{scheduler} {says}: give prediction_type=, one of {', '.join(PREDICTION_TYPES)}"
        )
    return kind


def preconditioned(call: Call, sigma_data: float) -> Call:
    def denoise(net: Any, x: Tensor, sigma: Tensor, *labels: Tensor) -> Tensor:
        s = sigma.to(x.dtype).view(-1, *[1] * (x.dim() - 1))
        norm = (s**2 + sigma_data**2) ** 0.5
        output = call(net, x / norm, sigma.log() / 4, *labels)
        return (sigma_data / norm) ** 2 * x + s * sigma_data / norm * output

    return denoise
