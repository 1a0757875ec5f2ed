"""Standard errors by deleting groups of images. No torch here.

Samples fall into G = 16 groups by their image, common to streams, replicates and models, so that
replicates of an image stay together. With θ_(g) the estimate without group g,

    se² = (G − 1)/G Σ_g (θ_(g) − θ̄)²,   interval θ ± t_{G−1} se   (Efron & Tibshirani 1993, ch. 11)

on the estimate's own scale: a ratio is estimated on the logarithm, and its interval is that of the
logarithm, transformed. An `Estimate` carries its scale; in a dataset it is an attribute of
`NAME_se`, which every interval obeys (`interval`).

A claim over all levels of a curve needs a wider band, θ ± q se with q the 95 % quantile of max |t|
over its points. q is the smaller of two quantiles: the bootstrap-t of the groups' θ_(g), which sees
how the points are correlated, and Šidák's, which supposes that they are not and is an upper bound
for what is correlated as these curves are.

*Distances between two sets* have a bias that deletion also measures. With θ_g and θ_gh the distance
without one and without two groups, E θ = θ_∞ + b/N + …, and deleting 1/G of both sets multiplies
the bias by G/(G − 1), so that

    corrected  θ_J = G θ − (G − 1) θ̄,   θ̄ = mean_g θ_g        (Quenouille; ibid., ch. 10)
    se²        v − v₂,   v = (G − 1)/G Σ_g (θ_g − θ̄)²

Between similar distributions a distance is nearly quadratic in the data, and the jackknife counts
the variance v₂ of its quadratic part twice (Efron & Stein 1981). The interactions I = (G−2) θ_gh −
(G−1)(θ_g + θ_h) + G θ of the G/2 disjoint pairs (g, g + G/2) measure it: for a mean of uncorrelated
terms over pairs of groups E I² = 2G/(G−3) v₂, for a linear statistic I = 0. v₂ ≤ v/2, which is
reached where nothing is linear. All of it is linear in the numbers (θ, θ_g, θ_gh): a difference
between two curves is had by subtracting theirs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

Array = NDArray[np.float64]

GROUPS = 16
MINIMUM_PER_GROUP = 16
MINIMUM_PER_FEATURE = 10
# Two-sided 95 % quantile of Student's t with 15 degrees of freedom.
T_QUANTILE = 2.131449545559323
LEVEL = 0.95
RESAMPLES = 2000
DECIBEL = 10 / np.log(10)

PAIRS = [(g, g + GROUPS // 2) for g in range(GROUPS // 2)]
# What is deleted for each of the 25 numbers that `deletions` returns.
DELETED: list[tuple[int, ...]] = [(), *((g,) for g in range(GROUPS)), *PAIRS]

# From a statistic to the scale that its error lives on, and back.
SCALES: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "linear": (lambda v: v, lambda v: v),
    "log": (np.log, np.exp),
    "log1p": (np.log1p, np.expm1),
}


class Groups:
    """The groups of samples, from their images' numbers (B,).

    `sum` takes NumPy arrays and torch tensors.
    """

    def __init__(self, images: Any) -> None:
        self.group = np.asarray(images, dtype=np.int64) % GROUPS
        # Samples nearly always come in order of their images; then a group is every 16th sample.
        turn = self.group[:1] + np.arange(len(self.group))
        in_turn = len(self.group) > 0 and len(self.group) % GROUPS == 0
        self._first = (
            int(self.group[0]) if in_turn and (self.group == turn % GROUPS).all() else None
        )
        self._member = (np.arange(GROUPS)[:, None] == self.group[None]).astype(np.float64)
        self._tensors: dict[Any, Any] = {}

    @property
    def count(self) -> Array:
        """Samples in each group, (G,)."""
        return np.bincount(self.group, minlength=GROUPS).astype(np.float64)

    def sum(self, values: Any, axis: int = 0) -> Any:
        """Σ over the samples of each group: `axis`, of B samples, becomes one of GROUPS."""
        before, after = tuple(values.shape[:axis]), tuple(values.shape[axis + 1 :])
        if self._first is not None:
            turns = values.reshape(*before, -1, GROUPS, *after).sum(axis)
            roll = np.roll if isinstance(values, np.ndarray) else type(values).roll
            return roll(turns, self._first, axis)
        flat = values.reshape(*before, len(self.group), -1)
        return (self._member_like(values) @ flat).reshape(*before, GROUPS, *after)

    def _member_like(self, values: Any) -> Any:
        """Which sample belongs to which group, (G, B), as an array of the values' kind."""
        if isinstance(values, np.ndarray):
            return self._member
        key = (values.device, values.dtype)
        if key not in self._tensors:
            self._tensors[key] = values.new_tensor(self._member)
        return self._tensors[key]


def sums_by_group(values: Any, images: Any) -> Array:
    """Σ over the samples of each group, (G, …) float64, of values (B, …), an array or a tensor."""
    numbers = values if isinstance(values, np.ndarray) else values.double().cpu().numpy()
    total: Array = Groups(images).sum(np.asarray(numbers, dtype=np.float64))
    return total


@dataclass(frozen=True)
class Estimate:
    """A statistic with its standard error on `scale`, one of `SCALES`.

    widest: half of the simultaneous 95 % band in standard errors, NaN where there is none.
    """

    value: Array
    error: Array
    scale: str = "linear"
    widest: float = float("nan")

    @property
    def linear_error(self) -> Array:
        """The standard error of the value itself, to first order."""
        if self.scale == "linear":
            return self.error
        return self.error * (self.value if self.scale == "log" else 1 + self.value)

    def ends(self, t: float = T_QUANTILE) -> tuple[Array, Array]:
        """The statistic t standard errors below and above."""
        return ends(self.value, self.error, self.scale, t)

    def beside(self, value: Array | None = None, further: Array | float = 0.0) -> "Estimate":
        """The same with another value, or with a further error in quadrature.

        further: an independent standard error."""
        moved = self.value if value is None else np.asarray(value)
        return replace(self, value=moved, error=np.hypot(self.error, further))


def ends(value: Any, error: Any, scale: str, t: float = T_QUANTILE) -> tuple[Any, Any]:
    """The ends of an interval of ± t standard errors on a scale."""
    to, back = SCALES[scale]
    with np.errstate(divide="ignore", invalid="ignore"):
        centre = to(value)
        return back(centre - t * error), back(centre + t * error)


def why_no_interval(count: Array) -> dict[str, str]:
    """Attributes that say why samples are too few for an interval; none if they suffice.

    count: the samples by group, (G,)."""
    reason = too_few([count])
    return {"no_interval": reason} if reason else {}


def too_few(counts: Sequence[Array], dimension: int = 0) -> str:
    """Why sets of samples counted by group, each (G,), give no interval; empty if they do.

    dimension: the number of features where a covariance is estimated, else 0.
    """
    fewest = min(int(count.sum()) for count in counts)
    if min(count.min() for count in counts) < MINIMUM_PER_GROUP:
        needed = MINIMUM_PER_GROUP * GROUPS
        return f"{fewest} samples give no interval: {needed} or more, of as many images, would"
    if fewest < MINIMUM_PER_FEATURE * dimension:
        needed = MINIMUM_PER_FEATURE * dimension
        return (
            f"{fewest} samples of {dimension} features give no interval or bias correction:"
            f" {needed} or more would"
        )
    return ""


def jackknife(
    estimate: Callable[..., Array],
    count: Array,
    *sums: Array,
    scale: str = "linear",
    band: bool = False,
    least: int = MINIMUM_PER_GROUP,
) -> Estimate:
    """estimate(n, *totals) with its error on `scale`.

    `count` (G,) and `sums` (G, …) are by group.

    band: also how wide a band over all of its points has to be. Errors are NaN where a group has
    fewer than `least` samples (`why_no_interval`), and where the estimate is not finite on its
    scale."""
    totals = [s.sum(0) for s in sums]
    value = np.asarray(estimate(count.sum(), *totals), dtype=np.float64)
    if count.min() < least:
        return Estimate(value, np.full_like(value, np.nan), scale)
    deviations = deviations_of(estimate, count, sums, scale)
    error = standard_error(deviations)
    return Estimate(value, error, scale, max_t_quantile(deviations) if band else float("nan"))


def deviations_of(
    estimate: Callable[..., Array], count: Array, sums: Sequence[Array], scale: str
) -> Array:
    """θ_(g) − θ̄ on the scale, (G, …)."""
    totals, n = [s.sum(0) for s in sums], count.sum()
    each = []
    for g in range(len(count)):
        left = [t - s[g] for t, s in zip(totals, sums, strict=True)]
        each.append(estimate(n - count[g], *left))
    with np.errstate(divide="ignore", invalid="ignore"):
        without = SCALES[scale][0](np.stack(each))
        without = np.where(np.isfinite(without), without, np.nan)
        deviations: Array = without - without.mean(0)
    return deviations


def standard_error(deviations: Array) -> Array:
    """From deviations (G, …), the standard error (…)."""
    groups = len(deviations)
    return np.sqrt((groups - 1) / groups * np.square(deviations).sum(0))


def max_t_quantile(deviations: Array, level: float = LEVEL) -> float:
    """The 95 % quantile of max |t| over the points of `deviations` (G, …), or another one.

    See the module docstring; NaN if none varies."""
    groups = len(deviations)
    points = deviations.reshape(groups, -1)
    points = points[:, np.isfinite(points).all(0) & (np.square(points).sum(0) > 0)]
    if not points.shape[1]:
        return float("nan")
    points = points / np.sqrt(np.square(points).mean(0))
    draws = np.random.default_rng(0).multinomial(
        groups, np.full(groups, 1 / groups), size=RESAMPLES
    )
    mean = draws @ points / groups
    spread = np.sqrt(np.maximum(draws @ points**2 / groups - mean**2, 1e-9) / (groups - 1))
    resampled = np.quantile(np.abs(mean / spread).max(1), level)
    return float(min(resampled, sidak(points.shape[1], level)))


def sidak(points: int, level: float = LEVEL) -> float:
    """Half of a simultaneous 95 % band over independent points, in standard errors."""
    return t_quantile((1 + level ** (1 / points)) / 2)


def t_quantile(p: float, degrees: int = GROUPS - 1) -> float:
    """Student's t quantile for p ≥ ½ and an odd number of degrees of freedom, by bisection.

    The distribution function is a finite sum there (Abramowitz & Stegun 26.7.4); importing SciPy's
    takes longer than reading a recording.
    """
    low, high = 0.0, 1e6
    while high - low > 1e-14 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if _t_below(middle, degrees) < p else (low, middle)
    return (low + high) / 2


def _t_below(t: float, degrees: int) -> float:
    """The probability of less than t, for odd degrees of freedom."""
    angle = math.atan(t / math.sqrt(degrees))
    term, total = math.cos(angle), 0.0
    for k in range(1, (degrees + 1) // 2):
        total += term
        term *= math.cos(angle) ** 2 * 2 * k / (2 * k + 1)
    return 0.5 + (angle + math.sin(angle) * total) / math.pi


def with_estimates(dataset: xr.Dataset, dims: tuple[str, ...], **estimates: Estimate) -> xr.Dataset:
    """The dataset with each estimate as `NAME` and `NAME_se`, which says its scale."""
    variables: dict[str, Any] = {}
    for name, found in estimates.items():
        variables[name] = (dims, found.value)
        variables[f"{name}_se"] = (dims, found.error, {"scale": found.scale})
    return dataset.assign(variables)


def with_interval(dataset: xr.Dataset, dims: tuple[str, ...], **estimates: Estimate) -> xr.Dataset:
    """`with_estimates`, and the 95 % interval `NAME_low`, `NAME_high`.

    Where there is a band, its ends are `NAME_band_low`, …"""
    dataset = with_estimates(dataset, dims, **estimates)
    for name, found in estimates.items():
        for kind, t in (("", T_QUANTILE), ("_band", found.widest)):
            if kind and np.isnan(t) and np.isfinite(found.error).any():
                continue
            low, high = found.ends(t)
            dataset = dataset.assign(
                {f"{name}{kind}_low": (dims, low), f"{name}{kind}_high": (dims, high)}
            )
    return dataset


def interval(
    dataset: xr.Dataset, name: str, t: float = T_QUANTILE
) -> tuple[xr.DataArray, xr.DataArray]:
    """Lower and upper end of a variable's 95 % interval, on the scale that its `_se` says."""
    error = dataset[f"{name}_se"]
    low, high = ends(dataset[name], error, error.attrs.get("scale", "linear"), t)
    return low, high


def grouped(dataset: xr.Dataset, name: str) -> Array:
    """A variable's values with its group dimension first."""
    values: Array = dataset[name].transpose("group", ...).values
    return values


def mean_of(n: float, total: Array) -> Array:
    """Σ/n: the commonest estimate."""
    return total / n


def ratio_of(n: float, above: Array, below: Array) -> Array:
    """The ratio of two sums, NaN where there is nothing below."""
    return np.divide(
        above,
        below,
        out=np.full_like(np.asarray(above, np.float64), np.nan),
        where=np.asarray(below) > 0,
    )


def deletions(estimate: Callable[[Sequence[int]], float], reason: str = "") -> Array:
    """estimate(groups left out) for every entry of `DELETED`, (25,).

    Only the first unless `reason` is empty."""
    values = np.full(len(DELETED), np.nan)
    for i, left_out in enumerate(DELETED[:1] if reason else DELETED):
        values[i] = estimate(left_out)
    return values


def corrected(values: Array, distance: bool = False) -> tuple[Array, Array]:
    """(θ_J, standard error), each (…), from what `deletions` returned.

    It may be differences of that as well, (…, 25). distance: these are distances and no
    differences. Where one is below zero, which no distance is, its standard error came out too
    small as well: only half of the quadratic part is subtracted (benchmarks/frechet.py).
    """
    full, one, two = values[..., 0], values[..., 1 : 1 + GROUPS], values[..., 1 + GROUPS :]
    mean = one.mean(-1)
    v = (GROUPS - 1) / GROUPS * np.square(one - mean[..., None]).sum(-1)
    half = one[..., : GROUPS // 2] + one[..., GROUPS // 2 :]
    interaction = (GROUPS - 2) * two - (GROUPS - 1) * half + GROUPS * full[..., None]
    quadratic = (GROUPS - 3) / (2 * GROUPS) * np.square(interaction).mean(-1)
    value = GROUPS * full - (GROUPS - 1) * mean
    part = np.where(distance & (value < 0), 0.5, 1.0) * np.minimum(quadratic, v / 2)
    return value, np.sqrt(v - part)
