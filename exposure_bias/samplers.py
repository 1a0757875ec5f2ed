"""Samplers: one step s → t of a chain (t cleaner).

Each is written as its paper's algorithm. No torch here.

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

A sampler is anything with the members of `Sampler`. Every question about one is a member of it, so
that a stranger's works wherever ours do, and diffusers' schedulers are samplers like any other
(`adapters.schedulers`). Ours are named by a string, the same in Python and at the command line:
`ddpm` (= `ddpm:fixed_small`), `ddpm:fixed_large`, `ddpm:learned_range`, `ddim` (= `ddim:0`),
`ddim:0.5`, `euler`, `heun`; a stranger's by `module:Class`, with options
`module:Class:KEY=VALUE,…`."""

import json
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise
from math import hypot, log, sqrt
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np

from exposure_bias.errors import InputError
from exposure_bias.schedules import Level, Schedule
from exposure_bias.strangers import imported

VARIANCES = ("fixed_small", "fixed_large", "learned_range")
SPECIFICATIONS = "ddpm, ddpm:fixed_large, ddpm:learned_range, ddim, ddim:ETA, euler, heun"
ROUND_OFF = 1e-6
UNSTABLE = 1.0

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


Predict = Callable[[Any, Level], Prediction]


class Steps(Protocol):
    """What takes the steps of one chain, in order; a multistep solver keeps its history here.

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
    state of the teacher chain is exactly q(x_t | x_0) (design §4.1). limit: what a model's chain
    tends to as its steps shrink, the "sde" (ddpm, ddim:1), the "ode" (ddim, euler, heun), or None
    where it is neither or not known.
    """

    @property
    def stochastic(self) -> bool: ...
    @property
    def ancestral(self) -> bool: ...
    @property
    def exact_teacher(self) -> bool: ...
    @property
    def limit(self) -> Limit | None: ...

    def levels(self, schedule: Schedule, steps: int, spacing: str) -> tuple[Level, ...]:
        """The steps + 1 levels of a chain of `steps`, noisiest first."""

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
    """

    stochastic: bool = False
    ancestral: bool = False
    exact_teacher: bool = False
    limit: Limit | None = None

    @abstractmethod
    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        """x_t from x_s (any array type): see `Steps`."""

    def levels(
        self, schedule: Schedule, steps: int, spacing: str = "linspace"
    ) -> tuple[Level, ...]:
        """The schedule's own."""
        return schedule.levels(steps, spacing)

    def begin(self, levels: Sequence[Level]) -> Self:
        """The sampler itself, as it keeps nothing between steps."""
        return self

    def transition(self, levels: Sequence[Level]) -> tuple[Transition, ...] | None:
        """The coefficients of `step`, from its responses to unit inputs."""
        return tuple(_responses(self, s, t) for s, t in pairwise(levels))

    def prior_scale(self, level: Level) -> float:
        """1 where α² + σ² = 1, σ otherwise, as each family's samplers begin."""
        return prior_scale(level)

    def __str__(self) -> str:
        return specification(self)


@dataclass(frozen=True)
class DDPM(OneStep):
    """Ancestral sampling with one of `VARIANCES`."""

    variance: str = "fixed_small"

    stochastic = True
    ancestral = True
    limit = "sde"

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

    def levels(
        self, schedule: Schedule, steps: int, spacing: str = "linspace"
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


def parse(sampler: Any) -> Sampler:
    """The sampler that a string names (module docstring), or the sampler itself.

    Raises InputError with the allowed names, and for an object that lacks a member of `Sampler`.
    """
    if not isinstance(sampler, str):
        return checked(sampler)
    name, _, option = sampler.partition(":")
    if name in ("ddpm", "ddim", "euler", "heun"):
        return _ours(sampler, name, option)
    if ":" in sampler:
        return _stranger(sampler)
    raise InputError(
        f"unknown sampler {sampler!r}: allowed are {SPECIFICATIONS} (0 ≤ ETA ≤ 1), or module:Class"
    )


def checked(sampler: Any) -> Sampler:
    """An object as a `Sampler`. Raises InputError that names the members it lacks."""
    if isinstance(sampler, type):
        raise InputError(
            f"{sampler.__name__} is a class: give a sampler made of it, {sampler.__name__}(…)"
        )
    missing = [name for name in MEMBERS if not hasattr(sampler, name)]
    if len(missing) == len(MEMBERS):
        raise InputError(
            f"a sampler is named by a string, got {type(sampler).__name__}: allowed are"
            f" {SPECIFICATIONS}"
        )
    if missing:
        name = type(sampler).__name__
        raise InputError(
            f"{name} is no sampler yet: it lacks {', '.join(missing)} (samplers.Sampler)"
        )
    if sampler.limit not in ("sde", "ode", None):
        raise InputError(
            f"{type(sampler).__name__}.limit is {sampler.limit!r}: allowed are 'sde', 'ode' and"
            " None"
        )
    result: Sampler = sampler
    return result


def named(sampler: str) -> Sampler | None:
    """One of ours by its recorded name, or None for anybody else's."""
    return (
        _ours(sampler, *sampler.partition(":")[::2]) if sampler.partition(":")[0] in OURS else None
    )


OURS: dict[str, Callable[..., OneStep]] = {"ddpm": DDPM, "ddim": DDIM, "euler": Euler, "heun": Heun}


def _ours(sampler: str, name: str, option: str) -> Sampler:
    try:
        if name == "ddim":
            return DDIM(float(option or 0))
        return OURS[name](option) if option else OURS[name]()
    except (TypeError, ValueError, InputError):
        raise InputError(
            f"unknown sampler {sampler!r}: allowed are {SPECIFICATIONS} (0 ≤ ETA ≤ 1), or"
            " module:Class"
        ) from None


def _stranger(text: str) -> Sampler:
    """The sampler of `module:Class[:KEY=VALUE,…]`, values in JSON or plain text."""
    module, name, *rest = text.split(":", 2)
    cls = imported(f"{module}:{name}", "sampler")
    given = rest[0].split(",") if rest else []
    options = dict(option(part, repr(text), "module:Class") for part in given if part)
    try:
        made = cls(**options)
    except TypeError as error:
        raise InputError(f"cannot make the sampler {text!r}: {error}") from error
    return checked(made)


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

    x = steps.step(unit[0], said(unit[0], s), s, t, unit[1], predict)
    return Transition(tuple(stages), float(x[0]), _coefficients(x, len(stages)), float(x[1]))


def _coefficients(x: Any, stages: int) -> tuple[float, ...]:
    """A response's part in the x̂_0 of the first `stages` stages."""
    return tuple(float(b) for b in x[2 : 2 + stages])
