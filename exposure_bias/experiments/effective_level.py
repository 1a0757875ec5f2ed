"""Which noise level do the chain's states look like, by power and by what the network says?

See `diagnostics.effective_level` for the definitions. The network's sensitivity to a wrong level is
measured on true states: at each recorded level it is told the level's label and shown states that
are 5 % less and 5 % more noisy, of the same images and noise."""

import os
from typing import Any

import numpy as np
import xarray as xr

from exposure_bias.checking import check_arguments
from exposure_bias.diagnostics.effective_level import effective_level_of
from exposure_bias.errors import InputError
from exposure_bias.experiments.kinds.effective_level import EFFECTIVE_LEVEL
from exposure_bias.recording import RECORDING
from exposure_bias.results import returns
from exposure_bias.run import Stream
from exposure_bias.running.recorder import recorded
from exposure_bias.running.setup import Array, Setup, prepare, varied
from exposure_bias.schedules import Level
from exposure_bias.streams import evaluate

STEPS = 50
SHIFT = 0.05
SHOWN = 256  # samples that the sensitivity is measured on


@returns(EFFECTIVE_LEVEL)
def effective_level(
    model: Any,
    data: Any,
    *,
    sampler: Any = "ddpm",
    steps: int = STEPS,
    n: int | None = None,
    grid: str = "linspace",
    timestep_spacing: str | None = None,
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Compare the chain's states with true states of other noise levels.

    Parameters
    ----------
    model, data, sampler, steps, n, grid, timestep_spacing, clip, seed, batch_size, checkpoint
        As in `record`.

    Returns
    -------
    xarray.Dataset
        Over (step), the noisy levels: `network_ratio`, the effective σ/α divided by the level's own
        as the network's ‖ε̂‖ says, right is 1, NaN where the network hardly tells levels apart;
        `slope`, d log ‖ε̂‖ / d log(σ/α) under a fixed label. Over (step, frequency): `power_ratio`,
        the same from the power of each band, NaN where the chain has less power than the data.
        `_se` of the logarithms, and `_gaussian`, the value of a perfect network of Gaussian data
        with the same steps.

    Raises
    ------
    InputError
        For a guided model, and for whatever `record` refuses.

    Examples
    --------
    >>> import exposure_bias as eb
    >>> model, data = eb.load_model("digits"), eb.load_data("digits", split="test")
    >>> levels = eb.effective_level(model, data, steps=20, n=256)
    >>> bool((levels["slope"] > 0).any())
    True
    """
    check_arguments(effective_level, locals())
    setup = varied(
        prepare(
            model,
            data,
            kind=RECORDING,
            sampler=sampler,
            steps=steps,
            n=n,
            grid=grid,
            timestep_spacing=timestep_spacing,
            clip=clip,
            seed=seed,
            batch_size=batch_size,
            streams=(Stream.CHAIN, Stream.FORWARD),
        )
    )
    if setup.run.model.guided:
        raise InputError(
            f"{setup.run.model.name} is guided: what it says of noise is no denoiser's; give the"
            " model without guidance"
        )
    recording = recorded(setup, batch_size=batch_size, checkpoint=checkpoint)
    return effective_level_of(sensitivity(setup), recording)


def sensitivity(setup: Setup) -> Array:
    """d log ‖ε̂‖ / d log(σ/α) under a fixed label, at each recorded noisy level."""
    batch = setup.samples(slice(0, min(SHOWN, setup.n)))
    draws, slopes = setup.noise("level", batch.ids), []
    with setup.model.evaluating():
        for index in setup.kept[:-1]:
            level = setup.levels[index]
            if not level.alpha or not level.sigma:
                slopes.append(np.nan)
                continue
            noise = draws(index).double()
            norms = [_norm(setup, batch, level, noise, factor) for factor in (-SHIFT, SHIFT)]
            slopes.append((np.log(norms[1]) - np.log(norms[0])) / np.log((1 + SHIFT) / (1 - SHIFT)))
    return np.array(slopes)


def _norm(setup: Setup, batch: Any, level: Level, noise: Any, shift: float) -> float:
    """The mean of ‖ε̂‖ at states of a shifted σ/α, under the level's own label."""
    x = level.alpha * batch.x0 + level.sigma * (1 + shift) * noise
    said = evaluate(setup.conditioned(batch.images), x, level, 0, setup.clip)
    return float(said.epsilon.double().flatten(1).norm(dim=1).mean())
