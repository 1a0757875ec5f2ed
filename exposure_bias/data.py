"""Images in, float32 in [−1, 1] out, shape (N, C, H, W), with a recorded train/test split. No torch
here.

    source                  what is read                                                          labels
    "digits"                scikit-learn's 1797 digits, (1, 8, 8): 1285 train, 512 test           yes
    "patches"               patches of its two photographs, (3, 16, 16): 1560 train, 520 test     no
    a folder                PNG, JPEG, WebP, BMP, TIFF, PPM or PGM images at any depth            no
    an .npz file            `arr_0`, uint8 (N, H, W, C), as guided-diffusion writes it            `arr_1`, if any
    a .zip file             images, as EDM writes them                                            `dataset.json`, if any
    an array or a tensor    (N, C, H, W) or (N, H, W), float in [−1, 1] or uint8                  `labels=`

8-bit images stay uint8 in memory and become x/127.5 − 1 when a batch is taken. Images of a folder
or an archive are ordered by path. Nothing is ever unpickled. scikit-learn and Pillow are imported
only where they are needed, so that analysing a recording never pays for them."""

import hashlib
import io
import json
import operator
import os
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm import tqdm

from exposure_bias import strangers
from exposure_bias.errors import InputError
from exposure_bias.states import State

Range = tuple[float, float]
Labels = NDArray[np.int64] | None

UNIT_RANGE: Range = (-1.0, 1.0)
SPLITS = ("train", "test")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
SOURCES = (
    "a folder of images, an .npz, a .zip, an array or tensor, or the bundled 'digits' or 'patches'"
)
RANKS = "(N, D), (N, C, H, W) or (N, H, W), (N, C, F, H, W)"
JPEG_NOTE = "JPEG images: high frequencies are quantised"

DIGITS_TEST = 512
PATCH = 16
ROUND_OFF = 1e-6  # 255 · float32(2/255) − 1 already exceeds 1
# The hash sees values in 4096ths of a grey level: an 8-bit value lies on that grid and float32
# round-off does not leave it, so an image hashes alike as uint8 and as float32, whichever way it
# was scaled.
HASH_SCALE = np.float32(127.5 * 4096)
HASH_CHUNK = 64


@dataclass(frozen=True, eq=False)
class Data:
    """N images and where they came from; build one with `load_data`.

    images: (N, C, H, W), uint8 0…255 or float32; not copied from the caller, so leave it unchanged.
    Use `batch`.
    split: "train" or "test" where the source records a split, else None. labels: int64 (N,) or
    None.
    note: what a reader of a spectrum must know, for example that the images were JPEG; else empty.
    value_range: (−1, 1), or None where `load_data` was told not to check it.
    """

    images: NDArray[Any] = field(repr=False)
    name: str
    split: str | None = None
    labels: Labels = field(default=None, repr=False)
    note: str = ""
    value_range: Range | None = UNIT_RANGE

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> State:
        """That of one state: (D,), (C, T), (C, H, W) or (C, F, H, W)."""
        return self.images.shape[1:]

    def fitted(self, shape: State) -> "Data":
        """The same values as states of a model's shape, where the two differ in leading axes of
        length one alone; else the data as they are.

        An array (N, a, b) is read as images (1, a, b), and this makes signals (a, b) of them."""
        if _without_leading_ones(self.shape) != _without_leading_ones(shape):
            return self
        return replace(self, images=self.images.reshape(len(self), *shape))

    def batch(self, ids: ArrayLike) -> NDArray[np.float32]:
        """A fresh float32 array (len(ids), C, H, W) of the images `ids`, in [−1, 1] unless
        value_range is None."""
        images = self.images[np.asarray(ids, dtype=np.int64)]
        return (
            np.divide(images, 127.5, dtype=np.float32) - 1 if images.dtype == np.uint8 else images
        )

    def labels_of(self, ids: ArrayLike) -> Labels:
        """int64 (len(ids),): the classes of the images `ids`, or None where the data hold none."""
        return None if self.labels is None else self.labels[np.asarray(ids, dtype=np.int64)]

    @property
    def label_hash(self) -> str | None:
        """16 hexadecimal digits of a SHA-256 over the labels in order, or None where the data hold
        none."""
        return (
            None
            if self.labels is None
            else hashlib.sha256(self.labels.astype("<i8").tobytes()).hexdigest()[:16]
        )

    @cached_property
    def hash(self) -> str:
        """16 hexadecimal digits of a SHA-256 over shape, values (to 2e−6) and order; not over
        labels or dtype."""
        digest = hashlib.sha256(repr(self.images.shape).encode())
        for start in range(0, len(self), HASH_CHUNK):
            images = self.batch(np.arange(start, min(start + HASH_CHUNK, len(self))))
            grid = np.rint(images * HASH_SCALE) + 0.0  # + 0 turns −0 into 0
            digest.update(grid.astype("<f4").tobytes())
        return digest.hexdigest()[:16]


def _without_leading_ones(shape: State) -> State:
    first = next((i for i, size in enumerate(shape) if size > 1), len(shape))
    return tuple(shape[first:])


def load_data(
    source: Any,
    split: str | None = None,
    *,
    value_range: Range | None = UNIT_RANGE,
    labels: ArrayLike | None = None,
) -> Data:
    """Read images from any of the sources in the module docstring; a `Data` is returned as it is.

    split: "train" or "test", for the bundled sources only; None there means "test", since held-out
    images are what a diagnostic should see. value_range=None accepts float arrays beyond [−1, 1]
    (latents, synthetic data).
    labels: the class of each image, integers (N,), in the images' order; they replace any that the
    source holds.

    Raises InputError, in one line, for a source that is missing, empty, damaged, of an unknown kind
    or of mixed sizes or modes; for values that are not finite or outside [−1, 1]; for a split that
    the source does not have; for labels that are not N integers."""
    data = _load(source, split, value_range)
    return (
        data
        if labels is None
        else replace(data, labels=_checked_labels(labels, len(data), "labels"))
    )


def _load(source: Any, split: str | None, value_range: Range | None) -> Data:
    if split not in (None, *SPLITS):
        raise InputError(f"unknown split {split!r}: allowed are {', '.join(SPLITS)}")
    if value_range not in (None, UNIT_RANGE):
        raise InputError(
            f"value_range is {value_range!r}, allowed are (-1, 1) and None: rescale the images"
            " yourself"
        )
    if isinstance(source, str) and source in BUNDLED:
        return BUNDLED[source](split or "test")
    if isinstance(source, Data) and split in (None, source.split):
        return source
    if strangers.is_name(source):
        return load_data(strangers.made(source, "data"), split, value_range=value_range)
    if split is not None:
        advice = "leave split out and give the images of that split"
        raise InputError(
            f"split={split!r}, but only the bundled 'digits' and 'patches' record a split: {advice}"
        )
    if isinstance(source, str | os.PathLike):
        return _from_path(Path(os.path.expanduser(source)))
    return _from_array(source, value_range)


def _digits(split: str) -> Data:
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    ids = np.sort(order[:DIGITS_TEST] if split == "test" else order[DIGITS_TEST:])
    images = (digits.images[ids, None] / 8 - 1).astype(np.float32)
    return Data(images, "digits", split, digits.target[ids].astype(np.int64), "17 grey values")


def _patches(split: str) -> Data:
    """Left three quarters of each photograph train, right quarter test: no patch of one touches the
    other's pixels."""
    from sklearn.datasets import load_sample_images

    photos = np.stack(load_sample_images().images)  # (2, 427, 640, 3) uint8
    rows, columns = photos.shape[1] // PATCH, photos.shape[2] // PATCH
    border = 3 * columns // 4
    grid = photos[:, : rows * PATCH, : columns * PATCH].reshape(
        len(photos), rows, PATCH, columns, PATCH, 3
    )
    grid = grid[:, :, :, :border] if split == "train" else grid[:, :, :, border:]
    images = grid.transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3, PATCH, PATCH)
    return Data(
        images,
        "patches",
        split,
        note="patches of JPEG photographs: their high frequencies are those of JPEG",
    )


BUNDLED: dict[str, Callable[[str], Data]] = {"digits": _digits, "patches": _patches}


def _from_path(path: Path) -> Data:
    if os.path.isdir(path):
        return _from_folder(path)
    if not os.path.exists(path):  # unlike Path.exists, never raises
        raise InputError(f"there is no file or folder {str(path)!r}: give {SOURCES}")
    readers = {".npz": _from_npz, ".zip": _from_zip}
    if path.suffix.lower() not in readers:
        raise InputError(f"{str(path)!r} is a file of unknown kind {path.suffix!r}: give {SOURCES}")
    return readers[path.suffix.lower()](path)


def _from_folder(path: Path) -> Data:
    names = _image_names(
        [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()], path
    )
    images, note = _read_images(names, lambda name: (path / name).read_bytes(), path)
    return Data(images, path.resolve().name, note=note)


def _from_zip(path: Path) -> Data:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise _unreadable(path, "a .zip archive", error) from error
    with archive:
        names = _image_names(archive.namelist(), path)
        labels = _zip_labels(archive, names, path)
        images, note = _read_images(names, archive.read, path)
    return Data(images, path.stem, labels=labels, note=note)


def _zip_labels(archive: zipfile.ZipFile, names: list[str], path: Path) -> Labels:
    if "dataset.json" not in archive.namelist():
        return None
    try:
        pairs = (json.loads(archive.read("dataset.json")) or {}).get("labels")
        if pairs is None:
            return None
        label_of = dict(pairs)
        return np.array([operator.index(label_of[name]) for name in names], dtype=np.int64)
    except Exception as error:  # malformed JSON fails in many ways, all with the same cure
        wanted = "{'labels': [[file, integer], ...]} with every image, or null labels"
        raise InputError(
            f"cannot use dataset.json in {path}: it must hold {wanted}; correct it"
        ) from error


def _from_npz(path: Path) -> Data:
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in ("arr_0", "arr_1") if key in archive}
    except (
        Exception
    ) as error:  # damage surfaces as BadZipFile, ValueError, EOFError, zlib.error, TypeError, …
        raise _unreadable(path, "an .npz of plain arrays", error) from error
    if "arr_0" not in arrays:
        raise InputError(
            f"{path} has no 'arr_0': save the images with np.savez(path, images), uint8 (N, H,"
            " W, C)"
        )
    images, labels = arrays["arr_0"], arrays.get("arr_1")
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        came = f"'arr_0' of {path} is {images.dtype} of shape {images.shape}"
        raise InputError(
            f"{came}: allowed is uint8 (N, H, W, C) with C = 1 or 3; give other images as an array"
        )
    if labels is not None:
        labels = _checked_labels(labels, len(images), f"'arr_1' of {path}")
    images = _checked(np.ascontiguousarray(images.transpose(0, 3, 1, 2)), UNIT_RANGE)
    return Data(images, path.stem, labels=labels)


def _checked_labels(labels: ArrayLike, count: int, name: str) -> NDArray[np.int64]:
    labels = np.asarray(labels)
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        came = f"{name}: {labels.dtype} of shape {labels.shape}"
        raise InputError(
            f"{came}, allowed are {count} integer labels, one for each image; correct or leave"
            " them out"
        )
    return labels.astype(np.int64)


def _from_array(source: Any, value_range: Range | None) -> Data:
    if all(
        hasattr(source, name) for name in ("detach", "cpu", "numpy")
    ):  # a torch tensor, without importing torch
        source = source.detach().cpu()
        source = (
            source.float() if source.is_floating_point() else source
        ).numpy()  # numpy has no bfloat16
    if not hasattr(source, "__array__"):
        raise InputError(f"cannot read images from a {type(source).__name__}: give {SOURCES}")
    images = np.asarray(source)
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise InputError(
            f"images are {images.dtype}: allowed are uint8 in 0..255 and float in [-1, 1]; convert"
            " them"
        )
    if not 2 <= images.ndim <= 5:
        raise InputError(f"data have shape {images.shape}: allowed are {RANKS}; reshape them")
    if images.ndim == 3:
        images = images[:, None]
    # The last comparison lets synthetic data of shape (N, C, 1, 1) pass.
    if (
        images.ndim > 3
        and images.shape[-1] in (1, 3)
        and images.shape[1] not in (1, 3)
        and images.shape[-1] < images.shape[-2]
    ):
        raise InputError(
            f"images of shape {images.shape} look channels-last: transpose them to (N, C, H, W)"
        )
    images = _checked(images, value_range)
    return Data(
        images, "array", value_range=UNIT_RANGE if images.dtype == np.uint8 else value_range
    )


def _checked(images: NDArray[Any], value_range: Range | None) -> NDArray[Any]:
    """The images (N, C, H, W) as uint8 or float32; raises InputError if there are none or a value
    is not allowed."""
    if images.size == 0:
        raise InputError(f"there are no images in shape {images.shape}: give at least one")
    if images.dtype == np.uint8:
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
        advice = "rescale them, or pass value_range=None for latents and synthetic data"
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


def _image_names(names: list[str], where: Path) -> list[str]:
    """Those that are images, in order of path; hidden files are none (macOS writes `._x.png` beside
    `x.png`)."""
    found = [
        name
        for name in names
        if name.lower().endswith(IMAGE_SUFFIXES) and not Path(name).name.startswith(".")
    ]
    if not found:
        raise InputError(
            f"no images in {str(where)!r}: looked for {', '.join(IMAGE_SUFFIXES)} at any depth"
        )
    return sorted(found)


def _read_images(
    names: list[str], read: Callable[[str], bytes], where: Path
) -> tuple[NDArray[np.uint8], str]:
    """uint8 (N, C, H, W) of the named files and a note; raises InputError unless they agree in size
    and mode."""
    jpeg = False
    for i, name in enumerate(
        tqdm(names, f"reading {where.name}", unit="image", delay=1, disable=None)
    ):
        pixels, format_ = _decode(name, read, where)
        if i == 0:
            images = np.empty((len(names), *pixels.shape), dtype=np.uint8)
        if pixels.shape != images.shape[1:]:
            differ = f"{names[0]} is {_describe(images[0])} but {name} is {_describe(pixels)}"
            raise InputError(
                f"{differ}: all images of {where} must be alike; resize or convert them"
            )
        images[i] = pixels
        jpeg |= format_ in ("JPEG", "MPO")
    return images, JPEG_NOTE if jpeg else ""


def _describe(pixels: NDArray[np.uint8]) -> str:
    channels, height, width = pixels.shape
    return f"{'greyscale' if channels == 1 else 'RGB'} of {width}x{height} pixels"


def _decode(
    name: str, read: Callable[[str], bytes], where: Path
) -> tuple[NDArray[np.uint8], str | None]:
    """uint8 (C, H, W), C = 1 or 3, and the file format; palettes become RGB and an opaque alpha
    channel is dropped."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(read(name))) as opened:
            format_ = opened.format
            image = opened.copy()
        if image.mode in ("P", "PA", "LA", "RGBA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            opaque = rgba.getchannel("A").getextrema() == (255, 255)
            image = rgba.convert("L" if image.mode in ("L", "LA") else "RGB") if opaque else rgba
        elif image.mode == "1":
            image = image.convert("L")
    except Exception as error:  # Pillow and zipfile raise a dozen kinds for damaged files
        raise _unreadable(where / name, "an image", error) from error
    if image.mode not in ("L", "RGB"):
        what = "is transparent" if image.mode == "RGBA" else f"has mode {image.mode}"
        raise InputError(
            f"{name} in {where} {what}: allowed are 8-bit greyscale and RGB without alpha;"
            " convert it"
        )
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1), format_


def _unreadable(path: Path, kind: str, error: Exception) -> InputError:
    return InputError(
        f"cannot read {path} as {kind} ({type(error).__name__}): replace it or leave it out"
    )
