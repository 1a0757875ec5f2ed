"""From what users have to a `Denoiser`: one short file per model family.

`adapt` takes objects, `load_model` what lies on disk or in the package. A family's library is imported only for objects
of that family, and a prediction type is read, never guessed.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError

if TYPE_CHECKING:
    from exposure_bias.adapters.adm import Preset

BUNDLED = Path(__file__).parent.parent / "models"
CHECKPOINTS = (".pt", ".pth", ".safetensors")


def adapt(*objects: Any) -> Denoiser:
    """A `Denoiser` of a model: a Denoiser itself, a name or path for `load_model`, a diffusers (UNet2DModel,
    scheduler) pair or a diffusers pipeline of the two, or guided-diffusion's (model, diffusion).

    Raises InputError for anything else.
    """
    if len(objects) == 1 and isinstance(objects[0], Denoiser):
        return objects[0]
    if len(objects) == 1 and isinstance(objects[0], str | os.PathLike):
        return load_model(objects[0])
    if any(type(o).__module__.startswith("diffusers.") for o in objects):
        from exposure_bias.adapters import diffusers

        return diffusers.adapt(*objects)
    from exposure_bias.adapters import guided_diffusion

    if any(guided_diffusion.is_diffusion(o) for o in objects):
        return guided_diffusion.adapt(*objects)
    came = ", ".join(type(o).__name__ for o in objects) or "nothing"
    raise InputError(
        f"cannot adapt {came}: give a diffusers (model, scheduler) pair or pipeline, a guided-diffusion (model, "
        "diffusion) pair, or say what is implicit with Denoiser(net, schedule=, prediction_type=, shape=)"
    )


def bundled_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.name for p in BUNDLED.iterdir() if (p / "model_index.json").exists()) if BUNDLED.exists() else []


def load_model(name_or_path: str | os.PathLike[str], preset: "str | Preset | None" = None) -> Denoiser:
    """A bundled model by name, or by path a diffusers folder (with `model_index.json`) or an ADM checkpoint.

    preset: what an ADM checkpoint (`.pt`, `.pth`, `.safetensors`) is, see `adm.PRESETS`; only for those.

    Raises InputError if it is none of these, naming what is allowed.
    """
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in bundled_models():
        path = BUNDLED / str(name_or_path)
    if not path.exists():
        names = ", ".join(bundled_models())
        raise InputError(
            f"there is no model {str(name_or_path)!r}: give one of {names}, a diffusers folder, or a checkpoint"
        )
    if path.suffix in CHECKPOINTS and path.is_file():
        from exposure_bias.adapters import adm

        return adm.load(path, preset)
    if preset is not None:
        raise InputError(f"a preset is for checkpoints ({', '.join(CHECKPOINTS)}), but {path} is none: leave it out")
    if not (path / "model_index.json").exists():
        raise InputError(f"{path} is no diffusers pipeline folder: it has no model_index.json")
    from exposure_bias.adapters import diffusers

    return diffusers.load(path)
