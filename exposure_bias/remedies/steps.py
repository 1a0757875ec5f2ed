"""Remedies of the step: samplers that correct the states of another sampler.

    dcw   differential correction in the wavelet domain    (Yu et al. 2026, arXiv 2604.16044)

After each step from s to t, with the states over α and LL the coarsest part of one level of the
Haar transform (the mean over blocks of two by two pixels),

    LL(x_t) ← LL(x_t) + c (σ_s/σ_max) (LL(x_t) − LL(x̂_0)),

where x̂_0 is what the network said last, σ the noise-to-signal ratio σ/α, and σ_max that of the
chain's first level. This is the rule that the paper's code recommends, with c = 0.005 for 13 Euler
steps of EDM's CIFAR-10 network. c = 0 is the sampler itself. Where the first level has α = 0, σ
itself takes the place of σ/α. An odd row or column at the border is a block of its own.

A corrected sampler is judged against the limit of the sampler that it wraps: what the correction
does to a chain of finitely many steps counts as the solver's share. As text (`corrected`, and in a
sampler's name): "ddim + dcw:0.05". A stranger's is `module:NAME`, a function of a sampler that
returns one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, isinf
from typing import Any

from exposure_bias import strangers
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.samplers import (
    Asking,
    Predict,
    Prediction,
    Sampler,
    Steps,
    Transition,
    order_of,
    prepared,
    wants_variance,
)
from exposure_bias.samplers import checked as checked_sampler
from exposure_bias.samplers.protocol import Limit
from exposure_bias.schedules import Level, Schedule

SEPARATOR = " + "
ALLOWED = "dcw:C, or module:NAME of yours"


def dcw(sampler: Any, c: float) -> Sampler:
    """Correct the low frequencies of a sampler's states after each step (module docstring).

    Parameters
    ----------
    sampler : Sampler or str
        What is corrected: a sampler of ours by name, or any object with the members of
        `samplers.Sampler`.
    c : float
        The strength. The published one is 0.005; 0 is the sampler itself, bit for bit.

    Returns
    -------
    Sampler

    Raises
    ------
    InputError
        For a model in place of a sampler, and for c that is no finite number.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> str(eb.remedies.dcw("ddim", 0.05))
    'ddim:0 + dcw:0.05'
    """
    return _DCW(sampler_of(sampler, "dcw"), _strength(c))


def sampler_of(value: Any, remedy: str) -> Sampler:
    """A sampler from its name or itself. Raises InputError for a model."""
    from exposure_bias.samplers import parse

    if isinstance(value, Denoiser):
        raise InputError(
            f"{remedy} corrects the steps of a sampler, and {value.name} is a model: give a"
            f" sampler, such as remedies.{remedy}('ddim', …)"
        )
    return parse(value) if isinstance(value, str) else checked_sampler(value)


def _strength(c: Any) -> float:
    if isinstance(c, bool) or not isinstance(c, int | float) or not isfinite(c):
        raise InputError(f"the strength c of dcw is a finite number, got {c!r}")
    return float(c)


def corrected(sampler: Sampler, text: str) -> Sampler:
    """The sampler with the remedy of the step that `text` describes (module docstring).

    Raises InputError for anything else, naming what is allowed.
    """
    kind, _, rest = text.partition(":")
    if kind == "dcw":
        try:
            return dcw(sampler, float(rest))
        except ValueError:
            raise InputError(f"unknown remedy {text!r} of a step: allowed are {ALLOWED}") from None
    if not strangers.is_name(text):
        raise InputError(f"unknown remedy {text!r} of a step: allowed are {ALLOWED}")
    return checked_sampler(strangers.made(text, "remedy", sampler))


def is_of_steps(text: str) -> bool:
    """Whether a text names a remedy of ours that corrects steps rather than a network."""
    return text.partition(":")[0] == "dcw"


@dataclass(frozen=True)
class Corrected:
    """A sampler whose states are corrected after each step; write `correct`.

    sampler: what is corrected. Its questions are answered as that sampler answers them, but for
    what a correction changes: states are no longer those of the forward process, and there is no
    Gaussian reference.
    """

    sampler: Sampler

    ancestral = False
    exact_teacher = False

    @property
    def stochastic(self) -> bool:
        """As the sampler is."""
        return self.sampler.stochastic

    @property
    def limit(self) -> Limit | None:
        """That of the sampler, against which its corrected chains are judged."""
        return self.sampler.limit

    @property
    def order(self) -> int:
        """The sampler's."""
        return order_of(self.sampler)

    @property
    def wants_variance(self) -> bool:
        """As the sampler does."""
        return wants_variance(self.sampler)

    @property
    def clip(self) -> Any:
        """How the sampler clips by itself, or None."""
        return getattr(self.sampler, "clip", None)

    @property
    def takes_epsilon(self) -> bool:
        """Whether the sampler takes x̂_0 and ε̂ apart."""
        return bool(getattr(self.sampler, "takes_epsilon", True))

    def levels(self, schedule: Schedule, steps: int, spacing: Any) -> tuple[Level, ...]:
        """The sampler's."""
        return self.sampler.levels(schedule, steps, spacing)

    def prior_scale(self, level: Level) -> float:
        """The sampler's."""
        return self.sampler.prior_scale(level)

    def transition(self, levels: Sequence[Level]) -> tuple[Transition, ...] | None:
        """None: a correction of blocks of pixels is no factor along a direction of the data."""
        return None

    def prepared(self, schedule: Schedule, steps: int, spacing: Any) -> "Corrected":
        """The same remedy of the prepared sampler."""
        return replace(self, sampler=prepared(self.sampler, schedule, steps, spacing))

    def begin(self, levels: Sequence[Level]) -> Steps:
        """The sampler's steps, each followed by its correction."""
        return _CorrectedSteps(self, self.sampler.begin(levels), levels[0])

    def correct(self, x: Any, said: Any, s: Level, t: Level, first: Level) -> Any:
        """The state x at t after the step from s; said: the last x̂_0; first: the first level."""
        raise NotImplementedError


class _CorrectedSteps:
    """One chain of `Corrected`, which listens to what the network says."""

    def __init__(self, remedy: Corrected, steps: Steps, first: Level) -> None:
        self._remedy, self._steps, self._first = remedy, steps, first
        self.asks_itself = bool(getattr(steps, "asks_itself", False))
        self.asks_at = frozenset(getattr(steps, "asks_at", ()))

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict) -> Any:
        said = [now]

        def listening(x: Any, level: Level) -> Prediction:
            said.append(predict(x, level))
            return said[-1]

        # A loop of somebody else's may hand over a plain function, which knows no levels between.
        between = getattr(predict, "between", None)
        moved = self._steps.step(x, now, s, t, z, Asking(listening, between))
        return self._remedy.correct(moved, said[-1].x0, s, t, self._first)


@dataclass(frozen=True)
class _DCW(Corrected):
    strength: float
    # σ of a chain's first level, of a whole chain that has been prepared; its tails begin later.
    largest: Level | None = None

    def prepared(self, schedule: Schedule, steps: int, spacing: Any) -> "_DCW":
        sampler = prepared(self.sampler, schedule, steps, spacing)
        return replace(self, sampler=sampler, largest=sampler.levels(schedule, steps, spacing)[0])

    def correct(self, x: Any, said: Any, s: Level, t: Level, first: Level) -> Any:
        if self.strength == 0:
            return x
        most = self.largest or first
        share = s.sigma / most.sigma if isinf(most.ratio) else s.ratio / most.ratio
        return x + self.strength * share * low_pass(x - t.alpha * said)

    def __str__(self) -> str:
        return f"{self.sampler}{SEPARATOR}dcw:{self.strength:.12g}"


def low_pass(x: Any) -> Any:
    """The mean over blocks of two pixels along each of the last two axes of space.

    It is the part LL of one level of the Haar transform, as a state (B, C, *space); of signals over
    their one axis. Raises InputError for vectors.
    """
    axes = range(max(2, x.ndim - 2), x.ndim)
    if not len(axes):
        raise InputError("dcw corrects low frequencies, and vectors have no axis of space")
    for axis in axes:
        x = _blocks(x.movedim(axis, -1)).movedim(-1, axis)
    return x


def _blocks(x: Any) -> Any:
    """The last axis (N) with each pair of neighbours replaced by its mean."""
    even = x.shape[-1] // 2 * 2
    pairs = x[..., :even].unflatten(-1, (-1, 2))
    mean = pairs.mean(-1, keepdim=True).expand_as(pairs).flatten(-2)
    import torch

    return torch.cat([mean, x[..., even:]], dim=-1)
