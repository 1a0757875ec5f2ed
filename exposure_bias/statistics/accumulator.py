"""What all accumulators share: named sums with named dimensions, and what one update reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from exposure_bias.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from exposure_bias.streams import Step

GROUPS = 16
CONSTANT = {"constant": 1}  # attributes of a variable that `recording.merge` keeps as it is rather than adds


@dataclass(frozen=True)
class Batch:
    """K consecutive steps of a stream for B samples, prepared once for every accumulator.

    Several steps come together because on small images calling torch costs more than the arithmetic.

    steps: the K steps. samples: where the B samples stand among the recording's. scale (K, 1, 1): √(α² σ̄² + σ²), the
    state's own. membership (GROUPS, B): one where sample b is in group g. data (B, D): x_0 − μ. The rest (K, B, D),
    with D = C·H·W. state: x − α μ. prediction: x̂_0 − μ, or None at the clean end. error: x̂ − x, chain minus teacher, or
    None. All float64; μ is the data's mean image.
    """

    steps: "Sequence[Step]"
    samples: slice
    scale: "Tensor"
    membership: "Tensor"
    state: "Tensor"
    data: "Tensor"
    prediction: "Tensor | None"
    error: "Tensor | None"

    def field(self, name: str) -> "Tensor | None":
        """One of state, data, prediction, error."""
        field: Tensor | None = getattr(self, name)
        return field

    def by_group(self, values: "Tensor") -> NDArray[np.float64]:
        """Sums (K, GROUPS, F) over the samples of each group, of values (K, B, F)."""
        sums: NDArray[np.float64] = (self.membership @ values).cpu().numpy()
        return sums


class Accumulator:
    """Arrays by name, each with its dimensions; two accumulators of other samples merge by adding their sums.

    An array with a `sample` dimension is no sum: it is filled in row by row, and merges by concatenation
    (`recording.merge`).
    """

    def __init__(self) -> None:
        self.state: dict[str, NDArray[Any]] = {}
        self.dims: dict[str, tuple[str, ...]] = {}
        self.coords: dict[str, tuple[str, NDArray[Any]]] = {}
        self._tensors: dict[str, Tensor] = {}

    def _sum(self, name: str, **sizes: int) -> None:
        """Declare a sum and its dimensions."""
        self.state[name] = np.zeros(tuple(sizes.values()))
        self.dims[name] = tuple(sizes)

    def _tensor(self, name: str, like: "Tensor") -> "Tensor":
        """The constant array `self.name` as a tensor on `like`'s device, made once."""
        if name not in self._tensors:
            import torch

            self._tensors[name] = torch.from_numpy(np.ascontiguousarray(getattr(self, name))).to(like.device)
        return self._tensors[name]

    def update(self, rows: slice, batch: Batch) -> None:
        """Add a batch to the sums of its recorded steps."""
        raise NotImplementedError

    def to_dataset(self) -> xr.Dataset:
        """The sums as labelled arrays."""
        return xr.Dataset({k: (self.dims[k], v) for k, v in self.state.items()}, coords=self.coords)

    def restore(self, dataset: xr.Dataset) -> None:
        """Continue from the sums of an earlier run. Raises InputError if they have another shape."""
        for name, value in self.state.items():
            # Samples come one after another: those of the earlier run are the first ones.
            mine = value[: dataset.sizes["sample"]] if self.dims[name][0] == "sample" else value
            if name not in dataset or dataset[name].shape != mine.shape:
                raise InputError(f"the checkpoint does not hold {name} of shape {mine.shape}: start afresh elsewhere")
            mine[...] = dataset[name].values
