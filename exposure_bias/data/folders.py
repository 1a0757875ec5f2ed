"""Folders and archives of pictures: which files are read, and one array of them all."""

import operator
import os
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from exposure_bias import files
from exposure_bias.data import edm2, zips
from exposure_bias.data.dataset import UNIT_RANGE, Data, Labels, unreadable
from exposure_bias.data.pictures import JPEG_NOTE as JPEG_NOTE
from exposure_bias.data.pictures import SUFFIXES, decoded, described
from exposure_bias.errors import InputError
from exposure_bias.files.limits import JSON, PICTURES, Limit
from exposure_bias.files.reading import Contradiction, parsed

# Folders that file managers and archivers make.
HIDDEN = ("__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "lost+found")
# Kinds of images that are not read: that some are left out must be said.
OTHER = (
    *(".gif", ".avif", ".heic", ".heif", ".jxl", ".jfif", ".jpe", ".jp2", ".apng", ".pnm"),
    *(".pbm", ".tga", ".exr", ".hdr", ".ico", ".psd", ".svg", ".dng", ".cr2", ".nef"),
)
LISTING = "dataset.json"

SPLITS = ("train", "training", "test", "testing", "val", "valid", "validation")
FOLDERS = "folders"  # what labels= says where they are the names of top folders

Identity = tuple[int, int]
Read = Callable[[str], bytes]


def from_folder(path: Path, limit: Limit, labels: str | None = None) -> Data:
    """Pictures at any depth of a folder, ordered by path; or latents, as EDM2 writes them."""
    names, broken = _walked(path, limit)

    def read(name: str) -> bytes:
        with files.opened(path / name) as file:
            limit.check(os.fstat(file.fileno()).st_size, name, path, PICTURES)
            return file.read()

    return _read_all(names, broken, read, path, path.resolve().name, limit, labels)


def from_zip(path: Path, limit: Limit, labels: str | None = None) -> Data:
    """Pictures of an archive, as EDM writes them, or latents, as EDM2 does."""
    with zips.opened(path, "a .zip archive", limit) as archive:
        names = archive.namelist()
        read_as = [*_read_as(names), *(n for n in names if n == LISTING)]
        sizes = [archive.getinfo(name).file_size for name in read_as]
        limit.check(max(sizes, default=0), "a file", path, PICTURES)
        limit.check(sum(sizes), "what is packed", path)

        def read(name: str) -> bytes:
            share = JSON if name == LISTING else PICTURES
            limit.check(archive.getinfo(name).file_size, name, path, share)
            return zips.read(archive, name)

        return _read_all(names, 0, read, path, path.stem, limit, labels)


def _read_as(names: Sequence[str]) -> list[str]:
    """The files that states are read from: pictures, or EDM2's latents where there are none."""
    pictures = [name for name in names if name.lower().endswith(SUFFIXES)]
    return pictures or [name for name in names if edm2.is_latent(name)]


def _read_all(
    names: list[str],
    broken: int,
    read: Read,
    path: Path,
    title: str,
    limit: Limit,
    labels: str | None,
) -> Data:
    latents = sorted(name for name in names if edm2.is_latent(name) and not _hidden(name))
    if latents and not any(name.lower().endswith(SUFFIXES) for name in names):
        chosen, value_range = latents, None
        images: Any = edm2.read(latents, read, path, limit)
        note = edm2.NOTE
    else:
        chosen, value_range = picture_names(names, broken, path), UNIT_RANGE
        images, note = read_pictures(chosen, read, path, limit)
    folders = top_folders(chosen)
    _warn_of_splits(folders, path)
    if labels == FOLDERS:
        classes: Labels = _classes(chosen, folders, path)
    elif labels is not None:
        raise InputError(
            f"labels={labels!r}, but {path} has no columns: give {FOLDERS!r}, for the names of its"
            " top folders, or an array"
        )
    else:
        classes = _listed(names, chosen, read, path)
    if folders and classes is None:
        note = "; ".join(filter(None, (note, _unread(folders))))
    return Data(
        images,
        title,
        labels=classes,
        note=note,
        value_range=value_range,
        names=tuple(chosen),
        folders=folders,
    )


def top_folders(names: Sequence[str]) -> tuple[str, ...]:
    """The folders that all of the files lie in, at the top; none where some lie beside them.

    EDM's numbered folders are not meant."""
    tops = {name.partition("/")[0] if "/" in name else "" for name in names}
    numbered = all(len(top) == 5 and top.isdecimal() for top in tops)
    return () if "" in tops or len(tops) < 2 or numbered else tuple(sorted(tops))


def _unread(folders: Sequence[str]) -> str:
    """What is said of top folders that nobody asked to read as classes."""
    few = ", ".join(folders[:3]) + (", …" if len(folders) > 3 else "")
    return f"images lie in {len(folders)} top folders ({few}), which are not read as labels"


def _warn_of_splits(folders: Sequence[str], path: Path) -> None:
    splits = [folder for folder in folders if folder.lower() in SPLITS]
    if len(splits) > 1:
        warnings.warn(
            f"{path} holds {', '.join(f'{s}/' for s in splits)}, whose images are read together:"
            f" give the one you mean, such as {path / splits[-1]}",
            stacklevel=8,
        )


def _classes(names: Sequence[str], folders: Sequence[str], path: Path) -> Labels:
    """The place of each file's top folder among them, in order of name, as torchvision has it."""
    if not folders:
        raise InputError(
            f"labels='folders', but the images of {path} do not lie in folders of several names:"
            " give labels as an array"
        )
    place = {folder: i for i, folder in enumerate(folders)}
    return np.array([place[name.partition("/")[0]] for name in names], dtype=np.int64)


def _listed(names: Sequence[str], chosen: Sequence[str], read: Read, path: Path) -> Labels:
    """The classes that `dataset.json` lists, if it is there."""
    if LISTING not in names:
        return None
    content = _content(LISTING, read, path)
    wanted = "{'labels': [[file, integer], ...]} with every image once, or null labels"
    try:
        pairs = (parsed(content) or {}).get("labels")
        return None if pairs is None else _of_pairs(pairs, chosen)
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
        warnings.warn(said, stacklevel=8)
    return sorted(found)


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part in HIDDEN for part in name.split("/"))


def read_pictures(
    names: list[str], read: Read, where: Path, limit: Limit
) -> tuple[NDArray[np.uint8], str]:
    """uint8 (N, C, H, W) of the named files and a note.

    Raises InputError unless they agree in size and mode."""
    notes: set[str] = set()
    for i, name in enumerate(
        tqdm(names, f"reading {where.name}", unit="image", delay=1, disable=None)
    ):
        picture = decoded(_content(name, read, where), name, where, limit)
        pixels = picture.pixels
        if i == 0:
            limit.check(len(names) * pixels.size, f"{len(names):,} images", where)
            images = np.empty((len(names), *pixels.shape), dtype=np.uint8)
        if pixels.shape != images.shape[1:]:
            differ = f"{names[0]} is {described(images[0])} but {name} is {described(pixels)}"
            raise InputError(
                f"{differ}: all images of {where} must be alike; resize or convert them"
            )
        images[i] = pixels
        notes |= picture.notes
    return images, "; ".join(sorted(notes))


def _content(name: str, read: Read, where: Path) -> bytes:
    try:
        return read(name)
    except InputError:
        raise
    except Exception as error:  # zipfile raises a dozen kinds for damaged archives
        raise unreadable(where / name, "an image", error) from error
