"""What a chain shows *without* a model error: the Gaussian reference, in closed form. No torch.

For data x_0 ~ N(μ, Σ) the perfect denoiser is linear, so every chain state is Gaussian and its
moments follow from one small recursion per eigenvalue λ of Σ (docs/mathematics.md). Along one
eigen-direction let u = x_0 − μ and d = x_t − α_t μ be the deviations of the data and of the chain
state. The denoiser says

    x̂_0 = μ + k d,   ε̂ = e d,   k = α λ / (α²λ + σ²),   e = σ / (α²λ + σ²)

and a sampler whose steps are linear takes d_s to d_t = p d_s + n z. With the coefficients of
`samplers.Transition`, stage j asks at y_j = A_j d_s + Σ_i B_ji x̂_i and is told x̂_j = k_j y_j,
hence

    p = A + Σ_j B_j κ_j,    κ_j = k_j (A_j + Σ_{i<j} B_ji κ_i)

which for one stage is p = a + b k. Every sampler maps (α_s x_0, x̂_0 = x_0) to α_t x_0, so that the
means follow along. Remedies keep the denoiser linear: epsilon scaling by λ_ε and input perturbation
by γ, trained or not, multiply e by

    q = (α²λ + σ²) / (α²λ + σ² (1 + γ²)) / λ_ε,

and k becomes (1 − σ e)/α (docs/mathematics.md). Where α = 0, q = 1.

The teacher chain takes the same steps and noise with x̂_0 = x_0: its deviation is α u + w, w_t = A
w_s + n z. Writing the chain's as d = g u + ω + w with ω, w independent of u, all laws that we
report follow from

    g_t = p g_s,   Var(ω + w)_t = p² Var(ω + w)_s + n²,   ω_t = p ω_s + (p − A) w_s:
    Var d = g²λ + Var(ω + w),   Cov(d, u) = g λ,
    Var ξ = (g − α)²λ + Var ω   for ξ = chain − teacher.
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from exposure_bias.errors import InputError
from exposure_bias.recording import Recording
from exposure_bias.samplers import Sampler, Transition, parse, prepared, prior_scale
from exposure_bias.schedules import Level, Schedule
from exposure_bias.schedules import timestep_spacing as spacing_of
from exposure_bias.states import ALLOWED, KINDS, dimensions
from exposure_bias.statistics.bands import Bands
from exposure_bias.statistics.law import holds

Array = NDArray[np.float64]
Start = Literal["data", "noise"]

# Covariances estimated in float32 have eigenvalues this far below zero, relative to the largest,
# and no more.
TOLERANCE = 1e-5


class Eigen(NamedTuple):
    """Σ = Σ_k values[k] vectors[k] vectors[k]ᵀ.

    values (K,); orthonormal rows (K, D), or None for the pixel basis.

    Directions that the K ≤ D rows do not span have eigenvalue 0.
    """

    values: Array
    vectors: Array | None = None


def eigendecomposition(covariance: ArrayLike | Eigen, size: int | None = None) -> Eigen:
    """The `Eigen` of a covariance.

    A scalar (needs `size` = D), (D,) variances, (D, D), or an `Eigen` to check.

    A matrix's eigenvalues come largest first, variances stay in pixel order; round-off below zero
    is cut to 0. Raises InputError for a wrong shape, a matrix that is not symmetric, or eigenvalues
    clearly below 0.
    """
    if isinstance(covariance, Eigen):
        values, vectors = np.array(covariance.values, dtype=np.float64), covariance.vectors
        expected = (size or len(values),) if vectors is None else (len(np.atleast_2d(vectors)),)
        if values.shape != expected:
            raise InputError(f"Eigen needs values of shape {expected}, got {values.shape}")
        if vectors is not None:
            vectors = np.asarray(vectors, dtype=np.float64)
            _check_orthonormal(vectors, size or vectors.shape[-1])
    else:
        matrix, vectors = np.asarray(covariance, dtype=np.float64), None
        if matrix.ndim == 0 and size is None:
            raise InputError(
                "the eigendecomposition of a scalar covariance needs size, the number of pixels"
            )
        d = size or len(matrix)
        if matrix.shape not in ((), (d,), (d, d)):
            raise InputError(
                f"covariance must be a scalar, ({d},) or ({d}, {d}), got shape {matrix.shape}"
            )
        if not np.isfinite(matrix).all():
            raise InputError("covariance has entries that are not finite")
        values = np.broadcast_to(matrix, (d,)).copy() if matrix.ndim < 2 else matrix.diagonal()
        if matrix.ndim == 2:
            if np.abs(matrix - matrix.T).max() > TOLERANCE * np.abs(matrix).max():
                raise InputError("covariance is not symmetric")
            values, columns = np.linalg.eigh(matrix)
            values, vectors = values[::-1], np.ascontiguousarray(columns.T[::-1])
    if not (values >= -TOLERANCE * np.abs(values).max(initial=0.0)).all():
        raise InputError(
            f"covariance is not positive semi-definite: its smallest eigenvalue is {values.min():g}"
        )
    return Eigen(np.maximum(values, 0.0), vectors)


def _check_orthonormal(vectors: Array, size: int) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != size or len(vectors) > size:
        raise InputError(
            f"Eigen needs vectors of shape (K, {size}) with K ≤ {size}, got {vectors.shape}"
        )
    # V Vᵀ w = w for one generic w instead of V Vᵀ = 1, which would cost more than all the rest.
    w = np.cos(np.arange(len(vectors), dtype=np.float64) ** 2)
    if not np.allclose(vectors @ (w @ vectors), w, atol=TOLERANCE):
        raise InputError("the rows of Eigen.vectors are not orthonormal")


def gaussian(
    mean: ArrayLike,
    covariance: ArrayLike | Eigen,
    schedule: Schedule,
    sampler: str | Sampler = "ddpm",
    steps: int = 100,
    grid: str = "linspace",
    start: str = "data",
    epsilon_scale: ArrayLike = 1.0,
    gamma: float = 0.0,
    timestep_spacing: str | None = None,
) -> xr.Dataset:
    """`gaussian_chain` on the sampler's whole chain of `steps`: steps + 1 entries.

    grid: the spacing.
    """
    spacing = spacing_of(grid, timestep_spacing)
    sampler = prepared(parse(sampler), schedule, steps, spacing)
    levels = sampler.levels(schedule, steps, spacing)
    return gaussian_chain(mean, covariance, levels, sampler, start, epsilon_scale, gamma)


def gaussian_chain(
    mean: ArrayLike,
    covariance: ArrayLike | Eigen,
    levels: Sequence[Level],
    sampler: str | Sampler | Sequence[Transition] = "ddpm",
    start: str = "data",
    epsilon_scale: ArrayLike = 1.0,
    gamma: float = 0.0,
) -> xr.Dataset:
    """The unclipped chain of the perfect denoiser for data N(mean, covariance).

    Through `levels`, noisiest first.

    mean: a state of D numbers, (C, *space). covariance: scalar, (D,), (D, D) in row-major order, or
    an `Eigen` (use that for repeated calls: the eigendecomposition is the slow part). sampler: one
    with a `transition`, or the transitions themselves. start: "data" is α_T x_0 + σ_T ε on the very
    x_0 that the pair statistics compare with; "noise" is independent of x_0, at the sampler's
    `prior_scale`.

    epsilon_scale, gamma: what the perfect denoiser with ε̂ divided by epsilon_scale (a number, one
    for each level, or (level, mode) for each eigen-direction too), or with the optimum of input
    perturbation by γ ≥ 0, would do here.

    Returns float64 variables over (step, *state axes), with coordinates timestep, alpha, sigma on
    step:

    - mean, variance: of the chain state; forward_variance: α² Σ_ii + σ²;
    - covariance_x0: Cov(state_i, x_0,i); 0 for start="noise";
    - error_mean, error_variance: of ξ = chain − teacher; absent for start="noise", which has none;
    - x0_mean, x0_variance: of x̂_0 predicted there (its first stage); NaN at the last entry;

    the same per eigen-direction over (step, mode) as mode_variance, mode_forward_variance,
    mode_covariance_x0, mode_error_variance, mode_x0_variance, beside eigenvalue (mode); and over
    (step):

    - rest_variance: of the chain state in each direction that the eigenvectors do not span;
    - gap: Σ_i variance / Σ_i forward_variance − 1;
    - epsilon_norm_chain, epsilon_norm_forward: E‖ε̂‖₂ ≈ √m (1 − v/8m²), m = E‖ε̂‖², v = Var ‖ε̂‖²;
      NaN
      at the last entry. The relative error is below 0.18 (v/m²)^(3/2): 6 % for a single direction,
      1/(32 D²) for D equal ones;
    - published_delta: (mean_i √Var_i(x̂ − α x_0) − σ)² (docs/mathematics.md).

    Clipping x̂_0 is not linear and has no such form. Raises InputError for epsilon_scale ≤ 0 or γ <
    0, for a sampler without a transition (ddpm:learned_range, whose variance is the network's;
    fixed_small and fixed_large enclose it), and for a covariance that is none.
    """
    mu = _checked_mean(mean)
    timestep, alpha, sigma = _checked_levels(levels)
    transitions, prior = _transitions(sampler, levels)
    if start not in get_args(Start):
        raise InputError(f"unknown start {start!r}: allowed are {', '.join(get_args(Start))}")
    space = _Space(eigendecomposition(covariance, mu.size), mu.ravel())
    denoiser = _Denoiser(
        space.eigenvalues, levels, _checked_scale(epsilon_scale, gamma, len(levels)), gamma
    )
    law = _recursion(transitions, denoiser, alpha, sigma, start == "data", prior)
    variables = _pixels(law, denoiser, space, mu, alpha, sigma, start == "data")
    coords = {
        name: ("step", v)
        for name, v in (("timestep", timestep), ("alpha", alpha), ("sigma", sigma))
    }
    about = (
        sampler
        if isinstance(sampler, str) or not isinstance(sampler, Sequence)
        else "its transitions"
    )
    return xr.Dataset(variables, coords, {"sampler": str(about), "start": start})


def _checked_mean(mean: ArrayLike) -> Array:
    mu = np.asarray(mean, dtype=np.float64)
    if mu.ndim not in KINDS or mu.size == 0 or not np.isfinite(mu).all():
        raise InputError(f"mean must be a finite state, {ALLOWED}, got shape {mu.shape}")
    return mu


def _checked_levels(levels: Sequence[Level]) -> tuple[Array, Array, Array]:
    timestep, alpha, sigma = np.array(levels, dtype=np.float64).reshape(-1, 3).T
    noisier = sigma[:-1] * alpha[1:] > sigma[1:] * alpha[:-1]
    if not len(alpha) or (sigma[:-1] <= 0).any() or not noisier.all():
        raise InputError("levels must fall strictly in noise, σ/α, and only the last may be clean")
    return timestep, alpha, sigma


def _checked_scale(epsilon_scale: ArrayLike, gamma: float, levels: int) -> Array:
    scale = np.asarray(epsilon_scale, dtype=np.float64)
    fits = scale.ndim <= 2 and (scale.ndim == 0 or len(scale) == levels)
    if not fits or not ((scale > 0).all() and gamma >= 0):
        came = f"{scale.shape or scale} and {gamma}"
        raise InputError(
            f"epsilon_scale must be above 0, one number or {levels}, and gamma ≥ 0, got {came}"
        )
    return scale


def _transitions(
    sampler: str | Sampler | Sequence[Transition], levels: Sequence[Level]
) -> tuple[Sequence[Transition], float]:
    """The steps' coefficients and the standard deviation of a start from noise."""
    if isinstance(sampler, Sequence) and not isinstance(sampler, str):
        return sampler, prior_scale(levels[0])
    one = parse(sampler)
    transitions = one.transition(levels)
    if transitions is None:
        raise InputError(
            f"{one} has no Gaussian reference: use ddpm:fixed_small or ddpm:fixed_large"
        )
    return transitions, one.prior_scale(levels[0])


class _Denoiser:
    """The perfect denoiser of Gaussian data under a remedy, by eigen-direction.

    k and e of the module docstring.

    eigenvalues (K + 1,), the last for the directions without data. k, e, forward: (level, K + 1).
    """

    def __init__(
        self, eigenvalues: Array, levels: Sequence[Level], scale: Array, gamma: float
    ) -> None:
        self.eigenvalues, self.gamma = eigenvalues, gamma
        self.levels = list(levels)
        self.scale = np.broadcast_to(
            _by_mode(scale, len(eigenvalues)), (len(levels), len(eigenvalues))
        )
        each = [self.gains(level, row) for row, level in enumerate(levels)]
        self.forward, self.k, self.e = (np.array(part) for part in zip(*each, strict=True))

    def gains(self, level: Level, row: int) -> tuple[Array, Array, Array]:
        """(α²λ + σ², k, e) at a level, under the scale of level number `row`."""
        alpha, sigma = level.alpha, level.sigma
        forward = alpha**2 * self.eigenvalues + sigma**2
        positive = np.where(forward > 0, forward, 1.0)
        k, e = alpha * self.eigenvalues / positive, sigma / positive
        # As the remedies: ε̂ leaves x̂_0 open where the state is the noise.
        if alpha == 0:
            return forward, k, e
        q = positive / (positive + (self.gamma * sigma) ** 2) / self.scale[row]
        # What a remedy adds to k: 1 − σe would cancel where α²λ ≪ σ².
        added = (1 - q) * sigma**2 / (alpha * positive)
        return forward, k + added, q * e

    def along(self, transition: Transition, row: int) -> Array:
        """p of the step from level number `row`, (K + 1,)."""
        answers: list[Array] = []
        for stage in transition.stages:
            asked = stage.state + sum(
                b * x for b, x in zip(stage.predictions, answers, strict=True)
            )
            answers.append(self._gain(stage.level, row) * asked)
        total = transition.state + sum(
            b * x for b, x in zip(transition.predictions, answers, strict=True)
        )
        return np.asarray(total)

    def _gain(self, level: Level, row: int) -> Array:
        """k where a stage asks: at the step's own level, the next one, or between them."""
        for known in (row, row + 1):
            if known < len(self.levels) and level == self.levels[known]:
                gain: Array = self.k[known]
                return gain
        return self.gains(level, row)[1]


class _Law(NamedTuple):
    """By level and eigen-direction: what the chain's state is made of.

    Its response to the start and to x_0, its own variance, Var ω.
    """

    decay: Array
    response: Array
    own: Array
    omega: Array

    def variance(self, eigenvalues: Array) -> Array:
        """Var d."""
        return self.response**2 * eigenvalues + self.own


def _recursion(
    transitions: Sequence[Transition],
    denoiser: _Denoiser,
    alpha: Array,
    sigma: Array,
    from_data: bool,
    prior: float,
) -> _Law:
    """The module docstring's recursion over all levels."""
    shape = (len(alpha), len(denoiser.eigenvalues))
    decay, own, omega = np.empty(shape), np.empty(shape), np.zeros(shape)
    decay[0] = alpha[0]
    own[0] = w = sigma[0] ** 2 if from_data else prior**2
    cross = np.zeros(shape[1])
    for i, transition in enumerate(transitions):
        p, a, noise = denoiser.along(transition, i), transition.state, transition.noise**2
        shift = p - a
        decay[i + 1] = p * decay[i]
        own[i + 1] = p**2 * own[i] + noise
        omega[i + 1] = p**2 * omega[i] + shift * (2 * p * cross + shift * w)
        cross = a * (p * cross + shift * w)
        w = a**2 * w + noise
    return _Law(decay, decay if from_data else np.zeros(shape), own, omega)


def _pixels(
    law: _Law,
    denoiser: _Denoiser,
    space: "_Space",
    mu: Array,
    alpha: Array,
    sigma: Array,
    from_data: bool,
) -> dict[str, Any]:
    """The variables of `gaussian_chain`."""
    lam, a = space.eigenvalues, alpha[:, None]
    k, e, forward = denoiser.k.copy(), denoiser.e.copy(), denoiser.forward
    k[-1], e[-1] = np.nan, np.nan
    variance = law.variance(lam)
    modes = {
        "variance": variance,
        "covariance_x0": law.response * lam,
        "x0_variance": k**2 * variance,
    }
    if from_data:
        modes["error_variance"] = (law.response - a) ** 2 * lam + law.omega
    pixels = {name: space.diagonal(values) for name, values in modes.items()}
    modes["forward_variance"] = forward
    data_variance = space.diagonal(lam[None])
    pixels["forward_variance"] = a**2 * data_variance + sigma[:, None] ** 2

    # A start from noise has mean 0 instead of α_T μ, and that difference decays as the start does.
    drift = np.zeros_like(law.decay) if from_data else -law.decay
    pixels["mean"] = np.outer(alpha, mu) + space.along_mean(drift)
    pixels["x0_mean"] = np.where(
        np.isnan(k[:, :1]), np.nan, mu.ravel() + space.along_mean(k * drift)
    )
    if from_data:
        pixels["error_mean"] = np.zeros_like(pixels["mean"])

    residual = pixels["variance"] + a**2 * data_variance - 2 * a * pixels["covariance_x0"]
    total, total_forward = space.total(variance), space.total(forward)
    curves = {
        # Data without any variance have no gap at the clean end.
        "gap": (
            np.divide(
                total, total_forward, out=np.full_like(total, np.nan), where=total_forward > 0
            )
            - 1
        ),
        "epsilon_norm_chain": space.expected_norm(e**2 * variance, (e * drift) ** 2),
        "epsilon_norm_forward": space.expected_norm(e**2 * forward, np.zeros_like(e)),
        "published_delta": (np.sqrt(np.maximum(residual, 0.0)).mean(axis=1) - sigma) ** 2,
    }
    axes = ("step", *dimensions(mu.shape))
    variables: dict[str, Any] = {
        name: (axes, values.reshape(-1, *mu.shape)) for name, values in pixels.items()
    }
    variables |= {
        f"mode_{name}": (("step", "mode"), values[:, :-1]) for name, values in modes.items()
    }
    variables |= {name: ("step", values) for name, values in curves.items()}
    variables["eigenvalue"] = ("mode", lam[:-1])
    variables["rest_variance"] = ("step", variance[:, -1])
    return variables


def _by_mode(scale: Array, modes: int) -> Array:
    """epsilon_scale as (level or 1, mode).

    1 in the directions that the eigenvectors do not span.
    """
    if scale.ndim < 2:
        return scale.reshape(-1, 1)
    if scale.shape[1] != modes - 1:
        raise InputError(f"epsilon_scale by mode needs {modes - 1} columns, got {scale.shape[1]}")
    return np.pad(scale, ((0, 0), (0, 1)), constant_values=1.0)


def gaussian_rollout(
    mean: ArrayLike,
    covariance: ArrayLike | Eigen,
    levels: Sequence[Level],
    sampler: str | Sampler = "ddpm",
) -> xr.Dataset:
    """S, A, U and W of `experiments.rollouts` for the perfect denoiser.

    Its chains go from x_s at levels[0] to the clean end.

    Along an eigen-direction S = V = λσ²/(α²λ + σ²) and A is Var x̂_0 + λ − 2 Cov(x̂_0, x_0); both
    in the data's units squared, mean over pixels. An ancestral step of a linear denoiser keeps
    E[x_0 | x_s], hence U = S and W = A − S; both are absent for other samplers. state_error (step):
    RMSE of chain − teacher. Raises as `gaussian_chain`.
    """
    chain = gaussian_chain(mean, covariance, levels, sampler)
    start, end = levels[0], chain.isel(step=-1)
    lam, pixels = chain["eigenvalue"].values, chain["mean"][0].size
    error = (end["mode_variance"].values + lam - 2 * end["mode_covariance_x0"].values).sum()
    curves: dict[str, Any] = {
        "S": (lam * start.sigma**2 / (start.alpha**2 * lam + start.sigma**2)).sum() / pixels,
        "A": (error + float(end["rest_variance"]) * (pixels - len(lam))) / pixels,
    }
    if parse(sampler).ancestral:
        curves |= {"U": curves["S"], "W": curves["A"] - curves["S"]}
    square = chain["error_mean"] ** 2 + chain["error_variance"]
    return xr.Dataset({**curves, "state_error": np.sqrt(square.mean(square.dims[1:]))})


def gaussian_of(recording: Recording) -> xr.Dataset | None:
    """`gaussian_chain` for a recording, at the recorded steps.

    Its own data's law, sampler, levels and start.

    None where the sampler has no transition, or only the leading directions of large states are
    known. Clipping is left out in any case.
    """
    run, data = recording.run, recording["data"]
    transitions = run.linear_steps
    if transitions is None or not holds(data["eigenvalue"].values, data["variance"].values):
        return None
    eigen = Eigen(
        data["eigenvalue"].values, data["eigenvector"].values.reshape(data.sizes["mode"], -1)
    )
    start = "data" if run.paired else "noise"
    chain = gaussian_chain(data["mean"].values, eigen, run.levels, transitions, start)
    recorded = next(
        recording[name]["step"].values
        for name in ("chain", "teacher", "forward")
        if name in recording
    )
    return chain.isel(step=recorded)


def gaussian_power(
    reference: xr.Dataset, recording: Recording, bands: Bands
) -> tuple[Array, Array]:
    """Expected power of x_t − α_t μ in the reference chain and in the forward stream, by band.

    Both (step, C, F): summed over a band's modes.
    """
    data = recording["data"]
    mean = data["mean"].values
    mode_power = bands.power(data["eigenvector"].values.astype(np.float64))
    alpha = reference["alpha"].values
    drift = bands.power(reference["mean"].values - np.multiply.outer(alpha, mean))
    # What the eigenvectors do not span has the power of unit noise less theirs.
    rest = np.maximum(bands.count - mode_power.sum(0), 0)
    chain = np.tensordot(reference["mode_variance"].values, mode_power, 1) + drift
    chain += reference["rest_variance"].values[:, None, None] * rest
    signal = np.tensordot(reference["eigenvalue"].values, mode_power, 1)
    sigma = reference["sigma"].values[:, None, None]
    return chain, alpha[:, None, None] ** 2 * signal + sigma**2 * bands.count


class _Space:
    """From functions of the eigenvalue to pixels and to totals.

    Arrays (step, K + 1) become (step, D) and (step,).

    The last column is for the D − K directions that the eigenvectors do not span: their eigenvalue
    is 0, but the chain's noise is in them all the same.
    """

    def __init__(self, eigen: Eigen, mu: Array) -> None:
        self.eigenvalues = np.append(eigen.values, 0.0)
        self.vectors, self.missing = eigen.vectors, len(mu) - len(eigen.values)
        self.projected, self.rest = mu, np.zeros_like(mu)
        if self.vectors is not None:
            self.squared = self.vectors**2
            self.projected = self.vectors @ mu
            if self.missing:
                self.rest = mu - self.projected @ self.vectors
        self.weights = np.append(np.ones(len(eigen.values)), self.missing)
        self.mean_squared = np.append(self.projected**2, (self.rest**2).sum())

    def diagonal(self, f: Array) -> Array:
        """The diagonal of f(Σ)."""
        if self.vectors is None:
            return f[:, :-1]
        pixels = f[:, :-1] @ self.squared
        return pixels + f[:, -1:] * (1 - self.squared.sum(axis=0)) if self.missing else pixels

    def along_mean(self, f: Array) -> Array:
        """f(Σ) μ."""
        if self.vectors is None:
            return f[:, :-1] * self.projected
        return (f[:, :-1] * self.projected) @ self.vectors + f[:, -1:] * self.rest

    def total(self, f: Array) -> Array:
        """The trace of f(Σ)."""
        return f @ self.weights

    def expected_norm(self, variance: Array, squared_factor: Array) -> Array:
        """E‖y‖₂ to second order for Gaussian y.

        Its covariance is variance(Σ) and its mean ±√squared_factor(Σ) μ.
        """
        m = variance @ self.weights + squared_factor @ self.mean_squared
        v = 2 * variance**2 @ self.weights + 4 * (variance * squared_factor) @ self.mean_squared
        return np.sqrt(m) * (1 - v / (8 * m**2))
