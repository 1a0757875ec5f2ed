"""What a model's own chain tends to as its steps shrink, from few steps: samplers of the limits.

*SDE* (ddpm with any variance, ddim:1). A β̃ step is Euler–Maruyama for y = αx/σ² in SNR (design
§4.12), with f held still over the step, and loses the spread that x_0 has given x_s. `CorrectedSDE`
adds it, mode by mode of an orthonormal DCT:

    x_t = a x_s + b f(x_s) + √(β̃ + b² V_i(s)) z,
    a = (α_s/α_t)(σ_t/σ_s)²,   b = α_t (1 − SNR_s/SNR_t),

V_i(s) = mean (x_0 − f(x_s))²_i over the forward stream, 1/V interpolated in SNR. What is
added is O(h²) a step, so that the limit does not depend on V even for a wrong model; for Gaussian
data the steps are exact at any number of them. With c_k this chain of kT′ steps, G∞ = 2c₄ − c₂.

*ODE* (ddim:0, euler, heun, deterministic schedulers). Heun in x/α is of second order: G∞ = (4h₂ −
h₁)/3. It explodes where α_T ≈ 0; there `Exponential`, the second-order single-step DPM-Solver++ (Lu
et al. 2022, arXiv 2211.01095, Alg. 1), takes its place.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp, log, sqrt
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.recording import Recording
from exposure_bias.samplers import Heun, Limit, OneStep, Predict, Prediction, conditional_variance
from exposure_bias.schedules import Level, Schedule
from exposure_bias.states import State
from exposure_bias.statistics.accumulator import Accumulator, Batch, Layout
from exposure_bias.statistics.bands import dct_matrix

Array = NDArray[np.float64]

# Beyond this σ/α Heun's steps in x/α are no longer stable: 157 at the end of DDPM's linear
# schedule, 2·10⁴ of a cosine.
STABLE_RATIO = 1e3
FLOOR = 1e-12
RESIDUAL = "prediction_residual"


class Modes:
    """The orthonormal DCT of states over their axes of space; of vectors the identity."""

    def __init__(self, shape: State) -> None:
        self.matrices = [torch.from_numpy(dct_matrix(n)) for n in shape[1:]]

    def __call__(self, x: Tensor) -> Tensor:
        """Coefficients of states (…, C, *space), float64."""
        return self._apply(x, [m.T for m in self.matrices])

    def inverse(self, c: Tensor) -> Tensor:
        """States of coefficients."""
        return self._apply(c, self.matrices)

    def _apply(self, x: Tensor, matrices: Sequence[Tensor]) -> Tensor:
        for axis, matrix in enumerate(matrices, start=-len(matrices)):
            x = (x.movedim(axis, -1) @ matrix.to(x)).movedim(-1, axis)
        return x


class ResidualPower(Accumulator):
    """Σ (x_0 − x̂_0)² per DCT mode of the forward stream: `prediction_residual` (step, mode)."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.shape, self.modes = layout.shape, Modes(layout.shape)
        self.add_sum(RESIDUAL, step=layout.steps, residual_mode=int(np.prod(layout.shape)))

    def update(self, rows: slice, batch: Batch) -> None:
        if batch.prediction is None:
            return
        missed = (batch.data - batch.prediction).unflatten(-1, self.shape)
        power = self.modes(missed).square().flatten(2).sum(1)
        self.state[RESIDUAL][rows] += power.cpu().numpy()


def residual_power(layout: Layout) -> Accumulator | None:
    """`ResidualPower` for the forward stream, to be given to `record(..., statistics=)`."""
    return ResidualPower(layout) if layout.stream == "forward" else None


class Residual(NamedTuple):
    """1/V_i by level: snr (L,) ascending, precision (L, *shape)."""

    snr: Array
    precision: Array

    @classmethod
    def of(cls, recording: Recording) -> "Residual":
        """That of a recording with `residual_power`."""
        forward = recording["forward"]
        noisy = forward.isel(step=(forward["sigma"] > 0) & (forward["alpha"] > 0))
        shape = recording["data"]["mean"].shape
        power = noisy[RESIDUAL].values.reshape(-1, *shape) / float(forward["count"].sum())
        snr = (noisy["alpha"].values / noisy["sigma"].values) ** 2
        order = np.argsort(snr)
        return cls(snr[order], 1 / np.maximum(power[order], FLOOR))

    def at(self, snr: float) -> Array:
        """V (*shape) at an SNR, the end's beyond the ends.

        Between two levels 1/V is linear in SNR, as it is for normal data: 1/S + SNR.
        """
        if len(self.snr) == 1:
            return 1 / self.precision[0]
        here = float(np.clip(snr, self.snr[0], self.snr[-1]))
        k = int(np.clip(np.searchsorted(self.snr, here), 1, len(self.snr) - 1))
        low, high = self.snr[k - 1], self.snr[k]
        share = (here - low) / (high - low)
        found: Array = 1 / ((1 - share) * self.precision[k - 1] + share * self.precision[k])
        return found


@dataclass(frozen=True, eq=False)
class CorrectedSDE(OneStep):
    """The chain whose limit is the SDE's, with the spread that a step of finite size leaves out."""

    residual: Residual
    shape: State

    stochastic = True
    limit: Limit | None = "sde"

    @cached_property
    def _modes(self) -> Modes:
        return Modes(self.shape)

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        beta = conditional_variance(s, t)
        a, b = s.alpha / t.alpha * (t.sigma / s.sigma) ** 2, t.alpha * beta / s.sigma**2
        mean = a * x + b * now.x0
        if t.sigma == 0:
            return mean
        beta_tilde = beta * (t.sigma / s.sigma) ** 2
        spread = torch.from_numpy(np.sqrt(beta_tilde + b**2 * self.residual.at(s.snr))).to(x)
        return mean + self._modes.inverse(spread * self._modes(z.to(x)))

    def transition(self, levels: Sequence[Level]) -> None:
        """None: its noise differs from mode to mode."""

    def __str__(self) -> str:
        # How V is interpolated is part of it: chains kept from before are not gone on from.
        return "limit:sde (1/V in SNR)"


@dataclass(frozen=True, eq=False)
class Exponential(OneStep):
    """The second-order single-step exponential integrator, asking half-way in log σ/α."""

    schedule: Schedule
    whole: bool = False

    exact_teacher = True
    limit: Limit | None = "ode"

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        end = t.alpha * now.x0 + t.sigma * now.epsilon
        # From pure noise, and to the clean end, the middle lies nowhere: a first-order step.
        if t.sigma == 0 or s.alpha == 0:
            return end
        middle = self._between(s, t)
        if not s.snr < middle.snr < t.snr:
            return end
        h, part = log(s.ratio / t.ratio), log(s.ratio / middle.ratio)
        asked = middle.sigma / s.sigma * x + middle.alpha * (1 - exp(-part)) * now.x0
        then = predict(asked, middle)
        weight = h / (2 * part)
        x0 = (1 - weight) * now.x0 + weight * then.x0
        return t.sigma / s.sigma * x + t.alpha * (1 - exp(-h)) * x0

    def _between(self, s: Level, t: Level) -> Level:
        index = self.schedule.index_of_ratio(sqrt(s.ratio * t.ratio))
        own = (
            self.schedule.level(round(index))
            if self.whole
            else self.schedule.at_ratio(sqrt(s.ratio * t.ratio))
        )
        if abs(np.hypot(s.alpha, s.sigma) - 1) < 1e-6 or self.schedule.parameterisation != "vp":
            return own
        return Level(own.timestep, 1.0, own.ratio)  # a scheduler's coordinates

    def __str__(self) -> str:
        return "limit:ode (exponential)"


@dataclass(frozen=True)
class HeunLimit(Heun):
    """Heun's method on the way to the limit."""

    def __str__(self) -> str:
        return "limit:ode (heun)"


def ode(schedule: Schedule, levels: Sequence[Level], whole: bool = False) -> OneStep:
    """The sampler on the way to the probability flow.

    Heun where it is stable, else `Exponential`."""
    in_x = schedule.parameterisation == "flow"
    if not in_x and levels[0].ratio <= STABLE_RATIO:
        return HeunLimit()
    return Exponential(schedule, whole)
