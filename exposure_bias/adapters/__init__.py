"""From what users have to a `Denoiser`: one short file per model family.

`adapt` takes objects, `load_model` what lies on disk or in the package. A family's library is imported only for objects
of that family, and a prediction type is read, never guessed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError

BUNDLED = Path(__file__).parent.parent / "models"


def adapt(
    *objects: Any,
    prediction_type: str | None = None,
    prompt_embeds: Any = None,
    negative_prompt_embeds: Any = None,
    pooled_prompt_embeds: Any = None,
    negative_pooled_prompt_embeds: Any = None,
    add_time_ids: Any = None,
    guidance_scale: float | None = None,
) -> Denoiser:
    """A `Denoiser` of a model: a Denoiser itself, a name or path for `load_model`, or a diffusers (network, scheduler)
    pair, pipeline or pipeline folder.

    The keywords are for diffusers models with prompts, guidance or an unstated prediction type: see
    `adapters.diffusers.adapt`. Raises InputError for anything else.
    """
    options = {
        "prediction_type": prediction_type,
        "prompt_embeds": prompt_embeds,
        "negative_prompt_embeds": negative_prompt_embeds,
        "pooled_prompt_embeds": pooled_prompt_embeds,
        "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
        "add_time_ids": add_time_ids,
        "guidance_scale": guidance_scale,
    }
    given = {key: value for key, value in options.items() if value is not None}
    if any(type(o).__module__.startswith("diffusers.") for o in objects) or (given and _is_path(objects)):
        from exposure_bias.adapters import diffusers

        return diffusers.adapt(*(Path(o).expanduser() if _is_path([o]) else o for o in objects), **given)
    if given:
        raise InputError(f"{', '.join(given)} are only for diffusers models: leave them out")
    if len(objects) == 1 and isinstance(objects[0], Denoiser):
        return objects[0]
    if _is_path(objects):
        return load_model(objects[0])
    came = ", ".join(type(o).__name__ for o in objects) or "nothing"
    raise InputError(
        f"cannot adapt {came}: give a diffusers (model, scheduler) pair or pipeline, or say what is implicit with "
        "Denoiser(net, schedule=, prediction_type=, shape=)"
    )


def _is_path(objects: Sequence[Any]) -> bool:
    return len(objects) == 1 and isinstance(objects[0], str | os.PathLike)


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.name for p in BUNDLED.iterdir() if (p / "model_index.json").exists()) if BUNDLED.exists() else []


def load_model(name_or_path: str | os.PathLike[str]) -> Denoiser:
    """A bundled model by name, or a diffusers folder (with `model_index.json`) by path.

    Raises InputError if it is neither, naming what is allowed.
    """
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in bundled_models():
        path = BUNDLED / str(name_or_path)
    if not path.exists():
        names = ", ".join(bundled_models())
        raise InputError(f"there is no model {str(name_or_path)!r}: give one of {names}, or a diffusers folder")
    from exposure_bias.adapters import diffusers

    return diffusers.adapt(path)
