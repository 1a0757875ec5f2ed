"""How long the Gaussian reference takes for CIFAR-sized images: `python
benchmarks/gaussian_reference.py`.

The covariance is dense, 3072 × 3072, with the 1/f² spectrum of natural images. Targets on 2 cores,
given the
eigendecomposition: under 1 s for 100 steps and under 10 s for 1000.
"""

import resource
import time

import numpy as np

from exposure_bias import schedules
from exposure_bias.references import eigendecomposition, gaussian

SHAPE = (3, 32, 32)


def image_covariance(shape: tuple[int, int, int]) -> np.ndarray:
    """A dense (D, D) covariance: power 1/f² on periodic images, correlated channels, unequal pixel
    variances."""
    channels, height, width = shape
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]) + 1 / height
    kernel = np.fft.ifft2(frequency**-2.0).real
    y, x = (i.ravel() for i in np.indices((height, width)))
    spatial = kernel[(y[:, None] - y) % height, (x[:, None] - x) % width] / kernel[0, 0]
    covariance = np.kron(0.7 + 0.3 * np.eye(channels), spatial)
    scale = np.linspace(0.3, 0.6, len(covariance))
    return scale[:, None] * covariance * scale


def main() -> None:
    """Print the time of the eigendecomposition and of the reference, per sampler and number of
    steps."""
    covariance, mean = image_covariance(SHAPE), np.full(SHAPE, 0.1)
    began = time.perf_counter()
    eigen = eigendecomposition(covariance)
    print(f"eigendecomposition, D = {len(covariance)}: {time.perf_counter() - began:.2f} s")
    schedule = schedules.linear()
    for steps in (100, 1000):
        for sampler, start in (("ddpm", "data"), ("heun", "data"), ("ddpm", "noise")):
            began = time.perf_counter()
            reference = gaussian(mean, eigen, schedule, sampler, steps, start=start)
            took = time.perf_counter() - began
            print(
                f"{sampler:5} from {start:5}, {steps:4} steps: {took:.2f} s, final gap"
                f" {reference.gap.item(-1):+.1e}"
            )
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
