"""Folders and archives of pictures: which files are read, and one array of them all."""

import operator
import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from exposure_bias import files
from exposure_bias.data import zips
from exposure_bias.data.dataset import Data, Labels, unreadable
from exposure_bias.data.pictures import SUFFIXES, decoded, described
from exposure_bias.errors import InputError
from exposure_bias.files.limits import JSON, PICTURES, Limit
from exposure_bias.files.reading import Contradiction, parsed

JPEG_NOTE = "JPEG images: high frequencies are quantised"
# Folders that file managers and archivers make.
HIDDEN = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found")
# Kinds of images that are not read: that some are left out must be said.
OTHER = (
    *(".gif", ".avif", ".heic", ".heif", ".jxl", ".jfif", ".jpe", ".jp2", ".apng", ".pnm"),
    *(".pbm", ".tga", ".exr", ".hdr", ".ico", ".psd", ".svg", ".dng", ".cr2", ".nef"),
)
LISTING = "dataset.json"

Identity = tuple[int, int]


def from_folder(path: Path, limit: Limit) -> Data:
    """Pictures at any depth of a folder, ordered by path."""
    names = picture_names(*_walked(path, limit), path)

    def read(name: str) -> bytes:
        with files.opened(path / name) as file:
            limit.check(os.fstat(file.fileno()).st_size, name, path, PICTURES)
            return file.read()

    images, note = read_pictures(names, read, path, limit)
    return Data(images, path.resolve().name, note=note)


def from_zip(path: Path, limit: Limit) -> Data:
    """Pictures of an archive, as EDM writes them."""
    with zips.opened(path, "a .zip archive", limit) as archive:
        names = picture_names(archive.namelist(), 0, path)
        sizes = [archive.getinfo(name).file_size for name in names]
        limit.check(max(sizes), "a file", path, PICTURES)
        limit.check(sum(sizes), "what is packed", path)
        labels = _labels(archive, names, path, limit)
        images, note = read_pictures(names, partial(zips.read, archive), path, limit)
    return Data(images, path.stem, labels=labels, note=note)


def _labels(archive: zipfile.ZipFile, names: list[str], path: Path, limit: Limit) -> Labels:
    if LISTING not in archive.namelist():
        return None
    limit.check(archive.getinfo(LISTING).file_size, LISTING, path, JSON)
    wanted = "{'labels': [[file, integer], ...]} with every image once, or null labels"
    try:
        pairs = (parsed(zips.read(archive, LISTING)) or {}).get("labels")
        return None if pairs is None else _of_pairs(pairs, names)
    except (InputError, Contradiction) as error:
        raise InputError(f"cannot use {LISTING} in {path}: {error}; correct it") from error
    except Exception as error:  # malformed JSON fails in many ways, all with the same cure
        raise InputError(
            f"cannot use {LISTING} in {path}: it must hold {wanted}; correct it"
        ) from error


def _of_pairs(pairs: Sequence[Sequence[Any]], names: Sequence[str]) -> NDArray[np.int64]:
    """The labels of files, from pairs of a name and an integer.

    Raises InputError for two labels of one file, and other errors for what are no such pairs."""
    label_of: dict[str, int] = {}
    for name, label in pairs:
        if isinstance(label, bool):
            raise TypeError(name)
        if label_of.setdefault(name, operator.index(label)) != label:
            raise InputError(f"{name} has the labels {label_of[name]} and {label}")
    return np.array([label_of[name] for name in names], dtype=np.int64)


def _walked(folder: Path, limit: Limit) -> tuple[list[str], int]:
    """Every file beneath a folder, links followed, and how many are no image.

    Counted are entries with an image's name that are none. Raises InputError for a link that leads
    back, and for a folder that cannot be read."""
    names, broken, seen = [], 0, 0
    pending: list[tuple[str, tuple[Identity, ...]]] = [("", (_identity(folder),))]
    while pending:
        inside, above = pending.pop()
        for entry in _entries(folder / inside):
            seen += 1
            name = f"{inside}{entry.name}"
            kind = _kind(entry)
            if kind == "folder":
                here = _identity(folder / name)
                if here in above:
                    raise InputError(f"{folder / name} leads back to where it is: remove that link")
                pending.append((f"{name}/", (*above, here)))
            elif kind == "file":
                names.append(name)
            else:
                broken += name.lower().endswith(SUFFIXES)
        limit.check_files(seen + len(pending), folder)
    return names, broken


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror or error}") from error


def _kind(entry: os.DirEntry[str]) -> str:
    """What an entry is, links followed: "folder", "file", or "" for anything else."""
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:  # a link to itself, a path that is too long
        return ""


def _identity(folder: Path) -> Identity:
    try:
        status = folder.stat()
    except OSError as error:
        raise InputError(f"cannot read the folder {folder}: {error.strerror or error}") from error
    return status.st_dev, status.st_ino


def picture_names(names: Sequence[str], broken: int, where: Path) -> list[str]:
    """Those that are read, in order of path; a warning counts images that are not.

    broken: how many more have an image's name but are no files."""
    pictures = [name for name in names if name.lower().endswith(SUFFIXES)]
    found = [name for name in pictures if not _hidden(name)]
    others = Counter(PurePosixPath(name).suffix.lower() for name in names if not _hidden(name))
    other = {suffix: others[suffix] for suffix in OTHER if others[suffix]}
    # macOS writes `._x.png` beside `x.png`: nobody misses those.
    hidden = sum(_hidden(name) and "/._" not in f"/{name}" for name in pictures)
    left_out = [
        f"{hidden} in hidden folders or files" if hidden else "",
        f"{sum(other.values())} of kinds that are not read ({', '.join(other)})" if other else "",
        f"{broken} that are no files (broken links, pipes)" if broken else "",
    ]
    said = f"images of {str(where)!r} are left out: {', '.join(filter(None, left_out))}"
    if not found:
        looked = f"no images in {str(where)!r}: looked for {', '.join(SUFFIXES)} at any depth"
        raise InputError(f"{looked}; {said}" if any(left_out) else looked)
    if any(left_out):
        warnings.warn(said, stacklevel=4)
    return sorted(found)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part in HIDDEN for part in name.split("/"))


def read_pictures(
    names: list[str], read: Callable[[str], bytes], where: Path, limit: Limit
) -> tuple[NDArray[np.uint8], str]:
    """uint8 (N, C, H, W) of the named files and a note.

    Raises InputError unless they agree in size and mode."""
    jpeg = False
    for i, name in enumerate(
        tqdm(names, f"reading {where.name}", unit="image", delay=1, disable=None)
    ):
        pixels, format_ = decoded(_content(name, read, where), name, where, limit)
        if i == 0:
            limit.check(len(names) * pixels.size, f"{len(names):,} images", where)
            images = np.empty((len(names), *pixels.shape), dtype=np.uint8)
        if pixels.shape != images.shape[1:]:
            differ = f"{names[0]} is {described(images[0])} but {name} is {described(pixels)}"
            raise InputError(
                f"{differ}: all images of {where} must be alike; resize or convert them"
            )
        images[i] = pixels
        jpeg |= format_ in ("JPEG", "MPO")
    return images, JPEG_NOTE if jpeg else ""


def _content(name: str, read: Callable[[str], bytes], where: Path) -> bytes:
    try:
        return read(name)
    except InputError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds for damaged archives
        raise unreadable(where / name, "an image", error) from error
