"""From what users have to a `Denoiser`: one short file per model family.

`adapt` takes objects, `load_model` what lies on disk or in the package. A family's library is imported only for objects
of that family, and a prediction type is read, never guessed.
"""

import os
from pathlib import Path
from typing import Any

from exposure_bias.adapters import ddpm_pytorch, edm, flow_matching, k_diffusion
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.schedules import PREDICTION_TYPES

# What can be adapted or loaded: in Python, and at the command line if at all. docs/models.md shows each at work.
FAMILIES = {
    "bundled": ('load_model("digits")', "--model digits"),
    "diffusers": ("adapt(network, scheduler), adapt(pipeline), load_model(FOLDER)", "--model FOLDER"),
    "EDM, EDM2": ("adapt(net)", ""),
    "denoising-diffusion-pytorch": ("adapt(diffusion)", ""),
    "flow_matching": ("adapt(model, path, (C, H, W))", ""),
    "k-diffusion": ("adapt(wrapper, (C, H, W)), adapt(wrapper, schedule, (C, H, W))", ""),
    "any function or module": ("Denoiser(net, schedule=, prediction_type=, shape=)", ""),
}
DISTILLED = ("Consistency", "ECMPrecond", "CTPrecond")
BUNDLED = Path(__file__).parent.parent / "models"


def adapt(*objects: Any) -> Denoiser:
    """A `Denoiser` of a model: a Denoiser itself, a name or path for `load_model`, or the objects of one of `FAMILIES`.

    Raises InputError for anything else, for distilled models, and for a network alone: what it returns cannot be known.
    """
    if len(objects) == 1 and isinstance(objects[0], Denoiser):
        return objects[0]
    if len(objects) == 1 and isinstance(objects[0], str | os.PathLike):
        return load_model(objects[0])
    if any(type(o).__module__.startswith("diffusers.") for o in objects):
        from exposure_bias.adapters import diffusers

        return diffusers.adapt(*objects)
    _refuse_distilled(objects)
    for family in (edm, ddpm_pytorch, flow_matching, k_diffusion):
        if any(family.recognises(o) for o in objects):
            return family.adapt(*objects)
    came = ", ".join(type(o).__name__ for o in objects) or "nothing"
    raise InputError(
        f"cannot adapt {came}: known are {', '.join(list(FAMILIES)[1:-1])} (docs/models.md); of any other model say "
        "what is implicit with Denoiser(net, schedule=, prediction_type=, shape=(C, H, W)), where prediction_type is "
        f"{', '.join(PREDICTION_TYPES[:-1])} or {PREDICTION_TYPES[-1]}"
    )


def _refuse_distilled(objects: tuple[Any, ...]) -> None:
    for o in objects:
        name = type(o).__name__
        if any(word in name for word in DISTILLED) or getattr(o, "distillation", False) is True:
            raise InputError(
                f"{name} is distilled: it jumps along its teacher's chain and is no E[x_0 | x_t], so it has no "
                "exposure bias to measure; adapt its teacher"
            )


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.name for p in BUNDLED.iterdir() if (p / "model_index.json").exists()) if BUNDLED.exists() else []


def load_model(name_or_path: str | os.PathLike[str]) -> Denoiser:
    """A bundled model by name, or a diffusers folder (with `model_index.json`) by path.

    Raises InputError if it is neither, naming what is allowed, and for pickles, which are programs.
    """
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in bundled_models():
        path = BUNDLED / str(name_or_path)
    if not path.exists():
        names = ", ".join(bundled_models())
        raise InputError(f"there is no model {str(name_or_path)!r}: give one of {names}, or a diffusers folder")
    if path.suffix in (".pkl", ".pickle"):
        edm.refuse_pickle(path)
    if not (path / "model_index.json").exists():
        names = ", ".join(bundled_models())
        raise InputError(
            f"{path} cannot be loaded: give a bundled model ({names}) or a diffusers folder (with model_index.json); "
            "`eb-analyze models` lists what else can be adapted in Python"
        )
    from exposure_bias.adapters import diffusers

    return diffusers.load(path)
