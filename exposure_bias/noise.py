"""Noise that belongs to a sample, not to a batch.

The standard normal number that sample i meets at step k is a pure function of (seed, purpose, i, k): a chain does not
depend on the batch size, the order, the subset or the number of processes, a rollout that starts half-way meets the
same noise as the whole chain, and a killed run continues exactly.

Numbers come from NumPy's counter-based Philox generator, keyed by a hash of the four, as z = √2 erfinv(u) with u one of
2³² evenly spaced values in (−1, 1), so |z| < 6.4: a whole batch goes through the inverse distribution function at once,
on one thread 1.3 to 1.5 times as fast as a ziggurat for each sample (`benchmarks/noise.py`). They are drawn in tiles,
the noise of `TILE // d` consecutive steps for images of d numbers, because for small images keying a generator costs
more than using it. The tile depends on the image shape alone.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

TILE = 4096


class Noise:
    """Standard normal noise of shape (B, *shape) for the samples `ids`, one tensor for each step.

    seed: any integer. purpose: independent streams for independent uses ("start", "chain", "forward", …).
    """

    def __init__(
        self, seed: int, purpose: str, ids: Sequence[int], shape: tuple[int, ...], device: "torch.device | str" = "cpu"
    ) -> None:
        self.seed, self.purpose, self.ids, self.shape, self.device = seed, purpose, ids, shape, device
        self._size = int(np.prod(shape))
        self._steps_per_tile = max(1, TILE // self._size)
        self._tile_index = -1
        self._tile: NDArray[np.float32] = np.empty(0, dtype=np.float32)
        self._philox = np.random.Philox(key=0)
        self._fresh: Any = self._philox.state

    def __call__(self, step: int) -> "torch.Tensor":
        """The noise of one step, float32, (B, *shape); the caller may not write into it."""
        import torch

        index, row = divmod(step, self._steps_per_tile)
        if index != self._tile_index:
            self._tile, self._tile_index = self._draw(index), index
        return torch.from_numpy(self._tile[:, row]).to(self.device).reshape(len(self.ids), *self.shape)

    def _draw(self, index: int) -> NDArray[np.float32]:
        """The noise of all samples in one tile, (B, steps, d)."""
        import torch

        count = self._steps_per_tile * self._size
        bits = np.empty((len(self.ids), -(-count // 2)), dtype=np.uint64)
        for b, sample in enumerate(self.ids):
            self._fresh["state"]["key"] = self._key(sample, index)
            self._philox.state = self._fresh
            bits[b] = self._philox.random_raw(bits.shape[1])
        u = torch.from_numpy(bits.view(np.int32)[:, :count]).double().add_(0.5).mul_(2.0**-31)
        z: NDArray[np.float32] = u.erfinv_().mul_(2**0.5).float().numpy()
        return z.reshape(len(self.ids), self._steps_per_tile, self._size)

    def _key(self, sample: int, tile: int) -> NDArray[np.uint64]:
        name = f"{self.seed}/{self.purpose}/{int(sample)}/{tile}".encode()
        return np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), dtype="<u8")
