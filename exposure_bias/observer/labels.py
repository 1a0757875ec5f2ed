"""What a network is told of the noise level, and back: from the label in a call to a `Level`.

The model's own call, with a stand-in in the network's place, says what the network is given at a
level. Between two of a discrete schedule's points the label is interpolated linearly, as the
schedule does. On a continuous schedule the call is inverted by Brent's method, so that a network
that is told log σ, atan σ or 1 − t is read to round-off, also beyond the schedule's own points
where its law holds there.
"""

import inspect
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.contexts import Context
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.schedules import Level

# What networks of other libraries call their label of the noise level.
TIMES = ("timestep", "timesteps", "t", "sigma", "sigmas", "noise_labels", "time", "times")
SAME = 1e-6  # relative to the range of labels
CLEAN = 0.1  # of that, which tells 1 − 10⁻⁷ from 1
FURTHER = 60  # doublings of an unbounded label
SOME = 17  # points of a schedule that tell the law of its labels


class Labels:
    """The labels that a model's network is told, and their levels.

    Raises InputError where the model does not call its network, or calls it alike at different
    levels.
    """

    def __init__(self, model: Denoiser) -> None:
        self.model = model
        self._known: dict[float, Level | None] = {}
        self._given: dict[float, tuple[float, int]] = {}
        schedule = model.schedule
        labels = np.unique([schedule.level(i).timestep for i in range(len(schedule))])
        some = labels[np.unique(np.linspace(0, len(labels) - 1, SOME).round().astype(int))]
        times = np.array([self.told(label) for label in some])
        self.are_own = bool(np.allclose(times, some, rtol=SAME))
        if self.are_own:  # and are not rounded to the network's float32
            times = some
        elif not schedule.continuous and not _affine(some, times):
            some, times = labels, np.array([self.told(label) for label in labels])
        order = np.argsort(times)
        if len(np.unique(times)) < len(times):
            raise InputError(
                f"{model.name} calls its network alike at different levels: a hook cannot tell"
                " them apart"
            )
        self.labels, self.times = some[order], times[order]

    def told(self, label: float) -> float:
        """What the network is told at a label of the schedule."""
        return float(torch.as_tensor(self.asked(label)[1]).flatten()[0])

    def asked(self, label: float) -> tuple[Tensor, Any]:
        """The state and label that the network is given when the model is asked about ones."""
        ones = torch.ones(1, *self.model.shape, device=self.model.device)
        try:
            standing_in(self.model, None, 1)(ones, Level(label, 1.0, 1.0))
        except Asked as asked:
            return asked.x, asked.time
        raise InputError(f"{self.model.name} does not call its network: a hook on it sees nothing")

    def given(self, label: float) -> tuple[float, int]:
        """The factor by which a state is given to the network, and how many copies of it are."""
        if label not in self._given:
            ones, _ = self.asked(label)
            self._given[label] = float(ones.flatten()[0]), len(ones)
        return self._given[label]

    def level(self, time: float) -> Level | None:
        """The level of a call with this label.

        It is the clean one where nothing is noise, and None beyond that, where an adaptive solver
        may look before it interpolates. Raises InputError for a label that the network does not
        know.
        """
        if time not in self._known:
            self._known[time] = self._level(time)
        return self._known[time]

    def _level(self, time: float) -> Level | None:
        schedule, times = self.model.schedule, self.times
        if not np.isfinite(time):
            raise InputError(f"the network was called at timestep {time:g}")
        if schedule.continuous:
            clean = self._told_when_clean()
            if clean is not None:
                # In the direction of the noise, in units that tell 1 − 10⁻⁷ from 1.
                towards = np.sign(self.told(float(schedule.timestep[-1])) - clean)
                away = towards * (time - clean) / (CLEAN * SAME * (times[-1] - times[0]))
                if away <= 1:
                    return schedule.clean if away >= -1 else None
            return schedule.at(time if self.are_own else self._inverted(time))
        if not times[0] - 0.5 <= time <= times[-1] + 0.5:
            raise InputError(
                f"the network was called at timestep {time:g}, but knows {times[0]:g} to"
                f" {times[-1]:g}"
            )
        return schedule.at(self._interpolated(time))

    def _interpolated(self, time: float) -> float:
        labels, times = self.labels, self.times
        i = int(np.clip(np.searchsorted(times, time), 1, len(times) - 1))
        share = (time - times[i - 1]) / (times[i] - times[i - 1])
        return float(labels[i - 1] + share * (labels[i] - labels[i - 1]))

    def _inverted(self, time: float) -> float:
        """The label of a continuous schedule at which the network is told `time`."""
        from scipy.optimize import brentq

        times, labels = self.times, self.labels
        alike = SAME * (times[-1] - times[0])
        i = int(np.searchsorted(times, time))
        if 0 < i < len(times):
            low, high = sorted(labels[i - 1 : i + 1].tolist())
        else:
            end = float(labels[0] if i == 0 else labels[-1])
            if abs(self.told(end) - time) <= alike:
                return end
            low, high = sorted((end, self._beyond(end, time)))

        def error(label: float) -> float:
            return self.told(label) - time

        for label in (low, high):
            if abs(error(label)) <= alike / len(times):
                return float(label)
        return float(brentq(error, low, high, xtol=1e-15 * abs(high), rtol=1e-14))

    def _told_when_clean(self) -> float | None:
        """What the network is told where nothing is noise; None if that is no number."""
        curve = self.model.schedule.curve
        if curve is None or curve.above is None:
            return None
        found = self.told(curve.above)
        return found if np.isfinite(found) else None

    def _beyond(self, end: float, time: float) -> float:
        """A label so far beyond the schedule's points that `time` lies between it and them."""
        low, high = self.model.schedule.range
        if end == min(self.labels):
            further = [end * 0.5**k for k in range(1, FURTHER)] if low == 0 else [low]
        else:
            further = [end * 2.0**k for k in range(1, FURTHER)] if np.isinf(high) else [high]
        side = np.sign(self.told(end) - time)
        for label in further:
            if np.sign(self.told(label) - time) != side:
                return label
        raise InputError(
            f"the network was called at timestep {time:g}, which is none of the"
            f" {self.model.schedule.name} schedule's: it is told {self.times[0]:.6g} to"
            f" {self.times[-1]:.6g} there"
        )


def _affine(labels: NDArray[np.float64], times: NDArray[np.float64]) -> bool:
    """Whether times are a constant times the labels plus another, to round-off."""
    straight = np.interp(labels, labels[[0, -1]], times[[0, -1]])
    return bool(np.abs(times - straight).max() <= SAME * abs(times[-1] - times[0]))


class Asked(BaseException):
    """What a stand-in was given.

    It is no `Exception`, so that a call which renames those of its network lets it pass."""

    def __init__(self, x: Tensor, time: Any) -> None:
        self.x, self.time = x, time


class _StandIn(torch.nn.Module):
    """Takes a network's place: it has its attributes, and returns `output`.

    Where that is None it raises `Asked`."""

    def __init__(self, net: torch.nn.Module, output: Any) -> None:
        super().__init__()
        self.net, self.output = net, output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("net"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if self.output is None:
            raise Asked(*inputs(self.net, args, kwargs))
        return self.output


class _Blank(Context):
    """A context of zeros, for a call whose network does not look at it."""

    def __init__(self, model: Denoiser, rows: int) -> None:
        count = model.context or 1
        frames = torch.zeros(rows, count, *model.shape, device=model.device)
        super().__init__(frames, count, noise=lambda _: torch.zeros_like(frames))

    def __getitem__(self, name: str) -> Tensor:
        return torch.zeros(len(self), self.frames.shape[1] + 1, 1, device=self.frames.device)


def standing_in(model: Denoiser, output: Any, rows: int) -> Denoiser:
    """The model, with a network that returns `output` whatever it is given."""
    standing = model if model.classes is None else model.given(torch.zeros(rows, dtype=torch.long))
    if model.context is not None:
        standing = model.within(_Blank(model, rows))
    standing = copy(standing)
    standing.net = _StandIn(model.net, output)
    return standing


def inputs(
    net: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Any]:
    """A network's state and label, in whatever order it takes them.

    The label is the argument that bears a label's name, or else the second; the state is the first
    tensor beside it, with axes beyond the batch's.
    """
    names = list(inspect.signature(net.forward).parameters)
    given = dict(zip(names, args, strict=False)) if len(args) <= len(names) else {}
    if not given:  # forward(*args)
        given = {f"argument {i}": value for i, value in enumerate(args)}
    given |= kwargs
    ordered = [n for n in names if n in given] + [n for n in given if n not in names]
    label = next((name for name in TIMES if name in given), None)
    states = [n for n in ordered if n != label and _is_state(given[n])]
    if label is None and states:
        label = next((n for n in ordered[:2] if n != states[0]), None)
    if label is None or not states:
        raise InputError(
            f"cannot tell state and timestep among the arguments {', '.join(given) or '(none)'} of"
            " the network"
        )
    return given[states[0]], given[label]


def _is_state(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() >= 2
