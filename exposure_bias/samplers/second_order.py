"""Samplers of second order that k-diffusion and its users have, besides Heun's.

With r = σ/α, h = ln(r_s/r_t) > 0 and z unit noise, each step s → t:

    dpm_2_ancestral     midpoint method in x/α from r_s to r_down = r_t²/r_s, which asks at r_t;
                        then noise √(r_t² − r_down²) z is added
    dpmpp_2s_ancestral  the exponential midpoint method of DPM-Solver++(2S) over the same step;
                        then the same noise
    dpmpp_2m_sde        A x_s + B [x̂_0 + (x̂_0 − x̂_0')/(2ρ)] + C z, with x̂_0' the prediction of the
                        step before, ρ = h'/h the ratio of the two steps, and
                        A = (σ_t/σ_s) e^(−h), B = α_t (1 − e^(−2h)), C = σ_t √(1 − e^(−2h))
    dpmpp_2m            the same without noise: A = σ_t/σ_s, B = α_t (1 − e^(−h)), C = 0

The first two are k-diffusion's with eta = 1. There the middle of their step, √(r_s r_down), is the
level r_t itself, so that the network is asked at no level between the chain's own. The last two are
the SDE and the ODE solver of Lu et al. 2022 (arXiv 2211.01095, Algorithm 2 and section 5), with the
midpoint rule. Every chain's last step, to σ = 0, is x̂_0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, inf, log, sqrt
from typing import Any

from exposure_bias.errors import InputError
from exposure_bias.samplers.protocol import (
    Limit,
    OneStep,
    Predict,
    Prediction,
    Transition,
    specification,
)
from exposure_bias.schedules import Level


class _Ancestral(OneStep):
    """A second-order step down to less noise than t has, and noise up to t."""

    stochastic = True
    ancestral = True
    exact_teacher = True
    limit = "sde"
    order = 2

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        asked = t.alpha * now.x0 + t.sigma * now.epsilon
        if t.sigma == 0:
            return asked
        down = t.ratio**2 / s.ratio
        landed = self._down(x, predict(asked, t), s, t, down)
        return landed + t.alpha * sqrt(t.ratio**2 - down**2) * z

    def _down(self, x: Any, then: Prediction, s: Level, t: Level, down: float) -> Any:
        """The state at noise-to-signal ratio `down`, scaled as at t."""
        raise NotImplementedError


@dataclass(frozen=True)
class DPM2Ancestral(_Ancestral):
    """The ancestral midpoint method, `sample_dpm_2_ancestral` of k-diffusion with eta = 1.

    Examples
    --------
    >>> from exposure_bias.samplers import parse
    >>> parse("dpm_2_ancestral").limit
    'sde'
    """

    def _down(self, x: Any, then: Prediction, s: Level, t: Level, down: float) -> Any:
        if s.alpha == 0:
            raise InputError(
                "dpm_2_ancestral works in x/α, but this schedule starts at α = 0: use"
                " dpmpp_2s_ancestral or ddpm"
            )
        return t.alpha * (x / s.alpha + (down - s.ratio) * then.epsilon)

    def __str__(self) -> str:
        return "dpm_2_ancestral" if type(self) is DPM2Ancestral else specification(self)


@dataclass(frozen=True)
class DPMPP2SAncestral(_Ancestral):
    """Ancestral DPM-Solver++(2S), `sample_dpmpp_2s_ancestral` of k-diffusion with eta = 1.

    Examples
    --------
    >>> from exposure_bias.samplers import parse
    >>> parse("dpmpp_2s_ancestral").ancestral
    True
    """

    def _down(self, x: Any, then: Prediction, s: Level, t: Level, down: float) -> Any:
        kept = down / s.ratio
        return t.alpha * (down / s.sigma * x + (1 - kept) * then.x0)

    def __str__(self) -> str:
        return "dpmpp_2s_ancestral" if type(self) is DPMPP2SAncestral else specification(self)


@dataclass(frozen=True)
class DPMPP2M(OneStep):
    """Multistep DPM-Solver++(2M): of the SDE if `sde`, of the probability flow otherwise.

    Examples
    --------
    >>> from exposure_bias.samplers import DPMPP2M
    >>> str(DPMPP2M(sde=True)), DPMPP2M().limit
    ('dpmpp_2m_sde', 'ode')
    """

    sde: bool = False

    exact_teacher = True
    order = 2

    def __post_init__(self) -> None:
        if not isinstance(self.sde, bool):
            raise InputError(f"dpmpp_2m takes sde=True or False, got {self.sde!r}")

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Of the SDE."""
        return self.sde

    @property
    def ancestral(self) -> bool:  # type: ignore[override]
        """Of the SDE."""
        return self.sde

    @property
    def limit(self) -> Limit | None:  # type: ignore[override]
        """The equation that it solves."""
        return "sde" if self.sde else "ode"

    def begin(self, levels: Sequence[Level]) -> "_History":  # type: ignore[override]
        """A chain that remembers its last prediction."""
        return _History(self.sde)

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        """The first step of a chain, which has no history."""
        return _History(self.sde).step(x, now, s, t, z, predict)

    def transition(self, levels: Sequence[Level]) -> tuple[Transition, ...] | None:
        """None: a step depends on the one before."""
        return None

    def __str__(self) -> str:
        own = "dpmpp_2m_sde" if self.sde else "dpmpp_2m"
        return own if type(self) is DPMPP2M else specification(self)


class _History:
    """One chain of `DPMPP2M`."""

    def __init__(self, sde: bool) -> None:
        self._sde = sde
        self._last: tuple[Any, float] | None = None

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        if t.sigma == 0:
            return t.alpha * now.x0
        h = log(s.ratio / t.ratio) if s.alpha else inf
        x0, before = now.x0, self._last
        if before is not None and before[1] < inf:
            x0 = x0 + (x0 - before[0]) * (h / (2 * before[1]))
        self._last = now.x0, h
        kept, fresh = (exp(-h), -2 * h) if self._sde else (1.0, -h)
        mean = t.sigma / s.sigma * kept * x + t.alpha * (1 - exp(fresh)) * x0
        return mean + t.sigma * sqrt(1 - exp(-2 * h)) * z if self._sde else mean
