"""A network in training, asked at true states: what a monitor logs of it."""

from typing import NamedTuple

import numpy as np

from exposure_bias.diagnostics.predicted_share import where_it_arises
from exposure_bias.running.setup import Setup
from exposure_bias.true_states.plan import measured_sums, plan_of
from exposure_bias.true_states.result import of_true_states

LEVELS = 8
NOTHING = float("nan")


class Watched(NamedTuple):
    """The slope of the clearest test and the predicted share, with standard errors.

    ratio: the σ/α in the middle of the levels at which most of the share arises. NaN where it is
    not known: slopes without an interval, shares without a gradient or beyond first order.
    """

    slope: float = NOTHING
    slope_error: float = NOTHING
    share: float = NOTHING
    share_error: float = NOTHING
    ratio: float = NOTHING


def watched(setup: Setup, batch_size: int) -> Watched:
    """Ask the network of a setup at true states of 8 levels, with gradients."""
    plan = plan_of(setup, LEVELS, None, costs=True)
    result = of_true_states(plan, measured_sums(plan, batch_size))
    distance = np.abs((result["slope"] / result["slope_se"]).values)
    slope = slope_error = NOTHING
    if np.isfinite(distance).any():
        place = np.unravel_index(int(np.nanargmax(distance)), distance.shape)
        slope, slope_error = (float(result[name].values[place]) for name in ("slope", "slope_se"))
    if "cost" not in result:
        return Watched(slope, slope_error)
    where = where_it_arises(result["cost"].values, result["high"].values)
    ratios = (result["sigma"] / result["alpha"]).values
    middle = float(np.sqrt(ratios[where.first] * ratios[where.last]))
    share, error = (float(result[f"predicted_share{end}"]) for end in ("", "_se"))
    return Watched(slope, slope_error, share, error, middle)
