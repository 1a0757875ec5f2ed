"""Images of the Hugging Face hub by name, "org/name" or "org/name:split".

They go through `datasets`, an extra, whose versions from 4 on run no code of a repository. What was
fetched once comes from its cache, without a network too."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure_bias.data.dataset import Data, Labels, Lazy, Range
from exposure_bias.data.sources import Items, held, integers, state_of
from exposure_bias.errors import InputError, reason
from exposure_bias.files.hub import refuse
from exposure_bias.files.library import library
from exposure_bias.files.limits import Limit

NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<split>[\w.-]+))?")
# Preferred in this order: held-out images are what a diagnostic should see.
SPLITS = ("test", "validation", "train")
LARGE = 2 * 2**30  # bytes to download; beyond, the first images are streamed
STREAMED = 10_000
# What the library raises where neither the hub nor its cache has a dataset.
UNREACHED = ("ConnectionError", "OfflineModeIsEnabled", "LocalEntryNotFoundError")

Loader = Callable[..., Any]


def is_name(text: str) -> bool:
    """Whether a text is a dataset's name on the hub: one slash, and no file's ending."""
    return NAME.fullmatch(text) is not None


def from_hub(
    name: str,
    split: str | None,
    value_range: Range | None,
    limit: Limit,
    column: str | None = None,
    labels: str | None = None,
    config: str | None = None,
) -> Data:
    """The images of a dataset of the hub.

    split: without one here or in the name, the first of test, validation, train that it has.
    column: of the images, where there are several; labels: of the classes, by default the only one
    of classes. config: where the dataset has several.

    Of a dataset of more than 2 GiB the first 10,000 images, and no more than the limit has room
    for, are streamed and the rest is not fetched; the note says how many there are.

    Raises InputError in one line without the library `datasets`, for a dataset or split that is
    missing, gated or out of reach, for no or several columns of images, and for images that differ
    in size or are neither grey nor RGB."""
    match = NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{name!r} is no dataset of the hub: write org/name or org/name:split")
    repo, asked = match["repo"], match["split"]
    if None not in (asked, split) and asked != split:
        raise InputError(f"{name} and split={split!r} name two splits: leave one of them out")
    datasets = _datasets()
    known = _asked(repo, datasets.get_dataset_split_names, repo, config)
    split = _split(repo, asked or split, known)
    large = _size(repo, _asked(repo, datasets.load_dataset_builder, repo, config)) > LARGE
    rows = _asked(repo, datasets.load_dataset, repo, config, split=split, streaming=large)
    first = _asked(repo, next, iter(rows), None)
    if first is None:
        raise InputError(f"{repo} holds no images in its split {split}")
    classes = _label_column(repo, rows.features, first, labels, datasets)
    note = f"{repo}, split {split}"
    images: NDArray[Any] | Lazy
    if large:
        images, found = _streamed(repo, rows, column, classes, limit)
        note = f"{note}, its first {len(images):,} images"
    else:
        source = Items(rows, repo, column)
        images = held(source, repo, value_range, limit)
        found = None if classes is None else integers(list(rows[classes]), classes)
        note = "; ".join([note, *sorted(source.notes)])
    bounded: Range | None = (-1.0, 1.0) if images.dtype == np.uint8 else value_range
    return Data(images, repo, split, found, note, bounded)


def _datasets() -> Any:
    datasets = library("datasets", "load_dataset", "datasets>=4")
    if int(str(datasets.__version__).partition(".")[0]) < 4:
        raise InputError(
            f"datasets {datasets.__version__} may run a repository's code: pip install -U"
            " 'datasets>=4'"
        )
    return datasets


def _asked(repo: str, load: Loader, *given: Any, **options: Any) -> Any:
    """What the library answers. Raises InputError with its reason."""
    try:
        return load(*given, **options)
    except InputError:
        raise
    except Exception as error:  # of the network, the hub, the disk, or the files
        from huggingface_hub import errors

        if isinstance(error, errors.HfHubHTTPError):
            refuse(error, repo, "main")
        if any(base.__name__ in UNREACHED for base in type(error).__mro__):
            raise InputError(
                f"there is no dataset {repo} in the cache of the library datasets, and the hub"
                f" cannot be reached ({reason(error)}): connect, unset HF_HUB_OFFLINE, or give a"
                " folder"
            ) from error
        raise InputError(f"cannot load the dataset {repo}: {reason(error)}") from error


def _split(repo: str, wanted: str | None, known: list[str]) -> str:
    if wanted is None:
        return next((split for split in SPLITS if split in known), known[0])
    if wanted not in known:
        raise InputError(f"{repo} has no split {wanted!r}: it has {', '.join(known)}")
    return wanted


def _size(repo: str, builder: Any) -> int:
    """The bytes to download, by the dataset's own account or that of its files.

    0 where nobody can be asked."""
    if builder.info.download_size is not None:
        return int(builder.info.download_size)
    from huggingface_hub import HfApi

    try:
        files = HfApi().dataset_info(repo, files_metadata=True).siblings or []
    except Exception:  # a folder of that name, or no network: nothing will be downloaded
        return 0
    return sum(file.size or 0 for file in files)


def _label_column(
    repo: str, features: Any, first: dict[str, Any], wanted: str | None, datasets: Any
) -> str | None:
    found = [
        name
        for name, feature in (features or {}).items()
        if isinstance(feature, datasets.ClassLabel)
    ]
    if wanted is not None and wanted not in first:
        raise InputError(f"{repo} has no column {wanted!r}: it has {', '.join(first)}")
    return wanted or (found[0] if len(found) == 1 else None)


def _streamed(
    repo: str, rows: Any, column: str | None, labels: str | None, limit: Limit
) -> tuple[NDArray[Any], Labels]:
    """The first images of a dataset that stays where it is, and their classes."""
    images: list[NDArray[Any]] = []
    classes, notes = [], set[str]()
    try:
        for row in rows:
            images.append(state_of(row, f"sample {len(images)} of {repo}", column, notes))
            if images[-1].shape != images[0].shape:
                raise InputError(
                    f"sample {len(images) - 1} of {repo} is {images[-1].shape} where the first is"
                    f" {images[0].shape}: all must be alike; resize"
                )
            classes.append(None if labels is None else row[labels])
            if len(images) >= min(STREAMED, max(limit.bytes // images[0].nbytes, 1)):
                break
    except InputError:
        raise
    except Exception as error:  # of the network, or the files
        raise InputError(
            f"streaming {repo} broke off: {reason(error)}; try again, or with a smaller limit of"
            " bytes (limit=, --limit-data)"
        ) from error
    return np.stack(images), None if labels is None else integers(classes, labels)
