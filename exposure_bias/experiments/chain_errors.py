"""e_t = x_0 − x̂_0: what a chain of a given length makes of a held-out image.

The talk's Fig. 5 and 6.

An image x_0 is noised to the L-th noise level, x_t ~ q(x_t | x_0), and the model's chain runs from
there to x̂_0, one network call for each level (`chain`), or x̂_0 is predicted at once (`single`).
Ning et al. 2023 (arXiv 2301.11706, appendix) write the first; their released code measures the
second, clipped.

A perfect sampler's e_t is not Gaussian and not zero: it is the difference of two draws of p(x_0 |
x_t), with mean 0, skewness 0 and twice the posterior variance (docs/mathematics.md). The standard
deviation that a perfect denoiser would show on Gaussian data of the same covariance stands beside
the model's.
"""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.adapters import adapt
from exposure_bias.adapters.schedulers import sampler_for
from exposure_bias.denoisers import Denoiser
from exposure_bias.diagnostics.distribution import distribution
from exposure_bias.errors import InputError, is_whole
from exposure_bias.experiments.kinds.chain_errors import CHAIN_ERRORS
from exposure_bias.references import Eigen, gaussian_chain
from exposure_bias.results import load_result, returns, save
from exposure_bias.running.loop import Turn, fill
from exposure_bias.running.setup import Samples, Setup, made, prepare, with_options
from exposure_bias.samplers import Sampler
from exposure_bias.schedules import CONTINUOUS_POINTS
from exposure_bias.states import dimensions
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.streams import noised, rollout

MODES = ("chain", "single")
DEFAULT_SAMPLES = 256
LENGTHS = (100, 300, 600, 900)
KIND = "chain errors"
CHECKED_STEPS = 10


@returns(CHAIN_ERRORS)
def chain_errors(
    model: Any,
    data: Any,
    lengths: Sequence[int] = LENGTHS,
    *,
    n: int | None = None,
    sampler: str | Sampler = "ddpm",
    mode: str = "chain",
    clip: Any = False,
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """e_t of n held-out images for chains of several lengths.

    They run batched together on the same noise.

    lengths: L starts at the L-th of the schedule's noise levels (of at most 1000; continuous
    schedules use a grid of 1000 points) and takes L network calls. n: by default the data's, at
    most 256. mode: "chain" or "single". sampler: one that takes the schedule's levels, not a
    diffusers scheduler. clip, seed, batch_size, checkpoint: as in `record`.

    Returns error (length, sample, *state axes) and x0 (sample, *state axes), float32, in the data's
    units, with everything of `diagnostics.distribution`, and std_gaussian (length, *state axes),
    the Gaussian reference; a guided model has none, as the attribute `no_reference` says.

    Raises InputError for a length outside the schedule and for whatever else does not fit.
    """
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}: allowed are {', '.join(MODES)}")
    setup, lengths = _setup(model, data, lengths, sampler, mode, n, clip, seed, batch_size)
    sums = Sums()
    error = sums.add_rows("error", setup.n, length=len(lengths), **_axes(setup))
    # The lengths join one after another, so that a batch holds on average Σ lengths / max(lengths)
    # chains an image.
    rolls = mode == "chain"
    size = max(1, batch_size * max(lengths) // sum(lengths)) if rolls else batch_size
    calls = sum(lengths) if rolls else len(lengths)
    run = _roll if rolls else _predict

    def add(batch: Samples, turn: Turn) -> None:
        for i, estimate in run(setup, batch, lengths, turn):
            error[batch.rows, i] = (batch.x0 - estimate).float().cpu().numpy()

    fill(setup, sums, add, size=size, evaluations=calls, checkpoint=checkpoint)
    errors = distribution(_dataset(setup, error, lengths, mode))
    if rolls and setup.has_reference:
        errors["std_gaussian"] = (("length", *_axes(setup)), _reference(setup, lengths))
    return errors


def _setup(
    model: Any,
    data: Any,
    lengths: Sequence[int],
    sampler: Any,
    mode: str,
    n: int | None,
    clip: Any,
    seed: int,
    batch_size: int,
) -> tuple[Setup, tuple[int, ...]]:
    """The setup of a chain through all of the schedule's levels, and the lengths in order."""
    model = adapt(model)
    _refuse_own_levels(sampler, model)
    setup = prepare(
        model,
        data,
        kind=KIND,
        sampler=sampler,
        steps=points(model),
        n=n,
        most=DEFAULT_SAMPLES,
        clip=clip,
        seed=seed,
        batch_size=batch_size,
    )
    lengths = checked_lengths(lengths, model)
    return with_options(setup, {"lengths": list(lengths), "mode": mode}), lengths


def _refuse_own_levels(sampler: Any, model: Denoiser) -> None:
    """Raise InputError for a sampler that does not visit the schedule's levels.

    A short chain of it shows that."""
    steps = min(CHECKED_STEPS, len(model.schedule))
    one = sampler_for(sampler, model, steps)
    if one.levels(model.schedule, steps, "linspace") != model.schedule.levels(steps):
        raise InputError(
            f"chain errors start at the schedule's own levels, which {one} does not visit: give"
            " ddpm, ddim, euler or heun, or use rollouts (eb-analyze rollouts), which takes any"
            " sampler"
        )


def points(model: Denoiser) -> int:
    """How many levels chains of every length are counted on."""
    return min(CONTINUOUS_POINTS, len(model.schedule))


def _axes(setup: Setup) -> dict[str, int]:
    return dict(zip(dimensions(setup.model.shape), setup.model.shape, strict=True))


def _dataset(
    setup: Setup, error: NDArray[np.float32], lengths: tuple[int, ...], mode: str
) -> xr.Dataset:
    axes, images = tuple(_axes(setup)), setup.ids % len(setup.data)
    attributes = setup.attributes | {"mode": mode}
    if mode == "single":
        attributes.pop("sampler")
    attributes.pop("steps")
    return xr.Dataset(
        {
            "error": (("length", "sample", *axes), np.ascontiguousarray(error.swapaxes(0, 1))),
            "x0": (("sample", *axes), setup.data.batch(images)),
        },
        coords={"length": list(lengths), "sample": setup.ids, "image": ("sample", images)},
        attrs=attributes,
    )


def save_errors(errors: xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Write the result of `chain_errors` to one file, atomically."""
    save(errors, path, made())


def load_errors(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read what `save_errors` wrote.

    Raises InputError if it is missing, corrupt or something else.
    """
    errors = load_result(path, CHAIN_ERRORS.name)
    if not {"error", "x0"} <= set(errors):
        raise InputError(f"{path} holds no errors by image: give what error-hist -o wrote")
    return errors


def checked_lengths(lengths: Sequence[int], model: Denoiser) -> tuple[int, ...]:
    """The lengths in order.

    Raises InputError unless they are different levels of the model's schedule.
    """
    most = points(model)
    wrong = [length for length in lengths if not is_whole(length) or not 1 <= length <= most]
    if wrong or not lengths or len(set(lengths)) < len(lengths):
        came = ", ".join(map(str, wrong or lengths)) or "none"
        raise InputError(f"lengths must be different whole numbers from 1 to {most}, got {came}")
    return tuple(sorted(int(length) for length in lengths))


def _roll(
    setup: Setup, batch: Samples, lengths: tuple[int, ...], turn: Turn
) -> Iterator[tuple[int, Tensor]]:
    """x̂_0 of the chains of every length, as (index of the length, (B, *shape))."""
    levels, x0, path = setup.levels, batch.x0, setup.path(batch.ids)
    total, x = len(levels) - 1, x0[:0]
    for longest, shorter in zip(lengths[::-1], (*lengths[-2::-1], 0), strict=True):
        first, last = total - longest, total - shorter
        x = torch.cat([x, noised(x0, levels[first], path.start(first))])
        chains = len(x) // len(x0)
        model = setup.conditioned(np.tile(batch.images, chains))

        def noise(index: int, chains: int = chains) -> Tensor:
            return path(index).repeat(chains, *(1,) * (x0.dim() - 1))

        x = rollout(model, x, levels[first : last + 1], setup.sampler, noise, setup.clip, first)
        turn.report(len(x) * (longest - shorter))
    yield from enumerate(reversed(x.split(len(x0))))


def _predict(
    setup: Setup, batch: Samples, lengths: tuple[int, ...], turn: Turn
) -> Iterator[tuple[int, Tensor]]:
    """x̂_0 predicted at once at every length's level."""
    levels, path = setup.levels, setup.path(batch.ids)
    model = setup.conditioned(batch.images)
    # From the noisiest on, as the path goes.
    for i, length in reversed(list(enumerate(lengths))):
        place = len(levels) - 1 - length
        x = noised(batch.x0, levels[place], path.start(place))
        yield i, model.predict(x, levels[place], setup.clip).x0
        turn.report(len(batch.ids))


def _reference(setup: Setup, lengths: tuple[int, ...]) -> NDArray[np.float64]:
    """Standard deviation of e_t per pixel for a perfect denoiser of Gaussian data.

    (length, *shape).
    """
    mean, eigen = setup.law.mean, Eigen(setup.law.values, setup.law.vectors)
    stds = []
    for length in lengths:
        tail = setup.levels[len(setup.levels) - 1 - length :]
        end = gaussian_chain(mean, eigen, tail, setup.sampler).isel(step=-1)
        stds.append(np.sqrt(end["error_variance"].values))
    return np.stack(stds)
