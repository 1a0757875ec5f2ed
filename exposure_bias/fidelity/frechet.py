"""The Fréchet distance between normal distributions fitted to features.

With Inception's features it is FID.

    d² = ‖μ₁ − μ₂‖² + tr Σ₁ + tr Σ₂ − 2 tr(Σ₁Σ₂)^½ (Dowson & Landau 1982; Heusel et al. 2017)

For any roots Σ = R Rᵀ, tr(Σ₁Σ₂)^½ is the sum of the singular values of R₁ᵀR₂, so no matrix square
root is needed:

    both positive definite Σ₁ = L Lᵀ; Σ √λ over the eigenvalues λ of LᵀΣ₂L, those of Σ₁Σ₂
    one of them singular   R = V √Λ by eigenvalues, without directions that are zero to rounding;
                           singular values, because √ would turn a rounding error of 1e−16 in λ
                           into one of 1e−8
    fewer samples than d   R = (X − μ)ᵀ/√(N − 1), centred features: singular values of N × N

Everything is float64. No torch here.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg

from exposure_bias.errors import InputError

Array = NDArray[np.float64]

# Smallest ratio of squared Cholesky pivots at which √λ is trusted.
DEFINITE = 1e-10
ROUND_OFF = 1e-6


@dataclass(frozen=True, eq=False)
class Normal:
    """N(μ, Σ), given by Σ (d, d) or by a root R (d, r) of it.

    Factors are computed once and kept."""

    mean: Array
    given_covariance: Array | None = None
    given_root: Array | None = None

    @cached_property
    def covariance(self) -> Array:
        """Σ (d, d)."""
        if self.given_covariance is not None:
            return self.given_covariance
        covariance: Array = self.root @ self.root.T
        return covariance

    @cached_property
    def trace(self) -> float:
        """tr Σ."""
        if self.given_covariance is None:
            return float(np.square(self.root).sum())
        return float(np.trace(self.given_covariance))

    @cached_property
    def cholesky(self) -> Array | None:
        """Lower L with Σ = L Lᵀ, or None where Σ is singular to rounding."""
        if self.given_root is not None and self.given_root.shape[1] <= len(self.mean):
            return None
        try:
            factor: Array = linalg.cholesky(self.covariance, lower=True, check_finite=False)
        except linalg.LinAlgError:
            return None
        pivots = np.diag(factor)
        return factor if pivots.min() ** 2 > DEFINITE * pivots.max() ** 2 else None

    @cached_property
    def root(self) -> Array:
        """R (d, r) with Σ = R Rᵀ.

        Raises InputError if Σ has eigenvalues below zero by more than rounding.
        """
        if self.given_root is not None:
            return self.given_root
        if self.cholesky is not None:
            return self.cholesky
        values, vectors = linalg.eigh(self.covariance, check_finite=False)
        top = max(float(values[-1]), 0.0)
        # Equal features leave the rounding of their own squares.
        if values[0] < -ROUND_OFF * top - 64 * np.finfo(np.float64).eps * float(
            self.mean @ self.mean
        ):
            raise InputError(
                f"a covariance has eigenvalues of at least 0, but the least is {values[0]:.3g}:"
                " check it"
            )
        kept = values > len(values) * np.finfo(np.float64).eps * top
        root: Array = vectors[:, kept] * np.sqrt(values[kept])
        return root


def normal(mean: ArrayLike, covariance: ArrayLike) -> Normal:
    """N(μ, Σ) of a mean (d,) and a covariance (d, d). Raises InputError if they are not that."""
    mu, sigma = (
        np.atleast_1d(np.asarray(mean, np.float64)),
        np.atleast_2d(np.asarray(covariance, np.float64)),
    )
    if mu.ndim != 1 or sigma.shape != (len(mu), len(mu)):
        raise InputError(
            f"a mean (d,) needs a covariance (d, d), got shapes {mu.shape} and {sigma.shape}"
        )
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise InputError(
            "mean or covariance holds NaN or infinity: check the features they were computed from"
        )
    if len(sigma) and np.abs(sigma - sigma.T).max() > ROUND_OFF * np.abs(sigma).max():
        raise InputError("a covariance must be symmetric, this matrix is not: check it")
    return Normal(mu, sigma)


def normal_of_features(features: ArrayLike) -> Normal:
    """N(μ, Σ) of features (N, d), N ≥ 2, with Σ normalised by N − 1."""
    x = np.asarray(features, np.float64)
    mean = x.mean(0)
    root = (x - mean).T / np.sqrt(len(x) - 1)
    return Normal(mean, given_root=root) if len(x) <= x.shape[1] else Normal(mean, root @ root.T)


def distance(p: Normal, q: Normal) -> float:
    """d² between two normal distributions.

    What p and q know of themselves is reused from call to call."""
    if len(p.mean) != len(q.mean):
        raise InputError(
            f"distributions of {len(p.mean)} and {len(q.mean)} features cannot be compared"
        )
    if p.cholesky is not None and q.cholesky is not None:
        product, _ = linalg.lapack.dsygst(q.covariance, p.cholesky, itype=2, lower=1)
        values = linalg.eigvalsh(
            product, lower=True, overwrite_a=True, check_finite=False, driver="evr"
        )
        singular = np.sqrt(np.maximum(values, 0))
    else:
        singular = linalg.svdvals(p.root.T @ q.root, check_finite=False)
    value = np.square(p.mean - q.mean).sum() + p.trace + q.trace - 2 * singular.sum()
    return max(float(value), 0.0)


def frechet_distance(mean1: ArrayLike, cov1: ArrayLike, mean2: ArrayLike, cov2: ArrayLike) -> float:
    """The (squared) Fréchet distance d² between N(mean1, cov1) and N(mean2, cov2).

    In squared units of the features.

    mean (d,), cov (d, d), any floating type; computed in float64, at least 0, symmetric in its
    arguments up to rounding. Singular covariances are allowed. Source: Heusel et al. 2017, eq. 6;
    see the module docstring.

    Raises InputError for shapes that do not fit, NaN, or a matrix that is no covariance.
    """
    return distance(normal(mean1, cov1), normal(mean2, cov2))
