"""Data of other libraries, read where they lie: anything with `len`, `batch(ids)` and `shape`.

What fits the limit of memory is read once and held; of more than that a batch is read when it is
asked for (`dataset.Lazy`)."""

import operator
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from exposure_bias.data.arrays import plain
from exposure_bias.data.dataset import Data, Labels, Lazy, Range, Source
from exposure_bias.data.pictures import decoded, of_pillow
from exposure_bias.errors import InputError, is_whole, reason
from exposure_bias.files.limits import Limit

CHUNK = 64
# Under which names a sample of another library keeps its state and its class.
STATES = ("image", "img", "pixel_values", "images", "video", "latent", "latents", "x")
LABELS = ("label", "labels", "target", "class", "fine_label", "y")


def is_source(value: Any) -> bool:
    """Whether a value has `len`, `batch(ids)` and `shape`, and is no table of `datasets`."""
    named = all(hasattr(value, name) for name in ("__len__", "batch", "shape"))
    return named and not hasattr(value, "__array__") and not hasattr(value, "features")


def is_items(value: Any) -> bool:
    """Whether a value gives one sample by number, as torch's map-style datasets do."""
    both = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    plain_kind = isinstance(value, str | bytes | list | tuple | dict)
    return both and not plain_kind and not hasattr(value, "__array__")


def refuse_stream(value: Any) -> None:
    """Raise InputError for what gives samples one after the other and not by number."""
    if hasattr(value, "__array__") or not hasattr(value, "__iter__") or is_items(value):
        return
    inside = getattr(value, "dataset", None)
    if inside is not None:
        raise InputError(f"a {type(value).__name__} is given: give its dataset, loader.dataset")
    if not hasattr(value, "__len__"):
        raise InputError(
            f"{type(value).__name__} gives its samples one after the other: give a dataset of known"
            " length, whose samples have numbers, or an array of its first samples"
        )


def from_source(source: Source, value_range: Range | None, limit: Limit) -> Data:
    """The states of a source, which may know its `labels` and its `name`."""
    count = len(source)
    if not count:
        raise InputError(f"{_name(source)} holds no states: give at least one")
    images = held(source, _name(source), value_range, limit)
    labels = _whole(getattr(source, "labels", None), count)
    return _data(images, _name(source), labels, value_range)


def from_items(
    items: Any,
    value_range: Range | None,
    limit: Limit,
    column: str | None = None,
    labels: str | None = None,
) -> Data:
    """The samples of a map-style dataset: states, pairs (state, class), or rows by name.

    column, labels: the names of states and of classes in a row."""
    name = _name(items)
    if not len(items):
        raise InputError(f"{name} holds no samples: give at least one")
    source = Items(items, name, column)
    images = held(source, name, value_range, limit)
    return _data(images, name, _labels_of(items, name, labels), value_range, source.notes)


def held(source: Source, name: str, value_range: Range | None, limit: Limit) -> NDArray[Any] | Lazy:
    """A source's states in memory if they are few enough; else as they are read."""
    lazy = Lazy.of(source, name, value_range)
    if int(np.prod(lazy.shape)) * lazy.dtype.itemsize > limit.bytes:
        return lazy
    states = np.empty(lazy.shape, dtype=lazy.dtype)
    starts = range(0, len(lazy), CHUNK)
    for start in tqdm(starts, f"reading {name}", unit="batch", delay=1, disable=None):
        states[start : start + CHUNK] = lazy[start : start + CHUNK]
    return states


def _data(
    images: NDArray[Any] | Lazy,
    name: str,
    labels: Labels,
    value_range: Range | None,
    notes: Sequence[str] | set[str] = (),
) -> Data:
    bounded: Range | None = (-1.0, 1.0) if images.dtype == np.uint8 else value_range
    return Data(images, name, labels=labels, note="; ".join(sorted(notes)), value_range=bounded)


@dataclass(eq=False)
class Pictures:
    """Encoded pictures, decoded when they are asked for.

    content: the i-th one's name and bytes. notes: what was noticed of those that were read."""

    count: int
    content: Callable[[int], tuple[str, bytes]]
    where: Path
    limit: Limit
    notes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.shape = self._pixels(0).shape

    def __len__(self) -> int:
        return self.count

    def batch(self, ids: NDArray[np.int64]) -> NDArray[np.uint8]:
        return np.stack([self._alike(int(i)) for i in ids])

    def _pixels(self, i: int) -> NDArray[np.uint8]:
        name, content = self.content(i)
        picture = decoded(content, name, self.where, self.limit)
        self.notes |= picture.notes
        return picture.pixels

    def _alike(self, i: int) -> NDArray[np.uint8]:
        pixels = self._pixels(i)
        if pixels.shape != self.shape:
            raise InputError(
                f"image {i} of {self.where} is {pixels.shape} where the first is {self.shape}: all"
                " must be alike; resize or convert them"
            )
        return pixels


@dataclass(eq=False)
class Items:
    """Samples by number, as states.

    column: the name of the state in a row; by default the one that is an image, or the first of
    `STATES`."""

    items: Any
    name: str
    column: str | None = None
    notes: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.shape = self._state(0).shape

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        states = [self._state(int(i)) for i in ids]
        odd = next((k for k, s in enumerate(states) if s.shape != self.shape), None)
        if odd is not None:
            raise InputError(
                f"sample {ids[odd]} of {self.name} is {states[odd].shape} where the first is"
                f" {self.shape}: all must be alike; resize or convert them"
            )
        return np.stack(states)

    def _state(self, i: int) -> NDArray[Any]:
        sample, what = item(self.items, i, self.name), f"sample {i} of {self.name}"
        return state_of(sample, what, self.column, self.notes)


def state_of(sample: Any, what: str, column: str | None, notes: set[str]) -> NDArray[Any]:
    """The state of a sample: of a row its column, of a pair the first.

    notes: what was noticed is added."""
    state = sample
    if isinstance(sample, dict):
        state = sample[_column_of(sample, what, column)]
    elif isinstance(sample, list | tuple) and sample:
        state = sample[0]
    if hasattr(state, "getbands"):
        picture = of_pillow(state, what)
        notes |= picture.notes
        return picture.pixels
    values = plain(state, what)
    values = values[None] if values.ndim == 2 else values
    if values.ndim == 3 and values.shape[-1] in (1, 3) and values.shape[0] not in (1, 3):
        raise InputError(
            f"{what} of shape {values.shape} looks channels-last: transpose it to (C, H, W)"
        )
    return values


def _column_of(row: dict[str, Any], what: str, wanted: str | None) -> str:
    pictures = [name for name, value in row.items() if hasattr(value, "getbands")]
    found = pictures or [name for name in STATES if name in row]
    if wanted is not None and wanted not in row:
        raise InputError(f"{what} has no column {wanted!r}: it has {', '.join(map(str, row))}")
    if wanted is None and (len(pictures) > 1 or not found):
        several = f"several columns of images, {', '.join(pictures)}"
        none = f"no column of images among {', '.join(map(str, row))}"
        raise InputError(f"{what} has {several if pictures else none}: name one with column=")
    return wanted or str(found[0])


def item(items: Any, i: int, name: str) -> Any:
    """A sample; InputError with the dataset's own reason where it has none."""
    try:
        return items[i]
    except Exception as error:  # of whatever reads it
        raise InputError(f"cannot read sample {i} of {name}: {reason(error)}") from error


def _labels_of(items: Any, name: str, wanted: str | None) -> Labels:
    """The classes: those that the dataset lists, or those of each sample."""
    count = len(items)
    if wanted is None:
        for attribute in ("targets", "labels"):
            listed = _whole(getattr(items, attribute, None), count)
            if listed is not None:
                return listed
    first = item(items, 0, name)
    if isinstance(first, dict):
        key = wanted or next((k for k in LABELS if k in first and is_whole(first[k])), None)
        if wanted is not None and wanted not in first:
            raise InputError(f"{name} has no column {wanted!r}: it has {', '.join(first)}")
        if key is None:
            return None
        column = getattr(items, "features", None) is not None  # a table, which has columns
        values = list(items[key]) if column else [item(items, i, name)[key] for i in range(count)]
        return integers(values, key)
    pair = isinstance(first, list | tuple) and len(first) > 1 and is_whole(_scalar(first[1]))
    if not pair:
        return None
    return integers([_scalar(item(items, i, name)[1]) for i in range(count)], "the second value")


def _scalar(value: Any) -> Any:
    """A number, of a tensor of one number too."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", None) != 0 else value


def integers(values: Sequence[Any], column: str) -> NDArray[np.int64]:
    """Classes as int64. Raises InputError for a column of anything else."""
    with suppress(TypeError):
        return np.array([operator.index(value) for value in values], dtype=np.int64)
    raise InputError(
        f"the column {column!r} holds no whole numbers: name one of classes with labels=, or none"
    )


def _whole(values: Any, count: int) -> Labels:
    """An attribute of classes, None where it is none."""
    if values is None or callable(values):
        return None
    try:
        array = np.asarray(plain(values, "labels") if hasattr(values, "detach") else values)
    except (TypeError, ValueError, InputError):
        return None
    return array.astype(np.int64) if array.dtype.kind in "iu" and array.shape == (count,) else None


def _name(value: Any) -> str:
    return str(getattr(value, "name", None) or type(value).__name__)
