"""Several models or remedies on the same images, noise and levels.

Every diagnostic side by side, and differences.

A difference is paired: both models meet the same noise on the same images, so its standard error
comes from deleting the same group of images from both (`jackknife`), and is much smaller than that
of either value.

What is compared, each zero or one for a perfect model up to the solver's share (see its own
diagnostic):

- hf, dB: power at high frequencies of x̂_0 against the data's (`spectrum`);
- gap: Σ Var(x̂_t) / Σ (α²σ_i² + σ²) − 1, per step (`variance_gap`);
- epsilon_ratio: E‖ε̂(x̂_t)‖ / E‖ε̂(x_t)‖, per step (`epsilon_norm`);
- state_rmse, in the data's units: RMSE of x̂_t − x_t against the teacher chain, per step, where
  paired (`state_error`);
- error_rmse, in the data's units: RMSE of the chain error x_0 − x̂_0, per length (`chain_errors`);
- gap_score, gap_discretisation, hf_score, hf_discretisation: the network's and the solver's part of
  gap and hf at the last noisy level (`error_budget`). A remedy that closes the gap and leaves the
  network's part where it was, or makes it larger, only compensates the solver, and the attribute
  `answer` says so. A remedy of the step leaves the network as it is: it has the same limit.

Trained models are one draw of a random procedure. Checkpoints of `train` that differ in the seed
alone are one entry, their mean; the standard error over seeds stands beside that over images and a
difference counts both. A difference that rests on one seed says so: it is about these
weights, not about the objective they were trained with.
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from exposure_bias.adapters import adapt
from exposure_bias.data import bundled, load_data
from exposure_bias.denoisers import AS_IT_IS, UNHASHED, Denoiser, Speed
from exposure_bias.diagnostics.denoising import check_denoises
from exposure_bias.diagnostics.variance_gap import pooled_gap
from exposure_bias.errors import InputError
from exposure_bias.experiments.bench import Bench, Limits
from exposure_bias.experiments.chain_errors import chain_errors, checked_lengths
from exposure_bias.experiments.kinds.compare import COMPARE
from exposure_bias.experiments.split import PARTS, Split, split
from exposure_bias.files.weights import read_json
from exposure_bias.jackknife import (
    DECIBEL,
    GROUPS,
    Array,
    Estimate,
    grouped,
    jackknife,
    ratio_of,
    sums_by_group,
    why_no_interval,
    with_estimates,
)
from exposure_bias.recording import Recording
from exposure_bias.remedies import Remedied, corrected, is_of_steps, remedied
from exposure_bias.remedies.steps import SEPARATOR
from exposure_bias.results import returns
from exposure_bias.run import Spacing, Start, Stream
from exposure_bias.running.recorder import recorded
from exposure_bias.running.setup import Setup, placed, prepare

ONE_SEED = (
    "one seed each: a difference between these weights, not between the ways they were trained"
)
NO_LEVELS = "chain errors start at the schedule's own levels, which this sampler does not visit"


@dataclass(frozen=True)
class Statistic:
    """A number or curve, and what it is estimated from.

    Its dimensions, how to estimate it, and the sums by group.

    given: the value itself, where the sums are of a subset of the pixels and only good for the
    error. further: a signed standard error that the groups do not show, of one source for all
    models.
    """

    dims: tuple[str, ...]
    estimate: Callable[..., Array]
    sums: tuple[Array, ...]
    given: Array | None = None
    further: Array | float = 0.0

    def value(self, count: Array) -> Array:
        """The value over all images."""
        if self.given is not None:
            return self.given
        return np.asarray(self.estimate(count.sum(), *(total.sum(0) for total in self.sums)))


Statistics = dict[str, Statistic]


@dataclass(frozen=True)
class Entry:
    """What is compared: a name, its members and their seeds.

    Members are one model, or several that differ in the training seed. corrections: remedies of the
    step, which go to the sampler.
    """

    name: str
    models: tuple[Denoiser, ...]
    seeds: tuple[int, ...]
    corrections: tuple[str, ...] = ()

    def sampler(self, sampler: Any) -> Any:
        """The sampler, by name or itself, with this entry's corrections."""
        if isinstance(sampler, str):
            return SEPARATOR.join([sampler, *self.corrections])
        return reduce(corrected, self.corrections, sampler)


@returns(COMPARE)
def compare(
    models: Sequence[Any],
    data: Any,
    *,
    sampler: Any = "ddpm",
    steps: int = 100,
    n: int | None = None,
    start: str | float = "data",
    grid: str = "linspace",
    timestep_spacing: str | None = None,
    clip: Any = False,
    lengths: Sequence[int] = (100, 300),
    seed: int = 0,
    batch_size: int = 256,
    device: str | None = None,
    speed: Speed = AS_IT_IS,
    budget: bool = True,
    folder: str | os.PathLike[str] | None = None,
) -> xr.Dataset:
    """Record every model on the same images, noise and levels, and compare.

    The first entry is what others differ from.

    models: at least two of what `adapt` takes; text may add remedies, "digits + es:1.005 +
    ts:20,300", also of the sampler's steps, "digits + dcw:0.05". Folders of
    `train` that differ in the seed only form one entry. data: what
    `load_data` takes. lengths: of the chain errors, none to leave them out, as they are for
    diffusers' schedulers (attribute `no_error_rmse`). device: where the networks go, but for plain
    functions; by default they stay where they are. speed: how they are computed. budget: split
    every gap (`experiments.budget`), which takes about 150 calls a sample
    and model, whatever `steps`. folder: where the chains
    are kept; the same call goes on there. The others as in `record`.

    Returns, over (entry) and step or length: the statistics of the module docstring with `_se` over
    images, `_se_seeds` over training seeds (NaN for one); their `_difference` from the first entry,
    with paired `_difference_se`, `_difference_se_seeds` and `_difference_se_total`. coords: seeds,
    how many; note, what a difference rests on.

    Raises InputError for fewer than two models, models that do not share schedule and shape, one
    that is no denoiser of these data (`denoising_check`), and what `record` refuses."""
    data, entries = load_data(data), _entries(models, speed)
    everyone = [placed(model, device) for entry in entries for model in entry.models]
    _check_alike(everyone)
    common: dict[str, Any] = {
        "sampler": sampler,
        "n": n,
        "clip": clip,
        "seed": seed,
        "batch_size": batch_size,
    }
    chain: dict[str, Any] = {
        "steps": steps,
        "start": start,
        "grid": grid,
        "timestep_spacing": timestep_spacing,
    }
    # Before anything runs: what does not fit one of the models.
    streams = (Stream.CHAIN, Stream.FORWARD)
    owners = [entry for entry in entries for _ in entry.models]
    setups = [
        prepare(
            model,
            data,
            kind="recording",
            streams=streams,
            **common | chain | {"sampler": entry.sampler(sampler)},
        )
        for model, entry in zip(everyone, owners, strict=True)
    ]
    left_out = {"no_error_rmse": NO_LEVELS} if setups[0].run.spacing is Spacing.SAMPLER else {}
    lengths = checked_lengths(lengths, everyone[0]) if len(lengths) and not left_out else ()

    place = None if folder is None else Path(folder)
    left_out |= {"no_budget": why} if (why := _no_budget(setups, budget)) else {}

    limits = Limits(batch_size, place)

    def measured(setup: Setup) -> tuple[Recording, Statistics]:
        desk = None if place is None else place / setup.run.digest
        recording = recorded(setup, (), batch_size, desk and desk / "recording.nc")
        check_denoises(recording)
        statistics = _statistics(recording)
        if "no_budget" not in left_out:
            statistics |= _budget(Bench(setup, batch_size, desk, recording, limits))
        if lengths:
            options = common | {"n": recording.n, "checkpoint": desk and desk / "errors.nc"}
            options["sampler"] = setup.sampler
            statistics["error_rmse"] = _chain_error(setup.model, data, lengths, options)
        return recording, statistics

    waiting = iter(setups)
    found = [[measured(next(waiting)) for _ in entry.models] for entry in entries]
    recording = found[-1][-1][0]
    count = recording["chain"]["count"].values
    result = xr.Dataset(
        coords={k: recording["chain"][k] for k in ("step", "timestep", "alpha", "sigma")}
    )
    result = result.assign_coords({"length": list(lengths)} if lengths else {})
    result = result.assign_coords(
        entry=[entry.name for entry in entries],
        seeds=("entry", [len(entry.models) for entry in entries]),
        note=("entry", [_note(entries[0], entry) for entry in entries]),
    )
    comparison = Comparison(
        entries, [[statistics for _, statistics in members] for members in found], count
    )
    for name in found[0][0][1]:
        result = comparison.assigned(result, name)
    described = {k: v for k, v in recording.description.items() if k != "model"}
    result.attrs = described | why_no_interval(count) | left_out | {"against": entries[0].name}
    return result


def _no_budget(setups: Sequence[Setup], wanted: bool) -> str:
    """Why gaps are not split, or ""."""
    if not wanted:
        return "it was not asked for"
    run = setups[0].run
    if run.start is not Start.DATA:
        return (
            "chains that do not start on data at the first level are not split here: see"
            " error_budget"
        )
    if setups[0].sampler.limit is None:
        return f"{run.sampler} tends to no known limit"
    return ""


def _budget(bench: Bench) -> Statistics:
    """The parts of the gap, and of HF where there are spectra, at the budget's end."""
    whole = split(bench, bench.setup, "chain")
    return {
        f"{name}_{part}": _part(whole, name, part)
        for name in ("gap", "hf")
        if name in whole.names
        for part in ("discretisation", "score")
    }


def _part(whole: Split, name: str, part: str) -> Statistic:
    """A part of a budget, as a function of which groups of images are kept."""
    place = PARTS.index(part), whole.names.index(name), -1

    def estimate(n: float, kept: Array) -> Array:
        return np.asarray(whole.estimate(kept)[place])

    value = np.asarray(whole.parts[part].value[place[1:]])
    return Statistic((), estimate, (np.eye(GROUPS),), value)


@dataclass(frozen=True)
class Comparison:
    """The statistics of every member of every entry, and how they differ from the first entry's."""

    entries: list[Entry]
    members: list[list[Statistics]]
    count: Array

    def assigned(self, result: xr.Dataset, name: str) -> xr.Dataset:
        """The dataset with a statistic of every entry and its difference from the first one's."""
        each = [[statistics[name] for statistics in members] for members in self.members]
        dims = ("entry", *each[0][0].dims)
        values = [self.over_images(members) for members in each]
        seeds = [self.over_seeds(members) for members in each]
        differences, difference_seeds = zip(
            *(self._difference(each, k) for k in range(len(each))), strict=True
        )
        result = with_estimates(
            result, dims, **{name: _stacked(values), f"{name}_difference": _stacked(differences)}
        )
        total = [
            np.hypot(d.error, np.nan_to_num(s))
            for d, s in zip(differences, difference_seeds, strict=True)
        ]
        further = {
            "_se_seeds": seeds,
            "_difference_se_seeds": difference_seeds,
            "_difference_se_total": total,
        }
        return result.assign(
            {f"{name}{suffix}": (dims, np.stack(v)) for suffix, v in further.items()}
        )

    def _difference(self, each: list[list[Statistic]], k: int) -> tuple[Estimate, Array]:
        """Entry k less the first: over images, and its error over seeds.

        The first does not differ from itself.
        """
        if k == 0:
            nothing = np.zeros_like(each[0][0].value(self.count))
            return Estimate(nothing, nothing), nothing
        paired = self.entries[k].seeds == self.entries[0].seeds
        return self.over_images(each[k], each[0]), self.over_seeds(each[k], each[0], paired)

    def over_images(
        self, members: Sequence[Statistic], against: Sequence[Statistic] = ()
    ) -> Estimate:
        """Mean over members less mean over `against`.

        A group of images goes from all of them at once.
        """
        everyone = [*members, *against]
        ends = np.cumsum([0, *(len(s.sums) for s in everyone)]).tolist()

        def difference(parts: Sequence[Array]) -> Array:
            ours: Array = np.mean(parts[: len(members)], axis=0)
            return ours - np.mean(parts[len(members) :], axis=0) if against else ours

        def estimate(n: float, *totals: Array) -> Array:
            parts = zip(everyone, pairwise(ends), strict=True)
            return difference([s.estimate(n, *totals[a:b]) for s, (a, b) in parts])

        sums = [total for s in everyone for total in s.sums]
        own = jackknife(estimate, self.count, *sums)
        value = difference([s.value(self.count) for s in everyone])
        return own.beside(value, difference([np.asarray(s.further) for s in everyone]))

    def over_seeds(
        self, members: Sequence[Statistic], against: Sequence[Statistic] = (), paired: bool = False
    ) -> Array:
        """Standard error over training seeds of the mean over members, less `against`'s.

        NaN for one seed.

        paired: both were trained with the same seeds, hence the same draws, and are subtracted seed
        by seed.
        """
        values, others = ([s.value(self.count) for s in group] for group in (members, against))
        if paired and others:
            values, others = [a - b for a, b in zip(values, others, strict=True)], []
        if len(values) < 2 or len(others) == 1:
            return np.full_like(values[0], np.nan)
        variances = [
            np.var(group, axis=0, ddof=1) / len(group) for group in (values, others) if group
        ]
        error: Array = np.sqrt(sum(variances))
        return error


def _stacked(estimates: Sequence[Estimate]) -> Estimate:
    return Estimate(np.stack([e.value for e in estimates]), np.stack([e.error for e in estimates]))


def _statistics(recording: Recording) -> Statistics:
    """What a recording gives; the sums have the group first."""
    chain, forward, data = recording["chain"], recording["forward"], recording["data"]
    gap = pooled_gap(recording)
    norms = [
        s["epsilon_norm"].transpose("sample", "step").values.astype(np.float64)
        for s in (chain, forward)
    ]
    by_group = tuple(sums_by_group(norm, chain["image"].values) for norm in norms)
    found = {
        "gap": Statistic(("step",), gap.estimate, gap.sums, gap.value, gap.further),
        "epsilon_ratio": Statistic(("step",), ratio_of, by_group),
    }
    if "state_high" in chain:
        high = grouped(chain, "state_high")[:, -1].sum(1), grouped(data, "state_high")[:, 0].sum(1)
        found = {"hf": Statistic((), _decibel, high)} | found
    if recording.paired:
        square = grouped(chain, "error_group_square").mean(-1)
        everywhere = chain["error_square"].values.reshape(len(chain["step"]), -1).mean(1)
        found["state_rmse"] = Statistic(("step",), _rmse, (square,), _rmse(recording.n, everywhere))
    return found


def _decibel(n: float, above: Array, below: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        value: Array = DECIBEL * np.log(ratio_of(n, above, below))
    return value


def _chain_error(
    model: Denoiser, data: Any, lengths: Sequence[int], options: dict[str, Any]
) -> Statistic:
    """RMSE of x_0 − x̂_0 by length, of the images that are recorded too."""
    errors = chain_errors(model, data, lengths, **options)
    error = errors["error"].values.astype(np.float64)
    square = np.square(error).reshape(*error.shape[:2], -1).mean(2).T
    return Statistic(("length",), _rmse, (sums_by_group(square, errors["image"].values),))


def _rmse(n: float, square: Array) -> Array:
    root: Array = np.sqrt(square / n)
    return root


def _entries(models: Sequence[Any], speed: Speed) -> list[Entry]:
    """The models in order of first appearance, those that differ in the seed alone together."""
    found: dict[str, tuple[str, list[Denoiser], list[int], tuple[str, ...]]] = {}
    for place, given in enumerate(models):
        given, corrections = _without_corrections(given)
        model, recipe = _model(given, speed)
        seed = recipe.pop("seed", 0) if recipe else 0
        key = json.dumps([recipe, _unwrapped(model)[1], corrections]) if recipe else str(place)
        name = SEPARATOR.join([model.name, *corrections])
        _, members, seeds, _ = found.setdefault(key, (name, [], [], corrections))
        if seed in seeds and recipe:
            raise InputError(
                f"{model.name} has the seed {seed} and the settings of a model given before: give"
                " it once"
            )
        members.append(model)
        seeds.append(seed)
    if len(found) < 2:
        raise InputError(f"a comparison needs at least two different models, got {len(found)}")
    entries: list[Entry] = []
    for name, members, seeds, corrections in found.values():
        names = [entry.name for entry in entries]
        label = name if len(members) == 1 else f"{name} and {len(members) - 1} more"
        entries.append(
            Entry(
                label if label not in names else f"{label} ({len(names) + 1})",
                tuple(members),
                tuple(seeds),
                corrections,
            )
        )
    return entries


def _without_corrections(given: Any) -> tuple[Any, tuple[str, ...]]:
    """What was given without its remedies of the step, and these."""
    if not isinstance(given, str):
        return given, ()
    name, *remedies = (part.strip() for part in given.split(SEPARATOR))
    mine = tuple(text for text in remedies if is_of_steps(text))
    return SEPARATOR.join([name, *(text for text in remedies if text not in mine)]), mine


def _model(given: Any, speed: Speed) -> tuple[Denoiser, dict[str, Any]]:
    """A model, and what its training was if it lies in a folder that says so."""
    if not isinstance(given, str | os.PathLike):
        return adapt(given).computed_with(speed), {}
    name, *remedies = (part.strip() for part in os.fspath(given).split(" + "))
    model = adapt(name).computed_with(speed)
    for remedy in remedies:
        model = remedied(model, remedy)
    for folder in (
        bundled.FOLDER / name,
        Path(os.path.expanduser(name)) / "last",
        Path(os.path.expanduser(name)),
    ):
        try:
            said = read_json(folder / "training.json").get("run")
        except InputError:
            continue
        if isinstance(said, dict):
            return model, said
    return model, {}


def _note(first: Entry, entry: Entry) -> str:
    if entry is first:
        return "the others differ from this one"
    if any(a.net is b.net for a in entry.models for b in first.models) or _same_weights(
        entry, first
    ):
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
            raise InputError(
                f"{first.name} works on {first.shape}, {model.name} on {model.shape}: nothing to"
                " compare"
            )
        if len(model.schedule) != len(first.schedule) or not all(
            np.allclose(getattr(model.schedule, k), getattr(first.schedule, k), rtol=1e-5)
            for k in ("alpha", "sigma")
        ):
            raise InputError(
                f"{first.name} and {model.name} have different schedules: their levels are not the"
                " same"
            )
