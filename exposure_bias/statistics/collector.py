"""Collect the statistics of one stream: steps of any loop go in, and a dataset comes out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.errors import InputError
from exposure_bias.jackknife import GROUPS, Groups
from exposure_bias.schedules import Level
from exposure_bias.statistics.accumulator import Accumulator, Batch, Layout
from exposure_bias.statistics.bands import BandPower, default_bases, haar, spectrum_bands
from exposure_bias.statistics.histogram import ErrorHistogram
from exposure_bias.statistics.kept import KeptSamples
from exposure_bias.statistics.law import Law
from exposure_bias.statistics.moments import (
    LEAST_PIXELS,
    CellMoments,
    PixelMoments,
    cells_of,
    grouped_pixels,
)
from exposure_bias.statistics.projections import Projections
from exposure_bias.statistics.scalars import SampleScalars

if TYPE_CHECKING:
    from torch import Tensor

    from exposure_bias.streams import Step

GROUPED_BYTES = 7 * 2**18
GROUPED_ARRAYS = 5  # of a paired chain: alike for all streams, which keep the same pixels
DIRECTIONS = 16
BLOCK = 2**18

# Makes a stranger's accumulator for a stream, or None for one that it leaves out.
Statistic = Callable[[Layout], Accumulator | None]


@dataclass(frozen=True)
class Subjects:
    """The samples of one batch and the images they are made from.

    rows: where they stand among the recording's samples. images (B,): their images' numbers.
    x0 (B, *shape) float64.
    """

    rows: slice
    images: NDArray[np.int64]
    x0: "Tensor"
    law: Law

    @cached_property
    def mean(self) -> "Tensor":
        """The data's mean, (D,)."""
        import torch

        return torch.from_numpy(self.law.mean.ravel()).to(self.x0.device)

    @cached_property
    def data(self) -> "Tensor":
        """x_0 − μ, (B, D)."""
        return self.x0.flatten(1) - self.mean

    @cached_property
    def groups(self) -> Groups:
        """Which jackknife group each sample belongs to."""
        return Groups(self.images)

    def batch(self, steps: "Sequence[Step]") -> Batch:
        """Consecutive steps of these samples, centred; all with a prediction, or none."""
        import torch

        levels = torch.tensor(
            [step.level[1:] for step in steps], dtype=torch.float64, device=self.x0.device
        )
        alpha, sigma = levels.view(-1, 2, 1, 1).unbind(1)
        x = _stack([step.x for step in steps])
        predictions = [step.prediction.x0 for step in steps if step.prediction is not None]
        truths = [step.truth for step in steps if step.truth is not None]
        return Batch(
            steps=steps,
            samples=self.rows,
            scale=(alpha**2 * self.law.spread + sigma**2).sqrt(),
            groups=self.groups,
            state=x - alpha * self.mean,
            data=self.data,
            prediction=_stack(predictions) - self.mean if predictions else None,
            error=x - _stack(truths) if truths else None,
        )


def _stack(states: "Sequence[Tensor]") -> "Tensor":
    """(K, B, D) of K tensors (B, *shape); one alone is not copied."""
    import torch

    return (
        states[0].flatten(1)[None]
        if len(states) == 1
        else torch.stack([x.flatten(1) for x in states])
    )


class Collector:
    """The accumulators of one stream over the recorded steps.

    layout: what they are made for; its stream is one of data, forward, chain, teacher. indices: the
    recorded steps' numbers; levels: theirs. spectra: bases in which the state's power is kept
    beside the default ones, but not the teacher's. statistics: strangers'."""

    def __init__(
        self,
        layout: Layout,
        indices: Sequence[int],
        levels: Sequence[Level],
        spectra: Sequence[str] = (),
        statistics: Sequence[Statistic] = (),
    ) -> None:
        self.name, self.levels = layout.stream, levels
        self.row = {index: row for row, index in enumerate(indices)}
        self._pending: list[Step] = []
        own = _accumulators(layout, spectra, levels)
        self.accumulators = [*own, *_strangers(layout, statistics)]
        _check_names(self.accumulators)

    def update(self, step: "Step", subjects: Subjects) -> None:
        """Add one step of a batch of samples, in order to the last.

        A step that is not recorded is passed over.

        Steps wait until one more would make a block of over BLOCK numbers, or until the last one is
        there."""
        row = self.row.get(step.index)
        if row is None:
            return
        if self._pending and (self._pending[-1].prediction is None) != (step.prediction is None):
            self._flush(row, subjects)
        self._pending.append(step)
        if (len(self._pending) + 1) * step.x.numel() > BLOCK or row == len(self.row) - 1:
            self._flush(row + 1, subjects)

    def _flush(self, end: int, subjects: Subjects) -> None:
        rows = slice(end - len(self._pending), end)
        batch = subjects.batch(self._pending)
        for accumulator in self.accumulators:
            accumulator.update(rows, batch)
        self._pending = []

    def merge(self, other: "Collector") -> None:
        """Append the samples of a collector of the same steps."""
        for mine, theirs in zip(self.accumulators, other.accumulators, strict=True):
            mine.merge(theirs)

    def to_dataset(
        self,
        ids: NDArray[np.int64],
        images: NDArray[np.int64],
        rows: NDArray[np.int64] | None = None,
    ) -> xr.Dataset:
        """Everything so far, of the samples `ids` made from `images`.

        rows: where they stand among the recording's, by default at its beginning.
        """
        rows = np.arange(len(ids)) if rows is None else rows
        # One dataset at once: merging one for each accumulator would take longer than recording a
        # step.
        arrays: dict[str, Any] = {"count": ("group", Groups(images).count)}
        coords: dict[str, Any] = {
            "step": list(self.row),
            "sample": ids,
            "image": ("sample", images),
        }
        for accumulator in self.accumulators:
            for name in accumulator.state:
                values, encoding = accumulator.kept(name, rows), accumulator.encodings.get(name)
                arrays[name] = (accumulator.dims[name], values, None, encoding)
            coords |= accumulator.coords
        for name, values in zip(Level._fields, np.array(self.levels).T, strict=True):
            coords[name] = ("step", values)
        return xr.Dataset(arrays, coords)

    def restore(self, dataset: xr.Dataset, rows: NDArray[np.int64]) -> None:
        """Add what `to_dataset` gave of the samples in these rows."""
        for accumulator in self.accumulators:
            accumulator.restore(dataset, rows)


def _strangers(layout: Layout, statistics: Sequence[Statistic]) -> Iterator[Accumulator]:
    for statistic in statistics:
        made = statistic(layout)
        if made is None:
            continue
        if not isinstance(made, Accumulator):
            raise InputError(
                "a statistic makes an Accumulator for a stream, or None; this made"
                f" {type(made).__name__}"
            )
        yield made


def _check_names(accumulators: Sequence[Accumulator]) -> None:
    taken = {"count", "sample", "image", "step", "group", *Level._fields}
    for accumulator in accumulators:
        for name in accumulator.state:
            if name in taken:
                raise InputError(
                    f"{type(accumulator).__name__} keeps {name!r}, a name that is taken: give it"
                    " another"
                )
            taken.add(name)


def _accumulators(
    layout: Layout, spectra: Sequence[str], levels: Sequence[Level]
) -> Iterator[Accumulator]:
    """Those of a stream that everybody gets."""
    predicts = layout.stream in ("forward", "chain") and not layout.light
    errs = layout.stream == "chain" and layout.paired
    fields = ["state", *(["error"] if errs else [])]
    paired = layout.paired and layout.stream in ("chain", "teacher")
    scalars = [
        *(["epsilon_norm", "outside"] if predicts else []),
        *(
            ["prediction_error"]
            if predicts and (layout.paired or layout.stream == "forward")
            else []
        ),
        *(["error_norm"] if errs else []),
    ]
    if scalars:
        yield SampleScalars(layout, tuple(scalars))
    size = layout.law.mean.size
    pixels = grouped_pixels(size, layout.steps, GROUPED_ARRAYS, GROUPED_BYTES, layout.seed)
    for field in fields:
        yield PixelMoments(layout, field, pixels, cross=paired and field == "state")
    if LEAST_PIXELS < size > cells_of(layout.shape):
        yield CellMoments(layout, cells_of(layout.shape))
    yield from _powers(layout, predicts, spectra)
    if len(layout.law.vectors) and not layout.light:
        yield Projections(layout, layout.law.vectors[:DIRECTIONS], cross=layout.paired)
    if errs:
        yield ErrorHistogram(layout)
    if layout.keep and layout.stream != "teacher":
        yield KeptSamples(layout, _kept(layout, predicts, errs), levels)


def _kept(layout: Layout, predicts: bool, errs: bool) -> tuple[str, ...]:
    """What is kept of a few samples; a paired chain has its own x_t beside it."""
    state = [] if layout.stream == "forward" and layout.paired else ["state"]
    return (*state, *(["prediction"] if predicts else []), *(["truth"] if errs else []))


def _powers(layout: Layout, predicts: bool, spectra: Sequence[str]) -> Iterator[Accumulator]:
    """Power by frequency and by sub-band; of states without space there is none."""
    space = layout.shape[1:]
    if not space:
        return
    bases = list(default_bases(layout.shape))
    asked = [] if layout.stream == "teacher" else [basis for basis in spectra if basis not in bases]
    for basis in [*bases, *asked]:
        yield BandPower(layout, "state", spectrum_bands(basis, layout.shape))
    if not layout.light:
        yield BandPower(layout, "state", haar(*space))
    if predicts:
        yield BandPower(layout, "prediction", spectrum_bands("dct", layout.shape))


__all__ = ["GROUPS", "Collector", "Layout", "Statistic", "Subjects"]
