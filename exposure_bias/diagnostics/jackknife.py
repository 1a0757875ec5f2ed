"""Standard errors from sums kept in groups: the delete-one-group jackknife.

With G groups of samples and θ_(g) the estimate without group g, se² = (G − 1)/G Σ_g (θ_(g) − θ̄)², and an interval is
θ ± t_{G−1} se (Efron & Tibshirani 1993, ch. 11). Groups are of images, so that replicates of an image stay together.

A claim over all levels of a curve needs a wider band, θ ± q se with q the 95 % quantile of max |t| over its points.
q is the smaller of two quantiles: the bootstrap-t of the groups' θ_(g), which sees how the points are correlated, and
Šidák's, which supposes that they are not and is an upper bound for what is correlated as these curves are.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.special import stdtrit

Array = NDArray[np.float64]

MINIMUM_PER_GROUP = 16
# Two-sided 95 % quantile of Student's t with 15 degrees of freedom: there are always 16 groups.
T_QUANTILE = 2.131449545559323
LEVEL = 0.95
RESAMPLES = 2000


def why_no_interval(count: Array) -> dict[str, str]:
    """Attributes that say why samples counted by group (G,) are too few for an interval; none if they are enough."""
    if count.min() >= MINIMUM_PER_GROUP:
        return {}
    needed = MINIMUM_PER_GROUP * len(count)
    return {"no_interval": f"{int(count.sum())} samples give no interval: {needed} or more, of as many images, would"}


def jackknife(estimate: Callable[..., Array], count: Array, *sums: Array) -> tuple[Array, Array]:
    """(value, standard error) of estimate(n, *totals), where `count` (G,) and `sums` (G, …) are by group.

    The standard error is NaN where the samples are too few for one (`why_no_interval`).
    """
    totals = [s.sum(0) for s in sums]
    value = np.asarray(estimate(count.sum(), *totals))
    if why_no_interval(count):
        return value, np.full_like(value, np.nan)
    return value, _standard_error(_deviations(estimate, count, sums))


def _deviations(estimate: Callable[..., Array], count: Array, sums: tuple[Array, ...]) -> Array:
    """θ_(g) − θ̄, (G, …)."""
    totals = [s.sum(0) for s in sums]
    without = np.stack(
        [
            estimate(count.sum() - count[g], *(t - s[g] for t, s in zip(totals, sums, strict=True)))
            for g in range(len(count))
        ]
    )
    deviations: Array = without - without.mean(0)
    return deviations


def _standard_error(deviations: Array) -> Array:
    groups = len(deviations)
    return np.sqrt((groups - 1) / groups * np.square(deviations).sum(0))


def max_t_quantile(deviations: Array) -> float:
    """The 95 % quantile of max |t| over the points of `deviations` (G, …) (module docstring); NaN if none varies."""
    groups = len(deviations)
    points = deviations.reshape(groups, -1)
    points = points[:, np.isfinite(points).all(0) & (np.square(points).sum(0) > 0)]
    if not points.shape[1]:
        return float("nan")
    points = points / np.sqrt(np.square(points).mean(0))
    draws = np.random.default_rng(0).multinomial(groups, np.full(groups, 1 / groups), size=RESAMPLES)
    mean = draws @ points / groups
    spread = np.sqrt(np.maximum(draws @ points**2 / groups - mean**2, 1e-9) / (groups - 1))
    resampled = np.quantile(np.abs(mean / spread).max(1), LEVEL)
    independent = stdtrit(groups - 1, (1 + LEVEL ** (1 / points.shape[1])) / 2)
    return float(min(resampled, independent))


def with_interval(
    dataset: xr.Dataset,
    dims: tuple[str, ...],
    name: str,
    estimate: Callable[..., Array],
    count: Array,
    *sums: Array,
    value: Array | None = None,
    transform: Callable[[Array], Array] | None = None,
    further: Array | float = 0.0,
) -> xr.Dataset:
    """The dataset with `name`, `_se`, the 95 % interval `_low`, `_high` and the simultaneous `_band_low`, `_band_high`.

    estimate, count, sums: as for `jackknife`. value: the estimate itself, where `sums` are of a subset of the pixels
    and only good for the error. transform: the estimate is transformed after the intervals are made on its own scale
    (`np.exp` of a logarithm); `_se` then stays the untransformed estimate's. further: a standard error of another
    source, independent of the groups.
    """
    centre, error = jackknife(estimate, count, *sums)
    error = np.hypot(error, further)
    centre = centre if value is None else value
    widest = np.nan if why_no_interval(count) else max_t_quantile(_deviations(estimate, count, sums))
    ends = {"": 0.0, "_low": -T_QUANTILE, "_high": T_QUANTILE, "_band_low": -widest, "_band_high": widest}
    curves = {f"{name}{end}": centre + (t * error if t else 0.0) for end, t in ends.items()}
    if transform is not None:
        curves = {key: transform(curve) for key, curve in curves.items()}
    return dataset.assign({key: (dims, curve) for key, curve in curves.items()} | {f"{name}_se": (dims, error)})


def grouped(dataset: xr.Dataset, name: str) -> Array:
    """A variable's values with its group dimension first."""
    values: Array = dataset[name].transpose("group", ...).values
    return values


def with_errors(dataset: xr.Dataset, dims: tuple[str, ...], **estimates: tuple[Array, Array]) -> xr.Dataset:
    """The dataset with each (value, standard error) as variables `name` and `name_se`."""
    variables: dict[str, Any] = {}
    for name, (value, error) in estimates.items():
        variables[name], variables[f"{name}_se"] = (dims, value), (dims, error)
    return dataset.assign(variables)


def interval(dataset: xr.Dataset, name: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Lower and upper end of a variable's 95 % interval."""
    half = T_QUANTILE * dataset[f"{name}_se"]
    return dataset[name] - half, dataset[name] + half
