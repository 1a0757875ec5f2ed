"""Stochastic Lorenz-96 (Lorenz 1996; Wilks 2005, Q. J. R. Meteorol. Soc. 131, 389): sequences whose
next frame is a known draw.

    dx_i = [(x_{i+1} − x_{i−2}) x_{i−1} − x_i + F] dt + s dW_i,     i = 1 … 16, F = 8, s = 2

integrated by Heun's method with additive noise in steps of 0.01, after a run-in of 5 time units. A
frame is every 0.15 time units, and frames are divided by the standard deviation 3.87 after their
mean 2.27 was taken off.

    python analyses/lorenz96.py bundle    # the bundled sequences, in exposure_bias/models/lorenz96
"""

import sys
from pathlib import Path

import numpy as np

from exposure_bias.data import bundled

SIZE, FORCING, NOISE = 16, 8.0, 2.0
STEP, PER_FRAME, RUN_IN = 0.01, 15, 500
MEAN, SPREAD = 2.27, 3.87
BUNDLED = (512, 33)


def tendency(x: np.ndarray) -> np.ndarray:
    forward, back, two = np.roll(x, -1, 1), np.roll(x, 1, 1), np.roll(x, 2, 1)
    return (forward - two) * back - x + FORCING


def sequences(n: int, frames: int, seed: int) -> np.ndarray:
    """n sequences, (n, frames, 16) float32, standardised."""
    random = np.random.default_rng(seed)
    x = FORCING + random.normal(size=(n, SIZE))

    def moved(x: np.ndarray) -> np.ndarray:
        noise = NOISE * np.sqrt(STEP) * random.normal(size=x.shape)
        slope = tendency(x)
        ahead = x + STEP * slope + noise
        return x + STEP / 2 * (slope + tendency(ahead)) + noise

    for _ in range(RUN_IN):
        x = moved(x)
    kept = []
    for _ in range(frames):
        kept.append(((x - MEAN) / SPREAD).astype(np.float32))
        for _ in range(PER_FRAME):
            x = moved(x)
    return np.stack(kept, axis=1)


def main(folder: Path) -> None:
    frames = sequences(*BUNDLED, seed=96)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "sequences.npz", frames=frames.astype(np.float16))


if __name__ == "__main__":
    if sys.argv[1:] != ["bundle"]:
        sys.exit(__doc__)
    main(bundled.FOLDER / "lorenz96")
