"""Fréchet distance and precision and recall at the size of FID: `python benchmarks/frechet.py`.

d = 2048, N = 10,000, features like Inception's (averages of rectified values). Targets: at least 5
times as fast as the `scipy.linalg.sqrtm` route in the same run, equal to 1e−9; precision and recall
of 10,000 × 10,000 under 1.5 GB."""

import resource
import time

import numpy as np
from scipy import linalg

from exposure_bias.fidelity import frechet
from exposure_bias.fidelity.sets import FeatureSet, precision_recall

DIMENSION, SAMPLES = 2048, 10_000


def features(rng: np.random.Generator, shift: float) -> np.ndarray:
    """Correlated, rectified features (N, d), float32."""
    mixing = rng.standard_normal((DIMENSION, DIMENSION)) / np.sqrt(DIMENSION)
    return np.maximum(rng.standard_normal((SAMPLES, DIMENSION)) @ mixing + shift, 0).astype(
        np.float32
    )


def square_root_route(p: frechet.Normal, q: frechet.Normal) -> float:
    """What pytorch-fid and its descendants do."""
    root = linalg.sqrtm(p.covariance @ q.covariance)
    trace = np.trace(p.covariance) + np.trace(q.covariance) - 2 * np.trace(root).real
    return float(np.square(p.mean - q.mean).sum() + trace)


def main() -> None:
    """Print times, their ratio, the difference, and the peak memory of precision and recall."""
    rng = np.random.default_rng(0)
    ids = np.arange(SAMPLES)
    one, two = FeatureSet(features(rng, 0.0), ids), FeatureSet(features(rng, 0.1), ids)
    began = time.perf_counter()
    pair = precision_recall(one, two)
    took = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"precision and recall {pair[0][0]:.3f} {pair[1][0]:.3f}: {took:.1f} s, {memory:.2f} GiB")
    p, q = one.normal, two.normal
    began = time.perf_counter()
    ours = frechet.frechet_distance(p.mean, p.covariance, q.mean, q.covariance)
    quick = time.perf_counter() - began
    frechet.distance(p, q)
    began = time.perf_counter()
    frechet.distance(p, q)
    reused = time.perf_counter() - began
    began = time.perf_counter()
    theirs = square_root_route(p, q)
    slow = time.perf_counter() - began
    print(
        f"Fréchet distance {ours:.6f}: {quick:.2f} s, {reused:.2f} s with factors reused; sqrtm"
        f" {slow:.2f} s"
    )
    print(f"{slow / quick:.1f} times as fast, relative difference {abs(ours / theirs - 1):.1e}")


if __name__ == "__main__":
    main()
