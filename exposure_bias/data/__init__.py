"""States in, float32 in [−1, 1] out, with a recorded train/test split.

Of shape (N, *shape). No torch here.

    source               what is read                                             labels
    "digits"             scikit-learn's 1797 digits, (1, 8, 8): 1285 train, 512   yes
                         test
    "patches"            patches of its two photographs, (3, 16, 16): 1560        no
                         train, 520 test
    "fashion"            clothes of Fashion-MNIST, (1, 14, 14): 2000 train, 2000  yes
                         test
    a folder             PNG, JPEG, WebP, BMP, TIFF, PPM, PGM at any depth, or    `dataset.json`,
                         EDM2's latents                                           "folders"
    an .npz file         `arr_0`: uint8 (N, H, W, C), as guided-diffusion         `arr_1`, if any
                         writes it, or float
    an .npy file         as an array                                              no
    a .zip file          images, as EDM writes them, or EDM2's latents            `dataset.json`
    .parquet             a column of pictures or of numbers; several files in     a column
                         one folder
    .tar                 shards of webdataset; several files in one folder, or    .cls, .json
                         "data-{000..009}.tar"
    "org/name"           a dataset of the Hugging Face hub, "org/name:split"      a column
    an array, a tensor   float in [−1, 1], or uint8                               `labels=`
    a torch Dataset      states, pairs (state, class) or rows by name             its own
    any object           with `len`, `batch(ids)` and `shape` (`dataset.Source`)  `labels`
    "module:NAME"        what a stranger's function of that name returns          its own

How an array is read by its rank:

    (N, D)              vectors (D,)
    (N, H, W)           grey images (1, H, W); signals (C, T) for a model of signals (`Data.fitted`)
    (N, C, H, W)        images; volumes (1, F, H, W) for a model of volumes
    (N, C, F, H, W)     video, or volumes of several channels

8-bit images stay uint8 in memory and become x/127.5 − 1 when a batch is taken. Images of a folder
or an archive are ordered by path; hidden files and folders are passed over. A picture is turned as
its EXIF orientation says. Tables, shards, datasets and objects are held in memory up to the limit;
of larger ones a batch is read when it is asked for. Nothing is ever unpickled, and nothing is
decoded whose header says that it is larger than the limit. Libraries are imported only where they
are needed, so that analysing a recording never pays for them."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from numpy.typing import ArrayLike

from exposure_bias import strangers
from exposure_bias.data import hub, parquet, shards, sources
from exposure_bias.data.arrays import SOURCES, from_array, from_npy, from_npz
from exposure_bias.data.dataset import (
    UNIT_RANGE,
    Data,
    Labels,
    Lazy,
    Range,
    Source,
    checked_labels,
)
from exposure_bias.data.examples import BUNDLED
from exposure_bias.data.folders import FOLDERS, JPEG_NOTE, from_folder, from_zip
from exposure_bias.errors import InputError
from exposure_bias.files.limits import Limit, limit_of

SPLITS = ("train", "test")
TABLES = (".parquet", ".pq")
SHARDS = ".tar"


def load_data(
    source: Any,
    split: str | None = None,
    *,
    value_range: Range | None = UNIT_RANGE,
    labels: ArrayLike | str | None = None,
    limit: int | str | Limit | None = None,
    column: str | None = None,
    config: str | None = None,
) -> Data:
    """Read states from any of the sources in the module docstring.

    Parameters
    ----------
    source
        Where the states lie. A `Data` is returned as it is.
    split
        "train" or "test" of the bundled sources, of which None means "test", since held-out images
        are what a diagnostic should see; or a split of a dataset of the hub.
    value_range
        None accepts float arrays beyond [−1, 1]: latents, synthetic data.
    labels
        The class of each image, integers (N,), in the images' order; they replace any that the
        source holds. Or a text: the name of a column, or "folders" for the names of the top folders
        that the images lie in, in alphabetical order.
    limit
        How much a source may hold once decoded, in bytes or as "8GB"; 1 GiB by default.
    column
        The name of the column of states, of a table, a dataset of the hub or a torch Dataset.
    config
        The name of a configuration, of a dataset of the hub that has several.

    Returns
    -------
    Data
        N states with their name, labels and a note of what a reader must know.

    Raises
    ------
    InputError
        In one line, for a source that is missing, empty, damaged, of an unknown kind, beyond the
        limit or of mixed sizes or modes; for values that are not finite or outside [−1, 1]; for a
        split or a column that the source does not have; for labels that are not N integers.

    Examples
    --------
    >>> data = load_data("digits", split="train")
    >>> len(data), data.shape
    (1285, (1, 8, 8))"""
    named = labels if isinstance(labels, str) else None
    options = {"column": column, "labels": named, "config": config}
    data = _load(source, split, value_range, limit_of(limit), options)
    if labels is None or named is not None:
        return data
    return replace(data, labels=checked_labels(labels, len(data), "labels"))


Options = dict[str, str | None]


def _load(
    source: Any, split: str | None, value_range: Range | None, limit: Limit, options: Options
) -> Data:
    if value_range not in (None, UNIT_RANGE):
        raise InputError(
            f"value_range is {value_range!r}, allowed are (-1, 1) and None: rescale the images"
            " yourself"
        )
    if isinstance(source, str) and _of_hub(source):
        return hub.from_hub(source, split, value_range, limit, **options)
    if split not in (None, *SPLITS):
        raise InputError(f"unknown split {split!r}: allowed are {', '.join(SPLITS)}")
    if isinstance(source, str) and source in BUNDLED:
        _refuse(options, source)
        return _bundled(source, split)
    if isinstance(source, Data) and split in (None, source.split):
        _refuse(options, source.name)
        return source
    if strangers.is_name(source):
        _refuse(options, source)
        made = strangers.made(source, "data")
        return load_data(made, split, value_range=value_range, limit=limit)
    if split is not None:
        advice = "leave split out and give the images of that split"
        raise InputError(
            f"split={split!r}, but only the bundled 'digits', 'patches' and 'fashion' and datasets"
            f" of the hub record a split: {advice}"
        )
    if isinstance(source, str | os.PathLike):
        return _from_path(source, value_range, limit, options)
    if sources.is_source(source):
        _refuse(options, type(source).__name__)
        return sources.from_source(source, value_range, limit)
    if sources.is_items(source):
        _refuse(options, type(source).__name__, "config")
        return sources.from_items(source, value_range, limit, column=options["column"],
                                  labels=options["labels"])  # fmt: skip
    _refuse(options, type(source).__name__)
    sources.refuse_stream(source)
    return from_array(source, value_range)


def _refuse(options: Options, what: Any, *names: str) -> None:
    """Raise InputError for options that a source does not have: all of them, or those named."""
    for name in names or tuple(options):
        if options[name] is not None:
            raise InputError(
                f"{name}={options[name]!r}, but {what} has no columns, folders or configurations to"
                " choose from: leave it out"
            )


def _of_hub(source: str) -> bool:
    """Whether a text names a dataset of the hub: it is no file, and does not end like one."""
    path = os.path.expanduser(source)
    endings = (".npy", ".npz", ".zip", SHARDS, *TABLES)
    return hub.is_name(source) and not os.path.exists(path) and not source.endswith(endings)


def _bundled(name: str, split: str | None) -> Data:
    if os.path.isdir(name):
        warnings.warn(
            f"{name!r} is the bundled data; for the folder of that name here give './{name}'",
            stacklevel=4,
        )
    return BUNDLED[name](split or "test")


def _from_path(
    source: str | os.PathLike[str], value_range: Range | None, limit: Limit, options: Options
) -> Data:
    if not os.fspath(source):
        raise InputError(f"the name of the data is empty: give {SOURCES}")
    path = Path(os.path.expanduser(source))
    if os.path.isdir(path):
        return _from_folder(path, value_range, limit, options)
    if not os.path.exists(path):  # unlike Path.exists, never raises
        if path.suffix == SHARDS and shards.BRACES.search(os.fspath(path)):
            _refuse(options, path)
            found = shards.expanded(os.fspath(path))
            return shards.from_shards(found, path.stem, value_range, limit)
        raise InputError(f"there is no file or folder {str(path)!r}: give {SOURCES}")
    return _from_file(path, value_range, limit, options)


def _from_folder(path: Path, value_range: Range | None, limit: Limit, options: Options) -> Data:
    """Pictures; or tables or shards, where a folder holds nothing else."""
    listed = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    suffixes = {entry.suffix.lower() for entry in listed if entry.is_file()} - {".json", ".md", ""}
    of_tables = [entry for entry in listed if entry.suffix.lower() in TABLES]
    if of_tables and suffixes <= {*TABLES}:
        return _tables(of_tables, path.resolve().name, value_range, limit, options)
    of_shards = [entry for entry in listed if entry.suffix.lower() == SHARDS]
    if of_shards and suffixes <= {SHARDS}:
        _refuse(options, path)
        return shards.from_shards(of_shards, path.resolve().name, value_range, limit)
    _refuse(options, path, "column", "config")
    return from_folder(path, limit, options["labels"])


def _from_file(path: Path, value_range: Range | None, limit: Limit, options: Options) -> Data:
    suffix = path.suffix.lower()
    if suffix == ".zip":
        _refuse(options, path, "column", "config")
        return from_zip(path, limit, options["labels"])
    if suffix in TABLES:
        return _tables([path], path.stem, value_range, limit, options)
    _refuse(options, path)
    if suffix == SHARDS:
        return shards.from_shards([path], path.stem, value_range, limit)
    if suffix not in (".npy", ".npz"):
        raise InputError(f"{str(path)!r} is a file of unknown kind {path.suffix!r}: give {SOURCES}")
    return (from_npy if suffix == ".npy" else from_npz)(path, value_range, limit)


def _tables(
    paths: Sequence[Path], name: str, value_range: Range | None, limit: Limit, options: Options
) -> Data:
    _refuse(options, paths[0], "config")
    return parquet.from_parquet(
        paths, name, value_range, limit, column=options["column"], labels=options["labels"]
    )


__all__ = [
    "BUNDLED",
    "FOLDERS",
    "JPEG_NOTE",
    "SPLITS",
    "UNIT_RANGE",
    "Data",
    "Labels",
    "Lazy",
    "Source",
    "load_data",
]
