"""`Sequences`: data that come as sequences of frames, read frame by frame. No torch here.

    source               what is read
    an array, a tensor   (N, K, *shape): N sequences of K frames; an array that is mapped from disk
                         (np.load(path, mmap_mode="r")) stays there
    an .npy file         such an array, mapped from disk
    an .npz file         `arr_0` as such an array; every other array of the file is an extra
                         stream
    a folder of clips    a sub-folder of pictures for each clip, or an .npy file (K, *shape) for
                         each; clips and their pictures are ordered by name, and all are cut to
                         the shortest one
    "lorenz96"           the bundled sequences of 16 numbers (stochastic Lorenz-96)

A frame is what a model draws at once: a vector (D,), a signal (C, T), an image (C, H, W) or a
volume. 8-bit frames become x/127.5 − 1 when they are read. With `chunk` = c a model draws c frames
at once: they stand behind the channels, (C, c, *space), and whatever speaks of frames then speaks
of chunks. Frames that fill no chunk at a sequence's end are left out.
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exposure_bias import files
from exposure_bias.data import bundled, zips
from exposure_bias.data.arrays import NPZ, members
from exposure_bias.data.dataset import HASH_SCALE, unreadable
from exposure_bias.data.pictures import SUFFIXES, decoded
from exposure_bias.errors import InputError, whole_number
from exposure_bias.files.limits import PICTURES, Limit, limit_of
from exposure_bias.states import KINDS, State, described

SOURCES = "an array (N, K, *shape), an .npy, an .npz or a folder of clips"
MOST_RANK = max(KINDS)
HASHED = 64  # sequences that are hashed at once


class Clips(Protocol):
    """Where frames come from: N sequences of K frames of one shape."""

    count: int
    length: int
    shape: State

    def frame(self, ids: NDArray[np.int64], index: int) -> NDArray[Any]:
        """Frame `index` of the sequences `ids`, (B, *shape), uint8 or float."""


class Sequences:
    """N sequences of K frames, with extra streams beside them.

    Parameters
    ----------
    source
        What the module docstring lists, for example an array (N, K, *shape), uint8 or float.
    chunk
        How many frames a model draws at once.
    name
        What reports call the data.
    limit
        How much a file may hold once decoded, in bytes or as "8GB"; by default 1 GiB. Files that
        are mapped from disk have no limit.
    **extra
        Streams that the model is given beside the frames, such as `action=array`, each (N, K, …).

    Raises
    ------
    InputError
        For a source of another rank, type or kind, for frames or streams that are not finite, for
        streams of another length, and for sequences that are shorter than one chunk.

    Examples
    --------
    >>> import numpy as np
    >>> import exposure_bias as eb
    >>> frames = np.random.default_rng(0).normal(size=(32, 10, 3)).astype(np.float32)
    >>> sequences = eb.Sequences(frames, action=np.zeros((32, 10, 2)))
    >>> len(sequences), sequences.length, sequences.shape
    (32, 10, (3,))
    """

    def __init__(
        self,
        source: Any,
        chunk: int = 1,
        *,
        name: str | None = None,
        limit: int | str | Limit | None = None,
        **extra: ArrayLike,
    ) -> None:
        self.chunk = whole_number(chunk, "chunk, the number of frames that are drawn at once,")
        self._clips, found_name, found_extra = _clips(source, limit_of(limit))
        self.name = name or found_name
        self._extra = {
            key: _stream(key, value, self._clips) for key, value in (found_extra | extra).items()
        }
        if self.length < 1:
            raise InputError(
                f"sequences of {self._clips.length} frames hold no chunk of {self.chunk}: give"
                " longer ones or a smaller chunk"
            )
        self.shape = _chunk_shape(self._clips.shape, self.chunk)

    def __len__(self) -> int:
        return self._clips.count

    def __repr__(self) -> str:
        of = f" chunks of {self.chunk}" if self.chunk > 1 else ""
        return (
            f"Sequences({self.name}, {len(self)} × {self.length}{of} frames of"
            f" {described(self._clips.shape)})"
        )

    @property
    def length(self) -> int:
        """How many frames a sequence has; with `chunk`, how many chunks."""
        return self._clips.length // self.chunk

    @property
    def streams(self) -> list[str]:
        """The names of the extra streams."""
        return sorted(self._extra)

    def frame(self, ids: ArrayLike, index: int) -> NDArray[np.float32]:
        """Read frame `index` of the sequences `ids`, a fresh float32 array (B, *shape).

        Raises InputError for an index outside the sequence and for values that are not finite.
        """
        numbers = np.asarray(ids, dtype=np.int64)
        if not 0 <= index < self.length:
            raise InputError(f"there is no frame {index}: the sequences have {self.length}")
        first = index * self.chunk
        parts = [
            _as_float(self._clips.frame(numbers, first + k), numbers, first + k)
            for k in range(self.chunk)
        ]
        if self.chunk == 1:
            return parts[0]
        return np.stack(parts, axis=2)

    def extra(self, ids: ArrayLike, first: int, last: int) -> dict[str, NDArray[Any]]:
        """Read every extra stream at the frames `first` to `last` of the sequences `ids`.

        Each is (B, last − first + 1, …); with `chunk` = c it is (B, last − first + 1, c, …).
        """
        numbers = np.asarray(ids, dtype=np.int64)
        span = slice(first * self.chunk, (last + 1) * self.chunk)
        found = {}
        for name, values in self._extra.items():
            part = np.array(values[numbers, span])
            if self.chunk > 1:
                part = part.reshape(len(part), -1, self.chunk, *part.shape[2:])
            found[name] = part
        return found

    def fitted(self, shape: State) -> "Sequences":
        """The same sequences as frames of a model's shape, where leading axes of one differ."""
        own = self._clips.shape
        wanted = shape if self.chunk == 1 else (shape[0], *shape[2:])
        if own == wanted or _core(own) != _core(wanted):
            return self
        fitted = object.__new__(Sequences)
        fitted.__dict__.update(self.__dict__)
        fitted.__dict__.pop("hash", None)
        fitted._clips = _Reshaped(self._clips, tuple(wanted))
        fitted.shape = _chunk_shape(tuple(wanted), self.chunk)
        return fitted

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits of a SHA-256 over shape, values (to 2e−6), streams and order."""
        digest = hashlib.sha256(repr((len(self), self.length, self.shape)).encode())
        for start in range(0, len(self), HASHED):
            ids = np.arange(start, min(start + HASHED, len(self)))
            for index in range(self.length):
                grid = np.rint(self.frame(ids, index) * HASH_SCALE) + 0.0  # + 0 turns −0 into 0
                digest.update(grid.astype("<f4").tobytes())
            for name, values in self.extra(ids, 0, self.length - 1).items():
                digest.update(name.encode() + np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]


class _Array:
    """Clips of one array (N, K, *shape), in memory or mapped from disk."""

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array
        self.count, self.length = array.shape[:2]
        self.shape: State = array.shape[2:]

    def frame(self, ids: NDArray[np.int64], index: int) -> NDArray[Any]:
        return np.asarray(self.array[ids, index])


class _Reshaped:
    """Clips whose frames have further axes of length one."""

    def __init__(self, clips: Clips, shape: State) -> None:
        self.clips, self.shape = clips, shape
        self.count, self.length = clips.count, clips.length

    def frame(self, ids: NDArray[np.int64], index: int) -> NDArray[Any]:
        return self.clips.frame(ids, index).reshape(len(ids), *self.shape)


class _Arrays:
    """Clips of one mapped array (K, *shape) each."""

    def __init__(self, arrays: Sequence[NDArray[Any]], shape: State) -> None:
        self.arrays, self.shape = arrays, shape
        self.count, self.length = len(arrays), min(len(a) for a in arrays)

    def frame(self, ids: NDArray[np.int64], index: int) -> NDArray[Any]:
        return np.stack([self.arrays[i][index] for i in ids])


class _Pictures:
    """Clips of one picture for each frame, decoded when they are read."""

    def __init__(self, clips: Sequence[Sequence[Path]], limit: Limit) -> None:
        self.clips, self.limit = clips, limit
        self.count, self.length = len(clips), min(len(clip) for clip in clips)
        self.shape: State = self._read(clips[0][0]).shape

    def frame(self, ids: NDArray[np.int64], index: int) -> NDArray[Any]:
        pictures = [self._read(self.clips[i][index]) for i in ids]
        for i, picture in zip(ids, pictures, strict=True):
            if picture.shape != self.shape:
                raise InputError(
                    f"{self.clips[i][index]} is {described(picture.shape)}, but the first frame is"
                    f" {described(self.shape)}: all frames have one size and one mode"
                )
        return np.stack(pictures)

    def _read(self, path: Path) -> NDArray[np.uint8]:
        with files.opened(path) as file:
            self.limit.check(os.fstat(file.fileno()).st_size, path.name, path.parent, PICTURES)
            return decoded(file.read(), path.name, path.parent, self.limit)[0]


def _clips(source: Any, limit: Limit) -> tuple[Clips, str, dict[str, NDArray[Any]]]:
    """Where the frames come from, what the data are called, and the streams that come with them."""
    if isinstance(source, str) and source in bundled.SEQUENCES:
        return _Array(_bundled(source)), source, {}
    if isinstance(source, str | os.PathLike):
        return _from_path(Path(os.path.expanduser(source)), limit)
    if all(hasattr(source, name) for name in ("detach", "cpu", "numpy")):
        source = source.detach().cpu()
        source = (source.float() if source.is_floating_point() else source).numpy()
    if not hasattr(source, "__array__"):
        raise InputError(f"cannot read sequences from a {type(source).__name__}: give {SOURCES}")
    return _Array(_checked(np.asanyarray(source), "")), "sequences", {}


def _bundled(name: str) -> NDArray[Any]:
    with np.load(bundled.SEQUENCES[name], allow_pickle=False) as arrays:
        return _checked(arrays["frames"], "")


def _from_path(path: Path, limit: Limit) -> tuple[Clips, str, dict[str, NDArray[Any]]]:
    if not os.path.exists(path):
        raise InputError(f"there is no file or folder {str(path)!r}: give {SOURCES}")
    if os.path.isdir(path):
        return _from_folder(path, limit), path.resolve().name, {}
    if path.suffix == ".npy":
        return _Array(_checked(_mapped(path), f"{path}: ")), path.stem, {}
    if path.suffix != ".npz":
        raise InputError(f"{str(path)!r} is no file of sequences: give {SOURCES}")
    with zips.opened(path, NPZ, limit) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        arrays = members(archive, names, path, limit)
    if "arr_0" not in arrays:
        raise InputError(
            f"{path} has no 'arr_0': save the frames with np.savez(path, frames, action=actions)"
        )
    frames = _checked(arrays.pop("arr_0"), f"'arr_0' of {path}: ")
    return _Array(frames), path.stem, arrays


def _from_folder(path: Path, limit: Limit) -> Clips:
    """Clips of a folder: its sub-folders of pictures, or its .npy files."""
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    limit.check_files(len(entries), path)
    arrays = [entry for entry in entries if entry.suffix == ".npy"]
    if arrays:
        mapped = [_mapped(entry) for entry in arrays]
        shapes = {array.shape[1:] for array in mapped}
        if len(shapes) > 1:
            raise InputError(f"the clips of {path} have frames of {len(shapes)} different shapes")
        for entry, array in zip(arrays, mapped, strict=True):
            _checked(array[None], f"{entry}: ")
        return _Arrays(mapped, shapes.pop())
    clips = [_pictures_of(entry) for entry in entries if entry.is_dir()]
    clips = [clip for clip in clips if clip]
    if not clips:
        raise InputError(
            f"{path} holds no clips: give each clip a sub-folder of pictures, or an .npy file"
        )
    return _Pictures(clips, limit)


def _pictures_of(folder: Path) -> list[Path]:
    return sorted(
        entry
        for entry in folder.iterdir()
        if entry.suffix.lower() in SUFFIXES and not entry.name.startswith(".")
    )


def _mapped(path: Path) -> NDArray[Any]:
    """An .npy file's array, which stays on disk."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # damage of any kind
        raise unreadable(path, "an .npy array", error) from error
    return array


def _checked(array: NDArray[Any], prefix: str) -> NDArray[Any]:
    """An array (N, K, *shape) of frames; (N, K) is a single number for each frame."""
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise InputError(
            f"{prefix}frames are {array.dtype}: allowed are uint8 in 0..255 and float; convert them"
        )
    if array.ndim == 2:
        array = array[..., None]
    if not 3 <= array.ndim <= MOST_RANK + 2 or array.size == 0:
        raise InputError(
            f"{prefix}sequences have shape {array.shape}: allowed is (N, K, *shape) with frames of"
            f" one to {MOST_RANK} axes and at least one of each"
        )
    shape = array.shape[2:]
    if len(shape) == 3 and shape[-1] in (1, 3) and shape[0] not in (1, 3) and shape[-1] < shape[-2]:
        raise InputError(
            f"{prefix}frames of shape {shape} look channels-last: transpose the sequences to"
            " (N, K, C, H, W)"
        )
    return array


def _stream(name: str, values: Any, clips: Clips) -> NDArray[Any]:
    """An extra stream (N, K, …) of as many sequences and frames as there are."""
    if all(hasattr(values, key) for key in ("detach", "cpu", "numpy")):
        values = values.detach().cpu().numpy()
    array = np.asanyarray(values)
    if array.dtype.kind not in "biuf":
        raise InputError(f"the stream {name!r} is {array.dtype}: allowed are numbers, as an array")
    expected = (clips.count, clips.length)
    if array.shape[:2] != expected:
        raise InputError(
            f"the stream {name!r} has shape {array.shape}, but there are {expected[0]} sequences of"
            f" {expected[1]} frames: give ({expected[0]}, {expected[1]}, …), one entry for each"
            " frame"
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InputError(f"the stream {name!r} holds NaN or infinity: repair it")
    return array


def _chunk_shape(frame: State, chunk: int) -> State:
    if chunk == 1:
        return frame
    if len(frame) >= MOST_RANK:
        raise InputError(
            f"frames of shape {frame} leave no axis for a chunk: give frames of at most"
            f" {MOST_RANK - 1} axes, or chunk=1"
        )
    return (frame[0], chunk, *frame[1:])


def _as_float(frames: NDArray[Any], ids: NDArray[np.int64], index: int) -> NDArray[np.float32]:
    if frames.dtype == np.uint8:
        return np.divide(frames, 127.5, dtype=np.float32) - 1
    with np.errstate(over="ignore"):  # becomes infinite, and is reported below
        values = frames.astype(np.float32)
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise InputError(
            f"sequence {ids[finite.argmin()]} holds NaN or infinity at frame {index}: repair it or"
            " leave it out"
        )
    return values


def _core(shape: State) -> State:
    """A shape without its leading axes of length one."""
    first = next((i for i, size in enumerate(shape) if size > 1), len(shape))
    return tuple(shape[first:])
