"""Moments along the data's top eigen-directions."""

import numpy as np
from numpy.typing import NDArray

from exposure_bias.statistics.accumulator import GROUPS, Accumulator, Batch


class Projections(Accumulator):
    """Σ p, Σ p² and, with cross=True, Σ p·p_0 by group; p and p_0 project a field and x_0 − μ on `directions` (K, D).

    On disk: `{field}_projection_sum`, `_square`, `_cross` (step, group, direction).
    """

    def __init__(self, field: str, steps: int, directions: NDArray[np.float64], cross: bool) -> None:
        super().__init__()
        self.field, self.directions = field, directions.T
        self.parts = ("sum", "square", "cross") if cross else ("sum", "square")
        for part in self.parts:
            self._sum(f"{field}_projection_{part}", step=steps, group=GROUPS, direction=len(directions))

    def update(self, rows: slice, batch: Batch) -> None:
        d = batch.field(self.field)
        if d is None:
            return
        basis = self._tensor("directions", d)
        p = d @ basis
        values = {"sum": p, "square": p * p}
        if "cross" in self.parts:
            values["cross"] = p * (batch.data @ basis)
        for part in self.parts:
            self.state[f"{self.field}_projection_{part}"][rows] += batch.groups.sum(values[part]).cpu().numpy()
