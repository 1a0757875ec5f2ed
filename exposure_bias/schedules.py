"""Noise schedules, sampling grids and the algebra of predictions. No torch here.

A schedule is the pair (α_t, σ_t) of the forward process

    q(x_t | x_0) = N(α_t x_0, σ_t² I),        x_t = α_t x_0 + σ_t ε,

together with the label t under which the network knows the level. Three families cover the field:

    path    α, σ                     monotone coordinate w        label
    vp      α² + σ² = 1              w = log(σ/α)                 integer timestep, 0 … T−1 unless respaced
    edm     α = 1                    w = σ^(1/ρ), ρ = 7           σ
    flow    α = 1 − t, σ = t         w = t                        t · scale

A schedule holds its levels on T points ascending in noise; between the points, w is interpolated linearly, which
is exact for edm and flow and is what diffusers and k-diffusion do for vp.

Every network output is a·x_0 + b·ε with (a, b) known from its prediction type, so that one 2×2 solve converts any
output into any other (`convert`).

Sources: DDPM (Ho et al. 2020, arXiv 2006.11239), improved DDPM's cosine schedule (Nichol & Dhariwal 2021, arXiv
2102.09672, eq. 17), EDM (Karras et al. 2022, arXiv 2206.00364, eq. 5), flow matching (Lipman et al. 2022, arXiv
2210.02747), grids (Lin et al. 2023, arXiv 2305.08891, Table 2).
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exposure_bias.errors import InputError

Path = Literal["vp", "edm", "flow"]
Grid = Literal["linspace", "leading", "trailing", "karras"]
PredictionType = Literal["epsilon", "sample", "v_prediction", "flow_prediction"]

GRIDS: tuple[str, ...] = get_args(Grid)
PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)
KARRAS_RHO = 7.0
CONTINUOUS_POINTS = 1000


class Level(NamedTuple):
    """One noise level: the network's own label, α and σ."""

    timestep: float
    alpha: float
    sigma: float

    @property
    def snr(self) -> float:
        """α²/σ², infinite at the clean end."""
        return np.inf if self.sigma == 0 else (self.alpha / self.sigma) ** 2


CLEAN_ALPHA, CLEAN_SIGMA = 1.0, 0.0


@dataclass(frozen=True, eq=False)
class Schedule:
    """(α, σ) on T points ascending in noise; build one with `linear`, `cosine`, `edm`, `flow` or `from_alphas_cumprod`.

    timestep, alpha, sigma: float64 arrays of shape (T,). `path` says how to interpolate (module docstring).
    """

    name: str
    path: Path
    timestep: NDArray[np.float64]
    alpha: NDArray[np.float64]
    sigma: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.timestep)

    @property
    def continuous(self) -> bool:
        """Whether the network was trained on a continuum of levels rather than on T of them."""
        return self.path != "vp"

    @property
    def clean(self) -> Level:
        """The noise-free end of every chain."""
        return Level(0.0 if self.continuous else -1.0, CLEAN_ALPHA, CLEAN_SIGMA)

    def level(self, index: float) -> Level:
        """The level at a (possibly fractional) index between 0, the least noise, and T − 1."""
        if not 0 <= index <= len(self) - 1:
            raise InputError(f"level index {index} lies outside the schedule: allowed are 0 to {len(self) - 1}")
        if float(index).is_integer():
            i = int(index)
            return Level(float(self.timestep[i]), float(self.alpha[i]), float(self.sigma[i]))
        points = np.arange(len(self))
        alpha, sigma = _alpha_sigma(self.path, float(np.interp(index, points, self._coordinate())))
        # A continuous label is proportional to σ; timesteps are interpolated.
        scale = float(self.timestep[-1] / self.sigma[-1])
        label = sigma * scale if self.continuous else float(np.interp(index, points, self.timestep))
        return Level(label, alpha, sigma)

    def index_of_ratio(self, ratio: float) -> float:
        """The (fractional) index of the level whose noise-to-signal ratio σ/α is `ratio`, clamped to 0 … T − 1."""
        if ratio <= 0:
            return 0.0
        w = {"vp": np.log(ratio), "edm": ratio ** (1 / KARRAS_RHO), "flow": 1 / (1 + 1 / ratio)}[self.path]
        index = float(np.interp(w, self._coordinate(), np.arange(len(self))))
        # The points of a grid come back as 998.9999999999999, which an integer timestep would cut to 998.
        return round(index) if abs(index - round(index)) < 1e-9 else index

    def at_ratio(self, ratio: float) -> Level:
        """The level whose noise-to-signal ratio σ/α is `ratio`, clamped to the schedule's range."""
        return self.level(self.index_of_ratio(ratio))

    def levels(self, steps: int, grid: str = "linspace") -> tuple[Level, ...]:
        """The steps + 1 levels of a sampling chain, noisiest first, the clean end last.

        `linspace`, `leading` and `trailing` are even in the schedule's own time (for edm that is σ^(1/7), Karras et
        al.'s spacing); `karras` is even in (σ/α)^(1/7) and gives fractional timesteps on a vp schedule.

        Raises InputError for an unknown grid, steps < 1, or more steps than a discrete schedule has levels.
        """
        if grid not in GRIDS:
            raise InputError(f"unknown grid {grid!r}: allowed are {', '.join(GRIDS)}")
        if steps < 1 or steps != int(steps):
            raise InputError(f"steps must be a whole number of at least 1, got {steps}")
        if steps > len(self) and (not self.continuous or grid in ("leading", "trailing")):
            raise InputError(f"{steps} steps were asked of a schedule of {len(self)} levels: use at most {len(self)}")
        if grid == "karras":
            return (*(self.at_ratio(r) for r in self._karras_ratios(steps)), self.clean)
        total = len(self)
        index: NDArray[Any]
        if grid == "linspace":
            # From the clean side up, so that rounding breaks ties as diffusers does.
            index = np.linspace(0, total - 1, steps)[::-1] if steps > 1 else np.array([total - 1])
        elif grid == "leading":
            stride = total / steps if self.continuous else total // steps
            index = np.arange(steps)[::-1] * stride
        else:
            # diffusers rounds before it subtracts 1, and ties depend on it; round-off in arange may add an element.
            index = np.arange(total, 0, -total / steps)[:steps]
            index = (index if self.continuous else np.round(index)) - 1
        if not self.continuous:
            index = np.round(index)
        return (*(self.level(max(i, 0.0)) for i in index), self.clean)

    def _karras_ratios(self, steps: int) -> NDArray[Any]:
        if self.alpha[-1] == 0:
            raise InputError("the karras grid needs a finite σ/α, but this schedule ends at α = 0: use linspace")
        low, high = (float(self.sigma[i] / self.alpha[i]) ** (1 / KARRAS_RHO) for i in (0, -1))
        return np.linspace(high, low, steps) ** KARRAS_RHO

    def _coordinate(self) -> NDArray[np.float64]:
        if self.path == "vp":
            with np.errstate(divide="ignore"):  # infinite where ᾱ ends at 0
                return np.log(self.sigma / self.alpha)
        return self.sigma ** (1 / KARRAS_RHO) if self.path == "edm" else self.sigma


def _alpha_sigma(path: Path, w: float) -> tuple[float, float]:
    if path == "vp":
        return float(1 / np.sqrt(1 + np.exp(2 * w))), float(1 / np.sqrt(1 + np.exp(-2 * w)))
    return (1.0, w**KARRAS_RHO) if path == "edm" else (1.0 - w, w)


def from_alphas_cumprod(alphas_cumprod: ArrayLike, name: str = "custom", timestep: ArrayLike | None = None) -> Schedule:
    """A vp schedule of T levels from ᾱ_t, shape (T,), strictly decreasing, in (0, 1) or ending at 0. α=√ᾱ, σ=√(1−ᾱ).

    timestep: the network's labels of the levels, shape (T,), increasing; by default 0 … T − 1.
    """
    abar = np.asarray(alphas_cumprod, dtype=np.float64)
    if abar.ndim != 1 or len(abar) == 0 or not ((abar >= 0) & (abar < 1)).all() or (np.diff(abar) >= 0).any():
        raise InputError("alphas_cumprod must be one-dimensional, strictly decreasing and inside (0, 1), or end at 0")
    label = np.arange(len(abar), dtype=np.float64) if timestep is None else np.asarray(timestep, dtype=np.float64)
    if label.shape != abar.shape or (np.diff(label) <= 0).any():
        raise InputError(f"timestep must be increasing, one label for each of the {len(abar)} levels")
    return Schedule(name, "vp", label, np.sqrt(abar), np.sqrt(1 - abar))


def linear(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """DDPM's β from `beta_start` to `beta_end` over T = `steps` levels (Ho et al. 2020, §4)."""
    return from_alphas_cumprod(np.cumprod(1 - np.linspace(beta_start, beta_end, steps)), "linear")


def cosine(steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """Improved DDPM's cosine ᾱ with β clipped at `max_beta` (Nichol & Dhariwal 2021, eq. 17)."""
    f = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_alphas_cumprod(np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], max_beta)), "cosine")


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Schedule:
    """EDM: α = 1, σ from `sigma_min` to `sigma_max` evenly in σ^(1/7) (Karras et al. 2022, eq. 5)."""
    if not 0 < sigma_min < sigma_max:
        raise InputError(f"edm needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    sigma = np.linspace(sigma_min ** (1 / KARRAS_RHO), sigma_max ** (1 / KARRAS_RHO), CONTINUOUS_POINTS) ** KARRAS_RHO
    return Schedule("edm", "edm", sigma, np.ones_like(sigma), sigma)


def flow(scale: float = 1.0) -> Schedule:
    """Flow matching's straight path: α = 1 − t, σ = t, label t · `scale` (diffusers uses scale=1000)."""
    t = np.arange(1, CONTINUOUS_POINTS + 1) / CONTINUOUS_POINTS
    return Schedule("flow", "flow", t * scale, 1 - t, t)


def prediction_coefficients(prediction_type: str, level: Level) -> tuple[float, float]:
    """(a, b) with output = a·x_0 + b·ε for one of the four prediction types."""
    table = {
        "epsilon": (0.0, 1.0),
        "sample": (1.0, 0.0),
        "v_prediction": (-level.sigma, level.alpha),
        "flow_prediction": (-1.0, 1.0),
    }
    if prediction_type not in table:
        raise InputError(f"unknown prediction type {prediction_type!r}: allowed are {', '.join(PREDICTION_TYPES)}")
    return table[prediction_type]


def conversion(source: str, target: str, level: Level) -> tuple[float, float]:
    """(p, q) such that target = p·x + q·output, for an output of type `source` at x = α x_0 + σ ε.

    Raises InputError where the output does not determine the target (for example x_0 from ε at α = 0).
    """
    if source == target:
        prediction_coefficients(source, level)
        return 0.0, 1.0
    (a, b), (c, d) = prediction_coefficients(source, level), prediction_coefficients(target, level)
    determinant = level.alpha * b - level.sigma * a
    if determinant == 0:
        raise InputError(f"a {source} output does not determine {target} at α={level.alpha:g}, σ={level.sigma:g}")
    return (c * b - d * a) / determinant, (d * level.alpha - c * level.sigma) / determinant


def convert(output: Any, source: str, target: str, x: Any, level: Level) -> Any:
    """A network output at state x, of prediction type `source`, as prediction type `target`. Any array library."""
    p, q = conversion(source, target, level)
    return output if (p, q) == (0.0, 1.0) else p * x + q * output
