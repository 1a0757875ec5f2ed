"""diffusers: a network and a scheduler, or a pipeline or local folder of the two.

What the scheduler says of training is read in `trained`, how each class of network is called in
`families`, what it is told of prompts in `conditions`. How a folder is read: `pipelines`."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from exposure_bias.adapters import pipelines, prompts, sampling
from exposure_bias.adapters.conditions import (
    NAMES,
    NEGATIVE,
    calling,
    conditions,
    embeds_guidance,
    scale_of,
)
from exposure_bias.adapters.families import FAMILIES, NETWORKS, Family, Told, class_of
from exposure_bias.adapters.hub import Downloads
from exposure_bias.adapters.latents import encode as encode
from exposure_bias.adapters.latents import factors
from exposure_bias.adapters.trained import preconditioned, training
from exposure_bias.adapters.unwrap import precision_note, unwrapped
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError

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
    prompts: Sequence[str] | None = None,
    negative_prompt: str | None = None,
    guidance_scale: float | None = None,
    shape: Sequence[int] | None = None,
    encoded: Path | None = None,
    **embeddings: Tensor | None,
) -> Denoiser:
    """Make a Denoiser of diffusers' objects.

    Parameters
    ----------
    *objects
        (network, scheduler), a pipeline, a pipeline's folder (a Path) or a repository of the hub.
        Networks are those of `families.FAMILIES`, perhaps wrapped (`unwrap`), and subclasses.
    prediction_type
        What the network returns, for a scheduler that does not say.
    prompts
        K prompts, which the pipeline's own encoders encode once. With K = 1 it is the prompt of all
        samples. With more, a sample's prompt is chosen by the data's label, an index 0 … K − 1.
    negative_prompt
        What guidance leads away from, by default the pipeline's own.
    guidance_scale
        w > 1 guides; None and 1 do not. A network with a guidance embedding is told w.
    shape
        (C, *space) of a state, for networks that take several sizes. By default that of the data.
    encoded
        A file in which the encoders' output is kept, and from which it is read again.
    **embeddings
        In place of prompts, what the pipeline's `encode_prompt` returns, each a tensor (K, …):
        prompt_embeds, pooled_prompt_embeds (SDXL, SD3, Flux), prompt_attention_mask (PixArt, Sana,
        Lumina2, LTX; by default all ones), the same with negative_ for guidance, and add_time_ids
        (SDXL; by default the size of the state). The negative ones may have one row.

    Returns
    -------
    Denoiser
        It has `classes` K where K > 1. Its `conditions` is a hash of the embeddings.

    Raises
    ------
    InputError
        For what is no denoiser of one state (distilled, cascaded, conditioned on images), for a
        scheduler that does not fit the network, for prompts or embeddings that are missing,
        misshapen or of no use, and for a damaged folder.

    A folder's weights are read as float32 and from safetensors only; nothing is unpickled and no
    code of a repository runs (`pipelines`, `hub`). Warns of a DDPMPipeline whose own images are
    wrong under its scheduler."""
    unknown = [name for name in embeddings if name not in NAMES]
    if unknown:
        raise TypeError(f"adapt() got an unexpected keyword argument {unknown[0]!r}")
    origin = _parts(objects)
    net, family, common, sigma_data = _common(origin, prediction_type, shape)
    scale = scale_of(guidance_scale)
    guided = scale is not None and not embeds_guidance(net)
    if prompts is not None:
        embeddings = _encoded(origin, embeddings, prompts, negative_prompt, guided, encoded)
    elif negative_prompt is not None:
        raise InputError("a negative prompt is given without prompts: give prompts= (--prompts)")
    found = conditions(net, family, embeddings, guided)
    sizes = {"spatial": family.spatial} | origin.factors
    told = Told(net.config, scale or 1.0, **sizes)
    call = calling(net, family, told, found, scale)
    if sigma_data is not None:
        call = preconditioned(call, sigma_data)
    classes = found.count if found.count > 1 else common.pop("classes")
    model = Denoiser(net, call=call, guidance=scale, **common | {"classes": classes})
    if found.tables:
        model.conditions, model.chosen_by = found.digest, "prompt"
    model.guidance_embedded = scale is not None and not guided
    return _noted(model, origin, family)


def outline(*objects: Any) -> Denoiser:
    """What a pipeline's states and outputs mean, for watching it.

    It is `adapt` without prompts, not to be called."""
    origin = _parts(objects)
    net, family, common, _ = _common(origin, None, None)
    return _noted(Denoiser(net, **common), origin, family)


def _noted(model: Denoiser, origin: "_Origin", family: Family) -> Denoiser:
    """The model, with what its size may be, where it came from and what a reader must know."""
    model.any_size = family.any_size
    model.from_loop = family.from_loop
    model.source, model.sampling = origin.source, origin.sampling
    if origin.sampling:
        model._call = sampling.telling(model._call, model.name)
    model.note = "; ".join(filter(None, (origin.note, precision_note(origin.net))))
    return model


def _encoded(
    origin: "_Origin",
    embeddings: Mapping[str, Tensor | None],
    texts: Sequence[str],
    negative: str | None,
    guided: bool,
    place: Path | None,
) -> dict[str, Tensor | None]:
    """The embeddings of prompts."""
    given = [name for name, value in embeddings.items() if value is not None]
    if given:
        raise InputError(f"prompts and {given[0]} are both given: leave one of them out")
    if negative is not None and not guided:
        raise InputError(
            "a negative prompt is what guidance leads away from, but nothing is guided: give a"
            " guidance_scale (--guidance) above 1, of a network without a guidance embedding, or"
            " leave it out"
        )
    family = FAMILIES[class_of(origin.net) or ""]
    wanted = {*family.takes, *family.optional, "pooled_prompt_embeds"}
    made = prompts.encode(origin.encoders, texts, negative, guided, place)
    return {k: v for k, v in made.items() if k.removeprefix(NEGATIVE) in wanted}


def _common(
    origin: "_Origin", prediction_type: str | None, shape: Sequence[int] | None
) -> tuple[Any, Family, dict[str, Any], float | None]:
    """The network, its family, the settings of its Denoiser that no prompt bears on, and σ_data.

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
    config, family = net.config, FAMILIES[class_of(net) or ""]
    schedule, prediction, sigma_data = training(scheduler, prediction_type)
    if sigma_data is not None and _learns_variance(config):
        raise InputError(
            "a learned variance under EDM's preconditioning is not supported: no sampler there"
            " uses it"
        )
    common = {
        "schedule": schedule,
        "prediction_type": prediction,
        "shape": _shape(family, config, shape),
        "learned_variance": _learns_variance(config),
        "name": name or Path(config.get("_name_or_path") or type(net).__name__).name,
        "classes": _classes(net),
    }
    return net, family, common, sigma_data


def _shape(family: Family, config: Any, given: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of a state: the configuration's, or the given one if that fits it."""
    if given is None:
        return family.shape(config)
    shape, channels = tuple(given), family.channels(config)
    whole = all(type(n) is int and n > 0 for n in shape)
    if not whole or len(shape) != family.rank or shape[0] != channels:
        raise InputError(
            f"shape is {shape}, but this network's states have {family.rank} axes, of which the"
            f" first is {channels}: give shape=({channels}, …)"
        )
    return shape


@dataclass(frozen=True, eq=False)
class _Origin:
    """Network and scheduler, and where they came from.

    Of a pipeline or a repository also its class, its name, its encoders of text, and what its
    autoencoder says of the size of latents (`families.Told`)."""

    net: Any
    scheduler: Any
    name: str = ""
    pipeline: str = ""
    source: dict[str, Any] | None = None
    note: str = ""
    encoders: prompts.Encoders | None = None
    factors: dict[str, int] = field(default_factory=dict)
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
        return _Origin(
            unwrapped(net),
            parts["scheduler"],
            pipeline=pipeline,
            encoders=prompts.Encoders(lambda: objects[0]),
            factors=factors(parts.get("vae")),
        )
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
    return _Origin(
        read.net,
        read.scheduler,
        name,
        read.class_name,
        sampling=config,
        note=note,
        encoders=prompts.of_repository(repository, read.class_name),
        factors=factors(read.autoencoder),
    )


def _check_classes(pipeline: str, parts: dict[str, str]) -> None:
    _check_pipeline(pipeline, parts)
    name = parts["unet"] if "unet" in parts else parts["transformer"]
    if name not in NETWORKS:
        raise InputError(_not_supported(name))


def _not_supported(name: str) -> str:
    return (
        f"networks of class {name} are not supported with a diffusers scheduler, only"
        f" {', '.join(NETWORKS)}: of others say what is implicit with eb.Denoiser(net, schedule=,"
        " prediction_type=, shape=, call=)"
    )


def _refuse(net: Any, scheduler: Any) -> None:
    """Raise InputError unless the network maps one noisy state to a prediction.

    Its scheduler has to fit it, too."""
    name, config = class_of(net), getattr(net, "config", None)
    if name is None or config is None:
        raise InputError(_not_supported(type(net).__name__))
    if type(scheduler).__name__.startswith(DISTILLED):
        raise InputError(
            f"{type(scheduler).__name__} samples distilled models: {WHY_NOT_DISTILLED}"
        )
    if config.get("addition_embed_type") not in (None, "text_time") or config.get(
        "encoder_hid_dim_type"
    ):
        raise InputError(
            f"this {name} is conditioned on more than text (images or other encoders): not"
            " supported"
        )
    if config.get("time_cond_proj_dim") is not None or (
        name == "SanaTransformer2DModel" and config.get("guidance_embeds")
    ):
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


def _out_channels(config: Any) -> int:
    return int(config.out_channels or config.in_channels)


def _learns_variance(config: Any) -> bool:
    return _out_channels(config) == 2 * config.in_channels


def _classes(net: Any) -> int | None:
    """How many classes a network knows; None for one that takes prompts, or neither."""
    if FAMILIES[class_of(net) or ""].takes:
        return None
    classes = net.config.get("num_embeds_ada_norm") or net.config.get("num_class_embeds")
    return None if classes is None else int(classes)
