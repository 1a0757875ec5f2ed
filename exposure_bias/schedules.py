"""Noise schedules, timestep spacings and the algebra of predictions. No torch here.

A schedule is the pair (α_t, σ_t) of the forward process

    q(x_t | x_0) = N(α_t x_0, σ_t² I),        x_t = α_t x_0 + σ_t ε,

together with the label t under which the network knows the level. Its parameterisation says how α
and σ are tied:

    vp        α² + σ² = 1          DDPM, score_sde's vp
    edm       α = 1                EDM, score_sde's ve
    flow      α = 1 − t, σ = t     flow matching
    sub-vp    σ = 1 − α²           score_sde's sub-vp
    custom    any two functions    `from_functions`

A schedule keeps T points, ascending in noise. A discrete one knows no more: between the points
log(σ/α) and the label are interpolated linearly, as diffusers and k-diffusion do. A continuous one
has a `Curve`, from labels to (α, σ) and back, and its points only say where a grid goes: evenly in
label^(1/ρ), with ρ = 7 for EDM and 1 for the others.

Every network output is a·x_0 + b·ε with (a, b) known from its prediction type, so that one 2×2
solve converts any output into any other (`convert`).

Sources: DDPM (Ho et al. 2020, arXiv 2006.11239), improved DDPM's cosine schedule (Nichol & Dhariwal
2021, arXiv 2102.09672, eq. 17), score_sde (Song et al. 2021, arXiv 2011.13456, eq. 9, 11, 12 and
appendix B and C), EDM (Karras et al. 2022, arXiv 2206.00364, eq. 5), flow matching (Lipman et al.
2022, arXiv 2210.02747), spacings (Lin et al. 2023, arXiv 2305.08891, Table 2).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exposure_bias.checking import check_arguments, numbers
from exposure_bias.errors import InputError, reason, whole_number

Parameterisation = Literal["vp", "edm", "flow", "sub-vp", "custom"]
TimestepSpacing = Literal["linspace", "leading", "trailing", "karras"]
PredictionType = Literal["epsilon", "sample", "v_prediction", "flow_prediction", "score"]

PARAMETERISATIONS: tuple[str, ...] = get_args(Parameterisation)
SPACINGS: tuple[str, ...] = get_args(TimestepSpacing)
PREDICTION_TYPES: tuple[str, ...] = get_args(PredictionType)
KARRAS_RHO = 7.0
CONTINUOUS_POINTS = 1000
ROUND_OFF = 1e-9
SAME_LEVEL = 1e-4  # of σ/α, relative: float32 labels and interpolated schedulers differ by less
MOST_POINTS = 10**6  # of a schedule, and steps of a chain
LABEL_SLACK = 1e-6  # of the range of labels: what a network's float32 makes of an end


class Level(NamedTuple):
    """One noise level: the network's own label, α and σ."""

    timestep: float
    alpha: float
    sigma: float

    @property
    def snr(self) -> float:
        """α²/σ², infinite at the clean end."""
        return np.inf if self.sigma == 0 else (self.alpha / self.sigma) ** 2

    @property
    def ratio(self) -> float:
        """σ/α, the noise-to-signal ratio, infinite where nothing of x_0 is left."""
        return self.sigma / self.alpha if self.alpha else np.inf


CLEAN_ALPHA, CLEAN_SIGMA = 1.0, 0.0


@dataclass(frozen=True)
class Curve:
    """A continuous schedule's law.

    (α, σ) of a label, and the label of a noise-to-signal ratio σ/α, its inverse.

    power: ρ; the schedule's grids are even in label^(1/ρ). above, most: the law holds for labels
    above the first, up to the second; None where it ends with the schedule's points.
    """

    alpha_sigma: Callable[[float], tuple[float, float]]
    label: Callable[[float], float]
    power: float = 1.0
    above: float | None = None
    most: float | None = None

    @property
    def unbounded(self) -> bool:
        """Whether any label above 0 is one."""
        return self.most == np.inf


@dataclass(frozen=True, eq=False)
class Schedule:
    """(α, σ) on T points ascending in noise; make one with the functions of this module.

    timestep, alpha, sigma: float64 arrays of shape (T,). curve: the law between the points, None
    where the network was trained on T levels and no more (module docstring).
    """

    name: str
    parameterisation: Parameterisation
    timestep: NDArray[np.float64]
    alpha: NDArray[np.float64]
    sigma: NDArray[np.float64]
    curve: Curve | None = None

    def __len__(self) -> int:
        return len(self.timestep)

    @property
    def continuous(self) -> bool:
        """Whether the network was trained on a continuum of levels rather than on T of them."""
        return self.curve is not None

    @property
    def clean(self) -> Level:
        """The noise-free end of every chain, under a label that no noisy level has."""
        first = float(self.timestep[0])
        if not self.continuous:
            label = -1.0
        elif first > 0:
            label = 0.0
        else:
            label = 2 * first - float(self.timestep[1])  # one point further
        return Level(label, CLEAN_ALPHA, CLEAN_SIGMA)

    def level(self, index: float) -> Level:
        """The level at a (possibly fractional) index between 0, the least noise, and T − 1."""
        if not 0 <= index <= len(self) - 1:
            raise InputError(
                f"level index {index} lies outside the schedule: allowed are 0 to {len(self) - 1}"
            )
        if float(index).is_integer():
            i = int(index)
            return Level(float(self.timestep[i]), float(self.alpha[i]), float(self.sigma[i]))
        points = np.arange(len(self))
        if self.curve is not None:
            label = float(np.interp(index, points, self._warped()) ** self.curve.power)
            return Level(label, *self.curve.alpha_sigma(label))
        ratio = float(np.exp(np.interp(index, points, self._log_ratios())))
        label = float(np.interp(index, points, self.timestep))
        return Level(label, *_unit(ratio))

    def at(self, label: float) -> Level:
        """The level that the network knows under a label.

        A discrete schedule clamps the label to its range. A continuous one raises InputError beyond
        its own range, both ends of which are levels; `edm` takes any σ > 0 and `flow` any t > 0.
        """
        if self.curve is None:
            index = float(np.interp(label, self.timestep, np.arange(len(self))))
            return self.level(round(index) if abs(index - round(index)) < 1e-3 else index)
        low, high = self.range
        slack = LABEL_SLACK * (high - low) if np.isfinite(high) else 0.0
        is_open = self.curve.above is not None
        if not (label > low if is_open else label >= low - slack) or label > high + slack:
            raise InputError(
                f"label {label:g} lies outside the {self.name} schedule: allowed are"
                f" {'above ' * is_open}{low:g} to {high:g}"
            )
        label = min(max(float(label), low), high)
        return Level(label, *self.curve.alpha_sigma(label))

    @property
    def range(self) -> tuple[float, float]:
        """The least and the largest label that `at` takes; the least itself is none of `edm`'s."""
        first, last = float(self.timestep[0]), float(self.timestep[-1])
        if self.curve is None:
            return first, last
        low, high = self.curve.above, self.curve.most
        return first if low is None else low, last if high is None else high

    def index_of_ratio(self, ratio: float) -> float:
        """The (fractional) index of the level whose noise-to-signal ratio σ/α is `ratio`.

        Clamped to 0 … T − 1.
        """
        first, last = (Level(0, float(self.alpha[i]), float(self.sigma[i])).ratio for i in (0, -1))
        if ratio <= first:
            return 0.0
        if ratio >= last:
            return float(len(self) - 1)
        points = np.arange(len(self))
        if self.curve is not None:
            warped = self.curve.label(ratio) ** (1 / self.curve.power)
            index = float(np.interp(warped, self._warped(), points))
        else:
            index = float(np.interp(np.log(ratio), self._log_ratios(), points))
        # The points of a grid come back as 998.9999999999999, which an integer timestep would cut
        # to 998.
        return round(index) if abs(index - round(index)) < ROUND_OFF else index

    def at_ratio(self, ratio: float) -> Level:
        """The level whose noise-to-signal ratio σ/α is `ratio`, clamped to the schedule's range."""
        index = self.index_of_ratio(ratio)
        if self.curve is None or float(index).is_integer():
            return self.level(index)
        label = float(self.curve.label(float(ratio)))
        return Level(label, *self.curve.alpha_sigma(label))

    def levels(
        self, steps: int, timestep_spacing: Any = "linspace", grid: str | None = None
    ) -> tuple[Level, ...]:
        """The steps + 1 levels of a sampling chain, noisiest first, the clean end last.

        `linspace`, `leading` and `trailing` are even in the schedule's own time (for edm that is
        σ^(1/7), Karras et al.'s spacing); `karras` is even in (σ/α)^(1/7) and gives fractional
        timesteps on a discrete schedule. In place of a spacing's name, a chain's own steps + 1
        `Level`s may be given (`levels.chosen_levels`). grid: the older name of timestep_spacing.

        Raises InputError for an unknown spacing, steps < 1, or more steps than a discrete schedule
        has levels.
        """
        spacing = grid or timestep_spacing
        if isinstance(spacing, tuple):
            if len(spacing) != steps + 1:
                raise InputError(f"{len(spacing) - 1} levels were given for {steps} steps")
            return spacing
        if spacing not in SPACINGS:
            raise InputError(
                f"unknown timestep spacing {spacing!r}: allowed are {', '.join(SPACINGS)}"
            )
        steps = whole_number(steps, "steps", most=MOST_POINTS)
        if steps > len(self) and (not self.continuous or spacing in ("leading", "trailing")):
            raise InputError(
                f"{steps} steps were asked of a schedule of {len(self)} levels: use at most"
                f" {len(self)}"
            )
        if spacing == "karras":
            return (*(self.at_ratio(r) for r in self._karras_ratios(steps)), self.clean)
        return (*(self.level(max(i, 0.0)) for i in self._indices(steps, spacing)), self.clean)

    def _indices(self, steps: int, spacing: str) -> NDArray[Any]:
        """Where `steps` levels stand, noisiest first."""
        total = len(self)
        index: NDArray[Any]
        if spacing == "linspace":
            # From the clean side up, so that rounding breaks ties as diffusers does.
            index = np.linspace(0, total - 1, steps)[::-1] if steps > 1 else np.array([total - 1])
        elif spacing == "leading":
            stride = total / steps if self.continuous else total // steps
            index = np.arange(steps)[::-1] * stride
        else:
            # diffusers rounds before it subtracts 1, and ties depend on it; round-off in arange may
            # add an element.
            index = np.arange(total, 0, -total / steps)[:steps]
            index = (index if self.continuous else np.round(index)) - 1
        return index if self.continuous else np.round(index)

    def refined(
        self, levels: tuple[Level, ...], factor: int, fractional: bool = False
    ) -> tuple[tuple[Level, ...], NDArray[np.int64]]:
        """A chain's levels with factor − 1 more between every two, evenly in index.

        Where the given ones now stand comes second.

        Given levels are kept exactly, so that chains of different length can be compared level by
        level. Between index 0 and the clean end there is nothing to insert. fractional: a discrete
        schedule may be asked between its points, for networks that take such timesteps; otherwise
        the levels in between are rounded to points.

        Raises InputError for a factor below 1, or where a discrete schedule has too few levels.
        """
        factor = whole_number(factor, "a refinement")
        if factor == 1:
            return levels, np.arange(len(levels))
        index = [self.index_of_ratio(level.ratio) for level in levels[:-1]]
        whole = not self.continuous and not fractional and all(float(i).is_integer() for i in index)
        finer: list[Level] = []
        places = []
        for level, i, following in zip(levels[:-1], index, [*index[1:], -1.0], strict=True):
            places.append(len(finer))
            between = i + (following - i) * np.arange(1, factor) / factor
            between = between[between >= 0]
            between = np.round(between) if whole else between
            if len({i, following, *between.tolist()}) < len(between) + 2:
                room = "there are no further levels between its steps"
                raise InputError(
                    f"a chain of {len(levels) - 1} steps cannot be refined {factor} times: {room}"
                )
            finer += [level, *(self._like(level, float(b)) for b in between)]
        return (*finer, levels[-1]), np.array([*places, len(finer)])

    def between(self, s: Level, t: Level, share: float = 0.5, fractional: bool = True) -> Level:
        """The level at a share of the way from s to t in log σ/α, in the coordinates of s.

        fractional: a discrete schedule may be asked between its points; otherwise it is the nearest
        point strictly between the two. Between the least noisy point and the clean end there is no
        level, nor has a share of the way from α = 0 a meaning: half-way is then half of the points.

        Raises InputError for a share outside (0, 1), and where no level lies between.
        """
        if not 0 < share < 1:
            raise InputError(f"a share of a step lies between 0 and 1, got {share}")
        first, last = (self.index_of_ratio(level.ratio) for level in (s, t))
        if t.sigma == 0 or not first > last:
            raise InputError(
                f"no level lies between timesteps {s.timestep:g} and {t.timestep:g}: a step of this"
                " sampler needs one; take fewer steps, or end it without"
            )
        if s.alpha:
            index = self.index_of_ratio(s.ratio ** (1 - share) * t.ratio**share)
        else:
            index = first + share * (last - first)
        if not self.continuous and not fractional:
            least, most = np.floor(last) + 1, np.ceil(first) - 1
            if least > most:
                raise InputError(
                    f"no whole timestep lies between {s.timestep:g} and {t.timestep:g}, and this"
                    " network answers at whole ones only: take fewer steps"
                )
            index = float(np.clip(round(index), least, most))
        return self._like(s, index)

    def knows(self, level: Level) -> bool:
        """Whether a level's σ/α is what the network knows under the level's label."""
        try:
            own = self.at(level.timestep)
        except InputError:
            return False
        if level.alpha == 0 or own.alpha == 0:
            return level.alpha == own.alpha
        return abs(own.ratio - level.ratio) <= SAME_LEVEL * level.ratio

    def _like(self, level: Level, index: float) -> Level:
        """The level at an index, in the coordinates of another level.

        A scheduler may scale α and σ alike.
        """
        own = self.level(index)
        if self.parameterisation != "vp" or abs(np.hypot(level.alpha, level.sigma) - 1) < 1e-6:
            return own
        return Level(own.timestep, 1.0, own.ratio)

    def _karras_ratios(self, steps: int) -> NDArray[Any]:
        if self.alpha[-1] == 0:
            raise InputError(
                "the karras spacing needs a finite σ/α, but this schedule ends at α = 0: use"
                " linspace"
            )
        low, high = (float(self.sigma[i] / self.alpha[i]) ** (1 / KARRAS_RHO) for i in (0, -1))
        return np.linspace(high, low, steps) ** KARRAS_RHO

    def _log_ratios(self) -> NDArray[np.float64]:
        with np.errstate(divide="ignore"):  # infinite where ᾱ ends at 0
            return np.log(self.sigma / self.alpha)

    def _warped(self) -> NDArray[np.float64]:
        power = 1.0 if self.curve is None else self.curve.power
        return np.asarray(self.timestep ** (1 / power))


def _unit(ratio: float) -> tuple[float, float]:
    """(α, σ) on the unit circle with σ/α = ratio."""
    return float(1 / np.sqrt(1 + ratio**2)), float(1 / np.sqrt(1 + 1 / ratio**2))


def timestep_spacing(grid: str, spacing: str | None) -> str:
    """The spacing that two options name, `grid` being the older one.

    Raises InputError if they differ.
    """
    check_arguments(timestep_spacing, locals())
    if spacing is not None and grid not in ("linspace", spacing):
        raise InputError(
            f"grid={grid!r} and timestep_spacing={spacing!r} name one thing: give one of them"
        )
    return spacing or grid


def from_alphas_cumprod(
    alphas_cumprod: ArrayLike, name: str = "custom", timestep: ArrayLike | None = None
) -> Schedule:
    """A vp schedule of T levels from ᾱ_t: α=√ᾱ, σ=√(1−ᾱ).

    ᾱ_t: shape (T,), strictly decreasing, in (0, 1) or ending at 0.

    timestep: the network's labels of the levels, shape (T,), increasing; by default 0 … T − 1.
    """
    abar = numbers(alphas_cumprod, "alphas_cumprod")
    if (
        abar.ndim != 1
        or len(abar) == 0
        or not ((abar >= 0) & (abar < 1)).all()
        or (np.diff(abar) >= 0).any()
    ):
        raise InputError(
            "alphas_cumprod must be one-dimensional, strictly decreasing and inside (0, 1), or end"
            " at 0"
        )
    label = (
        np.arange(len(abar), dtype=np.float64)
        if timestep is None
        else numbers(timestep, "timestep")
    )
    if label.shape != abar.shape or (np.diff(label) <= 0).any():
        raise InputError(
            f"timestep must be increasing, one label for each of the {len(abar)} levels"
        )
    return Schedule(name, "vp", label, np.sqrt(abar), np.sqrt(1 - abar))


def linear(steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> Schedule:
    """DDPM's β from `beta_start` to `beta_end` over T = `steps` levels (Ho et al. 2020, §4)."""
    check_arguments(linear, locals())
    betas = np.linspace(beta_start, beta_end, whole_number(steps, "steps", most=MOST_POINTS))
    return from_alphas_cumprod(np.cumprod(1 - betas), "linear")


def cosine(steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999) -> Schedule:
    """Improved DDPM's cosine ᾱ with β clipped at `max_beta` (Nichol & Dhariwal 2021, eq. 17)."""
    check_arguments(cosine, locals())
    steps = whole_number(steps, "steps", most=MOST_POINTS)
    f = np.cos((np.arange(steps + 1) / steps + offset) / (1 + offset) * np.pi / 2) ** 2
    return from_alphas_cumprod(np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], max_beta)), "cosine")


def edm(sigma_min: float = 0.002, sigma_max: float = 80.0) -> Schedule:
    """EDM: α = 1, the label is σ, from `sigma_min` to `sigma_max` evenly in σ^(1/7).

    Karras et al. 2022, eq. 5.
    """
    check_arguments(edm, locals())
    if not 0 < sigma_min < sigma_max < np.inf:
        raise InputError(f"edm needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    sigma = (
        np.linspace(sigma_min ** (1 / KARRAS_RHO), sigma_max ** (1 / KARRAS_RHO), CONTINUOUS_POINTS)
        ** KARRAS_RHO
    )
    curve = Curve(lambda label: (1.0, label), lambda ratio: ratio, KARRAS_RHO, 0.0, np.inf)
    return Schedule("edm", "edm", sigma, np.ones_like(sigma), sigma, curve)


def flow(scale: float = 1.0) -> Schedule:
    """Flow matching's straight path: α = 1 − t, σ = t, label t · `scale`.

    diffusers uses scale=1000.
    """
    check_arguments(flow, locals())
    if not 0 < scale < np.inf:
        raise InputError(f"flow needs a scale above 0, got {scale}")
    t = np.arange(1, CONTINUOUS_POINTS + 1) / CONTINUOUS_POINTS
    curve = Curve(
        lambda label: (1.0 - label / scale, label / scale),
        lambda ratio: scale * ratio / (1 + ratio),
        above=0.0,
    )
    return Schedule("flow", "flow", t * scale, 1 - t, t, curve)


def ve(sigma_min: float = 0.01, sigma_max: float = 50.0) -> Schedule:
    """score_sde's ve: α = 1, σ(t) = σ_min (σ_max/σ_min)^t for t in [1e-5, 1].

    Song et al. 2021, eq. 9, appendix C.

    The label is t; score_sde's own networks are told σ(t), which their `call` has to compute.
    """
    check_arguments(ve, locals())
    if not 0 < sigma_min < sigma_max < np.inf:
        raise InputError(f"ve needs 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    growth = float(np.log(sigma_max / sigma_min))

    def alpha_sigma(t: float) -> tuple[float, float]:
        return 1.0, float(sigma_min * np.exp(growth * t))

    def label(ratio: float) -> float:
        return float(np.log(ratio / sigma_min)) / growth

    return _from_curve("ve", "edm", Curve(alpha_sigma, label), 1e-5, 1.0)


def vp(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> Schedule:
    """score_sde's vp in continuous time: β(t) = β_min + t (β_max − β_min).

    For t in [t_min, 1] (eq. 11, appendix C).

    ᾱ = exp(−β_min t − ½ (β_max − β_min) t²), α = √ᾱ, σ = √(1 − ᾱ); the label is t.
    """
    check_arguments(vp, locals())
    return _from_curve("vp", "vp", _linear_beta(beta_min, beta_max, _vp), t_min, 1.0)


def sub_vp(beta_min: float = 0.1, beta_max: float = 20.0, t_min: float = 1e-3) -> Schedule:
    """score_sde's sub-vp: ᾱ as in `vp`, α = √ᾱ, σ = 1 − ᾱ (Song et al. 2021, eq. 12 and 29)."""
    check_arguments(sub_vp, locals())
    return _from_curve("sub-vp", "sub-vp", _linear_beta(beta_min, beta_max, _sub_vp), t_min, 1.0)


def continuous(
    log_alpha: Callable[[float], float],
    t_min: float,
    t_max: float,
    parameterisation: Parameterisation = "vp",
    name: str = "continuous",
) -> Schedule:
    """A vp or sub-vp schedule in continuous time from log α(t).

    It decreases on [t_min, t_max]; the label is t.

    A label is found from its α by Brent's method, to round-off. Raises InputError where log α is
    not below 0 or does not decrease between any two of the schedule's points.
    """
    check_arguments(continuous, locals())
    if parameterisation not in ("vp", "sub-vp"):
        raise InputError(
            f"log alpha makes a vp or a sub-vp schedule, not {parameterisation!r}: see edm, ve and"
            " flow"
        )
    form = _vp if parameterisation == "vp" else _sub_vp

    def alpha_sigma(t: float) -> tuple[float, float]:
        return form.alpha_sigma(-2 * float(log_alpha(t)))

    def label(ratio: float) -> float:
        from scipy.optimize import brentq

        wanted = form.decay(ratio)
        found = brentq(
            lambda t: -2 * float(log_alpha(t)) - wanted,
            t_min,
            t_max,
            xtol=1e-15 * t_max,
            rtol=1e-15,
        )
        return float(found)

    return _from_curve(name, parameterisation, Curve(alpha_sigma, label), t_min, t_max)


def from_functions(
    alpha: Callable[[float], float],
    sigma: Callable[[float], float],
    t_min: float = 0.0,
    t_max: float = 1.0,
    name: str = "custom",
) -> Schedule:
    """Make a schedule in continuous time of any two functions α(t) and σ(t).

    The label is t. Both ends of [t_min, t_max] are levels, unless σ(t_min) = 0: that is the clean
    end itself. A label is found from its σ/α by Brent's method, to round-off.

    Parameters
    ----------
    alpha, sigma : function
        From a float t to a number at least 0, or to what `float` takes, such as a tensor of one
        number. σ/α must rise with t.
    t_min, t_max : float
        The labels of the least and the most noise.
    name : str
        What reports call the schedule.

    Returns
    -------
    Schedule
        Of 1000 points, even in t.

    Raises
    ------
    InputError
        For a function that fails or returns no number, where σ/α does not rise between any two of
        the points, where α is 0 anywhere but at t_max, and where σ(t_min) is 0 but α(t_min) not 1.

    Examples
    --------
    Rectified flow with a little noise at the clean end, as `azula.noise.RectifiedSchedule` has it:

    >>> schedule = from_functions(lambda t: 1 - 0.999 * t, lambda t: 0.001 + 0.999 * t)
    >>> schedule.at(0.0).sigma
    0.001
    """
    if not 0 <= t_min < t_max < np.inf:
        raise InputError(
            f"a schedule's labels run from t_min ≥ 0 up to t_max, got {t_min} and {t_max}"
        )

    def alpha_sigma(t: float) -> tuple[float, float]:
        try:
            found = float(alpha(t)), float(sigma(t))
        except Exception as error:  # whatever the user's function raises
            raise InputError(
                f"alpha(t) or sigma(t) of the {name} schedule fails at t = {t:g}"
                f" ({type(error).__name__}: {reason(error)}): give functions from a float to a"
                " number"
            ) from error
        if not (np.isfinite(found).all() and min(found) >= 0):
            raise InputError(
                f"the {name} schedule has α = {found[0]:g} and σ = {found[1]:g} at t = {t:g}:"
                " allowed are finite numbers of at least 0"
            )
        return found

    def label(ratio: float) -> float:
        from scipy.optimize import brentq

        def beyond(t: float) -> float:
            a, s = alpha_sigma(t)
            return s - ratio * a

        return float(brentq(beyond, t_min, t_max, xtol=1e-15 * t_max, rtol=1e-15))

    first = Level(t_min, *alpha_sigma(t_min))
    if first.sigma > 0:
        return _from_curve(name, "custom", Curve(alpha_sigma, label), t_min, t_max)
    if first.alpha != 1:
        raise InputError(
            f"the {name} schedule ends clean at α = {first.alpha:g}: divide both functions by it,"
            " so that its end is x_0 itself"
        )
    low = t_min + (t_max - t_min) / CONTINUOUS_POINTS
    return _from_curve(name, "custom", Curve(alpha_sigma, label, above=t_min), low, t_max)


class _Form(NamedTuple):
    """How α and σ follow from the decay B = −log ᾱ, and B from σ/α."""

    alpha_sigma: Callable[[float], tuple[float, float]]
    decay: Callable[[float], float]


def _sub_vp_decay(ratio: float) -> float:
    # (1 − α²)/α = ratio, written so that nothing cancels.
    return float(-2 * np.log(2 / (ratio + np.sqrt(ratio**2 + 4))))


_vp = _Form(
    lambda b: (float(np.exp(-b / 2)), float(np.sqrt(-np.expm1(-b)))),
    lambda ratio: float(np.log1p(ratio**2)),
)
_sub_vp = _Form(lambda b: (float(np.exp(-b / 2)), float(-np.expm1(-b))), _sub_vp_decay)


def _linear_beta(beta_min: float, beta_max: float, form: _Form) -> Curve:
    if not (0 <= beta_min < np.inf and 0 <= beta_max < np.inf and beta_min + beta_max > 0):
        raise InputError(
            f"beta_min and beta_max must be at least 0 and not both 0, got {beta_min} and"
            f" {beta_max}"
        )
    slope = beta_max - beta_min

    def alpha_sigma(t: float) -> tuple[float, float]:
        return form.alpha_sigma(beta_min * t + slope / 2 * t**2)

    def label(ratio: float) -> float:
        decay = form.decay(ratio)
        return float(2 * decay / (beta_min + np.sqrt(beta_min**2 + 2 * slope * decay)))

    return Curve(alpha_sigma, label)


def _from_curve(
    name: str, parameterisation: Parameterisation, curve: Curve, t_min: float, t_max: float
) -> Schedule:
    if not 0 <= t_min < t_max < np.inf:
        raise InputError(
            f"a schedule's labels run from t_min ≥ 0 up to t_max, got {t_min} and {t_max}"
        )
    timestep = np.linspace(t_min, t_max, CONTINUOUS_POINTS)
    alpha, sigma = np.array([curve.alpha_sigma(float(t)) for t in timestep]).T
    ratio = sigma / np.where(alpha > 0, alpha, np.nan)
    if not (
        (sigma > 0).all()
        and (alpha[:-1] > 0).all()
        and (np.diff(ratio[np.isfinite(ratio)]) > 0).all()
    ):
        raise InputError(
            f"the {name} schedule is not monotone: noise to signal must rise with t, from above 0"
        )
    return Schedule(name, parameterisation, timestep, alpha, sigma, curve)


def prediction_coefficients(prediction_type: str, level: Level) -> tuple[float, float]:
    """(a, b) with output = a·x_0 + b·ε for one of the prediction types."""
    table = {
        "epsilon": (0.0, 1.0),
        "sample": (1.0, 0.0),
        "v_prediction": (-level.sigma, level.alpha),
        "flow_prediction": (-1.0, 1.0),
        "score": (0.0, -1 / level.sigma if level.sigma else -np.inf),
    }
    if prediction_type not in table:
        raise InputError(
            f"unknown prediction type {prediction_type!r}: allowed are"
            f" {', '.join(PREDICTION_TYPES)}"
        )
    return table[prediction_type]


def conversion(source: str, target: str, level: Level) -> tuple[float, float]:
    """(p, q) such that target = p·x + q·output, for an output of type `source` at x = α x_0 + σ ε.

    Raises InputError where the output does not determine the target (for example x_0 from ε at α =
    0).
    """
    if source == target:
        prediction_coefficients(source, level)
        return 0.0, 1.0
    (a, b), (c, d) = prediction_coefficients(source, level), prediction_coefficients(target, level)
    if not np.isfinite((b, d)).all():
        raise InputError(
            f"a score is infinite where nothing is noise, at α={level.alpha:g}, σ={level.sigma:g}"
        )
    if c * b == d * a:  # one is a multiple of the other, as ε and the score
        return 0.0, d / b if b else c / a
    determinant = level.alpha * b - level.sigma * a
    if determinant == 0:
        raise InputError(
            f"a {source} output does not determine {target} at α={level.alpha:g}, σ={level.sigma:g}"
        )
    return (c * b - d * a) / determinant, (d * level.alpha - c * level.sigma) / determinant


def convert(output: Any, source: str, target: str, x: Any, level: Level) -> Any:
    """A network output at state x, of type `source`, as prediction type `target`.

    Any array library.
    """
    p, q = conversion(source, target, level)
    return output if (p, q) == (0.0, 1.0) else p * x + q * output
