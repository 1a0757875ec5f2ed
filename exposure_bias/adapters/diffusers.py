"""diffusers: a network and a scheduler, or a pipeline or local folder of the two.

The scheduler is read for what the network was trained under; the chain is ours, so any scheduler of a kind will do:

    scheduler                                schedule                      the network returns
    with betas (DDPM, DDIM, Euler, DPM, …)   ᾱ_t = Π (1 − β_s)             its `prediction_type`
    FlowMatch…, or with flow sigmas          α = 1 − t, σ = t, label T·t   ε − x_0
    EDM…                                     α = 1, label σ                F of D = c_skip x + c_out F(c_in x, ¼ ln σ)

ᾱ is the float64 product of the float32 betas, because a scheduler's own float32 ᾱ carries an error of 0.03 % in σ² at
the cleanest level. Betas rescaled to zero terminal SNR (Lin et al. 2023, arXiv 2305.08891, Alg. 1) end at ᾱ_T = 0, also
where a scheduler puts 2⁻²⁴. Preconditioning is that of Karras et al. 2022 (arXiv 2206.00364, eq. 7). What a scheduler
says about sampling (spacing, karras or shifted sigmas, clipping) is not read: that is the business of `record`.

With a guidance scale w the network sees both conditionings in one batch and ε̂ = ε_∅ + w (ε_c − ε_∅) (Ho & Salimans
2022, arXiv 2207.12598, eq. 6); a learned variance is that of the conditional half, as in `DiTPipeline`.
"""

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError
from exposure_bias.noise import Noise
from exposure_bias.schedules import PREDICTION_TYPES, Schedule, edm, flow, from_alphas_cumprod

Call = Callable[..., Tensor]

NETWORKS = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "SD3Transformer2DModel")
PACKED = ("Flux", "Chroma", "QwenImage", "Bria", "OvisImage", "LongCatImage")
DISTILLED = ("LCM", "TCD", "CMStochastic", "SCM", "FlowMatchLCM", "FlowMap", "ConsistencyDecoder", "HeliosDMD")
WHY_NOT_DISTILLED = "it jumps along its teacher's chain and is no E[x_0 | x_t], so it has no exposure bias to measure"
# Parts of a pipeline without which its network does not denoise, or denoises only half of the chain.
STEERING = ("controlnet", "adapter", "unet_2", "transformer_2", "prior", "prior_prior", "low_res_scheduler")


def adapt(
    *objects: Any,
    prediction_type: str | None = None,
    prompt_embeds: Tensor | None = None,
    negative_prompt_embeds: Tensor | None = None,
    pooled_prompt_embeds: Tensor | None = None,
    negative_pooled_prompt_embeds: Tensor | None = None,
    add_time_ids: Tensor | None = None,
    guidance_scale: float | None = None,
) -> Denoiser:
    """A Denoiser of (network, scheduler), of a pipeline, or of a pipeline's folder (a Path).

    Networks: UNet2DModel and DiTTransformer2DModel, whose class labels come with the data; UNet2DConditionModel and
    SD3Transformer2DModel, whose embeddings are given here, once for all samples, as the pipeline's `encode_prompt`
    returns them: prompt_embeds (1, tokens, width); pooled_prompt_embeds (1, width) for SD3 and SDXL; add_time_ids
    (1, 6) for SDXL. guidance_scale: w > 1 guides, away from the negative embeddings or from DiT's null class; None and
    1 do not. prediction_type: for a scheduler that does not say.

    A folder's weights are read as float32 and from safetensors only; nothing is downloaded or unpickled.

    Raises InputError for what is no denoiser of one state (distilled, cascaded, packed, conditioned on images), for a
    scheduler that does not fit the network, for embeddings that are missing, misshapen or of no use, and for a damaged
    folder. Warns of a DDPMPipeline whose own images are wrong under its scheduler.
    """
    net, common, sigma_data = _common(objects, prediction_type)
    guidance = _guidance(guidance_scale)
    embeddings = {
        "prompt_embeds": prompt_embeds,
        "negative_prompt_embeds": negative_prompt_embeds,
        "pooled_prompt_embeds": pooled_prompt_embeds,
        "negative_pooled_prompt_embeds": negative_pooled_prompt_embeds,
        "add_time_ids": add_time_ids,
    }
    conditions = _conditions(net, embeddings, guidance is not None)
    call: Call = _call
    if conditions:
        net = _Prompted(net, conditions)
        call = _call_prompted if guidance is None else _guided_by_prompt(guidance)
    elif guidance is not None:
        call = _guided_by_class(guidance, _null_class(net))
    call = call if sigma_data is None else _preconditioned(call, sigma_data)
    return Denoiser(net, call=call, guidance=guidance, **common)


def outline(*objects: Any) -> Denoiser:
    """What a pipeline's states and outputs mean, for watching it: `adapt` without prompts, not to be called."""
    net, common, _ = _common(objects, None)
    return Denoiser(net, **common)


def _common(objects: tuple[Any, ...], prediction_type: str | None) -> tuple[Any, dict[str, Any], float | None]:
    """The network, all of its Denoiser's settings that no prompt bears on, and σ_data if EDM preconditions it."""
    net, scheduler, name, pipeline = _parts(objects)
    _refuse(net, scheduler)
    if pipeline == "DDPMPipeline" and getattr(scheduler, "init_noise_sigma", 1) != 1:
        warnings.warn(
            f"DDPMPipeline runs with {type(scheduler).__name__}, but does not scale the initial noise and the network's"
            " input as that needs, so its own images are wrong; the chain here does",
            stacklevel=4,
        )
    config = net.config
    schedule, prediction, sigma_data = _training(scheduler, prediction_type)
    if sigma_data is not None and _learns_variance(config):
        raise InputError("a learned variance under EDM's preconditioning is not supported: no sampler there uses it")
    common = {
        "schedule": schedule,
        "prediction_type": prediction,
        "shape": _shape(config),
        "learned_variance": _learns_variance(config),
        "name": name or Path(config.get("_name_or_path") or type(net).__name__).name,
        "classes": _classes(config),
    }
    return net, common, sigma_data


def encode(
    vae: Any, images: Any, *, sample: bool = False, seed: int = 0, batch_size: int = 16, labels: Any = None
) -> Data:
    """The latents of images, as a latent model was trained on them: z = (E(x) − shift) · scale, (N, c, h, w).

    vae: an AutoencoderKL or another with `encode(x).latent_dist`; a VQModel, whose latents are no distribution.
    images, labels: as for `load_data`. sample: a draw of the posterior, seeded by image number, instead of its mean.

    Returns Data without a value range, whose note says what the latents are. Raises InputError for images that the
    autoencoder does not take.
    """
    images = load_data(images, labels=labels)
    channels = vae.config.in_channels
    if images.shape[0] != channels:
        raise InputError(f"the autoencoder takes {channels} channels, but {images.name} has {images.shape[0]}")
    parameter = next(vae.parameters())
    latents = []
    for ids in np.array_split(np.arange(len(images)), range(batch_size, len(images), batch_size)):
        with torch.no_grad():
            encoded = vae.encode(torch.from_numpy(images.batch(ids)).to(parameter.device, parameter.dtype))
        posterior = getattr(encoded, "latent_dist", None)
        if posterior is None and sample:
            raise InputError(f"the latents of a {type(vae).__name__} are no distribution to sample from: sample=False")
        z = (encoded.latents if posterior is None else posterior.mean).float()
        if posterior is not None and sample:
            noise = Noise(seed, "latents", ids.tolist(), tuple(z.shape[1:]), z.device)(0)
            z = z + posterior.std.float() * noise
        latents.append(_scaled(z, vae.config).cpu().numpy())
    kind = "latents" if posterior is None else "latents (posterior sample)" if sample else "latents (posterior mean)"
    note = "; ".join(filter(None, (kind, images.note)))
    return Data(np.concatenate(latents), images.name, images.split, images.labels, note, None)


def _scaled(z: Tensor, config: Any) -> Tensor:
    shift = torch.tensor(config.get("latents_mean") or [config.get("shift_factor") or 0.0], device=z.device)
    spread = torch.tensor(config.get("latents_std") or [1.0], device=z.device)
    return (z - shift.view(1, -1, 1, 1)) / spread.view(1, -1, 1, 1) * config.get("scaling_factor", 1.0)


def _parts(objects: tuple[Any, ...]) -> tuple[Any, Any, str, str]:
    """Network, scheduler, name and pipeline class of a pair, a pipeline or a folder; the last two "" if none."""
    if len(objects) == 1 and isinstance(objects[0], Path):
        return _read_folder(objects[0])
    if len(objects) == 1 and hasattr(objects[0], "components"):
        pipeline, parts = type(objects[0]).__name__, objects[0].components
        _check_pipeline(pipeline, parts)
        return parts.get("unet") or parts["transformer"], parts["scheduler"], "", pipeline
    if len(objects) == 2 and hasattr(objects[1], "config"):
        return *objects, "", ""
    came = ", ".join(type(o).__name__ for o in objects)
    raise InputError(f"a diffusers network needs its scheduler, got {came}: give (network, scheduler) or a pipeline")


def _check_pipeline(name: str, parts: Any) -> None:
    if any("Consistency" in word for word in (name, str(parts.get("scheduler")))):
        raise InputError(f"{name} holds a consistency model: {WHY_NOT_DISTILLED}")
    steering = [part for part in STEERING if parts.get(part) is not None]
    networks = [part for part in ("unet", "transformer") if parts.get(part) is not None]
    if steering or len(networks) != 1 or parts.get("scheduler") is None:
        raise InputError(
            f"{name} is not one network under one scheduler (it has {', '.join(steering or parts) or 'nothing'}): "
            "cascades and networks steered by others are not supported; adapt one stage as (network, scheduler)"
        )


def _read_folder(folder: Path) -> tuple[Any, Any, str, str]:
    import diffusers

    if not (folder / "model_index.json").exists():
        raise InputError(_no_pipeline(folder))
    try:
        index = json.loads((folder / "model_index.json").read_text())
        parts = {part: value[1] for part, value in index.items() if isinstance(value, list) and value[1]}
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise InputError(f"{folder}/model_index.json does not list a pipeline's parts: {error}") from error
    pipeline = str(index.get("_class_name"))
    _check_pipeline(pipeline, parts)
    part = "unet" if "unet" in parts else "transformer"
    _check_network_class(parts[part])
    scheduler_class: Any = getattr(diffusers, str(parts["scheduler"]), None)
    if scheduler_class is None or not str(parts["scheduler"]).endswith("Scheduler"):
        raise InputError(f"{folder} names the scheduler {parts['scheduler']}, which diffusers does not have")
    try:
        network_class: Any = getattr(diffusers, parts[part])
        net = network_class.from_pretrained(
            str(folder / part), local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
        )
        scheduler = scheduler_class.from_pretrained(str(folder / "scheduler"), local_files_only=True)
    except Exception as error:  # diffusers raises OSError, ValueError, RuntimeError and safetensors' own
        raise InputError(f"cannot load the diffusers folder {folder}: {str(error).splitlines()[0]}") from error
    return net.float(), scheduler, folder.name, pipeline


def _no_pipeline(folder: Path) -> str:
    try:
        name = json.loads((folder / "config.json").read_text())["_class_name"]
    except (OSError, ValueError, KeyError, TypeError):
        return f"{folder} is no diffusers pipeline folder: it has no model_index.json"
    return (
        f"{folder} holds a {name} without its scheduler: load both, as in "
        f"eb.adapt(diffusers.{name}.from_pretrained(folder), diffusers.DDPMScheduler(...)), or save the whole pipeline"
    )


def _check_network_class(name: str) -> None:
    if name in NETWORKS:
        return
    if name.startswith(PACKED):
        raise InputError(f"{name} works on latents packed to tokens, which have no rows and columns: not supported")
    raise InputError(
        f"networks of class {name} are not supported with a diffusers scheduler, only {', '.join(NETWORKS)}: of others "
        "say what is implicit with eb.Denoiser(net, schedule=, prediction_type=, shape=, call=)"
    )


def _refuse(net: Any, scheduler: Any) -> None:
    """Raise InputError unless the network maps one noisy state to a prediction, under a scheduler that fits it."""
    name = type(net).__name__
    _check_network_class(name)
    config = net.config
    if type(scheduler).__name__.startswith(DISTILLED):
        raise InputError(f"{type(scheduler).__name__} samples distilled models: {WHY_NOT_DISTILLED}")
    if config.get("time_cond_proj_dim") is not None:
        raise InputError(f"this {name} takes its guidance scale as an input, as distilled ones do: {WHY_NOT_DISTILLED}")
    if config.get("class_embed_type") is not None or (name == "UNet2DConditionModel" and config.num_class_embeds):
        raise InputError(
            f"this {name} is conditioned on a noise level or an embedding of other images (class_embed_type="
            f"{config.class_embed_type!r}), as in cascades: not supported"
        )
    if _out_channels(config) not in (config.in_channels, 2 * config.in_channels):
        raise InputError(
            f"a network from {config.in_channels} to {_out_channels(config)} channels also sees another image "
            "(inpainting, cascades, self-conditioning) or predicts no image: not supported"
        )
    levels = getattr(scheduler.config, "num_train_timesteps", None)
    if config.get("num_train_timesteps") not in (None, levels):
        raise InputError(
            f"the network knows {config.num_train_timesteps} timesteps, but the scheduler has {levels}: give the "
            "scheduler that the network was trained with"
        )
    variance = scheduler.config.get("variance_type")
    if variance == "learned_range" and not _learns_variance(config):
        raise InputError(f"the scheduler wants a learned variance, which this {name} does not predict: variance_type=")
    if variance == "learned":
        raise InputError("variance_type='learned' (log σ² itself) is not supported, only 'learned_range' is")


def _out_channels(config: Any) -> int:
    return int(config.out_channels or config.in_channels)


def _learns_variance(config: Any) -> bool:
    return _out_channels(config) == 2 * config.in_channels


def _shape(config: Any) -> tuple[int, int, int]:
    size = config.sample_size
    if size is None:
        raise InputError("the network's configuration lacks sample_size: set it to the images' height and width")
    height, width = (size, size) if isinstance(size, int) else size
    return config.in_channels, height, width


def _training(scheduler: Any, given: str | None) -> tuple[Schedule, str, float | None]:
    """What the network was trained under: schedule, prediction type and, where EDM preconditions it, σ_data.

    σ_data is negative where F predicts v, whose c_out has the other sign.
    """
    name, config = type(scheduler).__name__, scheduler.config
    stated = config.get("prediction_type")
    if config.get("invert_sigmas") or config.get("timestep_type") == "continuous":
        raise InputError(f"{name} with invert_sigmas or timestep_type='continuous' tells time otherwise: not supported")
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas") or stated == "flow_prediction":
        return flow(config.num_train_timesteps), _prediction_type("flow_prediction", given, name), None
    if name.startswith("EDM"):
        if _prediction_type(stated, given, name) not in ("epsilon", "v_prediction"):
            raise InputError(f"{name} with prediction_type={stated!r}: allowed are epsilon and v_prediction")
        sigma_data = config.sigma_data if stated == "epsilon" else -config.sigma_data
        return edm(config.sigma_min, config.sigma_max), "sample", sigma_data
    if not hasattr(scheduler, "betas") or not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"{name} states no schedule (it has no betas and is neither FlowMatch nor EDM): give the scheduler that "
            "the network was trained with, for example a DDPMScheduler"
        )
    abar = np.cumprod(1 - scheduler.betas.double().cpu().numpy())
    if not np.allclose(abar, scheduler.alphas_cumprod.double().cpu().numpy(), rtol=1e-3, atol=1e-7):
        raise InputError(f"{name} changes ᾱ beyond its betas, which is not supported: give a DDPMScheduler of that ᾱ")
    kind = "trained" if config.get("trained_betas") is not None else config.get("beta_schedule", "custom")
    return from_alphas_cumprod(abar, kind), _prediction_type(stated, given, name), None


def _prediction_type(stated: str | None, given: str | None, scheduler: str) -> str:
    if None not in (stated, given) and stated != given:
        raise InputError(f"prediction_type={given!r}, but {scheduler} says {stated!r}: leave it out or correct that")
    kind = stated or given
    if kind not in PREDICTION_TYPES:
        says = f"says prediction_type={stated!r}" if stated else "does not say what the network predicts"
        raise InputError(f"{scheduler} {says}: give prediction_type=, one of {', '.join(PREDICTION_TYPES)}")
    return kind


def _guidance(scale: float | None) -> float | None:
    if scale is None or scale == 1:
        return None
    if not 1 < scale < np.inf:
        raise InputError(f"guidance_scale is {scale}: give a number above 1 to guide, None or 1 not to")
    return float(scale)


def _classes(config: Any) -> int | None:
    classes = config.get("num_embeds_ada_norm") or config.get("num_class_embeds")
    return None if classes is None else int(classes)


def _null_class(net: Any) -> int:
    """DiT's extra label, which stands for no class."""
    if type(net).__name__ != "DiTTransformer2DModel":
        raise InputError(f"{type(net).__name__} has no null class to guide away from: leave guidance_scale out")
    return int(net.config.num_embeds_ada_norm)


def _conditions(net: Any, embeddings: dict[str, Tensor | None], guided: bool) -> dict[str, Tensor]:
    """What a prompted network is called with, (1, …) or, guided, (2, …) with the unconditional first; else nothing."""
    name, config = type(net).__name__, net.config
    if config.get("addition_embed_type") not in (None, "text_time") or config.get("encoder_hid_dim_type"):
        raise InputError(f"this {name} is conditioned on more than text (images or other encoders): not supported")
    takes = ["prompt_embeds"] if name in ("UNet2DConditionModel", "SD3Transformer2DModel") else []
    if name == "SD3Transformer2DModel" or config.get("addition_embed_type") == "text_time":
        takes.append("pooled_prompt_embeds")
    needs = {key: [f"negative_{key}", key] if guided else [key] for key in takes}
    if config.get("addition_embed_type") == "text_time":
        needs["add_time_ids"] = ["add_time_ids"] * (2 if guided else 1)
    given = {key: value for key, value in embeddings.items() if value is not None}
    keys = [key for pair in needs.values() for key in pair]
    how = "with" if guided else "without"
    for key in [*keys, *given]:
        if key not in given:
            raise InputError(f"{name} {how} guidance needs {key}=, a tensor (1, …), as pipe.encode_prompt returns it")
        if key not in keys:
            raise InputError(f"{name} {how} guidance does not take {key}: leave it out")
        if not isinstance(given[key], Tensor) or given[key].dim() < 2 or len(given[key]) != 1:
            came = tuple(given[key].shape) if isinstance(given[key], Tensor) else type(given[key]).__name__
            raise InputError(f"{key} is {came}: give one tensor (1, …) for all samples")
    for pair in needs.values():
        shapes = [tuple(given[key].shape) for key in pair]
        if len(set(shapes)) > 1:
            raise InputError(f"{' and '.join(pair)} differ in shape, {shapes[0]} and {shapes[1]}: encode them alike")
    width = config.get("cross_attention_dim") or config.get("joint_attention_dim")
    if takes and isinstance(width, int) and given["prompt_embeds"].shape[2:] != (width,):
        came = tuple(given["prompt_embeds"].shape)
        raise InputError(f"prompt_embeds has shape {came}, but this {name} takes (1, tokens, {width})")
    return {name: torch.cat([given[key] for key in pair]) for name, pair in needs.items()}


class _Prompted(torch.nn.Module):
    """A network with its embeddings, (K, …): it returns the outputs of all K conditionings, one after another.

    The embeddings are buffers, so that they move with the network and count in its weight hash.
    """

    def __init__(self, net: Any, conditions: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = net
        for name, value in conditions.items():
            self.register_buffer(name, value.detach().to(net.device, net.dtype))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        conditions = {name: value.repeat_interleave(len(x), 0) for name, value in self.named_buffers(recurse=False)}
        count = len(conditions["prompt_embeds"]) // len(x)
        inputs: dict[str, Any] = {
            "encoder_hidden_states": conditions["prompt_embeds"],
            "timestep": timestep.repeat(count),
        }
        pooled = conditions.get("pooled_prompt_embeds")
        if "add_time_ids" in conditions:
            inputs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": conditions["add_time_ids"]}
        elif pooled is not None:
            inputs["pooled_projections"] = pooled
        output: Tensor = self.net(x.repeat(count, 1, 1, 1), **inputs, return_dict=False)[0]
        return output


def _call(net: Any, x: Tensor, timestep: Tensor, *labels: Tensor) -> Tensor:
    output: Tensor = net(x, timestep, *labels, return_dict=False)[0]
    return output


def _call_prompted(net: Any, x: Tensor, timestep: Tensor) -> Tensor:
    output: Tensor = net(x, timestep)
    return output


def _guided_by_prompt(scale: float) -> Call:
    def call(net: Any, x: Tensor, timestep: Tensor) -> Tensor:
        unconditional, conditional = net(x, timestep).chunk(2)
        return _guide(unconditional, conditional, scale, x.shape[1])

    return call


def _guided_by_class(scale: float, null: int) -> Call:
    def call(net: Any, x: Tensor, timestep: Tensor, labels: Tensor) -> Tensor:
        both = torch.cat([labels, torch.full_like(labels, null)])
        conditional, unconditional = _call(net, torch.cat([x, x]), torch.cat([timestep, timestep]), both).chunk(2)
        return _guide(unconditional, conditional, scale, x.shape[1])

    return call


def _guide(unconditional: Tensor, conditional: Tensor, scale: float, channels: int) -> Tensor:
    u, c = unconditional[:, :channels], conditional[:, :channels]
    return torch.cat([u + scale * (c - u), conditional[:, channels:]], dim=1)


def _preconditioned(call: Call, sigma_data: float) -> Call:
    def denoise(net: Any, x: Tensor, sigma: Tensor, *labels: Tensor) -> Tensor:
        s = sigma.to(x.dtype).view(-1, 1, 1, 1)
        norm = (s**2 + sigma_data**2) ** 0.5
        output = call(net, x / norm, sigma.log() / 4, *labels)
        return (sigma_data / norm) ** 2 * x + s * sigma_data / norm * output

    return denoise
