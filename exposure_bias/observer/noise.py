"""What a loop added between two calls of its network, seen in the states alone.

Every sampler's update is linear in the states and predictions that it has seen, apart from the
noise that it draws. So the least-squares remainder of a state on those of the last calls is that
noise: of an ODE solver round-off, of a step with churn √(σ̂² − σ²) per number. A batch's first state
is noise and nothing else: its remainder is the state itself.
"""

from collections.abc import Sequence

import torch
from scipy.stats import beta
from torch import Tensor

from exposure_bias.schedules import Level

CALLS = 4  # the longest memory of a common multistep solver
DEPENDENT = 1e-12  # of the largest eigenvalue: states that are multiples of one another
BY_CHANCE = 1e-3
LARGER = 4.0  # how far powers may be from those that levels and states say


def added(x: Tensor, known: Sequence[Tensor]) -> tuple[float, float]:
    """Split a state into what earlier states and predictions explain and what was added.

    Parameters
    ----------
    x : Tensor
        States (B, *shape), float64.
    known : sequence of Tensor
        Earlier states and predictions of the same samples, each of x's shape.

    Returns
    -------
    power : float
        Mean square, per number, of what was added; NaN where there are as many `known` as numbers.
    explained : float
        The part of x's sum of squares that they explain, between 0 and 1.
    """
    y = x.double().flatten()
    basis = [v.double().flatten() for v in known]
    basis = [v / v.norm() for v in basis if bool(v.norm() > 0) and bool(torch.isfinite(v).all())]
    total = float(y @ y)
    if not basis or total == 0:
        return total / y.numel(), 0.0
    matrix = torch.stack(basis)
    values, vectors = torch.linalg.eigh(matrix @ matrix.T)
    kept = values > DEPENDENT * values[-1]
    directions = (vectors[:, kept] / values[kept].sqrt()).T @ matrix
    remainder = y - directions.T @ (directions @ y)
    left, free = float(remainder @ remainder), y.numel() - len(directions)
    return (left / free if free > 0 else float("nan")), 1 - left / total


def goes_on(x: Tensor, now: Level, before: Level, known: Sequence[Tensor]) -> bool:
    """Whether a state, noisier than the last one, is that one with noise added.

    Otherwise it is noise of its own, as the first state of another batch is. It goes on if earlier
    states explain more of it than chance would (p < 10⁻³, exact for a start that is white noise),
    no more than was there, and leave what the levels say was added. A start from the same seed
    resembles what came of it, but in another size or without new noise.

    Parameters
    ----------
    x : Tensor
        States (B, *shape).
    now, before : Level
        Their level, and that of the last call.
    known : sequence of Tensor
        Earlier states over their α, and predictions of x_0, as in `added`.
    """
    left, explained = added(x, known)
    numbers, directions = x.numel(), len(known)
    if numbers <= directions or before.alpha == 0 or now.alpha == 0:
        return False
    if beta.sf(explained, directions / 2, (numbers - directions) / 2) > BY_CHANCE:
        return False
    power = float(x.double().square().mean())
    by_chance = (1 - explained) * power * directions / (numbers - directions)
    there = now.alpha**2 * max(float(v.double().square().mean()) for v in known)
    wanted = now.alpha**2 * (now.ratio**2 - before.ratio**2)
    return explained * power - by_chance <= LARGER * there and left >= wanted / LARGER
