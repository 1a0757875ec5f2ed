"""One pass over true states: the scores, the calibration and the costs of a network's errors.

At each of some levels every image is noised once and the network is asked once. From that come, by
sample, the scores of `diagnostics.orthogonality`; by group, the reliability diagram and the sums of
`diagnostics.predicted_share`. The costs also need the gradient of a prediction, which takes about
as long again as a call, for each half of the frequencies."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.denoisers import differentiating
from exposure_bias.diagnostics.predicted_share import CostSums, quadrature
from exposure_bias.experiments.state_functions import Family, Predicted, of_halves
from exposure_bias.experiments.value_function import (
    Coupling,
    LinearLaw,
    Measured,
    Modes,
    measured,
    pullbacks,
)
from exposure_bias.jackknife import GROUPS, Array, Groups, sums_by_group
from exposure_bias.running.loop import Turn
from exposure_bias.running.setup import Samples, Setup
from exposure_bias.schedules import Level, Schedule
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.streams import evaluate, noised

BINS = 14
REACH = 3.0  # standard deviations of a prediction that the reliability diagram covers
FARTHEST = 20.0  # σ/α of the first level, in standard deviations of the data
SPARSE = 1024  # samples above which only every second one's gradient is taken at each level


def levels_of(schedule: Schedule, noisiest: Level, count: int, largest: float) -> tuple[Level, ...]:
    """At most `count` levels, even in log σ/α, from where the data begin to show on.

    largest: the data's largest variance along any direction. A schedule of whole timesteps gives
    the nearest distinct ones.
    """
    first = min(noisiest.ratio, FARTHEST * np.sqrt(largest))
    last = schedule.level(0).ratio
    ratios = np.geomspace(first, last, count)
    if schedule.continuous:
        return tuple(schedule.at_ratio(float(r)) for r in ratios)
    found = {round(schedule.index_of_ratio(float(r))) for r in ratios}
    return tuple(schedule.level(i) for i in sorted(found, reverse=True))


@dataclass(frozen=True)
class Pass:
    """What is asked of a network at true states.

    family: the functions that the residual is tested with. costs: whether gradients are taken.
    """

    setup: Setup
    family: Family
    costs: bool

    @property
    def levels(self) -> tuple[Level, ...]:
        """Those that are asked, noisiest first."""
        return self.setup.levels

    @property
    def modes(self) -> Modes:
        """The modes of the states."""
        return self.family.modes

    @property
    def laws(self) -> tuple[LinearLaw, LinearLaw]:
        """Laws for images of even and odd groups."""
        return self.family.laws

    @cached_property
    def centres(self) -> list[Tensor]:
        """What the network says at the mean image, without noise, at each level: (1, D)."""
        setup = self.setup
        model = setup.conditioned(np.array([0]))
        mean = torch.from_numpy(setup.law.mean)[None].to(setup.model.device)
        with setup.model.evaluating():
            return [
                evaluate(model, level.alpha * mean, level, i, setup.clip).x0.double().flatten(1)
                for i, level in enumerate(self.levels)
            ]

    @cached_property
    def step(self) -> Array:
        """The weight of each level in ∫ 2α dh."""
        h = np.array([-np.log(level.ratio) for level in self.levels])
        return 2 * np.array([level.alpha for level in self.levels]) * quadrature(h)

    def deviation(self, law: LinearLaw, level: Level) -> Tensor:
        """The standard deviation of a linear prediction, the mean over each band: (D,) by mode."""
        power = level.alpha**2 * law.variance.square()
        power = power / (level.alpha**2 * law.variance + level.sigma**2)
        members = self.modes.members.to(power)
        pooled = (power @ members) / members.sum(0)
        return pooled.clamp(min=1e-30).sqrt()[torch.from_numpy(self.modes.band)]

    def sums(self) -> Sums:
        """Zero sums of everything."""
        sums, j, levels = Sums(), len(self.modes.names), len(self.levels)
        tests = len(self.family.names)
        sums.add_rows("score", self.setup.n, level=levels, test=tests)
        sums.add_rows("power", self.setup.n)
        sums.add_sum("weight", group=GROUPS, level=levels, test=tests)
        sums.add_sum("bins", group=GROUPS, level=levels, band=j, bin=BINS, moment=3)
        if self.costs:
            p = j + len(self.modes.parts)
            width = 1 + 2 * p + 2 * j
            sums.add_sum("count", group=GROUPS, level=levels)
            sums.add_sum("moments", group=GROUPS, level=levels, first=width, second=width)
            sums.add_sum("contraction", group=GROUPS, level=levels, feature=p, band=j)
            sums.add_sum("control", group=GROUPS, level=levels, end=j, band=j)
        return sums

    def cost_sums(self, sums: Sums) -> CostSums:
        """What the cost map is made of."""
        state = sums.state
        both = state["contraction"], state["control"]
        return CostSums(state["count"], state["moments"], *both, self.step)

    def differentiated(self, batch: Samples, index: int) -> NDArray[np.bool_]:
        """Which samples' gradients are taken at a level."""
        if not self.costs:
            return np.zeros(len(batch.ids), bool)
        if self.setup.n <= SPARSE:
            return np.ones(len(batch.ids), bool)
        return (batch.ids // GROUPS + index) % 2 == 0


def add(plan: Pass, sums: Sums, batch: Samples, turn: Turn) -> None:
    """Add a batch of images to the sums, at all levels."""
    draws, x0 = plan.setup.noise("forward", batch.ids), plan.modes(batch.x0)
    labels = plan.setup.data.labels_of(batch.images)
    mean = torch.from_numpy(plan.setup.law.mean).to(batch.x0)
    power = (batch.x0 - mean).square().flatten(1).sum(1)
    sums.state["power"][batch.rows] = power.cpu().numpy()
    for index, level in enumerate(plan.levels):
        noise = draws(index).double()
        x = noised(batch.x0, level, noise)
        asked = plan.differentiated(batch, index)
        said = torch.empty_like(x0)
        rest, mine = np.flatnonzero(~asked), np.flatnonzero(asked)
        if len(rest):
            said[rest] = plan.modes(_Asked(plan, batch.images[rest], index)(x[rest]))
        if len(mine):
            drawn = _Drawn(x0[mine], plan.modes(noise[mine]), batch.images[mine], x[mine])
            said[mine] = _add_costs(plan, sums, index, drawn)
        found = Predicted(x, level, x0, said, batch.images, labels)
        scores, weights = plan.family.scores(found, plan.centres[index])
        sums.state["score"][batch.rows, index] = scores.cpu().numpy()
        sums.state["weight"][:, index] += sums_by_group(weights, batch.images)
        _add_bins(plan, sums, index, found)
        turn.report(len(batch.ids))


@dataclass(frozen=True)
class _Asked:
    """The network at one level, for some images: states to x̂_0."""

    plan: Pass
    images: NDArray[np.int64]
    index: int

    def __call__(self, x: Tensor) -> Tensor:
        setup = self.plan.setup
        model, level = setup.conditioned(self.images), self.plan.levels[self.index]
        said: Tensor = evaluate(model, x, level, self.index, setup.clip).x0
        return said


@dataclass(frozen=True)
class _Drawn:
    """Samples at one level: x_0 and ε in modes (B, D), images' numbers, states (B, *shape)."""

    x0: Tensor
    noise: Tensor
    images: NDArray[np.int64]
    x: Tensor


def _add_costs(plan: Pass, sums: Sums, index: int, drawn: _Drawn) -> Tensor:
    """Ask the network with gradients, and add what the cost map needs; x̂_0 in modes."""
    level, modes = plan.levels[index], plan.modes
    coupling = Coupling.of(level, plan.levels[-1])
    odd = torch.from_numpy(drawn.images % GROUPS % 2)
    means = torch.stack([law.mean for law in plan.laws])[odd]
    with differentiating():
        asked = _Asked(plan, drawn.images, index)
        said, pulled = pullbacks(modes, coupling, drawn.x, means, level.alpha, asked)
    for law, rows in of_halves(plan.laws, drawn.images):
        found = measured(
            law,
            modes,
            level,
            coupling,
            drawn.x0[rows] - law.mean,
            drawn.noise[rows],
            said[rows] - law.mean,
            [gradient[rows] for gradient in pulled],
        )
        _add_measured(sums, index, drawn.images[rows], found)
    return said


def _add_measured(sums: Sums, index: int, images: NDArray[np.int64], found: Measured) -> None:
    groups, vector = Groups(images), found.vector
    sums.state["count"][:, index] += groups.count
    moments = sums.state["moments"]
    for group in np.unique(groups.group):
        mine = vector[torch.from_numpy(groups.group == group)]
        moments[group, index] += (mine.T @ mine).cpu().numpy()
    for name in ("contraction", "control"):
        sums.state[name][:, index] += sums_by_group(getattr(found, name), images)


def edges() -> Array:
    """The inner edges of the reliability diagram's bins, in standard deviations."""
    return np.linspace(-REACH, REACH, BINS - 1)


def _add_bins(plan: Pass, sums: Sums, index: int, batch: Predicted) -> None:
    """Add predictions and x_0 to bins, mode by mode, in deviations of a linear prediction."""
    inner = torch.from_numpy(edges()).to(batch.x0)
    total = sums.state["bins"][:, index]
    shape = total.shape[:-1]
    for law, rows in of_halves(plan.laws, batch.images):
        scale = plan.deviation(law, batch.level)
        said = ((batch.said[rows] - law.mean) / scale).contiguous()
        true = (batch.x0[rows] - law.mean) / scale
        number = batch.images[rows, None] % GROUPS * shape[1] + plan.modes.band
        number = (number * BINS + torch.bucketize(said, inner).cpu().numpy()).ravel()
        for moment, values in enumerate(_weights(said, true)):
            found = np.bincount(number, values, int(np.prod(shape)))
            total[..., moment] += found.reshape(shape)


def _weights(said: Tensor, true: Tensor) -> Iterator[Array | None]:
    """What is summed in a bin: one, the prediction, x_0."""
    yield None
    yield said.cpu().numpy().ravel()
    yield true.cpu().numpy().ravel()
