"""Data laws whose exact denoiser is known, and networks with a known error, for
`benchmarks/network_error.py` and the tests of `eb.network_error`.

States are images (1, 4, 4). A law is its exact denoiser and a function that draws n states; an
error makes a wrong network of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

import exposure_bias as eb
from exposure_bias.schedules import Level, Schedule
from exposure_bias.statistics.bands import dct_matrix, radial_frequency

SIDE = 4
SHAPE = (1, SIDE, SIDE)
SIZE = SIDE * SIDE
FREQUENCY = radial_frequency(SIDE, SIDE).ravel()
COSINES = np.kron(dct_matrix(SIDE), dct_matrix(SIDE))  # one mode per row
POWER = 0.25 / (1 + (FREQUENCY / 0.06) ** 2)

Draw = Callable[[int, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Mixture:
    """Σ w_m N(μ_m, Q diag(v_m) Qᵀ), its parts before a schedule is known."""

    weights: Any
    means: Any
    variances: Any
    basis: Any = None

    def denoiser(self, schedule: Schedule) -> eb.Denoiser:
        """The exact one."""
        basis = np.eye(SIZE) if self.basis is None else self.basis
        means = np.asarray(self.means, float).reshape(-1, *SHAPE)
        v = np.broadcast_to(np.asarray(self.variances, float), (len(means), SIZE))
        covariances: Any = v.copy() if self.basis is None else (basis.T * v[:, None]) @ basis
        return eb.oracles.MixtureOracle(self.weights, means, covariances, schedule)

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n states."""
        w = np.asarray(self.weights, float)
        k = rng.choice(len(w), n, p=w / w.sum())
        v = np.broadcast_to(np.asarray(self.variances, float), (len(w), SIZE))
        z = np.sqrt(v[k]) * rng.normal(size=(n, SIZE))
        z = z if self.basis is None else z @ self.basis
        return (np.asarray(self.means, float).reshape(-1, SIZE)[k] + z).reshape(n, *SHAPE)


class Signs:
    """Independent pixels of −1 or 1: E[x_0 | x] = tanh(αx/σ²)."""

    weights = (1.0,)

    def denoiser(self, schedule: Schedule) -> eb.Denoiser:
        """The exact one."""
        return Function(lambda x, level: torch.tanh(level.alpha * x / level.sigma**2), schedule)

    def draw(self, n: int, rng: np.random.Generator) -> np.ndarray:
        """n states."""
        return rng.choice([-1.0, 1.0], (n, *SHAPE))


class Function(eb.Denoiser):
    """A denoiser that is a formula for x̂_0."""

    def __init__(self, formula: Any, schedule: Schedule, name: str = "formula") -> None:
        super().__init__(
            formula, schedule=schedule, prediction_type="sample", shape=SHAPE, name=name
        )

    def __call__(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        with eb.denoisers.gradients():
            return self.net(x, level)


def laws() -> dict[str, Any]:
    """Gaussian, correlated, mixed, atoms, signs, lumps, tails, a rare part and a subspace."""
    rng = np.random.default_rng(3)
    rotation = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    zero = np.zeros((1, SIZE))
    plane = rotation[:2]
    twelve, six = (2 * np.pi * np.arange(k) / k for k in (12, 6))
    ring = np.stack([np.cos(twelve), np.sin(twelve)], 1) @ plane
    radius = 1 + 0.3 * np.cos(3 * six)
    lumps = np.stack([radius * np.cos(six), radius * np.sin(six)], 1) @ plane
    few = np.where(np.arange(SIZE) < 4, 0.3, 0.0)
    return {
        "white": Mixture([1], zero, 0.25),
        "1/f": Mixture([1], rng.normal(0, 0.3, (1, SIZE)), POWER, COSINES),
        "rotated": Mixture([1], zero, 0.25 * np.exp(-np.arange(SIZE) / 4), rotation),
        "mixture": Mixture([0.4, 0.25, 0.2, 0.1, 0.05], rng.normal(0, 0.4, (5, SIZE)), 0.02),
        "ring": Mixture(np.ones(12), ring, 0.0),
        "signs": Signs(),
        "lumps": Mixture(np.ones(6), 1.2 * lumps, 0.01),
        "tails": Mixture(
            [0.5, 0.3, 0.15, 0.05],
            np.zeros((4, SIZE)),
            np.array([0.2, 0.8, 2.4, 8.0])[:, None] * POWER,
            COSINES,
        ),
        "rare": Mixture([0.98, 0.02], np.zeros((2, SIZE)), [[0.02] * SIZE, [4.0] * SIZE]),
        "subspace": Mixture([1], zero, few, rotation),
    }


class Wrong(eb.Denoiser):
    """An exact denoiser m with an error: `change(m(x), x, level)` is the wrong one."""

    def __init__(self, exact: eb.Denoiser, change: Any, name: str) -> None:
        self.__dict__.update(exact.__dict__)
        self.exact, self.change, self.name = exact, change, name

    @property
    def weight_hash(self) -> str:
        return f"{self.exact.weight_hash} {self.name}"

    def __call__(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        return self.change(self.exact(x, level), x, level)


def scaled(factor: Any) -> Any:
    """ε̂ times a number, a tensor of the state's shape, or a function of the level."""

    def change(m: torch.Tensor, x: torch.Tensor, level: Level) -> torch.Tensor:
        here = factor(level) if callable(factor) else factor
        return m - (here - 1) * (x - level.alpha * m) / level.alpha

    return change


def middle(level: Level) -> float:
    """1.03 around σ/α = 0.5, 1 elsewhere."""
    return 1 + 0.03 * float(np.exp(-0.5 * (np.log(level.ratio / 0.5) / 0.5) ** 2))


def high(m: torch.Tensor, x: torch.Tensor, level: Level) -> torch.Tensor:
    """ε̂ × 1.03 at ¼ cycle per pixel and above."""
    rows = torch.from_numpy(COSINES[FREQUENCY >= 0.25])
    epsilon = ((x - level.alpha * m) / level.sigma).flatten(1)
    part = (epsilon @ rows.T @ rows).view(x.shape)
    return m - 0.03 * level.sigma / level.alpha * part


def region() -> torch.Tensor:
    """1.03 in a quarter of the image, 1 elsewhere."""
    factor = torch.ones(SHAPE, dtype=torch.float64)
    factor[:, : SIDE // 2, : SIDE // 2] = 1.03
    return factor


def feedback(strength: float, mean: Any, spread: float) -> Any:
    """Shrink x̂_0 where the state has too little power, and more so the less it has."""

    def change(m: torch.Tensor, x: torch.Tensor, level: Level) -> torch.Tensor:
        centre = torch.as_tensor(mean).view(SHAPE).to(m)
        expected = level.alpha**2 * spread + level.sigma**2 * SIZE
        power = (x - level.alpha * centre).square().flatten(1).sum(1) / expected
        loss = strength * (1 - power).clamp(min=0, max=1)
        return centre + (m - centre) * (1 - loss)[:, None, None, None]

    return change


def shifted(amount: float, exact: eb.Denoiser) -> Any:
    """The exact denoiser of another noise level."""

    def change(m: torch.Tensor, x: torch.Tensor, level: Level) -> torch.Tensor:
        ratio = level.ratio * (1 + amount)
        total = np.hypot(1, ratio)
        vp = abs(np.hypot(level.alpha, level.sigma) - 1) < 1e-6
        alpha = 1 / total if vp else level.alpha
        moved = Level(level.timestep, alpha, ratio * alpha)
        return exact(x * alpha / level.alpha, moved)

    return change


def wrong(error: str, law: Any, schedule: Schedule) -> eb.Denoiser | None:
    """The network with an error, None where the law has no such error."""
    exact = law.denoiser(schedule)
    simple = {
        "eps x 1.01": scaled(1.01),
        "eps x 1.02": scaled(1.02),
        "eps x 0.98": scaled(0.98),
        "middle x 1.03": scaled(middle),
        "region x 1.03": scaled(region()),
        "high x 1.03": high,
        "x0 x 0.995": lambda m, x, level: 0.995 * m,
        "x0 x 0.98": lambda m, x, level: 0.98 * m,
        "bias 0.02": lambda m, x, level: m + 0.02,
        "level + 5 %": shifted(0.05, exact),
    }
    if error == "exact":
        return exact
    if error in simple:
        return Wrong(exact, simple[error], error)
    if error.startswith("feedback"):
        states = law.draw(20000, np.random.default_rng(0))
        spread = float(states.var(0).sum())
        return Wrong(exact, feedback(float(error.split()[1]), states.mean(0), spread), error)
    if isinstance(law, Signs):
        return None
    if error == "spread x 0.95":
        if not np.any(law.variances):
            return None
        other = Mixture(law.weights, law.means, 0.95 * np.asarray(law.variances), law.basis)
        return other.denoiser(schedule)
    if len(law.weights) == 1:
        return None
    w = np.asarray(law.weights, float)
    if error == "weights":
        return Mixture(
            w * np.where(np.arange(len(w)) == 0, 0.8, 1), law.means, law.variances, law.basis
        ).denoiser(schedule)
    if error == "weights x 0.3":
        return Mixture(
            w * np.where(np.arange(len(w)) == 0, 0.3, 1), law.means, law.variances, law.basis
        ).denoiser(schedule)
    if error == "dropped":
        v = np.broadcast_to(np.asarray(law.variances, float), (len(w), SIZE))
        return Mixture(w[1:], np.asarray(law.means)[1:], v[1:], law.basis).denoiser(schedule)
    raise ValueError(error)


ERRORS = (
    "eps x 1.01",
    "eps x 1.02",
    "eps x 0.98",
    "middle x 1.03",
    "region x 1.03",
    "high x 1.03",
    "x0 x 0.995",
    "x0 x 0.98",
    "bias 0.02",
    "level + 5 %",
    "spread x 0.95",
    "weights",
    "weights x 0.3",
    "dropped",
    "feedback 0.3",
)
