"""Power by frequency: an orthonormal transform, squared, summed over the modes of each band.

Frequencies are in cycles per pixel: DCT-II mode k of N pixels is k/2N, Fourier mode k is k/N. Radial bins are
1/max(H, W) wide; the constant mode is a bin of its own. The bases:

    dct     the default. A raw FFT takes the jump between opposite borders for detail and hides what a blur removes
            (design §4.10); the DCT continues the image by its mirror image and sees no jump
    fft     the raw FFT, which is what most papers show. Its real form is used, rows √(2/N) cos and √(2/N) sin: the four
            products of rows at (f_y, f_x) span e^{±2πi f_y y} e^{±2πi f_x x}, so their squares sum to Σ |F|² there
    hann    the FFT of w_y w_x · image, w_i ∝ sin²(π (i + ½)/N) with mean w² = 1, so that white noise of variance σ²
            still has σ² in every mode on average over a band; images fade out before their borders
    luma    the DCT of three channels after a rotation (`LUMA`): luminance (1, 1, 1)/√3, red − blue (1, 0, −1)/√2 and
            magenta − green (1, −2, 1)/√6. It is orthonormal, so the components' powers add up to the channels'
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from exposure_bias.errors import InputError
from exposure_bias.statistics.accumulator import CONSTANT, GROUPS, Accumulator, Batch

HIGH_FREQUENCY = 0.25
MINIMUM_SIZE = 4
BASES = ("dct", "hann", "fft", "luma")
COMPONENTS = ("luminance", "red-blue", "magenta-green")
LUMA = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])


@dataclass(frozen=True)
class Bands:
    """A separable transform of (H, W) images and the bands its modes fall into.

    rows (H', H) and columns (W', W): the transform is rows @ image @ columnsᵀ, orthonormal but for `hann`'s window.
    bins (H'·W', F): one where a mode belongs to a band. label: the bands' name or centre; a band beyond the last label
    is `high`. count (F,): modes in each, or rather the power of unit white noise there. mixing (C, C): an orthonormal
    rotation of the channels that comes first.
    """

    name: str
    dimension: str
    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    bins: NDArray[np.float64]
    label: NDArray[np.float64] | NDArray[np.str_]
    mixing: NDArray[np.float64] | None = None

    @property
    def key(self) -> str:
        """What follows `{field}_` on disk."""
        return "spectrum" if self.name == "dct" else self.name

    @property
    def high(self) -> str:
        """The same for the power at high frequencies."""
        return "high" if self.name == "dct" else f"{self.name}_high"

    @property
    def count(self) -> NDArray[np.float64]:
        """Power of unit white noise in each band, (F,): the number of its modes, where rows have length 1.

        An odd side's mirror image makes a Haar row twice as strong or empty.
        """
        row, column = (np.square(m).sum(1) for m in (self.rows, self.columns))
        power: NDArray[np.float64] = np.round(np.outer(row, column).ravel() @ self.bins, 9)  # whole, but for round-off
        return power

    def power(self, images: NDArray[np.float64]) -> NDArray[np.float64]:
        """Σ over a band's modes of |coefficient|², (…, F), for images (…, H, W), or (…, C, H, W) with mixing."""
        if self.mixing is not None:
            images = np.einsum("dc,...chw->...dhw", self.mixing, images)
        c = self.rows @ images @ self.columns.T
        power: NDArray[np.float64] = (c * c).reshape(*images.shape[:-2], -1) @ self.bins
        return power


def dct_matrix(n: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II of length n as a matrix, one mode per row."""
    k, i = np.arange(n)[:, None], np.arange(n)[None]
    matrix: NDArray[np.float64] = np.sqrt(2 / n) * np.cos(np.pi * k * (2 * i + 1) / (2 * n))
    matrix[0] /= np.sqrt(2)
    return matrix


def fourier_matrix(n: int) -> NDArray[np.float64]:
    """The orthonormal real Fourier basis of length n, one mode per row: 1, cos 1, sin 1, cos 2, …"""
    k, i = np.arange(n)[:, None], np.arange(n)[None]
    angle = 2 * np.pi * ((k + 1) // 2) * i / n
    matrix: NDArray[np.float64] = np.sqrt(2 / n) * np.where(k % 2, np.cos(angle), np.sin(angle))
    matrix[0] = np.sqrt(1 / n)
    if n % 2 == 0:
        matrix[-1] /= np.sqrt(2)
    return matrix


def hann_window(n: int) -> NDArray[np.float64]:
    """sin²(π (i + ½)/n), scaled to a mean square of one."""
    w = np.sin(np.pi * (np.arange(n) + 0.5) / n) ** 2
    window: NDArray[np.float64] = w / np.sqrt(np.square(w).mean())
    return window


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


def spectrum_bands(basis: str, shape: tuple[int, ...]) -> Bands:
    """The radial bands of one of `BASES` for (C, H, W) images.

    Raises InputError for an unknown basis, images smaller than 4 pixels a side, and luma without three channels.
    """
    if basis not in BASES:
        raise InputError(f"unknown basis {basis!r} of spectra: allowed are {', '.join(BASES)}")
    channels, height, width = shape
    if basis == "luma" and channels != 3:
        raise InputError(f"luminance and chroma are made of three channels, but these images have {channels}: use dct")
    return {"dct": dct, "hann": hann, "fft": fft, "luma": luma}[basis](height, width)


def dct(height: int, width: int) -> Bands:
    """Radial DCT bands, then one more, `high`, over all modes at ¼ cycle per pixel and above (it overlaps them).

    Raises InputError for images smaller than 4 pixels a side.
    """
    return _radial("dct", "frequency", dct_matrix(height), dct_matrix(width), radial_frequency(height, width))


def fft(height: int, width: int) -> Bands:
    """The same of the raw FFT."""
    return _fourier("fft", fourier_matrix(height), fourier_matrix(width))


def hann(height: int, width: int) -> Bands:
    """The same of the FFT under a Hann window."""
    rows, columns = (fourier_matrix(n) * hann_window(n) for n in (height, width))
    return _fourier("hann", rows, columns)


def luma(height: int, width: int) -> Bands:
    """The bands of `dct`, of luminance and chroma."""
    return replace(dct(height, width), name="luma", mixing=LUMA)


def _fourier(name: str, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> Bands:
    f_y, f_x = ((np.arange(len(m)) + 1) // 2 / len(m) for m in (rows, columns))
    return _radial(name, "fourier_frequency", rows, columns, np.hypot(f_y[:, None], f_x[None]))


def _radial(
    name: str,
    dimension: str,
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    frequency: NDArray[np.float64],
) -> Bands:
    """Bands of modes whose radial frequencies are given, (H, W)."""
    _check_size(*frequency.shape)
    f = frequency.ravel()
    spacing = 1 / max(frequency.shape)
    # A mode on a bin's upper edge belongs to it; the tolerance keeps k/2N · N = k/2 there.
    index = np.ceil(f / spacing - 1e-9).astype(int)
    bins = np.eye(index.max() + 1)[index]
    used = bins.sum(0) > 0
    label = np.where(np.arange(len(used)) == 0, 0, (np.arange(len(used)) - 0.5) * spacing)
    high = (f >= HIGH_FREQUENCY - 1e-12)[:, None]
    return Bands(name, dimension, rows, columns, np.hstack([bins[:, used], high]), label[used])


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

    On disk: `{field}_{bands.key}` (step, group, channel, band) and, but for Haar, `{field}_{bands.high}` (step, group,
    channel). Rotated channels have the dimension `component`.
    """

    def __init__(self, field: str, bands: Bands, steps: int, channels: int) -> None:
        super().__init__()
        self.field, self.bands, self.channels = field, bands, channels
        self.rows, self.columns, self.mixing = bands.rows.T, bands.columns.T, bands.mixing
        height, width = len(bands.rows), len(bands.columns)
        self.transposed_bins = bands.bins.reshape(height, width, -1).transpose(1, 0, 2).reshape(height * width, -1)
        self._key, self._high = f"{field}_{bands.key}", f"{field}_{bands.high}"
        channel = "channel" if bands.mixing is None else "component"
        self._sum(self._key, step=steps, group=GROUPS, **{channel: channels, bands.dimension: len(bands.label)})
        if bands.bins.shape[1] > len(bands.label):
            self._sum(self._high, step=steps, group=GROUPS, **{channel: channels})
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
        if self.mixing is not None:
            d = (self._tensor("mixing", d) @ d.unflatten(-1, (self.channels, -1))).flatten(-2)
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
