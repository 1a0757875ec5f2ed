"""A chain as code to paste: for this package, and for a pipeline of diffusers."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from exposure_bias.adapters.rehearsal import FROM_CLIP, FROM_MODEL
from exposure_bias.running.setup import Setup

# Options that pipelines often carry over from another scheduler.
WIDTH = 80
SPELLED = ("timestep_spacing", "use_karras_sigmas")


def python_code(setup: Setup) -> str:
    """Return a call of `record` that makes a setup's chain of `model` and `data`."""
    run = setup.run
    options = [f"sampler={json.dumps(run.sampler)}", f"steps={run.steps}"]
    if not hasattr(setup.sampler, "scheduler") and run.spacing.value != "linspace":
        options.append(f'timestep_spacing="{run.spacing.value}"')
    if run.clip:
        options.append("clip=True" if run.clip.convention != "keep_epsilon" else CLIPPED)
    return _call("eb.record", ["model", "data", *options])


CLIPPED = 'clip="keep_epsilon"'


def diffusers_code(setup: Setup) -> str:
    """Return lines that give a pipeline `pipe` of diffusers a setup's chain.

    Returns "" for a sampler that is no scheduler of diffusers, and where x̂_0 is clipped, which not
    every scheduler can do. The options stand there that are not the class's own defaults, that
    pipelines often carry over (`SPELLED`), or that the scheduler in the model's folder has
    otherwise.
    """
    scheduler = getattr(setup.sampler, "scheduler", None)
    if scheduler is None or setup.run.clip:
        return ""
    config, name = scheduler.config, type(scheduler).__name__
    spelled = [f"{key}={_literal(value)}" for key, value in _options(config, setup).items()]
    made = _call(f"pipe.scheduler = {name}.from_config", ["pipe.scheduler.config", *spelled])
    return (
        f"from diffusers import {name}\n"
        f"{made}\n"
        f"images = pipe(num_inference_steps={setup.sampler.steps}).images"  # type: ignore[attr-defined]
    )


def _literal(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)


def _call(name: str, arguments: Sequence[str]) -> str:
    """A call on one line, or with a line for each argument."""
    short = f"{name}({', '.join(arguments)})"
    if len(short) <= WIDTH:
        return short
    lines = "".join(f"    {argument},\n" for argument in arguments)
    return f"{name}(\n{lines})"


def _options(config: Mapping[str, Any], setup: Setup) -> dict[str, Any]:
    """The options that have to be spelled out, by name."""
    import inspect

    scheduler = setup.sampler.scheduler  # type: ignore[attr-defined]
    folder = setup.model.sampling or {}
    found = {}
    for key, parameter in inspect.signature(type(scheduler).__init__).parameters.items():
        if key not in config or key in {*FROM_MODEL, *FROM_CLIP}:
            continue
        carried = key in SPELLED or (key in folder and folder[key] != config[key])
        if carried or config[key] != parameter.default:
            found[key] = config[key]
    return found
