"""The frames that a drift budget is made of: drawn free, from true contexts, and by the limit.

For every sequence and frame k there is one Brownian path, which all cuts read:

    free          the sampler's chain from noise, on the frames that it drew before
    forced        the sampler's chain from noise, on the true frames
    limit 4, 2    the limit from noise, on the true frames, on the grids of N/4 and N/2 steps
    start 4       the limit from α_T x_k + σ_T ε, on the true frames, on the grid of N/4 steps
    half 4, 2, 1  the limits of every other block of 16 sequences, on all three grids

The finest grid only corrects what the two others say, and on one path that correction varies
little: half of the sequences suffice for it. With `free_limit` there are the limit's own
free-running frames:

    free 4, 2, free half 1    from noise, each on the frames that it drew before
    free start 4              from α_T x̂_k + σ_T ε, where x̂_k is a draw from noise of another path

At the first frame all contexts are true, so that free and forced are one.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.contexts import Context
from exposure_bias.data.sequences import Sequences
from exposure_bias.denoisers import Denoiser, NotFinite
from exposure_bias.errors import InputError
from exposure_bias.experiments.drift_limit import Grid, walk
from exposure_bias.experiments.drift_sums import (
    EXAMPLES,
    SHOWN,
    BandMatrix,
    Layout,
    rows_of,
)
from exposure_bias.jackknife import GROUPS, Groups
from exposure_bias.paths import Draws, Paths
from exposure_bias.running.loop import Turn
from exposure_bias.running.setup import Setup
from exposure_bias.schedules import Level
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.streams import evaluate, noised, prior, rollout

OWN = ("data", "free", "forced")
LIMIT = ("limit 4", "limit 2", "start 4", "half 4", "half 2", "half 1")
NOISE, ONE_CALL = "noise", "one call"
STARTS = (NOISE, ONE_CALL)  # what a chain of drift begins at
FREE_LIMIT = ("free 4", "free 2", "free start 4", "free half 4", "free half 2", "free half 1")
# Those that are drawn, the forced cut that each is at the first frame, and the grid's factor.
FREE_OF = (
    ("free 4", "limit 4", 4),
    ("free 2", "limit 2", 2),
    ("free half 1", "half 1", 1),
    ("free start 4", "start 4", 4),
)
RUNNING = ("free", *FREE_LIMIT)  # the cuts that run on their own frames
Frames = deque[Tensor]
Function = Callable[[Context, int], Any]


@dataclass(frozen=True, eq=False)
class Roll:
    """Which frames are drawn of which sequences, and what is kept of them.

    grid: the limit's, None where the sampler has none. centre: the data's mean frame, (D,).
    function: draws a frame in the place of the sampler's chain. block: how many sequences one of
    the setup's samples stands for. start: what chains from noise begin at, one of STARTS.
    """

    setup: Setup
    sequences: Sequences
    layout: Layout
    grid: Grid | None
    free_limit: bool
    centre: NDArray[np.float64]
    function: Function | None = None
    block: int = 1
    count: int = 0
    start: str = NOISE

    @property
    def ids(self) -> NDArray[np.int64]:
        """The numbers of all sequences."""
        return np.arange(self.count or self.setup.n)

    @property
    def calls(self) -> float:
        """How often the network is asked for a frame of a sequence."""
        once = int(self.start == ONE_CALL)
        own = 2 * (self.setup.run.steps + once)
        if self.grid is None:
            return own
        four, two, one = (self.grid.calls(factor) + once for factor in (4, 2, 1))
        forced = 2 * four + two + one / 2 - once
        return own + forced + (self.free_limit and 3 * four + two + one / 2 - once)

    @cached_property
    def bands(self) -> BandMatrix | None:
        """The frequency bands of frames with axes of space."""
        bands = self.layout.bands
        return None if bands is None else BandMatrix(bands, self.layout.shape[0])


def add(roll: Roll, sums: Sums, rows: slice, turn: Turn) -> None:
    """Draw every frame of a batch of sequences, and add what it shows to the sums."""
    if roll.function is None:
        _Batch(roll, sums, roll.ids[rows], turn).run()
        return
    # A function may draw its noise for all of its sequences at once, so that it always gets the
    # same ones together.
    for block in range(rows.start, rows.stop):
        ids = roll.ids[block * roll.block : (block + 1) * roll.block]
        _Batch(roll, sums, ids, turn).run()


class _Batch:
    """One batch of sequences, frame by frame. It holds no frame beyond those that lags need."""

    def __init__(self, roll: Roll, sums: Sums, ids: NDArray[np.int64], turn: Turn) -> None:
        self.roll, self.sums, self.ids, self.turn = roll, sums, ids, turn
        self.setup, self.layout = roll.setup, roll.layout
        self.device = roll.setup.model.device
        self.half = torch.from_numpy(np.flatnonzero((self.ids // GROUPS) % 2 == 0))
        self.centre = torch.from_numpy(roll.centre).to(self.device)
        self.pixels = torch.from_numpy(roll.layout.pixels).to(self.device)
        self.groups = {False: Groups(self.ids), True: Groups(self.ids[self.half.numpy()])}
        self.reach = max(roll.layout.lags, roll.layout.context)

    def run(self) -> None:
        true: Frames = deque(maxlen=self.reach)
        for index in range(self.layout.context):
            true.append(self._true(index))
            self._add_early(index, true[-1])
        # What each free cut drew before; a cut that failed is no longer here.
        own = {cut: true.copy() for cut in self.layout.free}
        for number in range(self.layout.frames):
            frame = _Frame(self, number, true, own)
            for cut, drawn in frame.draw():
                self._add(cut, number, drawn, own.get(cut, true))
            true.append(frame.target)
            for cut in list(own):
                if cut in frame.drawn:
                    own[cut].append(frame.drawn[cut])
                else:
                    del own[cut]

    def _true(self, index: int) -> Tensor:
        frame = self.roll.sequences.frame(self.ids, index)
        return torch.from_numpy(frame).to(self.device, torch.float64)

    def rows(self, cut: str) -> Tensor | slice:
        """The sequences of this batch that a cut has."""
        return self.half if "half" in cut else slice(None)

    def _add(self, cut: str, number: int, drawn: Tensor, before: Frames) -> None:
        rows = self.rows(cut)
        d = drawn.flatten(1) - self.centre
        # Half cuts that run free keep frames of their own half; those of others are picked.
        recent = [f if len(f) == len(drawn) else f[rows] for f in reversed(before)]
        change = (drawn - recent[0]).square().flatten(1).sum(1)
        others = [f.flatten(1) - self.centre for f in recent]
        values = rows_of(self.layout, d, change, others, self.roll.bands)
        groups, row = self.groups["half" in cut], self.layout.cuts.index(cut)
        state = self.sums.state
        state["count"][:, row, number] += groups.count
        state["rows"][:, row, number] += groups.sum(values.cpu().numpy())
        state["pixels"][:, row, number] += groups.sum(d[:, self.pixels].cpu().numpy())
        if cut in SHOWN and number in self.layout.shown:
            place = SHOWN.index(cut), self.layout.shown.index(number)
            for at in np.flatnonzero(self.ids < EXAMPLES):
                kept = state["shown"][place[0], self.ids[at], place[1]]
                kept += drawn[at].flatten().cpu().numpy()

    def _add_early(self, index: int, frame: Tensor) -> None:
        d = frame.flatten(1) - self.centre
        groups, state = self.groups[False], self.sums.state
        state["early_square"][:, index] += groups.sum(d.square().sum(1).cpu().numpy())
        state["early_pixels"][:, index] += groups.sum(d[:, self.pixels].cpu().numpy())


class _Frame:
    """One frame of a batch: what each cut draws."""

    def __init__(self, batch: _Batch, number: int, true: Frames, own: dict[str, Frames]) -> None:
        self.batch, self.number, self.true, self.own = batch, number, true, own
        self.setup, self.grid = batch.setup, batch.roll.grid
        self.context = batch.layout.context
        self.index = self.context + number
        self.target = batch._true(self.index)
        self.drawn: dict[str, Tensor] = {}
        self.extra = {
            name: torch.from_numpy(values).to(batch.device)
            for name, values in batch.roll.sequences.extra(
                batch.ids, self.index - self.context, self.index
            ).items()
        }

    def draw(self) -> Iterator[tuple[str, Tensor]]:
        """Every cut with its frames, (B, *shape); what a network failed at is left out."""
        yield "data", self.target
        yield from self._attempted("forced", partial(self._chain, self.true))
        yield from self._attempted("free", self._free)
        if self.grid is None:
            return
        yield from self._limits()
        if self.batch.roll.free_limit:
            yield from self._free_limits()

    def _attempted(
        self, cut: str, draw: Callable[[], Tensor | None]
    ) -> Iterator[tuple[str, Tensor]]:
        """A cut's frames, or nothing where the network answers NaN."""
        try:
            drawn = draw()
        except NotFinite:
            return
        if drawn is not None and len(drawn) and bool(torch.isfinite(drawn.sum())):
            self.drawn[cut] = drawn
            yield cut, drawn

    def _free(self) -> Tensor | None:
        if "free" not in self.own:
            return None
        if self.number == 0:
            return self.drawn.get("forced")
        return self._chain(self.own["free"])

    def _chain(self, frames: Frames) -> Tensor:
        """The end of the sampler's chain from noise, given the frames before."""
        setup, run = self.setup, self.setup.run
        if self.batch.roll.function is not None:
            self.batch.turn.report(1)
            context = self._context(frames, slice(None))
            seed = seed_of(run.seed, self.index, int(self.batch.ids[0]))
            return drawn_by(self.batch.roll.function, context, seed, setup.model.shape)
        path = self._paths().on(run.levels, setup.places)
        noise, model = path.start(0), self._given(frames)
        x = prior(run.levels[0], noise, setup.sampler)
        x = self._begun(model, x, run.levels[0], noise)
        self.batch.turn.report(len(x) * run.steps)
        return rollout(model, x, run.levels, setup.sampler, path, run.clip)

    def _limits(self) -> Iterator[tuple[str, Tensor]]:
        """The limit of all sequences on two grids, and of half of them on three."""
        rows = self.batch.half
        for factor in (4, 2):
            cut = f"limit {factor}"
            yield from self._attempted(cut, partial(self._limit, self.true, factor))
            if cut in self.drawn:
                half = partial(_rows_of, self.drawn[cut], rows)
                yield from self._attempted(f"half {factor}", half)
        yield from self._attempted("half 1", partial(self._limit, self.true, 1, rows))
        start = partial(self._limit, self.true, 4, start=self.target)
        yield from self._attempted("start 4", start)

    def _free_limits(self) -> Iterator[tuple[str, Tensor]]:
        """The limit on its own frames; at the first frame these are the true ones."""
        rows = self.batch.half
        for cut, forced, factor in FREE_OF:
            chosen = rows if "half" in cut else slice(None)
            if self.number == 0 and forced in self.drawn:
                yield from self._attempted(cut, partial(self.drawn.get, forced))
            elif cut == "free start 4" and cut in self.own:
                yield from self._attempted(cut, self._free_start)
            elif cut in self.own:
                frames = self.own[cut]
                yield from self._attempted(cut, partial(self._limit, frames, factor, chosen))
            if cut in ("free 4", "free 2") and cut in self.drawn:
                half = f"free half {factor}"
                yield from self._attempted(half, partial(_rows_of, self.drawn[cut], rows))

    def _free_start(self) -> Tensor | None:
        """A limit whose chain starts on a frame that the limit drew from the same context."""
        frames = self.own["free start 4"]
        proposed = self._limit(frames, 4, purpose="start of ")
        return self._limit(frames, 4, start=proposed)

    def _limit(
        self,
        frames: Frames,
        factor: int,
        rows: Any = slice(None),
        start: Tensor | None = None,
        purpose: str = "",
    ) -> Tensor | None:
        """The limit given the frames before, from noise or from a start's α_T x + σ_T ε."""
        if self.grid is None or len(self._numbers(rows)) == 0:
            return None
        path = self.grid.path(self._paths(rows, purpose), factor)
        first = self.grid.levels[0]
        noise, model = path.start(0), self._given(frames, rows)
        if start is None:
            x = self._begun(model, self.grid.prior * noise, first, noise)
        else:
            x = noised(start, first, noise)
        self.batch.turn.report(len(x) * self.grid.calls(factor))
        return walk(model, x, self.grid, factor, path, self.setup.run.clip)

    def _begun(self, model: Denoiser, x: Tensor, level: Level, noise: Tensor) -> Tensor:
        """What a chain from noise begins at: x, or after one call σ z + α f(σ z)."""
        if self.batch.roll.start == NOISE:
            return x
        x = level.sigma * noise.double()
        self.batch.turn.report(len(x))
        return noised(evaluate(model, x, level, 0, self.setup.run.clip).x0, level, noise)

    def _paths(self, rows: Any = slice(None), purpose: str = "") -> Paths:
        """The Brownian paths of these sequences' frame."""
        name = f"{purpose}frame {self.index}"
        setup = self.setup
        return Paths(
            setup.run.seed, self._numbers(rows), setup.model.shape, setup.model.device, name
        )

    def _numbers(self, rows: Any) -> list[int]:
        return [int(i) for i in self.batch.ids[rows if isinstance(rows, slice) else rows.numpy()]]

    def _given(self, frames: Frames, rows: Any = slice(None)) -> Denoiser:
        """The model bound to the frames before, each of its contexts made once."""
        key = (id(frames), rows is self.batch.half)
        if key not in self._bound:
            self._bound[key] = self.setup.model.within(self._context(frames, rows))
        return self._bound[key]

    @cached_property
    def _bound(self) -> dict[Any, Denoiser]:
        return {}

    def _context(self, frames: Frames, rows: Any) -> Context:
        recent = list(frames)[-self.context :]
        chosen = [f if isinstance(rows, slice) or len(f) == len(rows) else f[rows] for f in recent]
        numbers, setup = self._numbers(rows), self.setup
        shape = (self.context, *setup.model.shape)
        draws = Draws(
            setup.run.seed, f"context of frame {self.index}", numbers, shape, setup.model.device
        )
        extra = {name: values[rows] for name, values in self.extra.items()}
        return Context(torch.stack(chosen, dim=1), self.index, extra, draws)


def seed_of(seed: int, index: int, first: int) -> int:
    """The seed, below 2^31, that a function draws a frame of a block of sequences with."""
    digest = hashlib.blake2b(f"{seed}/{index}/{first}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "big") // 2


def drawn_by(function: Function, context: Context, seed: int, shape: tuple[int, ...]) -> Tensor:
    """The frames that a function draws, float64 (B, *shape).

    Raises InputError for anything but real numbers of that shape, and `NotFinite` for NaN.
    """
    with torch.no_grad():
        said = function(context, seed)
    if not isinstance(said, Tensor):
        if not hasattr(said, "__array__"):
            raise InputError(
                f"next_frame returned {type(said).__name__} where frames were expected: return a"
                " tensor or an array"
            )
        said = torch.from_numpy(np.array(said))
    expected = (len(context), *shape)
    if tuple(said.shape) != expected or not said.is_floating_point():
        raise InputError(
            f"next_frame returned {said.dtype} of shape {tuple(said.shape)} where floating-point"
            f" frames of shape {expected} were expected"
        )
    if not torch.isfinite(said).all():
        raise NotFinite("next_frame returned NaN or infinity")
    return said.detach().to(context.frames.device, torch.float64).clone()


def _rows_of(frames: Tensor, rows: Tensor) -> Tensor:
    return frames[rows]
