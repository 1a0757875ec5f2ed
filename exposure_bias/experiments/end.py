"""The discretisation error of any function of an image, at the end of a chain.

The chain and its limit end in images x̂_0; with S a function of an image, the error is

    Σ S(x̂_0 of the chain) / Σ S(x_0) − Σ S(x̂_0 of the limit) / Σ S(x_0),

over the same samples on the same paths. The limit is extrapolated from its three grids as in an
error budget, each with a last step that is the network's prediction at the least noisy level.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from exposure_bias.errors import InputError
from exposure_bias.experiments.bench import Bench
from exposure_bias.experiments.limits import FACTORS, WEIGHTS
from exposure_bias.jackknife import (
    GROUPS,
    MINIMUM_PER_GROUP,
    Array,
    Estimate,
    deviations_of,
    standard_error,
)
from exposure_bias.recording import Recording
from exposure_bias.running.recorder import recorded
from exposure_bias.running.setup import Setup
from exposure_bias.statistics.accumulator import Accumulator, Batch, Layout

VALUE = "objective"


class EndValue(Accumulator):
    """Σ S of the states of the last recorded step, `objective` (step, group)."""

    def __init__(self, layout: Layout, objective: Callable[[Array], Any]) -> None:
        super().__init__()
        self._mean, self._objective = layout.law.mean, objective
        self.add_sum(VALUE, step=layout.steps, group=GROUPS)

    def update(self, rows: slice, batch: Batch) -> None:
        last = len(self.state[VALUE]) - 1
        if rows.stop - 1 != last:
            return
        deviation = batch.state[-1].cpu().numpy()
        value = np.asarray(self._objective(self._mean + deviation.reshape(-1, *self._mean.shape)))
        if not np.isfinite(value).all():
            raise InputError("the objective returned NaN or Inf for a chain's end")
        self.state[VALUE][last] += batch.groups.sum(value.astype(np.float64))


def end_share(bench: Bench, objective: Any) -> tuple[Estimate, Array]:
    """The discretisation error of S at the end of a bench's chain, and its deviations (16,)."""

    def statistic(layout: Layout) -> Accumulator | None:
        return EndValue(layout, objective) if layout.stream in ("chain", "data") else None

    def walked(setup: Setup, name: str) -> Recording:
        path = None if bench.folder is None else bench.folder / f"end-{name}.nc"
        last = (setup.kept[-1],)
        return recorded(replace(setup, light=True, keep=last), [statistic], bench.batch_size, path)

    limit = bench.limit(bench.setup)
    if limit is None:
        raise InputError(f"{bench.setup.run.sampler} tends to no known limit")
    chain = walked(bench.setup, "chain")
    grids = [walked(limit.chain_setup(k, to_clean=True), f"limit-{k}") for k in FACTORS]
    sums = [r["chain"][VALUE].values[-1] for r in (chain, *grids)]
    count, known = chain["chain"]["count"].values, chain["data"][VALUE].values[-1]

    def share(_: float, groups: Array) -> Array:
        end, *ends = (groups @ total for total in sums)
        return np.asarray((end - WEIGHTS @ np.array(ends)) / (groups @ known))

    value = share(0.0, np.ones(GROUPS))
    deviations = deviations_of(share, count, [np.eye(GROUPS)], "linear")
    enough = count.min() >= MINIMUM_PER_GROUP
    error = standard_error(deviations) if enough else np.asarray(np.nan)
    return Estimate(value, np.asarray(error)), deviations
