"""What a run says while it computes.

How many network calls it will take, whether the samples suffice for intervals, how long it will be,
and how far it is.

Whoever runs a network inside `watched` is told so at the first of its loops, that is after every
input has been checked; without it a loop shows a bar on a terminal and nothing elsewhere."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
from tqdm import tqdm

from exposure_bias.jackknife import Groups, too_few
from exposure_bias.running.parallel import team
from exposure_bias.running.setup import Setup

Say = Callable[[str], None]
FIRST = 3.0  # seconds after which the time that a run will take can be told
EVERY = 60.0  # seconds between two lines in a log
REPORTS = 32  # by which the time that a call takes is told


@dataclass(frozen=True)
class Plan:
    """What a run will take: samples, network calls of each, and whether it gives intervals."""

    samples: int
    calls: float
    intervals: bool = True


@dataclass
class Watch:
    """A run in several loops, each of which reports here.

    plan: from the setup of the first loop. lines: whether to say how far it is, a line a minute.
    """

    plan: Callable[[Setup], Plan]
    say: Say
    lines: bool
    verbose: bool = False
    total: float = 0.0
    done: float = 0.0
    pace: "Pace" = field(default_factory=lambda: Pace())
    spoke: float = 0.0
    told: bool = field(default=False)

    def begin(self, setup: Setup, evaluations: float) -> None:
        """A loop begins: the first one says what is planned."""
        if not self.total:
            plan = self.plan(setup)
            parts = f"{plan.samples} samples of {plan.calls:.0f} each"
            self.expect(plan.samples * plan.calls, parts)
            images = np.arange(plan.samples) % len(setup.data)
            reason = too_few([Groups(images).count]) if plan.intervals else ""
            if reason:
                self.say(reason)
        if self.verbose:
            self.say(f"{setup.run.kind}: {setup.n} samples of {evaluations:.0f} steps")

    def expect(self, calls: float, parts: str) -> None:
        """So many calls are to come, which are these."""
        self.total, self.done, self.told = max(calls, 1.0), 0.0, False
        self.pace, self.spoke = Pace(), 0.0
        self.say(f"about {rounded(self.total)} network calls: {parts}")

    def skip(self, calls: float) -> None:
        """So many calls were made by an earlier run."""
        self.total = max(self.total - calls, 1.0)

    def add(self, calls: float) -> None:
        """So many calls are made."""
        self.done += calls
        self.pace.add(calls)
        left = self.pace.seconds(max(self.total - self.done, 0.0))
        if left is None:
            return
        if not self.told and self.pace.spent >= FIRST:
            self.told = True
            self.say(f"about {in_words(left)} to go")
        elif self.lines and self.pace.spent - self.spoke >= EVERY:
            self.spoke = self.pace.spent
            share = min(self.done / self.total, 0.99)
            self.say(f"{100 * share:.0f} % done, about {in_words(left)} to go")


class Pace:
    """How long a call takes: the median of the last reports.

    A clock may stand still, run backwards, or jump while a machine sleeps or a run is suspended: a
    report that says so counts as one of many."""

    def __init__(self) -> None:
        self.last, self.spent = time.monotonic(), 0.0
        self._recent: deque[float] = deque(maxlen=REPORTS)

    def add(self, calls: float) -> None:
        """So many calls were made since the last report."""
        now = time.monotonic()
        passed, self.last = max(now - self.last, 0.0), now
        # Of a jump no more is believed than of a slow call.
        self.spent += min(passed, EVERY)
        if calls > 0:
            self._recent.append(passed / calls)

    def seconds(self, calls: float) -> float | None:
        """How long so many more calls will take; None before the first of them was made."""
        return calls * median(self._recent) if self._recent else None


WATCH: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Have every loop in here report to one watch."""
    token = WATCH.set(watch)
    try:
        yield
    finally:
        WATCH.reset(token)


@contextmanager
def progress(setup: Setup, evaluations: float, done: int) -> Iterator[Callable[[int], Any]]:
    """What reports evaluations of a setup's loop, of which `done` samples are there already.

    evaluations: steps of one sample.
    """
    watch = WATCH.get()
    # A quick run shows nothing; a bar that is not on a terminal is left out.
    bar = tqdm(
        total=evaluations * setup.n,
        initial=evaluations * done,
        unit="eval",
        unit_scale=True,
        desc=setup.run.kind,
        disable=None if team().first else True,
        leave=False,
        delay=1.0,
    )
    with bar:
        if watch is None:
            yield bar.update
            return
        each = calls_a_step(setup)
        watch.begin(setup, evaluations)
        watch.skip(each * evaluations * done)

        def report(steps: int) -> None:
            bar.update(steps)
            watch.add(each * steps)

        yield report


def calls_a_step(setup: Setup) -> int:
    """How often the chain's first step asks the network."""
    import torch

    from exposure_bias.samplers import Asking, Prediction

    calls, levels = 1, setup.levels
    if len(levels) < 2:
        return calls
    zero = torch.zeros(1, *setup.model.shape, dtype=torch.float64)

    def predict(*_: Any) -> Prediction:
        nonlocal calls
        calls += 1
        return Prediction(zero, zero)

    noise = zero if setup.sampler.stochastic else None
    try:
        steps = setup.sampler.begin(levels)
        if getattr(steps, "asks_itself", False):
            return 1
        asking = Asking(predict, lambda s, *_: s)
        steps.step(zero, Prediction(zero, zero), levels[0], levels[1], noise, asking)
    except Exception:  # a stranger's sampler that needs more than zeros: it is an estimate
        return calls
    return calls


def say(text: str) -> None:
    """A line for the person at the terminal, above any bar."""
    tqdm.write(f"eb-analyze: {text}", file=sys.stderr)


def rounded(count: float) -> str:
    """Two digits of a large number, with thousands marked."""
    digits = max(len(f"{count:.0f}") - 2, 0)
    return f"{round(count, -digits):,.0f}"


def in_words(seconds: float) -> str:
    """A time to wait."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
