"""A few samples along the chain, kept as they are: for pictures, not for numbers."""

from collections.abc import Sequence
from math import ceil, log2
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exposure_bias.files.netcdf import MOST_SCALED
from exposure_bias.schedules import Level
from exposure_bias.states import dimensions
from exposure_bias.statistics.accumulator import Accumulator, Batch, Layout
from exposure_bias.statistics.law import Law

if TYPE_CHECKING:
    from torch import Tensor

KEEP = 8
MOST_LEVELS = 12
LEAST_LEVELS = 4
MOST_NUMBERS = 2**18  # in one array: half a megabyte on disk
LEAST_SAMPLES, MOST_AT_ALL = 2, 2**19  # of large states: three megabytes at 3x256x256
REACH = 5  # standard deviations of the widest states, or the bound of images if that is more


class KeptSamples(Accumulator):
    """States of the first samples, at most `layout.keep`, at up to 12 of the recorded levels.

    (kept, kept_step, *state axes): `kept_state`, x̂ or x; `kept_prediction`, x̂_0, NaN at the clean
    end; `kept_truth`, the teacher's x_t of a paired chain. `kept_step` counts the recorded steps. A
    recording of other samples holds zeros, so that recordings merge by adding.

    Numbers are rounded to multiples of `spacing` when they come in, so that a file keeps them as
    they are in two bytes each: a run that was interrupted ends in the same numbers."""

    def __init__(self, layout: Layout, fields: tuple[str, ...], levels: Sequence[Level]) -> None:
        super().__init__()
        self.first = layout.first
        self.fields = fields
        keep = kept_samples(layout.keep, layout.law.mean.size)
        self.rows = kept_rows(layout.steps, keep * layout.law.mean.size)
        self.spacing = spacing(layout.law, levels)
        axes = dict(zip(dimensions(layout.shape), layout.shape, strict=True))
        for field in fields:
            name = f"kept_{field}"
            self.add_sum(name, kept=keep, kept_step=len(self.rows), **axes)
            self.state[name] = self.state[name].astype(np.float32)
            self.encodings[name] = {"scale_factor": self.spacing}
        self.coords = {"kept_step": self.rows}

    def update(self, rows: slice, batch: Batch) -> None:
        start = self.first + batch.samples.start
        for row, step in enumerate(batch.steps, rows.start):
            if row not in self.rows:
                continue
            said = None if step.prediction is None else step.prediction.x0
            values = {"state": step.x, "prediction": said, "truth": step.truth}
            for field in self.fields:
                self._add(f"kept_{field}", start, self.rows.index(row), values[field])

    def _add(self, name: str, start: int, column: int, values: "Tensor | None") -> None:
        mine = self.state[name][start:, column]
        if values is None:
            mine[...] = np.nan
        else:
            count = min(len(mine), len(values))
            mine[:count] += self._rounded(values[:count])

    def _rounded(self, values: "Tensor") -> NDArray[np.float32]:
        """To the nearest multiple that a file can hold."""
        steps = np.round(values.detach().cpu().numpy().astype(np.float64) / self.spacing)
        held = np.clip(steps, -MOST_SCALED, MOST_SCALED) * self.spacing
        return held.astype(np.float32)


def kept_samples(keep: int, size: int) -> int:
    """How many samples of `size` numbers are kept, of those asked for: fewer of large states."""
    return min(keep, max(LEAST_SAMPLES, MOST_AT_ALL // (LEAST_LEVELS * size)))


def kept_rows(steps: int, numbers: int) -> list[int]:
    """Which of the recorded steps are kept: first, last, and 12 in all or as many as fit."""
    most = int(np.clip(MOST_NUMBERS // max(numbers, 1), LEAST_LEVELS, MOST_LEVELS))
    rows: list[int] = np.linspace(0, steps - 1, min(steps, most)).round().astype(int).tolist()
    return rows


def spacing(law: Law, levels: Sequence[Level]) -> float:
    """The power of two of which `MOST_SCALED` reach as far as the states of a run do.

    1/4096 for images in [-1, 1] under a variance-preserving schedule."""
    size = float((law.mean**2 + law.variance).max())
    widest = max((a**2 * size + s**2) ** 0.5 for _, a, s in levels)
    return 2.0 ** ceil(log2(max(REACH * widest, 1.0) / MOST_SCALED))
