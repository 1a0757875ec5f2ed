"""Noise for a batch: the inverse distribution function over raw bits, against NumPy's ziggurat
sample by sample.

python benchmarks/noise.py
"""

import time
from collections.abc import Callable

import numpy as np

from exposure_bias.noise import Noise

BATCH, STEPS, REPETITIONS = 256, 64, 5


class Ziggurat(Noise):
    """The same tiles and keys, drawn by `Generator.standard_normal`."""

    def _draw(self, index: int) -> np.ndarray:
        count = self._steps_per_tile * self._size
        generators = (
            np.random.Generator(np.random.Philox(key=self._key(i, index))) for i in self.ids
        )
        tile = np.stack([g.standard_normal(count, dtype=np.float32) for g in generators])
        return tile.reshape(len(self.ids), self._steps_per_tile, self._size)


def seconds(call: Callable[[], object]) -> float:
    since = time.process_time()
    call()
    return time.process_time() - since


def main() -> None:
    for shape in ((1, 8, 8), (3, 32, 32), (3, 64, 64)):

        def draw(kind: type[Noise], shape: tuple[int, ...] = shape) -> None:
            noise = kind(0, "chain", range(BATCH), shape)
            for step in range(STEPS):
                noise(step)

        draw(Noise)  # torch is imported here
        ratios = [
            seconds(lambda: draw(Ziggurat)) / seconds(lambda: draw(Noise))
            for _ in range(REPETITIONS)
        ]
        print(
            f"{shape}: ziggurat / ours {np.median(ratios):.2f} ({min(ratios):.2f} to"
            f" {max(ratios):.2f}), CPU time"
        )


if __name__ == "__main__":
    main()
