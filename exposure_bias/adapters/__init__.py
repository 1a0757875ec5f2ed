"""From what users have to a `Denoiser`: one short file per model family.

`adapt` takes objects, `load_model` what lies on disk or in the package. A family's library is imported only for objects
of that family, and a prediction type is read, never guessed.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exposure_bias.adapters import adm, ddpm_pytorch, diffusers, edm, flow_matching, guided_diffusion, k_diffusion
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.schedules import PREDICTION_TYPES

# What can be adapted or loaded: in Python, and at the command line if at all. docs/models.md shows each at work.
FAMILIES = {
    "bundled": ('load_model("digits")', "--model digits"),
    "diffusers": ("adapt(network, scheduler), adapt(pipeline), load_model(FOLDER)", "--model FOLDER"),
    "ADM checkpoint": ("load_model(FILE, preset=NAME)", "--model FILE --preset NAME"),
    "guided-diffusion": ("adapt(model, diffusion), adapt(model, diffusion, (C, H, W))", ""),
    "EDM, EDM2": ("adapt(net)", ""),
    "denoising-diffusion-pytorch": ("adapt(diffusion)", ""),
    "flow_matching": ("adapt(model, path, (C, H, W))", ""),
    "k-diffusion": ("adapt(wrapper, (C, H, W)), adapt(wrapper, schedule, (C, H, W))", ""),
    "any function or module": ("Denoiser(net, schedule=, prediction_type=, shape=)", ""),
}
DISTILLED = ("Consistency", "ECMPrecond", "CTPrecond")
BUNDLED = Path(__file__).parent.parent / "models"
CHECKPOINTS = (".pt", ".pth", ".safetensors")
PICKLES = (".pkl", ".pickle")


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
    """A `Denoiser` of a model: a Denoiser itself, a name or path for `load_model`, or the objects of one of `FAMILIES`.

    The keywords are for diffusers models with prompts, guidance or an unstated prediction type: see
    `adapters.diffusers.adapt`.

    Raises InputError for anything else, for distilled models, and for a network alone: what it returns cannot be known.
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
    if any(c.__module__.startswith("diffusers.") for o in objects for c in type(o).__mro__) or (
        given and _is_path(objects)
    ):
        return diffusers.adapt(*(Path(o).expanduser() if _is_path([o]) else o for o in objects), **given)
    if given:
        raise InputError(f"{', '.join(given)} are only for diffusers models: leave them out")
    if len(objects) == 1 and isinstance(objects[0], Denoiser):
        return objects[0]
    if _is_path(objects):
        return load_model(objects[0])
    _refuse_distilled(objects)
    if any(guided_diffusion.is_diffusion(o) for o in objects):
        return guided_diffusion.adapt(*objects)
    for family in (edm, ddpm_pytorch, flow_matching, k_diffusion):
        if any(family.recognises(o) for o in objects):
            return family.adapt(*objects)
    came = ", ".join(type(o).__name__ for o in objects) or "nothing"
    raise InputError(
        f"cannot adapt {came}: known are {', '.join(list(FAMILIES)[1:-1])} (docs/models.md); of any other model say "
        "what is implicit with Denoiser(net, schedule=, prediction_type=, shape=(C, H, W)), where prediction_type is "
        f"{', '.join(PREDICTION_TYPES[:-1])} or {PREDICTION_TYPES[-1]}"
    )


def _refuse_distilled(objects: Sequence[Any]) -> None:
    for o in objects:
        name = type(o).__name__
        if any(word in name for word in DISTILLED) or getattr(o, "distillation", False) is True:
            raise InputError(
                f"{name} is distilled: it jumps along its teacher's chain and is no E[x_0 | x_t], so it has no "
                "exposure bias to measure; adapt its teacher"
            )


def _is_path(objects: Sequence[Any]) -> bool:
    return len(objects) == 1 and isinstance(objects[0], str | os.PathLike)


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.name for p in BUNDLED.iterdir() if (p / "model_index.json").exists()) if BUNDLED.exists() else []


def load_model(name_or_path: str | os.PathLike[str], preset: str | adm.Preset | None = None) -> Denoiser:
    """A bundled model by name, or by path a diffusers folder (with `model_index.json`) or an ADM checkpoint.

    preset: what an ADM checkpoint (`.pt`, `.pth`, `.safetensors`) is, see `adm.PRESETS`; only for those.

    Raises InputError if it is none of these, naming what is allowed, and for pickles, which are programs.
    """
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in bundled_models():
        path = BUNDLED / str(name_or_path)
    allowed = (
        f"a bundled model ({', '.join(bundled_models())}), a diffusers folder (with model_index.json) or an ADM "
        f"checkpoint ({', '.join(CHECKPOINTS)}) with its preset"
    )
    if not path.exists():
        raise InputError(f"there is no model {str(name_or_path)!r}: give {allowed}")
    if path.suffix in CHECKPOINTS and path.is_file():
        return adm.load(path, preset)
    if preset is not None:
        raise InputError(f"a preset is for checkpoints ({', '.join(CHECKPOINTS)}), but {path} is none: leave it out")
    if path.suffix in PICKLES:
        edm.refuse_pickle(path)
    if path.is_file():
        raise InputError(f"{path} cannot be loaded: give {allowed}; `eb-analyze models` lists what Python can adapt")
    return diffusers.adapt(path)
