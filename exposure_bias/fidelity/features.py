"""From images to features.

Inception's, which alone make the Fréchet distance FID, and stand-ins that need no download.

    features          d               of images                      the Fréchet distance is called
    inception         2048 (+ 2023)   C = 3; C = 1 is repeated       FID (and sFID, of spatial ones)
    classifier        32              1×8×8 digits                   Fréchet distance (features)
    random-conv       32              any                            Fréchet distance (features)
    pixel             C·H·W           any                            Fréchet distance (features)
    module:function   its own         what it takes                  Fréchet distance (features)

Images reach an extractor as (B, *shape) in 0…255: uint8, quantised as guided-diffusion does before
it saves samples, ((x + 1)·127.5).clamp(0, 255) cut to whole numbers, or float32 where quantisation
is skipped."""

import hashlib
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from exposure_bias import files
from exposure_bias.data import Data, zips
from exposure_bias.data.arrays import NPZ, members
from exposure_bias.errors import InputError
from exposure_bias.fidelity import classifier, inception
from exposure_bias.fidelity.sets import FeatureSet
from exposure_bias.files.limits import Limit
from exposure_bias.running import parallel
from exposure_bias.states import State, described
from exposure_bias.strangers import imported

NAMES = ("inception", "classifier", "random-conv", "pixel")
FID, STAND_IN = "FID", "Fréchet distance (features)"
CHANNELS = 32
CACHE = "EXPOSURE_BIAS_CACHE"
# Of a file of the cache: numbers of an image at most, the name of its digest, how many images are
# looked at again, and how far their features may be off, of their root mean square.
MOST_FEATURES, DIGEST, CHECKED, ROUND_OFF = 2**15, "sha256", 4, 1e-2
GREYSCALE = "greyscale images, repeated to three channels"

Pair = tuple[Tensor, Tensor | None]
Arrays = dict[str, NDArray[np.floating]]


@dataclass(frozen=True, eq=False)
class Extractor:
    """A function from images to features, with what makes its numbers comparable.

    identity: name and hash of the weights; distances compare only within one identity. measure:
    what the Fréchet distance is called. call: images (B, *shape) in 0…255 to features (B, d) and
    spatial features (B, e) or None.
    note: what was done to the images. costly: whether features of real images are worth keeping on
    disk."""

    identity: str
    measure: str
    call: Callable[[Tensor], Pair]
    note: str = ""
    costly: bool = False


class Features(NamedTuple):
    """Features of a set of images, and spatial features where the extractor has them."""

    pool: FeatureSet
    spatial: FeatureSet | None


def extractor(
    features: str | Callable[[Tensor], Tensor],
    shape: State,
    weights: str | os.PathLike[str] | None = None,
    device: torch.device | str = "cpu",
) -> Extractor:
    """The extractor of a name in the module docstring, or of a function.

    For images of a shape (C, H, W).

    weights: of Inception, see `inception.find`. device: where Inception runs; a function gets its
    images there.

    Raises InputError for an unknown name, a shape that does not suit, or weights that are missing
    or wrong."""
    if features == "inception":
        return _inception(shape, weights, device)
    if weights is not None:
        raise InputError(
            f"weights are for Inception, but the features are {features!r}: leave them out"
        )
    if features == "classifier":
        kind = classifier.of(shape)
        if kind is None:
            raise InputError(
                f"the bundled classifiers know {classifier.known()}, got {described(shape)}: use"
                " inception, random-conv or pixel"
            )
        net = classifier.load(kind)
        digest = hashlib.sha256((kind.folder / classifier.FILE).read_bytes()).hexdigest()[:8]
        return Extractor(
            f"classifier {digest}", STAND_IN, lambda x: (net.features(_unit(x.cpu())), None)
        )
    if features == "random-conv":
        if len(shape) != 3:
            raise InputError(
                f"random-conv is for images (C, H, W), got {described(shape)}: use pixel"
            )
        return Extractor("random-conv", STAND_IN, _random_convolutions(shape[0]))
    if features == "pixel":
        return Extractor("pixel", STAND_IN, lambda x: (_unit(x).flatten(1), None))
    return _users(features, shape, device)


def quantised(x: Tensor) -> Tensor:
    """Images in [−1, 1] as uint8, as guided-diffusion's samplers write them.

    Cut, not rounded (image_sample.py)."""
    return ((x.float() + 1) * 127.5).clamp(0, 255).to(torch.uint8)


def real_images(data: Data, ids: NDArray[np.int64], quantise: bool) -> Tensor:
    """Real images (B, *shape) in 0…255.

    8-bit sources as they are: cutting x/127.5 − 1 could lose a level."""
    if data.images.dtype == np.uint8:
        images = torch.from_numpy(data.images[ids])
        return images if quantise else images.float()
    x = torch.from_numpy(data.batch(ids))
    return quantised(x) if quantise else (x + 1) * 127.5


def extract(extractor: Extractor, batches: Iterable[tuple[Tensor, NDArray[np.int64]]]) -> Features:
    """Features of batches of (images (B, *shape) in 0…255, image ids (B,)).

    The images are let go one by one.

    Raises InputError if the extractor does not return finite floats of shape (B, d).
    """
    pairs, ids = [], [np.empty(0, dtype=np.int64)]
    for images, numbers in batches:
        pairs.append(extracted(extractor, images))
        ids.append(numbers)
    return _joined(pairs, np.concatenate(ids))


def extracted(
    extractor: Extractor, images: Tensor
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Features (B, d) of one batch of images in 0…255, and spatial ones (B, e) or None."""
    with torch.no_grad():
        pool, spatial = extractor.call(images)
    if not isinstance(pool, Tensor) or pool.ndim != 2 or len(pool) != len(images):
        came = tuple(pool.shape) if isinstance(pool, Tensor) else type(pool).__name__
        raise InputError(
            f"an extractor returns a tensor (B, d), {extractor.identity} returned {came}:"
            " correct it"
        )
    return pool.float().cpu().numpy(), None if spatial is None else spatial.float().cpu().numpy()


def extract_real(
    extractor: Extractor,
    data: Data,
    ids: NDArray[np.int64],
    quantise: bool = True,
    batch_size: int = 256,
) -> Features:
    """Features of real images, kept on disk by content where they are costly.

    They lie in the folder of the environment variable EXPOSURE_BIAS_CACHE, by default
    ~/.cache/exposure_bias, under a hash of the images, the weights and the quantisation."""

    def found() -> Features:
        return _shared(extractor, data, ids, quantise, batch_size)

    if not extractor.costly:
        return found()
    key = json.dumps(
        [extractor.identity, data.hash, hashlib.sha256(ids.tobytes()).hexdigest(), quantise]
    )
    path = _cache_folder() / f"features-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
    kept = parallel.once(lambda: _kept(path, extractor, data, ids, quantise))
    if kept is None:
        made = found()
        parallel.once(lambda: _cache(path, made))
        return made
    return Features(
        FeatureSet(kept["pool"], ids),
        FeatureSet(kept["spatial"], ids) if "spatial" in kept else None,
    )


def _cache_folder() -> Path:
    """Where features are kept; a machine without a home has its folder of temporary files."""
    home = os.path.expanduser("~")
    place = os.path.join(home, ".cache") if os.path.isabs(home) else tempfile.gettempdir()
    return Path(os.environ.get(CACHE) or os.path.join(place, "exposure_bias"))


def _kept(
    path: Path, extractor: Extractor, data: Data, ids: NDArray[np.int64], quantise: bool
) -> Arrays | None:
    """The features in a file of the cache; None where they are not those of the images.

    They must be as they were written, and those of a few images what the extractor says of them."""
    try:
        limit = Limit(len(ids) * MOST_FEATURES * 4)
        with zips.opened(path, NPZ, limit) as archive:
            kept = members(archive, ("pool", "spatial", DIGEST), path, limit, "fU")
        if str(kept.pop(DIGEST, "")) != _digest(kept):
            return None
        rows = np.unique(np.linspace(0, len(ids) - 1, CHECKED).astype(int))
        pool, spatial = extracted(extractor, real_images(data, ids[rows], quantise))
        said = {"pool": pool} | ({} if spatial is None else {"spatial": spatial})
        alike = said.keys() == kept.keys() and all(
            len(kept[name]) == len(ids) and _alike(kept[name][rows], said[name]) for name in said
        )
    except Exception:  # missing or damaged: made anew
        return None
    return kept if alike else None


def _alike(kept: NDArray[np.floating], said: NDArray[np.floating]) -> bool:
    """Whether features are the same up to what devices and batches change."""
    size = float(np.sqrt(np.mean(np.square(said, dtype=np.float64))))
    return kept.shape == said.shape and bool(np.abs(kept - said).max() <= ROUND_OFF * size)


def _digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _cache(path: Path, found: Features) -> None:
    arrays = {"pool": found.pool.features}
    if found.spatial is not None:
        arrays["spatial"] = found.spatial.features
    buffer = io.BytesIO()
    written: Any = arrays | {DIGEST: np.array(_digest(arrays))}
    np.savez(buffer, allow_pickle=False, **written)
    try:
        files.write_bytes(path, buffer.getvalue())
    except InputError as error:  # a cache saves time and decides nothing
        warnings.warn(f"features are not kept for the next time: {error}", stacklevel=2)


def _shared(
    extractor: Extractor, data: Data, ids: NDArray[np.int64], quantise: bool, batch_size: int
) -> Features:
    """Features of real images, of which every process extracts a share and gets all."""
    starts = range(0, len(ids), batch_size)
    mine = parallel.share(len(starts), *parallel.team())
    rows = [ids[i : i + batch_size] for i in starts[mine.start : mine.stop]]
    found = [extracted(extractor, real_images(data, each, quantise)) for each in rows]
    return _joined([pair for part in parallel.gathered_objects(found) for pair in part], ids)


def _joined(
    pairs: Sequence[tuple[NDArray[np.float32], NDArray[np.float32] | None]],
    ids: NDArray[np.int64],
) -> Features:
    """The features of several batches, of images with these ids."""
    if not pairs:
        raise InputError("there are no images to take features of: give at least two")
    spatial = [part for _, part in pairs if part is not None]
    return Features(
        FeatureSet(np.concatenate([pool for pool, _ in pairs]), ids),
        FeatureSet(np.concatenate(spatial), ids) if spatial else None,
    )


def _unit(images: Tensor) -> Tensor:
    return images.float() / 127.5 - 1


def _inception(
    shape: State, weights: str | os.PathLike[str] | None, device: torch.device | str
) -> Extractor:
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(
            f"Inception takes images of 3 channels, or 1 repeated, got {described(shape)}: use"
            " pixel"
        )
    net, digest = inception.load(weights)
    net.to(device)

    def call(images: Tensor) -> Pair:
        out = net(images.to(device).expand(-1, 3, -1, -1))
        # Rows, columns, channels, as TensorFlow flattens them and guided-diffusion's mu_s and
        # sigma_s are ordered.
        return out.features, out.spatial.permute(0, 2, 3, 1).flatten(1)

    return Extractor(
        f"inception {digest[:8]}", FID, call, GREYSCALE if shape[0] == 1 else "", costly=True
    )


def _random_convolutions(channels: int) -> Callable[[Tensor], Pair]:
    """Two 3×3 convolutions with fixed random weights and ReLU, averaged over the image."""
    rng = np.random.default_rng(0)
    first = torch.from_numpy(
        rng.standard_normal((CHANNELS, channels, 3, 3)) * np.sqrt(2 / (9 * channels))
    ).float()
    second = torch.from_numpy(
        rng.standard_normal((CHANNELS, CHANNELS, 3, 3)) * np.sqrt(2 / (9 * CHANNELS))
    ).float()

    def call(images: Tensor) -> Pair:
        x = F.relu(F.conv2d(_unit(images.cpu()), first, padding=1))
        return F.relu(F.conv2d(x, second, padding=1)).mean((2, 3)), None

    return call


def _users(
    features: str | Callable[[Tensor], Tensor], shape: State, device: torch.device | str
) -> Extractor:
    """A user's function of images (B, *shape) in 0…255.

    What it says of three fixed images is its identity."""
    if isinstance(features, str) and ":" not in features:
        raise InputError(
            f"unknown features {features!r}: allowed are {', '.join(NAMES)}, or module:function"
        )
    function: Any = imported(features, "features") if isinstance(features, str) else features
    name = (
        features
        if isinstance(features, str)
        else getattr(features, "__name__", type(features).__name__)
    )
    probe = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8))

    def call(images: Tensor) -> Pair:
        return function(images.to(device)), None

    said = extract(Extractor(name, STAND_IN, call), [(probe, np.arange(3))]).pool.features
    rounded = [f"{value:.2e}" for value in np.abs(said).mean(1)]
    digest = hashlib.sha256(f"{said.shape}{rounded}".encode()).hexdigest()[:8]
    return Extractor(f"{name} {digest}", STAND_IN, call)
