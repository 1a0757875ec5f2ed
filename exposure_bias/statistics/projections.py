"""Moments along the data's top eigen-directions."""

import numpy as np
from numpy.typing import NDArray

from exposure_bias.jackknife import GROUPS
from exposure_bias.statistics.accumulator import Accumulator, Batch, Layout


class Projections(Accumulator):
    """Σ p, Σ p² and, with cross=True, Σ p·p_0 by group.

    p and p_0 project the state and x_0 − μ on `directions` (K, D).

    On disk: `state_projection_sum`, `state_projection_square`, `state_projection_cross` (step,
    group, direction).
    """

    def __init__(self, layout: Layout, directions: NDArray[np.float64], cross: bool) -> None:
        super().__init__()
        self.directions = directions.T
        self.cross = cross
        sizes = {"step": layout.steps, "group": GROUPS, "direction": len(directions)}
        self.add_sum("state_projection_sum", **sizes)
        self.add_sum("state_projection_square", **sizes)
        if cross:
            self.add_sum("state_projection_cross", **sizes)

    def update(self, rows: slice, batch: Batch) -> None:
        basis = self._tensor("directions", batch.state)
        p = batch.state @ basis
        values = {"state_projection_sum": p, "state_projection_square": p * p}
        if self.cross:
            values["state_projection_cross"] = p * (batch.data @ basis)
        for name, value in values.items():
            self.state[name][rows] += batch.groups.sum(value, axis=1).cpu().numpy()
