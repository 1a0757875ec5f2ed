"""What an experiment fixes before it runs (model, data, chain, noise), and its loop over images, which can be resumed.

Most experiments keep sums by group of images, arrays (GROUPS, …): what is added batch by batch is all that the
jackknife needs, and all that a checkpoint holds.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from exposure_bias import files
from exposure_bias.adapters import adapt
from exposure_bias.adapters.schedulers import sampler_for
from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import CLIP_CONVENTIONS, Clip, Denoiser, probe
from exposure_bias.errors import InputError
from exposure_bias.noise import Noise
from exposure_bias.recorder import SAVING_SHARE, chain_levels, check_fit, made, refined_levels
from exposure_bias.recording import PROBE, guidance_attributes, is_guided, no_reference, refuse_differences
from exposure_bias.samplers import Sampler
from exposure_bias.schedules import Level
from exposure_bias.statistics.accumulator import GROUPS
from exposure_bias.statistics.law import Law, law
from exposure_bias.streams import AnySampler

DEFAULT_SAMPLES = 1024
DEFAULT_STARTS = 5

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Setting:
    """A model, data and a sampling chain that fit each other.

    levels: of the whole chain, noisiest first; places: where the levels of the unrefined chain stand among them. n:
    number of samples; sample i is made from image i mod N.
    """

    model: Denoiser
    data: Data
    sampler: AnySampler
    levels: tuple[Level, ...]
    places: NDArray[np.int64]
    n: int
    clip: Clip
    seed: int
    grid: str

    @cached_property
    def law(self) -> Law:
        """The data's mean and covariance."""
        return law(self.data)

    @property
    def ancestral(self) -> bool:
        """Whether a perfect chain is a draw of p(x_0 | x_s)."""
        return isinstance(self.sampler, Sampler) and self.sampler.ancestral

    @property
    def gaussian_sampler(self) -> Sampler | None:
        """The sampler, if it has a Gaussian reference in closed form; none where guidance aims elsewhere."""
        sampler = self.sampler
        if is_guided(self.model.guidance):
            return None
        return sampler if isinstance(sampler, Sampler) and sampler.variance != "learned_range" else None

    @property
    def attributes(self) -> dict[str, str]:
        """What was measured, in words, for a dataset's attributes; two runs are one if these agree."""
        model, data, steps = self.model, self.data, len(self.places) - 1
        described = {
            "model": model.name,
            "weights": model.weight_hash,
            "data": " ".join(filter(None, (data.name, data.split))),
            "data_hash": data.hash,
            "sampler": str(self.sampler),
            "schedule": model.schedule.name,
            "grid": self.grid if isinstance(self.sampler, Sampler) else "scheduler",
            "steps": str(len(self.levels) - 1)
            + (f" (a chain of {steps}, refined)" if len(self.levels) - 1 > steps else ""),
            "clip": CLIP_CONVENTIONS[self.clip],
            "n": str(self.n),
            "seed": str(self.seed),
        }
        described |= guidance_attributes(model.guidance)
        if is_guided(model.guidance):
            described["no_reference"] = no_reference(model.guidance)
        if model.classes is not None:
            described["labels"] = str(data.label_hash)
        return described | ({"note": data.note} if data.note else {})

    def starts(self, timesteps: Sequence[float] | None) -> list[int]:
        """Indices of the unrefined chain's levels nearest to the timesteps, noisiest first; by default five, evenly.

        Raises InputError for a timestep outside the chain, or two that fall on one level.
        """
        noisy = len(self.places) - 1
        if timesteps is None:
            return [int(i) for i in self.places[np.unique(np.arange(DEFAULT_STARTS) * noisy // DEFAULT_STARTS)]]
        labels = np.array([self.levels[i].timestep for i in self.places[:-1]])
        indices = []
        for timestep in timesteps:
            if not labels.min() <= timestep <= labels.max():
                allowed = f"timesteps from {labels.min():g} to {labels.max():g}"
                raise InputError(f"level {timestep} is not on the chain: allowed are {allowed}")
            indices.append(int(self.places[np.abs(labels - timestep).argmin()]))
        if not indices or len(set(indices)) < len(indices):
            given = ", ".join(f"{t:g}" for t in timesteps) or "none"
            raise InputError(
                f"levels must be different steps of the chain of {noisy}, got {given}: give fewer, or more steps"
            )
        return sorted(indices)

    def samples(self, rows: slice) -> tuple[list[int], NDArray[np.int64], Tensor]:
        """The numbers of a batch of samples, their images' numbers, and x_0 (B, C, H, W), float64."""
        ids = np.arange(rows.start, rows.stop)
        images = ids % len(self.data)
        x0 = torch.from_numpy(self.data.batch(images)).to(self.model.device, torch.float64)
        return ids.tolist(), images, x0

    def conditioned(self, images: NDArray[np.int64]) -> Denoiser:
        """The model, bound to these images' labels if it is conditional."""
        return self.model.given(self.data.labels_of(images))

    def noise(self, purpose: str, ids: list[int]) -> Noise:
        """The noise of these samples; "start" and "chain" are those of `record`."""
        return Noise(self.seed, purpose, ids, self.model.shape, self.model.device)


def prepare(
    model: Any,
    data: Any,
    sampler: Any,
    steps: int,
    refine: int,
    grid: str,
    n: int | None,
    clip: Clip,
    seed: int,
    batch_size: int,
) -> Setting:
    """Check what a user gave and make a `Setting` of it; raises InputError where it does not fit."""
    model, data = adapt(model), load_data(data)
    n = min(len(data), DEFAULT_SAMPLES) if n is None else n
    check_fit(model, data, n, batch_size, clip)
    sampler = sampler_for(sampler, model, steps, grid)
    levels, places = refined_levels(model, chain_levels(model, steps, grid, sampler=sampler), sampler, refine)
    setting = Setting(model, data, sampler, levels, places, n, clip, seed, grid)
    if not (setting.law.variance > 0).any():
        raise InputError(f"the {len(data)} images of {data.name} are all the same: give images that differ")
    return setting


def placed(model: Any, device: str | None) -> Denoiser:
    """`adapt(model)`, its module moved to a device; a plain function, whose modules are its own business, stays.

    Raises InputError for a device that is not there.
    """
    denoiser = adapt(model)
    if device is not None and isinstance(denoiser.net, torch.nn.Module):
        try:
            denoiser.net.to(device)
        except (RuntimeError, AssertionError) as error:  # torch raises either for a device that is not there
            raise InputError(f"cannot use device {device!r}: {str(error).splitlines()[0]}") from error
    return denoiser


def grouping(images: NDArray[np.int64]) -> Callable[[Tensor], Array]:
    """A function that sums values (B, …) over the images of each group: (GROUPS, …)."""
    member = (np.arange(GROUPS)[:, None] == images[None] % GROUPS).astype(np.float64)

    def by_group(values: Tensor) -> Array:
        numbers = values.double().cpu().numpy()
        return (member @ numbers.reshape(len(numbers), -1)).reshape(GROUPS, *numbers.shape[1:])

    return by_group


def resumable(
    name: str,
    n: int,
    size: int,
    evaluations: int,
    sums: dict[str, NDArray[Any]],
    settings: dict[str, str],
    checkpoint: str | os.PathLike[str] | None,
    model: Denoiser,
) -> Iterator[tuple[slice, Callable[[int], Any]]]:
    """Batches of at most `size` of the n samples, as (rows, how to report evaluations done); the caller adds to `sums`.

    With a checkpoint the sums are saved there as they grow, and a run with the same settings, of a model that answers
    as this one does (`probe`), goes on from it. evaluations: of one sample, for the progress bar. Raises InputError for
    a checkpoint of another run.
    """
    done = 0
    run: dict[str, Any] = {} if checkpoint is None else settings | {PROBE: probe(model)}
    if checkpoint is not None and os.path.exists(checkpoint):
        done = _restore(checkpoint, name, sums, run)
    saving, last = 0.0, time.monotonic()
    with tqdm(
        total=n * evaluations, initial=done * evaluations, unit="eval", unit_scale=True, desc=name, disable=None,
        leave=False, delay=1,
    ) as bar:  # fmt: skip
        while done < n:
            rows = slice(done, min(done + size, n))
            yield rows, bar.update
            done = rows.stop
            now = time.monotonic()
            if checkpoint is not None and (done == n or SAVING_SHARE * (now - last) >= saving):
                tree = xr.DataTree(xr.Dataset({k: ([f"{k}_{i}" for i in range(v.ndim)], v) for k, v in sums.items()}))
                files.write_tree(
                    checkpoint, tree, {"kind": f"{name} checkpoint", "run": run, "done": done, "made": made()}
                )
                last = time.monotonic()
                saving = last - now


def _restore(path: str | os.PathLike[str], name: str, sums: dict[str, Array], settings: dict[str, Any]) -> int:
    tree, provenance = files.read_tree(path)
    if provenance.get("kind") != f"{name} checkpoint":
        raise InputError(f"{path} is no checkpoint of a {name}: choose another path")
    refuse_differences(
        provenance["run"], settings, f"{path} belongs to another run (remove it, or choose another checkpoint)"
    )
    dataset = tree.to_dataset()
    for key, value in sums.items():
        value[...] = dataset[key].values
    return int(provenance["done"])
