"""What a perfect chain would end in, as a function of a true state: features and their gradients.

The end x_N of a perfect chain, given a state x_s of the forward process with noise ε, is

    E[x_N | x_s] = a x_s + b E[x_0 | x_s],   a = (σ_N²/α_N)(α_s/σ_s²),   b = (σ_N²/α_N)(λ_N − λ_s),

λ = α²/σ². Its power in a band is a feature, once with the best linear (Wiener) prediction w in
place of E[x_0 | x_s] and once with the network's own f. It is fitted to the end's power itself, of
which only the noise between s and N is averaged out: x_N = α_N x_0 + σ_N (ρ ε + √(1 − ρ²) ε′)
with ρ² = λ_s/λ_N, so that S = |α_N x_0 + σ_N ρ ε|² + σ_N² (1 − ρ²) per mode.

All of it lives in a basis of modes, the orthonormal DCT over the axes of space, where a band is a
set of modes. Gradients of the linear features are matrices; those of the network's are one pullback
(vector–Jacobian product) each, by automatic differentiation. Finite differences would be biased.

The linear prediction of an image comes from the covariance of the images of the other half of the
groups, so that an image never enters the function that it is judged by. States of more than 1,024
numbers get the linear prediction mode by mode."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.data import Data
from exposure_bias.jackknife import GROUPS
from exposure_bias.schedules import Level
from exposure_bias.states import State
from exposure_bias.statistics.bands import HIGH_FREQUENCY, dct_matrix, radial_frequency

EIGEN = 1024  # largest state whose linear prediction uses all correlations
LAW_IMAGES = 8192
EDGES = (0.0, 1 / 16, 1 / 8, 1 / 4, 3 / 8)
NAMES = ("f < 1/16", "1/16 <= f < 1/8", "1/8 <= f < 1/4", "1/4 <= f < 3/8", "f >= 3/8")
ROUND_OFF = 1e-9


@dataclass(frozen=True)
class Modes:
    """The modes of states (C, *space) and the bands that they fall into.

    band (D,): which one of `names` a mode belongs to. high (J,): which bands lie at ¼ cycle per
    pixel and above. Of vectors every number is a mode, and there is one band.
    """

    shape: State
    names: tuple[str, ...]
    band: NDArray[np.int64]
    high: NDArray[np.bool_]

    @classmethod
    def of(cls, shape: State) -> "Modes":
        """Those of a state's shape."""
        channels, *space = shape
        if not space:
            return cls(shape, ("all",), np.zeros(channels, np.int64), np.zeros(1, bool))
        frequency = radial_frequency(*space).ravel()
        number = np.searchsorted(EDGES, frequency + ROUND_OFF, side="right") - 1
        used, band = np.unique(number, return_inverse=True)
        names = tuple(NAMES[i] for i in used)
        high = np.array([EDGES[i] >= HIGH_FREQUENCY for i in used])
        return cls(shape, names, np.tile(band, channels), high)

    @cached_property
    def members(self) -> Tensor:
        """One where a mode belongs to a band, (D, J)."""
        return torch.from_numpy(np.eye(len(self.names))[self.band])

    @cached_property
    def parts(self) -> Tensor:
        """Which bands lie below and above ¼ cycle per pixel, (2, J), or (1, J) if all are alike."""
        both = np.stack([~self.high, self.high]).astype(np.float64)
        return torch.from_numpy(both[both.any(1)])

    @cached_property
    def _matrices(self) -> list[Tensor]:
        return [torch.from_numpy(dct_matrix(n)) for n in self.shape[1:]]

    def __call__(self, x: Tensor) -> Tensor:
        """Coefficients (B, D) of states (B, *shape) or (B, D), float64."""
        return self._along(x.double(), [m.T for m in self._matrices])

    def inverse(self, c: Tensor) -> Tensor:
        """States (B, *shape) of coefficients (B, D)."""
        return self._along(c, self._matrices).view(-1, *self.shape)

    def _along(self, x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
        x = x.reshape(-1, *self.shape)
        for axis, matrix in enumerate(matrices, start=-len(matrices)):
            x = (x.movedim(axis, -1) @ matrix.to(x)).movedim(-1, axis)
        return x.flatten(1)

    def by_band(self, values: Tensor) -> Tensor:
        """Sums (B, J) over the modes of each band of (B, D)."""
        return values @ self.members.to(values)


@dataclass(frozen=True)
class Linear:
    """A symmetric linear map of coefficients: its matrix (D, D), or its diagonal (D,)."""

    entries: Tensor

    def __call__(self, c: Tensor) -> Tensor:
        """The map of coefficients (B, D)."""
        return c * self.entries if self.entries.dim() == 1 else c @ self.entries

    def of_band(self, c: Tensor, modes: NDArray[np.int64]) -> Tensor:
        """The map (B, D) of what some modes hold."""
        if self.entries.dim() == 1:
            kept = torch.zeros_like(c)
            kept[:, modes] = (c * self.entries)[:, modes]
            return kept
        return c[:, modes] @ self.entries[modes]


@dataclass(frozen=True)
class LinearLaw:
    """Mean (D,) and covariance of the data in modes, for the best linear prediction.

    values (K,) and vectors (K, D) of the covariance; without vectors the values are the modes' own
    variances, (D,).
    """

    mean: Tensor
    values: Tensor
    vectors: Tensor | None
    variance: Tensor

    @classmethod
    def of(cls, data: Data, ids: NDArray[np.int64], modes: Modes) -> "LinearLaw":
        """That of some images, at most 8,192 of them."""
        if len(ids) > LAW_IMAGES:
            ids = ids[np.linspace(0, len(ids) - 1, LAW_IMAGES).round().astype(int)]
        size = int(np.prod(modes.shape))
        total, square = torch.zeros(size, dtype=torch.float64), torch.zeros(()).double()
        dense = size <= EIGEN
        for chunk in np.array_split(ids, -(-len(ids) // 1024)):
            c = modes(torch.from_numpy(data.batch(chunk)))
            total = total + c.sum(0)
            square = square + (c.T @ c if dense else c.square().sum(0))
        mean = total / len(ids)
        if not dense:
            variance = (square / len(ids) - mean.square()).clamp(min=0)
            return cls(mean, variance, None, variance)
        covariance = square / len(ids) - mean[:, None] * mean
        values, vectors = torch.linalg.eigh(covariance)
        variance = covariance.diagonal().clamp(min=0)
        return cls(mean, values.clamp(min=0), vectors.T.contiguous(), variance)

    @property
    def leading(self) -> Tensor | None:
        """The directions of most variance, most first, (K, D); None where they are not known."""
        return None if self.vectors is None else self.vectors.flip(0)

    def map(self, gain: Tensor, base: float = 0.0) -> Linear:
        """base · identity + the gains (K,) along the directions."""
        if self.vectors is None:
            return Linear(base + gain)
        matrix = (self.vectors.T * gain) @ self.vectors
        matrix.diagonal().add_(base)
        return Linear(matrix)

    def gain(self, level: Level) -> Tensor:
        """κ = αv/(α²v + σ²) of the best linear prediction along each direction."""
        total = level.alpha**2 * self.values + level.sigma**2
        return level.alpha * self.values / total

    def to(self, device: torch.device) -> "LinearLaw":
        """The same on a device."""
        vectors = None if self.vectors is None else self.vectors.to(device)
        mean, values, variance = (v.to(device) for v in (self.mean, self.values, self.variance))
        return LinearLaw(mean, values, vectors, variance)


def laws_of_halves(data: Data, modes: Modes) -> tuple[LinearLaw, LinearLaw]:
    """For the images of even and of odd groups, the law of those of the other half."""
    odd = np.arange(len(data)) % GROUPS % 2 == 1
    even, other = np.flatnonzero(~odd), np.flatnonzero(odd)
    return LinearLaw.of(data, other, modes), LinearLaw.of(data, even, modes)


@dataclass(frozen=True)
class Coupling:
    """How a state at level s and the end at level N hang together (module docstring)."""

    state: float
    prediction: float
    rho: float
    end: Level

    @classmethod
    def of(cls, s: Level, end: Level) -> "Coupling":
        """Of two levels."""
        scale = end.sigma**2 / end.alpha
        rho = sqrt(s.snr / end.snr)
        return cls(
            scale * s.alpha / s.sigma**2, scale * max(end.snr - s.snr, 0.0), min(rho, 1.0), end
        )


@dataclass(frozen=True)
class Measured:
    """What one half's samples of a batch say at one level, (B, …) each.

    features (P,), end (J,), contraction (P, E), control (J, E), with E bands of the error.
    """

    features: Tensor
    end: Tensor
    contraction: Tensor
    control: Tensor

    @property
    def vector(self) -> Tensor:
        """[1, φ, S, C, Z] of each sample: what second moments are taken of."""
        one = torch.ones_like(self.features[:, :1])
        totals = self.contraction.sum(2), self.control.sum(2)
        return torch.cat([one, self.features, self.end, *totals], 1)


def measured(
    law: LinearLaw,
    modes: Modes,
    level: Level,
    coupling: Coupling,
    x0: Tensor,
    noise: Tensor,
    said: Tensor,
    pulled: Sequence[Tensor],
) -> Measured:
    """Features, ends and contractions of one half's samples.

    All are coefficients (B, D): x0 less the law's mean, noise ε, said the network's prediction less
    that mean. pulled: for each of `modes.parts` the gradient of the power that the network predicts
    for the end there.
    """
    a, b, gain = coupling.state, coupling.prediction, law.gain(level)
    wiener, end_map = law.map(gain), law.map(b * gain, a)
    x = level.alpha * x0 + level.sigma * noise
    linear_end, missed = end_map(x), said - x0
    missed_linear = wiener(x) - x0
    ends = _end_power(modes, coupling, x0, noise)
    contraction, control = [], []
    for j in range(len(modes.names)):
        members = np.flatnonzero(modes.band == j)
        gradient = 2 * end_map.of_band(linear_end, members)
        contraction.append(modes.by_band(gradient * missed))
        control.append(modes.by_band(gradient * missed_linear))
    control = [
        c - k for c, k in zip(control, _known(law, modes, level, wiener, end_map, x0), strict=True)
    ]
    features = modes.by_band(linear_end.square())
    own = modes.by_band((a * x + b * said).square()) - features
    both = torch.stack(contraction, 1)
    parts = modes.parts.to(x0)
    further = [modes.by_band(g * missed) for g in pulled]
    extra = [f - torch.einsum("j,bje->be", p, both) for f, p in zip(further, parts, strict=False)]
    return Measured(
        torch.cat([features, (own @ parts.T)[:, : len(pulled)]], 1),
        ends,
        torch.cat([both, torch.stack(extra, 1)], 1) if extra else both,
        torch.stack(control, 1),
    )


def _end_power(modes: Modes, coupling: Coupling, x0: Tensor, noise: Tensor) -> Tensor:
    """The power of the end by band, given x_0 and ε, (B, J)."""
    end = coupling.end
    known = end.alpha * x0 + end.sigma * coupling.rho * noise
    unknown = end.sigma**2 * (1 - coupling.rho**2)
    return modes.by_band(known.square()) + unknown * modes.members.sum(0).to(x0)


def _known(
    law: LinearLaw, modes: Modes, level: Level, wiener: Linear, end_map: Linear, x0: Tensor
) -> list[Tensor]:
    """The control's mean given x_0, by band of the end: (B, E) each."""
    alpha, sigma = level.alpha, level.sigma
    missed, end = alpha * wiener(x0) - x0, end_map(x0)
    means = []
    for j in range(len(modes.names)):
        members = np.flatnonzero(modes.band == j)
        gradient = 2 * alpha * end_map.of_band(end, members)
        of_noise = sigma**2 * _traces(wiener, end_map, modes, members)
        means.append(modes.by_band(missed * gradient) + of_noise)
    return means


def _traces(wiener: Linear, end_map: Linear, modes: Modes, members: NDArray[np.int64]) -> Tensor:
    """Σ over the modes of each band of diag(K · 2 A P A), (E,)."""
    k, a = wiener.entries, end_map.entries
    if a.dim() == 1:
        diagonal = torch.zeros_like(a)
        diagonal[members] = (2 * k * a * a)[members]
    else:
        diagonal = 2 * ((k @ a[:, members]) * a[:, members]).sum(1)
    return diagonal @ modes.members.to(diagonal)


def pullbacks(
    modes: Modes, coupling: Coupling, x: Tensor, mean: Tensor, alpha: float, predicted: Any
) -> tuple[Tensor, list[Tensor]]:
    """The network's prediction, and the gradient of the end's power that it predicts.

    x: states (B, *shape) that gradients are taken at. mean: (B, D), of each sample's law, in modes.
    predicted: the function from states to x̂_0. Returns the prediction's coefficients (B, D), and
    for each of `modes.parts` the gradient's (B, D).
    """
    x = x.detach().requires_grad_()
    output = predicted(x)
    said = modes(output.detach())
    end = coupling.state * (modes(x.detach()) - alpha * mean) + coupling.prediction * (said - mean)
    found = []
    parts = modes.parts.to(said)
    for i, part in enumerate(parts):
        own = end * (modes.members.to(said) @ part)
        back = _pulled(output, x, modes.inverse(own), keep=i < len(parts) - 1)
        found.append(2 * (coupling.state * own + coupling.prediction * modes(back)))
    return said, found


def _pulled(output: Tensor, x: Tensor, weights: Tensor, keep: bool) -> Tensor:
    """Jᵀ weights; zero where the prediction does not depend on the state."""
    if not output.requires_grad:
        return torch.zeros_like(x)
    (back,) = torch.autograd.grad(
        output, x, weights.to(output), retain_graph=keep, allow_unused=True
    )
    return torch.zeros_like(x) if back is None else back
