"""Remedies of the network: denoisers that correct what a trained denoiser says.

None needs training.

    es    epsilon scaling     ε̂(x, t) → ε̂(x, t) / λ_t         (Ning et al. 2024, arXiv 2308.15321)
    ip    input perturbation  ε̂(x, t) → ε̂(x α'/α, t') / √(1 + γ²)   (Ning et al. 2023, 2301.11706)
    ts    time shift          ε̂(x, t) → ε̂(x, t_s)             (Li et al. 2023, arXiv 2305.15583)
    tsr   temporal score      ε̂(x, t) → ε̂(x, t) (SNR s² + 1)/(SNR s²/k + 1)     (arXiv 2510.01184)
          rescaling
    cn    context noise       ε̂(x, t, c) → ε̂(x, t, c + τ z), z ~ N(0, 1)

Input perturbation trains on y = α x_0 + σ (ε + γ ξ) with target ε. As ε + γ ξ is √(1 + γ²) times a
unit normal n and E[ε | y] = E[n | y] / √(1 + γ²), its optimum is, for any data, that of plain
training at the level t' whose noise-to- signal ratio σ'/α' is √(1 + γ²) σ/α, so that a plain model
gives it for nothing. On a vp schedule t' has another α, hence the factor α'/α on the input.

Time shift evaluates at t_s = argmin_{|τ − t| ≤ w/2} |Var(x) − σ_τ²| for t beyond a cutoff, Var
being each sample's own over all its numbers: the published rule, which matches the total variance,
signal and all. Here it changes the level that the network is told; the sampler keeps the
coefficients of t.

Temporal score rescaling makes of the exact denoiser of N(μ, s²) that of N(μ, s²/k): of data that
are lumps of size s far apart, it narrows the lumps for k > 1 and widens them for k < 1, and leaves
their weights. ComfyUI's setting is k = 0.95, s = 1.

A remedied model is a `Denoiser` like any other. Its name says what was done to it, and its
`weight_hash` differs from the model's, so that recordings of the two never merge. As text
(`remedied`, the command line's --remedy): `es:1.005`, `es:linear:K,B[,STEPS]`, `ip:GAMMA`,
`ts:WINDOW,CUTOFF`, `tsr:K,S`, `cn:TAU`; the command line also has `es:fit`."""

import hashlib
import warnings
from collections.abc import Callable
from math import sqrt
from typing import Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from exposure_bias import strangers
from exposure_bias.checking import check_arguments, numbers
from exposure_bias.clipping import UNCLIPPED, Clipping
from exposure_bias.contexts import Context
from exposure_bias.denoisers import Denoiser, FractionalTimestep
from exposure_bias.errors import InputError
from exposure_bias.samplers import Prediction
from exposure_bias.schedules import Level, convert, prediction_coefficients

SPECIFICATIONS = (
    "es:SCALE, es:linear:K,B[,STEPS], es:fit[:KIND] (command line), ip:GAMMA, ts:WINDOW,CUTOFF,"
    " tsr:K,S, cn:TAU, or module:NAME of yours"
)
PLAUSIBLE_SCALE = (0.8, 1.25)
BLOW_UP = 10.0
CLAMPED_SHARE = 0.05
CONTEXT_NOISE = 2**31  # the number of noise that no network asks for itself

Scale = float | tuple[float, float] | ArrayLike | Callable[[Level], float]


class Remedied(Denoiser):
    """A denoiser with a remedy. model: what it wraps; `net` and everything else is that model's.

    remedy: a name for the remedy and its settings; `name` becomes "MODEL + REMEDY".
    """

    def __init__(self, model: Denoiser, remedy: str) -> None:
        self.__dict__.update(model.__dict__)
        self.model, self.remedy = model, remedy
        self.name = f"{model.name} + {remedy}"

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        return self._inner()(x, level)

    @property
    def weight_hash(self) -> str:
        """16 hex digits of a SHA-256 over the model's hash and the remedy."""
        return hashlib.sha256(f"{self.model.weight_hash} + {self.remedy}".encode()).hexdigest()[:16]

    def _inner(self, rows: Tensor | slice = slice(None)) -> Denoiser:
        """The wrapped model, bound to these rows of what this one is bound to."""
        if self._context is not None:
            return self.model.within(self._context.part(rows))
        return self.model if self._labels is None else self.model.given(self._labels[rows])

    def _restated(self, x: Tensor, level: Level, epsilon: Tensor, raw: Tensor) -> Tensor:
        """The raw output that means `epsilon` at state x of `level`.

        raw: what the network said, of which the learned variance stays, and x̂_0 where α = 0 and ε̂
        leaves it open."""
        output = epsilon
        if self.prediction_type != "epsilon":
            a, b = prediction_coefficients(self.prediction_type, level)
            x0 = (
                (x - level.sigma * epsilon) / level.alpha
                if level.alpha
                else self._read(raw, "sample", x, level)
            )
            output = a * x0 + b * epsilon
        return (
            torch.cat([output, raw.chunk(2, dim=1)[1]], dim=1) if self.learned_variance else output
        )

    def _read(self, raw: Tensor, target: str, x: Tensor, level: Level) -> Tensor:
        """A raw output at state x as prediction type `target`, without its learned variance."""
        value = raw.chunk(2, dim=1)[0] if self.learned_variance else raw
        if target == self.prediction_type:
            return value
        result: Tensor = convert(value.double(), self.prediction_type, target, x.double(), level)
        return result


def epsilon_scaled(model: Denoiser, scale: Scale, steps: int | None = None) -> Denoiser:
    """Epsilon scaling: ε̂/λ with x̂_0 re-derived from it.

    As ADM-ES does before any clipping (arXiv 2308.15321, §5).

    scale: λ as a number; a tuple (k, b), λ = k i + b with i the level's place in the schedule, 0
    (least noise) to T − 1, or, given `steps`, 0 to steps − 1, the paper's convention for a chain of
    that many; an array (T,), one λ for each level of the schedule, interpolated between; or a
    function of a `Level`. λ = 1 is the model itself, bit for bit. At α = 0, where the state is the
    noise, nothing is scaled.

    Unclipped, x̂_0 changes by (1 − 1/λ) σ/α ε̂, which is huge at the first steps of a cosine
    schedule: a warning says so when that happens; sample with clip=True. Raises InputError for λ ≤
    0, NaN, or an array of another shape."""
    check_arguments(epsilon_scaled, locals())
    return _EpsilonScaled(model, *_scale_function(model, scale, steps))


class _EpsilonScaled(Remedied):
    def __init__(self, model: Denoiser, remedy: str, scale: Callable[[Level], float]) -> None:
        super().__init__(model, remedy)
        self._scale, self._warned = scale, False

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        raw = self._inner()(x, level)
        scale = self._scale(level)
        if scale == 1 or level.alpha == 0:
            return raw
        return self._restated(x, level, self._read(raw, "epsilon", x, level) / scale, raw)

    def predict(self, x: Tensor, level: Level, clip: Clipping = UNCLIPPED) -> Prediction:
        factor = abs(1 - 1 / self._scale(level)) * level.ratio if level.alpha else 0.0
        if factor > BLOW_UP and not clip and not self._warned:
            self._warned = True
            warnings.warn(
                f"epsilon scaling moves x0 by {factor:.3g} epsilon at timestep {level.timestep:g},"
                f" where sigma/alpha = {level.ratio:.3g}: unclipped chains blow up there, sample"
                " with clipping",
                stacklevel=2,
            )
        return super().predict(x, level, clip)


def ip_equivalent(model: Denoiser, gamma: float) -> Denoiser:
    """What `model` would be, had it been trained perfectly with input perturbation γ.

    See the module docstring.

    The shifted level is a fractional timestep where the network accepts one, else the nearest whole
    one. Levels that shift beyond the schedule's end are evaluated at its end; `clamped` counts the
    schedule's levels for which this happens, and more than 5 % of them is a warning. γ = 0 is the
    model itself, bit for bit, and so is any γ at α = 0, where the state is the noise.

    Raises InputError for γ < 0 or NaN.
    """
    check_arguments(ip_equivalent, locals())
    return _IPEquivalent(model, gamma)


class _IPEquivalent(Remedied):
    clamped: int

    def __init__(self, model: Denoiser, gamma: float) -> None:
        if not 0 <= gamma < np.inf:
            raise InputError(f"gamma must be at least 0 and finite, got {gamma}")
        super().__init__(model, f"ip:{float(gamma)}")
        self.gamma, self._factor, self._fractional = gamma, sqrt(1 + gamma**2), True
        schedule = model.schedule
        with np.errstate(divide="ignore"):
            ratios = schedule.sigma / schedule.alpha
        # At σ/α = ∞ the shifted level is the level itself.
        self.clamped = (
            int((self._factor * ratios > ratios[-1]).sum())
            if gamma > 0 and np.isfinite(ratios[-1])
            else 0
        )
        if self.clamped > CLAMPED_SHARE * len(schedule):
            warnings.warn(
                f"ip_equivalent with gamma = {gamma:g}: the noisiest {self.clamped} of"
                f" {len(schedule)} levels shift beyond the schedule's end and are evaluated at"
                " its end",
                stacklevel=3,
            )

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        if self.gamma == 0 or level.alpha == 0:
            return self._inner()(x, level)
        index = self.schedule.index_of_ratio(self._factor * level.ratio)
        if self._fractional and not float(index).is_integer():
            try:
                return self._at(x, level, self.schedule.level(index))
            except FractionalTimestep:
                self._fractional = False
            except (InputError, torch.OutOfMemoryError):
                raise
            except (
                RuntimeError,
                TypeError,
                ValueError,
                IndexError,
            ):  # embeddings take whole timesteps only
                self._fractional = False
        return self._at(x, level, self.schedule.level(index if self._fractional else round(index)))

    def _at(self, x: Tensor, level: Level, shifted: Level) -> Tensor:
        scaled = x * (shifted.alpha / level.alpha)
        raw = self._inner()(scaled, shifted)
        return self._restated(
            x, level, self._read(raw, "epsilon", scaled, shifted) / self._factor, raw
        )


def time_shifted(model: Denoiser, window: int, cutoff: float) -> Denoiser:
    """Time shift: each sample is evaluated at a level near its own.

    The one whose σ² is nearest to the sample's variance.

    window: w, in levels of the schedule: candidates lie w//2 to either side. cutoff: levels at or
    below this place in the schedule (0, least noise, to T − 1) are left alone, and so is the
    noisiest one, the start of a chain, as in the published sampler (arXiv 2305.15583, Algorithm 3).
    window = 0 is the model itself, bit for bit.

    A batch costs one call of the network for each level that its samples choose. Raises InputError
    for window < 0, a window that is no whole number, or a cutoff outside the schedule."""
    check_arguments(time_shifted, locals())
    return _TimeShifted(model, window, cutoff)


class _TimeShifted(Remedied):
    def __init__(self, model: Denoiser, window: int, cutoff: float) -> None:
        if not window >= 0 or window != int(window):
            raise InputError(
                f"the window of a time shift is a whole number of levels, at least 0, got {window}"
            )
        if not 0 <= cutoff <= len(model.schedule):
            raise InputError(
                f"the cutoff of a time shift lies between 0 and {len(model.schedule)}, got {cutoff}"
            )
        super().__init__(model, f"ts:{int(window)},{cutoff:g}")
        self._reach, self._cutoff = int(window) // 2, cutoff

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        candidates = self._candidates(level)
        if len(candidates) == 1:
            return self._inner()(x, level)
        targets = torch.tensor(
            [c.sigma**2 for c in candidates], dtype=torch.float64, device=x.device
        )
        chosen = (x.double().flatten(1).var(1)[:, None] - targets).abs().argmin(1)
        output: list[Tensor] = [x] * len(x)
        for i in chosen.unique().tolist():
            rows = torch.nonzero(chosen == i)[:, 0]
            said = self._inner(rows.cpu())(x[rows], candidates[i])
            if i > 0:
                said = self._restated(
                    x[rows], level, self._read(said, "epsilon", x[rows], candidates[i]), said
                )
            for row, value in zip(rows.tolist(), said, strict=True):
                output[row] = value
        return torch.stack(output)

    def _candidates(self, level: Level) -> list[Level]:
        """The levels to choose from, the sample's own first, so that a tie changes nothing."""
        place, last = _place(self, level), len(self.schedule) - 1
        if place <= self._cutoff or place == last:
            return [level]
        offsets = [k for k in range(-self._reach, self._reach + 1) if k and 0 <= place + k <= last]
        return [level, *(self.schedule.level(place + k) for k in offsets)]


def tsr(model: Denoiser, k: float, s: float) -> Denoiser:
    """Rescale a model's score by temporal score rescaling (module docstring).

    Parameters
    ----------
    model : Denoiser
        The model that is corrected.
    k : float
        Above 0. The lumps of the data get the variance s²/k in place of s²; 1 is the model itself,
        bit for bit.
    s : float
        Above 0, in the data's units: the size of a lump.

    Returns
    -------
    Denoiser

    Raises
    ------
    InputError
        For numbers that are not above 0, and for a sampler in place of a model.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> eb.remedies.tsr(eb.load_model("digits"), 0.95, 1).remedy
    'tsr:0.95,1'
    """
    if not isinstance(model, Denoiser):
        raise InputError(
            f"tsr corrects what a model says, and {type(model).__name__} is no Denoiser: give a"
            " model"
        )
    if not (0 < k < np.inf and 0 < s < np.inf):
        raise InputError(f"tsr takes k > 0 and s > 0, got {k} and {s}")
    return _TSR(model, float(k), float(s))


class _TSR(Remedied):
    def __init__(self, model: Denoiser, k: float, s: float) -> None:
        super().__init__(model, f"tsr:{k:g},{s:g}")
        self._k, self._variance = k, s**2

    def __call__(self, x: Tensor, level: Level) -> Tensor:
        raw = self._inner()(x, level)
        if self._k == 1 or level.alpha == 0:
            return raw
        signal = level.alpha**2 * self._variance
        factor = (signal + level.sigma**2) / (signal / self._k + level.sigma**2)
        return self._restated(x, level, factor * self._read(raw, "epsilon", x, level), raw)


def context_noised(model: Denoiser, tau: float) -> Denoiser:
    """Put noise on the frames that a model of sequences follows; the model is not told.

    The noise is drawn once for a frame and stays the same along its chain. A network that was
    trained to be told τ is better asked by its own call: `c.frames + tau * c.noise()`.

    Parameters
    ----------
    model : Denoiser
        A model with a context.
    tau : float
        At least 0, the noise's standard deviation in the data's units. 0 is the model itself, bit
        for bit.

    Returns
    -------
    Denoiser

    Raises
    ------
    InputError
        For a model of single states, and for τ < 0 or NaN.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> eb.remedies.context_noised(eb.load_model("lorenz96"), 0.1).remedy
    'cn:0.1'
    """
    if not isinstance(model, Denoiser) or model.context is None:
        name = model.name if isinstance(model, Denoiser) else type(model).__name__
        raise InputError(f"{name} has no context to put noise on: give Denoiser(…, context=p)")
    if not 0 <= tau < np.inf:
        raise InputError(f"tau must be at least 0 and finite, got {tau}")
    return _ContextNoised(model, float(tau))


class _ContextNoised(Remedied):
    def __init__(self, model: Denoiser, tau: float) -> None:
        super().__init__(model, f"cn:{tau:g}")
        self._tau = tau

    def within(self, context: Context) -> Self:
        bound = super().within(context)
        if self._tau:
            bound._context = context.noised(self._tau, CONTEXT_NOISE)
        return bound


def remedied(model: Denoiser, text: str) -> Denoiser:
    """The model with the remedy that `text` describes (module docstring).

    Raises InputError for anything else, naming what is allowed.
    """
    check_arguments(remedied, locals())
    kind, _, rest = text.partition(":")
    if kind == "dcw":
        raise InputError(
            f"{text} corrects the steps of a sampler, not a network: give it with the sampler, as"
            f" in 'ddim + {text}'"
        )
    if kind not in ("es", "ip", "ts", "tsr", "cn") and strangers.is_name(text):
        made = strangers.made(text, "remedy", model)
        if not isinstance(made, Denoiser):
            raise InputError(
                f"the remedy {text!r} takes a Denoiser and returns one; it returned"
                f" {type(made).__name__}"
            )
        return made
    if text == "es:fit":
        raise InputError(
            "es:fit is fitted to a run: at the command line, or with epsilon_norm's scale_slope and"
            " offset"
        )
    try:
        if kind == "es" and rest.startswith("linear:"):
            k, b, *steps = rest.removeprefix("linear:").split(",")
            return epsilon_scaled(model, (float(k), float(b)), *(int(s) for s in steps))
        if kind == "es":
            return epsilon_scaled(model, float(rest))
        if kind == "ip":
            return ip_equivalent(model, float(rest))
        if kind == "ts":
            window, cutoff = rest.split(",")
            return time_shifted(model, int(window), float(cutoff))
        if kind == "tsr":
            k, s = rest.split(",")
            return tsr(model, float(k), float(s))
        if kind == "cn":
            return context_noised(model, float(rest))
    except InputError:
        raise
    except (TypeError, ValueError):  # too many or too few numbers, or not numbers
        pass
    raise InputError(f"unknown remedy {text!r}: allowed are {SPECIFICATIONS}")


def _scale_function(
    model: Denoiser, scale: Scale, steps: int | None
) -> tuple[str, Callable[[Level], float]]:
    """A name for λ, and λ as a function of the level."""
    schedule, places = model.schedule, np.arange(len(model.schedule))
    function = None
    if callable(scale):
        function = scale
        points = numbers([scale(schedule.level(float(i))) for i in places], "a scale by level")
    elif isinstance(scale, tuple):
        if len(scale) != 2 or (steps is not None and steps < 2):
            raise InputError(
                f"a linear scale is a tuple (k, b), with steps of at least 2 if given: got {scale},"
                f" {steps}"
            )
        k, b = numbers(scale, "a linear scale")
        points = k * places * (1.0 if steps is None else (steps - 1) / places[-1]) + b
    else:
        points = numbers(scale, "a scale")
        if points.shape not in ((), places.shape):
            raise InputError(
                f"a scale by level is one number for each of {len(places)} levels, got"
                f" {points.shape}"
            )
    wrong = points[~((points > 0) & (points < np.inf))]
    if wrong.size:
        raise InputError(
            f"epsilon is divided by its scale, which must be positive: got {wrong.flat[0]}; 1"
            " changes nothing"
        )
    low, high = float(points.min()), float(points.max())
    if low < PLAUSIBLE_SCALE[0] or high > PLAUSIBLE_SCALE[1]:
        warnings.warn(
            f"epsilon is divided by {low:.4g} to {high:.4g}, where published scales stay within"
            " 0.99 and 1.06; a linear scale counts levels of the schedule unless it is given"
            " steps",
            stacklevel=3,
        )

    def interpolated(level: Level) -> float:
        return (
            float(np.interp(_place(model, level), places, points)) if points.ndim else float(points)
        )

    if points.ndim == 0:
        name = str(low)
    elif isinstance(scale, tuple):
        name = "linear:" + ",".join(str(v) for v in (*map(float, scale), steps) if v is not None)
    else:
        name = hashlib.sha256(points.tobytes()).hexdigest()[:8]
    return f"es:{name}", function or interpolated


def _place(model: Denoiser, level: Level) -> float:
    """The level's (fractional) index in the schedule."""
    return model.schedule.index_of_ratio(level.ratio)
