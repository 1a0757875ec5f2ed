"""What becomes of predictions of x_0 that leave the data's range.

- `none`: x̂_0 and ε̂ are as the network says.
- `rederive`: x̂_0 is clipped, and ε̂ = (x − α x̂_0)/σ is derived from it again, as in
  guided-diffusion and diffusers' DDPM.
- `keep_epsilon`: x̂_0 is clipped, and ε̂ stays what it was, as in diffusers' DDIM.
- `loop`: the loop that is observed clips, and its predictions are recorded before that.

This module does not import torch.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

from exposure_bias.errors import InputError

Clip = Literal[False, True, "keep_epsilon"]


class Convention(StrEnum):
    """One of the module docstring's."""

    NONE = "none"
    REDERIVE = "rederive"
    KEEP_EPSILON = "keep_epsilon"
    LOOP = "loop"


@dataclass(frozen=True)
class Clipping:
    """A convention and the range [−bound, bound] that x̂_0 is clipped to."""

    convention: Convention = Convention.NONE
    bound: float = 1.0

    def __bool__(self) -> bool:
        """Whether predictions are clipped here."""
        return self.convention in (Convention.REDERIVE, Convention.KEEP_EPSILON)

    def __str__(self) -> str:
        bound = f"x0 clipped to [-{self.bound:g}, {self.bound:g}]"
        words = {
            Convention.NONE: "x0 unclipped",
            Convention.REDERIVE: f"{bound}, epsilon re-derived",
            Convention.KEEP_EPSILON: f"{bound}, epsilon kept",
            Convention.LOOP: "the loop's own, recorded before it",
        }
        return words[self.convention]


UNCLIPPED = Clipping()


def clipping(clip: Any) -> Clipping:
    """The `Clipping` of an option clip=False, True or "keep_epsilon".

    Raises InputError for anything else.
    """
    if isinstance(clip, Clipping):
        return clip
    if clip is False or clip is None:
        return UNCLIPPED
    if clip is True:
        return Clipping(Convention.REDERIVE)
    if clip == "keep_epsilon":
        return Clipping(Convention.KEEP_EPSILON)
    raise InputError(f"unknown clip {clip!r}: allowed are False, True, 'keep_epsilon'")
