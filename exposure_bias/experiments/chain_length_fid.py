"""Quality against chain length T′: "ideally, the more steps the better", yet FID rises again, the talk says.

For every model, sampler and length, n samples are drawn, quantised as samples are saved, and compared with real images:
Fréchet distance, KID, precision and recall (`fidelity`). Sample i meets the same noise in every model and at every
length, so that a difference is known better than either value. Real against real images gives the noise floor.

    start = "noise"   x̂_0 from N(0, I) in T′ steps (Nichol & Dhariwal 2021, Fig. 11; Ning et al. 2023, Tab. 3)
    start = "data"    the reconstruction curve: x_0 noised to the T′-th noise level, the chain of T′ steps from there,
                      and the set of x̂_0 against the set of x_0; as many steps as levels, whatever the length

Sample i of a class-conditional model has the label of image i mod N. A curve that rises says that long chains are
worse, not why: `diagnose` separates model from solver.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from exposure_bias import files
from exposure_bias.adapters.schedulers import sampler_for
from exposure_bias.data import BUNDLED, SPLITS, Data, load_data
from exposure_bias.denoisers import CLIP_CONVENTIONS, Clip, Denoiser, probe
from exposure_bias.diagnostics.jackknife import jackknife
from exposure_bias.errors import InputError
from exposure_bias.experiments.setting import placed
from exposure_bias.fidelity import sets
from exposure_bias.fidelity.features import Extractor, Features, extract, extract_real, extractor, quantised
from exposure_bias.fidelity.frechet import Normal
from exposure_bias.fidelity.jackknife import GROUPS, corrected
from exposure_bias.fidelity.manifold import NEIGHBOURS
from exposure_bias.fidelity.sets import FeatureSet
from exposure_bias.noise import Noise
from exposure_bias.recorder import chain_levels, check_fit, made
from exposure_bias.recording import PROBE, refuse_differences
from exposure_bias.schedules import CONTINUOUS_POINTS, Level
from exposure_bias.streams import AnySampler, noised, prior, rollout

Array = NDArray[np.float64]

LENGTHS = (10, 20, 50, 100, 300)
DEFAULT_SAMPLES = 1024
KIND = "chain-fid"


def chain_length_fid(
    model: Any,
    data: Any,
    lengths: Sequence[int] = LENGTHS,
    *,
    features: str | Callable[[Tensor], Tensor] = "classifier",
    sampler: Any = "ddpm",
    n: int | None = None,
    start: str = "noise",
    grid: str = "linspace",
    clip: Clip = False,
    quantise: bool | None = None,
    real: Any = None,
    reference: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
) -> xr.Dataset:
    """How close n samples come to real images, by chain length.

    model: what `adapt` takes, or a sequence of it. data: the real images compared with, what `load_data` takes.
    lengths: numbers of steps T′ ≤ T. features: see `fidelity.features`; only "inception" gives FID. sampler: one or
    several, as in `record`. n: by default the data's, at most 1024; literature uses 50,000. start: "noise" or "data",
    see the module docstring. grid, clip, seed, batch_size: as in `record`. quantise: to 8 bits before features, by
    default unless the data were loaded with value_range=None. real: other real images for the floor; by default the
    other split of bundled data, otherwise the data is halved. reference: an .npz of statistics as guided-diffusion
    writes them; the Fréchet distances are then to these. weights: of Inception. checkpoint: a folder that keeps every
    finished (model, sampler, length); the same call goes on from there. device: where to move the models, by default
    they stay where they are.

    Returns, over (model, sampler, length), the first two only where a sequence was given: frechet (plug-in, what the
    literature prints, biased upwards), frechet_corrected (by jackknife), kid, precision, recall, with `_se`; for
    Inception spatial_frechet (sFID); for start="data" rmse, of x̂_0 − x_0 in the data's units. change: frechet_corrected
    minus that of the length before. against_first: minus that of the first model. floor_…: the same of real against
    real images. frechet_jackknife: the numbers behind (`fidelity.jackknife`). Values are NaN, and the attribute
    `no_interval` says why, where the samples are too few.

    Raises InputError for lengths above T, images that do not fit, features that do not suit, and whatever else.
    """
    models = list(model) if isinstance(model, list | tuple) else [model]
    chosen = list(sampler) if isinstance(sampler, list | tuple) else [sampler]
    if not models or not chosen:
        raise InputError("there is no model or no sampler to measure: give at least one")
    data = load_data(data)
    denoiser = placed(models[0], device)
    run = _Run(
        data,
        extractor(features, data.shape, weights, denoiser.device),
        min(len(data), DEFAULT_SAMPLES) if n is None else n,
        start,
        grid,
        clip,
        data.value_range is not None if quantise is None else quantise,
        seed,
        batch_size,
    )
    lengths = _lengths(lengths)
    run.check(denoiser, chosen, lengths)
    target = run.target(reference)
    floor, floor_n = run.floor(target, real)
    rows: list[xr.Dataset] = []
    labels: list[str] = []
    total = len(models) * len(chosen) * sum(lengths) * run.n
    with tqdm(total=total, unit="step", unit_scale=True, desc=KIND, disable=None, leave=False, delay=1) as bar:
        for i, one in enumerate(models):
            denoiser = placed(one, device) if i else denoiser
            run.check(denoiser, chosen, lengths)
            labels.append(_distinct(str(denoiser.name), labels))
            cells = [[_cell(run, denoiser, s, length, target, checkpoint, bar) for length in lengths] for s in chosen]
            rows.append(xr.concat([xr.concat(row, "length") for row in cells], "sampler"))
    curve = xr.concat(rows, "model", combine_attrs="drop_conflicts")
    curve = curve.assign_coords(
        model=labels, sampler=[str(run.chain(denoiser, s, lengths[0])[0]) for s in chosen], length=list(lengths)
    )
    floor = _estimates(floor)
    curve = _estimates(curve.merge(floor.rename({name: f"floor_{name}" for name in floor.data_vars})))
    curve["floor_n"] = floor_n
    curve.attrs = run.description | {"reference": target.name} | {k: v for k, v in rows[0].attrs.items() if v}
    single = {"model": not isinstance(model, list | tuple), "sampler": not isinstance(sampler, list | tuple)}
    return curve.isel({dim: 0 for dim, alone in single.items() if alone})


def fid_by_iteration(
    folder: str | os.PathLike[str], data: Any, lengths: Sequence[int] = (100,), **options: Any
) -> xr.Dataset:
    """`chain_length_fid` of every checkpoint in a folder, over (iteration, …): the talk's Fig. 3.

    A checkpoint is an entry of the folder that `load_model` reads and whose name ends in its iteration, such as
    `step-20000` or `ema_0.9999_120000.pt`. options: as in `chain_length_fid`, which refuses those it does not know.

    Raises InputError for a folder without checkpoints.
    """
    found = checkpoints(folder)
    curve = chain_length_fid(list(found.values()), data, lengths, **options)
    return (
        curve.drop_vars("against_first", errors="ignore").rename(model="iteration").assign_coords(iteration=list(found))
    )


def checkpoints(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """The entries of a folder by iteration, which is the last number of the name; hidden and unnumbered ones are not.

    Raises InputError if there are none, or two of one iteration.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder of checkpoints {folder}: give one")
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        name = path.name if path.is_dir() else path.stem
        numbers = re.findall(r"\d+", name)
        if not numbers or path.name.startswith("."):
            continue
        if int(numbers[-1]) in found:
            raise InputError(
                f"{found[int(numbers[-1])].name} and {path.name} in {folder} are of one iteration: keep one"
            )
        found[int(numbers[-1])] = path
    if not found:
        raise InputError(f"{folder} holds no checkpoint: its entries must be named by their iteration, like step-20000")
    return dict(sorted(found.items()))


def speed_up(
    candidate: xr.Dataset, baseline: xr.Dataset, along: str = "iteration", measure: str = "frechet"
) -> xr.Dataset:
    """How much sooner a candidate reaches the baseline's best value: the talk's Table 4.

    candidate, baseline: curves with the dimension `along`, "iteration" or "length". Returns best (the baseline's least
    value), baseline_at (where it has it), candidate_at (the first place where the candidate is as low, NaN if nowhere)
    and factor = baseline_at / candidate_at. Point values: read them with the curves' intervals.
    """
    for curve in (candidate, baseline):
        if along not in curve.dims or measure not in curve:
            raise InputError(
                f"the curves need {measure} along {along!r}: they have dimensions {', '.join(map(str, curve.dims))}"
            )
    best, baseline_at = baseline[measure].min(along), baseline[measure].idxmin(along)
    candidate_at = candidate[along].where(candidate[measure] <= best).min(along)
    found = {
        "best": best,
        "baseline_at": baseline_at,
        "candidate_at": candidate_at,
        "factor": baseline_at / candidate_at,
    }
    return xr.Dataset(found, attrs={"measure": measure, "along": along})


def describe(curve: xr.Dataset) -> list[str]:
    """For every curve one line: where it is lowest and whether it rises after that. What, not why."""
    name = "frechet_corrected" if np.isfinite(curve["frechet_corrected"]).all() else "frechet"
    others = [dim for dim in curve[name].dims if dim != "length"]
    lines = []
    for place in np.ndindex(*(curve.sizes[dim] for dim in others)):
        one = curve[name].isel(dict(zip(others, place, strict=True)))
        low, last = int(one.argmin("length")), one.sizes["length"] - 1
        known = [dim for dim in ("model", "iteration", "sampler") if dim in one.coords]
        where = ", ".join(str(one[dim].values) for dim in known) or "curve"
        lowest = f"{where}: lowest at T′ = {int(one['length'][low])} ({float(one[low]):.4g})"
        if low == last:
            lines.append(f"{lowest}, the longest chain")
            continue
        rise = float(one[last] - one[low])
        lines.append(
            f"{lowest}, {rise:.2g} higher at T′ = {int(one['length'][last])}; the curve does not say why: see diagnose"
        )
    return lines


def save_curve(curve: xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Write the result of `chain_length_fid` to one file, atomically."""
    files.write_tree(path, xr.DataTree(curve), {"kind": KIND, "made": made()})


def load_curve(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read what `save_curve` wrote. Raises InputError if it is missing, corrupt or something else."""
    tree, provenance = files.read_tree(path)
    if provenance.get("kind") != KIND:
        raise InputError(f"{path} holds no chain-length curve: give the {KIND}.nc that `eb-analyze {KIND} -o` wrote")
    return tree.to_dataset()


@dataclass(frozen=True)
class _Target:
    """What generated images are compared with: features of real images, and perhaps statistics from a file."""

    name: str
    real: Features
    normals: tuple[Normal, Normal | None] | None = None

    @property
    def identity(self) -> str:
        """16 hex digits of a SHA-256 over the statistics from a file, whose name says little."""
        digest = hashlib.sha256()
        for normal in filter(None, self.normals or ()):
            for values in (normal.mean, normal.covariance):
                digest.update(np.ascontiguousarray(values, np.float64).tobytes())
        return digest.hexdigest()[:16]

    def compare(self, other: Features) -> xr.Dataset:
        """Every measure of a set of images against this one, with the numbers of the jackknife."""
        pool, spatial = (self.real.pool, self.real.spatial) if self.normals is None else self.normals
        values, reason = sets.frechet_values(other.pool, pool)
        result = xr.Dataset({"frechet_jackknife": ("deleted", values)}, attrs={"no_interval": reason})
        if other.spatial is not None and spatial is not None:
            result["spatial_frechet_jackknife"] = ("deleted", sets.frechet_values(other.spatial, spatial)[0])
        result["kid_jackknife"] = ("deleted", sets.kid_values(other.pool, self.real.pool)[0])
        if min(len(other.pool), len(self.real.pool)) > NEIGHBOURS:
            for name, pair in zip(
                ("precision", "recall"), sets.precision_recall(other.pool, self.real.pool), strict=True
            ):
                result[name], result[f"{name}_se"] = pair
        return result


@dataclass(frozen=True)
class _Run:
    """What all models, samplers and lengths have in common."""

    data: Data
    extractor: Extractor
    n: int
    start: str
    grid: str
    clip: Clip
    quantise: bool
    seed: int
    batch_size: int

    def check(self, model: Denoiser, samplers: Sequence[Any], lengths: Sequence[int]) -> None:
        """Raise InputError where model, data and settings do not fit."""
        if self.start not in ("noise", "data"):
            raise InputError(f"unknown start {self.start!r}: allowed are noise and data")
        if self.n < 2:
            raise InputError(f"a distribution needs at least 2 samples, got n={self.n}: give more")
        if self.quantise and self.data.value_range is None:
            raise InputError("images loaded with value_range=None cannot be quantised: pass quantise=False")
        used = self.n if self.start == "data" else min(self.n, len(self.data))
        check_fit(model, self.data, used, self.batch_size, self.clip)
        for sampler in samplers:
            for length in lengths:
                self.chain(model, sampler, length)

    def chain(self, model: Denoiser, sampler: Any, length: int) -> tuple[AnySampler, tuple[Level, ...]]:
        """A chain's sampler and levels. Raises InputError for a length above T, or an unknown sampler."""
        if self.start == "noise":
            found = sampler_for(sampler, model, length, self.grid)
            return found, chain_levels(model, length, self.grid, "noise", found)
        total = min(CONTINUOUS_POINTS, len(model.schedule))
        if length > total:
            raise InputError(f"length {length} was asked of a schedule of {total} levels: use at most {total}")
        found = sampler_for(sampler, model, total)
        return found, chain_levels(model, total, "linspace", "data", found)[-length - 1 :]

    @property
    def description(self) -> dict[str, str]:
        """What was measured, in words."""
        described = {
            "measure": self.extractor.measure,
            "features": self.extractor.identity,
            "data": " ".join(filter(None, (self.data.name, self.data.split))),
            "data_hash": self.data.hash,
            "n": str(self.n),
            "start": self.start,
            "grid": self.grid,
            "clip": CLIP_CONVENTIONS[self.clip],
            "quantised": "uint8, cut as guided-diffusion does" if self.quantise else "no",
            "seed": str(self.seed),
        }
        return described | ({"note": self.extractor.note} if self.extractor.note else {})

    def target(self, reference: str | os.PathLike[str] | None) -> _Target:
        """The real images, and the statistics in a file if there is one."""
        real = self._real(self.data, np.arange(len(self.data)))
        if reference is None:
            return _Target(f"{len(self.data)} images", real)
        about = {"features": self.extractor.identity, "image_shape": list(self.data.shape)}
        return _Target(Path(reference).name, real, sets.read_statistics(reference, real.pool.dimension, about))

    def floor(self, target: _Target, real: Any) -> tuple[xr.Dataset, int]:
        """Real images against real images, and how many: `real`, or the other split, or one half against the other."""
        if real is None and self.data.name in BUNDLED and self.data.split in SPLITS:
            real = load_data(self.data.name, SPLITS[1 - SPLITS.index(self.data.split)])
        if real is not None:
            other = load_data(real)
            if other.shape != self.data.shape:
                raise InputError(
                    f"the floor's images are {other.shape}, the data's {self.data.shape}: give images alike"
                )
            n = min(self.n, len(other))
            return target.compare(self._real(other, np.arange(n))), n
        ids = np.arange(len(self.data))
        n = min(self.n, len(ids) // 2)
        if n < 2:
            raise InputError(f"a floor needs two halves of at least 2 images, but the data has {len(ids)}: give more")
        halves = [_subset(target.real, half) for half in (ids[::2], ids[1::2][:n])]
        return _Target(target.name, halves[0]).compare(halves[1]), n

    def sample(
        self, model: Denoiser, sampler: AnySampler, levels: tuple[Level, ...], bar: Any
    ) -> tuple[Features, Array]:
        """Features of n generated images, and Σ (x̂_0 − x_0)²/d by sample for start="data" (else NaN)."""
        square = np.full(self.n, np.nan)

        def batches() -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
            for first in range(0, self.n, self.batch_size):
                ids = np.arange(first, min(first + self.batch_size, self.n))
                images = ids % len(self.data)
                one = model.given(self.data.labels_of(images))
                epsilon = Noise(self.seed, "start", ids.tolist(), model.shape, model.device)(0)
                if self.start == "data":
                    x0 = torch.from_numpy(self.data.batch(images)).to(model.device, torch.float64)
                    x = noised(x0, levels[0], epsilon)
                else:
                    x = prior(model, levels[0], epsilon, sampler)
                noise = Noise(self.seed, "chain", ids.tolist(), model.shape, model.device)
                x = rollout(one, x, levels, sampler, noise, self.clip)
                if self.start == "data":
                    square[ids] = (x - x0).square().mean((1, 2, 3)).cpu().numpy()
                bar.update(len(ids) * (len(levels) - 1))
                yield (
                    quantised(x) if self.quantise else (x.float() + 1) * 127.5,
                    images if self.start == "data" else ids,
                )

        return extract(self.extractor, batches()), square

    def _real(self, data: Data, ids: NDArray[np.int64]) -> Features:
        return extract_real(self.extractor, data, ids, self.quantise, self.batch_size)


def _cell(
    run: _Run,
    model: Denoiser,
    sampler: Any,
    length: int,
    target: _Target,
    folder: str | os.PathLike[str] | None,
    bar: Any,
) -> xr.Dataset:
    """One point of a curve: read from the folder if it is there, else measured and kept."""
    sampler, levels = run.chain(model, sampler, length)
    settings: dict[str, Any] = {
        **run.description,
        "model": [model.name, model.weight_hash, model.prediction_type, model.classes, model.guidance],
        "labels": None if model.classes is None else run.data.label_hash,
        "sampler": str(sampler),
        "levels": [list(level) for level in levels],
        "reference": target.name if target.normals is None else [target.name, target.identity],
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    path = None if folder is None else Path(folder) / f"{length}-{digest}.nc"
    if path is not None:
        settings[PROBE] = probe(model)
    if path is not None and path.exists():
        tree, provenance = files.read_tree(path)
        refuse_differences(provenance["run"], settings, f"{path} belongs to another run (choose another folder)")
        bar.update(run.n * length)
        return tree.to_dataset().drop_vars("probe", errors="ignore")  # earlier files kept it among the data
    generated, square = run.sample(model, sampler, levels, bar)
    result = target.compare(generated)
    if run.start == "data":
        group = generated.pool.ids % GROUPS
        sums = np.bincount(group, square, GROUPS).astype(np.float64)
        result["rmse"], result["rmse_se"] = jackknife(lambda n, total: np.sqrt(total / n), generated.pool.count, sums)
    if path is not None:
        files.write_tree(path, xr.DataTree(result), {"kind": KIND, "run": settings})
    return result


def _estimates(curve: xr.Dataset) -> xr.Dataset:
    """The values and errors that the numbers of the jackknife give, beside them."""
    for name in ("frechet", "spatial_frechet", "kid"):
        if f"{name}_jackknife" not in curve:
            continue
        numbers = curve[f"{name}_jackknife"].transpose(..., "deleted")
        curve[name], curve[f"{name}_se"] = numbers.isel(deleted=0), (numbers.dims[:-1], corrected(numbers.values)[1])
        if name == "kid":
            continue
        _with_errors(curve, f"{name}_corrected", numbers)
        if "length" in numbers.dims:
            before = numbers.shift(length=1)
            _with_errors(curve, "change" if name == "frechet" else f"{name}_change", numbers - before)
        if numbers.sizes.get("model", 1) > 1:
            first = "against_first" if name == "frechet" else f"{name}_against_first"
            _with_errors(curve, first, numbers - numbers.isel(model=0, drop=True))
    return curve


def _with_errors(curve: xr.Dataset, name: str, numbers: xr.DataArray) -> None:
    value, error = corrected(numbers.values)
    curve[name], curve[f"{name}_se"] = (numbers.dims[:-1], value), (numbers.dims[:-1], error)


def _lengths(lengths: Sequence[int]) -> tuple[int, ...]:
    wrong = [length for length in lengths if length < 1 or length != int(length)]
    if wrong or not lengths or len(set(lengths)) < len(lengths):
        came = ", ".join(map(str, wrong or lengths)) or "none"
        raise InputError(f"lengths must be different whole numbers of at least 1, got {came}")
    return tuple(sorted(int(length) for length in lengths))


def _distinct(name: str, taken: Sequence[str]) -> str:
    return name if name not in taken else f"{name} ({len(taken) + 1})"


def _subset(features: Features, rows: NDArray[np.int64]) -> Features:
    """Features of some rows, numbered afresh, so that both halves of the data have all groups."""
    ids = np.arange(len(rows))
    pool, spatial = features
    part = None if spatial is None else FeatureSet(spatial.features[rows], ids)
    return Features(FeatureSet(pool.features[rows], ids), part)
