"""DDPM, DDIM, Euler and Heun: the samplers of the first papers.

With x̂_0 and ε̂ the prediction at (x_s, s), z unit noise and SNR = α²/σ²:

    ddpm    x_t = (a σ_t²/σ_s²) x_s + (α_t σ²_{s|t}/σ_s²) x̂_0 + √v z,   a = α_s/α_t,
            σ²_{s|t} = σ_s² − a² σ_t², and v = σ²_{s|t} σ_t²/σ_s² (`fixed_small`, β̃),
            σ²_{s|t} (`fixed_large`, β), or between them in the log (`learned_range`); the last
            step, to σ_t = 0, is noise-free       (Ho et al. 2020, eq. 7; Nichol 2021, eq. 15)
    ddim(η) x_t = α_t x̂_0 + √(σ_t² − v) ε̂ + √v z,   v = η² σ_t² (1 − SNR_s/SNR_t)
                                                             (Song et al. 2021, eq. 12 and 16)
    euler   x_t = x_s + Δα x̂_0 + Δσ ε̂   where the probability flow's path is straight: in x for
            flow, in x/α otherwise; with x_s = α_s x̂_0 + σ_s ε̂ that is α_t x̂_0 + σ_t ε̂
    heun    euler, then the mean of both slopes; the last step, to σ_t = 0, is Euler's
                                                                     (Karras et al. 2022, Alg. 1)
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any

from exposure_bias.errors import InputError
from exposure_bias.samplers.protocol import (
    Limit,
    OneStep,
    Predict,
    Prediction,
    Transition,
    conditional_variance,
    specification,
    straight_in_x,
)
from exposure_bias.schedules import Level, Schedule

VARIANCES = ("fixed_small", "fixed_large", "learned_range")
UNSTABLE = 1.0


@dataclass(frozen=True)
class DDPM(OneStep):
    """Ancestral sampling with one of `VARIANCES`."""

    variance: str = "fixed_small"

    stochastic = True
    ancestral = True
    limit = "sde"

    @property
    def wants_variance(self) -> bool:  # type: ignore[override]
        """For learned_range."""
        return self.variance == "learned_range"

    def __post_init__(self) -> None:
        if self.variance not in VARIANCES:
            allowed = ", ".join(VARIANCES)
            raise InputError(f"unknown variance {self.variance!r} of ddpm: allowed are {allowed}")

    @property
    def exact_teacher(self) -> bool:  # type: ignore[override]
        """Not with a wider variance than β̃."""
        return self.variance == "fixed_small"

    def transition(self, levels: Sequence[Level]) -> tuple[Transition, ...] | None:
        """None for learned_range, whose variance is the network's."""
        return None if self.variance == "learned_range" else super().transition(levels)

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        beta = conditional_variance(s, t)
        on_state = s.alpha / t.alpha * (t.sigma / s.sigma) ** 2
        mean = on_state * x + (t.alpha * beta / s.sigma**2) * now.x0
        if t.sigma == 0:
            return mean
        beta_tilde = beta * (t.sigma / s.sigma) ** 2
        if self.variance != "learned_range":
            return mean + sqrt(beta if self.variance == "fixed_large" else beta_tilde) * z
        if now.variance is None:
            raise InputError(
                "ddpm:learned_range needs a network that predicts its variance; use ddpm or"
                " ddpm:fixed_large"
            )
        between = (0.5 * log(beta / beta_tilde) * now.variance).exp()
        return mean + sqrt(beta_tilde) * between * z

    def __str__(self) -> str:
        return f"ddpm:{self.variance}" if type(self) is DDPM else specification(self)


@dataclass(frozen=True)
class DDIM(OneStep):
    """DDIM(η), 0 ≤ η ≤ 1."""

    eta: float = 0.0

    exact_teacher = True

    def __post_init__(self) -> None:
        if (
            isinstance(self.eta, bool)
            or not isinstance(self.eta, int | float)
            or not 0 <= self.eta <= 1
        ):
            raise InputError(f"ddim takes 0 ≤ eta ≤ 1, got {self.eta!r}")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """From η > 0 on."""
        return self.eta > 0

    @property
    def ancestral(self) -> bool:  # type: ignore[override]
        """At η = 1, which is DDPM."""
        return self.eta == 1

    @property
    def limit(self) -> Limit | None:  # type: ignore[override]
        """Between 0 and 1 it is a third one, with less noise than the SDE."""
        return "ode" if self.eta == 0 else "sde" if self.eta == 1 else None

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        variance = self.eta**2 * t.sigma**2 * (1 - s.snr / t.snr) if t.sigma else 0.0
        mean = t.alpha * now.x0 + sqrt(t.sigma**2 - variance) * now.epsilon
        return mean + sqrt(variance) * z if variance else mean

    def __str__(self) -> str:
        eta = int(self.eta) if self.eta in (0, 1) else self.eta
        return f"ddim:{eta}" if type(self) is DDIM else specification(self)


@dataclass(frozen=True)
class Euler(OneStep):
    """Euler's method for the probability flow."""

    exact_teacher = True
    limit = "ode"

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        # On a straight path it is exact but for the prediction; nothing is divided by a small α.
        return t.alpha * now.x0 + t.sigma * now.epsilon

    def __str__(self) -> str:
        return "euler" if type(self) is Euler else specification(self)


@dataclass(frozen=True)
class Heun(Euler):
    """Heun's method for the probability flow.

    Its first correction is Δε̂ times half of the noise-to-signal ratio u_s = σ_s/α_s, where Δε̂ is
    about x_0/u_t: of the size of x_0 times u_s/2u_t², which is 300 at the start of ten steps on a
    cosine schedule and 0.03 on a linear one. `levels` warns above `UNSTABLE`.
    """

    order = 2

    def levels(
        self, schedule: Schedule, steps: int, spacing: Any = "linspace"
    ) -> tuple[Level, ...]:
        """The schedule's own; warns of a first step that multiplies errors."""
        levels = super().levels(schedule, steps, spacing)
        s, t = levels[:2]
        stable = t.sigma == 0 or s.alpha == 0 or (straight_in_x(s) and straight_in_x(t))
        if not stable and s.ratio / (2 * t.ratio**2) > UNSTABLE:
            warnings.warn(
                f"heun works in x/α, and its first step here, from σ/α = {s.ratio:.3g} to"
                f" {t.ratio:.3g}, multiplies the network's errors: its chain means little; use"
                " ddim, more steps, or DPMSolverMultistepScheduler",
                stacklevel=2,
            )
        return levels

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        end = super().step(x, now, s, t, z, predict)
        if t.sigma == 0:
            return end
        in_x = straight_in_x(s) and straight_in_x(t)
        if not in_x and s.alpha == 0:
            raise InputError(
                "heun works in x/α, but this schedule starts at α = 0: use euler, ddim or ddpm"
            )
        scale_s, scale_t = (1.0, 1.0) if in_x else (s.alpha, t.alpha)
        d_alpha = t.alpha / scale_t - s.alpha / scale_s
        d_sigma = t.sigma / scale_t - s.sigma / scale_s
        then = predict(end, t)
        change = d_alpha * (then.x0 - now.x0) + d_sigma * (then.epsilon - now.epsilon)
        return end + scale_t / 2 * change

    def __str__(self) -> str:
        return "heun" if type(self) is Heun else specification(self)
