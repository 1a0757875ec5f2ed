"""`Context`: what a network of sequences is called with beside the noisy frame.

An autoregressive network draws a frame from the p frames before it. While one frame is drawn its
context does not change from step to step, so that whatever a network computes from the context
alone (a key-value cache, an encoding) needs to be computed only once: `Context.once`.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from exposure_bias.errors import InputError

Result = TypeVar("Result")


class Context:
    """The frames before the one that is drawn, for a batch of B sequences.

    frames: (B, p, *shape), the oldest first, in the network's precision and on its device. index:
    the number of the frame that is drawn, counted from 0 within its sequence. `c["action"]`: an
    extra stream of the data, (B, p + 1, …), at the context's frames and, last, at the frame that is
    drawn. `c.noise()`: unit noise of the shape of `frames`. `c.once(function)`: what `function(c)`
    returned the first time.
    """

    def __init__(
        self,
        frames: Tensor,
        index: int,
        extra: Mapping[str, Tensor] | None = None,
        noise: Callable[[int], Tensor] | None = None,
    ) -> None:
        self.frames, self.index = frames, index
        self._extra, self._source = dict(extra or {}), noise
        self._noise: dict[int, Tensor] = {}
        self._once: dict[Any, tuple[Any, Any]] = {}
        self._derived: dict[Any, Context] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._extra:
            known = ", ".join(sorted(self._extra)) or "no extra stream"
            raise InputError(
                f"the sequences have no stream {name!r}, they have {known}: give"
                f" Sequences(…, {name}=array)"
            )
        return self._extra[name]

    def noise(self, number: int = 0) -> Tensor:
        """Return unit noise (B, p, *shape) that belongs to these sequences and this frame.

        It stays the same while the frame is drawn. Another number gives other noise, for a roll-out
        that draws fresh noise at every step: `c.noise(int(t[0]))`.

        Raises InputError for a context that belongs to no run.
        """
        if self._source is None:
            raise InputError("this context has no noise, because it belongs to no run")
        if number not in self._noise:
            self._noise[number] = self._source(number).to(self.frames).reshape(self.frames.shape)
        return self._noise[number]

    def once(self, function: "Callable[[Context], Result]") -> Result:
        """Return `function(c)`, computed when it is first asked for and kept with this context.

        Two functions are the same if they have the same code and hold the same objects, so that a
        lambda in the call of a network is computed once for each frame, stream and batch.
        """
        key = _identity(function)
        if key not in self._once:
            # The function is kept as well: while it lives, no other object can have its identity.
            self._once[key] = (function, function(self))
        result: Result = self._once[key][1]
        return result

    def noised(self, tau: float, number: int = 0) -> "Context":
        """Return the context with noise of standard deviation τ on its frames.

        Which noise it is, `number` says, as in `noise`.
        """
        frames = self.frames + tau * self.noise(number)
        return Context(frames, self.index, self._extra, self._source)

    def part(self, rows: Any) -> "Context":
        """Return the context of some of the sequences, chosen as rows of a tensor are."""
        numbers = torch.arange(len(self))[rows]
        if len(numbers) == len(self) and bool((numbers == torch.arange(len(self))).all()):
            return self
        return self._as(tuple(numbers.tolist()), lambda values: values[numbers.to(values.device)])

    def like(self, parameter: Tensor) -> "Context":
        """Return the context on a parameter's device and in its precision.

        Streams of whole numbers stay whole numbers.
        """
        device, dtype = parameter.device, parameter.dtype
        if self.frames.device == device and self.frames.dtype == dtype:
            return self
        return self._as(
            (device, dtype),
            lambda values: values.to(device, dtype if values.is_floating_point() else None),
        )

    def _as(self, key: Any, change: Callable[[Tensor], Tensor]) -> "Context":
        """The context with every array changed, made once for each key.

        It does not hold this one: in a cycle both would stay in memory for longer than they are
        needed.
        """
        if key not in self._derived:
            self._derived[key] = Context(
                change(self.frames),
                self.index,
                {name: change(values) for name, values in self._extra.items()},
                self._source and partial(_changed, self._source, tuple(self.frames.shape), change),
            )
        return self._derived[key]


def _changed(
    source: Callable[[int], Tensor],
    shape: tuple[int, ...],
    change: Callable[[Tensor], Tensor],
    number: int,
) -> Tensor:
    return change(source(number).reshape(shape))


def _identity(function: Any) -> tuple[Any, ...]:
    """What two functions have in common that compute the same."""
    if isinstance(function, partial):
        held = (*function.args, *function.keywords.values())
        return (*_identity(function.func), *map(id, held))
    code = getattr(function, "__code__", None)
    if code is None:
        return (id(function),)
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    held = (*cells, *(function.__defaults__ or ()), getattr(function, "__self__", None))
    return (id(code), *map(id, held))
