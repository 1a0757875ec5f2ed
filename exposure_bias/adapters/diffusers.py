"""diffusers: an unconditional `UNet2DModel` with a DDPM or DDIM scheduler.

The scheduler is read for its betas and its prediction type; the chain is ours. ᾱ is the float64 product of its float32
betas, because its own float32 ᾱ carries an error of 0.03 % in σ² at the cleanest level.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.schedules import from_alphas_cumprod

SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
LEARNED_VARIANCES = ("learned", "learned_range")


def adapt(*objects: Any) -> Denoiser:
    """A Denoiser of (UNet2DModel, scheduler), or of a pipeline with attributes `unet` and `scheduler`."""
    if len(objects) == 1 and hasattr(objects[0], "unet") and hasattr(objects[0], "scheduler"):
        objects = (objects[0].unet, objects[0].scheduler)
    if len(objects) != 2:
        raise InputError("a diffusers model needs its scheduler: give adapt(model, scheduler) or a pipeline")
    net, scheduler = objects
    if type(net).__name__ != "UNet2DModel":
        raise InputError(f"diffusers models of class {type(net).__name__} are not supported yet: give a UNet2DModel")
    if type(scheduler).__name__ not in SCHEDULERS:
        raise InputError(f"scheduler {type(scheduler).__name__} is not supported yet: give {' or '.join(SCHEDULERS)}")
    config = net.config
    if net.class_embedding is not None:
        raise InputError("class-conditional UNets are not supported yet: give an unconditional UNet2DModel")
    learned = config.out_channels == 2 * config.in_channels
    if config.out_channels not in (config.in_channels, 2 * config.in_channels):
        raise InputError(
            f"a UNet with {config.in_channels} input and {config.out_channels} output channels is no denoiser"
        )
    size = config.sample_size
    if size is None:
        raise InputError("the UNet's configuration lacks sample_size: set it to the images' height and width")
    height, width = (size, size) if isinstance(size, int) else size
    return Denoiser(
        net,
        schedule=from_alphas_cumprod(
            np.cumprod(1 - scheduler.betas.double().numpy()), name=scheduler.config.beta_schedule
        ),
        prediction_type=scheduler.config.prediction_type,
        shape=(config.in_channels, height, width),
        call=_call,
        learned_variance=learned,
        name=Path(config.get("_name_or_path") or "UNet2DModel").name,
    )


def _call(net: Any, x: Tensor, timestep: Tensor) -> Tensor:
    output: Tensor = net(x, timestep, return_dict=False)[0]
    return output


def load(folder: Path) -> Denoiser:
    """A Denoiser of a pipeline folder, weights in float32, from safetensors only, nothing downloaded.

    Raises InputError for a damaged folder, weights that would have to be unpickled, or an unsupported class.
    """
    import diffusers

    try:
        index = json.loads((folder / "model_index.json").read_text())
        net_class, scheduler_class = (index[part][1] for part in ("unet", "scheduler"))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError(f"{folder}/model_index.json does not name a unet and a scheduler: {error}") from error
    if net_class != "UNet2DModel" or scheduler_class not in SCHEDULERS:
        raise InputError(
            f"{folder} holds {net_class} with {scheduler_class}: supported are UNet2DModel with "
            f"{' or '.join(SCHEDULERS)}"
        )
    try:
        net = diffusers.UNet2DModel.from_pretrained(
            str(folder / "unet"), local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        ).float()
        scheduler = getattr(diffusers, scheduler_class).from_pretrained(
            str(folder / "scheduler"), local_files_only=True
        )
    except Exception as error:  # diffusers raises OSError, ValueError, RuntimeError and safetensors' own
        raise InputError(f"cannot load the diffusers folder {folder}: {str(error).splitlines()[0]}") from error
    model = adapt(net, scheduler)
    model.name = folder.name
    return model
