"""Power by frequency: an orthonormal transform, squared, summed over the modes of each band.

Frequencies are in cycles per pixel (or sample, or frame): DCT-II mode k of N is k/2N, Fourier mode
k is k/N. A mode's radial frequency is √Σ f² over all axes of space; bins are 1/max(N) wide and the
constant mode is a bin of its own. The bases:

    dct     the default. A raw FFT takes the jump between opposite borders for detail and hides
            what a blur removes; the DCT continues a state by its mirror image and
            sees no jump
    fft     the raw FFT, which is what most papers show. Its real form is used, rows √(2/N) cos and
            √(2/N) sin: products of rows at (f_y, f_x) span e^{±2πi f_y y} e^{±2πi f_x x}, so their
            squares sum to Σ |F|² there
    hann    the FFT of the state under a window Π w_i, w_i ∝ sin²(π (i + ½)/N) with mean w² = 1,
            so that white noise of variance σ² still has σ² in every mode on average over a band;
            states fade out before their borders
    luma    the DCT of three channels after a rotation (`LUMA`): luminance (1, 1, 1)/√3, red − blue
            (1, 0, −1)/√2 and magenta − green (1, −2, 1)/√6. It is orthonormal, so the components'
            powers add up to the channels'
    plane   of a video: the DCT's modes by frequency over (H, W) alone, whatever they do over frames
    frames  of a video: the DCT's modes by frequency over F alone
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exposure_bias.errors import InputError
from exposure_bias.jackknife import GROUPS
from exposure_bias.states import described
from exposure_bias.statistics.accumulator import Accumulator, Batch, Layout
from exposure_bias.statistics.law import CONSTANT

if TYPE_CHECKING:
    from torch import Tensor

Array = NDArray[np.float64]

HIGH_FREQUENCY = 0.25
BASES = ("dct", "hann", "fft", "luma", "plane", "frames")
COMPONENTS = ("luminance", "red-blue", "magenta-green")
LUMA = np.array([[1, 1, 1], [1, 0, -1], [1, -2, 1]]) / np.sqrt([[3], [2], [6]])
MODES = 4096  # that are added up by bands at once; states of more are large
NO_SPACE = "states without axes of space have no spectrum"


class Block(NamedTuple):
    """Some modes (M,), the bands that they fall into (F,), and which into which, (M, F)."""

    modes: Any
    bands: NDArray[np.int64]
    members: Array


@dataclass(frozen=True)
class Bands:
    """A separable transform of states over their axes of space, and the bands its modes fall into.

    matrices: one (N', N) for each axis, orthonormal but for `hann`'s window. band (Π N',): which
    one a mode belongs to. label: the bands' name or centre. upper (Π N',): which modes make up
    `high`, one more band beyond the last label. mixing (C, C): an orthonormal rotation of the
    channels that comes first."""

    name: str
    dimension: str
    matrices: tuple[Array, ...]
    band: NDArray[np.int64]
    label: Array | NDArray[np.str_]
    upper: NDArray[np.bool_] | None = None
    mixing: Array | None = None

    @property
    def key(self) -> str:
        """What follows `{field}_` on disk."""
        return "spectrum" if self.name == "dct" else self.name

    @property
    def high(self) -> str:
        """The same for the power at high frequencies."""
        return "high" if self.name == "dct" else f"{self.name}_high"

    @property
    def cosine(self) -> bool:
        """Whether this is the DCT along every axis."""
        return self.name in ("dct", "luma", "plane", "frames")

    @property
    def count(self) -> Array:
        """Power of unit white noise in each band, (F,).

        The number of its modes, where rows have length 1.

        An odd side's mirror image makes a Haar row twice as strong or empty.
        """
        power = np.ones(1)
        for matrix in self.matrices:
            power = np.multiply.outer(power, np.square(matrix).sum(1)).ravel()
        white: Array = np.round(self._pooled(power), 9)  # whole, but for round-off
        return white

    @property
    def width(self) -> int:
        """How many bands there are, with `high`, F."""
        return len(self.label) + (self.upper is not None)

    @property
    def bins(self) -> Array:
        """One where a mode belongs to a band, (Π N', F); large states have no room for it."""
        return self._pooled(np.eye(len(self.band)))

    def blocks(self, order: NDArray[np.int64] | None = None) -> Iterator[Block]:
        """`bins` in parts that leave out most of its zeros.

        order: that in which the modes come."""
        band = self.band if order is None else self.band[order]
        upper = self.upper if order is None or self.upper is None else self.upper[order]
        places: list[Any] = [slice(None)]
        if len(band) > MODES:
            places = np.split(np.argsort(band, kind="stable"), range(MODES, len(band), MODES))
        for modes in places:
            bands = np.unique(band[modes])
            members = band[modes][:, None] == bands
            if upper is not None:
                bands = np.append(bands, len(self.label))
                members = np.hstack([members, upper[modes][:, None]])
            yield Block(modes, bands, members.astype(np.float64))

    def _pooled(self, power: Array) -> Array:
        """Σ over the modes of each band, (…, F), of (…, Π N')."""
        total = np.zeros((*power.shape[:-1], self.width))
        for modes, bands, members in self.blocks():
            total[..., bands] += power[..., modes] @ members
        return total

    def power(self, states: Array) -> Array:
        """Σ over a band's modes of |coefficient|², (…, F).

        For (…, *space), or (…, C, *space) with mixing."""
        axes = len(self.matrices)
        if self.mixing is not None:
            states = np.moveaxis(np.tensordot(states, self.mixing, (-axes - 1, 1)), -1, -axes - 1)
        c = states
        for axis, matrix in enumerate(self.matrices, start=-axes):
            c = np.moveaxis(np.tensordot(c, matrix, (axis, 1)), -1, axis)
        return self._pooled(np.square(c).reshape(*states.shape[:-axes], -1))


def dct_matrix(n: int) -> NDArray[np.float64]:
    """The orthonormal DCT-II of length n as a matrix, one mode per row."""
    k, i = np.arange(n)[:, None], np.arange(n)[None]
    matrix: NDArray[np.float64] = np.sqrt(2 / n) * np.cos(np.pi * k * (2 * i + 1) / (2 * n))
    matrix[0] /= np.sqrt(2)
    return matrix


def fourier_matrix(n: int) -> NDArray[np.float64]:
    """The orthonormal real Fourier basis of length n, one mode per row.

    1, cos 1, sin 1, cos 2, …"""
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
    """One level of the Haar transform, averages then differences.

    An odd length is extended by its mirror image."""
    if n == 1:
        return np.ones((1, 1))
    even = n + n % 2
    pair = np.arange(even // 2)
    matrix = np.zeros((even, even))
    matrix[pair, 2 * pair] = matrix[pair, 2 * pair + 1] = np.sqrt(0.5)
    matrix[even // 2 + pair, 2 * pair], matrix[even // 2 + pair, 2 * pair + 1] = (
        np.sqrt(0.5),
        -np.sqrt(0.5),
    )
    if even > n:
        matrix[:, n - 1] += matrix[:, n]
    return matrix[:, :n]


def spectrum_bands(basis: str, shape: Sequence[int]) -> Bands:
    """The radial bands of one of `BASES` for states (C, *space).

    Raises InputError for an unknown basis, states without space, luma without an image of three
    channels, and plane and frames of anything but a video."""
    if basis not in BASES:
        raise InputError(f"unknown basis {basis!r} of spectra: allowed are {', '.join(BASES)}")
    channels, *space = shape
    if not space:
        raise InputError(
            f"{NO_SPACE}: these are vectors of {channels} numbers; see variance_gap and state_error"
        )
    if basis == "luma" and (channels != 3 or len(space) != 2):
        raise InputError(
            f"luminance and chroma are made of three channels, not of {described(shape)}: use dct"
        )
    if basis in ("plane", "frames") and len(space) != 3:
        raise InputError(
            f"{basis} is a spectrum of videos (C, F, H, W), not of {described(shape)}: use dct"
        )
    makers: dict[str, Callable[..., Bands]] = {
        "dct": dct,
        "hann": hann,
        "fft": fft,
        "luma": luma,
        "plane": plane,
        "frames": frames,
    }
    return makers[basis](*space)


def default_bases(shape: Sequence[int]) -> tuple[str, ...]:
    """The bases in which a state's power is always kept."""
    return {0: (), 3: ("dct", "plane", "frames")}.get(len(shape) - 1, ("dct",))


def dct(*space: int) -> Bands:
    """Radial DCT bands, then one more, `high`.

    That is over all modes at ¼ cycle per pixel and above (it overlaps them)."""
    return _banded(
        "dct", "frequency", _dct_matrices(space), radial_frequency(*space).ravel(), max(space)
    )


def fft(*space: int) -> Bands:
    """The same of the raw FFT."""
    return _fourier("fft", [fourier_matrix(n) for n in space])


def hann(*space: int) -> Bands:
    """The same of the FFT under a Hann window."""
    return _fourier("hann", [fourier_matrix(n) * hann_window(n) for n in space])


def luma(*space: int) -> Bands:
    """The bands of `dct`, of luminance and chroma."""
    return replace(dct(*space), name="luma", mixing=LUMA)


def plane(frame_count: int, height: int, width: int) -> Bands:
    """DCT bands of a video by frequency within a frame."""
    space = (frame_count, height, width)
    frequency = _radial([np.zeros(frame_count), *_dct_frequencies(space[1:])])
    return _banded("plane", "plane_frequency", _dct_matrices(space), frequency, max(height, width))


def frames(frame_count: int, height: int, width: int) -> Bands:
    """DCT bands of a video by frequency over frames."""
    space = (frame_count, height, width)
    frequency = _radial([*_dct_frequencies(space[:1]), np.zeros(height), np.zeros(width)])
    return _banded("frames", "frames_frequency", _dct_matrices(space), frequency, frame_count)


def radial_frequency(*space: int) -> Array:
    """√Σ f² of every DCT mode in cycles per pixel, in the shape of space."""
    return _radial(_dct_frequencies(space)).reshape(space)


def _dct_matrices(space: Sequence[int]) -> list[Array]:
    return [dct_matrix(n) for n in space]


def _dct_frequencies(space: Sequence[int]) -> list[Array]:
    return [np.arange(n) / (2 * n) for n in space]


def _fourier(name: str, matrices: list[Array]) -> Bands:
    frequencies = [(np.arange(len(m)) + 1) // 2 / len(m) for m in matrices]
    longest = max(len(m) for m in matrices)
    return _banded(name, "fourier_frequency", matrices, _radial(frequencies), longest)


def _radial(frequencies: Sequence[Array]) -> Array:
    """√Σ f² of every mode, (Π N,)."""
    square = np.zeros(1)
    for f in frequencies:
        square = np.add.outer(square, f**2).ravel()
    return np.sqrt(square)


def _banded(
    name: str, dimension: str, matrices: Sequence[Array], frequency: Array, longest: int
) -> Bands:
    """Bands of modes whose frequencies are given, (Π N,)."""
    spacing = 1 / longest
    # A mode on a bin's upper edge belongs to it; the tolerance keeps k/2N · N = k/2 there.
    index = np.ceil(frequency / spacing - 1e-9).astype(int)
    used, band = np.unique(index, return_inverse=True)
    label = np.where(used == 0, 0, (used - 0.5) * spacing)
    upper = frequency >= HIGH_FREQUENCY - 1e-12
    return Bands(name, dimension, tuple(matrices), band, label, upper)


def haar(*space: int) -> Bands:
    """The sub-bands of one Haar level.

    L (averages) or H (differences) along each axis: LL, LH, HL, HH of an image."""
    matrices = [haar_matrix(n) for n in space]
    detail = [np.arange(len(m)) >= (len(m) + 1) // 2 for m in matrices]
    number = np.zeros(1, dtype=int)
    for d in detail:
        number = np.add.outer(2 * number, d).ravel()
    label = np.array(["".join(letters) for letters in product("LH", repeat=len(space))])
    used, band = np.unique(number, return_inverse=True)
    return Bands("haar", "band", tuple(matrices), band, label[used])


class BandPower(Accumulator):
    """Σ over samples and a band's modes of |coefficient|² of one field, by group and channel.

    On disk: `{field}_{bands.key}` (step, group, channel, band) and, but for Haar,
    `{field}_{bands.high}` (step, group, channel). Rotated channels have the dimension `component`.
    """

    def __init__(self, layout: Layout, field: str, bands: Bands) -> None:
        super().__init__()
        self.field, self.bands, self.channels = field, bands, layout.shape[0]
        self.mixing = bands.mixing
        axes = len(bands.matrices)
        for axis, matrix in enumerate(bands.matrices):
            setattr(self, f"matrix_{axis}", matrix.T)
        self.large = len(bands.band) > MODES
        # `_transformed` leaves the axes of small states in another order, and so are the modes.
        modes = np.arange(len(bands.band)).reshape([len(m) for m in bands.matrices])
        order = modes.ravel() if self.large else modes.transpose(*range(1, axes), 0).ravel()
        self.places: list[tuple[Any, NDArray[np.int64]]] = []
        for number, block in enumerate(bands.blocks(order)):
            self.places.append((block.modes, block.bands))
            setattr(self, f"members_{number}", block.members)
        self._key, self._high = f"{field}_{bands.key}", f"{field}_{bands.high}"
        channel = "channel" if bands.mixing is None else "component"
        width = len(bands.label)
        leading = {"step": layout.steps, "group": GROUPS, channel: self.channels}
        self.add_sum(self._key, **leading, **{bands.dimension: width})
        if bands.upper is not None:
            self.add_sum(self._high, **leading)
        self.coords = {
            bands.dimension: (bands.dimension, bands.label),
            f"{bands.dimension}_modes": (bands.dimension, bands.count[:width], CONSTANT),
        }

    def update(self, rows: slice, batch: Batch) -> None:
        d = batch.field(self.field)
        if d is None:
            return
        d = d.to(batch.precision)
        if self.mixing is not None:
            d = (self._tensor("mixing", d) @ d.unflatten(-1, (self.channels, -1))).flatten(-2)
        power = self._transformed(d).double().square_().reshape(*d.shape[:2], self.channels, -1)
        if power.shape[1] < GROUPS:  # the smaller of the two first
            summed = batch.groups.sum(self._by_band(power), axis=1)
        else:
            summed = self._by_band(batch.groups.sum(power, axis=1))
        width = len(self.bands.label)
        self.state[self._key][rows] += summed[..., :width]
        if self.bands.upper is not None:
            self.state[self._high][rows] += summed[..., width]

    def _by_band(self, power: "Tensor") -> Array:
        """Σ over the modes of each band, (…, F), of (…, Π N')."""
        if self.large and power.device.type == "cpu":
            return self._added(power)
        total = np.zeros((*power.shape[:-1], self.bands.width))
        for number, (modes, bands) in enumerate(self.places):
            members = self._tensor(f"members_{number}", power)
            total[..., bands] += (power[..., modes] @ members).cpu().numpy()
        return total

    def _added(self, power: "Tensor") -> Array:
        """The same mode by mode, which serves large states better where it has a fixed order."""
        import torch

        modes = power.flatten(0, -2)
        total = modes.new_zeros(len(modes), self.bands.width)
        total.index_add_(1, torch.from_numpy(self.bands.band), modes)
        if self.bands.upper is not None:
            total[:, -1] = modes @ torch.from_numpy(self.bands.upper).to(modes)
        added: Array = total.reshape(*power.shape[:-1], -1).numpy()
        return added

    def _transformed(self, d: "Tensor") -> "Tensor":
        """The coefficients of (K, B, D).

        One matrix product for each axis, the first axis last. Large states have their axes in
        order, and a faster way where there is one."""
        space = [m.shape[1] for m in self.bands.matrices]
        c = d.reshape(-1, *space)
        if self.large and self.bands.name == "haar":
            return _fast_haar(c)
        if self.large and self.bands.cosine and d.device.type == "cpu":
            return _fast_dct(c)
        for axis in reversed(range(len(space))):
            c = c @ self._tensor(f"matrix_{axis}", d)
            if axis > 0:
                c = c.movedim(-1, 1)
        return c.movedim(-1, 1) if self.large else c


def _fast_dct(c: "Tensor") -> "Tensor":
    """The orthonormal DCT-II over all axes but the first."""
    import torch
    from scipy.fft import dctn

    axes = tuple(range(1, c.ndim))
    return torch.from_numpy(dctn(c.numpy(), axes=axes, norm="ortho"))


def _fast_haar(c: "Tensor") -> "Tensor":
    """`haar_matrix` along all axes but the first: an odd length has its last number twice."""
    import torch

    for axis in range(1, c.ndim):
        x = c.movedim(axis, -1)
        first, second = x[..., ::2], x[..., 1::2]
        if x.shape[-1] > 1:
            if x.shape[-1] % 2:
                second = torch.cat([second, x[..., -1:]], dim=-1)
            x = torch.cat([first + second, first - second], dim=-1) * np.sqrt(0.5)
        c = x.movedim(-1, axis)
    return c
