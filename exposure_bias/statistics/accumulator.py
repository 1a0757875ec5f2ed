"""What all accumulators share: named sums with named dimensions, and what one update reads."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.errors import InputError
from exposure_bias.jackknife import Groups
from exposure_bias.states import State
from exposure_bias.statistics.law import Law

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from exposure_bias.streams import Step


@dataclass(frozen=True)
class Batch:
    """K consecutive steps of a stream for B samples, prepared once for every accumulator.

    Several steps come together because on small states calling torch costs more than the
    arithmetic.

    steps: the K steps. samples: where the B samples stand among the recording's. scale (K, 1, 1):
    √(α² σ̄² + σ²), the state's own. groups: of the B samples. data (B, D): x_0 − μ. The rest (K, B,
    D), with D the size of a state. state: x − α μ. prediction: x̂_0 − μ, or None at the clean end.
    error: x̂ − x, chain minus teacher, or None. All float64; μ is the data's mean."""

    steps: "Sequence[Step]"
    samples: slice
    scale: "Tensor"
    groups: Groups
    state: "Tensor"
    data: "Tensor"
    prediction: "Tensor | None"
    error: "Tensor | None"

    @property
    def precision(self) -> "torch.dtype":
        """That of a transform of the fields.

        The network's own, which is what the states carry; else float64.

        A sum over samples is float64 in any case.
        """
        import torch

        prediction = self.steps[0].prediction
        single = (
            prediction is not None
            and prediction.output is not None
            and prediction.output.dtype != torch.float64
        )
        return torch.float32 if single else torch.float64

    def field(self, name: str) -> "Tensor | None":
        """One of state, data, prediction, error."""
        field: Tensor | None = getattr(self, name)
        return field


@dataclass(frozen=True)
class Layout:
    """What an accumulator is made for.

    stream: data, forward, chain or teacher. steps: how many are recorded. samples: how many will
    come.
    law: the data's. paired: whether every sample has its own x_0. seed: for what is drawn at
    random. light: whether only moments and power of the states are wanted. first: the first
    sample's number. keep: how many samples are kept as they are, those with the lowest numbers."""

    stream: str
    steps: int
    samples: int
    law: Law
    paired: bool
    seed: int = 0
    light: bool = False
    first: int = 0
    keep: int = 0

    @property
    def shape(self) -> State:
        """One state's, (C, *space)."""
        return self.law.mean.shape


class Sums:
    """Arrays by name, each with its dimensions; those of other samples merge by adding.

    An array with a leading `sample` dimension is no sum: it is filled in row by row, and merges by
    concatenation. state: the arrays; dims: their dimensions; coords: (dimension, values[,
    attributes]) by name; encodings: how a file stores those that it does not store as they are."""

    def __init__(self) -> None:
        self.state: dict[str, NDArray[Any]] = {}
        self.dims: dict[str, tuple[str, ...]] = {}
        self.coords: dict[str, Any] = {}
        self.encodings: dict[str, dict[str, float]] = {}

    def add_sum(self, name: str, **sizes: int) -> NDArray[Any]:
        """Declare a sum, float64 and zero, with its dimensions and their sizes."""
        self.state[name] = np.zeros(tuple(sizes.values()))
        self.dims[name] = tuple(sizes)
        return self.state[name]

    def add_rows(self, name: str, samples: int, **sizes: int) -> NDArray[Any]:
        """Declare what is kept by sample, float32 and NaN until it is filled in."""
        self.state[name] = np.full((samples, *sizes.values()), np.nan, dtype=np.float32)
        self.dims[name] = ("sample", *sizes)
        return self.state[name]

    def of_samples(self, name: str) -> bool:
        """Whether an array is kept by sample."""
        return self.dims[name][:1] == ("sample",)

    def merge(self, other: "Sums", rows: slice | None = None) -> None:
        """Add the sums of other samples.

        rows: where those that are kept by sample go, by default at the end."""
        for name, values in other.state.items():
            if not self.of_samples(name):
                self.state[name] += values
            elif rows is None:
                self.state[name] = np.concatenate([self.state[name], values])
            else:
                self.state[name][rows] = values[rows]

    def kept(self, name: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """What of an array belongs to the samples in these rows: all of a sum."""
        values = self.state[name]
        return values[rows] if self.of_samples(name) and len(rows) < len(values) else values

    def restore(self, arrays: "xr.Dataset | dict[str, Any]", rows: NDArray[np.int64]) -> None:
        """Add what an earlier run kept of the samples in these rows.

        Raises InputError if it has another shape.
        """
        for name, value in self.state.items():
            found = np.asarray(arrays[name]) if name in arrays else None
            mine = self.kept(name, rows)
            if found is None or found.shape != mine.shape or found.dtype.kind not in "fiu":
                raise InputError(
                    f"the checkpoint does not hold {name} of shape {mine.shape}: start afresh"
                    " elsewhere"
                )
            if self.of_samples(name):
                value[rows] = found
            else:
                value += found


class Accumulator(Sums):
    """A statistic of a stream: it takes steps and keeps sums.

    A stranger's is given to `record(..., statistics=[...])` as a class or function that takes a
    `Layout` and returns an accumulator, or None for a stream that it leaves out. It declares its
    arrays with `add_sum` and `add_rows` and fills them in `update`; sums with the dimensions (step,
    group, …) can be given to the jackknife."""

    def __init__(self) -> None:
        super().__init__()
        self._tensors: dict[str, Tensor] = {}

    @abstractmethod
    def update(self, rows: slice, batch: Batch) -> None:
        """Add a batch to the sums of the recorded steps `rows`."""

    def _tensor(self, name: str, like: "Tensor") -> "Tensor":
        """The constant array `self.name` as a tensor of `like`'s device and precision.

        Made once for each."""
        key = f"{name}/{like.device}/{like.dtype}"
        if key not in self._tensors:
            import torch

            self._tensors[key] = torch.from_numpy(np.ascontiguousarray(getattr(self, name))).to(
                like
            )
        return self._tensors[key]
