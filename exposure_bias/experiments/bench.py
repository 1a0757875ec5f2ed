"""The chains that a budget is made of: the sampler's own, and refined ones that tend to its limit.

A limit is extrapolated from chains with several steps in place of each, on the same Brownian paths;
what it is made of and how its order is checked is a `Scheme` (`experiments.budget`, *Order*)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure_bias.denoisers import Denoiser, FractionalTimestep
from exposure_bias.errors import InputError
from exposure_bias.experiments.limits import CorrectedSDE, Residual, ode, residual_power
from exposure_bias.jackknife import GROUPS
from exposure_bias.recording import Recording
from exposure_bias.run import Start, Stream
from exposure_bias.running.recorder import recorded
from exposure_bias.running.setup import Setup
from exposure_bias.samplers import OneStep
from exposure_bias.schedules import Level

FORWARD_LEVELS, FORWARD_SHARE = 12, 1 / 6


@dataclass(frozen=True)
class Scheme:
    """How a limit is extrapolated from refinements.

    factors: those that it is made of; weights: theirs. check: the further one whose chain tells the
    order. order: by what the differences should fall. curvature: the extrapolation's error, in
    units of what does not fall so. share: of the samples, at most, that walk the further chain;
    calls: what that may cost.
    """

    factors: tuple[int, int]
    weights: tuple[float, float]
    check: int
    order: float
    curvature: float
    share: float

    @property
    def ladder(self) -> tuple[int, int, int]:
        """All factors, coarsest first."""
        a, b, c = sorted((*self.factors, self.check))
        return a, b, c


# Errors of the SDE's chain are A/k + B/k², those of the ODE's A/k² + B/k³.
SDE = Scheme((2, 4), (-1.0, 2.0), 1, 2.0, 1 / 3, 1 / 8)
ODE = Scheme((1, 2), (-1 / 3, 4 / 3), 4, 4.0, 0.38, 1 / 16)


class Bench:
    """The chains of a budget, each recorded once, kept in `folder` where there is one.

    recording: one of this setup, with the residual of its forward stream, where there is one
    already. limits: chains of the limit by what they are; benches of one model and data, sampled
    differently, share it.
    """

    def __init__(
        self,
        setup: Setup,
        batch_size: int,
        folder: Path | None = None,
        recording: Recording | None = None,
        limits: dict[Any, Recording] | None = None,
    ) -> None:
        self.setup, self.batch_size, self.folder = setup, batch_size, folder
        self._given = recording
        self._limits: dict[Any, Recording] = {} if limits is None else limits
        self._chains: dict[Any, Recording] = {}

    @cached_property
    def scheme(self) -> Scheme | None:
        """How the sampler's limit is reached; None where it is not known."""
        return {"sde": SDE, "ode": ODE}.get(self.setup.sampler.limit or "")

    @cached_property
    def paired(self) -> Setup:
        """The setup whose chains start on the data."""
        run = self.setup.run
        return self.setup if run.paired else replace(self.setup, run=replace(run, start=Start.DATA))

    @cached_property
    def forward(self) -> Recording:
        """The forward stream at a few levels, of a part of the samples.

        It gives V, and whether this is a denoiser.
        """
        if self._given is not None:
            return self._given
        run = replace(self.paired.run, kind="forward", streams=(Stream.FORWARD,))
        noisy = [i for i, level in enumerate(run.levels[:-1]) if level.sigma > 0]
        keep = [
            noisy[i]
            for i in np.unique(np.linspace(0, len(noisy) - 1, FORWARD_LEVELS).round().astype(int))
        ]
        n = min(self.setup.n, max(2 * GROUPS, round(FORWARD_SHARE * self.setup.n)))
        setup = replace(self.paired, run=run, n=n, keep=tuple(keep))
        return self._recorded(setup, "forward", (residual_power,))

    @cached_property
    def fractional(self) -> bool:
        """Whether the network takes timesteps between whole ones."""
        return takes_fractions(self.setup.model, self.setup)

    def chain(self, setup: Setup, name: str) -> Recording:
        """The sampler's own chain."""
        key = (setup.run.levels, setup.run.start)
        if self._given is not None and (self._given.run.levels, self._given.run.start) == key:
            return self._given
        if key not in self._chains:
            self._chains[key] = self._recorded(replace(setup, light=True), name)
        return self._chains[key]

    def limit(self, setup: Setup, factor: int, rows: slice, name: str) -> Recording:
        """The limit's chain of `factor` steps in place of each, for some of the samples.

        Up to the last noisy level.
        """
        key = (setup.sampler.limit, setup.levels, factor, rows.start, rows.stop)
        if key not in self._limits:
            self._limits[key] = self._recorded(
                self.limit_setup(setup, factor, rows), f"{name}-{factor}-{rows.start}"
            )
        return self._limits[key]

    def limit_setup(self, setup: Setup, factor: int, rows: slice, to_clean: bool = False) -> Setup:
        """The setup of the limit's chain; to_clean: with the last step, as it is.

        Raises InputError where there are no levels for it."""
        finer, places = self._refined(setup, factor)
        end = len(finer) if to_clean else int(places[-2]) + 1
        sampler = self._limit_sampler(setup)
        run = replace(
            setup.run,
            kind="limit",
            levels=finer[:end],
            sampler=str(sampler),
            exact_teacher=sampler.exact_teacher,
            refine=factor,
            streams=(Stream.CHAIN,),
            spectra=(),
            transitions=None,
            options={},
        )
        places = places[places < end]
        keep = tuple(int(places[i]) for i in setup.kept if i < len(places))
        chosen = setup.ids[rows]
        first, n = int(chosen[0]), len(chosen)
        return replace(
            setup, run=run, sampler=sampler, places=places, keep=keep, light=True, first=first, n=n
        )

    def check_levels(self, setup: Setup) -> None:
        """Raise InputError where the schedule has too few levels for the limit's chains."""
        for factor in self.scheme.ladder if self.scheme else ():
            self._refined(setup, factor)

    def _refined(self, setup: Setup, factor: int) -> tuple[tuple[Level, ...], NDArray[np.int64]]:
        try:
            return setup.model.schedule.refined(setup.levels, factor, self.fractional)
        except InputError as error:
            most = len(setup.model.schedule) // max(self.scheme.ladder if self.scheme else (1,))
            raise InputError(
                f"{error}, and this network answers at whole timesteps only: a budget needs at most"
                f" {most} steps here"
            ) from error

    def _limit_sampler(self, setup: Setup) -> OneStep:
        if self.scheme is SDE:
            return CorrectedSDE(self._residual, setup.model.shape)
        return ode(setup.model.schedule, setup.levels, whole=not self.fractional)

    @cached_property
    def _residual(self) -> Residual:
        return Residual.of(self.forward)

    def _recorded(self, setup: Setup, name: str, statistics: Sequence[Any] = ()) -> Recording:
        path = None if self.folder is None else self.folder / f"{name}.nc"
        return recorded(setup, statistics, self.batch_size, path)


def takes_fractions(model: Denoiser, setup: Setup) -> bool:
    """Whether a network answers between whole timesteps; found by asking it once."""
    import torch

    schedule = model.schedule
    if schedule.continuous:
        return True
    if len(schedule) < 2:
        return False
    level = schedule.level(len(schedule) // 2 - 0.5)
    x = torch.zeros(1, *model.shape, dtype=torch.float64, device=model.device)
    try:
        with model.evaluating():
            setup.conditioned(np.array([0]))(x, level)
    except FractionalTimestep:
        return False
    return True


def check_samples(n: int, steps: int, scheme: Scheme) -> int:
    """How many samples walk the chain that only the order needs.

    A share, and no more calls than five a sample.
    """
    share = min(scheme.share, 5 / (steps * scheme.check))
    return min(n, max(2 * GROUPS, round(share * n)))
