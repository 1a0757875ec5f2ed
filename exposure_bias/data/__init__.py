"""States in, float32 in [−1, 1] out, with a recorded train/test split.

Of shape (N, *shape). No torch here.

    source               what is read                                             labels
    "digits"             scikit-learn's 1797 digits, (1, 8, 8): 1285 train, 512   yes
                         test
    "patches"            patches of its two photographs, (3, 16, 16): 1560        no
                         train, 520 test
    "fashion"            clothes of Fashion-MNIST, (1, 14, 14): 2000 train, 2000  yes
                         test
    a folder             PNG, JPEG, WebP, BMP, TIFF, PPM, PGM at any depth        no
    an .npz file         `arr_0`: uint8 (N, H, W, C), as guided-diffusion         `arr_1`, if any
                         writes it, or float
    an .npy file         as an array                                              no
    a .zip file          images, as EDM writes them                               `dataset.json`
    an array, a tensor   float in [−1, 1], or uint8                               `labels=`
    "module:NAME"        what a stranger's function of that name returns          its own

How an array is read by its rank:

    (N, D)              vectors (D,)
    (N, H, W)           grey images (1, H, W); signals (C, T) for a model of signals (`Data.fitted`)
    (N, C, H, W)        images; volumes (1, F, H, W) for a model of volumes
    (N, C, F, H, W)     video, or volumes of several channels

8-bit images stay uint8 in memory and become x/127.5 − 1 when a batch is taken. Images of a folder
or an archive are ordered by path; hidden files and folders are passed over. Nothing is ever
unpickled, and nothing is decoded whose header says that it is larger than the limit. scikit-learn
and Pillow are imported only where they are needed, so that analysing a recording never pays for
them."""

import os
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from exposure_bias import strangers
from exposure_bias.data.arrays import SOURCES, from_array, from_npy, from_npz
from exposure_bias.data.dataset import UNIT_RANGE, Data, Labels, Range, checked_labels
from exposure_bias.data.examples import BUNDLED
from exposure_bias.data.folders import JPEG_NOTE, from_folder, from_zip
from exposure_bias.errors import InputError
from exposure_bias.files.limits import Limit, limit_of

SPLITS = ("train", "test")


def load_data(
    source: Any,
    split: str | None = None,
    *,
    value_range: Range | None = UNIT_RANGE,
    labels: ArrayLike | None = None,
    limit: int | str | Limit | None = None,
) -> Data:
    """Read states from any of the sources in the module docstring; a `Data` is returned as it is.

    split: "train" or "test", for the bundled sources only; None there means "test", since held-out
    images are what a diagnostic should see. value_range=None accepts float arrays beyond [−1, 1]
    (latents, synthetic data).
    labels: the class of each image, integers (N,), in the images' order; they replace any that the
    source holds. limit: how much a file may hold once decoded, in bytes or as "8GB"; 1 GiB by
    default.

    Raises InputError, in one line, for a source that is missing, empty, damaged, of an unknown
    kind, beyond the limit or of mixed sizes or modes; for values that are not finite or outside
    [−1, 1]; for a split that the source does not have; for labels that are not N integers."""
    data = _load(source, split, value_range, limit_of(limit))
    return (
        data
        if labels is None
        else replace(data, labels=checked_labels(labels, len(data), "labels"))
    )


def _load(source: Any, split: str | None, value_range: Range | None, limit: Limit) -> Data:
    if split not in (None, *SPLITS):
        raise InputError(f"unknown split {split!r}: allowed are {', '.join(SPLITS)}")
    if value_range not in (None, UNIT_RANGE):
        raise InputError(
            f"value_range is {value_range!r}, allowed are (-1, 1) and None: rescale the images"
            " yourself"
        )
    if isinstance(source, str) and source in BUNDLED:
        return _bundled(source, split)
    if isinstance(source, Data) and split in (None, source.split):
        return source
    if strangers.is_name(source):
        made = strangers.made(source, "data")
        return load_data(made, split, value_range=value_range, limit=limit)
    if split is not None:
        advice = "leave split out and give the images of that split"
        raise InputError(
            f"split={split!r}, but only the bundled 'digits', 'patches' and 'fashion' record a"
            f" split: {advice}"
        )
    if isinstance(source, str | os.PathLike):
        return _from_path(source, value_range, limit)
    return from_array(source, value_range)


def _bundled(name: str, split: str | None) -> Data:
    if os.path.isdir(name):
        warnings.warn(
            f"{name!r} is the bundled data; for the folder of that name here give './{name}'",
            stacklevel=4,
        )
    return BUNDLED[name](split or "test")


def _from_path(source: str | os.PathLike[str], value_range: Range | None, limit: Limit) -> Data:
    if not os.fspath(source):
        raise InputError(f"the name of the data is empty: give {SOURCES}")
    path = Path(os.path.expanduser(source))
    if os.path.isdir(path):
        return from_folder(path, limit)
    if not os.path.exists(path):  # unlike Path.exists, never raises
        raise InputError(f"there is no file or folder {str(path)!r}: give {SOURCES}")
    suffix = path.suffix.lower()
    if suffix == ".zip":
        return from_zip(path, limit)
    if suffix not in (".npy", ".npz"):
        raise InputError(f"{str(path)!r} is a file of unknown kind {path.suffix!r}: give {SOURCES}")
    return (from_npy if suffix == ".npy" else from_npz)(path, value_range, limit)


__all__ = ["BUNDLED", "JPEG_NOTE", "SPLITS", "UNIT_RANGE", "Data", "Labels", "load_data"]
