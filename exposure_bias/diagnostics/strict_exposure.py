"""Does a network err more on its own states than on true ones? The arithmetic. No torch here.

Let p_s be the law of the chain's states at a level s, q_s that of true ones, and u_f(x_s) and
u_m(x_s) what the network's chain and a perfect chain make of a state on average, for a statistic S
of the end. Then exactly

    G = E_p u_f − E S(x_N)  =  A + R + X,
    R = E_q [u_f − u_m]            a restart from true states: what is lost below s
    A = (E_p − E_q) u_m            what happened above s, carried on by a perfect network
    X = (E_p − E_q) [u_f − u_m]    the loss below s on the network's own states, less that on true
                                   ones.

X is *strict exposure*, and of second order in the network's error. It is estimated as

    X = β · (E_p φ − E_q φ),

with φ a few features of a state, and β the slopes of the loss u_f − u_m = S(restart) − S(x_N), of
which every image has a value, on φ at true states. A network that makes the same error everywhere
has β = 0; one whose chain arrives where it should has E_p φ = E_q φ.

Features do not say everything about a state, so X is believed only beyond a floor: the largest
false reading on networks whose strict exposure is known (benchmarks/network_error.py).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from exposure_bias.jackknife import GROUPS, Array, standard_error, t_quantile

FLOOR = 0.004
FIRST_ORDER = 0.10
RIDGE = 1e-3


@dataclass(frozen=True)
class Restarts:
    """What each sample's chain and restarts came to, for one statistic of the end.

    group (n,): of each sample. truth (n,): S(x_N). end (n,): S of the chain. restart (n, cuts): S
    of the restarts from true states. true and own (n, cuts, F): features of true and of the chain's
    states.
    """

    group: Array
    truth: Array
    end: Array
    restart: Array
    true: Array
    own: Array


@dataclass(frozen=True)
class Exposure:
    """The parts of a gap at each cut, relative to the statistic's own value: values and errors.

    total: G, a number. The rest (cuts,): restart R, above A and exposure X. beyond: whether X is
    said, at one 5 % error rate for all cuts.
    """

    total: tuple[float, float]
    restart: tuple[Array, Array]
    above: tuple[Array, Array]
    exposure: tuple[Array, Array]
    beyond: NDArray[np.bool_]


def strict_exposure(states: Restarts) -> Exposure:
    """Split a gap at each cut into what happened above, what a restart loses, and exposure."""
    value = _parts(states, np.ones(len(states.group), bool))
    without = [_parts(states, states.group != g) for g in range(GROUPS)]
    names = ("total", "restart", "above", "exposure")
    found = {}
    for name, here, each in zip(names, value, zip(*without, strict=True), strict=True):
        deviations = np.stack(each)
        found[name] = (here, standard_error(deviations - deviations.mean(0)))
    size, error = found["exposure"]
    quantile = t_quantile(1 - 0.025 / max(len(size), 1))
    small = np.abs(found["total"][0]) <= FIRST_ORDER
    certain = np.abs(size) > quantile * error
    beyond = certain & (np.abs(size) > FLOOR) & small
    total, total_error = found.pop("total")
    return Exposure((float(total), float(total_error)), **found, beyond=beyond)


def _parts(states: Restarts, kept: NDArray[np.bool_]) -> tuple[Array, Array, Array, Array]:
    """G, R, A and X of some samples."""
    truth = states.truth[kept]
    expected = truth.mean()
    total = (states.end[kept] - truth).mean() / expected
    loss = (states.restart[kept] - truth[:, None]) / expected
    restart = loss.mean(0)
    true, own = states.true[kept], states.own[kept]
    exposure = np.array(
        [_interaction(loss[:, c], true[:, c], own[:, c]) for c in range(loss.shape[1])]
    )
    return total, restart, total - restart - exposure, exposure


def _interaction(loss: Array, true: Array, own: Array) -> float:
    """The slopes of a loss on features of true states, times the shift of the chain's."""
    scale = true.std(0)
    scale = np.where(scale > 1e-9 * np.abs(true).max(), scale, np.inf)
    d = (true - true.mean(0)) / scale
    matrix = d.T @ d / len(d) + RIDGE * np.eye(d.shape[1])
    slopes = np.linalg.solve(matrix, d.T @ (loss - loss.mean()) / len(d))
    return float(slopes @ ((own - true).mean(0) / scale))
