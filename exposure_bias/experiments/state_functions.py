"""The functions of a state that a network's residual is tested with (`diagnostics.orthogonality`).

With x̂_0 = f(x_t), c a constant image near its mean, r = x_0 − f and g = f − c:

    prediction      g: is the network's contrast right?
    noise           ε̂ = (x − αf)/σ
    odd power       g |g|²: are large deviations right?
    brightness      1 in every pixel
    top left, …     g in one quarter of the image (one half of a signal)
    f < 1/16, …     g in one band of frequencies
    direction k     g along the k-th leading direction of the data, and that direction itself
                    (mean). The directions come from the images of the other half of the groups
    class k         g where the class label is k, for a conditional network
    a stranger's    whatever `functions` gives
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.errors import InputError
from exposure_bias.experiments.value_function import LinearLaw, Modes
from exposure_bias.jackknife import GROUPS
from exposure_bias.schedules import Level

DIRECTIONS = 4
CLASSES = 20

# g(x, level, f): a function of true states (B, *shape) and of the network's x̂_0 there.
StateFunction = Callable[[Tensor, Level, Tensor], Tensor]


@dataclass(frozen=True)
class Predicted:
    """A batch at one level, all (B, …).

    x: states. level: theirs. x0 and said: x_0 and x̂_0 in modes, (B, D). images: their numbers.
    labels: their classes, or None.
    """

    x: Tensor
    level: Level
    x0: Tensor
    said: Tensor
    images: NDArray[np.int64]
    labels: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Family:
    """The functions that are asked, in order.

    laws: those of the images of even and odd groups. classes: that are asked apart. functions: a
    stranger's.
    """

    modes: Modes
    laws: tuple[LinearLaw, LinearLaw]
    classes: Sequence[int]
    functions: Mapping[str, StateFunction]

    @cached_property
    def blocks(self) -> dict[str, NDArray[np.int64]]:
        """Parts of a state: the halves of its last axis, or the quarters of its last two."""
        shape = self.modes.shape
        if len(shape) == 1:
            return {}
        place = np.arange(int(np.prod(shape))).reshape(shape)
        ends = [("top", "bottom"), ("left", "right")][-min(len(shape) - 1, 2) :]
        found = {"": place}
        for axis, names in enumerate(ends, start=-len(ends)):
            found = {
                f"{before} {name}".strip(): half
                for before, part in found.items()
                for name, half in zip(names, np.array_split(part, 2, axis), strict=True)
            }
        return {name: part.ravel() for name, part in found.items() if part.size}

    @cached_property
    def directions(self) -> int:
        """How many leading directions are asked."""
        leading = self.laws[0].leading
        return 0 if leading is None else min(DIRECTIONS, len(leading))

    @cached_property
    def names(self) -> list[str]:
        """Those of the functions, in the order of the scores."""
        numbers = range(1, 1 + self.directions)
        return [
            "prediction",
            "noise",
            "odd power",
            "brightness",
            *self.blocks,
            *self._bands,
            *(f"direction {k}" for k in numbers),
            *(f"direction {k}, mean" for k in numbers),
            *(f"class {c}" for c in self.classes),
            *self.functions,
        ]

    @property
    def _bands(self) -> tuple[str, ...]:
        return self.modes.names if len(self.modes.names) > 1 else ()

    def scores(self, batch: Predicted, centre: Tensor) -> tuple[Tensor, Tensor]:
        """r · g and g · g of every function, (B, T) each. centre: c, (1, D) as pixels."""
        pairs = list(self._pairs(batch, centre))
        return torch.stack([s for s, _ in pairs], 1), torch.stack([w for _, w in pairs], 1)

    def _pairs(self, batch: Predicted, centre: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        modes, level, x = self.modes, batch.level, batch.x
        f = modes.inverse(batch.said).flatten(1)
        r = modes.inverse(batch.x0 - batch.said).flatten(1)
        g = f - centre
        product, square = r * g, g.square()
        yield product.sum(1), square.sum(1)
        noise = (x.flatten(1) - level.alpha * f) / level.sigma
        yield (r * noise).sum(1), noise.square().sum(1)
        power = square.mean(1)
        yield product.sum(1) * power, square.sum(1) * power.square()
        yield r.sum(1), torch.full_like(power, r.shape[1])
        for part in self.blocks.values():
            yield product[:, part].sum(1), square[:, part].sum(1)
        in_modes = modes(g)
        if self._bands:
            residual = modes.by_band((batch.x0 - batch.said) * in_modes)
            yield from zip(residual.T, modes.by_band(in_modes.square()).T, strict=True)
        yield from self._directional(batch, in_modes)
        for label in self.classes:
            mine = torch.from_numpy(np.asarray(batch.labels) == label).to(r)
            yield product.sum(1) * mine, square.sum(1) * mine
        for name, function in self.functions.items():
            own = answer(name, function, x, level, f.view(x.shape)).flatten(1)
            yield (r * own).sum(1), own.square().sum(1)

    def _directional(self, batch: Predicted, g: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The scores along leading directions of the other half's images, and of their means."""
        along = [g.new_zeros(len(g), self.directions) for _ in range(2)]
        for law, rows in of_halves(self.laws, batch.images):
            if law.leading is None:
                return
            leading = law.leading[: self.directions].T
            along[0][rows] = (batch.x0 - batch.said)[rows] @ leading
            along[1][rows] = g[rows] @ leading
        yield from zip((along[0] * along[1]).T, along[1].square().T, strict=True)
        yield from zip(along[0].T, torch.ones_like(along[0]).T, strict=True)


def of_halves(
    laws: tuple[LinearLaw, LinearLaw], images: NDArray[np.int64]
) -> Iterator[tuple[LinearLaw, NDArray[np.int64]]]:
    """Each half's law, and the rows of the samples that it is for."""
    odd = images % GROUPS % 2
    for half, law in enumerate(laws):
        rows = np.flatnonzero(odd == half)
        if len(rows):
            yield law, rows


def answer(name: str, function: StateFunction, x: Tensor, level: Level, f: Tensor) -> Tensor:
    """What a stranger's function says, as float64.

    Raises InputError for another shape, numbers that are not finite, and a function that does not
    depend on the state alone: given the same states in another order it must say the same.
    """
    found = _asked(name, function, x, level, f)
    again = _asked(name, function, x.flip(0), level, f.flip(0)).flip(0)
    if not torch.allclose(found, again, rtol=1e-4, atol=1e-6 * float(found.abs().max())):
        raise InputError(
            f"the function {name!r} says something else when the same states come in another order:"
            " it must depend on each state (and on f there) alone, not on the images x_0, their"
            " order or random numbers"
        )
    return found


def _asked(name: str, function: StateFunction, x: Tensor, level: Level, f: Tensor) -> Tensor:
    found = torch.as_tensor(function(x.clone(), level, f.clone()))
    if found.shape != x.shape:
        raise InputError(
            f"the function {name!r} returned shape {tuple(found.shape)} where that of the states,"
            f" {tuple(x.shape)}, was expected"
        )
    if not torch.isfinite(found).all():
        raise InputError(f"the function {name!r} returned NaN or Inf")
    return found.detach().to(x)


def checked(functions: object, names: Sequence[str]) -> dict[str, StateFunction]:
    """A stranger's functions, by name. names: those that are taken.

    Raises InputError unless it is a mapping from other names to functions.
    """
    found = {} if functions is None else functions
    if not isinstance(found, Mapping) or not all(
        isinstance(name, str) and callable(function) for name, function in found.items()
    ):
        raise InputError(
            "functions is a mapping from names to functions (x, level, f) -> array of x's shape,"
            f" got {functions!r:.60}"
        )
    for name in found:
        if name in names:
            raise InputError(f"a function may not be called {name!r}: a test of ours has that name")
    return dict(found)
