"""Noise that belongs to a sample, not to a batch.

The standard normal number that sample i meets at step k is a pure function of (seed, purpose, i, k): a chain does not
depend on the batch size, the order, the subset or the number of processes, a rollout that starts half-way meets the
same noise as the whole chain, and a killed run continues exactly.

Numbers come from NumPy's counter-based Philox generator, keyed by a hash of the four, in tiles: one generator call
makes the noise of `TILE // d` consecutive steps for images of d numbers, because for small images creating a generator
costs more than using it. The tile depends on the image shape alone.
"""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

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
        self._tile = np.empty((len(ids), self._steps_per_tile, self._size), dtype=np.float32)

    def __call__(self, step: int) -> "torch.Tensor":
        """The noise of one step, float32, (B, *shape); the caller may not write into it."""
        import torch

        index, row = divmod(step, self._steps_per_tile)
        if index != self._tile_index:
            self._draw(index)
        return torch.from_numpy(self._tile[:, row]).to(self.device).reshape(len(self.ids), *self.shape)

    def _draw(self, index: int) -> None:
        # A new array, not the old one again: what an earlier call returned must not change under its holder.
        self._tile = np.empty_like(self._tile)
        for b, sample in enumerate(self.ids):
            generator = np.random.Generator(np.random.Philox(key=self._key(sample, index)))
            generator.standard_normal(dtype=np.float32, out=self._tile[b])
        self._tile_index = index

    def _key(self, sample: int, tile: int) -> int:
        name = f"{self.seed}/{self.purpose}/{int(sample)}/{tile}".encode()
        return int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "little")
