"""Features of a set of images and the distances between two such sets.

Statistics in files have their place here, too. No torch.

A `FeatureSet` computes what a distance needs of it when it is first needed and keeps it, so that a
reference costs its factor, kernel sums and radii once for a whole curve."""

import io
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure_bias import files, jackknife
from exposure_bias.data import zips
from exposure_bias.data.arrays import NPZ, members, shape_of
from exposure_bias.errors import InputError, reason
from exposure_bias.fidelity import frechet, kernel, manifold
from exposure_bias.fidelity.frechet import Normal
from exposure_bias.fidelity.moments import Moments, checked
from exposure_bias.files.limits import Limit
from exposure_bias.jackknife import GROUPS

Array = NDArray[np.float64]
STATISTICS = Limit(2**28)  # in one array of a reference: 5,792 features
CHUNK = 4096


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features (N, d) of N images and the images' ids (N,).

    The ids say what the jackknife deletes together."""

    features: NDArray[np.floating]
    ids: NDArray[np.int64]

    def __post_init__(self) -> None:
        checked(self.features)
        if len(self.features) < 2:
            raise InputError(
                "a distribution of features needs at least 2 samples, got 1: give more"
            )

    def __len__(self) -> int:
        return len(self.features)

    @property
    def dimension(self) -> int:
        """The number of features d."""
        return int(self.features.shape[1])

    @cached_property
    def count(self) -> Array:
        """Samples by group (G,)."""
        return np.bincount(self.ids % GROUPS, minlength=GROUPS).astype(np.float64)

    @cached_property
    def moments(self) -> Moments:
        """Sums by group."""
        moments = Moments(self.dimension)
        for start in range(0, len(self), CHUNK):
            rows = slice(start, start + CHUNK)
            moments.update(self.features[rows], self.ids[rows])
        return moments

    @cached_property
    def normal(self) -> Normal:
        """The normal distribution of all samples."""
        return frechet.normal_of_features(self.features)

    @cached_property
    def kernel_sums(self) -> kernel.PairSums:
        """Σ k(x_i, x_j) over pairs of different samples, by groups."""
        return kernel.own_sums(self.features, self.ids)

    @cached_property
    def squared_radii(self) -> Array:
        """The squared radii (N,) of the set's manifold."""
        return manifold.squared_radii(self.features)


def frechet_values(p: FeatureSet, q: FeatureSet | Normal) -> tuple[Array, str]:
    """d² of all samples and with groups deleted, as `jackknife.DELETED`, (25,).

    A second result says why only the first, or is "".

    q: the reference; a `Normal` is taken as exact. Warns where N < d, where d² says more about N
    than about images."""
    sets = [s for s in (p, q) if isinstance(s, FeatureSet)]
    for s in sets:
        if len(s) < s.dimension:
            warnings.warn(
                f"{len(s)} samples of {s.dimension} features: the covariance is singular and the"
                " distance mostly bias; compare it at equal N only, and take"
                f" {jackknife.MINIMUM_PER_FEATURE * s.dimension} or more",
                stacklevel=3,
            )
    reason = jackknife.too_few([s.count for s in sets], p.dimension)

    def estimate(without: Sequence[int]) -> float:
        if not without:
            return frechet.distance(p.normal, q.normal if isinstance(q, FeatureSet) else q)
        return frechet.distance(
            p.moments.normal(without), q.moments.normal(without) if isinstance(q, FeatureSet) else q
        )

    return jackknife.deletions(estimate, reason), reason


def kid_values(p: FeatureSet, q: FeatureSet) -> tuple[Array, str]:
    """KID of all samples and with groups deleted, (25,); and why only the first, or ""."""
    cross = kernel.cross_sums(p.features, p.ids, q.features, q.ids)
    reason = jackknife.too_few([p.count, q.count])
    sums = (p.kernel_sums, q.kernel_sums, cross)
    return jackknife.deletions(lambda without: kernel.kid(*sums, without), reason), reason


def precision_recall(
    generated: FeatureSet, real: FeatureSet
) -> tuple[tuple[float, float], tuple[float, float]]:
    """(precision, its standard error) and (recall, its standard error).

    The errors are those of a share of samples, by group, and take the other set's manifold as it
    is; NaN where the samples are too few."""
    precision, recall = manifold.inside(
        generated.features, real.features, real.squared_radii, generated.squared_radii
    )
    return _share(precision, generated), _share(recall, real)


def _share(hits: NDArray[np.bool_], members: FeatureSet) -> tuple[float, float]:
    if jackknife.too_few([members.count]):
        return float(hits.mean()), np.nan
    by_group = np.bincount(members.ids % GROUPS, hits, GROUPS)
    without = (by_group.sum() - by_group) / (len(members) - members.count)
    return float(hits.mean()), float(
        np.sqrt((GROUPS - 1) / GROUPS * np.square(without - without.mean()).sum())
    )


def write_statistics(
    path: str | os.PathLike[str],
    pool: Normal,
    spatial: Normal | None = None,
    about: dict[str, Any] | None = None,
) -> None:
    """Write means and covariances as guided-diffusion's reference batches do.

    `mu`, `sigma`, `mu_s`, `sigma_s`.

    about: JSON values kept as `provenance`, which `read_statistics` compares. Written atomically.
    """
    arrays = {"mu": pool.mean, "sigma": pool.covariance}
    if spatial is not None:
        arrays |= {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, provenance=np.array(json.dumps(about or {})), **arrays)
    files.write_bytes(path, buffer.getvalue())


def read_statistics(
    path: str | os.PathLike[str], dimension: int, about: dict[str, Any] | None = None
) -> tuple[Normal, Normal | None]:
    """(pool, spatial or None) of a reference batch of guided-diffusion, or of `write_statistics`.

    dimension: the number of features they must be of. about: what must agree with their
    `provenance`, where they have one; `image_shape` (C, H, W) is compared with the images in the
    file, where it has some.

    Raises InputError for a file that is none, and for statistics of other features or another
    resolution."""
    path, about = Path(path), about or {}
    try:
        with zips.opened(path, NPZ, STATISTICS) as archive:
            keys = ("mu", "sigma", "mu_s", "sigma_s", "provenance")
            arrays = members(archive, keys, path, STATISTICS, "fU")
            images = shape_of(archive, "arr_0", path)
        came = dict(json.loads(str(arrays.pop("provenance", "{}"))))
        if images is not None and "image_shape" not in came:
            _, *shape, channels = images
            came["image_shape"] = [channels, *shape]
    except Exception as error:  # damage surfaces as BadZipFile, ValueError, EOFError, zlib.error, …
        why = reason(error) if isinstance(error, InputError) else type(error).__name__
        raise InputError(
            f"{path} is no .npz of reference statistics ({why}): replace it"
        ) from error
    if not {"mu", "sigma"} <= arrays.keys():
        raise InputError(
            f"{path} holds no statistics 'mu' and 'sigma': give a reference batch, or use its"
            " images as data"
        )
    for key in about.keys() & came.keys():
        if about[key] != came[key]:
            raise InputError(
                f"{path} was made with {key} {came[key]}, this run has {about[key]}: make the"
                " statistics anew"
            )
    pool = frechet.normal(arrays["mu"], arrays["sigma"])
    if len(pool.mean) != dimension:
        raise InputError(
            f"{path} holds statistics of {len(pool.mean)} features, these have {dimension}: use"
            " those features"
        )
    spatial = (
        frechet.normal(arrays["mu_s"], arrays["sigma_s"])
        if {"mu_s", "sigma_s"} <= arrays.keys()
        else None
    )
    return pool, spatial
