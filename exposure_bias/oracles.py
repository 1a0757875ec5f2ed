"""Exact denoisers: data laws for which E[x_0 | x_t] is known, to be put in any model's place.

For x_t = α x_0 + σ ε and x_0 from a mixture Σ_m w_m N(μ_m, Σ_m),

    E[x_0 | x] = Σ_m r_m(x) [μ_m + α Σ_m (α² Σ_m + σ² I)⁻¹ (x − α μ_m)],
    r_m(x) ∝ w_m N(x; α μ_m, α² Σ_m + σ² I).

One component is the Gaussian oracle; components without covariance are the empirical oracle, the
exact denoiser of a set of images. All are float64 `Denoiser`s of type `sample`.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from exposure_bias.autoregression import Autoregression, gain
from exposure_bias.denoisers import Denoiser, gradients
from exposure_bias.errors import InputError, shown
from exposure_bias.schedules import Level, Schedule

Values = Any  # whatever torch.as_tensor takes
SYMMETRY = 1e-6


class _Rotated(torch.nn.Module):
    """The formula above, per component in the eigenbasis of its covariance.

    weights (M,), means (M, D), variances (M, D), bases (M, D, D) with eigenvectors in columns.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor
    bases: Tensor

    def __init__(self, weights: Tensor, means: Tensor, variances: Tensor, bases: Tensor) -> None:
        super().__init__()
        _register(self, weights=weights, means=means, variances=variances, bases=bases)

    def forward(self, x: Tensor, level: Level) -> Tensor:
        x = x.flatten(1)
        total = level.alpha**2 * self.variances + level.sigma**2
        posterior = torch.zeros_like(x)
        log_r = torch.empty(len(x), len(self.weights), dtype=x.dtype, device=x.device)
        corrections = []
        for m, mean in enumerate(self.means):
            d = (x - level.alpha * mean) @ self.bases[m]
            log_r[:, m] = self.weights[m].log() - 0.5 * (
                d.square() / total[m] + total[m].log()
            ).sum(1)
            d = d * (level.alpha * self.variances[m] / total[m])
            corrections.append(d @ self.bases[m].T)
        for m, r in enumerate(log_r.softmax(1).unbind(1)):
            posterior += r[:, None] * (self.means[m] + corrections[m])
        return posterior


class _Diagonal(torch.nn.Module):
    """The formula above for covariances that are diagonal in pixels: variances (M, D).

    Squares are multiplied out, so that components meet the states in matrix products.
    """

    weights: Tensor
    means: Tensor
    variances: Tensor

    def __init__(self, weights: Tensor, means: Tensor, variances: Tensor) -> None:
        super().__init__()
        _register(self, weights=weights, means=means, variances=variances)

    def forward(self, x: Tensor, level: Level) -> Tensor:
        x = x.flatten(1)
        alpha, mu = level.alpha, self.means
        total = alpha**2 * self.variances + level.sigma**2
        distance = x.square() @ (1 / total).T - 2 * alpha * x @ (mu / total).T
        constant = (alpha**2 * mu.square() / total + total.log()).sum(1)
        r = (self.weights.log() - 0.5 * (distance + constant)).softmax(1)
        gain = alpha * self.variances / total
        return r @ (mu - alpha * gain * mu) + x * (r @ gain)


class _Nearest(torch.nn.Module):
    """The empirical posterior mean: softmax of −‖x − α x_j‖²/2σ² over `images` x_j, (M, D)."""

    images: Tensor
    square: Tensor

    def __init__(self, images: Tensor) -> None:
        super().__init__()
        _register(self, images=images, square=images.square().sum(1))

    def forward(self, x: Tensor, level: Level) -> Tensor:
        log_r = (
            level.alpha * x.flatten(1) @ self.images.T - level.alpha**2 / 2 * self.square
        ) / level.sigma**2
        return log_r.softmax(1) @ self.images


def _register(module: torch.nn.Module, **buffers: Tensor) -> None:
    for name, value in buffers.items():
        module.register_buffer(name, value)


class _Oracle(Denoiser):
    """A Denoiser whose network takes the level itself and float64 states."""

    def __init__(
        self, net: torch.nn.Module, schedule: Schedule, shape: tuple[int, ...], name: str
    ) -> None:
        super().__init__(net, schedule=schedule, prediction_type="sample", shape=shape, name=name)

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        with gradients():
            return self.net(x.to(self.device, torch.float64), level).view(x.shape).to(x.device)


class MixtureOracle(_Oracle):
    """The exact denoiser of Σ_m w_m N(μ_m, Σ_m).

    weights (M,), normalised here; means (M, *shape); covariances: a scalar or, with D the size of a
    state, shape (M,), (M, D) or (M, D, D). Raises InputError for other shapes, matrices that are
    not symmetric, negative weights or variances.
    """

    def __init__(
        self, weights: Values, means: Values, covariances: Values, schedule: Schedule
    ) -> None:
        weights, means, covariances = map(_real, (weights, means, covariances))
        if (
            means.dim() < 2
            or weights.shape != means.shape[:1]
            or (weights < 0).any()
            or weights.sum() <= 0
        ):
            raise InputError(
                "a mixture needs weights (M,) ≥ 0 and means (M, *shape), got"
                f" {tuple(weights.shape)} and {tuple(means.shape)}"
            )
        flat = means.flatten(1)
        variances, bases = _eigen(covariances, flat.shape)
        weights = weights / weights.sum()
        net = (
            _Diagonal(weights, flat, variances)
            if bases is None
            else _Rotated(weights, flat, variances, bases)
        )
        super().__init__(net, schedule, tuple(means.shape[1:]), "mixture oracle")


class GaussianOracle(MixtureOracle):
    """The exact denoiser of N(mean, covariance).

    mean: a state of D numbers; covariance: (D, D), (D,) or a scalar.
    """

    def __init__(self, mean: Values, covariance: Values, schedule: Schedule) -> None:
        mean, covariance = _real(mean), _real(covariance)
        super().__init__(
            [1.0], mean[None], covariance[None] if covariance.dim() else covariance, schedule
        )
        self.name = "Gaussian oracle"


class EmpiricalOracle(_Oracle):
    """The exact denoiser of the states (N, *shape) themselves: of a network that memorised them."""

    def __init__(self, images: Values, schedule: Schedule) -> None:
        images = _real(images)
        if images.dim() < 2 or len(images) == 0:
            raise InputError(
                f"the empirical oracle needs states (N, *shape), got shape {tuple(images.shape)}"
            )
        super().__init__(
            _Nearest(images.flatten(1)), schedule, tuple(images.shape[1:]), "empirical oracle"
        )


class Teacher(_Oracle):
    """The denoiser that knows x_0 (B, *shape), for a batch of the same B.

    Its chain is the teacher chain.
    """

    def __init__(self, x0: Values, schedule: Schedule) -> None:
        x0 = _real(x0)
        super().__init__(_Constant(x0), schedule, tuple(x0.shape[1:]), "teacher")


class _Constant(torch.nn.Module):
    value: Tensor

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)

    def forward(self, x: Tensor, level: Level) -> Tensor:
        return self.value


class LinearAutoregression(Denoiser):
    """The exact denoiser of the next frame of a linear autoregression.

    Parameters
    ----------
    a
        A number, a matrix (D, D), or (p, D, D) for p frames of context, the nearest frame's first:
        x_k = F_1 x_{k−1} + … + F_p x_{k−p} + w_k.
    schedule
        The noise schedule of each frame.
    covariance
        That of w_k: a number, (D,) or (D, D). By default it makes the stationary covariance of a
        frame the identity.
    shape
        A frame's shape with D numbers, by default (D,).
    context_noise
        The standard deviation τ of noise that is added to every context. The oracle knows it.

    Raises
    ------
    InputError
        For coefficients that are not stable, for a covariance that is none, and for a shape of
        another size.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> model = eb.oracles.LinearAutoregression(0.9, eb.schedules.linear())
    >>> frames = model.law.sample(256, 17)
    >>> drift = eb.drift_budget(model, eb.Sequences(frames), sampler="ddim", steps=10)

    Source: docs/mathematics.md, "Drift of sequences".
    """

    def __init__(
        self,
        a: Values,
        schedule: Schedule,
        *,
        covariance: Values | None = None,
        shape: tuple[int, ...] | None = None,
        context_noise: float = 0.0,
    ) -> None:
        if not 0 <= context_noise < np.inf:
            raise InputError(f"context_noise is at least 0 and finite, got {context_noise}")
        noise = None if covariance is None else _real(covariance).numpy()
        self.law = Autoregression.of(_real(a).numpy(), noise)
        self.context_noise = float(context_noise)
        row, left = self.law.noised(self.context_noise)
        q, basis = np.linalg.eigh(left)
        super().__init__(
            _Autoregressive(*map(torch.from_numpy, (row, np.maximum(q, 0.0), basis))),
            schedule=schedule,
            prediction_type="sample",
            shape=(self.law.size,) if shape is None else shape,
            name="linear autoregression",
            context=self.law.context,
        )
        if int(np.prod(self.shape)) != self.law.size:
            raise InputError(
                f"a frame of shape {self.shape} has {int(np.prod(self.shape))} numbers, but the"
                f" coefficients are for {self.law.size}"
            )

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        context = self._batch_context(len(x)).like(self.net.row)
        frames = context.frames
        if self.context_noise:
            frames = frames + self.context_noise * context.noise()
        states = x.to(self.device, torch.float64).flatten(1)
        return self.net(states, level, frames.flip(1).flatten(1)).view(x.shape).to(x.device)


class _Autoregressive(torch.nn.Module):
    """μ + U k Uᵀ (x − α μ) for μ = F c; buffers row F, q and basis U."""

    row: Tensor
    q: Tensor
    basis: Tensor

    def __init__(self, row: Tensor, q: Tensor, basis: Tensor) -> None:
        super().__init__()
        _register(self, row=row, q=q, basis=basis)

    def forward(self, x: Tensor, level: Level, context: Tensor) -> Tensor:
        mean = context @ self.row.T
        k = torch.from_numpy(gain(level, self.q.cpu().numpy())).to(x)
        away = (x - level.alpha * mean) @ self.basis
        return mean + (away * k) @ self.basis.T


def _real(values: Values) -> Tensor:
    """Values as float64. Raises InputError for complex ones, whose imaginary part would go."""
    try:
        tensor = torch.as_tensor(values)
    except Exception as error:  # torch raises a dozen kinds for what are no numbers
        raise InputError(
            f"an oracle's numbers are an array or a tensor, got {shown(values)}: correct it"
        ) from error
    if tensor.is_meta or tensor.layout is not torch.strided:
        raise InputError("an oracle's numbers are a plain tensor, not a sparse or an empty one")
    if tensor.is_complex():
        raise InputError("an oracle's numbers are real, got complex ones: give their real part")
    return tensor.to(torch.float64)


def _eigen(covariances: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor | None]:
    """Variances (M, D) and eigenvectors (M, D, D) or None.

    Covariances come as (), (M,), (M, D) or (M, D, D).
    """
    components, dimension = shape
    bases = None
    if covariances.shape == (components, dimension, dimension):
        asymmetry = float((covariances - covariances.mT).abs().max())
        if asymmetry > SYMMETRY * float(covariances.abs().max()):
            raise InputError(
                f"a covariance must be symmetric, this one is not (by {asymmetry:.3g}): give (Σ +"
                " Σᵀ)/2"
            )
        covariances, bases = torch.linalg.eigh(covariances)
        # A sample covariance of few images has eigenvalues of −1e−16 where zero is meant.
        covariances = torch.where(covariances.abs() < 1e-12 * covariances.max(), 0.0, covariances)
    elif covariances.dim() == 0 or covariances.shape == (components,):
        covariances = covariances.reshape(-1, 1).expand(components, dimension)
    elif covariances.shape != (components, dimension):
        raise InputError(
            f"covariance of shape {tuple(covariances.shape)} does not fit {dimension} pixels:"
            f" allowed are a scalar, ({dimension},) and ({dimension}, {dimension})"
        )
    if not (covariances >= 0).all():
        raise InputError("a covariance must not have negative eigenvalues")
    return covariances.contiguous(), bases
