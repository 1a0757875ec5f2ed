"""`record`: run the streams of a model on data and keep their statistics."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.checking import check_arguments
from exposure_bias.diagnostics.denoising import warn_unless_denoises
from exposure_bias.errors import InputError, whole_number
from exposure_bias.oracles import Teacher
from exposure_bias.recording import RECORDING, Recording
from exposure_bias.run import Stream
from exposure_bias.running.decoding import with_pictures
from exposure_bias.running.loop import batches
from exposure_bias.running.parallel import team
from exposure_bias.running.setup import MEMORY, Samples, Setup, made, prepare
from exposure_bias.statistics.accumulator import Sums
from exposure_bias.statistics.bands import spectrum_bands
from exposure_bias.statistics.collector import Collector, Layout, Statistic, Subjects
from exposure_bias.statistics.kept import KEEP
from exposure_bias.streams import Step, chain, forward, noised, prior


def record(
    model: Any,
    data: Any,
    *,
    sampler: Any = "ddpm",
    steps: int = 100,
    n: int | None = None,
    start: str | float = "data",
    grid: str = "linspace",
    timestep_spacing: str | None = None,
    levels: Any = None,
    refine: int = 1,
    clip: Any = False,
    streams: Sequence[str] = ("forward", "chain"),
    seed: int = 0,
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
    first: int = 0,
    spectra: Sequence[str] = (),
    statistics: Sequence[Statistic] = (),
    memory: int = MEMORY,
    keep: int = KEEP,
) -> Recording:
    """Run a model's forward and chain streams on data and record their statistics.

    model: a `Denoiser`, or what `adapt` takes. data: `Data`, or what `load_data` takes; (N,
    *shape).
    sampler: see `samplers`, or for diffusers' schedulers, by class name or as objects,
    `adapters.schedulers`. steps: chain length T′. n: number of samples, by default the data's, at
    most 1024.
    start: "data" starts sample i at α_T x_0 + σ_T ε with x_0 = image i; "noise" at N(0, I); a
    timestep of the grid starts on data at that level. timestep_spacing: see `Schedule.levels`; grid
    is its older name. levels: a list of timesteps, or of sigmas as {"sigmas": [...]}, noisiest
    first, in place of steps and spacing (`levels`).
    refine: this many steps in place of each, recorded at the levels of the unrefined chain
    (`Schedule.refined`). clip: see `clipping`. streams: any of forward, chain, teacher. seed: of
    all noise; a sample's noise is one Brownian path (`paths`), which depends on the seed and its
    own number alone.
    checkpoint: a path; the run is saved there as it goes, and the same call continues a run that
    was killed; in the end it is the recording's file. first: the first sample's number, for
    recordings that are to be merged; sample i uses image i mod N. spectra: bases besides the
    default ones in which the states' power is kept (`statistics.bands`). statistics: strangers'
    accumulators, see `statistics.accumulator.Accumulator` and docs/extending.md. keep: the samples
    numbered below this are kept as they are at up to 12 levels, for pictures (`statistics.kept`);
    of large states fewer.

    At most 100 noisy levels are recorded, evenly spread over the steps, the first and the clean end
    always; of large states only as many as `memory` bytes hold the moments by pixel of.

    A model that does not denoise the data (`denoising_check`) is recorded with a warning.

    Raises InputError for whatever does not fit: shapes, names, numbers, a network that returns NaN,
    a checkpoint of another run."""
    check_arguments(record, locals())
    chosen = _streams(streams)
    spectra = sorted(set(spectra))
    setup = prepare(
        model,
        data,
        kind=RECORDING,
        sampler=sampler,
        steps=steps,
        n=n,
        start=start,
        grid=grid,
        timestep_spacing=timestep_spacing,
        levels=levels,
        refine=refine,
        clip=clip,
        seed=seed,
        batch_size=batch_size,
        first=first,
        streams=chosen,
        options=_options(statistics, whole_number(keep, "keep, the number of samples kept,", 0)),
        spectra=[basis for basis in spectra if basis != "dct"],
        memory=memory,
    )
    for basis in setup.run.spectra:
        spectrum_bands(basis, setup.model.shape)
    if Stream.TEACHER in chosen and not setup.run.paired:
        raise InputError(
            "a teacher chain is paired with the chain of its own x_0, but start='noise' pairs"
            " nothing: use start='data' or leave teacher out of streams"
        )
    return warn_unless_denoises(recorded(setup, statistics, batch_size, checkpoint))


def recorded(
    setup: Setup,
    statistics: Sequence[Statistic] = (),
    batch_size: int = 256,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Recording:
    """The recording of a setup whose run is one."""
    ledger = _Ledger(setup, statistics)
    evaluations = ledger.evaluations
    with batches(
        setup, ledger, size=batch_size, evaluations=evaluations, checkpoint=checkpoint
    ) as turns:
        for turn in turns:
            batch = setup.samples(turn.rows)
            subjects = Subjects(batch.rows, batch.images, batch.x0, setup.law)
            for name, step in _steps(setup, batch, ledger.kept):
                ledger.collectors[name].update(step, subjects)
                # Some chains ask the network inside their steps (`samplers.Steps`).
                inside = name == "chain" and step.index < setup.run.steps
                asked = step.prediction is not None or inside
                turn.report(len(batch.ids) if asked else 0)
    how = made(batch_size=batch_size, device=str(setup.model.device), processes=team().size)
    return Recording(ledger.datasets(np.arange(setup.n)), setup.run, setup.n, how)


def _options(statistics: Sequence[Statistic], keep: int) -> dict[str, Any]:
    """What only this kind of run has, as far as it is not the default."""
    named = {"statistics": [_named(s) for s in statistics]} if statistics else {}
    return named | ({} if keep == KEEP else {"keep": keep})


def _streams(streams: Sequence[str]) -> tuple[Stream, ...]:
    known = [s.value for s in Stream]
    unknown = [s for s in streams if s not in known] if not isinstance(streams, str) else [streams]
    if unknown or not streams:
        raise InputError(
            f"streams are any of {', '.join(known)}, got {', '.join(map(str, unknown)) or 'none'}"
        )
    return tuple(sorted({Stream(s) for s in streams}))


def _named(statistic: Statistic) -> str:
    name = getattr(statistic, "__qualname__", type(statistic).__name__)
    return f"{getattr(statistic, '__module__', '')}:{name}"


class _Ledger:
    """A collector for each stream and one for the images themselves."""

    def __init__(self, setup: Setup, statistics: Sequence[Statistic]) -> None:
        self.setup, run = setup, setup.run
        self.pictures: dict[str, xr.Dataset] | None = None
        self.kept = setup.kept
        levels = [run.levels[i] for i in self.kept]
        self.collectors = {
            "data": self._collector("data", [0], [setup.model.schedule.clean], statistics)
        }
        for stream in run.streams:
            self.collectors[stream.value] = self._collector(
                stream.value, self.kept, levels, statistics
            )

    def _collector(
        self, name: str, kept: list[int], levels: Sequence[Any], statistics: Sequence[Statistic]
    ) -> Collector:
        setup, run = self.setup, self.setup.run
        layout = Layout(
            name,
            len(kept),
            setup.n,
            setup.law,
            run.paired and not setup.light,
            run.seed,
            setup.light,
            setup.first,
            0 if setup.light else run.options.get("keep", KEEP),
        )
        return Collector(layout, kept, levels, run.spectra, statistics)

    @property
    def evaluations(self) -> int:
        """Network evaluations that one sample takes."""
        streams = self.setup.run.streams
        asked = sum(level.sigma > 0 for level in (self.setup.levels[i] for i in self.kept))
        return (Stream.FORWARD in streams) * asked + (
            Stream.CHAIN in streams
        ) * self.setup.run.steps

    @property
    def parts(self) -> list[Sums]:
        return [a for collector in self.collectors.values() for a in collector.accumulators]

    def datasets(self, rows: NDArray[np.int64]) -> dict[str, xr.Dataset]:
        """Every stream's dataset of the samples in these rows."""
        ids = self.setup.ids[rows]
        images = ids % len(self.setup.data)
        datasets = {name: c.to_dataset(ids, images, rows) for name, c in self.collectors.items()}
        datasets["data"] = datasets["data"].merge(self.setup.law.to_dataset())
        decode = self.setup.data.decode
        if decode is None or len(rows) < self.setup.n:  # not of what is only on its way
            return datasets
        if self.pictures is None:
            pictured = with_pictures(datasets, decode, self.setup.first, self.setup.n)
            self.pictures = {
                name: stream[[v for v in stream if str(v).startswith("picture_")]]
                for name, stream in pictured.items()
            }
        return {name: stream.merge(self.pictures[name]) for name, stream in datasets.items()}

    def to_tree(self, rows: NDArray[np.int64]) -> xr.DataTree:
        return xr.DataTree.from_dict({f"/{name}": d for name, d in self.datasets(rows).items()})

    def restore(self, tree: xr.DataTree, rows: NDArray[np.int64]) -> None:
        for name, collector in self.collectors.items():
            if name not in tree.children:
                raise InputError(f"the checkpoint has no {name} stream: start afresh elsewhere")
            collector.restore(tree.children[name].to_dataset(inherit=False), rows)


def _steps(setup: Setup, batch: Samples, kept: Sequence[int]) -> Iterator[tuple[str, Step]]:
    """Every step of every stream for one batch of samples."""
    run, levels, x0 = setup.run, setup.levels, batch.x0
    model = setup.conditioned(batch.images)
    yield "data", Step(0, model.schedule.clean, x0, None)
    if Stream.FORWARD in run.streams:
        for step in forward(model, x0, levels, setup.noise("forward", batch.ids), run.clip, kept):
            yield "forward", step
    if Stream.CHAIN not in run.streams and Stream.TEACHER not in run.streams:
        return
    path = setup.path(batch.ids)
    epsilon = path.start(0)
    start = (
        noised(x0, levels[0], epsilon) if run.paired else prior(levels[0], epsilon, setup.sampler)
    )
    # A learned variance is the model's: the teacher takes it over when both run; otherwise x_0
    # alone will do.
    who = model if Stream.CHAIN in run.streams else Teacher(x0, model.schedule)
    truth = x0 if run.paired and not setup.light else None
    for step in chain(who, start, levels, setup.sampler, path, run.clip, truth):
        if Stream.CHAIN in run.streams:
            yield "chain", step
        if Stream.TEACHER in run.streams and step.truth is not None:
            yield "teacher", Step(step.index, step.level, step.truth, None)
