"""Quality against chain length T′.

"Ideally, the more steps the better", yet FID rises again, the talk says.

For every model, sampler and length, n samples are drawn, quantised as samples are saved, and
compared with real images: Fréchet distance, KID, precision and recall (`fidelity`). Sample i walks
on one Brownian path in every model and at every length, so that a difference is known better than
either value. Real against real images gives the noise floor.

- start = "noise": x̂_0 from N(0, I) in T′ steps (Nichol & Dhariwal 2021, Fig. 11; Ning et al. 2023,
  Tab. 3).
- start = "data", the reconstruction curve: x_0 noised to the T′-th noise level, the chain of T′
  steps from there, and the set of x̂_0 against the set of x_0; as many steps as levels.

With limit=True the distance of the model's limit, FID∞, stands beside the curve: that of the same
network on the same paths with steps that shrink to nothing (`experiments.limits`), from where the
longest chain starts. Then FID(T′) − FID∞ is the solver's doing, and FID∞ less the floor the
network's and the start's.

Sample i of a class-conditional model has the label of image i mod N.
"""

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias import files
from exposure_bias.adapters.schedulers import sampler_for
from exposure_bias.data import SPLITS, Data, bundled, load_data
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError, is_whole, whole_number
from exposure_bias.experiments.bench import Limit
from exposure_bias.experiments.chain_errors import points
from exposure_bias.experiments.kinds.chain_length_fid import CHAIN_LENGTH_FID, SPEED_UP
from exposure_bias.experiments.limits import FACTORS, WEIGHTS
from exposure_bias.experiments.split import CHECK, SLACK_SHARE
from exposure_bias.fidelity import sets
from exposure_bias.fidelity.features import (
    Extractor,
    Features,
    extract_real,
    extracted,
    extractor,
    quantised,
)
from exposure_bias.fidelity.frechet import Normal
from exposure_bias.fidelity.manifold import NEIGHBOURS
from exposure_bias.fidelity.sets import FeatureSet
from exposure_bias.jackknife import (
    DELETED,
    Groups,
    corrected,
    jackknife,
    sums_by_group,
    with_estimates,
)
from exposure_bias.results import load_result, returns, save
from exposure_bias.run import Run
from exposure_bias.running import parallel
from exposure_bias.running.loop import SumsLedger, batches, write
from exposure_bias.running.setup import Setup, made, placed, prepare, with_options
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.streams import noised, prior, rollout

Array = NDArray[np.float64]

LENGTHS = (10, 20, 50, 100, 300)
DEFAULT_SAMPLES = 1024
KIND = "chain-fid"


@returns(CHAIN_LENGTH_FID)
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
    timestep_spacing: str | None = None,
    clip: Any = False,
    quantise: bool | None = None,
    real: Any = None,
    reference: str | os.PathLike[str] | None = None,
    weights: str | os.PathLike[str] | None = None,
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
    device: str | None = None,
    limit: bool = False,
) -> xr.Dataset:
    """How close n samples come to real images, by chain length.

    model: what `adapt` takes, or a sequence of it. data: the real images compared with, what
    `load_data` takes. lengths: numbers of steps T′ ≤ T. features: see `fidelity.features`; only
    "inception" gives FID. sampler: one or several, as in `record`. n: by default the data's, at
    most 1024; literature uses 50,000. start: "noise" or "data", see the module docstring. grid,
    clip, seed, batch_size: as in `record`. quantise: to 8 bits before features, by default unless
    the data were loaded with value_range=None. real: other real images for the floor; by default
    the other split of bundled data, otherwise the data is halved. reference: an .npz of statistics
    as guided-diffusion writes them; the Fréchet distances are then to these. weights: of Inception.
    checkpoint: a folder that keeps every finished (model, sampler, length); the same call goes on
    from there. device: where to move the models, by default they stay where they are. limit:
    measure each model's limit too, which takes about 150 network evaluations a sample.

    Returns, over (model, sampler, length), the first two only where a sequence was given: frechet
    (plug-in, what the literature prints, biased upwards), frechet_corrected (by jackknife), kid,
    precision, recall, with `_se`; for Inception spatial_frechet (sFID); for start="data" rmse, of
    x̂_0 − x_0 in the data's units. change: frechet_corrected minus that of the length before.
    against_first: minus that of the first model. floor_…: the same of real against real images.
    With limit: limit, frechet_corrected of the model's limit, over (model, sampler), and
    discretisation, frechet_corrected minus it, paired; limit_steps, the steps of its finest chain,
    and limit_bias with `_se`, the extrapolation's estimated error.
    frechet_jackknife: the numbers behind (`jackknife.deletions`). Values are NaN, and the attribute
    `no_interval` says why, where the samples are too few.

    Raises InputError for lengths above T, images that do not fit, features that do not suit, and
    whatever else.
    """
    models = list(model) if isinstance(model, list | tuple) else [model]
    chosen = list(sampler) if isinstance(sampler, list | tuple) else [sampler]
    if not models or not chosen:
        raise InputError("there is no model or no sampler to measure: give at least one")
    denoiser = placed(models[0], device)
    data = load_data(data).fitted(denoiser.shape)
    gallery = _Gallery(
        data=data,
        extractor=extractor(features, data.shape, weights, denoiser.device),
        n=min(len(data), DEFAULT_SAMPLES) if n is None else n,
        start=start,
        quantise=data.value_range is not None if quantise is None else quantise,
        batch_size=batch_size,
        options={"grid": grid, "timestep_spacing": timestep_spacing, "clip": clip, "seed": seed},
    )
    lengths = _lengths(lengths)

    def planned(denoiser: Denoiser) -> list[list[Setup]]:
        return [[gallery.setup(denoiser, one, length) for length in lengths] for one in chosen]

    setups = planned(denoiser)  # what does not fit is said before anything runs
    samplers = [row[0].run.sampler for row in setups]
    if len(set(samplers)) < len(samplers):
        raise InputError(f"samplers must be different, got {', '.join(samplers)}: give each once")
    target = gallery.target(reference)
    floor, floor_n = gallery.floor(target, real)
    rows, names = [], []
    limits: dict[str, xr.Dataset] = {}
    for k, one in enumerate(models):
        setups = planned(placed(one, device)) if k else setups
        names.append(setups[0][0].model.name)
        cells = [[_cell(gallery, setup, target, checkpoint) for setup in row] for row in setups]
        curves = [xr.concat(row, "length") for row in cells]
        if limit:
            curves = [
                c.merge(_limit(gallery, row, target, checkpoint, limits))
                for c, row in zip(curves, setups, strict=True)
            ]
        rows.append(xr.concat(curves, "sampler"))
    curve = xr.concat(rows, "model", combine_attrs="drop_conflicts")
    curve = curve.assign_coords(
        model=_distinct(names),
        sampler=[row[0].run.sampler for row in setups],
        length=list(lengths),
    )
    floor = _estimates(floor)
    curve = _estimates(curve).merge(
        floor.rename({name: f"floor_{name}" for name in floor.data_vars})
    )
    curve["floor_n"] = floor_n
    described = gallery.describe(setups[-1][-1])
    curve.attrs = (
        described | {"reference": target.name} | {k: v for k, v in rows[0].attrs.items() if v}
    )
    single = {
        "model": not isinstance(model, list | tuple),
        "sampler": not isinstance(sampler, list | tuple),
    }
    return curve.isel({dim: 0 for dim, alone in single.items() if alone})


def fid_by_iteration(
    folder: str | os.PathLike[str], data: Any, lengths: Sequence[int] = (100,), **options: Any
) -> xr.Dataset:
    """`chain_length_fid` of every checkpoint in a folder, over (iteration, …): the talk's Fig. 3.

    A checkpoint is an entry of the folder that `load_model` reads and whose name ends in its
    iteration, such as `step-20000` or `ema_0.9999_120000.pt`. options: as in `chain_length_fid`,
    which refuses those it does not know.

    Raises InputError for a folder without checkpoints.
    """
    found = checkpoints(folder)
    curve = chain_length_fid(list(found.values()), data, lengths, **options)
    return by_iteration(curve, list(found))


def by_iteration(curve: xr.Dataset, iterations: Sequence[int]) -> xr.Dataset:
    """The curves of several checkpoints of one training, by iteration."""
    plain = curve.drop_vars(["against_first", "against_first_se"], errors="ignore")
    return plain.rename(model="iteration").assign_coords(iteration=list(iterations))


def checkpoints(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """The entries of a folder by iteration, which is the last number of the name.

    Hidden and unnumbered ones are not among them.

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
                f"{found[int(numbers[-1])].name} and {path.name} in {folder} are of one iteration:"
                " keep one"
            )
        found[int(numbers[-1])] = path
    if not found:
        raise InputError(
            f"{folder} holds no checkpoint: its entries must be named by their iteration, like"
            " step-20000"
        )
    return dict(sorted(found.items()))


@returns(SPEED_UP)
def speed_up(
    candidate: xr.Dataset, baseline: xr.Dataset, along: str = "iteration", measure: str = "frechet"
) -> xr.Dataset:
    """How much sooner a candidate reaches the baseline's best value: the talk's Table 4.

    candidate, baseline: curves with the dimension `along`, "iteration" or "length". Returns best
    (the baseline's least value), baseline_at (where it has it), candidate_at (the first place where
    the candidate is as low, NaN if nowhere) and factor = baseline_at / candidate_at. Point values:
    read them with the curves' intervals.
    """
    for curve in (candidate, baseline):
        if along not in curve.dims or measure not in curve:
            raise InputError(
                f"the curves need {measure} along {along!r}: they have dimensions"
                f" {', '.join(map(str, curve.dims))}"
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


def save_curve(curve: xr.Dataset, path: str | os.PathLike[str]) -> None:
    """Write the result of `chain_length_fid` to one file, atomically."""
    save(curve, path, made())


def load_curve(path: str | os.PathLike[str]) -> xr.Dataset:
    """Read what `save_curve` wrote.

    Raises InputError if it is missing, corrupt or something else.
    """
    return load_result(path, CHAIN_LENGTH_FID.name)


@dataclass(frozen=True)
class _Target:
    """What generated images are compared with.

    Features of real images, and perhaps statistics from a file.
    """

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
        pool, spatial = (
            (self.real.pool, self.real.spatial) if self.normals is None else self.normals
        )
        values, reason = sets.frechet_values(other.pool, pool)
        result = xr.Dataset(
            {"frechet_jackknife": ("deleted", values)}, attrs={"no_interval": reason}
        )
        if other.spatial is not None and spatial is not None:
            result["spatial_frechet_jackknife"] = (
                "deleted",
                sets.frechet_values(other.spatial, spatial)[0],
            )
        result["kid_jackknife"] = ("deleted", sets.kid_values(other.pool, self.real.pool)[0])
        if min(len(other.pool), len(self.real.pool)) > NEIGHBOURS:
            for name, pair in zip(
                ("precision", "recall"),
                sets.precision_recall(other.pool, self.real.pool),
                strict=True,
            ):
                result[name], result[f"{name}_se"] = pair
        return result


@dataclass(frozen=True)
class _Gallery:
    """What all models, samplers and lengths have in common.

    options: the chain's, as `prepare` takes them.
    """

    data: Data
    extractor: Extractor
    n: int
    start: str
    quantise: bool
    batch_size: int
    options: dict[str, Any]

    def __post_init__(self) -> None:
        whole_number(self.n, "n, the number of samples,")
        whole_number(self.batch_size, "batch_size")
        if self.start not in ("noise", "data"):
            raise InputError(f"unknown start {self.start!r}: allowed are noise and data")
        if self.n < 2:
            raise InputError(f"a distribution needs at least 2 samples, got n={self.n}: give more")
        if self.quantise and self.data.value_range is None:
            raise InputError(
                "images loaded with value_range=None cannot be quantised: pass quantise=False"
            )

    def setup(self, model: Denoiser, sampler: Any, length: int) -> Setup:
        """The chain of one model, sampler and length.

        Raises InputError for a length above T, or an unknown sampler.
        """
        # Chains from noise take nothing of the data but labels, so that images may recur in
        # silence.
        n = self.n if self.start == "data" else min(self.n, len(self.data))
        common: dict[str, Any] = {
            **self.options,
            "kind": KIND,
            "n": n,
            "batch_size": self.batch_size,
        }
        if self.start == "noise":
            setup = prepare(
                model, self.data, sampler=sampler, steps=length, start="noise", **common
            )
        else:
            total = points(model)
            if length > total:
                raise InputError(
                    f"length {length} was asked of a schedule of {total} levels: use at most"
                    f" {total}"
                )
            levels = sampler_for(sampler, model, total).levels(model.schedule, total, "linspace")
            begin = levels[-length - 1].timestep
            setup = prepare(model, self.data, sampler=sampler, steps=total, start=begin, **common)
        return replace(setup, n=self.n)

    def against(self, setup: Setup, target: "_Target") -> Setup:
        """The setup, whose run says what its images are compared with, and how."""
        reference = [target.name, target.identity]
        about = {
            "features": self.extractor.identity,
            "quantised": self.quantise,
            "reference": reference,
        }
        return with_options(setup, about)

    def describe(self, setup: Setup) -> dict[str, str]:
        """What was measured, in words."""
        known = setup.run.describe()
        described = {
            "measure": self.extractor.measure,
            "features": self.extractor.identity,
            "data": known["data"],
            "data_hash": self.data.hash,
            "n": str(self.n),
            "start": self.start,
            "timestep_spacing": known["timestep_spacing"],
            "clip": known["clip"],
            "quantised": "uint8, cut as guided-diffusion does" if self.quantise else "no",
            "seed": known["seed"],
        }
        return described | ({"note": self.extractor.note} if self.extractor.note else {})

    def target(self, reference: str | os.PathLike[str] | None) -> "_Target":
        """The real images, and the statistics in a file if there is one."""
        real = self._real(self.data, np.arange(len(self.data)))
        if reference is None:
            return _Target(f"{len(self.data)} images", real)
        about = {"features": self.extractor.identity, "image_shape": list(self.data.shape)}
        return _Target(
            Path(reference).name, real, sets.read_statistics(reference, real.pool.dimension, about)
        )

    def floor(self, target: "_Target", real: Any) -> tuple[xr.Dataset, int]:
        """Real images against real images, and how many.

        `real`, or the other split, or one half against the other.
        """
        if real is None and self.data.name in bundled.DATA and self.data.split in SPLITS:
            real = load_data(self.data.name, SPLITS[1 - SPLITS.index(self.data.split)])
        if real is not None:
            other = load_data(real).fitted(self.data.shape)
            if other.shape != self.data.shape:
                raise InputError(
                    f"the floor's images are {other.shape}, the data's {self.data.shape}: give"
                    " images alike"
                )
            n = min(self.n, len(other))
            features = self._real(other, np.arange(n))
            return parallel.once(lambda: target.compare(features)), n
        ids = np.arange(len(self.data))
        n = min(self.n, len(ids) // 2)
        if n < 2:
            raise InputError(
                f"a floor needs two halves of at least 2 images, but the data has {len(ids)}: give"
                " more"
            )
        halves = [_subset(target.real, half) for half in (ids[::2], ids[1::2][:n])]
        return parallel.once(lambda: _Target(target.name, halves[0]).compare(halves[1])), n

    def _real(self, data: Data, ids: NDArray[np.int64]) -> Features:
        return extract_real(self.extractor, data, ids, self.quantise, self.batch_size)


class _Walk(Sums):
    """Features of the images at the ends of chains, kept by sample.

    For paired chains also Σ (x̂_0 − x_0)²/d.
    """

    def __init__(self, gallery: _Gallery, setup: Setup, real: Features) -> None:
        super().__init__()
        self.gallery, self.setup = gallery, setup
        for name, part in zip(("pool", "spatial"), real, strict=True):
            if part is not None:
                self.add_rows(name, setup.n, feature=part.features.shape[1])
        self.add_rows("square", setup.n)

    def add(self, rows: slice) -> None:
        """Walk a batch's chains to their ends and keep the features of those."""
        setup, levels = self.setup, self.setup.levels
        batch = setup.samples(rows)
        path = setup.path(batch.ids)
        epsilon = path.start(0)
        x = (
            noised(batch.x0, levels[0], epsilon)
            if setup.run.paired
            else prior(levels[0], epsilon, setup.sampler)
        )
        x = rollout(setup.conditioned(batch.images), x, levels, setup.sampler, path, setup.clip)
        images = quantised(x) if self.gallery.quantise else (x.float() + 1) * 127.5
        for name, part in zip(
            ("pool", "spatial"), extracted(self.gallery.extractor, images), strict=True
        ):
            if part is not None:
                self.state[name][rows] = part
        if setup.run.paired:
            square = (x - batch.x0).square().flatten(1).mean(1)
            self.state["square"][rows] = square.cpu().numpy()

    def features(self) -> Features:
        """The features of all samples.

        Samples of one image are deleted together where chains are paired with images.
        """
        setup = self.setup
        ids = setup.ids % len(setup.data) if setup.run.paired else setup.ids
        spatial = self.state.get("spatial")
        return Features(
            FeatureSet(self.state["pool"], ids),
            None if spatial is None else FeatureSet(spatial, ids),
        )


def _cell(
    gallery: _Gallery, setup: Setup, target: "_Target", folder: str | os.PathLike[str] | None
) -> xr.Dataset:
    """One point of a curve: read from the folder if it is there, else measured and kept."""
    setup = gallery.against(setup, target)
    done, part = _paths(setup, folder)
    known = None if done is None else parallel.once(lambda: _known(done, setup))
    if known is not None:
        return known
    walk = _Walk(gallery, setup, target.real)
    ledger, steps = SumsLedger(walk), setup.run.steps
    with batches(
        setup, ledger, size=gallery.batch_size, evaluations=steps, checkpoint=part
    ) as turns:
        for turn in turns:
            walk.add(turn.rows)
            turn.report((turn.rows.stop - turn.rows.start) * steps)
    generated = walk.features()
    result = parallel.once(lambda: target.compare(generated))
    if setup.run.paired:
        ids = generated.pool.ids
        square = sums_by_group(walk.state["square"].astype(np.float64), ids)
        rmse = jackknife(lambda n, total: np.sqrt(total / n), Groups(ids).count, square)
        result = with_estimates(result, (), rmse=rmse)
    if done is not None and part is not None:
        parallel.once(lambda: _keep(done, part, setup, result, gallery.batch_size))
    return result


def _known(done: Path, setup: Setup) -> xr.Dataset | None:
    """A point that was measured before, if it was."""
    if not done.exists():
        return None
    tree, known = files.read_tree(done)
    what = f"{done} belongs to another run (choose another folder)"
    Run.from_json(known.get("run")).refuse_differences(setup.run, what)
    point = tree.to_dataset()
    odd = [
        name
        for name, values in point.variables.items()
        if values.shape not in ((), (len(DELETED),)) or values.dtype.kind != "f"
    ]
    if odd or not {"frechet_jackknife", "kid_jackknife"} <= set(point.data_vars):
        raise InputError(f"{done} is no point of a curve: remove it, and it is measured again")
    return point


def _keep(done: Path, part: Path, setup: Setup, result: xr.Dataset, size: int) -> None:
    """Keep a point, in place of the features that it was made of."""
    write(done, setup, xr.DataTree(result), np.arange(setup.n), size)
    part.unlink(missing_ok=True)


def _limit(
    gallery: _Gallery,
    setups: Sequence[Setup],
    target: "_Target",
    folder: str | os.PathLike[str] | None,
    known: dict[str, xr.Dataset],
) -> xr.Dataset:
    """The numbers of the jackknife at a model's limit, and of the extrapolation's error.

    known: those of limits that were measured already, to which this one is added. NaN where there
    is none."""
    numbers, bias, steps = np.full(len(DELETED), np.nan), np.full(len(DELETED), np.nan), 0
    setup, key = max(setups, key=lambda s: s.run.steps), "none"
    if setup.sampler.limit is not None:
        limit = Limit.of(setup, gallery.batch_size)
        key = f"{limit.setup.sampler}-{limit.name}"
    if key in known:
        return known[key]
    if setup.sampler.limit is not None:
        chains = [limit.chain_setup(factor, to_clean=True) for factor in FACTORS]
        each = np.stack(
            [_cell(gallery, chain, target, folder)["frechet_jackknife"].values for chain in chains]
        )
        numbers, bias = WEIGHTS @ each, SLACK_SHARE * (CHECK @ each)
        steps = limit.steps
    dims = ("deleted",)
    known[key] = xr.Dataset(
        {
            "limit_jackknife": (dims, numbers),
            "limit_bias_jackknife": (dims, bias),
            "limit_steps": steps,
        }
    )
    return known[key]


def _paths(setup: Setup, folder: str | os.PathLike[str] | None) -> tuple[Path | None, Path | None]:
    """Where a point is kept, and while it is measured the features so far."""
    if folder is None:
        return None, None
    name = f"{setup.run.steps}-{setup.run.digest}-{setup.n}"
    return Path(folder) / f"{name}.nc", Path(folder) / f"{name}.part.nc"


def _estimates(curve: xr.Dataset) -> xr.Dataset:
    """The values and errors that the numbers of the jackknife give, beside them."""
    for name in ("frechet", "spatial_frechet", "kid"):
        if f"{name}_jackknife" not in curve:
            continue
        numbers = curve[f"{name}_jackknife"].transpose(..., "deleted")
        curve[name], curve[f"{name}_se"] = (
            numbers.isel(deleted=0),
            (numbers.dims[:-1], corrected(numbers.values)[1]),
        )
        if name == "kid":
            continue
        _with_errors(curve, f"{name}_corrected", numbers, distance=True)
        if name == "frechet" and "limit_jackknife" in curve:
            ideal = curve["limit_jackknife"].transpose(..., "deleted")
            _with_errors(curve, "limit", ideal, distance=True)
            _with_errors(curve, "discretisation", numbers - ideal)
            _with_errors(
                curve, "limit_bias", curve["limit_bias_jackknife"].transpose(..., "deleted")
            )
        if "length" in numbers.dims:
            before = numbers.shift(length=1)
            _with_errors(
                curve, "change" if name == "frechet" else f"{name}_change", numbers - before
            )
        if numbers.sizes.get("model", 1) > 1:
            first = "against_first" if name == "frechet" else f"{name}_against_first"
            _with_errors(curve, first, numbers - numbers.isel(model=0, drop=True))
    return curve


def _with_errors(
    curve: xr.Dataset, name: str, numbers: xr.DataArray, distance: bool = False
) -> None:
    value, error = corrected(numbers.values, distance)
    curve[name], curve[f"{name}_se"] = (numbers.dims[:-1], value), (numbers.dims[:-1], error)


def _lengths(lengths: Sequence[int]) -> tuple[int, ...]:
    wrong = [length for length in lengths if not is_whole(length) or length < 1]
    if wrong or not lengths or len(set(lengths)) < len(lengths):
        came = ", ".join(map(str, wrong or lengths)) or "none"
        raise InputError(f"lengths must be different whole numbers of at least 1, got {came}")
    return tuple(sorted(int(length) for length in lengths))


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where one occurs again."""
    return [name if name not in names[:k] else f"{name} ({k + 1})" for k, name in enumerate(names)]


def _subset(features: Features, rows: NDArray[np.int64]) -> Features:
    """Features of some rows, numbered afresh, so that both halves of the data have all groups."""
    ids = np.arange(len(rows))
    pool, spatial = features
    part = None if spatial is None else FeatureSet(spatial.features[rows], ids)
    return Features(FeatureSet(pool.features[rows], ids), part)
