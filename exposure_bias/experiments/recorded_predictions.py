"""The test of a network on true states from a recording that kept its predictions: no further call.

A recording keeps x̂_0 of its first samples at up to 12 levels (`record(..., keep=N)`). Together with
the images and the noise, which is drawn again from the seed, that is all that the scores need."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.data import Data
from exposure_bias.errors import InputError
from exposure_bias.experiments.state_functions import Family, Predicted
from exposure_bias.files.netcdf import MOST_SCALED
from exposure_bias.jackknife import GROUPS, MINIMUM_PER_GROUP, Array, sums_by_group
from exposure_bias.paths import Noise
from exposure_bias.recording import Recording
from exposure_bias.schedules import Level
from exposure_bias.statistics.kept import spacing
from exposure_bias.statistics.law import Law
from exposure_bias.streams import noised

LEAST = GROUPS * MINIMUM_PER_GROUP


@dataclass(frozen=True)
class Scored:
    """Scores of a recording: levels; score (n, L, T); weight (G, L, T); images (n,); power (n,)."""

    levels: tuple[Level, ...]
    score: Array
    weight: Array
    images: NDArray[np.int64]
    power: Array


def kept_predictions(recording: Recording) -> tuple[Array, list[int], NDArray[np.int64]]:
    """What a recording's forward stream kept: predictions (n, L, *shape), steps (L,), sample ids.

    Raises InputError where that is too little.
    """
    advice = "record again with keep=512 (in Python), or give the model itself"
    if "forward" not in recording:
        raise InputError(f"this recording has no forward stream of true states: {advice}")
    forward = recording["forward"]
    if recording.run.model.guided:
        raise InputError("a guided field is no denoiser of the data: its error is not defined")
    if "kept_prediction" not in forward:
        raise InputError(f"this recording kept no predictions of single samples: {advice}")
    kept = forward["kept_prediction"].values
    first = int(forward["sample"].values[0])
    count = min(len(kept), first + forward.sizes["sample"])
    if first or count < LEAST:
        raise InputError(
            f"this recording kept the predictions of {max(count - first, 0)} samples, and the test"
            f" needs {LEAST} or more: {advice} (of large states only a few are kept)"
        )
    kept, bound = kept[:count], _bound(recording)
    asked = [row for row in range(kept.shape[1]) if np.abs(kept[:, row]).max() < bound]
    if not asked:
        raise InputError(f"no level of this recording kept its predictions whole: {advice}")
    rows = forward["kept_step"].values[asked]
    steps = [int(step) for step in forward["step"].values[rows]]
    return kept[:, asked].astype(np.float64), steps, forward["sample"].values[:count]


def _bound(recording: Recording) -> float:
    """Where kept numbers are cut off: a level where one is cannot be asked."""
    known, forward = recording["data"], recording["forward"]
    law = Law(known["mean"].values, known["variance"].values, np.zeros(0), np.zeros((0, 0)))
    levels = np.stack([forward[k].values for k in ("timestep", "alpha", "sigma")], 1)
    return 0.999 * MOST_SCALED * spacing(law, [Level(*level) for level in levels])


def scored(recording: Recording, data: Data, family: Family) -> Scored:
    """The scores of a recording's predictions. data: the images that it was recorded on."""
    run = recording.run
    if run.data.hash != data.hash:
        raise InputError(
            f"the recording was made on {run.data.name} (hash {run.data.hash}), and these images"
            f" are others (hash {data.hash}): give the same ones, in the same order"
        )
    predictions, steps, ids = kept_predictions(recording)
    images = ids % len(data)
    x0 = torch.from_numpy(data.batch(images)).double()
    labels = data.labels_of(images)
    draws = Noise(run.seed, "forward", ids.tolist(), data.shape)
    scores, weights, levels = [], [], []
    for column, step in enumerate(steps):
        level = run.levels[step]
        said = torch.from_numpy(predictions[:, column])
        x = noised(x0, level, draws(step).double())
        batch = Predicted(x, level, family.modes(x0), family.modes(said), images, labels)
        score, weight = family.scores(batch, _centre(said))
        scores.append(score.numpy())
        weights.append(sums_by_group(weight, images))
        levels.append(level)
    power = np.square(x0.numpy() - recording["data"]["mean"].values).reshape(len(x0), -1).sum(1)
    return Scored(tuple(levels), np.stack(scores, 1), np.stack(weights, 1), images, power)


def _centre(said: Tensor) -> Tensor:
    return said.flatten(1).mean(0, keepdim=True)
