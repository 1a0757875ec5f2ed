"""Chains and restarts that strict exposure is measured on (`diagnostics.strict_exposure`).

A chain walks from true x_T towards the limit of the network, the SDE's (`experiments.limits`), so
that no solver's error is in it. At each cut s a second chain starts from the true x_s on the same
Brownian path. Both walk on a grid of N/2 steps and on one of N/4, and a number p of a sample is
extrapolated from the two: (4 p_{N/2} − p_{N/4})/3."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.denoisers import Denoiser
from exposure_bias.diagnostics.strict_exposure import Restarts
from exposure_bias.errors import InputError
from exposure_bias.experiments.bench import takes_fractions
from exposure_bias.experiments.limits import coarser, coefficients, limit_grid, places
from exposure_bias.experiments.value_function import Coupling, LinearLaw, Modes
from exposure_bias.jackknife import GROUPS
from exposure_bias.running.loop import Turn, fill
from exposure_bias.running.setup import Samples, Setup
from exposure_bias.schedules import Level
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.streams import evaluate, noised

CUTS = (1.0, 0.3)  # σ/α in standard deviations of the data's pixels
GRIDS = (1, 2)  # steps in place of each of the coarsest grid's: N/4 and N/2
WEIGHTS = np.array([-1.0, 4.0]) / 3
STATISTICS = ("variance", "high frequencies")


@dataclass(frozen=True)
class Walks:
    """The chains of one network: its grids, and the cuts as places on the coarsest grid.

    laws: for the images of even and of odd groups.
    """

    setup: Setup
    grids: tuple[tuple[Level, ...], ...]
    cuts: tuple[int, ...]
    modes: Modes
    laws: tuple[LinearLaw, LinearLaw]

    @property
    def levels(self) -> tuple[Level, ...]:
        """Those of the coarsest grid."""
        return self.grids[0]

    @cached_property
    def members(self) -> Tensor:
        """One where a mode belongs to a statistic, (D, S)."""
        high = self.modes.high[self.modes.band].astype(float)
        both = np.stack([np.ones_like(high), high], 1)
        return torch.from_numpy(both[:, : 1 + bool(high.any())])

    @property
    def statistics(self) -> tuple[str, ...]:
        """What is split: the variance, and the high frequencies where there are any."""
        return STATISTICS[: self.members.shape[1]]

    @property
    def calls(self) -> int:
        """Network calls for one sample."""
        steps = [len(grid) - 1 for grid in self.grids]
        of_cuts = [s - c * k for c in self.cuts for k, s in zip(GRIDS, steps, strict=True)]
        return sum(steps) + sum(of_cuts) + 2 + 5 * len(self.cuts)

    def sums(self) -> Sums:
        """Rows by sample, empty."""
        sums, n, cuts, s = Sums(), self.setup.n, len(self.cuts), len(self.statistics)
        sums.add_rows("truth", n, statistic=s)
        sums.add_rows("end", n, statistic=s)
        sums.add_rows("restart", n, cut=cuts, statistic=s)
        for name in ("true", "own"):
            sums.add_rows(name, n, cut=cuts, feature=2, statistic=s)
        return sums


def walks(
    setup: Setup,
    ratios: Sequence[float] | None,
    modes: Modes,
    laws: tuple[LinearLaw, LinearLaw],
    n: int,
    first: Level | None = None,
) -> Walks:
    """The chains of a setup's network, cut nearest to some σ/α.

    first: the noisiest level, by default the setup's. Raises InputError for a ratio outside the
    grid.
    """
    schedule = setup.model.schedule
    whole = not takes_fractions(setup.model, setup)
    largest = float(setup.law.values[0])
    finest = limit_grid(schedule, setup.levels[0] if first is None else first, largest, whole)
    grids = tuple(coarser(finest, k) for k in GRIDS)
    wanted = np.array(CUTS) * np.sqrt(setup.law.spread) if ratios is None else np.array(ratios)
    cuts = _cuts(grids[0], wanted, given=ratios is not None)
    run = replace(setup.run, kind="strict-exposure", levels=grids[0], options={"cuts": list(cuts)})
    own = replace(setup, run=run, places=np.arange(len(grids[0])), n=n)
    return Walks(own, grids, cuts, modes, laws)


def _cuts(levels: Sequence[Level], wanted: NDArray[np.float64], given: bool) -> tuple[int, ...]:
    inner = np.array([level.ratio for level in levels[1:-1]])
    finite = np.isfinite(inner)
    for ratio in wanted if given else ():
        if not inner[finite].min() <= ratio <= inner[finite].max():
            raise InputError(
                f"a cut at sigma/alpha = {ratio:g} is not inside the chain: allowed are"
                f" {inner[finite].min():.3g} to {inner[finite].max():.3g}"
            )
    with np.errstate(divide="ignore"):
        found = {1 + int(np.abs(np.log(inner / ratio)).argmin()) for ratio in wanted}
    if given and len(found) < len(wanted):
        raise InputError("two cuts fall on the same level of the chain: put them farther apart")
    return tuple(sorted(found))


def measured_restarts(plan: Walks, batch_size: int, folder: Path | None = None) -> list[Restarts]:
    """What the chains and restarts came to, for each of `Walks.statistics`."""
    sums = plan.sums()
    fill(
        plan.setup,
        sums,
        partial(_add, plan, sums),
        size=batch_size,
        evaluations=plan.calls,
        checkpoint=None if folder is None else folder / "restarts.nc",
    )
    group = (plan.setup.ids % len(plan.setup.data) % GROUPS).astype(float)
    state = {name: values.astype(np.float64) for name, values in sums.state.items()}
    return [
        Restarts(
            group,
            state["truth"][:, s],
            state["end"][:, s],
            state["restart"][..., s],
            state["true"][..., s],
            state["own"][..., s],
        )
        for s in range(len(plan.statistics))
    ]


def _add(plan: Walks, sums: Sums, batch: Samples, turn: Turn) -> None:
    """Add a batch of images: the chain on both grids, and the restarts from every cut."""
    rows, walk = batch.rows, _Batch(plan, batch)
    fine = plan.grids[-1]
    true = {place: walk.true(fine, place * GRIDS[-1]) for place in plan.cuts}
    sums.state["truth"][rows] = _rounded(walk.power(walk.true(fine, len(fine) - 1), fine[-1]))
    ends, own = [], []
    for levels, factor in zip(plan.grids, GRIDS, strict=True):
        end, passed = walk.chain(levels, 0, walk.true(levels, 0), [c * factor for c in plan.cuts])
        ends.append(walk.power(end, levels[-1]))
        own.append(
            [walk.features(x, levels[c * factor]) for c, x in zip(plan.cuts, passed, strict=True)]
        )
        turn.report(len(batch.ids) * len(levels))
    sums.state["end"][rows] = _rounded(_extrapolated(ends))
    for column, cut in enumerate(plan.cuts):
        restarted = []
        for levels, factor in zip(plan.grids, GRIDS, strict=True):
            end, _ = walk.chain(levels, cut * factor, true[cut], [])
            restarted.append(walk.power(end, levels[-1]))
            turn.report(len(batch.ids) * (len(levels) - cut * factor))
        sums.state["restart"][rows, column] = _rounded(_extrapolated(restarted))
        at_true = walk.features(true[cut], fine[cut * GRIDS[-1]])
        sums.state["true"][rows, column] = _rounded(at_true)
        sums.state["own"][rows, column] = _rounded(_extrapolated([part[column] for part in own]))
        turn.report(3 * len(batch.ids))


def _extrapolated(parts: Sequence[Tensor]) -> Tensor:
    return sum((w * p for w, p in zip(WEIGHTS, parts, strict=True)), torch.zeros(()))


def _rounded(values: Tensor) -> NDArray[np.float32]:
    return values.cpu().numpy().astype(np.float32)


class _Batch:
    """One batch of images: its chains, and features of its states."""

    def __init__(self, plan: Walks, batch: Samples) -> None:
        self.plan, self.batch = plan, batch
        self.model: Denoiser = plan.setup.conditioned(batch.images)
        odd = batch.images % GROUPS % 2
        self.rows = [np.flatnonzero(odd == half) for half in (0, 1)]
        means = torch.stack([law.mean for law in plan.laws])[torch.from_numpy(odd)]
        self.mean = means.to(batch.x0.device)
        self.members = plan.members.to(batch.x0)

    def path(self, levels: Sequence[Level]) -> Any:
        """The samples' Brownian path on one of the grids."""
        factor = GRIDS[self.plan.grids.index(tuple(levels))]
        return self.plan.setup.paths(self.batch.ids).on(levels, places(levels, factor))

    def true(self, levels: Sequence[Level], index: int) -> Tensor:
        """The true state at a level, on the path."""
        return noised(self.batch.x0, levels[index], self.path(levels).start(index))

    def said(self, x: Tensor, level: Level, index: int) -> Tensor:
        """The network's x̂_0."""
        return evaluate(self.model, x, level, index, self.plan.setup.clip).x0.double()

    def chain(
        self, levels: Sequence[Level], first: int, x: Tensor, passed: Sequence[int]
    ) -> tuple[Tensor, list[Tensor]]:
        """The end of the chain from a state, and its states at the levels that it passes."""
        noise, kept = self.path(levels), []
        before = self.said(x, levels[first], first)
        for index in range(first, len(levels) - 1):
            if index in passed:
                kept.append(x)
            s, t = levels[index], levels[index + 1]
            a, b, c, after = coefficients("sde", s, t)
            moved = a * x + c * noise(index).to(x)
            now = self.said(moved + b * before, t, index + 1)
            x = moved + b * ((1 - after) * before + after * now)
            before = now
        return x, kept

    def power(self, x: Tensor, level: Level) -> Tensor:
        """Each statistic of states at the end, (B, S)."""
        c = self.plan.modes(x) - level.alpha * self.mean
        return c.square() @ self.members

    def features(self, x: Tensor, level: Level) -> Tensor:
        """The power of the end that a linear prediction and the network expect, (B, 2, S)."""
        modes, coupling = self.plan.modes, Coupling.of(level, self.plan.levels[-1])
        c = modes(x) - level.alpha * self.mean
        said = modes(self.said(x, level, 0)) - self.mean
        linear = torch.empty_like(c)
        for law, rows in zip(self.plan.laws, self.rows, strict=True):
            end = law.map(coupling.prediction * law.gain(level), coupling.state)
            linear[rows] = end(c[rows])
        network = coupling.state * c + coupling.prediction * said
        return torch.stack([linear.square() @ self.members, network.square() @ self.members], 1)
