"""`Data`: states and where they came from."""

import hashlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exposure_bias.errors import InputError
from exposure_bias.states import State

Range = tuple[float, float]
Labels = NDArray[np.int64] | None

UNIT_RANGE: Range = (-1.0, 1.0)
# The hash sees values in 4096ths of a grey level: an 8-bit value lies on that grid and float32
# round-off does not leave it, so an image hashes alike as uint8 and as float32, whichever way it
# was scaled.
HASH_SCALE = np.float32(127.5 * 4096)
HASH_CHUNK = 64
ROUND_OFF = 1e-6  # 255 · float32(2/255) − 1 already exceeds 1


class Source(Protocol):
    """States that lie somewhere and are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """That of one state, (C, *space)."""

    def __len__(self) -> int: ...

    def batch(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        """The states `ids`, (len(ids), *shape): uint8, or float in the range of the data."""


@dataclass(frozen=True, eq=False)
class Lazy:
    """A source as an array (N, *shape), of which a part is read when it is asked for.

    Each part is checked as `load_data` checks an array. state, dtype: of one state."""

    source: Source
    state: State
    dtype: np.dtype[Any]
    name: str
    value_range: Range | None

    @classmethod
    def of(cls, source: Source, name: str, value_range: Range | None) -> "Lazy":
        """A source whose first state is looked at."""
        state = tuple(int(side) for side in source.shape)
        first = np.asarray(source.batch(np.zeros(1, dtype=np.int64)))
        kind = np.dtype(np.uint8 if first.dtype == np.uint8 else np.float32)
        lazy = cls(source, state, kind, name, value_range)
        low, high = float(first.min(initial=1)), float(first.max(initial=0))
        if kind != np.uint8 and value_range is not None and low >= 0 and 0.5 < high > low:
            warnings.warn(
                f"the first state of {name} spans {low:g} to {high:g}: if states are in [0, 1],"
                " give 2 * x - 1, since models see [-1, 1]",
                stacklevel=6,
            )
        lazy[np.zeros(1, dtype=np.int64)]
        return lazy

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.source), *self.state)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, ids: Any) -> NDArray[Any]:
        wanted = np.arange(len(self))[ids]
        states = np.asarray(self.source.batch(np.atleast_1d(wanted)))
        own = tuple(int(side) for side in self.source.shape)
        if states.shape != (wanted.size, *own) or (states.dtype == np.uint8) != (
            self.dtype == np.uint8
        ):
            raise InputError(
                f"{self.name} gave {states.dtype} of shape {states.shape}, where {self.dtype} of"
                f" shape {(wanted.size, *own)} was expected: all states must be alike"
            )
        if self.dtype != np.uint8:
            states = states.astype(np.float32, copy=False)
            self._check(states, np.atleast_1d(wanted))
        return states.reshape(*wanted.shape, *self.state)

    def _check(self, states: NDArray[np.float32], ids: NDArray[np.int64]) -> None:
        finite = np.isfinite(states).reshape(len(states), -1).all(axis=1)
        if not finite.all():
            raise InputError(
                f"state {ids[finite.argmin()]} of {self.name} holds NaN or infinity, only finite"
                " values are allowed: repair it"
            )
        size = float(np.abs(states).max(initial=0))
        if self.value_range is not None and size > self.value_range[1] + ROUND_OFF:
            raise InputError(
                f"a state of {self.name} reaches {size:g}, allowed is [-1, 1]: rescale them, or"
                " pass value_range=None (--any-range) for latents and synthetic data"
            )

    def reshape(self, shape: tuple[int, ...]) -> "Lazy":
        """The same states in another shape, (N, *state)."""
        return replace(self, state=tuple(shape[1:]))


@dataclass(frozen=True, eq=False)
class Data:
    """N states and where they came from; build one with `load_data`.

    images: (N, *shape), uint8 0…255 or float32, images or whatever else is diffused, as an array or
    `Lazy`; not copied from the caller, so leave it unchanged. Use `batch`.
    split: "train" or "test" where the source records a split, else None. labels: int64 (N,) or
    None.
    note: what a reader of a spectrum must know, for example that the images were JPEG; else empty.
    value_range: (−1, 1), or None where `load_data` was told not to check it. names: of the files
    that the states lie in, in order, else None. folders: names of the top folders that they lie in,
    which may be classes, else empty. decode: of latents,
    the pictures (N, C, H, W) that they stand for; else None.
    """

    images: NDArray[Any] | Lazy = field(repr=False)
    name: str
    split: str | None = None
    labels: Labels = field(default=None, repr=False)
    note: str = ""
    value_range: Range | None = UNIT_RANGE
    names: tuple[str, ...] | None = field(default=None, repr=False)
    folders: tuple[str, ...] = ()
    decode: Callable[[NDArray[Any]], NDArray[np.uint8]] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def _repr_html_(self) -> str:
        """Show in a notebook what these data are."""
        from exposure_bias.results.tables import facts

        rows = {
            "states": f"{len(self):,}",
            "shape of a state": "×".join(map(str, self.shape)),
            "kept as": self.images.dtype,
            "split": self.split,
            "classes": None if self.labels is None else len(np.unique(self.labels)),
            "note": self.note,
        }
        return facts(f"Data {self.name}", rows)

    @property
    def shape(self) -> State:
        """That of one state: (D,), (C, T), (C, H, W) or (C, F, H, W)."""
        return self.images.shape[1:]

    def fitted(self, shape: State) -> "Data":
        """The same values as states of a model's shape, where leading axes differ.

        Only axes of length one; else the data as they are.

        An array (N, a, b) is read as images (1, a, b), and this makes signals (a, b) of them."""
        alike = _without_leading_ones(self.shape) == _without_leading_ones(shape)
        if self.shape == shape or not alike:
            return self
        return replace(self, images=self.images.reshape((len(self), *shape)))

    def batch(self, ids: ArrayLike) -> NDArray[np.float32]:
        """A fresh float32 array (len(ids), *shape) of the states `ids`.

        In [−1, 1] unless value_range is None."""
        images = self.images[np.asarray(ids, dtype=np.int64)]
        return (
            np.divide(images, 127.5, dtype=np.float32) - 1 if images.dtype == np.uint8 else images
        )

    def labels_of(self, ids: ArrayLike) -> Labels:
        """int64 (len(ids),): the classes of the images `ids`, or None where the data hold none."""
        return None if self.labels is None else self.labels[np.asarray(ids, dtype=np.int64)]

    @property
    def label_hash(self) -> str | None:
        """16 hexadecimal digits of a SHA-256 over the labels in order.

        None where the data hold none."""
        return (
            None
            if self.labels is None
            else hashlib.sha256(self.labels.astype("<i8").tobytes()).hexdigest()[:16]
        )

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits of a SHA-256 over shape, values (to 2e−6) and order.

        Not over labels or dtype."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        for start in range(0, len(self), HASH_CHUNK):
            images = self.batch(np.arange(start, min(start + HASH_CHUNK, len(self))))
            grid = np.rint(images * HASH_SCALE) + 0.0  # + 0 turns −0 into 0
            digest.update(grid.astype("<f4").tobytes())
        return digest.hexdigest()[:16]


def checked_labels(labels: ArrayLike, count: int, name: str) -> NDArray[np.int64]:
    """The classes of `count` images as int64.

    Raises InputError unless they are as many integers."""
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        came = f"{name}: {labels.dtype} of shape {labels.shape}"
        raise InputError(
            f"{came}, allowed are {count} integer labels, one for each image; correct or leave"
            " them out"
        )
    return labels.astype(np.int64)


def unreadable(path: Any, kind: str, error: Exception) -> InputError:
    """What to raise for a file that is not what its name says."""
    return InputError(
        f"cannot read {path} as {kind} ({type(error).__name__}): replace it or leave it out"
    )


def _without_leading_ones(shape: State) -> State:
    first = next((i for i, size in enumerate(shape) if size > 1), len(shape))
    return tuple(shape[first:])
