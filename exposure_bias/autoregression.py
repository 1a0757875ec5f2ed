"""Linear autoregressions: sequences whose drift under any linear sampler is known. No torch.

A frame of D numbers follows from the p frames before it,

    x_k = F_1 x_{k−1} + … + F_p x_{k−p} + w_k,        w_k ~ N(0, Q),   Q = U diag(q) Uᵀ.

The exact conditional denoiser is linear. With μ = F c the mean of a frame given its context c, and
d = x_t − α_t μ, it says x̂_0 = μ + k d along each direction of U, where k = α q / (α² q + σ²). A
sampler with linear steps therefore ends at μ + X d_T + n, n of variance V, with one pair (X, V) for
each direction. From noise d_T = s ε − α_T μ, where s is the sampler's standard deviation there;
from the data's own frame d_T = α_T (x_k − μ) + σ_T ε. The drift follows:

    A = U (1 − α_T X) Uᵀ F,   P_{k+1} = A P_k Aᵀ + U (X² s² + V) Uᵀ     (from noise)

where P is the covariance of a window of frames, so that lags and changes follow as well. The first
context comes from the stationary law; *forced* frames are drawn from that law's contexts, *free*
frames from the model's own.

*The limit* of many steps has a closed form too. With r = σ/α and ε̂ multiplied by κ,

    ODE   X = (α_t/α_s) [(q + r_t²)/(q + r_s²)]^(κ/2),   V = 0
    SDE   X = (α_t/α_s) [(q + r_t²)/(q + r_s²)]^κ,
          V = α_t² (q + r_t²)^(2κ) [(q + r_t²)^(1−2κ) − (q + r_s²)^(1−2κ)] / (2κ − 1)

down to the last noisy level, after which one noise-free step multiplies d by k and adds μ.

*Context noise.* A network that is told its context with noise of standard deviation τ answers with
F G c̃, G = Σ (Σ + τ²)⁻¹ for a context of covariance Σ, and with Q + F (Σ − G Σ) Fᵀ in place of Q.

Source: docs/mathematics.md, "Drift of sequences"; the ODE and SDE are those of Song et al. 2021,
arXiv 2011.13456, eq. 6 and 13.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from exposure_bias.errors import InputError, whole_number
from exposure_bias.samplers import Sampler, Transition, parse
from exposure_bias.schedules import Level, Schedule

Array = NDArray[np.float64]

TERMS = ("total", "feedback", "discretisation", "initialisation", "score")
GROWTH = ("feedback_discretisation", "feedback_initialisation", "feedback_score")
SYMMETRY = 1e-9


class Response(NamedTuple):
    """How a frame ends: μ + along · d_T + noise of variance `noise`, by direction, each (D,).

    start: the standard deviation of d_T's own noise. alpha: α_T, or α_T times what a call at the
    start leaves of μ's absence. paired: whether d_T is that of the
    data's own frame, α_T (x − μ) + σ_T ε, rather than of noise, s ε − α_T μ.
    """

    along: Array
    noise: Array
    start: float | Array
    alpha: float | Array
    paired: bool

    @property
    def context(self) -> Array:
        """The factor of the mean that the context gives."""
        return np.asarray(1 - self.alpha * self.along * (1.0 if not self.paired else 0.0))

    def spread(self, q: Array) -> Array:
        """The variance of a frame given its context, (D,)."""
        own = self.start**2 + (self.alpha**2 * q if self.paired else 0.0)
        return np.asarray(self.along**2 * own + self.noise)


@dataclass(frozen=True, eq=False)
class Autoregression:
    """The law of the module docstring.

    coefficients: F_1 … F_p, (p, D, D), the nearest frame's first. covariance: Q, (D, D).
    """

    coefficients: Array
    covariance: Array

    @classmethod
    def of(cls, a: ArrayLike, covariance: ArrayLike | None = None) -> "Autoregression":
        """The autoregression of a number, of a matrix (D, D), or of (p, D, D) for p frames.

        covariance: Q, a number, (D,) or (D, D). By default it is what makes the stationary
        covariance of a frame the identity; for a number a that is 1 − a².

        Raises InputError for another shape, for coefficients that are not stable, and for a
        covariance that is none.
        """
        given = np.asarray(a, dtype=np.float64)
        if given.ndim > 3 or given.ndim == 1 or not np.isfinite(given).all():
            raise InputError(
                "an autoregression takes a finite number, a matrix (D, D), or (p, D, D) for p"
                f" frames, got shape {given.shape}"
            )
        coefficients = given.reshape((1,) * (3 - given.ndim) + given.shape)
        if coefficients.shape[1] != coefficients.shape[2] or not coefficients.size:
            raise InputError(f"an autoregression's matrices are square, got shape {given.shape}")
        radius = float(np.abs(np.linalg.eigvals(companion(coefficients))).max())
        if radius >= 1:
            raise InputError(
                "this autoregression grows without bound: its largest root is"
                f" {radius:.4g}, and only below 1 it has a stationary law"
            )
        size = coefficients.shape[1]
        if covariance is None:
            return cls(coefficients, _unit_covariance(coefficients))
        return cls(coefficients, _checked_covariance(covariance, size))

    @property
    def context(self) -> int:
        """p, the number of frames that the next one depends on."""
        return len(self.coefficients)

    @property
    def size(self) -> int:
        """D, the numbers of a frame."""
        return int(self.coefficients.shape[1])

    @property
    def row(self) -> Array:
        """F, the matrix (D, p D) that a context is multiplied with, the nearest frame first."""
        return np.concatenate(list(self.coefficients), axis=1)

    def window(self, frames: int) -> Array:
        """The stationary covariance of `frames` consecutive frames, the newest first."""
        frames = max(frames, self.context)
        size, wide = self.size, frames * self.size
        padded = np.zeros((frames, size, size))
        padded[: self.context] = self.coefficients
        noise = np.zeros((wide, wide))
        noise[:size, :size] = self.covariance
        return _stationary(companion(padded), noise)

    def noised(self, noise: float) -> "tuple[Array, Array]":
        """F and Q of a frame given its context with noise of this standard deviation on it."""
        if noise == 0:
            return self.row, self.covariance
        known = self.window(self.context)
        gain = known @ np.linalg.inv(known + noise**2 * np.eye(len(known)))
        left = known - gain @ known
        return self.row @ gain, self.covariance + self.row @ left @ self.row.T

    def sample(self, n: int, frames: int, seed: int = 0) -> Array:
        """n sequences of so many frames from the stationary law, (n, frames, D) float64."""
        whole_number(n, "n, the number of sequences,")
        whole_number(frames, "frames")
        random = np.random.default_rng(seed)
        known = max(self.context, 1)
        root = _root(self.window(known))
        first = random.normal(size=(n, len(root))) @ root.T
        drawn = list(first.reshape(n, known, self.size).transpose(1, 0, 2)[::-1])
        spread = _root(self.covariance)
        while len(drawn) < frames:
            context = np.concatenate(drawn[: -known - 1 : -1], axis=1)
            drawn.append(context @ self.row.T + random.normal(size=(n, self.size)) @ spread.T)
        return np.stack(drawn[:frames], axis=1)

    def drift(
        self,
        schedule: Schedule,
        sampler: str | Sampler = "ddpm",
        steps: int = 10,
        frames: int = 16,
        *,
        spacing: str = "linspace",
        epsilon_factor: float = 1.0,
        context_noise: float = 0.0,
        start: str = "noise",
        free_limit: bool = True,
    ) -> xr.Dataset:
        """Compute what `drift_budget` finds for the exact network with infinitely many sequences.

        Parameters
        ----------
        schedule, sampler, steps, spacing
            The chain that draws a frame, as in `record`. The sampler needs linear steps.
        frames
            How many frames are drawn after the first context.
        epsilon_factor
            κ, with which the exact ε̂ is multiplied: 1 is the exact network.
        context_noise
            τ, the standard deviation of the noise on each context, which the network is told.
        start
            "noise", or "one call": chains begin at σ z + α f(σ z).
        free_limit
            Whether the feedback is split as well.

        Returns
        -------
        xarray.Dataset
            Over (statistic, frame): total, feedback, discretisation, initialisation, score, and
            the three parts of feedback. `variance`, `change` and `tails` are relative, `lag` is a
            difference of correlations.

        Raises
        ------
        InputError
            For a sampler without linear steps or without a limit.

        Examples
        --------
        >>> import exposure_bias as eb
        >>> law = eb.autoregression.Autoregression.of(0.9)
        >>> drift = law.drift(eb.schedules.linear(), "ddim", steps=10, frames=16)
        >>> round(100 * float(drift.total.sel(statistic="variance", frame=16)), 3)
        -50.763
        """
        chain = parse(sampler)
        levels = chain.levels(schedule, steps, spacing)
        transitions = chain.transition(levels)
        if transitions is None or chain.limit is None:
            raise InputError(f"{chain} has no linear steps or no limit: use ddpm, ddim or euler")
        recursion = _Recursion(self, context_noise)
        q, kappa = recursion.q, epsilon_factor
        begun = _begun(levels[0], q, kappa, chain.prior_scale(levels[0]), start)
        own = Response(*_walked(transitions, q, kappa), *begun, paired=False)
        end = _limit(levels, chain.limit, q, kappa)
        noise = Response(*end, *begun, paired=False)
        data = Response(*end, levels[0].sigma, levels[0].alpha, paired=True)
        statistics = {
            name: recursion.statistics(response, frames, free)
            for name, response, free in (
                ("free", own, True),
                ("forced", own, False),
                ("noise", noise, False),
                ("data", data, False),
                ("free noise", noise, True),
                ("free data", data, True),
            )
        }
        parts = terms(*(statistics[k] for k in ("free", "forced", "noise", "data")))
        if free_limit:
            grown = growth(
                parts, statistics["free"], *(statistics[f"free {k}"] for k in ("noise", "data"))
            )
            parts |= grown
        dims = ("statistic", "frame")
        coords = {"statistic": recursion.names, "frame": np.arange(1, frames + 1)}
        return xr.Dataset({name: (dims, value) for name, value in parts.items()}, coords)


def terms(free: Array, forced: Array, noise: Array, data: Array) -> dict[str, Array]:
    """The five terms of statistics that are already differences from the data's."""
    return {
        "total": free,
        "feedback": free - forced,
        "discretisation": forced - noise,
        "initialisation": noise - data,
        "score": data,
    }


def growth(parts: dict[str, Array], free: Array, noise: Array, data: Array) -> dict[str, Array]:
    """The three parts of feedback, from the limit's own free-running frames."""
    return {
        "feedback_discretisation": free - noise - parts["discretisation"],
        "feedback_initialisation": noise - data - parts["initialisation"],
        "feedback_score": data - parts["score"],
    }


class _Recursion:
    """Covariances of a window of frames, and what statistics they have."""

    def __init__(self, law: Autoregression, context_noise: float) -> None:
        self.law, self.tau = law, context_noise
        self.lags = law.context + 2
        self.frames = self.lags + 1
        self.row, covariance = law.noised(context_noise)
        self.q, self.basis = np.linalg.eigh(covariance)
        self.q = np.maximum(self.q, 0.0)
        self.true = law.window(self.frames)
        self.names = ["variance", "mean", "change", *self._lag_names, "tails"]

    @property
    def _lag_names(self) -> list[str]:
        return [f"lag {lag}" for lag in range(1, self.lags + 1)]

    def statistics(self, response: Response, frames: int, free: bool) -> Array:
        """Every statistic less the data's, (statistic, frame)."""
        known = self.true
        columns = []
        for frame in range(1, frames + 1):
            # At the first frame every context is true.
            drawn = self._next(known, response, free and frame > 1)
            columns.append(self._measured(drawn, frame) - self._measured(self._true_next, frame))
            known = drawn if free else self.true
        return np.stack(columns, axis=1)

    @cached_property
    def _true_next(self) -> Array:
        """The covariance of a window that one more true frame leads."""
        return self.law.window(self.frames + 1)[: self._wide, : self._wide]

    @property
    def _wide(self) -> int:
        return (self.frames + 1) * self.law.size

    def _next(self, known: Array, response: Response, free: bool) -> Array:
        """The covariance of the window with one more frame in front, the oldest still in it."""
        law, u = self.law, self.basis
        pulled = u @ np.diag(response.context) @ u.T @ self.row
        spread = u @ np.diag(response.spread(self.q)) @ u.T
        on_window = np.zeros((law.size, known.shape[0]))
        on_window[:, : pulled.shape[1]] = pulled
        noise = self.tau**2 * pulled @ pulled.T
        if response.paired and not free:
            return self._paired(response)
        cross = on_window @ known
        own = on_window @ known @ on_window.T + spread + noise
        return np.block([[own, cross], [cross.T, known]])[: self._wide, : self._wide]

    def _paired(self, response: Response) -> Array:
        """That of a frame whose chain starts on the true frame itself."""
        law, u = self.law, self.basis
        along = u @ np.diag(response.alpha * response.along) @ u.T
        on_window = np.zeros((law.size, self._wide))
        on_window[:, : law.size] = along
        # 1 − αX of the predicted mean, which is F G c̃, and αX of the frame itself.
        pulled = (np.eye(law.size) - along) @ self.row
        on_window[:, law.size : law.size + pulled.shape[1]] += pulled
        own = response.along**2 * response.start**2 + response.noise
        spread = u @ np.diag(own) @ u.T + self.tau**2 * pulled @ pulled.T
        cross = (on_window @ self._true_next)[:, law.size :]
        rest = self._true_next[law.size :, law.size :]
        return np.block(
            [[on_window @ self._true_next @ on_window.T + spread, cross], [cross.T, rest]]
        )

    def _measured(self, window: Array, frame: int) -> Array:
        """The statistics of a window's newest frame; those before the sequence's start are NaN."""
        size = self.law.size

        def block(i: int, j: int) -> Array:
            return window[i * size : (i + 1) * size, j * size : (j + 1) * size]

        variance = np.trace(block(0, 0))
        true = np.trace(self.true[:size, :size])
        ahead = self._true_next
        step = np.trace(ahead[:size, :size] - 2 * ahead[:size, size : 2 * size]) + true
        change = variance + np.trace(block(1, 1)) - 2 * np.trace(block(0, 1))
        lags = []
        for lag in range(1, self.lags + 1):
            there = frame + self.law.context - 1 >= lag
            norm = np.sqrt(variance * np.trace(block(lag, lag)))
            lags.append(np.trace(block(0, lag)) / norm if there else np.nan)
        own = block(0, 0).diagonal()
        tails = 3 * np.square(own).mean() / own.mean() ** 2
        spread = self.true[:size, :size].diagonal()
        reference = 3 * np.square(spread).mean() / spread.mean() ** 2
        return np.array([variance / true, 0.0, change / step, *lags, tails / reference])


def companion(coefficients: Array) -> Array:
    """The matrix (p D, p D) that moves a window of p frames on by one, the newest first."""
    frames, size, _ = coefficients.shape
    matrix = np.zeros((frames * size, frames * size))
    matrix[:size] = np.concatenate(list(coefficients), axis=1)
    matrix[size:, :-size] = np.eye((frames - 1) * size)
    return matrix


def _stationary(step: Array, noise: Array) -> Array:
    """Σ = A Σ Aᵀ + N, by doubling: 2^k terms of the sum after k rounds."""
    covariance = noise.copy()
    for _ in range(200):
        added = step @ covariance @ step.T
        covariance = covariance + added
        if np.abs(added).max() <= 1e-17 * np.abs(covariance).max():
            break
        step = step @ step
    return (covariance + covariance.T) / 2


def _unit_covariance(coefficients: Array) -> Array:
    """Q for which the stationary covariance of one frame is the identity.

    The covariances Γ_ℓ = Σ_j F_j Γ_{ℓ−j} of frames ℓ apart are solved for with Γ_0 = 1.
    """
    size = coefficients.shape[1]
    lagged = [np.eye(size), *_lagged(coefficients)]
    covariance = np.eye(size) - sum(f @ lagged[j].T for j, f in enumerate(coefficients, start=1))
    covariance = (covariance + covariance.T) / 2
    if np.linalg.eigvalsh(covariance).min() < 0:
        raise InputError(
            "no noise makes the stationary covariance of these coefficients the identity: give"
            " covariance="
        )
    return np.asarray(covariance)


def _lagged(coefficients: Array) -> list[Array]:
    """Γ_1 … Γ_p for Γ_0 = 1, by iteration where p > 1."""
    frames, size, _ = coefficients.shape
    if frames == 1:
        return [coefficients[0]]
    shape = (frames - 1, size, size)

    def moved(values: Array) -> Array:
        known = [np.eye(size), *values.reshape(shape)]

        def at(lag: int) -> Array:
            return known[lag] if lag >= 0 else known[-lag].T

        return np.stack(
            [
                sum(f @ at(lag - j) for j, f in enumerate(coefficients, start=1))
                for lag in range(1, frames)
            ]
        ).ravel()

    zero = np.zeros(int(np.prod(shape)))
    constant = moved(zero)
    matrix = np.stack([moved(unit) - constant for unit in np.eye(len(zero))], axis=1)
    inner = np.linalg.solve(np.eye(len(zero)) - matrix, constant).reshape(shape)
    known = [np.eye(size), *inner]
    last = sum(f @ known[frames - j] for j, f in enumerate(coefficients, start=1))
    return [*inner, np.asarray(last)]


def _checked_covariance(covariance: ArrayLike, size: int) -> Array:
    given = np.asarray(covariance, dtype=np.float64)
    if given.shape not in ((), (size,), (size, size)):
        raise InputError(
            f"the noise's covariance is a number, ({size},) or ({size}, {size}), got {given.shape}"
        )
    matrix = given if given.ndim == 2 else np.diag(np.broadcast_to(given, (size,)))
    if np.abs(matrix - matrix.T).max() > SYMMETRY * np.abs(matrix).max():
        raise InputError("the noise's covariance is not symmetric: give (Q + Qᵀ)/2")
    if np.linalg.eigvalsh(matrix).min() < -SYMMETRY * np.abs(matrix).max():
        raise InputError("the noise's covariance has negative eigenvalues")
    return np.asarray(matrix, dtype=np.float64)


def _root(covariance: Array) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    root: Array = vectors * np.sqrt(np.maximum(values, 0.0))
    return root


def gain(level: Level, q: Array, kappa: float = 1.0) -> Array:
    """k: x̂_0 − μ per x_t − α μ, of the exact network with ε̂ multiplied by `kappa`.

    At α = 0 the state says nothing of x_0, whatever the factor.
    """
    total = level.alpha**2 * q + level.sigma**2
    exact = level.alpha * q / total
    if level.alpha == 0:
        return np.asarray(exact)
    return np.asarray(exact + (1 - kappa) * level.sigma**2 / (level.alpha * total))


def _begun(
    first: Level, q: Array, kappa: float, prior: float, start: str
) -> tuple[float | Array, float | Array]:
    """The standard deviation of a start's noise, and the factor −d_T/μ, by direction.

    After one call at σ z a chain begins at σ z + α [μ + k (σ z − α μ)].
    """
    if start == "noise":
        return prior, first.alpha
    if start != "one call":
        raise InputError(f"unknown start {start!r:.60}: allowed are noise and one call")
    k = gain(first, q, kappa)
    return first.sigma * (1 + first.alpha * k), first.alpha**2 * k


def _walked(transitions: Sequence[Transition], q: Array, kappa: float) -> tuple[Array, Array]:
    """(X, V) of a chain whose steps are linear."""
    along, noise = np.ones_like(q), np.zeros_like(q)
    for step in transitions:
        answers: list[Any] = []
        for stage in step.stages:
            asked = stage.state + _weighted(stage.predictions, answers)
            answers.append(gain(stage.level, q, kappa) * asked)
        factor = step.state + _weighted(step.predictions, answers)
        along, noise = factor * along, factor**2 * noise + step.noise**2
    return along, noise


def _weighted(weights: Sequence[float], answers: Sequence[Any]) -> Any:
    return sum(w * a for w, a in zip(weights, answers, strict=True))


def _limit(levels: Sequence[Level], kind: str, q: Array, kappa: float) -> tuple[Array, Array]:
    """(X, V) of infinitely many steps between the first and the last noisy level (docstring)."""
    noisy = [level for level in levels if level.sigma > 0]
    s, t = noisy[0], noisy[-1]
    if s.alpha == 0:
        if kappa != 1 and kind == "ode":
            raise InputError("the ODE of a wrong network has no limit from a start at α = 0")
        total = np.full_like(q, s.sigma**2)
    else:
        total = s.alpha**2 * q + s.sigma**2
    below = q + t.ratio**2
    if kind == "ode":
        along = t.alpha * below ** (kappa / 2) * s.alpha ** (kappa - 1) / total ** (kappa / 2)
        noise = np.zeros_like(q)
    else:
        above = np.inf if s.alpha == 0 else q + s.ratio**2
        along = np.zeros_like(q) if s.alpha == 0 else t.alpha / s.alpha * (below / above) ** kappa
        noise = (
            t.alpha**2
            * below ** (2 * kappa)
            * (below ** (1 - 2 * kappa) - above ** (1 - 2 * kappa))
            / (2 * kappa - 1)
        )
    if levels[-1].sigma > 0:
        return along, noise
    last = gain(t, q, kappa)
    return last * along, last**2 * noise
