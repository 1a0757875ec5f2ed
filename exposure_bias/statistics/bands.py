"""Power by frequency: an orthonormal transform, squared, summed over the modes of each band.

Frequencies are in cycles per pixel: DCT-II mode k of N pixels is k/2N. Radial bins are 1/max(H, W) wide; the constant
mode is a bin of its own. A raw FFT would take the jump between opposite borders for detail and hide what a blur removes
(design §4.10), hence the DCT.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exposure_bias.errors import InputError
from exposure_bias.statistics.accumulator import CONSTANT, GROUPS, Accumulator, Batch

HIGH_FREQUENCY = 0.25
MINIMUM_SIZE = 4


@dataclass(frozen=True)
class Bands:
    """A separable transform of (H, W) images and the bands its modes fall into.

    rows (H', H) and columns (W', W): the transform is rows @ image @ columnsᵀ, with orthonormal rows. bins (H'·W', F):
    one where a mode belongs to a band. label: the F bands' name or centre. count (F,): modes in each.
    """

    name: str
    dimension: str
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    bins: NDArray[np.float64]
    label: NDArray[np.float64] | NDArray[np.str_]

    @property
    def count(self) -> NDArray[np.float64]:
        """Number of modes in each band, (F,)."""
        counts: NDArray[np.float64] = self.bins.sum(0)
        return counts

    def power(self, images: NDArray[np.float64]) -> NDArray[np.float64]:
        """Σ over a band's modes of |coefficient|², (…, F), for images (…, H, W)."""
        c = self.rows @ images @ self.columns.T
        power: NDArray[np.float64] = (c * c).reshape(*images.shape[:-2], -1) @ self.bins
        return power


def dct_matrix(n: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II of length n as a matrix, one mode per row."""
    k, i = np.arange(n)[:, None], np.arange(n)[None]
    matrix: NDArray[np.float64] = np.sqrt(2 / n) * np.cos(np.pi * k * (2 * i + 1) / (2 * n))
    matrix[0] /= np.sqrt(2)
    return matrix


def haar_matrix(n: int) -> NDArray[np.float64]:
    """One level of the Haar transform, averages then differences; an odd length is extended by its mirror image."""
    even = n + n % 2
    pair = np.arange(even // 2)
    matrix = np.zeros((even, even))
    matrix[pair, 2 * pair] = matrix[pair, 2 * pair + 1] = np.sqrt(0.5)
    matrix[even // 2 + pair, 2 * pair], matrix[even // 2 + pair, 2 * pair + 1] = np.sqrt(0.5), -np.sqrt(0.5)
    if even > n:
        matrix[:, n - 1] += matrix[:, n]
    return matrix[:, :n]


def radial_frequency(height: int, width: int) -> NDArray[np.float64]:
    """√(f_y² + f_x²) of every DCT mode in cycles per pixel, (H, W)."""
    return np.hypot(np.arange(height)[:, None] / (2 * height), np.arange(width)[None] / (2 * width))


def dct(height: int, width: int) -> Bands:
    """Radial DCT bands, then one more, `high`, over all modes at ¼ cycle per pixel and above (it overlaps them).

    Raises InputError for images smaller than 4 pixels a side.
    """
    _check_size(height, width)
    f = radial_frequency(height, width).ravel()
    spacing = 1 / max(height, width)
    # A mode on a bin's upper edge belongs to it; the tolerance keeps k/2N · N = k/2 there.
    index = np.ceil(f / spacing - 1e-9).astype(int)
    bins = np.eye(index.max() + 1)[index]
    used = bins.sum(0) > 0
    label = np.where(np.arange(len(used)) == 0, 0, (np.arange(len(used)) - 0.5) * spacing)
    high = (f >= HIGH_FREQUENCY - 1e-12)[:, None]
    return Bands(
        "spectrum", "frequency", dct_matrix(height), dct_matrix(width), np.hstack([bins[:, used], high]), label[used]
    )


def haar(height: int, width: int) -> Bands:
    """The four sub-bands LL, LH (detail along x), HL (detail along y), HH of one Haar level."""
    _check_size(height, width)
    rows, columns = haar_matrix(height), haar_matrix(width)
    y, x = (np.arange(len(m)) >= len(m) // 2 for m in (rows, columns))
    bins = np.eye(4)[(2 * y[:, None] + x[None]).ravel()]
    return Bands("haar", "band", rows, columns, bins, np.array(["LL", "LH", "HL", "HH"]))


def _check_size(height: int, width: int) -> None:
    if min(height, width) < MINIMUM_SIZE:
        raise InputError(f"spectra need images of at least {MINIMUM_SIZE}×{MINIMUM_SIZE} pixels, got {height}×{width}")


class BandPower(Accumulator):
    """Σ over samples and a band's modes of |coefficient|² of one field, by group and channel.

    On disk: `{field}_{bands}` (step, group, channel, band), for DCT bands also `{field}_high` (step, group, channel).
    """

    def __init__(self, field: str, bands: Bands, steps: int, channels: int) -> None:
        super().__init__()
        self.field, self.bands, self.channels = field, bands, channels
        self.rows, self.columns = bands.rows.T, bands.columns.T
        height, width = len(bands.rows), len(bands.columns)
        self.transposed_bins = bands.bins.reshape(height, width, -1).transpose(1, 0, 2).reshape(height * width, -1)
        self._key, self._high = f"{field}_{bands.name}", f"{field}_high"
        self._sum(self._key, step=steps, group=GROUPS, channel=channels, **{bands.dimension: len(bands.label)})
        if bands.name == "spectrum":
            self._sum(self._high, step=steps, group=GROUPS, channel=channels)
        count = bands.count[: len(bands.label)]
        self.coords = {
            bands.dimension: (bands.dimension, bands.label),
            f"{bands.dimension}_modes": (bands.dimension, count, CONSTANT),
        }

    def update(self, rows: slice, batch: Batch) -> None:
        d = batch.field(self.field)
        if d is None:
            return
        d = d.to(batch.precision)
        across, down = (self._tensor(side, d) for side in ("columns", "rows"))
        # Both products are one matrix multiplication each; the result is transposed, and so are the bins.
        c = (d.view(-1, len(down), len(across)) @ across).transpose(-1, -2) @ down
        grouped = batch.groups.sum(c.double().square_().view(*d.shape[:2], -1))
        bins = self._tensor("transposed_bins", grouped)
        power = (grouped.view(len(d), GROUPS, self.channels, -1) @ bins).cpu().numpy()
        width = len(self.bands.label)
        self.state[self._key][rows] += power[..., :width]
        if power.shape[-1] > width:
            self.state[self._high][rows] += power[..., width]
