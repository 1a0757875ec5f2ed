"""One pass over true states: the scores, the calibration and the costs of a network's errors.

At each of some levels every image is noised once and the network is asked once. From that come, by
sample, the scores of `diagnostics.orthogonality`; by group, the reliability diagram and the sums of
`diagnostics.predicted_share`. The costs also need the gradient of a prediction, which takes about
as long again as a call, for each half of the frequencies."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.denoisers import differentiating
from exposure_bias.diagnostics.predicted_share import CostSums, quadrature
from exposure_bias.errors import InputError
from exposure_bias.experiments.value_function import (
    Coupling,
    LinearLaw,
    Measured,
    Modes,
    laws_of_halves,
    measured,
    pullbacks,
)
from exposure_bias.jackknife import GROUPS, Array, Groups, sums_by_group
from exposure_bias.running.loop import Turn
from exposure_bias.running.setup import Samples, Setup
from exposure_bias.schedules import Level, Schedule
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.streams import evaluate, noised

DIRECTIONS = 4
CLASSES = 20
BINS = 14
REACH = 3.0  # standard deviations of a prediction that the reliability diagram covers
FARTHEST = 20.0  # σ/α of the first level, in standard deviations of the data
SPARSE = 1024  # samples from which on every second one's gradient is taken at each level

# g(x, level, f): a function of true states (B, *shape) and of the network's x̂_0 there.
StateFunction = Callable[[Tensor, Level, Tensor], Tensor]


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

    functions: a stranger's. costs: whether gradients are taken.
    """

    setup: Setup
    functions: Mapping[str, StateFunction]
    costs: bool

    @property
    def levels(self) -> tuple[Level, ...]:
        """Those that are asked, noisiest first."""
        return self.setup.levels

    @cached_property
    def modes(self) -> Modes:
        """The modes of the states."""
        return Modes.of(self.setup.model.shape)

    @cached_property
    def laws(self) -> tuple[LinearLaw, LinearLaw]:
        """Laws for images of even and odd groups."""
        both = laws_of_halves(self.setup.data, self.modes)
        device = self.setup.model.device
        return both[0].to(device), both[1].to(device)

    @cached_property
    def blocks(self) -> dict[str, NDArray[np.int64]]:
        """Parts of a state: the halves of its last axis, or the quarters of its last two."""
        channels, *space = self.setup.model.shape
        if not space:
            return {}
        place = np.arange(int(np.prod(self.setup.model.shape))).reshape(channels, *space)
        names = [("left", "right")] if len(space) == 1 else [("top", "bottom"), ("left", "right")]
        found = {"": place}
        for axis, ends in enumerate(names, start=-len(names)):
            found = {
                f"{name} {end}".strip(): half
                for name, part in found.items()
                for end, half in zip(ends, np.array_split(part, 2, axis), strict=True)
            }
        return {name: part.ravel() for name, part in found.items() if part.size}

    @cached_property
    def classes(self) -> list[int]:
        """The classes of a conditional model that are asked apart, at most 20."""
        labels = self.setup.data.labels
        if self.setup.model.classes is None or labels is None:
            return []
        return [int(c) for c in np.unique(labels)[:CLASSES]]

    @cached_property
    def directions(self) -> int:
        """How many leading directions are asked."""
        leading = self.laws[0].leading
        return 0 if leading is None else min(DIRECTIONS, len(leading))

    @cached_property
    def tests(self) -> list[str]:
        """The names of the functions, in the order of the scores."""
        bands = self.modes.names if len(self.modes.names) > 1 else ()
        return [
            "prediction",
            "noise",
            "odd power",
            "brightness",
            *self.blocks,
            *bands,
            *(f"direction {k + 1}" for k in range(self.directions)),
            *(f"direction {k + 1}, mean" for k in range(self.directions)),
            *(f"class {c}" for c in self.classes),
            *self.functions,
        ]

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
        tests = len(self.tests)
        sums.add_rows("score", self.setup.n, level=levels, test=tests)
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
        return (batch.images // GROUPS + index) % 2 == 0


def add(plan: Pass, sums: Sums, batch: Samples, turn: Turn) -> None:
    """Add a batch of images to the sums, at all levels."""
    setup = plan.setup
    model, draws = setup.conditioned(batch.images), setup.noise("forward", batch.ids)
    x0 = plan.modes(batch.x0)
    for index, level in enumerate(plan.levels):
        noise = draws(index).double()
        x = noised(batch.x0, level, noise)
        asked = plan.differentiated(batch, index)
        said = torch.empty_like(x0)
        state = _Sampled(plan, batch, index, x0, plan.modes(noise), said)
        if not asked.all():
            rest = np.flatnonzero(~asked)
            some = setup.conditioned(batch.images[rest])
            output = evaluate(some, x[rest], level, index, setup.clip)
            said[rest] = plan.modes(output.x0)
        if asked.any():
            _add_costs(state, sums, x, np.flatnonzero(asked))
        _add_scores(state, sums, x, model, noise)
        _add_bins(state, sums)
        turn.report(len(batch.ids))


@dataclass(frozen=True)
class _Sampled:
    """A batch at one level: x_0, ε and x̂_0 in modes, (B, D)."""

    plan: Pass
    batch: Samples
    index: int
    x0: Tensor
    noise: Tensor
    said: Tensor

    @property
    def level(self) -> Level:
        return self.plan.levels[self.index]

    def halves(self, rows: NDArray[np.int64]) -> Iterator[tuple[LinearLaw, NDArray[np.int64]]]:
        """The rows of even and of odd groups, with their law."""
        odd = self.batch.images[rows] % GROUPS % 2
        for half, law in enumerate(self.plan.laws):
            mine = rows[odd == half]
            if len(mine):
                yield law, mine

    def means(self, rows: NDArray[np.int64]) -> Tensor:
        """The mean of each row's law, (B, D)."""
        odd = self.batch.images[rows] % GROUPS % 2
        return torch.stack([law.mean for law in self.plan.laws])[torch.from_numpy(odd)]


def _add_costs(state: _Sampled, sums: Sums, x: Tensor, rows: NDArray[np.int64]) -> None:
    """Ask the network with gradients, and add what the cost map needs."""
    plan, level, setup = state.plan, state.level, state.plan.setup
    images = state.batch.images[rows]
    model, coupling = setup.conditioned(images), Coupling.of(level, plan.levels[-1])
    clip = setup.clip

    def predicted(states: Tensor) -> Tensor:
        output: Tensor = evaluate(model, states, level, state.index, clip).x0
        return output

    means = state.means(rows)
    with differentiating():
        said, pulled = pullbacks(plan.modes, coupling, x[rows], means, level.alpha, predicted)
    state.said[rows] = said
    at = {int(row): k for k, row in enumerate(rows)}
    for law, mine in state.halves(rows):
        places = [at[int(row)] for row in mine]
        found = measured(
            law,
            plan.modes,
            level,
            coupling,
            state.x0[mine] - law.mean,
            state.noise[mine],
            said[places] - law.mean,
            [gradient[places] for gradient in pulled],
        )
        _add_measured(sums, state.index, state.batch.images[mine], found)


def _add_measured(sums: Sums, index: int, images: NDArray[np.int64], found: Measured) -> None:
    vector = found.vector
    groups = Groups(images)
    sums.state["count"][:, index] += groups.count
    outer = vector[:, :, None] * vector[:, None, :]
    sums.state["moments"][:, index] += sums_by_group(outer, images)
    for name in ("contraction", "control"):
        sums.state[name][:, index] += sums_by_group(getattr(found, name), images)


def _add_scores(state: _Sampled, sums: Sums, x: Tensor, model: Any, noise: Tensor) -> None:
    """Add every function's score and weight."""
    batch, index = state.batch, state.index
    scores, weights = [], []
    for score, weight in _pairs(state, x):
        scores.append(score)
        weights.append(weight)
    both = torch.stack(scores, 1), torch.stack(weights, 1)
    sums.state["score"][batch.rows, index] = both[0].cpu().numpy()
    sums.state["weight"][:, index] += sums_by_group(both[1], batch.images)


def _pairs(state: _Sampled, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """r · g and g · g, (B,) each, in the order of `Pass.tests`."""
    plan, level = state.plan, state.level
    modes, centre = plan.modes, plan.centres[state.index]
    f = modes.inverse(state.said).flatten(1)
    r = modes.inverse(state.x0 - state.said).flatten(1)
    g = f - centre
    product, square = r * g, g.square()
    yield product.sum(1), square.sum(1)
    noise = (x.flatten(1) - level.alpha * f) / level.sigma
    yield (r * noise).sum(1), noise.square().sum(1)
    power = square.mean(1)
    yield product.sum(1) * power, square.sum(1) * power.square()
    yield r.sum(1), torch.full_like(power, r.shape[1])
    for part in plan.blocks.values():
        yield product[:, part].sum(1), square[:, part].sum(1)
    if len(modes.names) > 1:
        c = modes(g)
        both = modes.by_band((state.x0 - state.said) * c), modes.by_band(c.square())
        yield from zip(both[0].T, both[1].T, strict=True)
    yield from _directional(state, r, g)
    labels = plan.setup.data.labels_of(state.batch.images)
    for label in plan.classes:
        mine = torch.from_numpy(labels == label).to(r)
        yield product.sum(1) * mine, square.sum(1) * mine
    for name, function in plan.functions.items():
        own = answer(name, function, x, level, f.view(x.shape)).flatten(1)
        yield (r * own).sum(1), own.square().sum(1)


def _directional(state: _Sampled, r: Tensor, g: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The scores along leading directions of the other half's images, and of their means."""
    count, modes = state.plan.directions, state.plan.modes
    if not count:
        return
    along = [torch.zeros(len(r), count, dtype=r.dtype, device=r.device) for _ in range(2)]
    residual, g_modes = state.x0 - state.said, modes(g)
    for law, rows in state.halves(np.arange(len(r))):
        leading = law.leading
        assert leading is not None
        for kept, values in zip(along, (residual, g_modes), strict=True):
            kept[rows] = values[rows] @ leading[:count].T
    for k in range(count):
        yield along[0][:, k] * along[1][:, k], along[1][:, k].square()
    for k in range(count):
        yield along[0][:, k], torch.ones(len(r), dtype=r.dtype, device=r.device)


def answer(name: str, function: StateFunction, x: Tensor, level: Level, f: Tensor) -> Tensor:
    """What a stranger's function says, as float64.

    Raises InputError for another shape, numbers that are not finite, and a function that does not
    depend on the state alone: given the same states in another order it must say the same.
    """
    found = _asked(name, function, x, level, f)
    again = _asked(name, function, x.flip(0), level, f.flip(0)).flip(0)
    if not torch.allclose(found, again, rtol=1e-4, atol=1e-6 * float(found.abs().max())):
        raise InputError(
            f"the function {name!r} says something else when the same states come in another order:"
            " it must depend on each state (and on f there) alone, not on the images x_0, their"
            " order or random numbers"
        )
    return found


def _asked(name: str, function: StateFunction, x: Tensor, level: Level, f: Tensor) -> Tensor:
    found = torch.as_tensor(function(x.clone(), level, f.clone()))
    if found.shape != x.shape:
        raise InputError(
            f"the function {name!r} returned shape {tuple(found.shape)} where that of the states,"
            f" {tuple(x.shape)}, was expected"
        )
    if not torch.isfinite(found).all():
        raise InputError(f"the function {name!r} returned NaN or Inf")
    return found.detach().to(x)


def edges() -> Array:
    """The inner edges of the reliability diagram's bins, in standard deviations."""
    return np.linspace(-REACH, REACH, BINS - 1)


def _add_bins(state: _Sampled, sums: Sums) -> None:
    """Add predictions and x_0 to bins, mode by mode, in deviations of a linear prediction."""
    plan, level = state.plan, state.level
    inner = torch.from_numpy(edges()).to(state.x0)
    total = sums.state["bins"][:, state.index]
    shape = total.shape[:-1]
    for law, rows in state.halves(np.arange(len(state.x0))):
        scale = plan.deviation(law, level)
        said = ((state.said[rows] - law.mean) / scale).contiguous()
        true = (state.x0[rows] - law.mean) / scale
        group = state.batch.images[rows] % GROUPS
        band = plan.modes.band
        flat = (group[:, None] * shape[1] + band) * BINS + torch.bucketize(
            said, inner
        ).cpu().numpy()
        for moment, values in enumerate((None, said, true)):
            weights = None if values is None else values.cpu().numpy().ravel()
            found = np.bincount(flat.ravel(), weights, int(np.prod(shape)))
            total[..., moment] += found.reshape(shape)
