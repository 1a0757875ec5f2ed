"""What a sampler is: the members of `Sampler`, and `OneStep`, which fills in most of them.

A sampler takes one step s → t of a chain, t cleaner than s. Every question about a sampler is a
member of the protocol, so that a stranger's sampler works wherever ours do.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from math import hypot
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np

from exposure_bias.errors import InputError
from exposure_bias.schedules import Level, Schedule

ROUND_OFF = 1e-6

Limit = Literal["sde", "ode"]


class Prediction(NamedTuple):
    """What a denoiser says at one state: x̂_0 and ε̂ (B, *shape), and what else somebody may want.

    variance: learned interpolation between log β̃ (0) and log β (1), or None. outside: fraction
    (B,) of x̂_0 beyond [−1, 1] before any clipping, or None. output: the network's raw output, or
    None.
    norm: ‖ε̂‖₂ (B,) of what the network said, before any clipping, or None.
    """

    x0: Any
    epsilon: Any
    variance: Any = None
    outside: Any = None
    output: Any = None
    norm: Any = None


class Predict(Protocol):
    """How a step asks the model at a state and level of its own choice.

    A level is one of the chain's, one that `between` gave, or any other: its α and σ say how noisy
    the state is, and the network is asked under the schedule's label for that. A call at a level
    that the schedule does not have raises InputError.
    """

    def __call__(self, x: Any, level: Level) -> Prediction:
        """What the model says at state x of a level."""

    def between(self, s: Level, t: Level, share: float = 0.5) -> Level:
        """The schedule's level at a share of the way from s to t in log σ/α.

        A network that answers at whole timesteps only gives the nearest of them between the two.
        Raises InputError where there is none.
        """


class Asking:
    """A `Predict` made of a function that answers and one that finds levels between two."""

    def __init__(
        self,
        answer: Callable[[Any, Level], Prediction],
        between: Callable[[Level, Level, float], Level] | None = None,
    ) -> None:
        self._answer, self._between = answer, between

    def __call__(self, x: Any, level: Level) -> Prediction:
        return self._answer(x, level)

    def between(self, s: Level, t: Level, share: float = 0.5) -> Level:
        """The level between two; InputError where there is no schedule to ask for it."""
        if self._between is None:
            raise NoSchedule("a level between two steps is asked of the schedule, and here is none")
        return self._between(s, t, share)


class NoSchedule(InputError):
    """A step asked for a level between two where no schedule is known."""


class Steps(Protocol):
    """What takes the steps of one chain, in order; a multistep solver keeps its history here.

    An attribute `asks_at` holds further levels whose labels the network is asked under as they are.
    An attribute `asks_itself = True` says that `now` is not wanted: it is None then, and the chain
    does not ask the network on behalf of the step. Such a chain has no predictions to record.
    """

    def step(self, x: Any, now: Any, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        """x_t from x_s, the prediction `now` there and unit noise z, which is None without noise.

        predict: asks the model at another state and level, for solvers of higher order.
        """


class Stage(NamedTuple):
    """Where a step asks the model.

    At `state` · x_s + Σ_j `predictions`[j] · x̂_0 of stage j, at `level`."""

    level: Level
    state: float
    predictions: tuple[float, ...]


class Transition(NamedTuple):
    """A step that is linear.

    x_t = `state` · x_s + Σ_j `predictions`[j] · x̂_0 of stage j + `noise` · z.

    stages: where x̂_0 was asked; the first of them is (s, 1, ()).
    """

    stages: tuple[Stage, ...]
    state: float
    predictions: tuple[float, ...]
    noise: float


@runtime_checkable
class Sampler(Protocol):
    """What a sampler is. All of these are needed; `OneStep` fills in most of them.

    stochastic: whether a step uses its noise z. ancestral: whether consecutive states have the
    right joint law, so that a perfect chain is a draw of p(x_0 | x_s). exact_teacher: whether each
    state of the teacher chain is exactly q(x_t | x_0). limit: what a model's chain
    tends to as its steps shrink, the "sde" (ddpm, ddim:1), the "ode" (ddim, euler, heun), or None
    where it is neither or not known.

    Two more members may be left out. order: the power of 1/T′ by which its error falls, 1 without
    it. wants_variance: whether a step uses the variance that a network learned, False without it.
    """

    @property
    def stochastic(self) -> bool: ...
    @property
    def ancestral(self) -> bool: ...
    @property
    def exact_teacher(self) -> bool: ...
    @property
    def limit(self) -> Limit | None: ...

    def levels(self, schedule: Schedule, steps: int, spacing: Any) -> tuple[Level, ...]:
        """The steps + 1 levels of a chain of `steps`, noisiest first.

        spacing: a name, or the levels themselves; both are for `Schedule.levels`.
        """

    def begin(self, levels: Sequence[Level]) -> Steps:
        """What takes a chain's steps through `levels`; InputError if it cannot."""

    def transition(self, levels: Sequence[Level]) -> tuple[Transition, ...] | None:
        """Each step's linear coefficients, for the Gaussian reference; None where it has none."""

    def prior_scale(self, level: Level) -> float:
        """Standard deviation of a start from pure noise at `level`."""


MEMBERS = (
    "stochastic",
    "ancestral",
    "exact_teacher",
    "limit",
    "levels",
    "begin",
    "transition",
    "prior_scale",
)


class OneStep(ABC):
    """A sampler that remembers nothing from step to step: write `step` and say what it is.

    A subclass gets its Gaussian reference from its own `step`, by asking that for its response to
    each of its inputs (`transition`); a step that is not linear in them has to return None there.
    One that asks for levels between its own has no such reference.
    """

    stochastic: bool = False
    ancestral: bool = False
    exact_teacher: bool = False
    limit: Limit | None = None
    order: int = 1
    wants_variance: bool = False

    @abstractmethod
    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        """x_t from x_s (any array type): see `Steps`."""

    def levels(
        self, schedule: Schedule, steps: int, spacing: Any = "linspace"
    ) -> tuple[Level, ...]:
        """The schedule's own."""
        return schedule.levels(steps, spacing)

    def prepared(self, schedule: Schedule, steps: int, spacing: Any) -> Self:
        """The sampler of one chain's levels; itself, as it knows each step from its two levels."""
        return self

    def begin(self, levels: Sequence[Level]) -> Self:
        """The sampler itself, as it keeps nothing between steps."""
        return self

    def transition(self, levels: Sequence[Level]) -> tuple[Transition, ...] | None:
        """The coefficients of `step`, from its responses to unit inputs."""
        try:
            return tuple(_responses(self, s, t) for s, t in pairwise(levels))
        except NoSchedule:
            return None

    def prior_scale(self, level: Level) -> float:
        """1 where α² + σ² = 1, σ otherwise, as each family's samplers begin."""
        return prior_scale(level)

    def __str__(self) -> str:
        return specification(self)


def option(
    text: str, of: str, form: str, words: Mapping[str, Any] | None = None
) -> tuple[str, Any]:
    """The key and the value of "key=value": JSON, else one of `words`, else text.

    of: whose option it is; form: how the whole begins. Raises InputError without an equals sign.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise InputError(
            f"cannot read the option {text!r} of {of}: write {form}:key=value,key=value"
        )
    try:
        return key, json.loads(value)
    except ValueError:
        return key, (words or {}).get(value, value)


def specification(sampler: Any) -> str:
    """`module:Class[:KEY=VALUE,…]` of a stranger's sampler.

    Its fields are listed if it is a dataclass."""
    cls = type(sampler)
    name = f"{cls.__module__}:{cls.__qualname__}"
    values = (
        {f.name: getattr(sampler, f.name) for f in fields(sampler)}
        if hasattr(cls, "__dataclass_fields__")
        else {}
    )
    listed = ",".join(f"{key}={json.dumps(value, default=str)}" for key, value in values.items())
    return f"{name}:{listed}" if listed else name


def prepared(sampler: Sampler, schedule: Schedule, steps: int, spacing: Any) -> Sampler:
    """The sampler of a chain's levels, where it has to know them beforehand (`OneStep.prepared`).

    A sampler without that member is returned as it is.
    """
    of = getattr(sampler, "prepared", None)
    return sampler if of is None else of(schedule, steps, spacing)


def order_of(sampler: Sampler) -> int:
    """Return the power of 1/T′ by which a sampler's error falls: 1 where it does not say."""
    return int(getattr(sampler, "order", 1))


def wants_variance(sampler: Sampler) -> bool:
    """Return whether a sampler's step uses the variance that a network learned."""
    return bool(getattr(sampler, "wants_variance", False))


def prior_scale(level: Level) -> float:
    """Standard deviation of pure noise at a level: 1 where α² + σ² = 1, else σ."""
    return 1.0 if abs(hypot(level.alpha, level.sigma) - 1) < ROUND_OFF else level.sigma


def straight_in_x(level: Level) -> bool:
    """Whether α + σ = 1 (flow matching).

    A path x = α x_0 + σ ε between such levels is straight in x."""
    return abs(level.alpha + level.sigma - 1) < ROUND_OFF


def conditional_variance(s: Level, t: Level) -> float:
    """σ²_{s|t} = σ_s² − (α_s/α_t)² σ_t², the variance of q(x_s | x_t); DDPM calls it β."""
    return s.sigma**2 - (s.alpha / t.alpha * t.sigma) ** 2


def _responses(steps: Steps, s: Level, t: Level, most: int = 8) -> Transition:
    """A step's response to x_s, to x̂_0 at each place it is asked for, and to z.

    Vectors in that order."""
    unit = np.eye(2 + most)
    stages = [Stage(s, 1.0, ())]

    def said(x: Any, level: Level) -> Prediction:
        x0 = unit[1 + len(stages)]
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)

    def predict(x: Any, level: Level) -> Prediction:
        stages.append(Stage(level, float(x[0]), _coefficients(x, len(stages))))
        return said(x, level)

    x = steps.step(unit[0], said(unit[0], s), s, t, unit[1], Asking(predict))
    return Transition(tuple(stages), float(x[0]), _coefficients(x, len(stages)), float(x[1]))


def _coefficients(x: Any, stages: int) -> tuple[float, ...]:
    """A response's part in the x̂_0 of the first `stages` stages."""
    return tuple(float(b) for b in x[2 : 2 + stages])
