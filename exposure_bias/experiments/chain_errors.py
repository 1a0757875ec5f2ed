"""e_t = x_0 − x̂_0: what a chain of a given length makes of a held-out image (the talk's Fig. 5 and 6).

An image x_0 is noised to the L-th noise level, x_t ~ q(x_t | x_0), and the model's chain runs from there to x̂_0, one
network call for each level (`chain`), or x̂_0 is predicted at once (`single`). Ning et al. 2023 (arXiv 2301.11706,
appendix) write the first; their released code measures the second, clipped.

A perfect sampler's e_t is not Gaussian and not zero: it is the difference of two draws of p(x_0 | x_t), with mean 0,
skewness 0 and twice the posterior variance (design §4.2 and §4.11). The standard deviation that a perfect denoiser
would show on Gaussian data of the same covariance stands beside the model's.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias import files, samplers
from exposure_bias.adapters import adapt
from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import CLIP_CONVENTIONS, Clip, Denoiser
from exposure_bias.diagnostics.distribution import distribution
from exposure_bias.errors import InputError
from exposure_bias.experiments.setting import resumable
from exposure_bias.noise import Noise
from exposure_bias.recorder import check_fit, made
from exposure_bias.recording import guidance_attributes, is_guided, no_reference
from exposure_bias.references import Eigen, gaussian_chain
from exposure_bias.schedules import CONTINUOUS_POINTS, Level
from exposure_bias.statistics.law import law
from exposure_bias.streams import noised, rollout

MODES = ("chain", "single")
DEFAULT_SAMPLES = 256
LENGTHS = (100, 300, 600, 900)


def chain_errors(
    model: Any,
    data: Any,
    lengths: Sequence[int] = LENGTHS,
    *,
    n: int | None = None,
    sampler: str | samplers.Sampler = "ddpm",
    mode: str = "chain",
    clip: Clip = False,
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """e_t of n held-out images for chains of several lengths, which run batched together on the same noise.

    lengths: L starts at the L-th of the schedule's noise levels (of at most 1000; continuous schedules use a grid of
    1000 points) and takes L network calls. n: by default the data's, at most 256. mode: "chain" or "single".
    sampler: one of `samplers`, not a diffusers scheduler. clip, seed, batch_size, checkpoint: as in `record`.

    Returns error (length, sample, channel, y, x) and x0 (sample, channel, y, x), float32, in the data's units, with
    everything of `diagnostics.distribution`, and std_gaussian (length, channel, y, x), the Gaussian reference; a guided
    model has none, as the attribute `no_reference` says.

    Raises InputError for a length outside the schedule and for whatever else does not fit.
    """
    model, data = adapt(model), load_data(data)
    n = min(len(data), DEFAULT_SAMPLES) if n is None else n
    check_fit(model, data, n, batch_size, clip)
    if mode not in MODES:
        raise InputError(f"unknown mode {mode!r}: allowed are {', '.join(MODES)}")
    named = sampler.partition(":")[0] if isinstance(sampler, str) else type(sampler).__name__
    if named.endswith("Scheduler"):
        raise InputError(
            "chain errors start at the schedule's own levels, which diffusers' schedulers do not visit: give one of "
            f"{samplers.SPECIFICATIONS}, or use rollouts (eb-analyze rollout), which takes schedulers"
        )
    sampler = samplers.parse(sampler)
    levels = model.schedule.levels(min(CONTINUOUS_POINTS, len(model.schedule)))
    lengths = checked_lengths(lengths, model)
    error = np.zeros((len(lengths), n, *model.shape), dtype=np.float32)
    ids = np.arange(n)
    x0 = data.batch(ids % len(data))
    # The lengths join one after another, so that a batch holds on average Σ lengths / max(lengths) chains an image.
    images = max(1, batch_size * max(lengths) // sum(lengths)) if mode == "chain" else batch_size
    run = _roll if mode == "chain" else _predict
    calls = sum(lengths) if mode == "chain" else len(lengths)
    attributes = _attributes(model, data, sampler, mode, clip, seed)
    identity = attributes | {"schedule": model.schedule.name, "lengths": _list(lengths), "n": str(n)}
    if model.classes is not None:
        identity["labels"] = str(data.label_hash)
    for rows, report in resumable("errors", n, images, calls, {"error": error}, identity, checkpoint, model):
        truth = torch.from_numpy(x0[rows]).to(model.device, torch.float64)
        for i, estimate in run(model, data, truth, ids[rows], levels, lengths, sampler, clip, seed, report):
            error[i, rows] = (truth - estimate).float().cpu().numpy()
    dims = ("sample", "channel", "y", "x")
    errors = xr.Dataset(
        {"error": (("length", *dims), error), "x0": (dims, x0)},
        coords={"length": list(lengths), "sample": ids, "image": ("sample", ids % len(data))},
        attrs=attributes,
    )
    errors = distribution(errors)
    if mode == "chain" and sampler.variance != "learned_range" and not is_guided(model.guidance):
        errors["std_gaussian"] = (("length", *dims[1:]), _reference(model, data, levels, lengths, sampler))
    return errors


def save_errors(errors: xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Write the result of `chain_errors` to one file, atomically."""
    files.write_tree(path, xr.DataTree(errors), {"kind": "chain errors", "made": made()})


def load_errors(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read what `save_errors` wrote. Raises InputError if it is missing, corrupt or something else."""
    tree, provenance = files.read_tree(path)
    if provenance.get("kind") != "chain errors":
        raise InputError(f"{path} holds no chain errors: give the errors.nc that `eb-analyze error-hist -o` wrote")
    return tree.to_dataset()


def checked_lengths(lengths: Sequence[int], model: Denoiser) -> tuple[int, ...]:
    """The lengths in order. Raises InputError unless they are different levels of the model's schedule."""
    most = min(CONTINUOUS_POINTS, len(model.schedule))
    wrong = [length for length in lengths if not 1 <= length <= most or length != int(length)]
    if wrong or not lengths or len(set(lengths)) < len(lengths):
        raise InputError(f"lengths must be different whole numbers from 1 to {most}, got {_list(wrong or lengths)}")
    return tuple(sorted(int(length) for length in lengths))


def _list(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values)) or "none"


def _roll(
    model: Denoiser,
    data: Data,
    x0: Tensor,
    ids: NDArray[np.int64],
    levels: tuple[Level, ...],
    lengths: tuple[int, ...],
    sampler: samplers.Sampler,
    clip: Clip,
    seed: int,
    report: Callable[[int], Any],
) -> Iterator[tuple[int, Tensor]]:
    """x̂_0 of the chains of every length, as (index of the length, (B, C, H, W))."""
    epsilon = Noise(seed, "start", ids.tolist(), model.shape, model.device)(0)
    total, x = len(levels) - 1, x0[:0]
    for longest, shorter in zip(lengths[::-1], (*lengths[-2::-1], 0), strict=True):
        first, last = total - longest, total - shorter
        x = torch.cat([x, noised(x0, levels[first], epsilon)])
        chains = np.tile(ids, len(x) // len(x0))
        noise = Noise(seed, "chain", chains.tolist(), model.shape, model.device)
        conditioned = model.given(data.labels_of(chains % len(data)))
        x = rollout(conditioned, x, levels[first : last + 1], sampler, noise, clip, first)
        report(len(x) * (longest - shorter))
    yield from enumerate(reversed(x.split(len(x0))))


def _predict(
    model: Denoiser,
    data: Data,
    x0: Tensor,
    ids: NDArray[np.int64],
    levels: tuple[Level, ...],
    lengths: tuple[int, ...],
    sampler: samplers.Sampler,
    clip: Clip,
    seed: int,
    report: Callable[[int], Any],
) -> Iterator[tuple[int, Tensor]]:
    """x̂_0 predicted at once at every length's level."""
    epsilon = Noise(seed, "start", ids.tolist(), model.shape, model.device)(0)
    model = model.given(data.labels_of(ids % len(data)))
    for i, length in enumerate(lengths):
        level = levels[len(levels) - 1 - length]
        yield i, model.predict(noised(x0, level, epsilon), level, clip).x0
        report(len(x0))


def _reference(
    model: Denoiser, data: Data, levels: tuple[Level, ...], lengths: tuple[int, ...], sampler: samplers.Sampler
) -> NDArray[np.float64]:
    """Standard deviation of e_t per pixel, (length, C, H, W), for a perfect denoiser of Gaussian data."""
    mean, _, values, vectors = law(data)
    stds = []
    for length in lengths:
        tail = levels[len(levels) - 1 - length :]
        chain = gaussian_chain(mean, Eigen(values, vectors), tail, model.schedule.path, sampler).isel(step=-1)
        stds.append(np.sqrt(chain["error_variance"].values))
    return np.stack(stds)


def _attributes(
    model: Denoiser, data: Data, sampler: samplers.Sampler, mode: str, clip: Clip, seed: int
) -> dict[str, str]:
    described: dict[str, str] = {
        "model": model.name,
        "weights": model.weight_hash,
        "data": " ".join(filter(None, (data.name, data.split))),
        "data_hash": data.hash,
        "mode": mode,
        "clip": CLIP_CONVENTIONS[clip],
        "seed": str(seed),
    }
    if mode == "chain":
        described["sampler"] = str(sampler)
    if data.note:
        described["note"] = data.note
    if is_guided(model.guidance):
        described["no_reference"] = no_reference(model.guidance)
    return described | guidance_attributes(model.guidance)
