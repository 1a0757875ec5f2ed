"""A few samples along the chain, kept as they are: for pictures, not for numbers."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exposure_bias.states import dimensions
from exposure_bias.statistics.accumulator import Accumulator, Batch, Layout

if TYPE_CHECKING:
    from torch import Tensor

KEEP = 8
MOST_LEVELS = 12
LEAST_LEVELS = 4
MOST_NUMBERS = 2**18  # in one array: half a megabyte on disk
HALF = 65504.0  # float16's largest number


class KeptSamples(Accumulator):
    """States of the samples whose numbers are below `layout.keep`, at up to 12 of the recorded
    levels.

    On disk (kept, kept_step, *state axes), float16: `kept_state`, x̂ or x;
    `kept_prediction`, x̂_0, NaN at the clean end; `kept_truth`, the teacher's x_t of a paired chain.
    `kept_step` counts the recorded steps. A recording of other samples holds zeros, so that
    recordings merge by adding."""

    def __init__(self, layout: Layout, fields: tuple[str, ...]) -> None:
        super().__init__()
        self.first = layout.first
        self.fields = fields
        self.rows = kept_rows(layout.steps, layout.keep * layout.law.mean.size)
        axes = dict(zip(dimensions(layout.shape), layout.shape, strict=True))
        for field in fields:
            name = f"kept_{field}"
            self.add_sum(name, kept=layout.keep, kept_step=len(self.rows), **axes)
            self.state[name] = self.state[name].astype(np.float16)
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
            mine[:count] += _rounded(values[:count])


def kept_rows(steps: int, numbers: int) -> list[int]:
    """Which of the recorded steps are kept: the first and the last always, and 12 or as many as fit
    `MOST_NUMBERS`."""
    most = int(np.clip(MOST_NUMBERS // max(numbers, 1), LEAST_LEVELS, MOST_LEVELS))
    rows: list[int] = np.linspace(0, steps - 1, min(steps, most)).round().astype(int).tolist()
    return rows


def _rounded(values: "Tensor") -> NDArray[np.float16]:
    """To float16, which ends at 65504."""
    plain = values.detach().cpu().numpy()
    return np.clip(plain, -HALF, HALF).astype(np.float16)
