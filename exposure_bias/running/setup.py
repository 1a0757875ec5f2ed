"""`Setup`: a model, data and a sampling chain that fit each other, with the `Run` that they are.

Everything that runs a network begins with `prepare`, which checks what the user gave before
anything is computed, and ends with batches of samples from `loop`."""

import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.adapters import adapt
from exposure_bias.adapters.sampling import left_out
from exposure_bias.adapters.schedulers import sampler_for
from exposure_bias.clipping import Clipping, clipping
from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import (
    AS_IT_IS,
    Denoiser,
    FractionalTimestep,
    Speed,
    on_device,
    probe,
)
from exposure_bias.errors import InputError, printable, whole_number
from exposure_bias.levels import chosen_levels
from exposure_bias.paths import Noise, PathNoise, Paths
from exposure_bias.run import DataId, ModelId, Run, Spacing, Start, Stream
from exposure_bias.running.parallel import copies
from exposure_bias.samplers import Sampler, named
from exposure_bias.schedules import Level
from exposure_bias.schedules import timestep_spacing as spacing_of
from exposure_bias.states import described
from exposure_bias.statistics.law import Law, law

DEFAULT_SAMPLES = 1024
DEFAULT_STARTS = 5
MAX_LEVELS = 100
MOST = 10**8  # samples of a run
# Bytes for sums by pixel at the recorded levels, of all streams, which keep about MOMENTS of them.
MEMORY, MOMENTS = 96 * 2**20, 7
PACKAGES = ("exposure-bias", "torch", "numpy", "diffusers")

Array = NDArray[np.float64]


class Samples(NamedTuple):
    """A batch of a run's samples.

    Where it stands in the run, its samples' numbers, their images' numbers, x_0 (B, *shape)
    float64."""

    rows: slice
    ids: NDArray[np.int64]
    images: NDArray[np.int64]
    x0: Tensor


@dataclass(frozen=True, eq=False)
class Setup:
    """What a run needs at hand.

    places: where the levels of the unrefined chain stand among the run's.

    n: how many samples; first: the first one's number. Sample i is made from image i mod N. keep:
    the steps that are recorded, by default `kept`. light: whether only moments and power of states
    are. memory: bytes for moments by pixel."""

    run: Run
    model: Denoiser
    data: Data
    sampler: Sampler
    places: NDArray[np.int64]
    n: int
    first: int = 0
    keep: tuple[int, ...] | None = None
    light: bool = False
    memory: int = MEMORY

    @property
    def kept(self) -> list[int]:
        """The steps that are recorded, and the clean end.

        At most 100 of the unrefined chain's, evenly spread; of large states as many as `memory` has
        room for."""
        if self.keep is not None:
            return list(self.keep)
        *noisy, end = self.places.tolist()
        room = self.memory // (8 * MOMENTS * int(np.prod(self.model.shape)))
        most = min(MAX_LEVELS, max(2, room))
        return [*(noisy[i] for i in kept_steps(len(noisy), most)[:-1]), end]

    @property
    def levels(self) -> tuple[Level, ...]:
        """All levels of the chain, noisiest first."""
        return self.run.levels

    @property
    def clip(self) -> Clipping:
        """How predictions are clipped."""
        return self.run.clip

    @cached_property
    def law(self) -> Law:
        """The data's mean and covariance."""
        return law(self.data)

    @property
    def has_reference(self) -> bool:
        """Whether there is a perfect denoiser of Gaussian data to compare with, in closed form."""
        known = not self.run.no_reference and self.law.whole
        return known and self.sampler.transition(self.levels) is not None

    @property
    def ids(self) -> NDArray[np.int64]:
        """The numbers of all samples."""
        return np.arange(self.first, self.first + self.n)

    @property
    def attributes(self) -> dict[str, str]:
        """What was measured, in words, for a dataset's attributes."""
        said = self.run.describe() | {"n": str(self.n)}
        reason = self.run.no_reference
        return said | ({"no_reference": reason} if reason else {})

    def samples(self, rows: slice) -> Samples:
        """A batch of the run's samples."""
        ids = self.ids[rows]
        images = ids % len(self.data)
        x0 = torch.from_numpy(self.data.batch(images)).to(self.model.device, torch.float64)
        return Samples(rows, ids, images, x0)

    def conditioned(self, images: NDArray[np.int64]) -> Denoiser:
        """The model, bound to these images' labels if it is conditional."""
        return self.model.given(self.data.labels_of(images))

    def path(self, ids: Sequence[int] | NDArray[np.int64], purpose: str = "path") -> PathNoise:
        """The Brownian paths of samples along the chain."""
        return self.paths(ids, purpose).on(self.levels, self.places)

    def paths(self, ids: Sequence[int] | NDArray[np.int64], purpose: str = "path") -> Paths:
        """The Brownian paths of samples."""
        return Paths(self.run.seed, list(ids), self.model.shape, self.model.device, purpose)

    def noise(self, purpose: str, ids: Sequence[int] | NDArray[np.int64]) -> Noise:
        """Independent noise of samples, step by step."""
        return Noise(self.run.seed, purpose, list(ids), self.model.shape, self.model.device)

    def starts(self, timesteps: Sequence[float] | None) -> list[int]:
        """Indices of the unrefined chain's levels nearest to the timesteps, noisiest first.

        By default five, evenly.

        Raises InputError for a timestep outside the chain, or two that fall on one level.
        """
        noisy = len(self.places) - 1
        if timesteps is None:
            return [
                int(i)
                for i in self.places[np.unique(np.arange(DEFAULT_STARTS) * noisy // DEFAULT_STARTS)]
            ]
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
                f"levels must be different steps of the chain of {noisy}, got {given}: give fewer,"
                " or more steps"
            )
        return sorted(indices)


def prepare(
    model: Any,
    data: Any,
    *,
    kind: str,
    sampler: Any = "ddpm",
    steps: int = 100,
    grid: str = "linspace",
    timestep_spacing: str | None = None,
    levels: Any = None,
    refine: int = 1,
    start: str | float = "data",
    clip: Any = False,
    n: int | None = None,
    most: int = DEFAULT_SAMPLES,
    first: int = 0,
    seed: int = 0,
    batch_size: int = 256,
    streams: Sequence[Stream] = (),
    spectra: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
    memory: int = MEMORY,
) -> Setup:
    """Check what a user gave and make a `Setup` of it; raises InputError where it does not fit.

    n: by default the data's, at most `most`. levels: a chain's levels in place of steps and spacing
    (`levels.chosen_levels`). The other options as in `record`.
    """
    model = adapt(model)
    data = load_data(data).fitted(model.shape)
    model = model.fitted(data.shape)
    n = min(len(data), most) if n is None else whole_number(n, "n, the number of samples,", 1, MOST)
    first = whole_number(first, "the first sample's number", 0)
    seed = whole_number(seed, "a seed", -(2**63))
    whole_number(batch_size, "batch_size")
    whole_number(memory, "memory, in bytes,")
    spacing: Any = spacing_of(grid, timestep_spacing)
    if levels is not None:
        if spacing != "linspace":
            raise InputError(f"levels take the place of a spacing: leave {spacing} out")
        spacing = given_levels(model, levels)
        steps = len(spacing) - 1
    chosen = sampler_for(sampler, model, steps, spacing)
    clip = clip_of(clip, chosen)
    check_fit(model, data, n, clip)
    check_processes(n, model.net)
    whole = chosen.levels(model.schedule, steps, spacing)
    begin = start_of(start, whole)
    through, places = model.schedule.refined(whole[begin[1] :], refine)
    chosen.begin(through)
    # A class of diffusers' has a spacing of its own, levels have none.
    used = spacing if isinstance(spacing, str) and not hasattr(chosen, "scheduler") else None
    if isinstance(sampler, str) and (unlike := left_out(model.sampling, chosen, clip, used)):
        warnings.warn(
            f"the scheduler in {model.name} would {unlike}: the sampler {chosen} follows its own"
            " options",
            stacklevel=3,
        )
    run = Run(
        **identities(model, data),
        levels=through,
        sampler=str(chosen),
        kind=kind,
        exact_teacher=chosen.exact_teacher,
        prior=chosen.prior_scale(through[0]),
        spacing=_spacing(spacing, whole, model, steps),
        refine=refine,
        start=begin[0],
        clip=clip,
        seed=seed,
        streams=tuple(streams),
        spectra=tuple(spectra),
        probe=probe(model),
        transitions=None if named(str(chosen)) else chosen.transition(through),
        options=dict(options or {}),
    )
    return Setup(run, model, data, chosen, places, n, first, memory=memory)


def identities(model: Denoiser, data: Data | None) -> dict[str, Any]:
    """The part of a `Run` that says which model and data."""
    known = ModelId(
        printable(model.name),
        model.weight_hash,
        model.prediction_type,
        model.classes,
        model.guidance,
        source_of(model),
        model.computed,
        model.conditions,
    )
    about = DataId()
    if data is not None:
        labels = None if model.classes is None else data.label_hash
        about = DataId(
            printable(data.name),
            data.split,
            data.hash,
            len(data),
            printable(data.note),
            labels,
        )
    schedule = model.schedule
    return {
        "model": known,
        "data": about,
        "schedule": schedule.name,
        "parameterisation": schedule.parameterisation,
    }


def source_of(model: Denoiser) -> str:
    """Where a model's weights came from, if it says so: a repository and its commit."""
    source = getattr(model, "source", None)
    return f"{source['repo']}@{source['commit']}" if source else ""


def clip_of(clip: Any, sampler: Sampler) -> Clipping:
    """The clipping that an option and a sampler that clips by itself (`clip`) agree on."""
    asked, own = clipping(clip), getattr(sampler, "clip", None)
    if own is None:
        if (
            asked
            and not getattr(sampler, "takes_epsilon", True)
            and asked.convention == "keep_epsilon"
        ):
            raise InputError(
                f"clip='keep_epsilon' cannot reach {sampler}, which takes one output: use True"
            )
        return asked
    if asked and asked != own:
        raise InputError(
            f"clip={clip!r}, but {sampler} has {own}: leave clip out, or turn its clip_sample off"
        )
    found: Clipping = own
    return found


def start_of(start: str | float, levels: Sequence[Level]) -> tuple[Start, int]:
    """Where chains begin, and the index of that level in the whole chain.

    Raises InputError for an unknown word or a timestep that is not on the grid.
    """
    if isinstance(start, str):
        if start not in (Start.DATA, Start.NOISE):
            raise InputError(
                f"unknown start {start!r}: allowed are data, noise, or a timestep of the grid"
            )
        return Start(start), 0
    timesteps = [level.timestep for level in levels[:-1]]
    if isinstance(start, bool) or not isinstance(start, int | float):
        raise InputError(f"start is {start!r}: allowed are data, noise, or a timestep of the grid")
    if start not in timesteps:
        nearest = min(timesteps, key=lambda t: abs(t - start))
        grid = f"the grid of {len(levels) - 1} steps"
        raise InputError(f"timestep {start:g} is not on {grid}: the nearest is {nearest:g}")
    return Start.LEVEL, timesteps.index(start)


def check_fit(model: Denoiser, data: Data, n: int, clip: Clipping) -> None:
    """Raise InputError where model and data do not fit; warn once where images must recur."""
    if model.shape != data.shape:
        raise InputError(
            f"the model works on states {described(model.shape)}, but {data.name} holds"
            f" {described(data.shape)}: give data of the model's channel count and size"
        )
    if model.classes is not None and data.labels is None and data.folders:
        few = ", ".join(data.folders[:3]) + (", …" if len(data.folders) > 3 else "")
        raise InputError(
            f"{model.name} is {model.chosen_by}-conditional, but no labels are given: give them"
            f" with load_data(images, labels=...) or, since {data.name} lies in"
            f" {len(data.folders)} top folders ({few}), labels='folders' (--labels folders)"
        )
    model.given(data.labels)
    if clip and data.value_range is None and beyond(data, clip.bound):
        raise InputError(
            f"clipping would cut the data themselves, which leave ±{clip.bound:g}: latents are"
            " never clipped"
        )
    if n > len(data):
        warnings.warn(
            f"{n} samples of {len(data)} images: images recur, each time with fresh noise",
            stacklevel=4,
        )


def check_processes(n: int, net: Any = None) -> None:
    """Raise InputError for more processes than samples, some of which would have nothing to do.

    net: the network, which several processes may hold together.
    """
    size = copies(net)
    if n < size:
        raise InputError(
            f"{size} processes for {n} samples: start at most as many as there are samples"
        )


def beyond(data: Data, bound: float) -> bool:
    """Whether any value of the data leaves [−bound, bound]."""
    chunks = (range(i, min(i + 1024, len(data))) for i in range(0, len(data), 1024))
    return any(bool(np.abs(data.batch(list(chunk))).max() > bound) for chunk in chunks)


def varied(setup: Setup) -> Setup:
    """The setup itself.

    Raises InputError where all of its images are the same, so that nothing can be compared.
    """
    if not (setup.law.variance > 0).any():
        count, name = len(setup.data), setup.data.name
        several = f"the {count} images of {name} are all the same"
        said = f"{name} holds one image" if count == 1 else several
        raise InputError(f"{said}: give images that differ")
    return setup


def kept_steps(steps: int, most: int = MAX_LEVELS) -> list[int]:
    """The steps of a chain that are recorded: at most 100, evenly spread, and the end."""
    return [*np.linspace(0, steps - 1, min(steps, most)).round().astype(int).tolist(), steps]


def with_options(setup: Setup, options: Mapping[str, Any]) -> Setup:
    """The setup of a run with these settings of its own."""
    return replace(setup, run=replace(setup.run, options={**setup.run.options, **options}))


def with_model(setup: Setup, model: Denoiser) -> Setup:
    """The setup with another network of the same kind, without learning the data's law again.

    Its run still names the first network: for numbers that are not kept with their provenance.
    """
    changed = replace(setup, model=model)
    changed.__dict__["law"] = setup.law  # where `cached_property` keeps it
    return changed


def placed(model: Any, device: str | None, speed: Speed = AS_IT_IS) -> Denoiser:
    """`adapt(model)`, its module moved to a device.

    A plain function, whose modules are its own business, stays. speed: how it is to be computed.

    Raises InputError for a device that is not there.
    """
    denoiser = adapt(model)
    if device is not None and isinstance(denoiser.net, torch.nn.Module):
        denoiser.net.to(on_device(device).device)
    return denoiser.computed_with(speed)


def made(**extra: Any) -> dict[str, Any]:
    """How a run came about: nothing here changes its numbers beyond round-off."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        **_versions(),
        **extra,
    }


@cache
def _versions() -> dict[str, str]:
    """The packages' versions; to find them takes as long as a small chain's step."""
    return {package: version(package) for package in PACKAGES}


def given_levels(model: Denoiser, levels: Any) -> tuple[Level, ...]:
    """The levels of a list that a user gave, each of which the network takes.

    Raises InputError for what `chosen_levels` refuses, and where a level falls between whole
    timesteps of a network that knows only whole ones.
    """
    chosen = chosen_levels(model.schedule, levels)
    between = [level for level in chosen[:-1] if not float(level.timestep).is_integer()]
    if between and not model.schedule.continuous and not takes_fractions(model, between[0]):
        raise InputError(
            f"level {between[0].timestep:.6g} falls between two whole timesteps, and {model.name}"
            " answers at whole timesteps only: give whole timesteps"
        )
    return chosen


def takes_fractions(model: Denoiser, level: Level) -> bool:
    """Whether a network answers at a level between whole timesteps; found by asking it once."""
    x = torch.zeros(1, *model.shape, dtype=torch.float64, device=model.device)
    try:
        with model.evaluating():
            model.given([0])(x, level)
    except FractionalTimestep:
        return False
    return True


def _spacing(spacing: Any, levels: Sequence[Level], model: Denoiser, steps: int) -> Spacing:
    """The spacing asked for, unless the sampler took levels of its own."""
    if not isinstance(spacing, str):
        return Spacing.GIVEN
    try:
        own = model.schedule.levels(steps, spacing)
    except InputError:
        return Spacing.SAMPLER
    return Spacing(spacing) if tuple(levels) == own else Spacing.SAMPLER
