"""Standard errors from sums kept in groups: the delete-one-group jackknife.

With G groups of samples and θ_(g) the estimate without group g, se² = (G − 1)/G Σ_g (θ_(g) − θ̄)², and an interval is
θ ± t_{G−1} se (Efron & Tibshirani 1993, ch. 11). Groups are of images, so that replicates of an image stay together.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

Array = NDArray[np.float64]

MINIMUM_PER_GROUP = 16
# Two-sided 95 % quantile of Student's t with 15 degrees of freedom: there are always 16 groups.
T_QUANTILE = 2.131449545559323


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
    groups = len(count)
    without = np.stack(
        [
            estimate(count.sum() - count[g], *(t - s[g] for t, s in zip(totals, sums, strict=True)))
            for g in range(groups)
        ]
    )
    return value, np.sqrt((groups - 1) / groups * np.square(without - without.mean(0)).sum(0))


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
