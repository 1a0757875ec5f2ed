"""How much better the difference of two chains is known on one Brownian path than with independent
noise: ratio of its standard errors (variance gap, DDPM, mixture oracles, n = 512).

    python benchmarks/coupling.py

Means over seeds of the jackknife's standard error; the images are the same in both. Of components
that are alike in power, or differ as those of natural images do. What the paths cannot take away is
that near the end a chain of other length may settle for another component."""

from itertools import product

import numpy as np
import torch

import exposure_bias as eb
from exposure_bias.jackknife import deviations_of, grouped, standard_error

SHAPE, N, SEEDS = (1, 8, 8), 512, 4
MIXTURES = {"alike": np.full(5, 0.4), "of different power": np.geomspace(0.1, 1.0, 5)}
# (steps, refinement) of the two chains.
PAIRS = {
    "80 less 40 steps, refinements of 20": ((20, 4), (20, 2)),
    "200 less 100 steps, refinements of 50": ((50, 4), (50, 2)),
    "80 less 40 steps, each its own grid": ((80, 1), (40, 1)),
    "200 less 100 steps, each its own grid": ((200, 1), (100, 1)),
    "73 less 50 steps, which share no level": ((73, 1), (50, 1)),
}


def main() -> None:
    torch.set_num_threads(1)
    for mixture, scales in MIXTURES.items():
        rng = np.random.default_rng(1)
        means = scales[:, None, None, None] * rng.normal(size=(5, *SHAPE))
        oracle = eb.oracles.MixtureOracle(np.ones(5), means, 0.02, eb.schedules.linear())
        x0 = means[rng.integers(5, size=N)] + np.sqrt(0.02) * rng.normal(size=(N, *SHAPE))
        data = eb.load_data(x0.astype(np.float32), value_range=None)
        print(f"components {mixture}")
        for name, chains in PAIRS.items():
            coupled, independent = errors(oracle, data, chains)
            print(
                f"  {name}: {independent / coupled:.1f} times better"
                f" ({coupled:.5f} for {independent:.5f})"
            )


def errors(oracle, data, chains: tuple[tuple[int, int], ...]) -> tuple[float, float]:
    """The difference's standard error on the same paths and on independent ones."""
    sums = {
        (chain, seed): variance_sums(oracle, data, *chain, seed)
        for chain, seed in product(chains, range(SEEDS))
    }
    first, second = chains
    return tuple(
        np.mean([error(sums[first, s], sums[second, (s + shift) % SEEDS]) for s in range(SEEDS)])
        for shift in (0, 1)
    )


def variance_sums(oracle, data, steps: int, refine: int, seed: int) -> list[np.ndarray]:
    """Count, Σ x and Σ x² by group at the clean end."""
    recording = eb.record(
        oracle, data, steps=steps, refine=refine, seed=seed, n=N, streams=("chain",)
    )
    chain = recording["chain"].isel(step=-1)
    return [
        chain["count"].values,
        *(grouped(chain, f"state_group_{part}") for part in ("sum", "square")),
    ]


def error(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """Standard error of the difference of two total variances, relative to the first."""
    count = first[0]

    def difference(n, *sums: np.ndarray) -> np.ndarray:
        a, b = ((square - total**2 / n).sum(-1) / (n - 1) for total, square in (sums[:2], sums[2:]))
        return np.asarray(a - b)

    sums = [*first[1:], *second[1:]]
    n = count.sum()
    level = (first[2].sum(0) - first[1].sum(0) ** 2 / n).sum() / (n - 1)
    return float(standard_error(deviations_of(difference, count, sums, "linear")) / level)


if __name__ == "__main__":
    main()
