"""What all accumulators share: named sums with named dimensions, and what one update reads."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from exposure_bias.streams import Step

GROUPS = 16
CONSTANT = {"constant": 1}  # attributes of a variable that `recording.merge` keeps as it is rather than adds


class Groups:
    """The groups of B samples, from their images' numbers (B,)."""

    def __init__(self, images: NDArray[np.int64], device: "torch.device") -> None:
        import torch

        group = images % GROUPS
        # Samples nearly always come in order of their images; then a group is every 16th sample.
        in_turn = len(group) % GROUPS == 0 and (group == (group[0] + np.arange(len(group))) % GROUPS).all()
        self._first = int(group[0]) if in_turn else None
        member = np.arange(GROUPS)[:, None] == group[None]
        self._member = torch.from_numpy(member.astype(np.float64)).to(device)

    def sum(self, values: "Tensor") -> "Tensor":
        """Sums (K, GROUPS, F) over the samples of each group, of values (K, B, F)."""
        if self._first is None:
            return self._member @ values
        return values.unflatten(1, (-1, GROUPS)).sum(1).roll(self._first, 1)


@dataclass(frozen=True)
class Batch:
    """K consecutive steps of a stream for B samples, prepared once for every accumulator.

    Several steps come together because on small images calling torch costs more than the arithmetic.

    steps: the K steps. samples: where the B samples stand among the recording's. scale (K, 1, 1): √(α² σ̄² + σ²), the
    state's own. groups: of the B samples. data (B, D): x_0 − μ. The rest (K, B, D),
    with D = C·H·W. state: x − α μ. prediction: x̂_0 − μ, or None at the clean end. error: x̂ − x, chain minus teacher, or
    None. All float64; μ is the data's mean image.
    """

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
        """That of a transform of the fields: the network's own, which is what the states carry; else float64.

        A sum over samples is float64 in any case.
        """
        import torch

        prediction = self.steps[0].prediction
        single = prediction is not None and prediction.output is not None and prediction.output.dtype != torch.float64
        return torch.float32 if single else torch.float64

    def field(self, name: str) -> "Tensor | None":
        """One of state, data, prediction, error."""
        field: Tensor | None = getattr(self, name)
        return field


class Accumulator(ABC):
    """Arrays by name, each with its dimensions; two accumulators of other samples merge by adding their sums.

    An array with a `sample` dimension is no sum: it is filled in row by row, and merges by concatenation
    (`recording.merge`). state: the arrays; dims: their dimensions; coords: (dimension, values[, attributes]) by name.
    """

    def __init__(self) -> None:
        self.state: dict[str, NDArray[Any]] = {}
        self.dims: dict[str, tuple[str, ...]] = {}
        self.coords: dict[str, tuple[Any, ...]] = {}
        self._tensors: dict[str, Tensor] = {}

    def _sum(self, name: str, **sizes: int) -> None:
        """Declare a sum and its dimensions."""
        self.state[name] = np.zeros(tuple(sizes.values()))
        self.dims[name] = tuple(sizes)

    def _tensor(self, name: str, like: "Tensor") -> "Tensor":
        """The constant array `self.name` as a tensor of `like`'s device and precision, made once for each."""
        key = f"{name}/{like.device}/{like.dtype}"
        if key not in self._tensors:
            import torch

            self._tensors[key] = torch.from_numpy(np.ascontiguousarray(getattr(self, name))).to(like)
        return self._tensors[key]

    @abstractmethod
    def update(self, rows: slice, batch: Batch) -> None:
        """Add a batch to the sums of its recorded steps."""

    def restore(self, dataset: xr.Dataset) -> None:
        """Continue from the sums of an earlier run. Raises InputError if they have another shape."""
        for name, value in self.state.items():
            # Samples come one after another: those of the earlier run are the first ones.
            mine = value[: dataset.sizes["sample"]] if self.dims[name][0] == "sample" else value
            if name not in dataset or dataset[name].shape != mine.shape:
                raise InputError(f"the checkpoint does not hold {name} of shape {mine.shape}: start afresh elsewhere")
            mine[...] = dataset[name].values
