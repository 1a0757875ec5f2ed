"""Samplers: one step s → t of a chain (t cleaner), each written as its paper's algorithm. No torch here.

With x̂_0 and ε̂ the prediction at (x_s, s), z unit noise and SNR = α²/σ²:

    ddpm    x_t = (a σ_t²/σ_s²) x_s + (α_t σ²_{s|t}/σ_s²) x̂_0 + √v z,   a = α_s/α_t,  σ²_{s|t} = σ_s² − a² σ_t²
            v = σ²_{s|t} σ_t²/σ_s² (`fixed_small`, β̃), σ²_{s|t} (`fixed_large`, β), or between them in the log
            (`learned_range`); the last step, to σ_t = 0, is noise-free   (Ho et al. 2020, eq. 7; Nichol 2021, eq. 15)
    ddim(η) x_t = α_t x̂_0 + √(σ_t² − v) ε̂ + √v z,   v = η² σ_t² (1 − SNR_s/SNR_t)   (Song et al. 2021, eq. 12 and 16)
    euler   x_t = x_s + Δα x̂_0 + Δσ ε̂      in coordinates where the path is straight: x/α for vp and edm, x for flow;
            with x_s = α_s x̂_0 + σ_s ε̂ that is α_t x̂_0 + σ_t ε̂
    heun    euler, then the mean of both slopes; the last step, to σ_t = 0, is Euler's  (Karras et al. 2022, Alg. 1)

A sampler is named by a string, the same in Python and at the command line: `ddpm` (= `ddpm:fixed_small`),
`ddpm:fixed_large`, `ddpm:learned_range`, `ddim` (= `ddim:0`), `ddim:0.5`, `euler`, `heun`. These remember nothing
from step to step; diffusers' schedulers, which do, are samplers too (`adapters.schedulers`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log, sqrt
from typing import Any, NamedTuple, Protocol

from exposure_bias.errors import InputError
from exposure_bias.schedules import Level, Path

NAMES = ("ddpm", "ddim", "euler", "heun")
VARIANCES = ("fixed_small", "fixed_large", "learned_range")
SPECIFICATIONS = "ddpm, ddpm:fixed_large, ddpm:learned_range, ddim, ddim:ETA, euler, heun"


class Prediction(NamedTuple):
    """What a denoiser says at one state: x̂_0 and ε̂ (B, C, H, W), and what else a sampler or a statistic may want.

    variance: learned interpolation between log β̃ (0) and log β (1), or None. outside: fraction (B,) of x̂_0 beyond
    [−1, 1] before any clipping, or None. output: the network's raw output, or None.
    """

    x0: Any
    epsilon: Any
    variance: Any = None
    outside: Any = None
    output: Any = None


Predict = Callable[[Any, Level], Prediction]


class Steps(Protocol):
    """What takes the steps of one chain, in order."""

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict, path: Path) -> Any: ...


@dataclass(frozen=True)
class Sampler:
    """One of ddpm, ddim, euler, heun with its options; `parse` makes one from its name."""

    name: str
    variance: str = "fixed_small"
    eta: float = 0.0

    def __str__(self) -> str:
        if self.name == "ddpm":
            return f"ddpm:{self.variance}"
        return f"ddim:{int(self.eta) if self.eta in (0, 1) else self.eta}" if self.name == "ddim" else self.name

    @property
    def stochastic(self) -> bool:
        """Whether a step uses its noise z."""
        return self.name == "ddpm" or self.eta > 0

    @property
    def ancestral(self) -> bool:
        """Whether consecutive states have the right joint law, so that a perfect chain is a draw of p(x_0 | x_s)."""
        return self.name == "ddpm" or self.eta == 1

    @property
    def exact_teacher(self) -> bool:
        """Whether each state of the teacher chain is exactly q(x_t | x_0) (design §4.1): not with a wider variance."""
        return self.name != "ddpm" or self.variance == "fixed_small"

    def begin(self, levels: Sequence[Level]) -> "Sampler":
        """What takes the steps of one chain: the sampler itself, as it keeps nothing between them."""
        return self

    def prior_scale(self, level: Level, path: Path) -> float:
        """Standard deviation of a start from pure noise: 1 for vp, σ otherwise, as each family's samplers begin."""
        return 1.0 if path == "vp" else level.sigma

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Predict, path: Path) -> Any:
        """x_t from x_s (any array type), the prediction `now` at x_s, noise z (or None) and, for heun, `predict`."""
        if self.name == "ddpm":
            return _ddpm(x, now, s, t, z, self.variance)
        if self.name == "ddim":
            return _ddim(x, now, s, t, z, self.eta)
        return _ode(now, s, t, predict if self.name == "heun" else None, path)


def parse(sampler: str | Sampler) -> Sampler:
    """The sampler a string names (module docstring). Raises InputError with the allowed names."""
    if isinstance(sampler, Sampler):
        return sampler
    if not isinstance(sampler, str):
        raise InputError(f"a sampler is named by a string, got {type(sampler).__name__}: allowed are {SPECIFICATIONS}")
    name, _, option = sampler.partition(":")
    if name == "ddpm" and (not option or option in VARIANCES):
        return Sampler(name, option or "fixed_small")
    if name == "ddim":
        try:
            eta = float(option or 0)
        except ValueError:
            eta = -1.0
        if 0 <= eta <= 1:
            return Sampler(name, eta=eta)
    if sampler in ("euler", "heun"):
        return Sampler(name)
    raise InputError(f"unknown sampler {sampler!r}: allowed are {SPECIFICATIONS} (0 ≤ ETA ≤ 1)")


def is_ours(sampler: str) -> bool:
    """Whether a recorded sampler's name is one of ours, not a diffusers scheduler's or that of an observed loop."""
    return sampler.partition(":")[0] in NAMES


def conditional_variance(s: Level, t: Level) -> float:
    """σ²_{s|t} = σ_s² − (α_s/α_t)² σ_t², the variance of q(x_s | x_t); DDPM calls it β."""
    return s.sigma**2 - (s.alpha / t.alpha * t.sigma) ** 2


def _ddpm(x: Any, now: Prediction, s: Level, t: Level, z: Any, variance: str) -> Any:
    beta = conditional_variance(s, t)
    mean = (s.alpha / t.alpha * (t.sigma / s.sigma) ** 2) * x + (t.alpha * beta / s.sigma**2) * now.x0
    if t.sigma == 0:
        return mean
    beta_tilde = beta * (t.sigma / s.sigma) ** 2
    if variance != "learned_range":
        return mean + sqrt(beta if variance == "fixed_large" else beta_tilde) * z
    if now.variance is None:
        raise InputError("ddpm:learned_range needs a network that predicts its variance; use ddpm or ddpm:fixed_large")
    return mean + sqrt(beta_tilde) * (0.5 * log(beta / beta_tilde) * now.variance).exp() * z


def _ddim(x: Any, now: Prediction, s: Level, t: Level, z: Any, eta: float) -> Any:
    variance = eta**2 * t.sigma**2 * (1 - s.snr / t.snr) if t.sigma else 0.0
    mean = t.alpha * now.x0 + sqrt(t.sigma**2 - variance) * now.epsilon
    return mean + sqrt(variance) * z if variance else mean


def _ode(now: Prediction, s: Level, t: Level, predict: Predict | None, path: Path) -> Any:
    # On a straight path Euler's step is exact but for the prediction; nothing is divided by a small α here.
    end = t.alpha * now.x0 + t.sigma * now.epsilon
    if predict is not None and t.sigma > 0:
        if path != "flow" and s.alpha == 0:
            raise InputError("heun works in x/α, but this schedule starts at α = 0: use euler, ddim or ddpm")
        scale_s, scale_t = (1.0, 1.0) if path == "flow" else (s.alpha, t.alpha)
        d_alpha, d_sigma = t.alpha / scale_t - s.alpha / scale_s, t.sigma / scale_t - s.sigma / scale_s
        then = predict(end, t)
        end = end + scale_t / 2 * (d_alpha * (then.x0 - now.x0) + d_sigma * (then.epsilon - now.epsilon))
    return end
