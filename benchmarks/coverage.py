"""Do 95 % intervals of the Fréchet distance and of KID cover? `python benchmarks/coverage.py` (10
minutes on one core).

d = 64, N = 1792 samples on each side, normal features of unequal variances, 300 seeded repetitions.
Target: 90 to 98 % where the distributions differ, at least 90 % where they do not. KID's truth is
the mean of its repetitions, for it is unbiased."""

import numpy as np

from exposure_bias.fidelity.sets import FeatureSet, frechet_values, kid_values
from exposure_bias.jackknife import T_QUANTILE, corrected

DIMENSION, SAMPLES, REPETITIONS = 64, 1792, 300
CASES = {
    "equal": (1.0, 0.0),
    "a little apart": (1.05, 0.05),
    "shifted": (1.0, 0.2),
    "wider": (1.2, 0.0),
}


def main() -> None:
    """Print the coverage of each case, with the true standard deviation and the mean standard
    error."""
    base, ids = np.linspace(0.5, 1.5, DIMENSION), np.arange(SAMPLES)
    for name, (scale, shift) in CASES.items():
        rows = []
        for seed in range(REPETITIONS):
            rng = np.random.default_rng(seed)
            real = FeatureSet(rng.standard_normal((SAMPLES, DIMENSION)) * base, ids)
            other = FeatureSet(
                rng.standard_normal((SAMPLES, DIMENSION)) * base * scale + shift, ids
            )
            kid = kid_values(other, real)[0]
            rows.append((*corrected(frechet_values(other, real)[0]), kid[0], corrected(kid)[1]))
        frechet, frechet_se, kid, kid_se = np.array(rows).T
        true = np.square(base * (scale - 1)).sum() + DIMENSION * shift**2
        expected = kid.mean() if true else 0.0
        for measure, value, se, truth in (
            ("Fréchet", frechet, frechet_se, true),
            ("KID", kid, kid_se, expected),
        ):
            covered = (abs(value - truth) <= T_QUANTILE * se).mean()
            spread = f"deviation {value.std():.4f}, error {np.sqrt(np.square(se).mean()):.4f}"
            print(
                f"{name}, {measure}: true {truth:.4f}, mean {value.mean():.4f}, {spread}, coverage"
                f" {covered:.1%}"
            )


if __name__ == "__main__":
    main()
