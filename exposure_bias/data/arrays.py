"""Arrays, tensors, .npy and .npz: what they may hold, and how each rank is read.

Nothing is ever unpickled."""

import io
import math
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from exposure_bias import files
from exposure_bias.data import zips
from exposure_bias.data.dataset import (
    ROUND_OFF,
    UNIT_RANGE,
    Data,
    Range,
    checked_labels,
    unreadable,
)
from exposure_bias.errors import InputError
from exposure_bias.files.limits import Limit

RANKS = "(N, D), (N, C, H, W) or (N, H, W), (N, C, F, H, W)"
SOURCES = (
    "a folder of images, an .npy, an .npz, a .zip, a .parquet, a .tar, an array or tensor, a"
    " torch Dataset, a name of the hub (org/name), or the bundled 'digits', 'patches' or 'fashion'"
)
TURNED = 64
HEADER = 2**16  # an .npy's header is a line of at most 10,000 characters
HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
NPZ = "an .npz of plain arrays"


def from_npy(path: Path, value_range: Range | None, limit: Limit) -> Data:
    """The array of an .npy file."""
    with files.opened(path) as file:
        array = array_in(file, path, limit)
    return from_array(array, value_range, path.stem)


def from_npz(path: Path, value_range: Range | None, limit: Limit) -> Data:
    """`arr_0` of an .npz file, with `arr_1` for labels; uint8 images stand in it channels last."""
    with zips.opened(path, NPZ, limit) as archive:
        arrays = members(archive, ("arr_0", "arr_1"), path, limit)
    if "arr_0" not in arrays:
        raise InputError(
            f"{path} has no 'arr_0': save the images with np.savez(path, images), uint8 (N, H,"
            " W, C), or other data as (N, ...) in -1..1"
        )
    images, labels = arrays["arr_0"], arrays.get("arr_1")
    if images.dtype == np.uint8 and images.ndim in (3, 4):
        images = _channels_first(images, path)
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise _not_images(images, path)
    data = from_array(images, value_range, path.stem, f"'arr_0' of {path}: ")
    if labels is None:
        return data
    return Data(
        data.images,
        data.name,
        labels=checked_labels(labels, len(data), f"'arr_1' of {path}"),
        value_range=data.value_range,
    )


def members(
    archive: zipfile.ZipFile, names: Sequence[str], path: Path, limit: Limit, kinds: str = "biufc"
) -> dict[str, NDArray[Any]]:
    """Those of an archive's arrays that are there, of these kinds of numbers or texts."""
    found = {}
    for name in names:
        if f"{name}.npy" in archive.namelist():
            with _member(archive, f"{name}.npy", path) as stream:
                found[name] = array_in(stream, path, limit, f"'{name}'", kinds)
    return found


def shape_of(archive: zipfile.ZipFile, name: str, path: Path) -> tuple[int, ...] | None:
    """The shape that an archive's array claims; None where it is not there."""
    if f"{name}.npy" not in archive.namelist():
        return None
    with _member(archive, f"{name}.npy", path) as stream:
        return _head(stream)[0]


def _member(archive: zipfile.ZipFile, name: str, path: Path) -> IO[bytes]:
    try:
        return archive.open(name)
    except Exception as error:  # encrypted, of an unknown compression, at a wrong place, …
        raise unreadable(path, NPZ, error) from error


def _head(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and type that an array in numpy's own format claims."""
    head = io.BytesIO(stream.read(HEADER))
    shape, _, dtype = HEADERS[np.lib.format.read_magic(head)](head)
    return shape, dtype


def array_in(
    stream: IO[bytes],
    path: Path,
    limit: Limit,
    name: str = "the array",
    kinds: str = "biufc",
) -> NDArray[Any]:
    """An array in numpy's own format, whose header is looked at first."""
    try:
        shape, dtype = _head(stream)
        limit.check(math.prod(shape) * dtype.itemsize, name, path)
        if dtype.kind not in kinds:
            raise TypeError(f"{dtype}")
        stream.seek(0)
        array: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    except InputError:
        raise
    except Exception as error:  # damage: BadZipFile, ValueError, EOFError, zlib.error, KeyError, …
        kind = "an .npy array" if path.suffix.lower() == ".npy" else NPZ
        raise unreadable(path, kind, error) from error
    return array


def _channels_first(images: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
    """(N, C, H, W) of (N, H, W, C), in the same memory."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise _not_images(images, path)
    images = np.ascontiguousarray(images)
    count, height, width, channels = images.shape
    turned = images.reshape(count, channels, height, width)
    for start in range(0, count, TURNED):
        part = slice(start, start + TURNED)
        turned[part] = images[part].transpose(0, 3, 1, 2).copy()
    return turned


def _not_images(images: NDArray[Any], path: Path) -> InputError:
    came = f"'arr_0' of {path} is {images.dtype} of shape {images.shape}"
    return InputError(
        f"{came}: allowed is uint8 (N, H, W, C) with C = 1 or 3, or float {RANKS} in -1..1; give"
        " other images as an array"
    )


def from_array(
    source: Any, value_range: Range | None, name: str = "array", prefix: str = ""
) -> Data:
    """States of an array or tensor; (N, H, W) are grey images."""
    images = plain(source)
    if images.dtype.kind == "c":
        raise InputError(
            f"{prefix}data are {images.dtype}: allowed are uint8 in 0..255 and float in [-1, 1];"
            " convert them, real and imaginary parts to channels: np.stack([x.real, x.imag], 1)"
        )
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise InputError(
            f"{prefix}images are {images.dtype}: allowed are uint8 in 0..255 and float in [-1, 1];"
            " convert them"
        )
    if not 2 <= images.ndim <= 5:
        raise InputError(
            f"{prefix}data have shape {images.shape}: allowed are {RANKS}; reshape them"
        )
    if images.ndim == 3:
        images = images[:, None]
    # The last comparison lets synthetic data of shape (N, C, 1, 1) pass.
    if (
        images.ndim > 3
        and images.shape[-1] in (1, 3)
        and images.shape[1] not in (1, 3)
        and images.shape[-1] < images.shape[-2]
    ):
        first = "(N, C, H, W)" if images.ndim == 4 else "(N, C, F, H, W)"
        raise InputError(
            f"{prefix}images of shape {images.shape} look channels-last: transpose them to {first}"
        )
    images = checked(images, value_range)
    bounded = UNIT_RANGE if images.dtype == np.uint8 else value_range
    return Data(images, name, value_range=bounded)


def plain(source: Any, what: str = "images") -> NDArray[Any]:
    """A numpy array of an array or a tensor, without importing torch."""
    if all(hasattr(source, name) for name in ("detach", "cpu", "numpy")):
        source = source.detach().cpu()
        source = source.float() if source.is_floating_point() else source  # numpy has no bfloat16
        source = source.resolve_conj().resolve_neg().numpy()
    if not hasattr(source, "__array__"):
        raise InputError(f"cannot read {what} from a {type(source).__name__}: give {SOURCES}")
    if np.ma.is_masked(source):
        raise InputError(
            "data are a masked array with masked values, and a mask would be lost: fill them,"
            " x.filled(0), or leave those samples out"
        )
    return np.asarray(source)


def checked(images: NDArray[Any], value_range: Range | None) -> NDArray[Any]:
    """States (N, *shape) as uint8 or float32.

    Raises InputError if there are none or a value is not allowed."""
    if images.size == 0:
        raise InputError(f"there are no images in shape {images.shape}: give at least one")
    if images.dtype == np.uint8:
        if images.max() == 1:
            warnings.warn(
                "uint8 images hold nothing but 0 and 1, which are both nearly black in 0..255: if 1"
                " is white, give 255 * x",
                stacklevel=5,
            )
        return images
    with np.errstate(over="ignore"):  # becomes infinite, and is reported below
        images = images.astype(np.float32, copy=False)
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise InputError(
            f"image {finite.argmin()} holds NaN or infinity, only finite values are allowed:"
            " repair it"
        )
    low, high = float(images.min()), float(images.max())
    if value_range is not None and not (
        value_range[0] - ROUND_OFF <= low and high <= value_range[1] + ROUND_OFF
    ):
        advice = (
            "rescale them, or pass value_range=None (--any-range) for latents and synthetic data"
        )
        if low >= 0 and 2 < high <= 255:
            advice = "they look like 0..255, so give them as uint8 or as x / 127.5 - 1"
        raise InputError(f"float images span {low:g} to {high:g}, allowed is [-1, 1]: {advice}")
    if value_range is not None and low >= 0 and 0.5 < high > low:
        warnings.warn(
            f"float images span {low:g} to {high:g}: if they are in [0, 1], give 2 * x - 1, since"
            " models see [-1, 1]",
            stacklevel=5,
        )
    return images
