"""Training objectives: what a network is asked to predict, and from which input.

Every objective draws (x_0, t, ε, ξ) with ε and ξ standard normal and compares the network's output
at an input y with a target, in the mean over everything. γ ξ imitates exposure bias: the network
sees inputs noisier than its label says.

    name      y                          target, besides          source
    ddpm      α x_0 + σ ε                a x_0 + b ε              Ho et al. 2020, 2006.11239, eq. 14
    ip        α x_0 + σ (ε + γ_t ξ)      ε                        Ning et al. 2023, 2301.11706
    ddpm-y    α x_0 + σ (ε + γ_t ξ)      (ε + γ_t ξ)/√(1 + γ_t²)  ibid., §5, its control
    gp        α x_0 + σ ε                ε, + λ ‖∂ε̂/∂y‖_F²        ibid., its regulariser GP
    wd        α x_0 + σ ε                ε, + λ ‖θ‖²              ibid., its regulariser WD
    hybrid    α x_0 + σ ε                ε, + (T/1000) L_t        Nichol 2021, eq. 16

(a, b) belong to the network's prediction type; all objectives but ddpm train ε-networks. The
minimisers are known for any data, with ε* that of ddpm and σ' = σ √(1 + γ²):

    ε_IP(y) = ε*(y at noise σ') / √(1 + γ²),        ε_DDPM-y(y) = ε*(y at noise σ').

The norm in gp is the squared Frobenius norm of the whole Jacobian of an image, by one Hutchinson
probe: ‖J‖_F² = E ‖Jᵀ v‖² for independent v_i = ±1. The decay in wd is coupled, part of the loss, so
that AdamW rescales it with the rest of the gradient; decoupled decay is the optimizer's,
`weight_decay=` of `train`. In hybrid, the network's second half interpolates log v between log β̃
and log β, and L_t is the variational bound's term in bits per number (KL, at t = 0 the likelihood
of 8-bit values) with the mean held fixed, so that it trains the variance alone. Φ in that
likelihood is exact, where the published code takes tanh for it: at most 1.8e-4 apart.

ip, too, trains networks that learn their variance, as DDPM-IP's published commands do: then its
loss has (T/1000) L_t besides, at y, which is where the published code asks for both."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from math import log, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from exposure_bias.errors import InputError
from exposure_bias.schedules import Schedule

OBJECTIVES = ("ddpm", "ip", "ddpm-y", "gp", "wd", "hybrid")
PERTURBED = ("ip", "ddpm-y")
LEARNED = ("hybrid", "ip")  # those that train a learned variance
DEFAULT_GAMMA = 0.1
# The talk gives no λ. These keep the added term near a tenth of the loss on the bundled data;
# search around them.
DEFAULT_STRENGTH = {"gp": 1e-5, "wd": 1e-6}

Network = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Draw:
    """A batch of images, each at a level of its own.

    x0 (B, *shape); index (B,): places in the schedule; alpha, sigma (B, 1, …); timestep (B,): the
    network's label; eps and, for the objectives that need it, xi (B, *shape)."""

    x0: Tensor
    index: Tensor
    alpha: Tensor
    sigma: Tensor
    timestep: Tensor
    eps: Tensor
    xi: Tensor | None = None

    @property
    def x(self) -> Tensor:
        """x_t = α x_0 + σ ε."""
        return self.alpha * self.x0 + self.sigma * self.eps

    def rows(self, rows: slice | Tensor) -> "Draw":
        """Some of the images."""
        return replace(self, **{k: v[rows] for k, v in vars(self).items() if v is not None})


@dataclass(frozen=True)
class Objective:
    """One of OBJECTIVES with its settings; make one with `objective`.

    gamma (T,): γ_t, or None. strength: λ.
    """

    name: str
    schedule: Schedule
    prediction_type: str = "epsilon"
    gamma: NDArray[np.float64] | None = None
    strength: float = 0.0
    learned_variance: bool = False

    @property
    def draws_xi(self) -> bool:
        """Whether the objective needs a second noise ξ (gp takes its signs for the probe)."""
        return self.name in (*PERTURBED, "gp")

    def __call__(self, net: Network, draw: Draw, parameters: Sequence[Tensor] = ()) -> Tensor:
        """The loss, a scalar; `parameters` are what wd decays."""
        if self.name == "ddpm":
            return functional.mse_loss(
                net(draw.x, draw.timestep), target(self.prediction_type, draw)
            )
        if self.name == "gp":
            return self._penalised(net, draw)
        if self.name == "wd":
            loss = functional.mse_loss(net(draw.x, draw.timestep), draw.eps)
            return loss + self.strength * sum(p.square().sum() for p in parameters)
        if self.name == "hybrid":
            return self._hybrid(net, draw, draw.x)
        # For the type checker: `objective` gives these two a gamma, and `draws_xi` has the trainer
        # draw ξ.
        assert self.gamma is not None
        assert draw.xi is not None
        gamma = table(self.gamma, draw)
        noise = draw.eps + gamma * draw.xi
        y = draw.alpha * draw.x0 + draw.sigma * noise
        if self.learned_variance:
            return self._hybrid(net, draw, y)
        wanted = draw.eps if self.name == "ip" else noise / (1 + gamma**2).sqrt()
        return functional.mse_loss(net(y, draw.timestep), wanted)

    def _penalised(self, net: Network, draw: Draw) -> Tensor:
        assert draw.xi is not None
        output, norm = jacobian_norm(net, draw.x, draw.timestep, draw.xi.sign())
        loss: Tensor = functional.mse_loss(output, draw.eps) + self.strength * norm.mean()
        return loss

    def _hybrid(self, net: Network, draw: Draw, y: Tensor) -> Tensor:
        epsilon, between = net(y, draw.timestep).chunk(2, dim=1)
        simple = functional.mse_loss(epsilon, draw.eps)
        bound = variational_bits(self.schedule, draw, y, epsilon.detach(), between)
        return simple + len(self.schedule) / 1000 * bound.mean()


def objective(
    name: str,
    schedule: Schedule,
    prediction_type: str = "epsilon",
    gamma: float | tuple[float, float] | NDArray[np.float64] | None = None,
    strength: float | None = None,
    learned_variance: bool = False,
) -> Objective:
    """The objective of this name for a network on `schedule`.

    gamma: γ ≥ 0 of ip and ddpm-y (default 0.1, the paper's choice): a number, a pair (γ at the
    least noise, γ at the most) with a line between, or an array (T,). strength: λ ≥ 0 of gp
    (default 1e-5) and wd (default 1e-6).

    Raises InputError for an unknown name, a setting that is not the objective's or is negative, and
    a network whose prediction type or variance does not fit the objective."""
    if name not in OBJECTIVES:
        raise InputError(f"unknown objective {name!r}: allowed are {', '.join(OBJECTIVES)}")
    if gamma is not None and name not in PERTURBED:
        raise InputError(
            f"the {name} objective has no perturbation, but gamma={gamma} was given: use ip or"
            " ddpm-y"
        )
    if strength is not None and name not in DEFAULT_STRENGTH:
        raise InputError(
            f"the {name} objective has no lambda, but {strength} was given: use gp or wd"
        )
    if name != "ddpm" and prediction_type != "epsilon":
        raise InputError(
            f"the {name} objective trains epsilon networks, this one predicts {prediction_type}:"
            " use ddpm"
        )
    if learned_variance and name not in LEARNED:
        raise InputError(
            f"this network learns its variance, which {name} does not train: use hybrid or ip"
        )
    if name == "hybrid" and not learned_variance:
        raise InputError(
            "this network does not learn its variance, which hybrid trains: use ddpm, or a network"
            " of twice the channels"
        )
    if learned_variance and schedule.parameterisation != "vp":
        raise InputError(
            f"a learned variance is for vp schedules, not for {schedule.parameterisation}"
        )
    strength = DEFAULT_STRENGTH.get(name, 0.0) if strength is None else strength
    if not 0 <= strength < np.inf:
        raise InputError(f"lambda must be at least 0 and finite, got {strength}")
    gammas = _gammas(name, gamma, len(schedule))
    return Objective(name, schedule, prediction_type, gammas, strength, learned_variance)


def _gammas(name: str, gamma: Any, count: int) -> NDArray[np.float64] | None:
    if name not in PERTURBED:
        return None
    values = np.asarray(DEFAULT_GAMMA if gamma is None else gamma, dtype=np.float64)
    if values.shape not in ((), (2,), (count,)):
        raise InputError(
            f"gamma is a number, a pair, or one number for each of {count} levels, got"
            f" {values.shape}"
        )
    if not ((values >= 0) & (values < np.inf)).all():  # written so that NaN fails too
        raise InputError(f"gamma must be at least 0 and finite, got {gamma}")
    return (
        np.linspace(values[0], values[-1], count)
        if values.shape == (2,)
        else np.broadcast_to(values, count).copy()
    )


def target(prediction_type: str, draw: Draw) -> Tensor:
    """a x_0 + b ε: what a network of this type should say at x_t.

    See `schedules.prediction_coefficients`."""
    if prediction_type == "epsilon":
        return draw.eps
    if prediction_type == "sample":
        return draw.x0
    if prediction_type == "v_prediction":
        return draw.alpha * draw.eps - draw.sigma * draw.x0
    if prediction_type == "score":
        return -draw.eps / draw.sigma
    return draw.eps - draw.x0


def table(values: NDArray[np.float64], draw: Draw) -> Tensor:
    """The entries of a table (T,) at a batch's levels, (B, 1, …)."""
    column = torch.as_tensor(values, dtype=draw.x0.dtype, device=draw.x0.device)
    return by_sample(column[draw.index], draw.x0)


def by_sample(values: Tensor, like: Tensor) -> Tensor:
    """A number for each sample, (B,), in a shape that multiplies `like` (B, *shape)."""
    return values.view(-1, *(1,) * (like.dim() - 1))


def jacobian_norm(
    net: Network, y: Tensor, timestep: Tensor, probe: Tensor
) -> tuple[Tensor, Tensor]:
    """The network's output at y and ‖Jᵀ v‖² of each image, (B,).

    Its mean over probes v = ±1 is ‖∂output/∂y‖_F².

    Differentiable once more. On the CPU the fused attention has no second derivative, hence
    PyTorch's MATH backend."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    y = y.detach().requires_grad_()
    with sdpa_kernel(SDPBackend.MATH) if y.device.type == "cpu" else nullcontext():
        output = net(y, timestep)
        (product,) = torch.autograd.grad(output, y, probe.to(output.dtype), create_graph=True)
    return output, product.float().flatten(1).square().sum(1)


def variational_bits(
    schedule: Schedule, draw: Draw, y: Tensor, epsilon: Tensor, between: Tensor
) -> Tensor:
    """L_t of each image in bits per number, (B,).

    KL(q(x_{t−1} | x_t, x_0) ‖ p_θ), at t = 0 −log p_θ(x_0 | x_1), with x_t = y, the state that the
    network saw.

    between: log v = log β̃ + (between + 1)/2 (log β − log β̃). At t = 0, where β̃ = 0, that of t =
    1 stands in. Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 5-8 and 15; the likelihood as Ho et
    al. 2020, eq. 13."""
    alpha, sigma = np.append(1.0, schedule.alpha), np.append(0.0, schedule.sigma)
    beta = 1 - (alpha[1:] / alpha[:-1]) ** 2
    tilde = beta * (sigma[:-1] / sigma[1:]) ** 2
    tilde[0] = tilde[1]
    on_x0, on_x = (
        alpha[:-1] * beta / sigma[1:] ** 2,
        alpha[1:] / alpha[:-1] * (sigma[:-1] / sigma[1:]) ** 2,
    )
    low, high, on_x0, on_x = (table(v, draw) for v in (np.log(tilde), np.log(beta), on_x0, on_x))
    x0 = (y - draw.sigma * epsilon) / draw.alpha
    error = on_x0 * (draw.x0 - x0)
    log_v = low + (between + 1) / 2 * (high - low)
    kl = 0.5 * (log_v - low - 1 + (low - log_v).exp() + error**2 * (-log_v).exp())
    mean, scale = on_x0 * x0 + on_x * y, (-0.5 * log_v).exp()
    upper, lower = (_normal_cdf((draw.x0 - mean + step) * scale) for step in (1 / 255, -1 / 255))
    upper, lower = (
        torch.where(draw.x0 > 0.999, 1.0, upper),
        torch.where(draw.x0 < -0.999, 0.0, lower),
    )
    likelihood = -(upper - lower).clamp(min=1e-12).log()
    first = by_sample(draw.index, draw.x0) == 0
    return torch.where(first, likelihood, kl).flatten(1).mean(1) / log(2)


def _normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / sqrt(2)))
