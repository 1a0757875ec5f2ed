"""First and second moments per pixel."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure_bias.jackknife import GROUPS
from exposure_bias.states import dimensions
from exposure_bias.statistics.accumulator import Accumulator, Batch, Layout
from exposure_bias.statistics.law import DENSE


class PixelMoments(Accumulator):
    """Σ d, Σ d² and, with cross=True, Σ d·(x_0 − μ), per step and pixel, for one field d of the
    batch.

    On disk, as float32 where states are large: `{field}_sum`, `_square`, `_cross` (step, *state axes), over all samples; and
    `{field}_group_sum`, … (step, group, pixel), for the pixels in `pixels` (flat indices), which is
    all of them unless memory forbids."""

    def __init__(
        self, layout: Layout, field: str, pixels: NDArray[np.int64], cross: bool = False
    ) -> None:
        super().__init__()
        self.field, self.pixels = field, pixels
        self.large = layout.law.mean.size > DENSE
        self.parts = ("sum", "square", "cross") if cross else ("sum", "square")
        axes = dict(zip(dimensions(layout.shape), layout.shape, strict=True))
        for part in self.parts:
            self.add_sum(f"{field}_{part}", step=layout.steps, **axes)
            self.add_sum(
                f"{field}_group_{part}", step=layout.steps, group=GROUPS, pixel=len(pixels)
            )
        self.coords = {"pixel": ("pixel", pixels)}

    def kept(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        values = super().kept(name, rows)
        return values.astype(np.float32) if self.large else values

    def update(self, rows: slice, batch: Batch) -> None:
        d = batch.field(self.field)
        if d is None:
            return
        values: dict[str, Any] = {"sum": d, "square": d * d}
        if "cross" in self.parts:
            values["cross"] = d * batch.data
        for part in self.parts:
            grouped = batch.groups.sum(values[part], axis=1).cpu().numpy()
            total = self.state[f"{self.field}_{part}"][rows]
            total += grouped.sum(1).reshape(total.shape)
            self.state[f"{self.field}_group_{part}"][rows] += grouped[..., self.pixels]


def grouped_pixels(
    dimension: int, steps: int, arrays: int, budget: int, seed: int
) -> NDArray[np.int64]:
    """The pixels whose moments are kept by group: all, or as many seeded ones as fit `budget` bytes
    for `arrays`."""
    room = budget // (8 * GROUPS * steps * arrays)
    if room >= dimension:
        return np.arange(dimension)
    return np.sort(
        np.random.default_rng(seed % 2**32).choice(dimension, max(room, 1), replace=False)
    )
