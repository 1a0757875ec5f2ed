"""Several models or remedies on the same images, noise and levels: every diagnostic side by side, and differences.

A difference is paired: both models meet the same noise on the same images, so its standard error comes from deleting
the same group of images from both (`diagnostics.jackknife`), and is much smaller than that of either value.

What is compared, each zero or one for a perfect model up to the solver's share (see its own diagnostic):

    hf               dB      power at high frequencies of x̂_0 against the data's                (`spectrum`)
    gap              -       Σ Var(x̂_t) / Σ (α²σ_i² + σ²) − 1, per step                         (`variance_gap`)
    epsilon_ratio    -       E‖ε̂(x̂_t)‖ / E‖ε̂(x_t)‖, per step                                    (`epsilon_norm`)
    state_rmse       units   RMSE of x̂_t − x_t against the teacher chain, per step, if paired    (`state_error`)
    error_rmse       units   RMSE of the chain error x_0 − x̂_0, per length                       (`chain_errors`)

Trained models are one draw of a random procedure. Checkpoints of `train` that differ in the seed alone are one entry,
their mean; the standard error over seeds stands beside that over images and a difference counts both (design §4.7). A
difference that rests on one seed says so: it is about these weights, not about the objective they were trained with.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from exposure_bias.adapters import BUNDLED, adapt
from exposure_bias.adapters.schedulers import SchedulerSampler, sampler_for
from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import UNHASHED, Clip, Denoiser
from exposure_bias.diagnostics.jackknife import Array, grouped, jackknife, why_no_interval, with_errors
from exposure_bias.diagnostics.variance_gap import PIXELS, pooled_gap
from exposure_bias.errors import InputError
from exposure_bias.experiments.chain_errors import chain_errors, checked_lengths
from exposure_bias.experiments.setting import placed
from exposure_bias.recorder import record
from exposure_bias.recording import Recording
from exposure_bias.remedies import Remedied, remedied
from exposure_bias.statistics.accumulator import GROUPS

ONE_SEED = "one seed each: a difference between these weights, not between the ways they were trained"


class Statistic(NamedTuple):
    """A number or curve: its dimensions, how to estimate it, and the sums by group that it is estimated from.

    given: the value itself, where the sums are of a subset of the pixels and only good for the error. further: a signed
    standard error that the groups do not show, of one source for all models.
    """

    dims: tuple[str, ...]
    estimate: Callable[..., Array]
    sums: tuple[Array, ...]
    given: Array | None = None
    further: Array | float = 0.0

    def value(self, count: Array) -> Array:
        if self.given is not None:
            return self.given
        return np.asarray(self.estimate(count.sum(), *(total.sum(0) for total in self.sums)))


@dataclass(frozen=True)
class Entry:
    """What is compared: a name, its members (one model, or several that differ in the training seed), their seeds."""

    name: str
    models: tuple[Denoiser, ...]
    seeds: tuple[int, ...]


def compare(
    models: Sequence[Any],
    data: Any,
    *,
    sampler: str = "ddpm",
    steps: int = 100,
    n: int | None = None,
    start: str | float = "data",
    grid: str = "linspace",
    clip: Clip = False,
    lengths: Sequence[int] = (100, 300),
    seed: int = 0,
    batch_size: int = 256,
    device: str = "cpu",
) -> xr.Dataset:
    """Record every model on the same images, noise and levels, and compare; the first entry is what others differ from.

    models: at least two of what `adapt` takes; text may add remedies, "digits + es:1.005 + ts:20,300". Folders of
    `train` that differ in the seed only form one entry. data: what `load_data` takes. lengths: of the chain errors,
    none to leave them out, as they are for diffusers' schedulers (attribute `no_error_rmse`). device: where the
    networks go, but for plain functions. The others as in `record`.

    Returns, over (entry) and step or length: the statistics of the module docstring with `_se` over images, `_se_seeds`
    over training seeds (NaN for one); their `_difference` from the first entry, with paired `_difference_se`,
    `_difference_se_seeds` and `_difference_se_total`. coords: seeds, how many; note, what a difference rests on.

    Raises InputError for fewer than two models, models that do not share schedule and shape, and what `record` refuses.
    """
    data, entries = load_data(data), _entries(models)
    everyone = [placed(model, None if device == "cpu" else device) for entry in entries for model in entry.models]
    _check_alike(everyone)
    left_out = {}
    # Before anything runs: a sampler or a length that does not fit.
    if lengths and any(isinstance(sampler_for(sampler, m, steps, grid), SchedulerSampler) for m in everyone):
        lengths, left_out = (
            (),
            {"no_error_rmse": "chain errors start at levels that diffusers' schedulers do not visit"},
        )
    if lengths:
        lengths = checked_lengths(lengths, everyone[0])
    options: dict[str, Any] = {"sampler": sampler, "n": n, "clip": clip, "seed": seed, "batch_size": batch_size}
    members: list[list[dict[str, Statistic]]] = []
    for entry in entries:
        members.append([])
        for model in entry.models:
            recording = record(model, data, steps=steps, start=start, grid=grid, **options)
            statistics = _statistics(recording)
            if lengths:
                statistics["error_rmse"] = _chain_error(model, data, lengths, options | {"n": recording.n})
            members[-1].append(statistics)
    count = recording["chain"]["count"].values
    result = xr.Dataset(coords={k: recording["chain"][k] for k in ("step", "timestep", "alpha", "sigma")})
    if lengths:
        result = result.assign_coords(length=list(lengths))
    result = result.assign_coords(
        entry=[entry.name for entry in entries],
        seeds=("entry", [len(entry.models) for entry in entries]),
        note=("entry", [_note(entries[0], entry) for entry in entries]),
    )
    for name in members[0][0]:
        result = _compared(result, name, [[m[name] for m in ms] for ms in members], count, entries)
    described = {k: v for k, v in recording.description.items() if k != "model"}
    result.attrs = described | why_no_interval(count) | left_out | {"against": entries[0].name}
    return result


def _compared(
    result: xr.Dataset, name: str, members: list[list[Statistic]], count: Array, entries: list[Entry]
) -> xr.Dataset:
    """The dataset with a statistic of every entry and its difference from the first one's."""
    dims, first = ("entry", *members[0][0].dims), members[0]
    values = [_over_images(m, [], count) for m in members]
    # The first entry does not differ from itself.
    nothing = (np.zeros_like(values[0][0]), np.zeros_like(values[0][1]))
    differences = [nothing, *(_over_images(m, first, count) for m in members[1:])]
    seeds = [_over_seeds(m, [], count) for m in members]
    same = [entry.seeds == entries[0].seeds for entry in entries]
    difference_seeds = [
        nothing[0],
        *(_over_seeds(m, first, count, p) for m, p in zip(members[1:], same[1:], strict=True)),
    ]
    value, se = (np.stack(part) for part in zip(*values, strict=True))
    difference, difference_se = (np.stack(part) for part in zip(*differences, strict=True))
    result = with_errors(result, dims, **{name: (value, se), f"{name}_difference": (difference, difference_se)})
    total = np.sqrt(difference_se**2 + np.nan_to_num(np.stack(difference_seeds)) ** 2)
    return result.assign(
        {
            f"{name}_se_seeds": (dims, np.stack(seeds)),
            f"{name}_difference_se_seeds": (dims, np.stack(difference_seeds)),
            f"{name}_difference_se_total": (dims, total),
        }
    )


def _over_images(members: list[Statistic], against: list[Statistic], count: Array) -> tuple[Array, Array]:
    """Mean over members less mean over `against`, and its standard error over images: a group goes from all at once."""
    everyone = [*members, *against]
    ends = np.cumsum([0, *(len(s.sums) for s in everyone)]).tolist()

    def estimate(n: float, *totals: Array) -> Array:
        return mean([s.estimate(n, *totals[a:b]) for s, (a, b) in zip(everyone, pairwise(ends), strict=True)])

    def mean(parts: list[Array]) -> Array:
        first: Array = np.mean(parts[: len(members)], axis=0)
        return first - np.mean(parts[len(members) :], axis=0) if against else first

    _, error = jackknife(estimate, count, *(total for s in everyone for total in s.sums))
    value, further = mean([s.value(count) for s in everyone]), mean([np.asarray(s.further) for s in everyone])
    return value, np.hypot(error, further)


def _over_seeds(members: list[Statistic], against: list[Statistic], count: Array, paired: bool = False) -> Array:
    """Standard error over training seeds of the mean over members, less that over `against`; NaN for one seed.

    paired: both were trained with the same seeds, hence the same draws, and are subtracted seed by seed.
    """
    values, others = ([s.value(count) for s in group] for group in (members, against))
    if paired and others:
        values, others = [a - b for a, b in zip(values, others, strict=True)], []
    if len(values) < 2 or len(others) == 1:
        return np.full_like(values[0], np.nan)
    error: Array = np.sqrt(sum(np.var(group, axis=0, ddof=1) / len(group) for group in (values, others) if group))
    return error


def _statistics(recording: Recording) -> dict[str, Statistic]:
    """What a recording gives; the sums have the group first."""
    chain, forward, data = recording["chain"], recording["forward"], recording["data"]
    group_of = chain["image"].values % GROUPS

    def by_group(values: Array) -> Array:
        return np.stack([values[group_of == g].sum(0) for g in range(GROUPS)])

    def hf(_: float, above: Array, below: Array) -> Array:
        return np.asarray(10 * np.log10(above / below))

    def ratio(_: float, above: Array, below: Array) -> Array:
        return above / below

    high = grouped(chain, "state_high")[:, -1].sum(1), grouped(data, "state_high")[:, 0].sum(1)
    gap = pooled_gap(recording)
    norms = [s["epsilon_norm"].transpose("sample", "step").values.astype(np.float64) for s in (chain, forward)]
    found = {
        "hf": Statistic((), hf, high),
        "gap": Statistic(("step",), gap.estimate, gap.sums, gap.value, gap.further),
        "epsilon_ratio": Statistic(("step",), ratio, (by_group(norms[0]), by_group(norms[1]))),
    }
    if recording.paired:
        square, everywhere = grouped(chain, "error_group_square").mean(-1), chain["error_square"].mean(PIXELS[1:])
        found["state_rmse"] = Statistic(("step",), _rmse, (square,), _rmse(recording.n, everywhere.values))
    return found


def _chain_error(model: Denoiser, data: Data, lengths: Sequence[int], options: dict[str, Any]) -> Statistic:
    """RMSE of x_0 − x̂_0 by length, of the images that are recorded too."""
    errors = chain_errors(model, data, lengths, **options)
    square = np.square(errors["error"].values.astype(np.float64)).mean((2, 3, 4)).T
    groups = errors["image"].values % GROUPS
    return Statistic(("length",), _rmse, (np.stack([square[groups == g].sum(0) for g in range(GROUPS)]),))


def _rmse(n: float, square: Array) -> Array:
    root: Array = np.sqrt(square / n)
    return root


def _entries(models: Sequence[Any]) -> list[Entry]:
    """The models in order of first appearance, those that differ in the seed alone together."""
    found: dict[str, tuple[str, list[Denoiser], list[int]]] = {}
    for place, given in enumerate(models):
        model, recipe = _model(given)
        seed = recipe.pop("seed", 0) if recipe else 0
        key = json.dumps([recipe, _unwrapped(model)[1]]) if recipe else str(place)
        _, members, seeds = found.setdefault(key, (model.name, [], []))
        if seed in seeds and recipe:
            raise InputError(f"{model.name} has the seed {seed} and the settings of a model given before: give it once")
        members.append(model)
        seeds.append(seed)
    if len(found) < 2:
        raise InputError(f"a comparison needs at least two different models, got {len(found)}")
    entries: list[Entry] = []
    for name, members, seeds in found.values():
        names = [entry.name for entry in entries]
        label = name if len(members) == 1 else f"{name} and {len(members) - 1} more"
        entries.append(
            Entry(label if label not in names else f"{label} ({len(names) + 1})", tuple(members), tuple(seeds))
        )
    return entries


def _model(given: Any) -> tuple[Denoiser, dict[str, Any]]:
    """A model, and what its training was if it lies in a folder that says so."""
    if not isinstance(given, str | os.PathLike):
        return adapt(given), {}
    name, *remedies = (part.strip() for part in os.fspath(given).split(" + "))
    model = adapt(name)
    for remedy in remedies:
        model = remedied(model, remedy)
    for folder in (BUNDLED / name, Path(name).expanduser() / "last", Path(name).expanduser()):
        try:
            return model, json.loads((folder / "training.json").read_text())["run"]
        except (OSError, ValueError, KeyError):
            continue
    return model, {}


def _note(first: Entry, entry: Entry) -> str:
    if entry is first:
        return "the others differ from this one"
    if any(a.net is b.net for a in entry.models for b in first.models) or _same_weights(entry, first):
        return "the same weights: the difference is the remedy's"
    return "" if min(len(first.models), len(entry.models)) > 1 else ONE_SEED


def _same_weights(one: Entry, other: Entry) -> bool:
    plain = [{_unwrapped(m)[0].weight_hash for m in e.models} for e in (one, other)]
    return plain[0] == plain[1] and UNHASHED not in plain[0]


def _unwrapped(model: Denoiser) -> tuple[Denoiser, list[str]]:
    """The model inside all remedies, and these, the outermost first."""
    remedies = []
    while isinstance(model, Remedied):
        remedies.append(model.remedy)
        model = model.model
    return model, remedies


def _check_alike(models: list[Denoiser]) -> None:
    first = models[0]
    for model in models[1:]:
        if model.shape != first.shape:
            raise InputError(f"{first.name} works on {first.shape}, {model.name} on {model.shape}: nothing to compare")
        if len(model.schedule) != len(first.schedule) or not all(
            np.allclose(getattr(model.schedule, k), getattr(first.schedule, k), rtol=1e-5) for k in ("alpha", "sigma")
        ):
            raise InputError(f"{first.name} and {model.name} have different schedules: their levels are not the same")
