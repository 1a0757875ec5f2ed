"""The limit of one frame: what the network draws with infinitely many steps (`limits`).

Its grids of N, N/2 and N/4 steps lead from the chain's noisiest level to the schedule's least noisy
one, and a noise-free step from there to the clean end, which is what is fed back. All grids, and
the sampler's own chain, read the Brownian path of the sequence's frame.
"""

from dataclasses import dataclass

from torch import Tensor

from exposure_bias.clipping import Clipping
from exposure_bias.denoisers import Denoiser
from exposure_bias.experiments.limits import FINEST, Trapezoid, coarser, places
from exposure_bias.paths import PathNoise, Paths
from exposure_bias.samplers import Limit
from exposure_bias.schedules import Level
from exposure_bias.streams import rollout


@dataclass(frozen=True)
class Grid:
    """The levels of the finest grid, noisiest first.

    clean: the noise-free end. prior: the standard deviation of a start from noise.
    """

    kind: Limit
    levels: tuple[Level, ...]
    clean: Level
    prior: float

    @property
    def steps(self) -> int:
        """N, without a step that leaves α = 0."""
        return len(self.levels) - 1 - int(self.levels[0].alpha == 0)

    def calls(self, every: int) -> int:
        """How often a chain on every `every`-th level asks the network."""
        return len(self.every(every))

    def every(self, every: int) -> tuple[Level, ...]:
        """Every `every`-th level, 1, 2 or 4, and the clean end."""
        return (*coarser(self.levels, FINEST // every), self.clean)

    def path(self, paths: Paths, every: int) -> PathNoise:
        """Brownian paths along these levels; all grids read one path."""
        levels = self.every(every)
        known = places(levels[:-1], FINEST // every)
        return paths.on(levels, [*known, len(levels) - 1])


def walk(
    model: Denoiser, x: Tensor, route: Grid, every: int, path: PathNoise, clip: Clipping
) -> Tensor:
    """The clean end of the chain from state x on every `every`-th level of a grid."""
    return rollout(model, x, route.every(every), Trapezoid(route.kind), path, clip).double()
