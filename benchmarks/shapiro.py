"""Time of `shapiro` against `scipy.stats.shapiro`: 307,200 tests of 50 values, float64, in
one run."""

import time
from collections.abc import Callable

import numpy as np
import scipy.stats

from exposure_bias.diagnostics.shapiro import shapiro

TESTS, N = 307_200, 50


def seconds(function: Callable[[], object], repeats: int) -> float:
    """Best wall-clock time of `repeats` calls: the least disturbed by whatever else the machine
    does."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    x = np.random.default_rng(0).normal(size=(TESTS, N))
    ours, theirs = shapiro(x), scipy.stats.shapiro(x, axis=-1)
    time_ours = seconds(lambda: shapiro(x), repeats=5)
    time_scipy = seconds(lambda: scipy.stats.shapiro(x, axis=-1), repeats=2)
    print(f"{TESTS} tests of {N} values")
    print(f"exposure_bias  {time_ours:8.3f} s")
    print(f"scipy          {time_scipy:8.3f} s")
    print(f"ratio          {time_scipy / time_ours:8.1f}")
    print(f"largest |ΔW|   {np.abs(ours.statistic - theirs.statistic).max():8.1e}")
    print(f"largest |Δp|   {np.abs(ours.pvalue - theirs.pvalue).max():8.1e}")


if __name__ == "__main__":
    main()
