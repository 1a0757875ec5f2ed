"""Training on something else than x_t = α_t x_0 + σ_t ε, with white ε of its own.

As far as an object's attributes tell.

The forward stream is what training sees only if the two agree. An output that depends on more than
the state is refused. Other noise is a warning, and stands in the model's note: the numbers are then
those of white noise, on which the network was not trained but on which it is sampled all the same.
"""

import warnings
from collections.abc import Iterable
from typing import Any

from exposure_bias.errors import InputError

SELF_CONDITIONED = ("self_condition", "self_cond", "self_conditioning")
OTHER_NOISE = {
    "offset_noise_strength": (
        "offset noise (one number shared by all pixels of a channel is added to each noise)"
    ),
    "noise_offset": (
        "offset noise (one number shared by all pixels of a channel is added to each noise)"
    ),
    "immiscible": (
        "immiscible noise (each batch's noises are assigned to the images nearest to them)"
    ),
}
INSIDE = ("model", "inner_model", "net", "diffusion")


def check(objects: Iterable[Any]) -> str:
    """What was different in training, in words, "" if nothing is known to be; warns of it as well.

    Raises InputError for self-conditioning.
    """
    parts = [part for o in objects for part in (o, *(getattr(o, name, None) for name in INSIDE))]
    if any(getattr(part, name, False) is True for part in parts for name in SELF_CONDITIONED):
        raise InputError(
            "self-conditioning is not supported: the network also sees its own last prediction, so"
            " that its output is not a function of the state, and the forward stream has none to"
            " show it"
        )
    found = {
        words
        for part in parts
        for name, words in OTHER_NOISE.items()
        if _is_on(getattr(part, name, 0))
    }
    if not found:
        return ""
    note = f"trained on {' and '.join(sorted(found))}"
    warnings.warn(
        f"this model was {note}, but forward stream and chain draw white noise: the forward stream"
        " is not what its training saw, and gaps at the lowest frequencies may be of the noise and"
        " not of the chain",
        stacklevel=3,
    )
    return note


def _is_on(value: Any) -> bool:
    return isinstance(value, bool | int | float) and value > 0
