"""What of a chain's gaps is the start's, the solver's and the network's, from sums by group.

The arithmetic of `experiments.budget`: every statistic of the sampler's chain and of the limit's
(`Measure`), the parts that follow from them (`Parts`), and their errors (`split`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from exposure_bias.diagnostics.target import Pooling
from exposure_bias.diagnostics.variance_gap import expected, relative, variance_of
from exposure_bias.experiments.bench import Bench, Scheme, check_samples
from exposure_bias.jackknife import (
    DECIBEL,
    MINIMUM_PER_GROUP,
    Array,
    Estimate,
    deviations_of,
    grouped,
    jackknife,
    max_t_quantile,
    standard_error,
)
from exposure_bias.recording import Recording, merge
from exposure_bias.running.setup import Setup
from exposure_bias.statistics.bands import dct

PARTS = ("total", "initialisation", "discretisation", "score")
EXTRAPOLATED = ("discretisation", "score")


@dataclass(frozen=True)
class Split:
    """A chain's budget at every level.

    parts by name, (statistic, level); the order's, of a part of the samples.

    beyond: the extrapolation's own error, where it shows, (statistic, level); it is in the errors
    of the parts. widest: half of a simultaneous 95 % band of the score error over all levels, in
    standard errors.
    """

    names: list[str]
    parts: dict[str, Estimate]
    order: Estimate
    beyond: Array
    widest: Array

    def at(self, name: str, level: int = -1) -> dict[str, tuple[float, float]]:
        """One statistic at one level: value and error of each part and of the order ratio."""
        row = self.names.index(name)
        every = self.parts | {"order_ratio": self.order}
        return {
            k: (float(e.value[row, level]), float(e.error[row, level])) for k, e in every.items()
        }

    def beyond_at(self, name: str, level: int = -1) -> float:
        """The extrapolation's own error of one statistic at one level, 0 where none shows."""
        return float(self.beyond[self.names.index(name), level])


class Measure:
    """The statistics of a chain from sums by group, against a base recording's data and levels."""

    def __init__(self, base: Recording, own_images: bool) -> None:
        chain, data = base["chain"], base["data"]
        self.rows = slice(0, len(chain["step"]) - 1)
        noisy = chain.isel(step=self.rows)
        self.alpha, self.sigma = (noisy[k].values[:, None] for k in ("alpha", "sigma"))
        self.own_images = own_images
        self.pooling = Pooling.of(base)
        self.population = data["variance"].values.ravel()
        self.count = chain["count"].values
        self.bands, self.channels = self._bands(base), data["mean"].shape[0]
        labels = [] if self.bands is None else [f"band {f:.3g}" for f in self.bands.label]
        self.names = ["gap", *(["hf", *labels] if labels else []), "mean shift"]
        self.data = data

    def _bands(self, base: Recording) -> Any:
        space = base["data"]["mean"].shape[1:]
        return dct(*space) if space and "state_spectrum" in base["data"] else None

    @property
    def data_sums(self) -> tuple[Array, ...]:
        """Sums over the recorded images by group.

        Count, Σ d, Σ d² where the chain's are, and power by band.
        """
        power = () if self.bands is None else (_power(self.data)[:, 0],)
        return (*self.pooling.known.sums, *power)

    @property
    def data_everywhere(self) -> list[Array]:
        """The same over all samples and all pixels."""
        both = [self.data[f"state_{part}"].values.ravel() for part in ("sum", "square")]
        power = [] if self.bands is None else [_power(self.data)[:, 0].sum(0)]
        return [self.data["count"].values.sum(), *both, *power]

    def sums(self, chain: xr.Dataset) -> list[Array]:
        """What `values` takes of a chain, by group: (group, level, …)."""
        total, square = (self.pooling.sums(chain, part) for part in ("sum", "square"))
        found = [total[:, self.rows], square[:, self.rows]]
        return found if self.bands is None else [*found, _power(chain)[:, self.rows]]

    def everywhere(self, chain: xr.Dataset) -> list[Array]:
        """The same over all samples and all pixels: (level, …)."""
        steps = chain.sizes["step"]
        found = [
            chain[f"state_{part}"].values.reshape(steps, -1)[self.rows]
            for part in ("sum", "square")
        ]
        return found if self.bands is None else [*found, _power(chain).sum(0)[self.rows]]

    @property
    def width(self) -> int:
        """How many arrays one chain has."""
        return 2 if self.bands is None else 3

    def values(
        self, n: float, chain: Sequence[Array], data: Sequence[Array], whole: bool = False
    ) -> Array:
        """All statistics, (statistic, level).

        whole: the sums are over all pixels, of all samples.
        """
        total, square, *power = chain
        count, data_total, data_square, *data_power = data
        variance = variance_of(n, total, square)
        target = expected(
            self.alpha, self.sigma, self._variance(count, data_total, data_square, whole)
        )
        rows = [relative(variance.sum(1), target.sum(1))]
        if power:
            noise = self.sigma**2 * self.bands.count * self.channels
            wanted = n * (self.alpha**2 * data_power[0] / float(count) + noise)
            ratio = np.divide(power[0], wanted, out=np.full_like(wanted, np.nan), where=wanted > 0)
            with np.errstate(divide="ignore", invalid="ignore"):
                decibel = DECIBEL * np.log(ratio)
            rows += [decibel[:, -1], *decibel[:, :-1].T]
        shift = ((total / n) ** 2 - variance / n).mean(1) / target.mean(1)
        return np.stack([*rows, shift])

    def _variance(self, count: Any, total: Array, square: Array, whole: bool) -> Array:
        """σ_i² of the population that the images are from, or of these very images."""
        if self.own_images:
            return square / count - (total / count) ** 2
        return self.population if whole else self.pooling.known.remaining(count, total, square)


def _power(stream: xr.Dataset) -> Array:
    """Power by band, `high` last, summed over channels: (group, step, band + 1)."""
    bands, high = grouped(stream, "state_spectrum").sum(2), grouped(stream, "state_high").sum(2)
    return np.concatenate([bands, high[..., None]], axis=-1)


@dataclass(frozen=True, eq=False)
class Parts:
    """How a budget's parts follow from sums by group.

    Arrays (part, statistic, level), `PARTS` in their order.

    own: the sampler's chain from the data, and after it that from noise, if any. limit: the limit's
    chains, which `weights` extrapolate; none where the limit is unknown. few: those of the samples
    that walked the whole ladder."""

    measure: Measure
    own: list[xr.Dataset]
    limit: list[xr.Dataset]
    weights: tuple[float, ...]
    few: list[xr.Dataset]

    @classmethod
    def of(cls, bench: Bench, setup: Setup, name: str, own_images: bool = False) -> "Parts":
        """Those of one chain.

        own_images: against the variance of the very images that it started on.
        """
        paired = setup if setup.run.paired else bench.paired
        base = bench.chain(paired, name)
        measure, own = Measure(base, own_images), [base["chain"]]
        if paired is not setup:
            own.append(bench.chain(setup, f"{name}-noise")["chain"])
        scheme = bench.scheme
        if scheme is None:
            return cls(measure, own, [], (), [])
        part = slice(0, check_samples(setup.n, setup.run.steps, scheme))
        rest = slice(part.stop, setup.n)
        few = {scheme.check: bench.limit(paired, scheme.check, part, name)["chain"]}
        whole = []
        for factor in scheme.factors:
            pieces = [
                bench.limit(paired, factor, rows, name)
                for rows in (part, rest)
                if rows.start < rows.stop
            ]
            few[factor] = pieces[0]["chain"]
            whole.append(merge(pieces)["chain"])
        return cls(measure, own, whole, scheme.weights, [few[factor] for factor in scheme.ladder])

    @property
    def sums(self) -> list[Array]:
        """What `estimate` takes, by group: (group, …)."""
        chains = [total for chain in self._chains for total in self.measure.sums(chain)]
        return [*chains, *self.measure.data_sums]

    @property
    def count(self) -> Array:
        """Samples by group."""
        return self.measure.count

    @cached_property
    def value(self) -> Array:
        """The parts of all samples and all pixels."""
        chains = [total for chain in self._chains for total in self.measure.everywhere(chain)]
        data = self.measure.data_everywhere
        return self.estimate(self.count.sum(), *chains, *data, every=True)

    def estimate(self, n: float, *totals: Array, every: bool = False) -> Array:
        """The parts from sums over some groups; every: over all of them, and all pixels."""
        width = self.measure.width
        end = width * len(self._chains)
        data = totals[end:]
        each = [
            self.measure.values(n, totals[k : k + width], data, every) for k in range(0, end, width)
        ]
        base, last, limit = each[0], each[len(self.own) - 1], each[len(self.own) :]
        weighted = [w * v for w, v in zip(self.weights, limit, strict=True)]
        score = np.sum(weighted, axis=0) if weighted else np.full_like(base, np.nan)
        return np.stack([last, last - base, base - score, score])

    @property
    def _chains(self) -> list[xr.Dataset]:
        return [*self.own, *self.limit]


def split(bench: Bench, setup: Setup, name: str, own_images: bool = False) -> Split:
    """The budget of one chain. own_images: see `Parts.of`."""
    parts = Parts.of(bench, setup, name, own_images)
    value, names = parts.value, parts.measure.names
    error, widest = np.full_like(value, np.nan), np.full(len(names), np.nan)
    if parts.count.min() >= MINIMUM_PER_GROUP:
        deviations = deviations_of(parts.estimate, parts.count, parts.sums, "linear")
        error = standard_error(deviations)
        widest = np.array([max_t_quantile(deviations[:, -1, row]) for row in range(len(names))])
    order = Estimate(value[-1] * np.nan, value[-1] * np.nan)
    beyond = np.zeros_like(value[-1])
    if bench.scheme is not None:
        order, beyond = _order(parts.measure, parts.few, bench.scheme)
    for part in EXTRAPOLATED:
        error[PARTS.index(part)] = np.hypot(error[PARTS.index(part)], beyond)
    estimates = {name: Estimate(value[k], error[k]) for k, name in enumerate(PARTS)}
    return Split(names, estimates, order, beyond, widest)


def _order(
    measure: Measure, chains: Sequence[xr.Dataset], scheme: Scheme
) -> tuple[Estimate, Array]:
    """The order ratio, and the extrapolation's own error as far as it is more than noise.

    Both are of the samples that walked all three chains. The error at a level is the largest up to
    it: what a chain that exploded at its first levels shows at its last ones is not of any order.
    """
    width = measure.width

    def differences(n: float, *totals: Array) -> tuple[Array, Array]:
        data = totals[3 * width :]
        one, two, three = (
            measure.values(n, totals[k * width : (k + 1) * width], data) for k in range(3)
        )
        return one - two, two - three

    def ratio(n: float, *totals: Array) -> Array:
        above, below = differences(n, *totals)
        return np.divide(above, below, out=np.full_like(above, np.nan), where=below != 0)

    def bias(n: float, *totals: Array) -> Array:
        above, below = differences(n, *totals)
        return -scheme.curvature * (above - scheme.order * below)

    count = chains[0]["count"].values
    sums = [total for chain in chains for total in measure.sums(chain)] + [*measure.data_sums]
    error = bias(count.sum(), *(s.sum(0) for s in sums))
    deviations = deviations_of(bias, count, sums, "linear")
    wide = np.array([max_t_quantile(deviations[:, row]) for row in range(len(error))])
    shown = np.abs(error) > wide[:, None] * standard_error(deviations)
    beyond = np.maximum.accumulate(np.where(shown, np.abs(error), 0.0), axis=1)
    return jackknife(ratio, count, *sums, least=1), beyond
