"""States of any rank: (C, *space) with no to three axes of space. No torch here.

    vector (D,)     signal (C, T)     image (C, H, W)     video or volume (C, F, H, W)

Their axes are named channel, z, y, x from the left, the last ones of them: a signal has channel and
x, a video channel, z (its frames), y and x. Statistics that need space leave themselves out where
there is none, and say so."""

from collections.abc import Iterable, Sequence
from typing import Any

from exposure_bias.errors import InputError

State = tuple[int, ...]

SPACE = ("z", "y", "x")
KINDS = {
    1: "a vector (D,)",
    2: "a signal (C, T)",
    3: "an image (C, H, W)",
    4: "a video or volume (C, F, H, W)",
}
ALLOWED = ", ".join(KINDS.values())


def checked_shape(shape: Any) -> State:
    """A state's shape as a tuple.

    Raises InputError for no or more than four numbers, or one below 1.
    """
    numbers = tuple(shape) if isinstance(shape, Sequence) else None
    sensible = numbers is not None and all(
        isinstance(n, int) or hasattr(n, "__index__") for n in numbers
    )
    if numbers is None or not sensible or len(numbers) not in KINDS or min(numbers) < 1:
        raise InputError(f"a state's shape is {ALLOWED}, got {shape!r:.60}")
    return tuple(int(n) for n in numbers)


def dimensions(shape: Sequence[int]) -> tuple[str, ...]:
    """The names of a state's axes."""
    return ("channel", *SPACE[len(SPACE) + 1 - len(shape) :])


def axes_of(names: Iterable[Any]) -> tuple[str, ...]:
    """Those of an array's axes that are a state's, in a state's order."""
    present = set(names)
    return tuple(axis for axis in ("channel", *SPACE) if axis in present)


def described(shape: Sequence[int]) -> str:
    """A shape for people: 3×32×32."""
    return "×".join(map(str, shape))
