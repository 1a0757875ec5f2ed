"""Is a network a function of its state and its noise level?

Everything here supposes that a network's answer for a state depends on that state alone. Three
probes find a network of which that is not so: the same call twice, the same states within another
batch, and the same call after another one.
"""

import numpy as np
from torch import Tensor

from exposure_bias.denoisers import Denoiser, probe
from exposure_bias.running.setup import Setup
from exposure_bias.schedules import Level
from exposure_bias.streams import noised

STATES = 16


def no_function(setup: Setup, level: Level, other: Level) -> str:
    """Say how a setup's network is no function of its state, or return "".

    level: where it is asked; other: the level of the call in between. The network is called five
    times with at most 16 states. Answers count as different from the tolerance of `probe` on, which
    is above round-off.
    """
    n = min(setup.n, STATES)
    batch = setup.samples(slice(0, n))
    model = setup.conditioned(batch.images)
    noise = setup.noise("function", batch.ids)
    x, y = noised(batch.x0, level, noise(0)), noised(batch.x0, other, noise(1))
    fewer = max(n // 2, 1)
    part = setup.conditioned(batch.images[:fewer])
    with setup.model.evaluating():
        first = _said(model, x, level)
        again = _said(model, x, level)
        alone = _said(part, x[:fewer], level)
        _said(model, y, other)
        after = _said(model, x, level)
    allowed = probe(setup.model).tolerance
    found = {
        "the same call twice": _apart(first, again),
        f"the same states in a batch of {n} and of {fewer}": _apart(first[:fewer], alone),
        "the same call before and after another one": _apart(again, after),
    }
    for what, size in found.items():
        if not size <= allowed:
            return (
                f"this network is no function of its state: {what} gave answers that differ by"
                f" {100 * size:.2g} %. A state's answer must depend on that state and its noise"
                " level alone: switch off dropout and batch statistics, and whatever the network"
                " remembers from call to call"
            )
    return ""


def _said(model: Denoiser, x: Tensor, level: Level) -> Tensor:
    return model(x, level).double()


def _apart(one: Tensor, other: Tensor) -> float:
    """The root mean square of the difference relative to that of the answers."""
    size = float(one.square().mean().sqrt())
    apart = float((one - other).square().mean().sqrt())
    return apart / size if size > 0 else float(np.where(apart > 0, np.inf, 0.0))
