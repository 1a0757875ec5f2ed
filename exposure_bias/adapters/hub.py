"""Models and images of the Hugging Face hub by name.

As "org/name", "org/name@revision" or "org/name:split".

*Models.* Only the denoiser's own files are fetched: JSON, and one set of safetensors weights
(`pipelines`). No code of a repository runs and nothing is unpickled. A branch or tag is resolved
once, and every file is of the commit that it then names; that commit and the SHA-256 of each file
stand in the model's `source`. Downloads go through huggingface_hub: with a bar, resumed where they
broke off, into its cache, from which they come without a network or with HF_HUB_OFFLINE=1. Weights
are kept in the cache under their SHA-256: a file that differs from it is refused.

*Images* go through `datasets`, an extra, whose versions from 4 on run no code of a repository
either.
"""

import hashlib
import operator
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from exposure_bias.adapters.pipelines import Repository
from exposure_bias.errors import InputError, reason
from exposure_bias.files.library import library

# One slash, and after it perhaps a revision, which may hold more of them: "refs/pr/3".
NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
DATA_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<split>[\w.-]+))?")
JSON_FILES = ["model_index.json", "config.json", "scheduler_config.json"]
COMMIT_SHOWN = 7

SPLITS = (
    "test",
    "validation",
    "train",
)  # preferred in this order: held-out images are what a diagnostic should see
EAGER = (
    2**30
)  # bytes of pixels that are held in memory; beyond, images are decoded as they are asked for
LARGE = 2 * 2**30  # bytes to download; beyond, the first images are streamed
STREAMED = 10_000

Loader = Callable[..., Any]


@dataclass(eq=False)
class Downloads:
    """A repository at one commit; its files are fetched when they are asked for.

    `find` makes one."""

    repo: str
    revision: str
    commit: str
    snapshot: Path
    absent: str = ""
    fetched: dict[str, Path] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The repository and the beginning of its commit.

        As in "google/ddpm-cifar10-32@267b167"."""
        return f"{self.repo}@{self.commit[:COMMIT_SHOWN]}"

    @property
    def repository(self) -> Repository:
        """The files, for `pipelines.read`."""
        return Repository(self.name, self.get, self.folder, self.absent)

    def get(self, name: str) -> Path | None:
        """Where a file lies after it was fetched.

        None if the repository, or without a network the cache, has none."""
        if name not in self.fetched:
            path = self.snapshot / name
            fetched = path if path.exists() else self._fetch(name)
            if fetched is None:
                return None
            self.fetched[name] = fetched
        return self.fetched[name]

    def folder(self, patterns: list[str]) -> Path:
        """The folder that holds the files of these patterns, after they were fetched."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        try:
            snapshot_download(self.repo, revision=self.commit, allow_patterns=patterns)
        except LocalEntryNotFoundError:  # without a network: what the cache has
            pass
        except Exception as error:  # whatever the network or the disk does
            _refuse(error, self.repo, self.revision)
        return self.snapshot

    def _fetch(self, name: str) -> Path | None:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError

        try:
            return Path(hf_hub_download(self.repo, name, revision=self.commit))
        except EntryNotFoundError:
            return None
        except Exception as error:  # whatever the network or the disk does
            _refuse(error, self.repo, self.revision)

    def source(self) -> dict[str, Any]:
        """{"repo", "revision", "commit", "files": {name: SHA-256}} of the files that were read.

        Raises InputError for a file that is not what its name in the cache says.
        """
        files = {name: _checked_hash(path) for name, path in sorted(self.fetched.items())}
        return {"repo": self.repo, "revision": self.revision, "commit": self.commit, "files": files}


def is_name(name: Any, not_of: tuple[str, ...]) -> bool:
    """Whether a text is a name of the hub, with or without a revision.

    Not if it ends like a file of these kinds."""
    return isinstance(name, str) and NAME.fullmatch(name) is not None and not name.endswith(not_of)


def find(name: str) -> Downloads:
    """A repository of the hub at the commit that its name says, "org/name" or "org/name@revision".

    Raises InputError, in one line, where it is missing, gated, or neither in the cache nor within
    reach."""
    hub = library("huggingface_hub", "snapshot_download", "huggingface_hub")
    match = NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{name!r} is no name of the hub: write org/name or org/name@revision")
    repo, revision = match["repo"], match["revision"] or "main"
    absent = ""
    try:
        snapshot = Path(hub.snapshot_download(repo, revision=revision, allow_patterns=JSON_FILES))
    except hub.errors.LocalEntryNotFoundError as error:
        # Raised too where some files of the repository are not here; those that matter may be.
        place = getattr(error, "snapshot_path", None)
        if place is None:
            _refuse(error, repo, revision)
        snapshot = Path(place)
    except Exception as error:  # whatever the network, the disk or a name does
        _refuse(error, repo, revision)
    if hub.constants.HF_HUB_OFFLINE:
        absent = " in the cache, and HF_HUB_OFFLINE is set"
    return Downloads(repo, revision, snapshot.name, snapshot, absent)


def _refuse(error: Exception, repo: str, revision: str) -> NoReturn:
    """Raise InputError with what went wrong and what to do about it."""
    from huggingface_hub import constants, errors

    said, at = reason(error), "" if revision == "main" else f"@{revision}"
    if isinstance(error, errors.GatedRepoError):
        words = (
            f"{repo} is gated: accept its terms at {constants.ENDPOINT}/{repo}, then log in with"
            " `hf auth login`"
        )
    elif isinstance(error, errors.RepositoryNotFoundError):
        words = (
            f"there is no {repo} here or on the hub: correct the name, or if it is private log in"
            " (`hf auth login`)"
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        words = (
            f"{repo} has no revision {revision!r}: give a branch, a tag or a commit, or leave"
            f" @{revision} out"
        )
    elif isinstance(error, errors.HFValidationError):
        words = f"{repo} is no name of the hub ({said}): write org/name or org/name@revision"
    elif constants.HF_HUB_OFFLINE:
        words = (
            f"there is no {repo}{at} here or in the cache {constants.HF_HUB_CACHE}, and"
            " HF_HUB_OFFLINE is set: unset it, or set HF_HUB_CACHE to where it lies"
        )
    elif isinstance(error, errors.LocalEntryNotFoundError):
        words = (
            f"there is no {repo}{at} here or in the cache {constants.HF_HUB_CACHE}, and the hub"
            " cannot be reached: connect, or give a folder"
        )
    else:
        words = f"cannot fetch {repo}{at} from the hub: {said}"
    raise InputError(words) from error


def _checked_hash(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    blob, found = path.resolve().name, digest.hexdigest()
    if re.fullmatch("[0-9a-f]{64}", blob) and blob != found:
        raise InputError(
            f"{path} is not what its name in the cache says (another SHA-256): remove it and fetch"
            " it again"
        )
    return found


@dataclass(frozen=True, eq=False)
class LazyImages:
    """Images of a dataset on disk, decoded when they are asked for.

    images[ids] is uint8 (len(ids), C, H, W)."""

    rows: Any
    column: str
    shape: tuple[int, int, int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        """uint8."""
        return np.dtype(np.uint8)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, ids: ArrayLike) -> NDArray[np.uint8]:
        wanted = np.atleast_1d(np.asarray(ids))
        return np.stack(
            [_pixels(self.rows[int(i)][self.column], int(i), self.shape[1:]) for i in wanted]
        )


def hub_images(
    name: str,
    column: str | None = None,
    labels: str | None = None,
    config: str | None = None,
    limit: int | None = None,
) -> tuple[NDArray[np.uint8] | LazyImages, NDArray[np.int64] | None, str]:
    """The images of a dataset of the hub.

    uint8 (N, C, H, W) or the like of it, their classes (N,) if any, and a note.

    name: "org/name" or "org/name:split"; without a split the first of test, validation, train that
    it has. column: of the images, where there are several; labels: of the classes, by default the
    only one of classes. config: where the dataset has several. limit: take the first so many.

    Up to 1 GiB of pixels are held in memory; more are decoded as they are asked for (`LazyImages`).
    Of a dataset of more than 2 GiB the first `limit`, by default 10,000, and at most 1 GiB of
    pixels, are streamed and the rest is not fetched; the note says how many there are.

    Raises InputError in one line without the library `datasets`, for a dataset or split that is
    missing, gated or out of reach, for no or several columns of images, and for images that differ
    in size or are neither grey nor RGB."""
    match = DATA_NAME.fullmatch(name)
    if match is None:
        raise InputError(f"{name!r} is no dataset of the hub: write org/name or org/name:split")
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise InputError(f"limit is a whole number of at least 1, got {limit!r}")
    datasets = _datasets()
    repo = match["repo"]
    split = _split(
        repo, match["split"], _asked(repo, datasets.get_dataset_split_names, repo, config)
    )
    large = _size(repo, _asked(repo, datasets.load_dataset_builder, repo, config)) > LARGE
    rows = _asked(repo, datasets.load_dataset, repo, config, split=split, streaming=large)
    first = _asked(repo, next, iter(rows), None)
    if first is None:
        raise InputError(f"{repo} holds no images in its split {split}")
    column = _image_column(repo, first, column)
    labels = _label_column(repo, rows.features, first, labels, datasets)
    note = f"{repo}, split {split}"
    if large:
        images, classes = _streamed(repo, rows, column, labels, limit or STREAMED)
        return images, classes, f"{note}, its first {len(images):,} images"
    if limit is not None and limit < len(rows):
        rows, note = rows.select(range(limit)), f"{note}, its first {limit:,} images"
    return (
        _held(rows, column),
        None if labels is None else _integers(list(rows[labels]), labels),
        note,
    )


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
    except Exception as error:  # of the network, the hub, the disk, or the files
        from huggingface_hub import errors

        if isinstance(error, errors.HfHubHTTPError):
            _refuse(error, repo, "main")
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


def _image_column(repo: str, first: dict[str, Any], wanted: str | None) -> str:
    """The column of images, by what stands in the first row.

    Not every dataset says what its columns are."""
    found = [
        name
        for name, value in first.items()
        if hasattr(value, "mode") and hasattr(value, "getbands")
    ]
    if wanted is not None and wanted not in found:
        raise InputError(
            f"{repo} has no images in {wanted!r}: columns of images are"
            f" {', '.join(found) or 'none'}"
        )
    if wanted is None and len(found) != 1:
        several = f"several columns of images, {', '.join(found)}: name one with column="
        raise InputError(f"{repo} has {several if found else 'no column of images'}")
    return wanted or found[0]


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
    repo: str, rows: Any, column: str, labels: str | None, limit: int
) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
    """The first images of a dataset that stays where it is, and their classes."""
    images: list[NDArray[np.uint8]] = []
    classes = []
    try:
        for row in rows:
            images.append(_pixels(row[column], len(images), images[0].shape if images else None))
            classes.append(None if labels is None else row[labels])
            if len(images) >= min(limit, max(EAGER // images[0].nbytes, 1)):
                break
    except InputError:
        raise
    except Exception as error:  # of the network, or the files
        raise InputError(
            f"streaming {repo} broke off: {reason(error)}; try again, or with a smaller limit="
        ) from error
    return np.stack(images), None if labels is None else _integers(classes, labels)


def _held(rows: Any, column: str) -> NDArray[np.uint8] | LazyImages:
    """The images in memory if they are few enough; else as they are on disk."""
    first = _pixels(rows[0][column], 0, None)
    lazy = LazyImages(rows, column, (len(rows), *first.shape))
    return lazy[np.arange(len(lazy))] if first.nbytes * len(rows) <= EAGER else lazy


def _pixels(image: Any, row: int, shape: tuple[int, ...] | None) -> NDArray[np.uint8]:
    """uint8 (C, H, W) of a Pillow image."""
    mode = getattr(image, "mode", type(image).__name__)
    if mode not in ("L", "RGB"):
        raise InputError(
            f"image {row} has mode {mode}: allowed are 8-bit greyscale (L) and RGB; convert the"
            " dataset"
        )
    pixels = np.asarray(image, dtype=np.uint8)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    if shape is not None and pixels.shape != tuple(shape):
        raise InputError(
            f"image {row} is {pixels.shape} where the first is {tuple(shape)}: all must be alike;"
            " resize"
        )
    return pixels


def _integers(values: list[Any], column: str) -> NDArray[np.int64]:
    with suppress(TypeError):
        return np.array([operator.index(value) for value in values], dtype=np.int64)
    raise InputError(
        f"the column {column!r} holds no whole numbers: name one of classes with labels=, or none"
    )
