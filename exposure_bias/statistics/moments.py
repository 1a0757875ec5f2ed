"""First and second moments per pixel, and by group over cells of pixels."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure_bias.jackknife import GROUPS
from exposure_bias.states import State, dimensions
from exposure_bias.statistics.accumulator import Accumulator, Batch, Layout
from exposure_bias.statistics.law import DENSE

LEAST_PIXELS, MOST_PIXELS = 64, 576
MOST_CELLS = 64  # in a channel
SIGNS_SEED = 0


class PixelMoments(Accumulator):
    """Σ d, Σ d² and, with cross=True, Σ d·(x_0 − μ), per step and pixel.

    For one field d of the batch.

    On disk, as float32 where states are large: `{field}_sum`, `_square`, `_cross` (step, *state
    axes), over all samples; and `{field}_group_sum`, … (step, group, pixel), for the pixels in
    `pixels` (flat indices), which is all of them unless memory forbids."""

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
        # One after another: each is as large as the batch.
        others = {"square": d, "cross": batch.data}
        for part in self.parts:
            value = d * others[part] if part in others else d
            total = self.state[f"{self.field}_{part}"][rows]
            if len(self.pixels) == value.shape[-1]:
                grouped = batch.groups.sum(value, axis=1)
                summed = grouped.sum(1)
            else:  # sums of all pixels by group would be larger than the batch
                grouped = batch.groups.sum(value[..., self.pixels], axis=1)
                summed = value.sum(1)
            total += summed.cpu().numpy().reshape(total.shape)
            self.state[f"{self.field}_group_{part}"][rows] += grouped.cpu().numpy()


class CellMoments(Accumulator):
    """What pooled variances need by group where not all pixels are kept so: moments over cells.

    A cell is m neighbouring pixels of one channel. With fixed random signs r_i,

        s = Σ_i r_i d_i / √m,    q = Σ_i d_i² / m

    are sums over samples like any other, and E_r s² = Σ_i d_i²/m: so Σ q − (Σ s)²/n stands for the
    mean over the cell of Σ d_i² − (Σ d_i)²/n. Only its second part, 1/n of the whole, is at random.

    On disk: `state_cell_sum`, `state_cell_square` (step, group, cell)."""

    def __init__(self, layout: Layout, cells: int) -> None:
        super().__init__()
        self.signs = cell_signs(layout.law.mean.size, cells)
        for part in ("sum", "square"):
            name = f"state_cell_{part}"
            self.add_sum(name, step=layout.steps, group=GROUPS, cell=cells)
            # Nothing but standard errors are made of these.
            self.state[name] = self.state[name].astype(np.float32)

    def update(self, rows: slice, batch: Batch) -> None:
        d = batch.state.unflatten(2, self.signs.shape)
        signs = self._tensor("signs", batch.state)
        values = {"sum": (d * signs).sum(3), "square": d.square().mean(3)}
        for part, value in values.items():
            summed = batch.groups.sum(value, axis=1).cpu().numpy()
            self.state[f"state_cell_{part}"][rows] += summed


def cell_signs(size: int, cells: int) -> NDArray[np.float64]:
    """r_i/√m of `CellMoments` for states of `size` numbers, (cells, m)."""
    signs = np.random.default_rng(SIGNS_SEED).choice([-1.0, 1.0], size)
    return (signs / np.sqrt(size // cells)).reshape(cells, -1)


def cells_of(shape: State) -> int:
    """How many cells of equal size a state has, at most 64 in a channel.

    One pixel's in a vector."""
    channels, *space = shape
    pixels = int(np.prod(space))
    return channels * max(n for n in range(1, MOST_CELLS + 1) if pixels % n == 0)


def grouped_pixels(
    dimension: int, steps: int, arrays: int, budget: int, seed: int
) -> NDArray[np.int64]:
    """The pixels whose moments are kept by group.

    All, or as many seeded ones as fit `budget` bytes for `arrays`, between 64 and 576; fewer are
    among more."""
    room = int(np.clip(budget // (8 * GROUPS * steps * arrays), LEAST_PIXELS, MOST_PIXELS))
    if room >= dimension:
        return np.arange(dimension)
    return np.sort(np.random.default_rng(seed % 2**32).permutation(dimension)[:room])
