"""The chains that a budget is made of: the sampler's own, and those of its limit.

A limit (`experiments.limits`) depends on the network, the data, the seed, the kind (SDE or ODE),
the noisiest level and the clipping. `Limits` keeps one for each, in memory and in a folder, and all
chains that tend to it share it: samplers, numbers of steps and spacings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from exposure_bias.denoisers import Denoiser
from exposure_bias.diagnostics.denoising import MIDDLE
from exposure_bias.errors import InputError
from exposure_bias.experiments.limits import (
    FACTORS,
    FINEST,
    Trapezoid,
    coarser,
    limit_grid,
    places,
)
from exposure_bias.jackknife import GROUPS
from exposure_bias.recording import Recording
from exposure_bias.run import Spacing, Start, Stream
from exposure_bias.running.probes import no_function
from exposure_bias.running.recorder import recorded
from exposure_bias.running.setup import Setup
from exposure_bias.schedules import Level

# Where the network is asked whether it denoises: at so many levels, by a share of the samples.
FORWARD_LEVELS, FORWARD_SHARE = 8, 1 / 4
# Σ d and Σ d² of the states of the data and of the chain.
LIMIT_MOMENTS = 4
PRIOR_DIGITS = 6


@dataclass(frozen=True, eq=False)
class Limit:
    """The limit of one network from one noisiest level.

    grid: the finest levels that a limit has before it is doubled. setup: its chain on the coarsest
    grid. Recordings of its chains are made when they are asked for and kept.
    """

    setup: Setup
    grid: tuple[Level, ...]
    doubled: tuple[Level, ...] | None
    batch_size: int
    folder: Path | None
    kept: dict[int, Recording]

    @classmethod
    def of(
        cls, setup: Setup, batch_size: int, folder: Path | None = None, steps: int = 0
    ) -> "Limit":
        """The limit of a setup's chain.

        steps: take at least so many on the finest grid. Raises InputError where the sampler has no
        known limit, or where the schedule has no room for one.
        """
        kind = setup.sampler.limit
        if kind is None:
            raise InputError(f"{setup.run.sampler} tends to no known limit")
        schedule, start = setup.model.schedule, setup.levels[0]
        whole = not takes_fractions(setup.model, setup)
        largest = float(setup.law.values[0])
        grid = limit_grid(schedule, start, largest, whole, steps)
        finite = sum(level.alpha > 0 for level in grid) - 1
        doubled = None if whole else limit_grid(schedule, start, largest, whole, 2 * finite)
        sampler = Trapezoid(kind, None if setup.run.paired else _prior(setup, grid[0]))
        base = coarser(grid, 1)
        run = replace(
            setup.run,
            kind="limit",
            levels=base,
            sampler=str(sampler),
            exact_teacher=sampler.exact_teacher,
            prior=sampler.prior_scale(grid[0]),
            spacing=Spacing.SAMPLER,
            refine=1,
            streams=(Stream.CHAIN,),
            spectra=(),
            transitions=None,
            options={},
        )
        room = setup.memory // (8 * LIMIT_MOMENTS * int(np.prod(setup.model.shape)))
        most = min(len(base), max(2, room))
        keep = tuple(np.linspace(0, len(base) - 1, most).round().astype(int).tolist())
        own = replace(
            setup,
            run=run,
            sampler=sampler,
            places=places(base, 1),
            keep=keep,
            light=True,
        )
        return cls(own, grid, doubled, batch_size, folder, {})

    @property
    def name(self) -> str:
        """Tells this limit from others: a name for its files."""
        setup = self.setup
        return f"{setup.run.digest}-{setup.first}-{setup.n}"

    @property
    def steps(self) -> int:
        """N, the number of steps on the finest grid."""
        return sum(level.alpha > 0 for level in self.grid) - 1

    @property
    def nodes(self) -> tuple[Level, ...]:
        """The levels at which its chains are recorded."""
        return tuple(self.setup.levels[i] for i in self.setup.kept)

    def chain_setup(self, factor: int, to_clean: bool = False) -> Setup:
        """The setup of the chain of `factor` steps in place of each of the coarsest grid.

        factor: 1, 2, 4, or 8 of a limit that can be doubled. to_clean: with a last step to the
        clean end, which is the prediction there.
        """
        finest = self.grid if factor <= FINEST else self.doubled
        if finest is None:
            raise InputError("a limit at whole timesteps cannot be doubled")
        levels = coarser(finest, factor, max(factor, FINEST))
        at = places(levels, factor)
        keep = tuple(int(at[i]) for i in self.setup.kept)
        if to_clean:
            levels = (*levels, self.setup.model.schedule.clean)
            at, keep = np.append(at, len(levels) - 1), (*keep, len(levels) - 1)
        run = replace(self.setup.run, levels=levels, refine=factor)
        return replace(self.setup, run=run, places=at, keep=keep)

    def chain(self, factor: int) -> Recording:
        """The recording of that chain."""
        if factor not in self.kept:
            path = None
            if self.folder is not None:
                path = self.folder / f"limit-{self.setup.sampler.limit}-{self.name}-{factor}.nc"
            self.kept[factor] = recorded(self.chain_setup(factor), (), self.batch_size, path)
        return self.kept[factor]

    def chains(self, doubled: bool = False) -> list[Recording]:
        """Those of its three grids, the coarsest first. doubled: of grids twice as fine."""
        return [self.chain(2 * factor if doubled else factor) for factor in FACTORS]


def _prior(setup: Setup, start: Level) -> float:
    """The standard deviation of a chain's start from noise, in the coordinates of a level."""
    scale = setup.sampler.prior_scale(setup.levels[0]) * start.sigma / setup.levels[0].sigma
    return round(scale, PRIOR_DIGITS)


class Limits:
    """The limits of networks, each computed once and kept.

    folder: where they are kept, None keeps them in memory alone. steps: the least number of steps
    on their finest grids.
    """

    def __init__(self, batch_size: int = 256, folder: Path | None = None, steps: int = 0) -> None:
        self.batch_size, self.folder, self.steps = batch_size, folder, steps
        self._known: dict[str, Limit] = {}
        if folder is not None:
            refuse_earlier_rules(folder)

    def of(self, setup: Setup) -> Limit:
        """The limit that a setup's chain tends to, of the same samples.

        Raises InputError where it has none.
        """
        limit = Limit.of(setup, self.batch_size, self.folder, self.steps)
        return self._known.setdefault(f"{limit.setup.sampler}-{limit.name}", limit)


def refuse_earlier_rules(folder: Path) -> None:
    """Raise InputError where a folder holds limits that earlier versions refined from a chain."""
    old = sorted(p.name for k in (1, 2, 4) for p in folder.glob(f"*-{k}-[0-9]*.nc"))
    old = [name for name in old if not name.startswith("limit-")]
    if old:
        raise InputError(
            f"{folder} holds a budget of an earlier version ({old[0]}), whose limit had another"
            " rule: choose another folder, or remove it"
        )


class Bench:
    """The chains of a budget, each recorded once, kept in `folder` where there is one.

    recording: one of this setup, where there is one already. limits: benches of one model and data,
    sampled differently, share them. limit_n: how many of the samples walk to the limit, by default
    all.
    """

    def __init__(
        self,
        setup: Setup,
        batch_size: int,
        folder: Path | None = None,
        recording: Recording | None = None,
        limits: Limits | None = None,
        limit_n: int | None = None,
    ) -> None:
        self.setup, self.batch_size, self.folder = setup, batch_size, folder
        self.limits = Limits(batch_size, folder) if limits is None else limits
        self.limit_n = setup.n if limit_n is None else min(limit_n, setup.n)
        self._given = recording
        self._chains: dict[Any, Recording] = {}

    @cached_property
    def paired(self) -> Setup:
        """The setup whose chains start on the data."""
        run = self.setup.run
        return self.setup if run.paired else replace(self.setup, run=replace(run, start=Start.DATA))

    @cached_property
    def forward(self) -> Recording:
        """The forward stream at levels of its own, of a part of the samples.

        It tells whether this is a denoiser of these data, whatever the chain's levels are.
        """
        levels = asked_levels(self.paired)
        run = replace(
            self.paired.run,
            kind="forward",
            levels=(*levels, self.setup.model.schedule.clean),
            streams=(Stream.FORWARD,),
            spacing=Spacing.SAMPLER,
            spectra=(),
            transitions=None,
            options={},
        )
        n = min(self.setup.n, max(2 * GROUPS, round(FORWARD_SHARE * self.setup.n)))
        places = np.arange(len(levels) + 1)
        setup = replace(self.paired, run=run, n=n, places=places, keep=None, light=False)
        return self._recorded(setup, "forward")

    @cached_property
    def no_function(self) -> str:
        """How the network is no function of its state, or ""."""
        levels = self.forward.run.levels[:-1]
        return no_function(self.paired, levels[len(levels) // 2], levels[0])

    def limit(self, setup: Setup) -> Limit | None:
        """The limit of a setup's chain, None where its sampler's is not known."""
        if setup.sampler.limit is None:
            return None
        return self.limits.of(replace(setup, n=self.limit_n))

    def few(self, setup: Setup, name: str) -> Recording:
        """The sampler's own chain of the samples that walk to the limit."""
        if self.limit_n == setup.n:
            return self.chain(setup, name)
        return self.chain(replace(setup, n=self.limit_n), f"{name}-few")

    def chain(self, setup: Setup, name: str) -> Recording:
        """The sampler's own chain."""
        key = (setup.run.levels, setup.run.start, setup.first, setup.n)
        given = self._given
        if given is not None and (given.run.levels, given.run.start, 0, given.n) == key:
            return given
        if key not in self._chains:
            self._chains[key] = self._recorded(replace(setup, light=True), name)
        return self._chains[key]

    def _recorded(self, setup: Setup, name: str, statistics: Sequence[Any] = ()) -> Recording:
        path = None if self.folder is None else self.folder / f"{name}.nc"
        return recorded(setup, statistics, self.batch_size, path)


def asked_levels(setup: Setup) -> tuple[Level, ...]:
    """Levels where signal and noise are alike, even in log σ/α, noisiest first.

    A schedule of whole timesteps gives the nearest distinct ones.
    """
    schedule, spread = setup.model.schedule, np.sqrt(setup.law.spread)
    # A little inside, so that a whole timestep nearby is inside as well.
    least, most = 1.1 * MIDDLE[0], 1 - 1.1 * (1 - MIDDLE[1])
    ends = [float(spread * sqrt(1 / share - 1)) for share in (least, most)]
    ratios = np.geomspace(ends[0], ends[1], FORWARD_LEVELS)
    known = schedule.level(0).ratio, schedule.level(len(schedule) - 1).ratio
    ratios = np.clip(ratios, known[0], min(known[1], 1e6))
    if schedule.continuous:
        return tuple(schedule.at_ratio(float(r)) for r in np.unique(ratios)[::-1])
    found = {round(schedule.index_of_ratio(float(r))) for r in ratios}
    return tuple(schedule.level(i) for i in sorted(found, reverse=True))


def takes_fractions(model: Denoiser, setup: Setup) -> bool:
    """Whether a network answers between whole timesteps; found by asking it once."""
    import torch

    x = torch.zeros(1, *model.shape, dtype=torch.float64, device=model.device)
    with model.evaluating():
        return setup.conditioned(np.array([0])).takes_fractions(x)
