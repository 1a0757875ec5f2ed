"""The data's variance as an estimate: what a gap is held against has a sampling error too.

σ_i² is the variance of the N images given to `record`; a claim about the law that they were drawn
from counts its error. n of them were recorded, with sums by group, so that the jackknife can take a
group's images out of σ² and out of the chain at once: whatever the chain remembers of its images is
then in the error as well. The other N − n images are independent of all that. With w = n/N their
part in the variance of σ² is w (1 − w) times that of the recorded images' own variance, and is
added in quadrature.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.jackknife import Array, grouped, jackknife
from exposure_bias.recording import Recording
from exposure_bias.statistics.law import COVARIANCE_IMAGES, DENSE, SUBSPACE_IMAGES
from exposure_bias.statistics.moments import cell_signs


@dataclass(frozen=True)
class DataVariance:
    """The variance of the data at P places (pixels, directions), and what is needed for its error.

    images: N. mean, variance (P,): of all N, the mean less μ, divisor N. count (G,), total and
    square (G, P): Σ 1, Σ d and Σ d² by group of the samples that were recorded. once: by how much
    these shrink if each image counts once.
    """

    images: float
    mean: Array
    variance: Array
    count: Array
    total: Array
    square: Array
    once: float = 1.0

    @property
    def sums(self) -> tuple[Array, Array, Array]:
        """What `remaining` takes, by group: for `jackknife`."""
        return self.count, self.total, self.square

    def remaining(self, count: Array, total: Array, square: Array) -> Array:
        """The variance (P,) of all images but those that these sums of the recorded ones lack."""
        kept = zip(self.sums, (count, total, square), strict=True)
        gone = [self.once * (mine.sum(0) - left) for mine, left in kept]
        images = self.images - gone[0]
        mean = (self.images * self.mean - gone[1]) / images
        second = (self.images * (self.variance + self.mean**2) - gone[2]) / images
        # A pixel that is constant in the data stays so: no round-off.
        return np.where(self.variance > 0, np.maximum(second - mean**2, 0), 0.0)

    def elsewhere(self, pools: Array | None = None) -> Array:
        """Standard error that images not recorded are to blame for.

        It is that of the variance, or of its sums over pools (P, K).

        NaN where there are too few samples for an interval.
        """

        def own(_: float, n: Array, total: Array, square: Array) -> Array:
            variance = square / n - (total / n) ** 2
            return variance if pools is None else variance @ pools

        share = self.once * float(self.count.sum()) / self.images
        unseen = np.sqrt(max(share * (1 - share), 0))
        error: Array = unseen * jackknife(own, self.count, *self.sums).error
        return error


def direction_variance(recording: Recording) -> DataVariance:
    """The data's variance along the recorded directions: its largest eigenvalues.

    They are too large (`optimism`).
    """
    data = recording["data"]
    total, square = (
        grouped(data, name)[:, 0] for name in ("state_projection_sum", "state_projection_square")
    )
    values = data["eigenvalue"].values[: total.shape[-1]]
    images, pixels = recording.run.data.images, data["mean"].size
    # The covariance may be of fewer images than there are; the recorded ones then stand for those.
    used = min(images, COVARIANCE_IMAGES if pixels <= DENSE else SUBSPACE_IMAGES)
    once = min(len(np.unique(data["image"].values)), used) / data.sizes["sample"]
    return DataVariance(
        used, np.zeros(len(values)), values, data["count"].values, total, square, once
    )


def optimism(recording: Recording) -> Array:
    """About how much too large, relatively, eigenvalues are, (direction,).

    They are taken for variances along their eigenvectors.

    λ_k and its eigenvector v_k are of the same N images: v_k is turned to where these happen to
    vary. To first order λ_k is above v_kᵀΣv_k by (2/N) Σ_j λ_j/(λ_k − λ_j) of itself (Anderson
    1963, Ann. Math. Stat. 34, 122; Lawley 1956, Biometrika 43, 128). Differences are damped by
    their sampling error: within it, eigenvectors only trade places.
    """
    known, values = direction_variance(recording), recording["data"]["eigenvalue"].values
    mine = values[: len(known.variance)]
    apart = mine[:, None] - values
    damped = apart**2 + 2 / known.images * (mine[:, None] ** 2 + values**2)
    share = np.divide(values * apart, damped, out=np.zeros_like(apart), where=damped > 0)
    total: Array = np.abs(2 / known.images * share.sum(1))
    return total


def pixel_variance(
    recording: Recording, others: Sequence[xr.Dataset] = ()
) -> tuple[DataVariance, NDArray[np.int64]]:
    """The data's variance at the pixels that chain and data both keep by group.

    Where the chain has those comes along. others: streams that have to keep them as well.
    """
    data, chain = recording["data"], recording["chain"]
    kept = (stream["pixel"].values for stream in (chain, data, *others))
    pixels = reduce(np.intersect1d, kept)
    places, theirs = (np.searchsorted(s["pixel"].values, pixels) for s in (chain, data))
    found = DataVariance(
        images=recording.run.data.images,
        mean=np.zeros(len(pixels)),
        variance=data["variance"].values.ravel()[pixels],
        count=data["count"].values,
        total=grouped(data, "state_group_sum")[:, 0, theirs],
        square=grouped(data, "state_group_square")[:, 0, theirs],
        once=len(np.unique(data["image"].values)) / data.sizes["sample"],
    )
    return found, np.asarray(places, dtype=np.int64)


@dataclass(frozen=True)
class Pooling:
    """Where statistics that are pooled over pixels find their sums by group.

    known: the data's variance there. pixels (P,): flat indices where these are pixels; None where
    they are cells, of which there are P, each standing for the mean of its pixels
    (`statistics.moments.CellMoments`).
    """

    known: DataVariance
    pixels: NDArray[np.int64] | None

    @classmethod
    def of(cls, recording: Recording, others: Sequence[xr.Dataset] = ()) -> "Pooling":
        """That of a recording. others: streams of further chains that are to be pooled alike.

        All pixels if all of them are kept by group, else cells if there are any, else some pixels.
        """
        data, chain = recording["data"], recording["chain"]
        known, places = pixel_variance(recording, others)
        pixels = chain["pixel"].values[places]
        both = all("state_cell_sum" in stream for stream in (data, chain, *others))
        if len(pixels) == data["variance"].size or not both:
            return cls(known, pixels)
        total, square = (grouped(data, f"state_cell_{part}")[:, 0] for part in ("sum", "square"))
        cells = cls(known, None)
        variance = cells.spread(data["variance"].values.ravel(), total.shape[1])
        nothing = np.zeros(len(variance))
        known = replace(known, mean=nothing, variance=variance, total=total, square=square)
        return replace(cells, known=known)

    def sums(self, stream: xr.Dataset, part: str) -> Array:
        """Σ d (part "sum") or Σ d² ("square") of a stream's states, (group, step, P)."""
        if self.pixels is None:
            return grouped(stream, f"state_cell_{part}")
        mine = np.isin(stream["pixel"].values, self.pixels)
        return grouped(stream, f"state_group_{part}")[..., mine]

    def signed(self, values: Array) -> Array:
        """Numbers by pixel, (D,), where Σ d is summed, (P,): in cells with the signs of their d."""
        if self.pixels is not None:
            return values[self.pixels]
        signs = cell_signs(values.size, len(self.known.variance))
        total: Array = (signs * values.reshape(signs.shape)).sum(1)
        return total

    def spread(self, values: Array, places: int | None = None) -> Array:
        """Numbers by pixel, (D, …), at these places, (P, …)."""
        if self.pixels is not None:
            return values[self.pixels]
        places = len(self.known.variance) if places is None else places
        mean: Array = values.reshape(places, -1, *values.shape[1:]).mean(1)
        return mean
