"""Any other loop, watched at the network by a forward hook."""

import inspect
from collections.abc import Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.clipping import Clipping, Convention
from exposure_bias.data import Data
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.observer.observation import Observation, Seen, compiled, plainly
from exposure_bias.schedules import Level

OBSERVED_LOOP = "observed loop"
# What networks of other libraries call their label of the noise level.
TIMES = ("timestep", "timesteps", "t", "sigma", "sigmas", "noise_labels", "time", "times")
ANOTHER_STATE = 0.5


class NetworkLoop(Observation):
    """Any other loop, watched at the network."""

    def __init__(self, model: Denoiser, data: Data | None, seed: int, first: int) -> None:
        super().__init__(model, data, seed, first)
        net = model.net
        if not isinstance(net, torch.nn.Module):
            raise InputError(
                f"{model.name} is a plain function, which no hook can watch: give the module that"
                " the loop calls"
            )
        if compiled(net):
            raise InputError(
                "a compiled module may run without its hooks: observe the loop before torch.compile"
            )
        self._why_nothing = (
            f"the network {type(net).__name__} was never called: is it the module that the loop"
            " calls?"
        )
        self._pending: Seen | None = None
        self._labels, self._times = self._table()

    def _install(self) -> None:
        self._pending = None
        self._handle = self.model.net.register_forward_hook(self._saw, with_kwargs=True)

    def _remove(self) -> None:
        self._handle.remove()

    def _close(self) -> None:
        self._end()

    def finish(self, x0: Tensor) -> None:
        """End the batch under way with its clean images (B, C, H, W).

        Otherwise its last x̂_0 is taken.

        Raises InputError where none is under way, or for images of another shape.
        """
        if self._pending is None or x0.shape != self._pending.x.shape:
            expected = (
                "none: no batch is under way"
                if self._pending is None
                else tuple(self._pending.x.shape)
            )
            raise InputError(f"finish was given images {tuple(x0.shape)}, expected are {expected}")
        self._end(x0)

    def _end(self, x0: Tensor | None = None) -> None:
        if self._pending is None:
            return
        last, self._pending = self._pending, None
        with plainly(last.x):
            self._take(last)
            self._complete(
                self._read(last, last.x.to(self._device(last.x), torch.float64)).x0
                if x0 is None
                else x0
            )

    def _saw(
        self, net: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        x, time = _inputs(net, args, kwargs)
        self._note_autocast(x)
        with plainly(x):
            self._next(self._decoded(x, time, output))

    def _next(self, seen: Seen) -> None:
        before = self._pending
        if before is not None and seen.level.snr < before.level.snr:
            self._end()
        elif before is not None and seen.level == before.level:
            self._check_repeated(seen, before)
        elif before is not None:
            self._take(before)
        if self._pending is None:
            self._open(seen.x)
        self._pending = seen

    def _check_repeated(self, seen: Seen, before: Seen) -> None:
        where = f"twice at timestep {seen.level.timestep:g}"
        same_size = seen.x.shape == before.x.shape
        if same_size and torch.equal(seen.x, before.x):
            raise InputError(
                f"the network saw the same states {where}, as in guidance: observe the module that"
                " combines both"
            )
        # At the first level no solver has moved yet; further on, a corrector may move far where
        # steps are few.
        first = self._under_way().count == 0
        if not same_size or (first and (seen.x - before.x).norm() > ANOTHER_STATE * seen.x.norm()):
            raise InputError(
                f"the network saw different states {where}: loops that split their batch are not"
                " observed"
            )

    def _decoded(self, x: Tensor, time: Any, output: Any) -> Seen:
        """What a call of the network means, through the model's own way of calling it."""
        times = torch.as_tensor(time, dtype=torch.float64).flatten()
        if (times != times[0]).any():
            raise InputError(
                "the network was called at several noise levels at once, which is no step of a"
                " chain"
            )
        level = self._level(float(times[0]))
        given, _ = self._asked(level)
        rows = len(x) // len(given)
        if tuple(x.shape[1:]) != self.model.shape or rows * len(given) != len(x):
            raise InputError(
                f"the network saw {tuple(x.shape)}, where states of {self.model.shape} were"
                " expected"
            )
        if not all(
            torch.equal(x[:rows], x[k * rows : (k + 1) * rows]) for k in range(1, len(given))
        ):
            raise InputError(
                "the model is guided, but the two halves of the network's batch are not the same"
                " states"
            )
        scale = float(given.flatten()[0])
        state = x[:rows].detach() / scale  # a copy: the loop may go on in place
        return Seen(level, state, self._standing_in(output, rows)(state, level).detach().clone())

    def _level(self, time: float) -> Level:
        labels, times = self._labels, self._times
        if not self.model.schedule.continuous and not times[0] - 0.5 <= time <= times[-1] + 0.5:
            raise InputError(
                f"the network was called at timestep {time:g}, but knows {times[0]:g} to"
                f" {times[-1]:g}"
            )
        i = int(np.clip(np.searchsorted(times, time), 1, len(times) - 1))
        share = (time - times[i - 1]) / (times[i] - times[i - 1])
        return self.model.schedule.at(float(labels[i - 1] + share * (labels[i] - labels[i - 1])))

    def _table(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The schedule's labels, and what the network is given for each of them.

        The latter ascending."""
        schedule = self.model.schedule
        levels = sorted({schedule.level(i) for i in range(len(schedule))})
        labels = np.array([level.timestep for level in levels])
        some = np.unique(np.linspace(0, len(levels) - 1, 9).round().astype(int))
        if np.allclose(self._times_of([levels[i] for i in some]), labels[some], rtol=1e-6):
            return labels, labels  # not rounded to the network's float32
        times = self._times_of(levels)
        order = np.argsort(times)
        if len(np.unique(times)) < len(times):
            raise InputError(
                f"{self.model.name} calls its network alike at different levels: a hook cannot tell"
                " them apart"
            )
        return labels[order], times[order]

    def _times_of(self, levels: Sequence[Level]) -> NDArray[np.float64]:
        return np.array(
            [float(torch.as_tensor(self._asked(level)[1]).flatten()[0]) for level in levels]
        )

    def _asked(self, level: Level) -> tuple[Tensor, Any]:
        """The state and label that the network is given.

        When the model is asked about a state of ones."""
        ones = torch.ones(1, *self.model.shape, device=self.model.device)
        try:
            self._standing_in(None, 1)(ones, level)
        except _Asked as asked:
            return asked.x, asked.time
        raise InputError(f"{self.model.name} does not call its network: a hook on it sees nothing")

    def _standing_in(self, output: Any, rows: int) -> Denoiser:
        """The model, with a network that returns `output` whatever it is given."""
        standing = (
            self.model
            if self.model.classes is None
            else self.model.given(torch.zeros(rows, dtype=torch.long))
        )
        standing = copy(standing)
        standing.net = _StandIn(self.model.net, output)
        return standing

    def _sampler_name(self) -> str:
        return OBSERVED_LOOP

    def _clip(self) -> Clipping:
        return Clipping(Convention.LOOP)


class _Asked(Exception):
    """What a stand-in was given."""

    def __init__(self, x: Tensor, time: Any) -> None:
        self.x, self.time = x, time


class _StandIn(torch.nn.Module):
    """Takes a network's place: it has its attributes, and returns `output`.

    Where that is None it raises `_Asked`."""

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
            raise _Asked(*_inputs(self.net, args, kwargs))
        return self.output


def _inputs(
    net: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Tensor, Any]:
    """A network's state and label.

    Its first argument, and the one that bears a label's name, or else the second."""
    names = list(inspect.signature(net.forward).parameters)
    given = dict(zip(names, args, strict=False)) | kwargs
    given = {
        name: given[name]
        for name in (*(n for n in names if n in given), *(n for n in given if n not in names))
    }
    values = list(given.values())
    time = next(
        (given[name] for name in TIMES if name in given), values[1] if len(values) > 1 else None
    )
    if not values or not isinstance(values[0], Tensor) or time is None:
        raise InputError(
            f"cannot tell state and timestep among the arguments {', '.join(given) or '(none)'} of"
            " the network"
        )
    return values[0], time
