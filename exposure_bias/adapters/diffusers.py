"""diffusers: a network and a scheduler, or a pipeline or local folder of the two.

The scheduler is read for what the network was trained under; the chain is ours, so any scheduler of
a kind will do:

    scheduler                                schedule                      the network returns
    with betas (DDPM, DDIM, Euler, DPM, …)   ᾱ_t = Π (1 − β_s)             its `prediction_type`
    FlowMatch…, or with flow sigmas          α = 1 − t, σ = t, label T·t   ε − x_0
    EDM…                                     α = 1, label σ  F of c_skip x + c_out F(c_in x, ¼ ln σ)

ᾱ is the float64 product of the float32 betas, because a scheduler's own float32 ᾱ carries an error
of 0.03 % in σ² at the cleanest level. Betas rescaled to zero terminal SNR (Lin et al. 2023, arXiv
2305.08891, Alg. 1) end at ᾱ_T = 0, also where a scheduler puts 2⁻²⁴. Preconditioning is that of
Karras et al. 2022 (arXiv 2206.00364, eq. 7). What a scheduler says about sampling (spacing, karras
or shifted sigmas, clipping) is the business of `record`, which says what it leaves out.

With a guidance scale w the network sees both conditionings in one batch and ε̂ = ε_∅ + w (ε_c −
ε_∅) (Ho & Salimans 2022, arXiv 2207.12598, eq. 6); a learned variance is that of the conditional
half, as in `DiTPipeline`."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exposure_bias.adapters import pipelines, sampling
from exposure_bias.adapters.hub import Downloads
from exposure_bias.adapters.unwrap import precision_note, unwrapped
from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import Denoiser, evaluating
from exposure_bias.errors import InputError, reason
from exposure_bias.files.library import class_among
from exposure_bias.paths import Noise
from exposure_bias.schedules import PREDICTION_TYPES, Schedule, edm, flow, from_alphas_cumprod

Call = Callable[..., Tensor]

NETWORKS = ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "SD3Transformer2DModel")
PACKED = ("Flux", "Chroma", "QwenImage", "Bria", "OvisImage", "LongCatImage")
DISTILLED = (
    "LCM",
    "TCD",
    "CMStochastic",
    "SCM",
    "FlowMatchLCM",
    "FlowMap",
    "ConsistencyDecoder",
    "HeliosDMD",
)
WHY_NOT_DISTILLED = (
    "it jumps along its teacher's chain and is no E[x_0 | x_t], so it has no exposure bias to"
    " measure"
)
# Parts of a pipeline without which its network does not denoise, or denoises only half of the
# chain.
STEERING = (
    "controlnet",
    "adapter",
    "unet_2",
    "transformer_2",
    "prior",
    "prior_prior",
    "low_res_scheduler",
)


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
    """A Denoiser of diffusers' objects.

    Of (network, scheduler), of a pipeline, of a pipeline's folder (a Path) or of a repository of
    the hub.

    Networks: UNet2DModel and DiTTransformer2DModel, whose class labels come with the data;
    UNet2DConditionModel and SD3Transformer2DModel, whose embeddings are given here, once for all
    samples, as the pipeline's `encode_prompt` returns them: prompt_embeds (1, tokens, width);
    pooled_prompt_embeds (1, width) for SD3 and SDXL; add_time_ids (1, 6) for SDXL. guidance_scale:
    w > 1 guides, away from the negative embeddings or from DiT's null class; None and 1 do not.
    prediction_type: for a scheduler that does not say.

    Networks may be wrapped (`unwrap`) and of subclasses. A folder's weights are read as float32 and
    from safetensors only; nothing is unpickled and no code of a repository runs (`pipelines`,
    `hub`).

    Raises InputError for what is no denoiser of one state (distilled, cascaded, packed, conditioned
    on images), for a scheduler that does not fit the network, for embeddings that are missing,
    misshapen or of no use, and for a damaged folder. Warns of a DDPMPipeline whose own images are
    wrong under its scheduler."""
    origin = _parts(objects)
    net, common, sigma_data = _common(origin, prediction_type)
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
    return _noted(Denoiser(net, call=call, guidance=guidance, **common), origin)


def outline(*objects: Any) -> Denoiser:
    """What a pipeline's states and outputs mean, for watching it.

    It is `adapt` without prompts, not to be called."""
    origin = _parts(objects)
    net, common, _ = _common(origin, None)
    return _noted(Denoiser(net, **common), origin)


def _noted(model: Denoiser, origin: "_Origin") -> Denoiser:
    """The model, with where it came from and what a reader of its numbers must know."""
    model.source, model.sampling = origin.source, origin.sampling
    if origin.sampling:
        model._call = _telling(model._call, model.name)
    model.note = "; ".join(filter(None, (origin.note, precision_note(origin.net))))
    return model


def _common(
    origin: "_Origin", prediction_type: str | None
) -> tuple[Any, dict[str, Any], float | None]:
    """The network, the settings of its Denoiser that no prompt bears on, and σ_data.

    σ_data is None unless EDM preconditions the network."""
    net, scheduler, name, pipeline = origin.net, origin.scheduler, origin.name, origin.pipeline
    _refuse(net, scheduler)
    if pipeline == "DDPMPipeline" and getattr(scheduler, "init_noise_sigma", 1) != 1:
        warnings.warn(
            f"DDPMPipeline runs with {type(scheduler).__name__}, but does not scale the initial"
            " noise and the network's input as that needs, so its own images are wrong; the chain"
            " here does",
            stacklevel=4,
        )
    config = net.config
    schedule, prediction, sigma_data = _training(scheduler, prediction_type)
    if sigma_data is not None and _learns_variance(config):
        raise InputError(
            "a learned variance under EDM's preconditioning is not supported: no sampler there"
            " uses it"
        )
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
    vae: Any,
    images: Any,
    *,
    sample: bool = False,
    seed: int = 0,
    batch_size: int = 16,
    labels: Any = None,
) -> Data:
    """The latents of images, as a latent model was trained on them.

    z = (E(x) − shift) · scale, (N, c, h, w).

    vae: an AutoencoderKL or another with `encode(x).latent_dist`; a VQModel, whose latents are no
    distribution.
    images, labels: as for `load_data`. sample: a draw of the posterior, seeded by image number,
    instead of its mean.

    Returns Data without a value range, whose note says what the latents are. Raises InputError for
    images that the autoencoder does not take, for a batch_size that is no whole number of at least
    1, and for latents that are not finite, as half precision makes of some autoencoders."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size is a whole number of at least 1, got {batch_size!r}")
    vae = unwrapped(vae)
    images = load_data(images, labels=labels)
    channels = vae.config.in_channels
    if images.shape[0] != channels:
        raise InputError(
            f"the autoencoder takes {channels} channels, but {images.name} has {images.shape[0]}"
        )
    parameter = next(vae.parameters())
    latents = []
    for ids in np.array_split(np.arange(len(images)), range(batch_size, len(images), batch_size)):
        with torch.no_grad(), evaluating(vae):
            encoded = vae.encode(
                torch.from_numpy(images.batch(ids)).to(parameter.device, parameter.dtype)
            )
        posterior = getattr(encoded, "latent_dist", None)
        if posterior is None and sample:
            raise InputError(
                f"the latents of a {type(vae).__name__} are no distribution to sample from:"
                " sample=False"
            )
        z = (encoded.latents if posterior is None else posterior.mean).float()
        if posterior is not None and sample:
            noise = Noise(seed, "latents", ids.tolist(), tuple(z.shape[1:]), z.device)(0)
            z = z + posterior.std.float() * noise
        z = _scaled(z, vae.config)
        if not torch.isfinite(z).all():
            raise InputError(
                f"the autoencoder, in {str(parameter.dtype).removeprefix('torch.')}, made NaN or"
                f" Inf of some of images {ids[0]} to {ids[-1]}: encode in float32,"
                " encode(vae.float(), ...)"
            )
        latents.append(z.cpu().numpy())
    kind = (
        "latents"
        if posterior is None
        else "latents (posterior sample)"
        if sample
        else "latents (posterior mean)"
    )
    note = "; ".join(filter(None, (kind, images.note)))
    return Data(np.concatenate(latents), images.name, images.split, images.labels, note, None)


def _scaled(z: Tensor, config: Any) -> Tensor:
    shift = torch.tensor(
        config.get("latents_mean") or [config.get("shift_factor") or 0.0], device=z.device
    )
    spread = torch.tensor(config.get("latents_std") or [1.0], device=z.device)
    return (
        (z - shift.view(1, -1, 1, 1)) / spread.view(1, -1, 1, 1) * config.get("scaling_factor", 1.0)
    )


@dataclass(frozen=True, eq=False)
class _Origin:
    """Network and scheduler, and where they came from.

    Of a pipeline or a repository also its class and its name."""

    net: Any
    scheduler: Any
    name: str = ""
    pipeline: str = ""
    source: dict[str, Any] | None = None
    note: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)


def _parts(objects: tuple[Any, ...]) -> _Origin:
    """What a pair, a pipeline, a folder or a repository of the hub holds."""
    if len(objects) == 1 and isinstance(objects[0], Path):
        return _read(pipelines.local(objects[0]), objects[0].name)
    if len(objects) == 1 and isinstance(objects[0], Downloads):
        downloads = objects[0]
        return replace(_read(downloads.repository, downloads.name), source=downloads.source())
    if len(objects) == 1 and hasattr(objects[0], "components"):
        pipeline, parts = type(objects[0]).__name__, objects[0].components
        _check_pipeline(pipeline, parts)
        # Not `or`: a compiled module is asked for its length then, which it has none of.
        net = parts["transformer"] if parts.get("unet") is None else parts["unet"]
        return _Origin(unwrapped(net), parts["scheduler"], pipeline=pipeline)
    if len(objects) == 2 and hasattr(objects[1], "config"):
        return _Origin(unwrapped(objects[0]), objects[1])
    came = ", ".join(type(o).__name__ for o in objects)
    raise InputError(
        f"a diffusers network needs its scheduler, got {came}: give (network, scheduler) or a"
        " pipeline"
    )


def _check_pipeline(name: str, parts: Any) -> None:
    """Raise InputError unless a pipeline is one network under one scheduler.

    The network has to denoise by itself."""
    if any("Consistency" in word for word in (name, str(parts.get("scheduler")))):
        raise InputError(f"{name} holds a consistency model: {WHY_NOT_DISTILLED}")
    steering = [part for part in STEERING if parts.get(part) is not None]
    networks = [part for part in ("unet", "transformer") if parts.get(part) is not None]
    if steering or len(networks) != 1 or parts.get("scheduler") is None:
        raise InputError(
            f"{name} is not one network under one scheduler (it has"
            f" {', '.join(steering or parts) or 'nothing'}): cascades and networks steered by"
            " others are not supported; adapt one stage as (network, scheduler)"
        )


def _read(repository: pipelines.Repository, name: str) -> _Origin:
    read = pipelines.read(repository, _check_classes)
    note = f"weights of the variant {read.variant[1:]}" if read.variant else ""
    config = dict(read.scheduler.config)
    sampling.check(name, config)
    return _Origin(read.net, read.scheduler, name, read.class_name, note=note, sampling=config)


def _check_classes(pipeline: str, parts: dict[str, str]) -> None:
    _check_pipeline(pipeline, parts)
    name = parts["unet"] if "unet" in parts else parts["transformer"]
    if name not in NETWORKS:
        raise InputError(_not_supported(name))


def _not_supported(name: str) -> str:
    if name.startswith(PACKED):
        return (
            f"{name} works on latents packed to tokens, which have no rows and columns: not"
            " supported"
        )
    return (
        f"networks of class {name} are not supported with a diffusers scheduler, only"
        f" {', '.join(NETWORKS)}: of others say what is implicit with eb.Denoiser(net, schedule=,"
        " prediction_type=, shape=, call=)"
    )


def _refuse(net: Any, scheduler: Any) -> None:
    """Raise InputError unless the network maps one noisy state to a prediction.

    Its scheduler has to fit it, too."""
    name, config = _class(net), getattr(net, "config", None)
    if name is None or config is None:
        raise InputError(_not_supported(type(net).__name__))
    if type(scheduler).__name__.startswith(DISTILLED):
        raise InputError(
            f"{type(scheduler).__name__} samples distilled models: {WHY_NOT_DISTILLED}"
        )
    if config.get("time_cond_proj_dim") is not None:
        raise InputError(
            f"this {name} takes its guidance scale as an input, as distilled ones do:"
            f" {WHY_NOT_DISTILLED}"
        )
    if config.get("class_embed_type") is not None or (
        name == "UNet2DConditionModel" and config.num_class_embeds
    ):
        raise InputError(
            f"this {name} is conditioned on a noise level or an embedding of other images"
            f" (class_embed_type={config.class_embed_type!r}), as in cascades: not supported"
        )
    if _out_channels(config) not in (config.in_channels, 2 * config.in_channels):
        raise InputError(
            f"a network from {config.in_channels} to {_out_channels(config)} channels also sees"
            " another image (inpainting, cascades, self-conditioning) or predicts no image: not"
            " supported"
        )
    if config.get("time_embedding_type") == "learned" and not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"this {name} has a table of whole timesteps (time_embedding_type='learned'), but"
            f" labels must be whole for that, and {type(scheduler).__name__}'s are fractions: give"
            " the scheduler that it was trained with"
        )
    levels = getattr(scheduler.config, "num_train_timesteps", None)
    if config.get("num_train_timesteps") not in (None, levels):
        raise InputError(
            f"the network knows {config.num_train_timesteps} timesteps, but the scheduler has"
            f" {levels}: give the scheduler that the network was trained with"
        )
    variance = scheduler.config.get("variance_type")
    if variance == "learned_range" and not _learns_variance(config):
        raise InputError(
            f"the scheduler wants a learned variance, which this {name} does not predict:"
            " variance_type="
        )
    if variance == "learned":
        raise InputError(
            "variance_type='learned' (log σ² itself) is not supported, only 'learned_range' is"
        )


def _class(net: Any) -> str | None:
    """Which of `NETWORKS` a network is, or is a subclass of."""
    return class_among(net, NETWORKS)


def _out_channels(config: Any) -> int:
    return int(config.out_channels or config.in_channels)


def _learns_variance(config: Any) -> bool:
    return _out_channels(config) == 2 * config.in_channels


def _shape(config: Any) -> tuple[int, int, int]:
    size = config.sample_size
    if size is None:
        raise InputError(
            "the network's configuration lacks sample_size: set it to the images' height and width"
        )
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    shape = (config.in_channels, *sides)
    if len(shape) != 3 or not all(type(n) is int and 0 < n <= 65_536 for n in shape):
        raise InputError(
            f"the network's configuration has in_channels={config.in_channels!r} and"
            f" sample_size={reason(str(size))}: whole numbers of at least 1 are allowed,"
            " sample_size one or (height, width)"
        )
    return shape[0], shape[1], shape[2]


def _training(scheduler: Any, given: str | None) -> tuple[Schedule, str, float | None]:
    """What the network was trained under: schedule and prediction type.

    And, where EDM preconditions it, σ_data.

    σ_data is negative where F predicts v, whose c_out has the other sign.
    """
    name, config = type(scheduler).__name__, scheduler.config
    stated = config.get("prediction_type")
    pipelines.check_timesteps(config.get("num_train_timesteps"), f"num_train_timesteps of {name}")
    for option in ("sigma_min", "sigma_max", "sigma_data", "snr_shift_scale"):
        value = config.get(option)
        if value is not None and not (isinstance(value, int | float) and 0 < value < np.inf):
            raise InputError(
                f"{option} of {name} is {reason(str(value))}: a number above 0 is allowed"
            )
    if config.get("invert_sigmas") or config.get("timestep_type") == "continuous":
        raise InputError(
            f"{name} with invert_sigmas or timestep_type='continuous' tells time otherwise: not"
            " supported"
        )
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas") or stated == "flow_prediction":
        return (
            flow(config.num_train_timesteps),
            _prediction_type("flow_prediction", given, name),
            None,
        )
    if name.startswith("EDM"):
        if _prediction_type(stated, given, name) not in ("epsilon", "v_prediction"):
            raise InputError(
                f"{name} with prediction_type={stated!r}: allowed are epsilon and v_prediction"
            )
        sigma_data = config.sigma_data if stated == "epsilon" else -config.sigma_data
        return edm(config.sigma_min, config.sigma_max), "sample", sigma_data
    if not hasattr(scheduler, "betas") or not hasattr(scheduler, "alphas_cumprod"):
        raise InputError(
            f"{name} states no schedule (it has no betas and is neither FlowMatch nor EDM): give"
            " the scheduler that the network was trained with, for example a DDPMScheduler"
        )
    betas = scheduler.betas.double()
    if not ((betas > 0) & (betas <= 1)).all():
        raise InputError(
            f"{name} has betas from {betas.min():.3g} to {betas.max():.3g}: numbers in (0, 1] are"
            " allowed"
        )
    abar = _alphas_cumprod(scheduler)
    if not np.allclose(abar, scheduler.alphas_cumprod.double().cpu().numpy(), rtol=1e-3, atol=1e-7):
        raise InputError(
            f"{name} changes ᾱ beyond its betas, which is not supported: give a DDPMScheduler of"
            " that ᾱ"
        )
    kind = (
        "trained"
        if config.get("trained_betas") is not None
        else config.get("beta_schedule", "custom")
    )
    return from_alphas_cumprod(abar, kind), _prediction_type(stated, given, name), None


def _alphas_cumprod(scheduler: Any) -> NDArray[np.float64]:
    """ᾱ in float64 from a scheduler's betas.

    For CogVideoX's from what it does to ᾱ afterwards: a shift of the SNR by 1/s, ᾱ ← ᾱ/(s + (1 − s)
    ᾱ), and there too the rescaling to zero terminal SNR."""
    abar: NDArray[np.float64] = np.cumprod(1 - scheduler.betas.double().cpu().numpy())
    shift = scheduler.config.get("snr_shift_scale")
    if shift is None:
        return abar
    abar = abar / (shift + (1 - shift) * abar)
    if scheduler.config.get("rescale_betas_zero_snr"):
        root = np.sqrt(abar)
        abar = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    return abar


def _prediction_type(stated: str | None, given: str | None, scheduler: str) -> str:
    if None not in (stated, given) and stated != given:
        raise InputError(
            f"prediction_type={given!r}, but {scheduler} says {stated!r}: leave it out or correct"
            " that"
        )
    kind = stated or given
    if kind not in PREDICTION_TYPES:
        says = (
            f"says prediction_type={stated!r}"
            if stated
            else "does not say what the network predicts"
        )
        raise InputError(
            f"{scheduler} {says}: give prediction_type=, one of {', '.join(PREDICTION_TYPES)}"
        )
    return kind


def _guidance(scale: float | None) -> float | None:
    if scale is None or (isinstance(scale, int | float) and scale == 1):
        return None
    if not isinstance(scale, int | float) or not 1 < scale < np.inf:
        raise InputError(
            f"guidance_scale is {scale!r}: give a number above 1 to guide, None or 1 not to"
        )
    return float(scale)


def _classes(config: Any) -> int | None:
    classes = config.get("num_embeds_ada_norm") or config.get("num_class_embeds")
    return None if classes is None else int(classes)


def _null_class(net: Any) -> int:
    """DiT's extra label, which stands for no class."""
    if _class(net) != "DiTTransformer2DModel":
        raise InputError(
            f"{type(net).__name__} has no null class to guide away from: leave guidance_scale out"
        )
    return int(net.config.num_embeds_ada_norm)


def _conditions(net: Any, embeddings: dict[str, Tensor | None], guided: bool) -> dict[str, Tensor]:
    """What a prompted network is called with; else nothing.

    (1, …) or, guided, (2, …) with the unconditional first."""
    name, config = _class(net), net.config
    if config.get("addition_embed_type") not in (None, "text_time") or config.get(
        "encoder_hid_dim_type"
    ):
        raise InputError(
            f"this {name} is conditioned on more than text (images or other encoders): not"
            " supported"
        )
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
            raise InputError(
                f"{name} {how} guidance needs {key}=, a tensor (1, …), as pipe.encode_prompt"
                " returns it"
            )
        if key not in keys:
            raise InputError(f"{name} {how} guidance does not take {key}: leave it out")
        if not isinstance(given[key], Tensor) or given[key].dim() < 2 or len(given[key]) != 1:
            came = (
                tuple(given[key].shape)
                if isinstance(given[key], Tensor)
                else type(given[key]).__name__
            )
            raise InputError(f"{key} is {came}: give one tensor (1, …) for all samples")
    for pair in needs.values():
        shapes = [tuple(given[key].shape) for key in pair]
        if len(set(shapes)) > 1:
            raise InputError(
                f"{' and '.join(pair)} differ in shape, {shapes[0]} and {shapes[1]}: encode them"
                " alike"
            )
    width = config.get("cross_attention_dim") or config.get("joint_attention_dim")
    if takes and isinstance(width, int) and given["prompt_embeds"].shape[2:] != (width,):
        came = tuple(given["prompt_embeds"].shape)
        raise InputError(
            f"prompt_embeds has shape {came}, but this {name} takes (1, tokens, {width})"
        )
    return {name: torch.cat([given[key] for key in pair]) for name, pair in needs.items()}


class _Prompted(torch.nn.Module):
    """A network with its embeddings, (K, …).

    It returns the outputs of all K conditionings, one after another.

    The embeddings are buffers, so that they move with the network and count in its weight hash.
    """

    def __init__(self, net: Any, conditions: dict[str, Tensor]) -> None:
        super().__init__()
        self.net = net
        for name, value in conditions.items():
            self.register_buffer(name, value.detach().to(net.device, net.dtype))

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        conditions = {
            name: value.repeat_interleave(len(x), 0)
            for name, value in self.named_buffers(recurse=False)
        }
        count = len(conditions["prompt_embeds"]) // len(x)
        inputs: dict[str, Any] = {
            "encoder_hidden_states": conditions["prompt_embeds"],
            "timestep": timestep.repeat(count),
        }
        pooled = conditions.get("pooled_prompt_embeds")
        if "add_time_ids" in conditions:
            inputs["added_cond_kwargs"] = {
                "text_embeds": pooled,
                "time_ids": conditions["add_time_ids"],
            }
        elif pooled is not None:
            inputs["pooled_projections"] = pooled
        output: Tensor = self.net(x.repeat(count, 1, 1, 1), **inputs, return_dict=False)[0]
        return output


def _telling(call: Call, name: str) -> Call:
    """A call of a network from files, whose configuration may build and still not compute."""

    def told(net: Any, *inputs: Tensor) -> Tensor:
        try:
            return call(net, *inputs)
        except (InputError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever torch says to a number of the wrong kind
            raise InputError(
                f"the network of {name} fails when it is called ({type(error).__name__}:"
                f" {reason(error)}): its config.json is not that of a working network"
            ) from error

    return told


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
        conditional, unconditional = _call(
            net, torch.cat([x, x]), torch.cat([timestep, timestep]), both
        ).chunk(2)
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
