"""One stream's statistics: `Step`s in, a dataset out, whichever loop the steps come from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.schedules import Level
from exposure_bias.statistics.accumulator import GROUPS, Accumulator, Batch, Groups
from exposure_bias.statistics.bands import BandPower, dct, haar, spectrum_bands
from exposure_bias.statistics.histogram import ErrorHistogram
from exposure_bias.statistics.law import Law
from exposure_bias.statistics.moments import PixelMoments, grouped_pixels
from exposure_bias.statistics.projections import Projections
from exposure_bias.statistics.scalars import SampleScalars

if TYPE_CHECKING:
    from torch import Tensor

    from exposure_bias.streams import Step

GROUPED_BYTES = 256 * 2**20
DIRECTIONS = 16
BLOCK = 2**18


@dataclass(frozen=True)
class Subjects:
    """The samples of one batch and the images they are made from.

    rows: where they stand among the recording's samples. images (B,): their images' numbers. x0 (B, C, H, W) float64.
    """

    rows: slice
    images: NDArray[np.int64]
    x0: "Tensor"
    law: Law

    @cached_property
    def mean(self) -> "Tensor":
        """The data's mean image, (D,)."""
        import torch

        return torch.from_numpy(self.law.mean.ravel()).to(self.x0.device)

    @cached_property
    def data(self) -> "Tensor":
        """x_0 − μ, (B, D)."""
        return self.x0.flatten(1) - self.mean

    @cached_property
    def groups(self) -> Groups:
        """Which jackknife group each sample belongs to."""
        return Groups(self.images, self.x0.device)

    @cached_property
    def spread(self) -> float:
        """σ̄², the data's variance, mean over pixels."""
        return float(self.law.variance.mean())

    def batch(self, steps: "Sequence[Step]") -> Batch:
        """Consecutive steps of these samples, centred; all with a prediction, or none."""
        import torch

        levels = torch.tensor([step.level[1:] for step in steps], dtype=torch.float64, device=self.x0.device)
        alpha, sigma = levels.view(-1, 2, 1, 1).unbind(1)
        x = _stack([step.x for step in steps])
        predictions = [step.prediction.x0 for step in steps if step.prediction is not None]
        truths = [step.truth for step in steps if step.truth is not None]
        return Batch(
            steps=steps,
            samples=self.rows,
            scale=(alpha**2 * self.spread + sigma**2).sqrt(),
            groups=self.groups,
            state=x - alpha * self.mean,
            data=self.data,
            prediction=_stack(predictions) - self.mean if predictions else None,
            error=x - _stack(truths) if truths else None,
        )


def _stack(images: "Sequence[Tensor]") -> "Tensor":
    """(K, B, D) of K tensors (B, C, H, W); one alone is not copied."""
    import torch

    return images[0].flatten(1)[None] if len(images) == 1 else torch.stack([x.flatten(1) for x in images])


class Collector:
    """The accumulators of one stream over the recorded steps.

    name: data, forward, chain or teacher. indices: the recorded steps' numbers; levels: theirs. samples: how many will
    come. paired: whether every sample has its own x_0, which the cross moments and errors need. spectra: bases in which
    the state's spectrum is kept beside the DCT's (`bands.BASES`), but not the teacher's.
    """

    def __init__(
        self,
        name: str,
        indices: Sequence[int],
        levels: Sequence[Level],
        samples: int,
        law: Law,
        paired: bool,
        seed: int,
        spectra: Sequence[str] = (),
    ) -> None:
        self.name, self.levels = name, levels
        self.row = {index: row for row, index in enumerate(indices)}
        self._pending: list[Step] = []
        self.accumulators = _accumulators(name, len(indices), samples, law, paired, seed, spectra)

    def update(self, step: "Step", subjects: Subjects) -> None:
        """Add one step of a batch of samples, in order to the last; a step that is not recorded is passed over.

        Steps wait until one more would make a block of over BLOCK numbers, or until the last one is there.
        """
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

    def add(self, other: "Collector") -> None:
        """Append the samples of a collector of the same steps: sums add, what is kept by sample follows."""
        for mine, theirs in zip(self.accumulators, other.accumulators, strict=True):
            for name, values in theirs.state.items():
                if mine.dims[name][0] == "sample":
                    mine.state[name] = np.concatenate([mine.state[name], values])
                else:
                    mine.state[name] += values

    def to_dataset(self, ids: NDArray[np.int64], images: NDArray[np.int64]) -> xr.Dataset:
        """Everything so far, of the samples `ids` made from `images`."""
        # One dataset at once: merging one for each accumulator would take longer than recording a step.
        arrays: dict[str, Any] = {"count": ("group", np.bincount(images % GROUPS, minlength=GROUPS).astype(np.float64))}
        coords: dict[str, Any] = {"step": list(self.row), "sample": ids, "image": ("sample", images)}
        for accumulator in self.accumulators:
            for name, values in accumulator.state.items():
                dims = accumulator.dims[name]
                arrays[name] = (dims, values[: len(ids)] if dims[0] == "sample" else values)
            coords |= accumulator.coords
        for name, values in zip(Level._fields, np.array(self.levels).T, strict=True):
            coords[name] = ("step", values)
        return xr.Dataset(arrays, coords)

    def restore(self, dataset: xr.Dataset) -> None:
        """Continue from what `to_dataset` gave."""
        for accumulator in self.accumulators:
            accumulator.restore(dataset)


def _accumulators(
    name: str, steps: int, samples: int, law: Law, paired: bool, seed: int, spectra: Sequence[str]
) -> list[Accumulator]:
    channels, height, width = shape = law.mean.shape
    predicts, errs = name in ("forward", "chain"), name == "chain" and paired
    fields = ["state", *(["prediction"] if predicts else []), *(["error"] if errs else [])]
    pixels = grouped_pixels(law.mean.size, steps, 3 * len(fields), GROUPED_BYTES, seed)
    scalars = [
        *(["epsilon_norm", "outside"] if predicts else []),
        *(["prediction_error"] if predicts and paired else []),
        *(["error_norm"] if errs else []),
    ]
    kept: list[Accumulator] = [SampleScalars(tuple(scalars), samples, steps)] if scalars else []
    for field in fields:
        kept.append(PixelMoments(field, steps, shape, pixels, cross=field == "state" and paired))
        if field != "error":
            kept.append(BandPower(field, dct(height, width), steps, channels))
        if field == "state":
            kept.append(BandPower(field, haar(height, width), steps, channels))
            bases = [] if name == "teacher" else [basis for basis in spectra if basis != "dct"]
            kept += [BandPower(field, spectrum_bands(basis, shape), steps, channels) for basis in bases]
    if len(law.vectors):
        kept.append(Projections("state", steps, law.vectors[:DIRECTIONS], cross=paired))
    if errs:
        kept.append(ErrorHistogram(steps, law.mean.size))
    return kept
