"""Training objectives: what an ε-network is asked to predict, and from which input.

Every objective draws (x_0, t, ε, ξ) and compares the network's output at some input y with some target:

    objective    y                          target
    ddpm         α x_0 + σ ε                ε          Ho et al. 2020, arXiv 2006.11239, Algorithm 1 and eq. 14
    ip           α x_0 + σ (ε + γ ξ)        ε          Ning et al. 2023, arXiv 2301.11706, Algorithm 1

γ ξ imitates exposure bias in training: the network sees inputs noisier than its label says. Because ε + γ ξ is itself
Gaussian, the minimiser is known for any data: with ε* the ddpm minimiser and noise level σ' = σ √(1 + γ²),

    ε_IP(y) = ε*(y at noise σ') / √(1 + γ²).

A loss takes a network `net(y, timestep)`, images x0 and noise of shape (B, C, H, W), and alpha, sigma and timestep of
shape (B,); it returns the mean squared error over everything, a scalar.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from exposure_bias.errors import InputError

Network = Callable[[Tensor, Tensor], Any]
"""Returns a tensor, or a diffusers output whose `.sample` is one."""

Objective = Callable[[Network, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(net, x0, alpha, sigma, timestep, eps, xi) -> loss. Every objective is handed both noises, so that two objectives
trained with one seed differ in nothing but what they do with them."""

OBJECTIVES = ("ddpm", "ip")


def predict(net: Network, y: Tensor, timestep: Tensor) -> Tensor:
    """The network's raw output as a tensor."""
    output = net(y, timestep)
    return output if isinstance(output, Tensor) else output.sample


def ddpm_loss(net: Network, x0: Tensor, alpha: Tensor, sigma: Tensor, timestep: Tensor, eps: Tensor) -> Tensor:
    """E‖ε − ε_θ(α x_0 + σ ε, t)‖² per pixel (Ho et al. 2020, arXiv 2006.11239, eq. 14)."""
    return _noise_error(net, x0, alpha, sigma, timestep, noise=eps, target=eps)


def ip_loss(
    net: Network, x0: Tensor, alpha: Tensor, sigma: Tensor, timestep: Tensor, eps: Tensor, xi: Tensor, gamma: float
) -> Tensor:
    """E‖ε − ε_θ(α x_0 + σ (ε + γ ξ), t)‖² per pixel (Ning et al. 2023, arXiv 2301.11706, Algorithm 1).

    Raises InputError for γ < 0. γ = 0 is `ddpm_loss`; the paper uses γ = 0.1.
    """
    _check(gamma)
    return _noise_error(net, x0, alpha, sigma, timestep, noise=eps + gamma * xi, target=eps)


def objective(name: str, gamma: float = 0.0) -> Objective:
    """The objective of this name with its settings filled in. Raises InputError for an unknown name or γ < 0."""
    if name not in OBJECTIVES:
        raise InputError(f"unknown objective {name!r}: allowed are {', '.join(OBJECTIVES)}")
    _check(gamma)
    if name == "ddpm" and gamma != 0:
        raise InputError(f"the ddpm objective has no perturbation, but gamma={gamma} was given: use ip")
    return partial(ip_loss, gamma=gamma)


def _noise_error(
    net: Network, x0: Tensor, alpha: Tensor, sigma: Tensor, timestep: Tensor, noise: Tensor, target: Tensor
) -> Tensor:
    y = _per_image(alpha, x0) * x0 + _per_image(sigma, x0) * noise
    return torch.nn.functional.mse_loss(predict(net, y, timestep), target)


def _per_image(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (x.ndim - 1))


def _check(gamma: float) -> None:
    if not gamma >= 0:  # written so that NaN fails too
        raise InputError(f"gamma must be at least 0, got {gamma}")
