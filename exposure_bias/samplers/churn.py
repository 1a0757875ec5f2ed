"""EDM's stochastic sampler: Heun's method with churn (Karras et al. 2022, Algorithm 2).

Before each step the noise of a state is raised from σ to σ̂ = (1 + γ) σ by fresh noise, and the
network is asked there:

    γ = min(S_churn/N, √2 − 1)   where S_min ≤ σ ≤ S_max, else 0
    x̂ = x + √(σ̂² − σ²) S_noise z

where σ stands for the noise-to-signal ratio σ/α and N for the number of steps. With S_churn = 0 it
is `heun`.

The states that a chain keeps are the x̂, at the levels σ̂, because these are what the network sees.
So a step goes from σ̂_i by Heun's method to σ_{i+1} and from there by fresh noise to σ̂_{i+1}. The
two ways of counting give the same chain: a start from noise at σ_0 that is raised to σ̂_0 is a start
from noise at σ̂_0.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import inf, sqrt
from typing import Any

from exposure_bias.errors import InputError
from exposure_bias.samplers.first_order import Heun
from exposure_bias.samplers.protocol import Limit, Predict, Prediction
from exposure_bias.schedules import Level, Schedule

MOST = sqrt(2) - 1


@dataclass(frozen=True)
class EDM(Heun):
    """Heun's method with churn (module docstring).

    Parameters
    ----------
    churn : float
        S_churn, at least 0: how much noise the whole chain adds, in units of the noise it has.
    s_min, s_max : float
        The range of σ/α in which noise is added.
    s_noise : float
        S_noise, above 0: the added noise is multiplied by it. At other values than 1 the states are
        at no level of the forward process exactly.

    Raises
    ------
    InputError
        For numbers outside these ranges.

    Examples
    --------
    >>> from exposure_bias.samplers import EDM
    >>> str(EDM(churn=40))
    'edm:churn=40'
    """

    churn: float = 0.0
    s_min: float = 0.0
    s_max: float = inf
    s_noise: float = 1.0
    # Each level of a chain, and the one without the added noise; of one schedule (`prepared`).
    plan: tuple[tuple[Level, Level], ...] = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        numbers = (self.churn, self.s_min, self.s_max, self.s_noise)
        if not all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers) or not (
            0 <= self.churn < inf and 0 <= self.s_min < self.s_max and 0 < self.s_noise < inf
        ):
            raise InputError(
                "edm takes churn ≥ 0, 0 ≤ s_min < s_max and s_noise > 0, got"
                f" churn={self.churn!r}, s_min={self.s_min!r}, s_max={self.s_max!r},"
                f" s_noise={self.s_noise!r}"
            )

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """With churn."""
        return self.churn > 0

    @property
    def exact_teacher(self) -> bool:  # type: ignore[override]
        """Where what is added is what the level says."""
        return self.churn == 0 or self.s_noise == 1

    @property
    def limit(self) -> Limit | None:  # type: ignore[override]
        """That of the probability flow without churn; with it, a limit of its own."""
        return "ode" if self.churn == 0 else None

    def prepared(self, schedule: Schedule, steps: int, spacing: Any) -> "EDM":
        """The sampler that knows a chain's levels with and without the added noise."""
        plain = super().levels(schedule, steps, spacing)
        gamma = min(self.churn / (len(plain) - 1), MOST)
        plan = tuple((self._raised(schedule, level, gamma), level) for level in plain[:-1])
        return replace(self, plan=(*plan, (plain[-1], plain[-1])))

    def levels(
        self, schedule: Schedule, steps: int, spacing: Any = "linspace"
    ) -> tuple[Level, ...]:
        """The levels with the added noise, and the clean end."""
        return tuple(level for level, _ in self.prepared(schedule, steps, spacing).plan)

    def _raised(self, schedule: Schedule, level: Level, gamma: float) -> Level:
        ratio = level.ratio * (1 + gamma)
        if gamma == 0 or not self.s_min <= level.ratio <= self.s_max or ratio == inf:
            return level
        unbounded = schedule.curve is not None and schedule.curve.unbounded
        raised = schedule.at(ratio) if unbounded else schedule.at_ratio(ratio)
        return raised if raised.ratio > level.ratio else level

    def begin(self, levels: Sequence[Level]) -> "EDM":
        """The sampler itself; InputError for levels that it has not prepared."""
        known = dict(self.plan)
        if self.churn and any(level not in known for level in levels):
            raise InputError(
                "edm with churn has levels of its own, which cannot be refined or replaced: give it"
                " more steps, or let `prepared` make them"
            )
        return self

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        plain = dict(self.plan).get(t, t)
        end = super().step(x, now, s, plain, None, predict)
        if t.ratio <= plain.ratio:
            return end
        added = self.s_noise * sqrt(t.ratio**2 - plain.ratio**2)
        return t.alpha * (end / plain.alpha + added * z)

    def __str__(self) -> str:
        values = {"churn": self.churn, "s_min": self.s_min, "s_max": self.s_max}
        usual = {"churn": 0.0, "s_min": 0.0, "s_max": inf, "s_noise": 1.0}
        values["s_noise"] = self.s_noise
        listed = ",".join(f"{k}={v:.12g}" for k, v in values.items() if v != usual[k])
        return f"edm:{listed}" if listed else "edm"
