"""Noise that belongs to a sample: one Brownian path in SNR, read by every chain of that sample.

With λ = SNR = α²/σ², x_t ~ q(x_t | x_0) for all t at once is α_t x_0 + σ_t W(λ_t)/√λ_t, W a
Brownian motion (docs/mathematics.md). So let a sample's noise be W, and read from it

    ε = W(λ_s)/√λ_s                            the start at any level s
    z = (W(λ_t) − W(λ_s))/√(λ_t − λ_s)         the noise of a step s → t, on any grid

Chains of other lengths, refined chains, other starts and restarts of one sample then walk on one
path, and their differences are known far better than either. (The same idea in time: torchsde's
BrownianInterval, Li et al. 2020, arXiv 2001.01328, §4; the use: multilevel Monte Carlo, Giles
2008.)

W is made by Brownian bridges in tiers, so that a step costs about two normal numbers a pixel:

    posts      every second decade of λ from 1e−10 on, by independent increments
    anchors    eight to a decade, each bridged between the one before and the next post
    levels     those of a grid, each bridged between the point before and the next anchor
    refined    levels inserted into a grid, each bridged between the point before and the next level

Each tier leaves those above it bit for bit. The law is exact for every single grid. Two grids share
posts and anchors; a level that they share has one value in both if it is the first of its grid
after an anchor, and otherwise depends on the levels before it there. A refinement shares all levels
of its grid. Levels below the first post (α = 0) are read at the post, as start and as the beginning
of the first increment, which keeps the two independent.

A normal number is a pure function of (seed, purpose, sample, place on the path, pixel): batches,
order, processes and devices do not matter. Uniform bits come from the counter-based Philox4x64-10
(Salmon et al. 2011), keyed by a hash of seed and purpose, with the sample's number in the counter,
so that consecutive samples are one call; pairs of them become normal by Box and Muller's transform.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from math import gcd, inf, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from exposure_bias.errors import whole_number
from exposure_bias.schedules import Level

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LOWEST = -10  # the first post is at λ = 10^LOWEST
DECADES_PER_POST = 2
ANCHORS_PER_DECADE = 8
# Kinds of places for numbers.
POSTS, ANCHORS, LEVELS, REFINED, BEYOND, INDEPENDENT = range(6)
WORDS_PER_BLOCK = 8  # 32-bit words that one counter of Philox4x64 gives
CHUNK = 2**19  # numbers that a thread makes normal at once: more take memory, fewer take turns
THREADED = 2**17  # 64-bit words from which on a second thread pays


class Draws:
    """Independent standard normal numbers for the samples `ids`: (B, *shape) float32 at each place.

    seed: any integer. purpose: independent numbers for independent uses ("chain", "forward", …).
    """

    def __init__(
        self,
        seed: int,
        purpose: str,
        ids: Sequence[int],
        shape: tuple[int, ...],
        device: "torch.device | str" = "cpu",
    ) -> None:
        self.seed, self.purpose, self.ids = seed, purpose, [int(i) for i in ids]
        self.shape, self.device = tuple(shape), device
        self._size = int(np.prod(shape))
        self._words = -(-self._size // WORDS_PER_BLOCK) * WORDS_PER_BLOCK
        digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
        self._key = np.frombuffer(digest, dtype="<u8")
        self._runs = list(runs(self.ids))

    def __call__(self, *place: int) -> "Tensor":
        """The numbers of one place, at most three integers below 2^63."""
        import torch

        bits = self.bits_on_device if torch.device(self.device).type == "cuda" else self.bits
        return self.normal(bits(*place))

    def bits(self, *place: int) -> "Tensor":
        """The uniform 32-bit words behind them, (B, words) int32.

        Made by NumPy on as many threads as torch has."""
        import torch

        counters = self._words // WORDS_PER_BLOCK
        raw = np.empty((len(self.ids), 4 * counters), dtype=np.uint64)
        threads = torch.get_num_threads() if raw.size >= THREADED else 1

        def fill(row: int, first: int, count: int) -> None:
            found = _raw(self._key, first * counters, count * counters, place)
            raw[row : row + count] = found.reshape(count, -1)

        if threads == 1:
            for piece in _pieces(self._runs, len(self.ids)):
                fill(*piece)
        else:
            pieces = list(_pieces(self._runs, -(-len(self.ids) // threads)))
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(fill, *zip(*pieces, strict=True)))
        return torch.from_numpy(raw.view(np.int32)).to(self.device)

    def bits_on_device(self, *place: int) -> "Tensor":
        """The same words, made where the states live."""
        import torch

        counters = self._words // WORDS_PER_BLOCK
        ids = torch.tensor(self.ids, device=self.device)
        first = ids[:, None] * counters + torch.arange(counters, device=self.device)
        words = _philox_of(torch.device(self.device).type)(first, place, _signed(self._key))
        return words.view(torch.int32).reshape(len(ids), self._words)

    def normal(self, words: "Tensor") -> "Tensor":
        """Box–Muller: the first half of a sample's words are radii, the second half angles."""
        import torch

        z = torch.empty(words.shape, device=words.device)
        rows = len(z) if z.is_cuda else max(1, CHUNK * torch.get_num_threads() // self._words)
        for part, out in zip(words.split(rows), z.split(rows), strict=True):
            _box_muller(part, out)
        return z[:, : self._size].reshape(len(words), *self.shape)


def _box_muller(words: "Tensor", out: "Tensor") -> None:
    """Fill `out` with the normal numbers (B, W) of 32-bit words (B, W)."""
    import torch

    half = words.shape[1] // 2
    # 31 bits, so that radii are exact in float32 where they are large.
    radius = (words[:, :half] & 0x7FFFFFFF).float().add_(0.5).mul_(2.0**-31)
    radius.log_().mul_(-2).sqrt_()
    angle = words[:, half:].float().mul_(2 * np.pi * 2.0**-32)
    torch.cos(angle, out=out[:, :half])
    torch.sin(angle, out=out[:, half:])
    out.view(len(out), 2, half).mul_(radius[:, None])


def _raw(
    key: NDArray[np.uint64], first: int, count: int, place: tuple[int, ...]
) -> NDArray[np.uint64]:
    """The bits of `count` counters from (first, *place) on."""
    counter = np.zeros(4, dtype=np.uint64)
    # Philox counts up before it answers.
    counter[: 1 + len(place)] = [(first - 1) % 2**64, *place]
    if first == 0:
        counter[1:] = _before(counter[1:])
    raw: NDArray[np.uint64] = np.random.Philox(counter=counter, key=key).random_raw(4 * count)
    return raw


def _pieces(runs: Sequence[tuple[int, int]], most: int) -> Iterator[tuple[int, int, int]]:
    """(row, first number, count) of runs of samples, in pieces of at most so many."""
    row = 0
    for first, count in runs:
        for start in range(0, count, most):
            size = min(most, count - start)
            yield row, first + start, size
            row += size


# Philox4x64-10's multipliers and what its keys grow by, Salmon et al. 2011, as signed numbers.
MULTIPLIERS = (0xD2E7470EE14C6C93 - 2**64, 0xCA5A826395121157 - 2**64)
WEYL = (0x9E3779B97F4A7C15 - 2**64, 0xBB67AE8584CAA73B - 2**64)
ROUNDS = 10
LOW = 0xFFFFFFFF


@cache
def _philox_of(kind: str) -> Any:
    """Philox where states live: one fused kernel on a GPU."""
    import torch

    return torch.compile(philox, dynamic=True) if kind == "cuda" else philox


def philox(first: "Tensor", place: tuple[int, ...], key: tuple[int, int]) -> "Tensor":
    """Philox4x64-10 of the counters (first, *place), (…, 4) int64 whose bits are NumPy's.

    It uses additions, products and shifts of int64, which wrap as unsigned numbers do.
    """
    import torch

    words = [first, *(torch.full_like(first, p) for p in place)]
    a, b, c, d = [*words, *(torch.zeros_like(first) for _ in range(4 - len(words)))]
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, high1 = (_high(x, m) for x, m in zip((a, c), MULTIPLIERS, strict=True))
        a, b, c, d = high1 ^ b ^ k0, c * MULTIPLIERS[1], high0 ^ d ^ k1, a * MULTIPLIERS[0]
        k0, k1 = (_wrapped(k + w) for k, w in zip((k0, k1), WEYL, strict=True))
    return torch.stack([a, b, c, d], dim=-1)


def _high(x: "Tensor", factor: int) -> "Tensor":
    """The upper half of the 128-bit product of unsigned 64-bit numbers."""
    x0, x1 = x & LOW, (x >> 32) & LOW
    f0, f1 = factor & LOW, (factor >> 32) & LOW
    middle = x1 * f0 + ((x0 * f0 >> 32) & LOW)
    # `middle` stays below 2^64, and so does what follows: (2^32 − 1)² + 2^32 − 1 < 2^64.
    other = x0 * f1 + (middle & LOW)
    return x1 * f1 + ((middle >> 32) & LOW) + ((other >> 32) & LOW)


def _wrapped(number: int) -> int:
    """A whole number as a signed one of 64 bits."""
    return (number + 2**63) % 2**64 - 2**63


def _signed(key: NDArray[np.uint64]) -> tuple[int, int]:
    return _wrapped(int(key[0])), _wrapped(int(key[1]))


def runs(ids: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, count) of the runs of consecutive numbers."""
    start = 0
    for i in range(1, len(ids) + 1):
        if i == len(ids) or ids[i] != ids[i - 1] + 1:
            yield ids[start], i - start
            start = i


def _before(counter: NDArray[np.uint64]) -> list[int]:
    """A multi-word counter less one carry."""
    number = sum(int(c) << (64 * i) for i, c in enumerate(counter)) - 1
    return [(number >> (64 * i)) % 2**64 for i in range(len(counter))]


class Noise(Draws):
    """Independent noise for each step of a stream: `noise(step)`.

    For streams whose levels have nothing in common."""

    def __call__(self, step: int) -> "Tensor":  # type: ignore[override]
        return super().__call__(INDEPENDENT, step)


class Point(NamedTuple):
    """W at one λ: float64 (B, *shape)."""

    snr: float
    value: "Tensor"


class Paths:
    """The Brownian paths of the samples `ids`.

    `on` a chain's levels they give its starts and noise.

    purpose: chains that are to be independent take different ones. Raises InputError for a seed
    that is no whole number."""

    def __init__(
        self,
        seed: int,
        ids: Sequence[int],
        shape: tuple[int, ...],
        device: "torch.device | str" = "cpu",
        purpose: str = "path",
    ) -> None:
        self._draws = Draws(whole_number(seed, "a seed", -(2**63)), purpose, ids, shape, device)

    def on(
        self, levels: Sequence[Level], places: Sequence[int] | NDArray[np.int64] | None = None
    ) -> "PathNoise":
        """These paths along a chain.

        places: where the levels of the unrefined chain stand in it.
        """
        return PathNoise(self._draws, levels, range(len(levels)) if places is None else places)

    def anchors(self, snr: float) -> Iterator[tuple[int, Point]]:
        """The anchors by number, from the last one at or below `snr` on.

        λ = 10^(LOWEST + number/8)."""
        return _anchors(self._draws, snr)


class PathNoise:
    """Paths along one chain: `start(i)` is ε at level i, a call with i is z from level i to i + 1.

    Calls in the chain's order are cheap; one for an earlier level walks there anew.
    """

    def __init__(
        self, draws: Draws, levels: Sequence[Level], places: Sequence[int] | NDArray[np.int64]
    ) -> None:
        self._draws = draws
        self._snr = [max(level.snr, 10.0**LOWEST) for level in levels]
        noisy = [i for i, snr in enumerate(self._snr) if np.isfinite(snr)]
        self._on_path = all(self._snr[a] < self._snr[b] for a, b in pairwise(noisy))
        last = max((p for p in places if p in noisy), default=0)
        # What comes after the last level of the unrefined chain has nothing to be bridged to.
        coarse = sorted({int(p) for p in places if p in noisy} | {i for i in noisy if i > last})
        self._levels = _Walk(draws, self._snr, coarse)
        self._walk: Iterator[tuple[int, Point]] = iter(())
        self._recent: dict[int, Point] = {}

    def start(self, index: int) -> "Tensor":
        """ε at a level, float64 (B, *shape)."""
        if not self._on_path:
            single = Level(0.0, 1.0, 1 / sqrt(self._snr[index]))
            return PathNoise(self._draws, [single], [0]).start(0)
        return self._at(index).value / sqrt(self._snr[index])

    def __call__(self, index: int) -> "Tensor":
        """z of the step from level `index` to the next one, float64 (B, *shape)."""
        s, t = self._snr[index], self._snr[index + 1]
        if not (self._on_path and s < t < inf):
            # The noise-free step to the clean end, or levels that do not rise in SNR.
            return self._draws(BEYOND, index).double()
        before = self._at(index).value
        return (self._at(index + 1).value - before).div_(sqrt(t - s))

    def _at(self, index: int) -> Point:
        if index not in self._recent:
            reached = max(self._recent, default=index)
            if index < reached or not self._recent:
                self._walk, self._recent = self._levels.points(index), {}
            for i, point in self._walk:
                self._recent = {k: p for k, p in self._recent.items() if k == i - 1} | {i: point}
                if i == index:
                    break
        return self._recent[index]


class _Walk(NamedTuple):
    """The levels of a chain, by SNR, and which of them are the unrefined chain's.

    A walk that is under way holds this and not the noise that holds the walk: a cycle would keep
    its states until the garbage is collected, which for large ones is too late."""

    draws: Draws
    snr: list[float]
    coarse: list[int]

    def points(self, first: int) -> Iterator[tuple[int, Point]]:
        """W at every level from `first` on."""
        coarse = self.coarse_points(bisect_right(self.coarse, first) - 1)
        at, left = next(coarse)
        if at >= first:
            yield at, left
        for following, right in coarse:
            for i, point in self.between(at, left, following, right):
                if i >= first:
                    yield i, point
            if following >= first:
                yield following, right
            at, left = following, right

    def coarse_points(self, number: int) -> Iterator[tuple[int, Point]]:
        """W at the levels of the unrefined chain from the `number`-th of them on."""
        snr = [self.snr[i] for i in self.coarse]
        # A cell's levels are bridged one after another, so that all of it has to be walked.
        cell = _cell(snr[number])
        begin = next(k for k in range(number + 1) if _cell(snr[k]) == cell)
        anchors = _anchors(self.draws, snr[begin])
        cell, now = next(anchors)
        after, right = next(anchors)
        rank = 0
        for k in range(begin, len(snr)):
            while snr[k] >= right.snr:
                cell, now, rank = after, right, 0
                after, right = next(anchors)
            now = _bridge(now, right, snr[k], self.draws, (LEVELS, cell, rank))
            rank += 1
            if k >= number:
                yield self.coarse[k], now

    def between(
        self, at: int, left: Point, following: int, right: Point
    ) -> list[tuple[int, Point]]:
        """W at the levels that a refinement has put between two: halves first, then quarters, …"""
        factor = following - at
        known = {0: left, factor: right}
        places = sorted(range(1, factor), key=lambda j: (factor // gcd(j, factor), j))
        for j in places:
            below, above = (max(k for k in known if k < j), min(k for k in known if k > j))
            denominator = factor // gcd(j, factor)
            place = (
                REFINED,
                self.coarse.index(at),
                denominator * 2**20 + j * denominator // factor,
            )
            known[j] = _bridge(known[below], known[above], self.snr[at + j], self.draws, place)
        return [(at + j, known[j]) for j in range(1, factor)]


def _cell(snr: float) -> int:
    """The number of the last anchor at or below an SNR."""
    number = int(np.floor((np.log10(snr) - LOWEST) * ANCHORS_PER_DECADE))
    # log10 may round to the wrong side of an anchor.
    return number + int(snr >= _anchor(number + 1)) - int(snr < _anchor(number))


def _anchor(number: int) -> float:
    return float(10.0 ** (LOWEST + number / ANCHORS_PER_DECADE))


def _anchors(draws: Draws, snr: float) -> Iterator[tuple[int, Point]]:
    """The anchors by number from the last one at or below `snr` on."""
    each = ANCHORS_PER_DECADE * DECADES_PER_POST
    first = _cell(snr)
    post = 0
    now = Point(_anchor(0), draws(POSTS, 0).double() * sqrt(_anchor(0)))
    while True:
        end = _anchor((post + 1) * each)
        step = draws(POSTS, post + 1).double() * sqrt(end - now.snr)
        following = Point(end, now.value + step)
        if (post + 1) * each > first:
            for number in range(post * each, (post + 1) * each):
                if number > post * each:
                    now = _bridge(now, following, _anchor(number), draws, (ANCHORS, number))
                if number >= first:
                    yield number, now
        now, post = following, post + 1


def _bridge(left: Point, right: Point, snr: float, draws: Draws, place: tuple[int, ...]) -> Point:
    """W at `snr` between two places where it is known."""
    share = (snr - left.snr) / (right.snr - left.snr)
    if share <= 0:
        return Point(snr, left.value)
    value = left.value.lerp(right.value, share)
    return Point(snr, value.add_(draws(*place), alpha=sqrt((snr - left.snr) * (1 - share))))
