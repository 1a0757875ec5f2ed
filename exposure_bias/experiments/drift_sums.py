"""What is added up of drawn frames, and the statistics that follow from the sums. No torch here.

A *cut* is one way to get frame k of a sequence: the data's own, drawn free-running, drawn from the
true context, or drawn by the limit. For each cut, frame and group of sequences the sums hold, with
d = x − μ for the data's mean frame μ,

    |d|², Σ d⁴, Σ d by channel, |x_k − x_{k−1}|², d_k · d_{k−ℓ}, and the power of d by band,

and Σ d at up to `pixels` of the frame's numbers, from which the mean is taken out of variances and
covariances. The frames before k are the cut's own where it runs free, else the true ones.

    variance   Σ_i Var_i(x_k) / Σ_i Var_i(data) − 1
    mean       the mean over all numbers (of `mean c`: of channel c) less the data's, in units of
               the data's standard deviation √(mean_i Var_i)
    change     E|x_k − x_{k−1}|² / the data's − 1
    lag ℓ      Σ_i Cov_i(x_k, x_{k−ℓ}) / √(Σ_i Var_i(x_k) Σ_i Var_i(x_{k−ℓ})), less the data's
    tails      mean_i E d⁴ / (mean_i E d²)² over the data's, − 1
    hf, band F power of d at frequencies of ¼ and above, and in each radial band, in dB over the
               data's
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exposure_bias.jackknife import DECIBEL, GROUPS
from exposure_bias.states import State
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.statistics.bands import Bands, dct

Array = NDArray[np.float64]

SHOWN = ("data", "forced", "free")  # the cuts of which some frames are kept as they are
EXAMPLES = 4  # sequences
CHANNELS = range(2, 9)  # so many channels have means of their own
ROOM = 64 * 2**20  # bytes for the sums by pixel
ROOM_SHOWN = 8 * 2**20  # bytes for the frames that are kept


@dataclass(frozen=True, eq=False)
class Layout:
    """What is kept: for which cuts, of how many frames and lags, of frames of which shape.

    free: the cuts that run on their own frames. pixels: which of a frame's numbers have sums of
    their own.
    """

    cuts: tuple[str, ...]
    free: tuple[str, ...]
    frames: int
    lags: int
    context: int
    shape: State
    pixels: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        cuts: tuple[str, ...],
        free: tuple[str, ...],
        frames: int,
        context: int,
        shape: State,
        seed: int,
    ) -> "Layout":
        """The layout of a run; of large frames a seeded part of the pixels is kept one by one."""
        size = int(np.prod(shape))
        most = max(1, ROOM // (8 * GROUPS * len(cuts) * frames))
        pixels = np.arange(size)
        if most < size:
            pixels = np.sort(np.random.default_rng(seed).choice(size, most, replace=False))
        return cls(cuts, free, frames, context + 2, context, shape, pixels)

    @property
    def shown(self) -> list[int]:
        """Which frames are kept as they are, of large ones only some."""
        size = int(np.prod(self.shape))
        most = max(2, ROOM_SHOWN // (8 * len(SHOWN) * EXAMPLES * size))
        if self.frames <= most:
            return list(range(self.frames))
        return sorted(set(np.linspace(0, self.frames - 1, most).round().astype(int).tolist()))

    @property
    def channels(self) -> int:
        """How many channels have means of their own; 0 for vectors and single channels."""
        return self.shape[0] if len(self.shape) > 1 and self.shape[0] in CHANNELS else 0

    @property
    def bands(self) -> Bands | None:
        """The frequency bands of frames with axes of space."""
        return dct(*self.shape[1:]) if len(self.shape) > 1 else None

    @property
    def band_labels(self) -> list[str]:
        """Their names, the lowest first."""
        return [] if self.bands is None else [f"band {f:.3g}" for f in self.bands.label]

    @property
    def columns(self) -> dict[str, slice]:
        """Where each sum stands in a row of them."""
        widths = {
            "square": 1,
            "fourth": 1,
            "change": 1,
            "total": 1,
            "channel": self.channels,
            "lag": self.lags,
            "power": 0 if self.bands is None else self.bands.width,
        }
        places, at = {}, 0
        for name, width in widths.items():
            places[name] = slice(at, at + width)
            at += width
        return places

    @property
    def names(self) -> list[str]:
        """The statistics, in order."""
        means = [f"mean {c}" for c in range(self.channels)]
        lags = [f"lag {lag}" for lag in range(1, self.lags + 1)]
        bands = ["hf", *self.band_labels] if self.bands is not None else []
        return ["variance", "mean", *means, "change", *lags, "tails", *bands]

    def sums(self) -> Sums:
        """Zero sums by group, cut and frame."""
        sums = Sums()
        sizes = {"group": GROUPS, "cut": len(self.cuts), "frame": self.frames}
        sums.add_sum("count", **sizes)
        sums.add_sum("rows", **sizes, column=max(s.stop for s in self.columns.values()))
        sums.add_sum("pixels", **sizes, pixel=len(self.pixels))
        # The frames of the first context: those that lags of the first frames reach back to.
        early = {"group": GROUPS, "early": self.context}
        sums.add_sum("early_square", **early)
        sums.add_sum("early_pixels", **early, pixel=len(self.pixels))
        kept = {"cut": len(SHOWN), "example": EXAMPLES, "shown": len(self.shown)}
        sums.add_sum("shown", **kept, number=int(np.prod(self.shape)))
        return sums


class Totals:
    """The statistics of every cut from sums over some groups."""

    def __init__(self, layout: Layout, totals: Mapping[str, Array]) -> None:
        self.layout, self.totals = layout, totals
        self.size = int(np.prod(layout.shape))

    def _of(self, cut: str, column: str) -> Array:
        """A cut's sums divided by its count, (frame, …)."""
        row = self.layout.cuts.index(cut)
        count = self.totals["count"][row]
        values = self.totals["rows"][row][:, self.layout.columns[column]]
        return _per(values, count)

    def _mean(self, cut: str) -> Array:
        """E d at the kept pixels, (frame, pixel)."""
        row = self.layout.cuts.index(cut)
        return _per(self.totals["pixels"][row], self.totals["count"][row])

    def _early(self) -> tuple[Array, Array]:
        """E|d|² and E d of the true frames before the first one that is drawn."""
        count = self.totals["count"][self.layout.cuts.index("data")][:1]
        return (
            self.totals["early_square"] / count,
            self.totals["early_pixels"] / count[:, None],
        )

    def _product(self, one: Array, other: Array) -> Array:
        """Σ_i m_i m′_i over all of a frame's numbers, from the kept ones."""
        return (one * other).sum(-1) * (self.size / len(self.layout.pixels))

    def variance(self, cut: str) -> Array:
        """Σ_i Var_i, (frame,)."""
        mean = self._mean(cut)
        return self._of(cut, "square")[:, 0] - self._product(mean, mean)

    def statistics(self, cut: str, stationary: bool) -> Array:
        """Every statistic of a cut less the data's, (statistic, frame).

        stationary: the data's are means over all frames.
        """
        own, data = self._absolute(cut), self._absolute("data")
        if stationary:
            known = np.isfinite(data)
            pooled = np.where(known, data, 0).sum(1) / np.maximum(known.sum(1), 1)
            data = np.where(known.any(1), pooled, np.nan)[:, None] * np.ones(data.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = np.sqrt(data[0] / self.size)
            rows = []
            for name, value, target in zip(self.layout.names, own, data, strict=True):
                if name in ("variance", "change", "tails"):
                    rows.append(value / target - 1)
                elif name == "hf" or name.startswith("band"):
                    rows.append(DECIBEL * np.log(value / target))
                elif name.startswith("mean"):
                    rows.append((value - target) / spread)
                else:
                    rows.append(value - target)
        return np.stack(rows)

    def _absolute(self, cut: str) -> Array:
        """Every statistic of a cut itself, (statistic, frame)."""
        layout = self.layout
        variance, square = self.variance(cut), self._of(cut, "square")[:, 0]
        means = self._of(cut, "total") / self.size
        if layout.channels:
            by_channel = self._of(cut, "channel") / (self.size / layout.channels)
            means = np.concatenate([means, by_channel], axis=1)
        rows = [variance, *means.T, self._of(cut, "change")[:, 0], *self._correlations(cut)]
        with np.errstate(divide="ignore", invalid="ignore"):
            rows.append(self._of(cut, "fourth")[:, 0] / square**2)
        if layout.bands is not None:
            power = self._of(cut, "power").T
            rows += [power[-1], *power[:-1]]
        return np.stack(rows)

    def _correlations(self, cut: str) -> list[Array]:
        """Correlations with the frames 1, 2, … before, (frame,) each; NaN before the beginning."""
        layout = self.layout
        before = cut if cut in layout.free else "data"
        early_square, early_mean = self._early()
        mean = np.concatenate([early_mean, self._mean(before)])
        square = np.concatenate([early_square, self._of(before, "square")[:, 0]])
        variance = square - self._product(mean, mean)
        own_mean, own = self._mean(cut), self.variance(cut)
        cross = self._of(cut, "lag")
        found = []
        for lag in range(1, layout.lags + 1):
            place = np.arange(layout.frames) + layout.context - lag
            there = place >= 0
            place = np.maximum(place, 0)
            covariance = cross[:, lag - 1] - self._product(own_mean, mean[place])
            with np.errstate(divide="ignore", invalid="ignore"):
                correlation = covariance / np.sqrt(own * variance[place])
            found.append(np.where(there, correlation, np.nan))
        return found


def _per(values: Array, count: Array) -> Array:
    """Sums (frame, …) divided by how many sequences were added, NaN where there were none."""
    safe = np.where(count > 0, count, np.nan)
    return np.asarray(values / safe.reshape(-1, *(1,) * (values.ndim - 1)))


def rows_of(
    layout: Layout, d: Any, change: Any, before: list[Any], bands: "BandMatrix | None"
) -> Any:
    """A row of sums for each sequence, a tensor (B, columns).

    d (B, D): x − μ. change (B,): |x_k − x_{k−1}|². before: d of the frames before, nearest first.
    """
    import torch

    square = d.square()
    parts = [square.sum(1, keepdim=True), square.square().sum(1, keepdim=True), change[:, None]]
    parts.append(d.sum(1, keepdim=True))
    if layout.channels:
        parts.append(d.unflatten(1, (layout.channels, -1)).sum(2))
    lags = [(d * other).sum(1) for other in before[: layout.lags]]
    lags += [torch.zeros_like(change)] * (layout.lags - len(lags))
    parts.append(torch.stack(lags, dim=1))
    if bands is not None:
        parts.append(bands.power(d))
    return torch.cat(parts, dim=1)


class BandMatrix:
    """The power of states by frequency band, on whatever device they are."""

    def __init__(self, bands: Bands, channels: int) -> None:
        self.bands, self.channels = bands, channels
        self._made: dict[Any, Any] = {}

    def power(self, d: Any) -> Any:
        """Σ over channels and a band's modes of |coefficient|², (B, bands), of d (B, D)."""
        import torch

        if d.device not in self._made:
            matrices = [torch.from_numpy(m).to(d) for m in self.bands.matrices]
            blocks = [
                (b.modes, torch.from_numpy(b.bands).to(d.device), torch.from_numpy(b.members).to(d))
                for b in self.bands.blocks()
            ]
            self._made[d.device] = (matrices, blocks)
        matrices, blocks = self._made[d.device]
        space = [len(m) for m in matrices]
        c = d.reshape(len(d), self.channels, *space)
        for axis, matrix in enumerate(matrices, start=2):
            c = torch.tensordot(c, matrix, dims=([axis], [1])).movedim(-1, axis)
        modes = c.square().sum(1).flatten(1)
        power = d.new_zeros(len(d), self.bands.width)
        for places, columns, members in blocks:
            power[:, columns] += modes[:, places] @ members
        return power
