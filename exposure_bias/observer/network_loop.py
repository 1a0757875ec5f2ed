"""Any other loop, watched at the network by a forward hook."""

from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exposure_bias.clipping import Clipping, Convention
from exposure_bias.data import Data
from exposure_bias.data.sequences import Sequences
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.observer.labels import Labels, inputs, standing_in
from exposure_bias.observer.noise import CALLS, added, goes_on
from exposure_bias.observer.observation import Observation, Seen, compiled, plainly
from exposure_bias.schedules import Level

OBSERVED_LOOP = "observed loop"
ANOTHER_STATE = 0.5
ONE_LEVEL = 1e-6  # float32 round-off of one level that is computed in two ways
MARK = "mark the beginning of each batch with begin()"


class NetworkLoop(Observation):
    """Any other loop, watched at the network."""

    def __init__(
        self,
        model: Denoiser,
        data: Data | None,
        seed: int,
        first: int,
        sequences: Sequences | None = None,
    ) -> None:
        super().__init__(model, data, seed, first, sequences)
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
            " calls? A loop that calls net.forward(...) passes all hooks by: let it call net(...)"
        )
        self._pending: Seen | None = None
        self._end_state: Tensor | None = None
        self._first_level: Level | None = None
        self._marked = self._begun = self._between = False
        self._labels = Labels(model)
        self._memory: list[tuple[Tensor, Tensor]] = []
        self._power = 0.0

    def _install(self) -> None:
        self._pending = None
        self._handle = self.model.net.register_forward_hook(self._saw, with_kwargs=True)

    def _remove(self) -> None:
        self._handle.remove()

    def _close(self) -> None:
        self._end()

    def _forget(self) -> None:
        super()._forget()
        self._pending = self._end_state = None

    def _begin_marked(self) -> None:
        self._end()
        self._marked = self._begun = True

    def _end_frame(self, x: Tensor | None) -> None:
        last = self._pending
        if x is not None and last is not None:
            if self._batch and self._batch.count and _same_states(last.x, x):
                self._pending = None  # the call filled a cache with the frame
                with plainly(x):
                    self._complete(x)
            else:
                self.finish(x)
        self._end()
        self._marked = self._between = True
        self._begun = False

    def finish(self, x0: Tensor) -> None:
        """End the batch under way with its clean images.

        Otherwise its last x̂_0 is taken, or the state of a call where nothing is noise.

        Parameters
        ----------
        x0 : Tensor
            The images (B, *shape).

        Raises
        ------
        InputError
            Where no batch is under way, or for images of another shape.
        """
        if self.failed:
            return  # told already; the loop goes on
        if self._pending is None or x0.shape != self._pending.x.shape:
            expected = (
                "none: no batch is under way"
                if self._pending is None
                else tuple(self._pending.x.shape)
            )
            raise InputError(f"finish was given images {tuple(x0.shape)}, expected are {expected}")
        self._end_state = x0
        with self._apart():
            self._end()

    def _end(self) -> None:
        """Keep the batch under way, if there is one."""
        if self._pending is None:
            return
        last, self._pending = self._pending, None
        end, self._end_state = self._end_state, None
        with plainly(last.x):
            self._take(last)
            if end is None:
                end = self._read(last, last.x.to(self._device(last.x), torch.float64)).x0
            self._complete(end)

    def _saw(
        self, net: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        with self._apart():
            x, time = inputs(net, args, kwargs)
            self._note_autocast(x)
            level = self._level(time)
            with plainly(x):
                if level is not None:
                    self._next(x, level, output)

    def _next(self, x: Tensor, level: Level, output: Any) -> None:
        before = self._pending
        if self.failed and not self._recovers(level):
            return
        if (
            level.sigma == 0
        ):  # no step: a solver looks at where it has arrived, or a cache is filled
            if before is not None and x.shape == before.x.shape:
                self._end_state = self._state(x, level).clone()
            return
        if self._between and self._levels is not None:
            if not _alike(level, self._levels[0]):
                return  # a cache is filled with frames that are a little noisy
            self._between = False
        seen = self._decoded(x, level, output)
        if before is None or self._begins(seen, before):
            self._end()
            self._open(seen.x)
            self._memory, self._first_level, self._begun = [], seen.level, False
        elif _alike(seen.level, before.level):
            self._check_repeated(seen, before)
        else:
            self._check_size(seen.x)
            self._take(before)
            self._power = 0.0
        self._remember(seen)
        self._pending, self._end_state = seen, None

    def _remember(self, seen: Seen) -> None:
        """Keep a call for what follows, and note what was added since those before it."""
        x = seen.x.to(self._device(seen.x), torch.float64)
        power, _ = added(x, self._lately)
        self._power = power if not self._memory else self._power + power
        known = (x / (seen.level.alpha or 1.0), self._read(seen, x).x0)
        self._memory = [*self._memory[1 - CALLS :], known]

    @property
    def _lately(self) -> list[Tensor]:
        """The states of the last calls, over their α, and their predictions."""
        return list(chain.from_iterable(self._memory))

    def _recovers(self, level: Level) -> bool:
        """Whether a batch begins after one that failed: at the first level of those before it."""
        first = None if self._levels is None or self._marked else self._levels[0]
        self.failed = level != first
        return not self.failed

    def _begins(self, seen: Seen, before: Seen) -> bool:
        """Whether another batch begins with this call."""
        if self._marked:
            return self._begun
        if _alike(seen.level, before.level) or seen.level.snr > before.level.snr:
            return False  # the noise falls, or a solver corrects
        if len(seen.x) != len(before.x):
            return True
        batch = self._under_way()
        if self._levels is not None:  # the batch before this one says how the noise goes
            following = self._levels[batch.count + 1 : -1]
            return not following or not _alike(following[0], seen.level)
        if seen.level == self._first_level:
            return True
        if any(_alike(s.level, seen.level) and torch.equal(s.x, seen.x) for s in batch.held):
            return False  # a step that an adaptive solver takes back
        return not goes_on(seen.x, seen.level, before.level, self._lately)

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
                f" observed; if these are two batches, {MARK}"
            )

    def _take(self, seen: Seen) -> None:
        """Add the next step of the batch under way, and what was added to its state."""
        super()._take(seen)
        self._note_added(self._power)

    def _level(self, time: Any) -> Level | None:
        times = torch.as_tensor(time, dtype=torch.float64).flatten()
        if torch.isfinite(times).all() and (times != times[0]).any():
            raise InputError(
                "the network was called at several noise levels at once, which is no step of a"
                " chain: schedules whose frames are at different levels (pyramids, as of diffusion"
                " forcing) are not observed; draw frame by frame, or measure with eb.drift"
            )
        return self._labels.level(float(times[0]))

    def _decoded(self, x: Tensor, level: Level, output: Any) -> Seen:
        """What a call of the network means, through the model's own way of calling it."""
        state = self._state(x, level)
        said = standing_in(self.model, output, len(state))(state, level)
        return Seen(level, state, said.detach().clone())

    def _state(self, x: Tensor, level: Level) -> Tensor:
        """The loop's states in what its network was given."""
        factor, copies = self._labels.given(level.timestep)
        rows = len(x) // copies
        if tuple(x.shape[1:]) != self.model.shape or rows * copies != len(x):
            raise InputError(
                f"the network saw {tuple(x.shape)}, where states of {self.model.shape} were"
                " expected"
            )
        if not all(torch.equal(x[:rows], x[k * rows : (k + 1) * rows]) for k in range(1, copies)):
            raise InputError(
                "the model is guided, but the two halves of the network's batch are not the same"
                " states"
            )
        return x[:rows].detach() / factor  # a copy: a loop may go on in place

    def _sampler_name(self) -> str:
        return OBSERVED_LOOP

    def _clip(self) -> Clipping:
        return Clipping(Convention.LOOP)


def _same_states(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other.to(one))


def _alike(one: Level, other: Level) -> bool:
    """Whether two levels are one, up to the round-off of the loop's own numbers."""
    if one == other:
        return True
    ratios = one.ratio, other.ratio
    return bool(np.isfinite(ratios).all()) and abs(ratios[0] / ratios[1] - 1) < ONE_LEVEL
