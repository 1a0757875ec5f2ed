"""A few numbers for each sample and step, kept as they are."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from exposure_bias.statistics.accumulator import Accumulator, Batch

if TYPE_CHECKING:
    from torch import Tensor


class SampleScalars(Accumulator):
    """float32 arrays (sample, step), NaN where a step has no network call.

    epsilon_norm: ‖ε̂‖₂. outside: fraction of x̂_0 beyond [−1, 1] before any clipping. prediction_error: mean over pixels
    of (x̂_0 − x_0)², for paired streams. error_norm: ‖x̂_t − x_t‖₂ against the teacher chain, for paired chains.
    """

    def __init__(self, names: tuple[str, ...], samples: int, steps: int) -> None:
        super().__init__()
        for name in names:
            self.state[name] = np.full((samples, steps), np.nan, dtype=np.float32)
            self.dims[name] = ("sample", "step")

    def update(self, rows: slice, batch: Batch) -> None:
        if batch.prediction is not None:
            said = [step.prediction for step in batch.steps if step.prediction is not None]
            self._write("epsilon_norm", rows, batch, [p.epsilon.flatten(1).norm(dim=1) for p in said])
            self._write("outside", rows, batch, [p.outside for p in said])
            self._write("prediction_error", rows, batch, (batch.prediction - batch.data).square_().mean(2))
        if batch.error is not None:
            self._write("error_norm", rows, batch, batch.error.norm(dim=2))

    def _write(self, name: str, rows: slice, batch: Batch, values: "Iterable[Tensor]") -> None:
        """Fill in K vectors (B,)."""
        if name in self.state:
            self.state[name][batch.samples, rows] = np.stack([v.cpu().numpy() for v in values], axis=1)
