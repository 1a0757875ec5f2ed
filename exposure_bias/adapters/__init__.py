"""From what users have to a `Denoiser`: one short file per model family.

`adapt` takes objects, `load_model` what lies on disk or in the package. A family's library is
imported only for objects of that family, and a prediction type is read, never guessed."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exposure_bias import strangers
from exposure_bias.adapters import (
    adm,
    ddpm_pytorch,
    diffusers,
    edm,
    exported,
    flow_matching,
    guided_diffusion,
    hub,
    k_diffusion,
    laws,
    sequence_network,
)
from exposure_bias.adapters.unwrap import precision_note, unwrapped
from exposure_bias.data import bundled
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.schedules import PREDICTION_TYPES

# What can be adapted or loaded: in Python, and at the command line if at all. docs/models.md shows
# each at work.
FAMILIES = {
    "bundled": ('load_model("digits")', "--model digits"),
    "diffusers": (
        "adapt(network, scheduler), adapt(pipeline), load_model(FOLDER)",
        "--model FOLDER",
    ),
    "the hub's diffusers models": (
        'load_model("org/name"), load_model("org/name@revision")',
        "--model ORG/NAME",
    ),
    "ADM checkpoint": ("load_model(FILE, preset=NAME)", "--model FILE --preset NAME"),
    "guided-diffusion": ("adapt(model, diffusion), adapt(model, diffusion, (C, H, W))", ""),
    "EDM, EDM2": ("adapt(net)", ""),
    "denoising-diffusion-pytorch": ("adapt(diffusion)", ""),
    "flow_matching": ("adapt(model, path, (C, H, W))", ""),
    "k-diffusion": ("adapt(wrapper, (C, H, W)), adapt(wrapper, schedule, (C, H, W))", ""),
    "any function or module": ("Denoiser(net, schedule=, prediction_type=, shape=)", ""),
}
DISTILLED = ("Consistency", "ECMPrecond", "CTPrecond")
CHECKPOINTS = adm.SUFFIXES
PICKLES = (".pkl", ".pickle")


def adapt(
    *objects: Any,
    prediction_type: str | None = None,
    prompts: Sequence[str] | None = None,
    negative_prompt: str | None = None,
    prompt_embeds: Any = None,
    negative_prompt_embeds: Any = None,
    pooled_prompt_embeds: Any = None,
    negative_pooled_prompt_embeds: Any = None,
    prompt_attention_mask: Any = None,
    negative_prompt_attention_mask: Any = None,
    add_time_ids: Any = None,
    guidance_scale: float | None = None,
    shape: Sequence[int] | None = None,
    encoded: Path | None = None,
) -> Denoiser:
    """Make a `Denoiser` of a model.

    Parameters
    ----------
    *objects
        A Denoiser itself, a name or path for `load_model`, or objects of one of `FAMILIES`.
        Wrapped networks (compiled, parallel, averaged) are unwrapped: see `adapters.unwrap`.
    **options
        For diffusers' models: prompts, guidance, the size of states and an unstated prediction
        type. See `adapters.diffusers.adapt`.

    Returns
    -------
    Denoiser
        Nothing that is given is changed, its mode of training or evaluation included.

    Raises
    ------
    InputError
        For anything else, for distilled models, and for a network alone, because nobody can know
        what it returns."""
    options = {
        "prediction_type": prediction_type,
        "prompts": prompts,
        "negative_prompt": negative_prompt,
        "prompt_embeds": prompt_embeds,
        "negative_prompt_embeds": negative_prompt_embeds,
        "pooled_prompt_embeds": pooled_prompt_embeds,
        "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
        "prompt_attention_mask": prompt_attention_mask,
        "negative_prompt_attention_mask": negative_prompt_attention_mask,
        "add_time_ids": add_time_ids,
        "guidance_scale": guidance_scale,
        "shape": shape,
        "encoded": encoded,
    }
    given = {key: value for key, value in options.items() if value is not None}
    if _is_path(objects):
        return diffusers.adapt(place_of(objects[0]), **given) if given else load_model(objects[0])
    objects = tuple(unwrapped(o) for o in objects)
    if any(_is_of_diffusers(o) for o in objects):
        return diffusers.adapt(*objects, **given)
    if given:
        raise InputError(f"{', '.join(given)} are only for diffusers models: leave them out")
    if len(objects) == 1 and isinstance(objects[0], Denoiser):
        return objects[0]
    model = _of_a_family(objects)
    model.note = "; ".join(
        filter(None, (model.note, laws.check(objects), precision_note(model.net)))
    )
    return model


def _is_of_diffusers(value: Any) -> bool:
    return any(base.__module__.startswith("diffusers.") for base in type(value).__mro__)


def _of_a_family(objects: tuple[Any, ...]) -> Denoiser:
    """The Denoiser that the first family makes which recognises one of the objects."""
    _refuse_distilled(objects)
    if any(guided_diffusion.is_diffusion(o) for o in objects):
        return guided_diffusion.adapt(*objects)
    for family in (edm, ddpm_pytorch, flow_matching, k_diffusion):
        if any(family.recognises(o) for o in objects):
            return family.adapt(*objects)
    came = ", ".join(type(o).__name__ for o in objects) or "nothing"
    raise InputError(
        f"cannot adapt {came}: known are {', '.join(list(FAMILIES)[1:-1])} (docs/models.md); of any"
        " other model say what is implicit with Denoiser(net, schedule=, prediction_type=,"
        f" shape=(C, H, W)), where prediction_type is {', '.join(PREDICTION_TYPES[:-1])} or"
        f" {PREDICTION_TYPES[-1]}"
    )


def _refuse_distilled(objects: Sequence[Any]) -> None:
    for o in objects:
        name = type(o).__name__
        if any(word in name for word in DISTILLED) or getattr(o, "distillation", False) is True:
            raise InputError(
                f"{name} is distilled: it jumps along its teacher's chain and is no E[x_0 | x_t],"
                " so it has no exposure bias to measure; adapt its teacher"
            )


def _is_path(objects: Sequence[Any]) -> bool:
    return len(objects) == 1 and isinstance(objects[0], str | os.PathLike)


def load_model(
    name_or_path: str | os.PathLike[str], preset: str | adm.Preset | None = None
) -> Denoiser:
    """A model by its name or path.

    A bundled model by name; by path a diffusers folder, a run of `train`, which is its last
    checkpoint, or an ADM checkpoint; and what is none of these but looks like it, "org/name" or
    "org/name@revision", from the hub.

    preset: what an ADM checkpoint (a file of `CHECKPOINTS`) is, see `adm.PRESETS`; only for those.
    Layouts of folders: see `adapters.pipelines`. "module:NAME" is imported, and if it is a function
    called: it gives what `adapt` takes.
    What is fetched from the hub: see `adapters.hub`; its model's `source` says what it was.

    Raises InputError if it is none of these, naming what is allowed, and for pickles, which are
    programs."""
    if strangers.is_name(name_or_path):
        text = os.fspath(name_or_path)
        _refuse_preset(preset, text)
        return adapt(strangers.made(text, "model"))
    place = place_of(name_or_path)
    if isinstance(place, hub.Downloads):
        _refuse_preset(preset, place.name)
        return diffusers.adapt(place)
    if place.is_file():
        exported.refuse(place)
    if place.suffix in PICKLES:
        edm.refuse_pickle(place)
    if place.is_file() and place.suffix in CHECKPOINTS:
        return adm.load(place, preset)
    _refuse_preset(preset, str(place))
    if place.parent == bundled.FOLDER and place.name in bundled.SEQUENCES:
        return sequence_network.load(place)
    if not place.is_dir():
        kind = "is no folder and no regular file" if not place.is_file() else "cannot be loaded"
        raise InputError(
            f"{place} {kind}: give {_allowed()}; `eb-analyze models` lists what Python can adapt"
        )
    run = place
    if (run / "last" / "model_index.json").exists():
        place = run / "last"
    model = diffusers.adapt(place)
    if place != run:
        model.name = run.name
    return model


def place_of(name: str | os.PathLike[str]) -> "Path | hub.Downloads":
    """The file or folder that a name means, or a repository of the hub.

    Raises InputError where there is none.
    """
    if not isinstance(name, str | os.PathLike):
        raise InputError(
            f"a model's name or path is text, got {type(name).__name__}: give {_allowed()}"
        )
    text = os.fspath(name)
    if text in _bundled():
        if os.path.exists(text):
            warnings.warn(
                f"{text!r} is the bundled model, not ./{text}: write ./{text} for that",
                stacklevel=3,
            )
        return bundled.FOLDER / text
    path = Path(os.path.expanduser(text))
    if text and os.path.exists(path):  # unlike Path.exists, never raises
        if text.encode(errors="replace").decode() != text:
            raise InputError(f"cannot load {text}: the name is no text (UTF-8); rename it")
        return path
    if hub.is_name(text, (*CHECKPOINTS, *PICKLES)):
        return hub.find(text)
    raise InputError(f"there is no model {text!r}: give {_allowed()}")


def _allowed() -> str:
    return (
        f"a bundled model ({', '.join(_bundled())}), a diffusers folder (with"
        " model_index.json), a name of the hub (org/name) or an ADM checkpoint"
        f" ({', '.join(CHECKPOINTS)}) with its preset"
    )


def _bundled() -> list[str]:
    return [*bundled.models(), *bundled.sequence_models()]


def _refuse_preset(preset: Any, what: str) -> None:
    if preset is not None:
        raise InputError(
            f"a preset is for checkpoints ({', '.join(CHECKPOINTS)}), but {what} is none: leave"
            " it out"
        )
