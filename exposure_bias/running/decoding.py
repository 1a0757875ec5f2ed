"""Pictures of a latent model's kept samples: what the autoencoder makes of them.

They are for people, 8 bits and at most 128 pixels wide, and stand beside the samples in the file,
so that a page can be made of it without the autoencoder."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.errors import InputError
from exposure_bias.recording.schema import PICTURE_AXES

MOST_SIDE = 128
FIELDS = ("state", "prediction", "truth")

Decode = Callable[[NDArray[Any]], NDArray[np.uint8]]


def pictured(
    stream: xr.Dataset, decode: Decode, first: int, count: int
) -> dict[str, tuple[tuple[str, ...], NDArray[np.uint8]]]:
    """Pictures `picture_state`, … of a stream's kept samples `kept_state`, ….

    Kept samples of numbers outside first … first + count − 1 are another recording's: their
    pictures are zero, so that recordings merge by adding."""
    found: dict[str, tuple[tuple[str, ...], NDArray[np.uint8]]] = {}
    for field in FIELDS:
        name = f"kept_{field}"
        if name in stream:
            values = stream[name].values.astype(np.float32)
            mine = np.zeros(len(values), dtype=bool)
            mine[first : first + count] = True
            found[f"picture_{field}"] = (PICTURE_AXES, _decoded(values, mine, decode))
    return found


def _decoded(
    values: NDArray[np.float32], mine: NDArray[np.bool_], decode: Decode
) -> NDArray[np.uint8]:
    """(kept, kept_step, C, H, W); zero where a value is NaN."""
    flat = values.reshape(-1, *values.shape[2:])
    known = np.isfinite(flat).reshape(len(flat), -1).all(axis=1) & np.repeat(mine, values.shape[1])
    shown = known if known.any() else np.arange(len(flat)) < 1  # for the pictures' shape
    small = _smaller(decode(flat[shown]))
    pictures = np.zeros((len(flat), *small.shape[1:]), dtype=np.uint8)
    if known.any():
        pictures[known] = small
    return pictures.reshape(*values.shape[:2], *small.shape[1:])


def _smaller(pictures: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means over blocks of pixels, so many that no side is longer than `MOST_SIDE`."""
    if pictures.ndim != 4:
        raise InputError(f"decode made pictures of shape {pictures.shape}: (N, C, H, W) is needed")
    factor = -(-max(pictures.shape[2:]) // MOST_SIDE)
    height, width = (side // factor for side in pictures.shape[2:])
    cut = pictures[:, :, : height * factor, : width * factor]
    blocks = cut.reshape(*cut.shape[:2], height, factor, width, factor)
    return blocks.mean(axis=(3, 5)).round().astype(np.uint8)


def with_pictures(
    datasets: Mapping[str, xr.Dataset], decode: Decode, first: int, count: int
) -> dict[str, xr.Dataset]:
    """The streams, each with the pictures of its kept samples."""
    return {
        name: stream.assign(pictured(stream, decode, first, count))
        for name, stream in datasets.items()
    }
