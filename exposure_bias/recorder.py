"""`record`: run the streams of a model on data and keep their statistics."""

import os
import platform
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from exposure_bias import recording
from exposure_bias.adapters import adapt
from exposure_bias.adapters.schedulers import SchedulerSampler, sampler_for
from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import CLIP_CONVENTIONS, Clip, Denoiser, probe
from exposure_bias.errors import InputError
from exposure_bias.noise import Noise
from exposure_bias.oracles import Teacher
from exposure_bias.recording import PROBE, Recording, refuse_differences
from exposure_bias.schedules import Level
from exposure_bias.statistics.bands import spectrum_bands
from exposure_bias.statistics.collector import Collector, Subjects
from exposure_bias.statistics.law import law
from exposure_bias.streams import AnySampler, Step, chain, forward, noised, prior

STREAMS = ("forward", "chain", "teacher")
MAX_LEVELS = 100
DEFAULT_SAMPLES = 1024
SAVING_SHARE = 0.05
PACKAGES = ("exposure-bias", "torch", "numpy", "diffusers")


def record(
    model: Any,
    data: Any,
    *,
    sampler: Any = "ddpm",
    steps: int = 100,
    n: int | None = None,
    start: str | float = "data",
    grid: str = "linspace",
    refine: int = 1,
    clip: Clip = False,
    streams: Sequence[str] = ("forward", "chain"),
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
    first: int = 0,
    spectra: Sequence[str] = (),
) -> Recording:
    """Run a model's forward and chain streams on data and record their statistics.

    model: a `Denoiser`, or what `adapt` takes. data: `Data`, or what `load_data` takes; (N, C, H, W) in [−1, 1].
    sampler: see `samplers`, or for diffusers' schedulers, by class name or as objects, `adapters.schedulers`.
    steps: chain length T′. n: number of samples, by default the data's, at most 1024.
    start: "data" starts sample i at α_T x_0 + σ_T ε with x_0 = image i; "noise" at N(0, I); a timestep of the grid
    starts on data at that level. grid: see `Schedule.levels`. refine: this many steps in place of
    each, recorded at the levels of the unrefined chain (`Schedule.refined`). clip: see `Denoiser.predict`. streams:
    any of forward, chain, teacher. seed: of all noise; a sample's noise depends on the seed and its own number alone.
    checkpoint: a path; the run is saved there as it goes, and the same call continues a run that was killed.
    first: the first sample's number, for recordings that are to be merged; sample i uses image i mod N. spectra: bases
    besides the DCT in which the states' power is kept, any of hann, fft and, for three channels, luma
    (`statistics.bands`).

    At most 100 noisy levels are recorded, evenly spread over the steps, the first and the clean end always.

    Raises InputError for whatever does not fit: shapes, names, numbers, a network that returns NaN, a checkpoint of
    another run.
    """
    model, data = adapt(model), load_data(data)
    n = min(len(data), DEFAULT_SAMPLES) if n is None else n
    check_fit(model, data, n, batch_size, clip)
    unknown = [s for s in streams if s not in STREAMS]
    if unknown or not streams:
        raise InputError(f"streams are any of {', '.join(STREAMS)}, got {', '.join(unknown) or 'none'}")
    if "teacher" in streams and start == "noise":
        raise InputError(
            "a teacher chain is paired with the chain of its own x_0, but start='noise' pairs nothing: use "
            "start='data' or leave teacher out of streams"
        )
    spectra = sorted(set(spectra) - {"dct"})
    for basis in spectra:
        spectrum_bands(basis, model.shape)
    if first < 0:
        raise InputError(f"the first sample's number must be at least 0, got {first}")
    sampler = sampler_for(sampler, model, steps, grid)
    levels, places = refined_levels(model, chain_levels(model, steps, grid, start, sampler), sampler, refine)
    run = _Run(model, data, sampler, levels, places, start != "noise", clip, seed, spectra)
    own_grid = "scheduler" if isinstance(sampler, SchedulerSampler) else grid
    settings = {**run.settings(), "grid": own_grid, "refine": refine, "start": start, "streams": sorted(streams)}
    settings |= {"spectra": spectra} if spectra else {}
    ids = np.arange(first, first + n)
    collectors = run.collectors(streams, n)

    def snapshot(done: int) -> Recording:
        images = ids[:done] % len(data)
        datasets = {c.name: c.to_dataset(ids[:done], images) for c in collectors.values()}
        datasets["data"] = datasets["data"].merge(run.law.to_dataset())
        return Recording(
            datasets,
            {"run": settings, "n": n, "done": done, "made": made(batch_size=batch_size, device=str(model.device))},
        )

    done = 0
    if checkpoint is not None and os.path.exists(checkpoint):
        done = _restore(checkpoint, settings, ids, collectors)
    saving, last = 0.0, time.monotonic()
    with _progress(run.evaluations(streams), done, n) as bar:
        while done < n:
            rows = slice(done, min(done + batch_size, n))
            for name, step, subjects in run.steps(ids[rows], rows, streams):
                collectors[name].update(step, subjects)
                bar.update(len(subjects.images) if step.prediction is not None else 0)
            done = rows.stop
            now = time.monotonic()
            if checkpoint is not None and (done == n or SAVING_SHARE * (now - last) >= saving):
                snapshot(done).save(checkpoint)
                last = time.monotonic()
                saving = last - now
    return snapshot(n)


def chain_levels(
    model: Denoiser, steps: int, grid: str, start: str | float = "data", sampler: AnySampler | None = None
) -> tuple[Level, ...]:
    """The levels of a chain, from the noisiest, or from the timestep `start`, down to the clean end."""
    levels = sampler.levels if isinstance(sampler, SchedulerSampler) else model.schedule.levels(steps, grid)
    if isinstance(start, str):
        if start not in ("data", "noise"):
            raise InputError(f"unknown start {start!r}: allowed are data, noise, or a timestep of the grid")
        return levels
    timesteps = [level.timestep for level in levels[:-1]]
    if start not in timesteps:
        nearest = min(timesteps, key=lambda t: abs(t - start))
        raise InputError(f"timestep {start:g} is not on the grid of {steps} steps: the nearest is {nearest:g}")
    return levels[timesteps.index(start) :]


def refined_levels(
    model: Denoiser, levels: tuple[Level, ...], sampler: AnySampler, refine: int
) -> tuple[tuple[Level, ...], NDArray[np.int64]]:
    """`Schedule.refined`, for a sampler that can step from any level to any other."""
    if refine != 1 and isinstance(sampler, SchedulerSampler):
        raise InputError(f"{sampler} keeps levels of its own, which cannot be refined: give it more steps instead")
    return model.schedule.refined(levels, refine)


def kept_steps(steps: int) -> list[int]:
    """The steps of a chain of `steps` that are recorded: at most 100, evenly spread, and the end."""
    return [*np.linspace(0, steps - 1, min(steps, MAX_LEVELS)).round().astype(int).tolist(), steps]


def run_settings(
    model: Denoiser,
    data: Data | None,
    levels: Sequence[Level],
    *,
    sampler: str,
    exact_teacher: bool,
    clip: str,
    seed: int,
) -> dict[str, Any]:
    """What must agree between recordings that are merged or continued."""
    about_data = {"name": "", "split": None, "hash": None, "images": 0, "note": ""}
    if data is not None:
        about_data = {
            "name": data.name, "split": data.split, "hash": data.hash, "images": len(data), "note": data.note
        }  # fmt: skip
    return {
        "model": {
            "name": model.name,
            "weights": model.weight_hash,
            "prediction_type": model.prediction_type,
            "classes": model.classes,
            "guidance": model.guidance,
        },
        "data": about_data,
        "schedule": model.schedule.name,
        "path": model.schedule.path,
        "levels": [list(level) for level in levels],
        "sampler": sampler,
        "exact_teacher": exact_teacher,
        "steps": len(levels) - 1,
        "clip": clip,
        "seed": seed,
        "labels": None if model.classes is None or data is None else data.label_hash,
    }


@dataclass
class _Run:
    """One model on one data set, with everything that defines its chain."""

    model: Denoiser
    data: Data
    sampler: AnySampler
    levels: tuple[Level, ...]
    places: NDArray[np.int64]
    paired: bool
    clip: Clip
    seed: int
    spectra: Sequence[str]

    def __post_init__(self) -> None:
        self.law = law(self.data)
        *noisy, end = self.places.tolist()
        self.kept = [*(noisy[i] for i in kept_steps(len(noisy))[:-1]), end]

    def settings(self) -> dict[str, Any]:
        """What must agree between recordings that are merged or continued."""
        settings = run_settings(
            self.model,
            self.data,
            self.levels,
            sampler=str(self.sampler),
            exact_teacher=self.sampler.exact_teacher,
            clip=CLIP_CONVENTIONS[self.clip],
            seed=self.seed,
        )
        return settings | {PROBE: probe(self.model)}

    def collectors(self, streams: Sequence[str], n: int) -> dict[str, Collector]:
        """An empty collector for each stream and one for the images themselves."""
        levels = [self.levels[i] for i in self.kept]
        common = (n, self.law, self.paired, self.seed, self.spectra)
        collectors = {name: Collector(name, self.kept, levels, *common) for name in STREAMS if name in streams}
        return {"data": Collector("data", [0], [self.model.schedule.clean], *common), **collectors}

    def evaluations(self, streams: Sequence[str]) -> int:
        """Steps with a prediction that one sample takes, for the progress bar."""
        return ("forward" in streams) * (len(self.kept) - 1) + ("chain" in streams) * (len(self.levels) - 1)

    def steps(
        self, ids: NDArray[np.int64], rows: slice, streams: Sequence[str]
    ) -> Iterator[tuple[str, Step, Subjects]]:
        """Every step of every stream for one batch of samples."""
        images = ids % len(self.data)
        model = self.model.given(self.data.labels_of(images))
        x0 = torch.from_numpy(self.data.batch(images)).to(model.device, torch.float64)
        subjects = Subjects(rows, images, x0, self.law)
        yield "data", Step(0, model.schedule.clean, x0, None), subjects
        if "forward" in streams:
            for step in forward(model, x0, self.levels, self._noise("forward", ids), self.clip, self.kept):
                yield "forward", step, subjects
        if "chain" not in streams and "teacher" not in streams:
            return
        epsilon = self._noise("start", ids)(0)
        start = (
            noised(x0, self.levels[0], epsilon) if self.paired else prior(model, self.levels[0], epsilon, self.sampler)
        )
        # A learned variance is the model's: the teacher takes it over when both run; otherwise x_0 alone will do.
        who = model if "chain" in streams else Teacher(x0, model.schedule)
        truth = x0 if self.paired else None
        for step in chain(who, start, self.levels, self.sampler, self._noise("chain", ids), self.clip, truth):
            if "chain" in streams:
                yield "chain", step, subjects
            if "teacher" in streams and step.truth is not None:
                yield "teacher", Step(step.index, step.level, step.truth, None), subjects

    def _noise(self, purpose: str, ids: NDArray[np.int64]) -> Noise:
        return Noise(self.seed, purpose, ids.tolist(), self.model.shape, self.model.device)


def check_fit(model: Denoiser, data: Data, n: int, batch_size: int, clip: Clip) -> None:
    """Raise InputError where model, data and settings do not fit; warn once where images must recur."""
    if model.shape != data.shape:
        raise InputError(
            f"the model works on {_shape(model.shape)} images, but {data.name} holds {_shape(data.shape)}: "
            "give data of the model's channel count and size"
        )
    model.given(data.labels)
    if n < 1 or batch_size < 1:
        raise InputError(f"{n} samples in batches of {batch_size}: both must be at least 1")
    if clip not in CLIP_CONVENTIONS:
        raise InputError(f"unknown clip {clip!r}: allowed are {', '.join(map(repr, CLIP_CONVENTIONS))}")
    if clip and data.value_range is None and np.abs(data.images).max() > 1:
        raise InputError(f"clip={clip!r} would cut the data themselves, which leave [-1, 1]: latents are never clipped")
    if n > len(data):
        warnings.warn(f"{n} samples of {len(data)} images: images recur, each time with fresh noise", stacklevel=3)


def _shape(shape: tuple[int, ...]) -> str:
    return f"{shape[0]}×{shape[1]}×{shape[2]}"


def _restore(
    path: str | os.PathLike[str], settings: dict[str, Any], ids: NDArray[np.int64], collectors: dict[str, Collector]
) -> int:
    """Fill the collectors from a checkpoint of the same run; the number of samples it holds."""
    earlier = recording.load_partial(path)
    what = f"{path} belongs to another run (remove it, or choose another checkpoint)"
    refuse_differences(earlier.provenance["run"], settings, what)
    done = int(earlier.provenance["done"])
    if done > len(ids) or (earlier["data"]["sample"].values != ids[:done]).any():
        raise InputError(f"{what}: it holds other samples")
    for name, collector in collectors.items():
        collector.restore(earlier[name])
    return done


def _progress(evaluations: int, done: int, n: int) -> Any:
    # A quick run shows nothing; a bar that is not on a terminal is left out.
    return tqdm(
        total=evaluations * n, initial=evaluations * done, unit="eval", unit_scale=True, desc="record", disable=None,
        leave=False, delay=1.0,
    )  # fmt: skip


def made(**extra: Any) -> dict[str, Any]:
    """How a run came about: nothing here changes its numbers beyond round-off."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        **extra,
    }
