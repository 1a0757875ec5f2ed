"""The distribution of the state error ξ_t, at some pixels."""

import numpy as np
from numpy.typing import NDArray

from exposure_bias.statistics.accumulator import Accumulator, Batch, Layout

BINS = 101
RANGE = 4.0
CORE = 0.02
MAX_PIXELS = 64


def error_edges() -> NDArray[np.float64]:
    """The BINS + 1 bin edges, in units of the state's own scale √(α²σ̄² + σ²).

    The outer bins are open.

    They are even in asinh(ξ/CORE): fine near zero, where ξ lives at the noisy end, and coarse in
    the tails."""
    edges: NDArray[np.float64] = CORE * np.sinh(
        np.linspace(-1, 1, BINS + 1) * np.arcsinh(RANGE / CORE)
    )
    return edges


class ErrorHistogram(Accumulator):
    """Counts of ξ_t = x̂_t − x_t by bin.

    On disk: `error_histogram` (step, histogram_pixel, bin).
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        size = layout.law.mean.size
        chosen = np.linspace(0, size - 1, min(size, MAX_PIXELS)).round().astype(np.int64)
        self.pixels = np.unique(chosen)
        self.add_sum(
            "error_histogram", step=layout.steps, histogram_pixel=len(self.pixels), bin=BINS
        )
        # Counts are exact in half of the space.
        self.state["error_histogram"] = self.state["error_histogram"].astype(np.float32)
        self.coords = {"histogram_pixel": ("histogram_pixel", self.pixels)}

    def update(self, rows: slice, batch: Batch) -> None:
        if batch.error is None:
            return
        error = (
            batch.error[..., self.pixels]
            if len(self.pixels) < batch.error.shape[-1]
            else batch.error
        )
        position = (error / (batch.scale * CORE)).float().asinh_()
        position = position.mul_(1 / np.arcsinh(RANGE / CORE)).add_(1)
        index = position.mul_(BINS / 2).clamp_(0, BINS - 1).long().cpu().numpy()
        counts = self.state["error_histogram"][rows]
        # A flat index for every (step, pixel, bin).
        index += np.arange(len(self.pixels)) * BINS
        index += np.arange(len(counts))[:, None, None] * (BINS * len(self.pixels))
        counts += np.bincount(index.ravel(), minlength=counts.size).reshape(counts.shape)
