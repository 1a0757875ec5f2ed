"""What a chain shows *without* a model error: the Gaussian reference, in closed form. No torch here.

For data x_0 ~ N(μ, Σ) the perfect denoiser is linear, so every chain state is Gaussian and its moments follow from
one small recursion per eigenvalue λ of Σ (design §4.3 and §4.4a). Along one eigen-direction let u = x_0 − μ and
d = x_t − α_t μ be the deviations of the data and of the chain state. The denoiser says

    x̂_0 = μ + k d,   ε̂ = e d,   k = α λ / (α²λ + σ²),   e = σ / (α²λ + σ²)

and one step s → t is d_t = p d_s + n z. Every sampler with one evaluation is x_t = a x_s + b x̂_0 + n z with
b = α_t − a α_s, because it maps (α_s x_0, x̂_0 = x_0) to α_t x_0. With R = SNR_s/SNR_t and p = a + b k:

    ddim(η)           a² = (σ_t²/σ_s²) (1 − η² (1 − R)),  n² = η² σ_t² (1 − R)     (Song et al. 2021, eq. 12 and 16)
    ddpm:fixed_small  the same with η = 1                                          (Ho et al. 2020, eq. 7: n² = β̃)
    ddpm:fixed_large  the same a, but n² = σ_s² (1 − R) = β, and 0 in the last, noise-free step       (ibid., §3.2)
    euler             ddim(0), on every path: Euler of a straight line is exact
    heun              2p = c_t/c_s + (1 + h f_t) p_euler, n = 0; euler where σ_t = 0    (Karras et al. 2022, Alg. 1)

with dd̄/dτ = f d̄ the probability flow, h = τ_t − τ_s, in the coordinates d̄ = d/c where paths are straight:
c = α, τ = σ/α, f = ασ/(α²λ + σ²) for vp and edm; c = 1, τ = σ, f = (σ − αλ)/(α²λ + σ²) for flow. (Heun is
d̄_t = d̄_s + h (f_s d̄_s + f_t d̄_euler)/2; its first half is what Euler has of it already.)

Remedies keep the denoiser linear: epsilon scaling by λ_ε and input perturbation by γ, trained or not, multiply e by

    q = (α²λ + σ²) / (α²λ + σ² (1 + γ²)) / λ_ε,

and k becomes (1 − σ e)/α, p its a + b k, and f is e α for vp and edm, e − k for flow (design §4.5). Where α = 0, q = 1.

The teacher chain takes the same steps and noise with x̂_0 = x_0: its deviation is α u + w, w_t = a w_s + n z. Writing
the chain's as d = g u + ω + w with ω, w independent of u, all laws that we report follow from

    g_t = p g_s,   Var(ω + w)_t = p² Var(ω + w)_s + n²,   ω_t = p ω_s + (p − a) w_s:
    Var d = g²λ + Var(ω + w),   Cov(d, u) = g λ,   Var ξ = (g − α)²λ + Var ω   for ξ = chain − teacher.
"""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from exposure_bias.errors import InputError
from exposure_bias.recording import Recording
from exposure_bias.samplers import Sampler, is_ours, parse
from exposure_bias.schedules import Level, Path, Schedule
from exposure_bias.statistics.bands import Bands

Array = NDArray[np.float64]
Start = Literal["data", "noise"]

# Covariances estimated in float32 have eigenvalues this far below zero, relative to the largest, and no more.
TOLERANCE = 1e-5


class Eigen(NamedTuple):
    """Σ = Σ_k values[k] vectors[k] vectors[k]ᵀ: values (K,); orthonormal rows (K, D), or None for the pixel basis.

    Directions that the K ≤ D rows do not span have eigenvalue 0.
    """

    values: Array
    vectors: Array | None = None


def eigendecomposition(covariance: ArrayLike | Eigen, size: int | None = None) -> Eigen:
    """The `Eigen` of a covariance: a scalar (needs `size` = D), (D,) variances, (D, D), or an `Eigen` to check.

    A matrix's eigenvalues come largest first, variances stay in pixel order; round-off below zero is cut to 0.
    Raises InputError for a wrong shape, a matrix that is not symmetric, or eigenvalues clearly below 0.
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
            raise InputError("the eigendecomposition of a scalar covariance needs size, the number of pixels")
        d = size or len(matrix)
        if matrix.shape not in ((), (d,), (d, d)):
            raise InputError(f"covariance must be a scalar, ({d},) or ({d}, {d}), got shape {matrix.shape}")
        if not np.isfinite(matrix).all():
            raise InputError("covariance has entries that are not finite")
        values = np.broadcast_to(matrix, (d,)).copy() if matrix.ndim < 2 else matrix.diagonal()
        if matrix.ndim == 2:
            if np.abs(matrix - matrix.T).max() > TOLERANCE * np.abs(matrix).max():
                raise InputError("covariance is not symmetric")
            values, columns = np.linalg.eigh(matrix)
            values, vectors = values[::-1], np.ascontiguousarray(columns.T[::-1])
    if not (values >= -TOLERANCE * np.abs(values).max(initial=0.0)).all():
        raise InputError(f"covariance is not positive semi-definite: its smallest eigenvalue is {values.min():g}")
    return Eigen(np.maximum(values, 0.0), vectors)


def _check_orthonormal(vectors: Array, size: int) -> None:
    if vectors.ndim != 2 or vectors.shape[1] != size or len(vectors) > size:
        raise InputError(f"Eigen needs vectors of shape (K, {size}) with K ≤ {size}, got {vectors.shape}")
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
) -> xr.Dataset:
    """`gaussian_chain` on a schedule's whole sampling chain, `schedule.levels(steps, grid)`: steps + 1 entries."""
    levels = schedule.levels(steps, grid)
    return gaussian_chain(mean, covariance, levels, schedule.path, sampler, start, epsilon_scale, gamma)


def gaussian_chain(
    mean: ArrayLike,
    covariance: ArrayLike | Eigen,
    levels: tuple[Level, ...],
    path: Path,
    sampler: str | Sampler = "ddpm",
    start: str = "data",
    epsilon_scale: ArrayLike = 1.0,
    gamma: float = 0.0,
) -> xr.Dataset:
    """The unclipped chain of the perfect denoiser for data N(mean, covariance) through `levels`, noisiest first.

    mean: (C, H, W). covariance: scalar, (D,), (D, D) with D = C·H·W in row-major order, or an `Eigen` (use that for
    repeated calls: the eigendecomposition is the slow part). start: "data" is α_T x_0 + σ_T ε on the very x_0 that
    the pair statistics compare with; "noise" is independent of x_0, N(0, I) on a vp path and N(0, σ_T² I) otherwise.

    epsilon_scale, gamma: what the perfect denoiser with ε̂ divided by epsilon_scale (a number, one for each level, or
    (level, mode) for each eigen-direction too), or with the optimum of input perturbation by γ ≥ 0, would do here.

    Returns float64 variables over (step, channel, y, x), with coordinates timestep, alpha, sigma on step:

        mean, variance              of the chain state
        forward_variance            α² Σ_ii + σ²
        covariance_x0               Cov(state_i, x_0,i); 0 for start="noise"
        error_mean, error_variance  of ξ = chain − teacher (absent for start="noise", which has no teacher)
        x0_mean, x0_variance        of x̂_0 predicted there (Heun: its first evaluation); NaN at the last entry

    the same per eigen-direction over (step, mode) as mode_variance, mode_forward_variance, mode_covariance_x0,
    mode_error_variance, mode_x0_variance, beside eigenvalue (mode); and over (step):

        rest_variance               of the chain state in each direction that the eigenvectors do not span
        gap                         Σ_i variance / Σ_i forward_variance − 1
        epsilon_norm_chain, epsilon_norm_forward
                                    E‖ε̂‖₂ ≈ √m (1 − v/8m²), m = E‖ε̂‖², v = Var ‖ε̂‖²; NaN at the last entry. The
                                    relative error is below 0.18 (v/m²)^(3/2): 6 % for a single direction,
                                    1/(32 D²) for D equal ones
        published_delta             (mean_i √Var_i(x̂ − α x_0) − σ)² (design §4.3)

    Clipping x̂_0 is not linear and has no such form. Raises InputError for epsilon_scale ≤ 0 or γ < 0, for
    ddpm:learned_range (its variance is the network's; fixed_small and fixed_large enclose it), and for a covariance
    that is none.
    """
    sampler, mu = parse(sampler), np.asarray(mean, dtype=np.float64)
    if sampler.variance == "learned_range":
        raise InputError("ddpm:learned_range has no Gaussian reference: use ddpm:fixed_small or ddpm:fixed_large")
    for what, name, allowed in (("start", start, get_args(Start)), ("path", path, get_args(Path))):
        if name not in allowed:
            raise InputError(f"unknown {what} {name!r}: allowed are {', '.join(allowed)}")
    scale = np.asarray(epsilon_scale, dtype=np.float64)
    if scale.ndim > 2 or (scale.ndim and len(scale) != len(levels)) or not ((scale > 0).all() and gamma >= 0):
        came = f"{scale.shape or scale} and {gamma}"
        raise InputError(f"epsilon_scale must be above 0, one number or {len(levels)} and gamma ≥ 0, got {came}")
    if mu.ndim != 3 or mu.size == 0 or not np.isfinite(mu).all():
        raise InputError(f"mean must be finite and of shape (C, H, W), got shape {mu.shape}")
    timestep, alpha, sigma = np.array(levels, dtype=np.float64).reshape(-1, 3).T
    if not len(alpha) or (sigma[:-1] <= 0).any() or (sigma[1:] * alpha[:-1] >= sigma[:-1] * alpha[1:]).any():
        raise InputError("levels must fall strictly in noise, σ/α, and only the last may be clean")
    space = _Space(eigendecomposition(covariance, mu.size), mu.ravel())
    lam, from_data = space.eigenvalues, start == "data"

    forward = np.outer(alpha**2, lam) + sigma[:, None] ** 2
    positive = np.where(forward > 0, forward, 1.0)
    q = positive / (positive + (gamma * sigma[:, None]) ** 2) / _by_mode(scale, len(lam))
    q = np.where(alpha[:, None] == 0, 1.0, q)  # as the remedies: ε̂ leaves x̂_0 open where the state is the noise
    e = q * sigma[:, None] / positive
    # αλ/(α²λ + σ²) and what a remedy adds: 1 − σe would cancel where α²λ ≪ σ².
    added = np.divide((1 - q) * sigma[:, None] ** 2, alpha[:, None] * positive, out=np.zeros_like(q), where=q != 1)
    k = np.outer(alpha, lam) / positive + added
    a, p, noise = _steps(sampler, path, alpha, sigma, lam, forward, k, e, added)
    decay = alpha[0] * np.cumprod(np.vstack([np.ones_like(lam), p]), axis=0)
    g = decay if from_data else np.zeros_like(decay)
    own, omega = _noise_variances(a, p, noise, sigma[0] ** 2 if from_data or path != "vp" else 1.0)
    variance = g**2 * lam + own
    k[-1], e[-1] = np.nan, np.nan

    modes = {"variance": variance, "covariance_x0": g * lam, "x0_variance": k**2 * variance}
    if from_data:
        modes["error_variance"] = (g - alpha[:, None]) ** 2 * lam + omega
    pixels = {name: space.diagonal(values) for name, values in modes.items()}
    modes["forward_variance"] = forward
    data_variance = space.diagonal(lam[None])
    pixels["forward_variance"] = alpha[:, None] ** 2 * data_variance + sigma[:, None] ** 2
    pixels["mean"], pixels["x0_mean"] = np.outer(alpha, mu), np.where(np.isnan(k[:, :1]), np.nan, mu.ravel())
    drift = np.zeros_like(decay)
    if from_data:
        pixels["error_mean"] = np.zeros_like(pixels["mean"])
    else:  # the start's mean is 0 instead of α_T μ
        drift = -decay
        pixels["mean"] += space.along_mean(drift)
        pixels["x0_mean"] += space.along_mean(k * drift)

    residual = pixels["variance"] + alpha[:, None] ** 2 * data_variance - 2 * alpha[:, None] * pixels["covariance_x0"]
    total, total_forward = space.total(variance), space.total(forward)
    curves = {
        # Data without any variance have no gap at the clean end.
        "gap": np.divide(total, total_forward, out=np.full_like(total, np.nan), where=total_forward > 0) - 1,
        "epsilon_norm_chain": space.expected_norm(e**2 * variance, (e * drift) ** 2),
        "epsilon_norm_forward": space.expected_norm(e**2 * forward, np.zeros_like(e)),
        "published_delta": (np.sqrt(np.maximum(residual, 0.0)).mean(axis=1) - sigma) ** 2,
    }
    variables: dict[str, Any] = {
        name: (("step", "channel", "y", "x"), values.reshape(-1, *mu.shape)) for name, values in pixels.items()
    }
    variables |= {f"mode_{name}": (("step", "mode"), values[:, :-1]) for name, values in modes.items()}
    variables |= {name: ("step", values) for name, values in curves.items()}
    variables["eigenvalue"] = ("mode", lam[:-1])
    variables["rest_variance"] = ("step", variance[:, -1])
    coords = {"timestep": ("step", timestep), "alpha": ("step", alpha), "sigma": ("step", sigma)}
    return xr.Dataset(variables, coords, {"sampler": str(sampler), "start": start})


def _by_mode(scale: Array, modes: int) -> Array:
    """epsilon_scale as (level or 1, mode), 1 in the directions that the eigenvectors do not span."""
    if scale.ndim < 2:
        return scale.reshape(-1, 1)
    if scale.shape[1] != modes - 1:
        raise InputError(f"epsilon_scale by mode needs {modes - 1} columns, got {scale.shape[1]}")
    return np.pad(scale, ((0, 0), (0, 1)), constant_values=1.0)


def gaussian_rollout(
    mean: ArrayLike,
    covariance: ArrayLike | Eigen,
    levels: tuple[Level, ...],
    path: Path,
    sampler: str | Sampler = "ddpm",
) -> xr.Dataset:
    """S, A, U and W of `experiments.rollouts` from x_s at levels[0] to the clean end, for the perfect denoiser.

    Along an eigen-direction S = V = λσ²/(α²λ + σ²) and A is Var x̂_0 + λ − 2 Cov(x̂_0, x_0); both in the data's units
    squared, mean over pixels. An ancestral step of a linear denoiser keeps E[x_0 | x_s], hence U = S and W = A − S;
    both are absent for other samplers. state_error (step): RMSE of chain − teacher. Raises as `gaussian_chain`.
    """
    chain = gaussian_chain(mean, covariance, levels, path, sampler)
    start, end, lam, pixels = levels[0], chain.isel(step=-1), chain["eigenvalue"].values, chain["mean"][0].size
    error = (end["mode_variance"].values + lam - 2 * end["mode_covariance_x0"].values).sum()
    curves: dict[str, Any] = {
        "S": (lam * start.sigma**2 / (start.alpha**2 * lam + start.sigma**2)).sum() / pixels,
        "A": (error + float(end["rest_variance"]) * (pixels - len(lam))) / pixels,
    }
    if parse(sampler).ancestral:
        curves |= {"U": curves["S"], "W": curves["A"] - curves["S"]}
    square = chain["error_mean"] ** 2 + chain["error_variance"]
    return xr.Dataset({**curves, "state_error": np.sqrt(square.mean(("channel", "y", "x")))})


def gaussian_of(recording: Recording) -> xr.Dataset | None:
    """`gaussian_chain` for a recording: its own data's law, sampler, levels and start, at the recorded steps.

    None for ddpm:learned_range, diffusers' schedulers and observed loops, which have no such reference. Clipping is
    left out in any case.
    """
    run, data = recording.provenance["run"], recording["data"]
    if not is_ours(run["sampler"]) or parse(run["sampler"]).variance == "learned_range":
        return None
    vectors = data["eigenvector"].values.reshape(data.sizes["mode"], -1)
    eigen = Eigen(data["eigenvalue"].values, vectors)
    levels = tuple(Level(*level) for level in run["levels"])
    start = "noise" if run["start"] == "noise" else "data"
    chain = gaussian_chain(data["mean"].values, eigen, levels, run["path"], run["sampler"], start)
    recorded = next(recording[name]["step"].values for name in ("chain", "teacher", "forward") if name in recording)
    return chain.isel(step=recorded)


def gaussian_power(reference: xr.Dataset, recording: Recording, bands: Bands) -> tuple[Array, Array]:
    """Expected power of x_t − α_t μ in the reference chain and in the forward stream, by band.

    Both (step, C, F): summed over a band's modes.
    """
    data = recording["data"]
    alpha, sigma = (reference[name].values[:, None] for name in ("alpha", "sigma"))
    mode_power = bands.power(data["eigenvector"].values.astype(np.float64))
    drift = bands.power(reference["mean"].values - alpha[..., None, None] * data["mean"].values)
    # What the eigenvectors do not span has the power of unit noise less theirs.
    rest = np.maximum(bands.count - mode_power.sum(0), 0)
    chain = np.tensordot(reference["mode_variance"].values, mode_power, 1) + drift
    chain += reference["rest_variance"].values[:, None, None] * rest
    signal = np.tensordot(reference["eigenvalue"].values, mode_power, 1)
    return chain, alpha[..., None] ** 2 * signal + sigma[..., None] ** 2 * bands.count


class _Space:
    """From functions of the eigenvalue, arrays (step, K + 1), to pixels (step, D) and to totals (step,).

    The last column is for the D − K directions that the eigenvectors do not span: their eigenvalue is 0, but the
    chain's noise is in them all the same.
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
        """E‖y‖₂ to second order for y Gaussian with covariance variance(Σ) and mean ±√squared_factor(Σ) μ."""
        m = variance @ self.weights + squared_factor @ self.mean_squared
        v = 2 * variance**2 @ self.weights + 4 * (variance * squared_factor) @ self.mean_squared
        return np.sqrt(m) * (1 - v / (8 * m**2))


def _steps(
    sampler: Sampler,
    path: Path,
    alpha: Array,
    sigma: Array,
    lam: Array,
    forward: Array,
    k: Array,
    e: Array,
    added: Array,
) -> tuple[Array, Array, Array]:
    """Per step: a (N,), p (N, K + 1) and n² (N,) of the module docstring."""
    (alpha_s, alpha_t), (sigma_s, sigma_t) = (alpha[:-1], alpha[1:]), (sigma[:-1], sigma[1:])
    ratio = (alpha_s * sigma_t / (alpha_t * sigma_s)) ** 2
    eta = 1.0 if sampler.name == "ddpm" else sampler.eta
    a = sigma_t / sigma_s * np.sqrt(1 - eta**2 + eta**2 * ratio)
    noise = (eta * sigma_t) ** 2 * (1 - ratio)
    if sampler.variance == "fixed_large":
        noise = np.where(sigma_t > 0, sigma_s**2 * (1 - ratio), 0.0)
    # a + b k, written as a sum of positive terms: nothing cancels where α²λ ≪ σ².
    p = ((a * sigma_s**2)[:, None] + np.outer(alpha_s * alpha_t, lam)) / forward[:-1]
    p = p + (alpha_t - a * alpha_s)[:, None] * added[:-1]
    if sampler.name == "heun":
        c, tau = (np.ones_like(alpha), sigma) if path == "flow" else (alpha, sigma / alpha)
        f = e - k if path == "flow" else alpha[:, None] * e
        heun = ((c[1:] / c[:-1])[:, None] + p * (1 + np.diff(tau)[:, None] * f[1:])) / 2
        p = np.where(sigma_t[:, None] > 0, heun, p)
    return a, p, noise


def _noise_variances(a: Array, p: Array, noise: Array, first: float) -> tuple[Array, Array]:
    """Var(ω + w), with variance `first` at the start, and Var ω, both (N + 1, K + 1)."""
    own, omega = (np.zeros((len(p) + 1, p.shape[1])) for _ in range(2))
    own[0], w, cross = first, first, np.zeros(p.shape[1])
    for i in range(len(p)):
        own[i + 1] = p[i] ** 2 * own[i] + noise[i]
        shift = p[i] - a[i]
        omega[i + 1] = p[i] ** 2 * omega[i] + shift * (2 * p[i] * cross + shift * w)
        cross, w = a[i] * (p[i] * cross + shift * w), a[i] ** 2 * w + noise[i]
    return own, omega
