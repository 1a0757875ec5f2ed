"""How diffusers' own pipelines call each class of network: one short entry a class.

A state here is (C, *space). A network may want it otherwise, and may tell time otherwise:

    network                     state as the network takes it      time that it is told
    UNet1DModel                 (C, T)                             t
    UNet2DModel, UNet2DCondi…   (C, H, W)                          t
    UNet3DConditionModel        (C, F, H, W)                       t
    DiT, PixArt, SD3            (C, H, W)                          t
    Sana                        (C, H, W)                          t · timestep_scale
    AuraFlow                    (C, H, W)                          t / 1000
    Lumina2                     (C, H, W)                          1 − t/1000, and returns x_0 − ε
    Flux                        tokens of 2 × 2 pixels             t / 1000
    Wan                         (C, F, H, W)                       t
    CogVideoX                   (F, C, H, W)                       t
    LTX                         tokens of 1 × 1 × 1 pixels         t

t is the scheduler's own label. The entries follow the pipelines of diffusers 0.42:
https://huggingface.co/docs/diffusers/api/pipelines/overview."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from exposure_bias.errors import InputError, reason
from exposure_bias.files.library import class_among

Shape = tuple[int, ...]
Rows = Mapping[str, Tensor]
FLUX_TIMES = 1000  # of AuraFlow, Flux and Lumina2, whatever the scheduler's number of timesteps


class Told(NamedTuple):
    """What a call is told beside the state and the time.

    config: the network's. guidance: the scale that a network with a guidance
    embedding is told. spatial, temporal: how many pixels and frames one number of a latent stands
    for. frame_rate: of videos, in frames a second."""

    config: Any
    guidance: float = 1.0
    spatial: int = 8
    temporal: int = 8
    frame_rate: float = 25.0


@dataclass(frozen=True)
class Family:
    """How networks of one class are called.

    arguments: further arguments of the call, from what it is told and its rows of the embeddings.
    takes: the embeddings that there must be, by the names under which pipelines return them.
    optional: those that have a default. rank, channels, shape: of a state, from the network's
    configuration.
    any_size: whether the configuration leaves the size of a state open. time: of the scheduler's
    label. pack, unpack: between a state and what the network takes. from_loop: the state in what a
    pipeline's loop holds. sign: −1 where the network returns the negative. guide: how the pipeline
    combines two outputs under guidance, where not as ε_∅ + w (ε_c − ε_∅). spatial: how many pixels
    a number of a latent stands for, without an autoencoder that says so. told_size: whether the
    network is told sizes in pixels, so that the autoencoder is asked for that."""

    arguments: Callable[[Told, Rows, Tensor], dict[str, Any]] = lambda told, rows, x: {}
    takes: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    rank: int = 3
    channels: Callable[[Any], int] = lambda config: config.in_channels
    shape: Callable[[Any], Shape] = lambda config: image_shape(config)
    any_size: bool = False
    time: Callable[[Tensor, Any], Tensor] = lambda t, config: t
    pack: Callable[[Tensor], Tensor] = lambda x: x
    unpack: Callable[[Tensor, Shape], Tensor] = lambda y, shape: y
    from_loop: Callable[[Tensor, Shape], Tensor] = lambda y, shape: y
    sign: int = 1
    guide: Callable[[Tensor, Tensor, float], Tensor] = lambda u, c, w: u + w * (c - u)
    spatial: int = 8
    told_size: bool = False

    def called(self, net: Any, told: Told, x: Tensor, timestep: Tensor, rows: Rows) -> Tensor:
        """The network's output at states (B, *shape), as a state."""
        output: Tensor = net(
            self.pack(x),
            timestep=self.time(timestep, told.config),
            **self.arguments(told, rows, x),
            return_dict=False,
        )[0]
        return self.sign * self.unpack(output, tuple(x.shape[1:]))


def image_shape(config: Any) -> Shape:
    """(C, H, W) as a configuration says it."""
    size = config.sample_size
    if size is None:
        raise InputError(
            "the network's configuration lacks sample_size: set it to the images' height and width"
        )
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    return _checked((config.in_channels, *sides), 3, config)


def _checked(shape: Shape, rank: int, config: Any) -> Shape:
    if len(shape) != rank or not all(type(n) is int and 0 < n <= 2**20 for n in shape):
        size = config.get("sample_size")
        raise InputError(
            f"the network's configuration has in_channels={config.in_channels!r} and"
            f" sample_size={reason(str(size))}: whole numbers of at least 1 are allowed,"
            " sample_size one or (height, width)"
        )
    return shape


def _labels(told: Told, rows: Rows, x: Tensor) -> dict[str, Any]:
    return {"class_labels": rows["labels"]} if "labels" in rows else {}


def _text(told: Told, rows: Rows, x: Tensor) -> dict[str, Any]:
    return {"encoder_hidden_states": rows["prompt_embeds"]}


def _masked_text(told: Told, rows: Rows, x: Tensor) -> dict[str, Any]:
    embeddings = rows["prompt_embeds"]
    mask = rows.get("prompt_attention_mask")
    if mask is None:
        mask = torch.ones(embeddings.shape[:2], dtype=torch.int64, device=embeddings.device)
    return {"encoder_hidden_states": embeddings, "encoder_attention_mask": mask}


def _pooled_text(told: Told, rows: Rows, x: Tensor) -> dict[str, Any]:
    return _text(told, rows, x) | {"pooled_projections": rows["pooled_prompt_embeds"]}


def _sdxl(told: Told, rows: Rows, x: Tensor) -> dict[str, Any]:
    """Stable Diffusion's, and SDXL's size, crop and target size of the image in pixels."""
    if told.config.get("addition_embed_type") != "text_time":
        return _text(told, rows, x)
    times = rows.get("add_time_ids")
    if times is None:
        sides = [side * told.spatial for side in x.shape[-2:]]
        times = x.new_tensor([[*sides, 0, 0, *sides]]).expand(len(x), -1)
    added = {"text_embeds": rows["pooled_prompt_embeds"], "time_ids": times}
    return _text(told, rows, x) | {"added_cond_kwargs": added}


def _pixart(told: Told, rows: Rows, x: Tensor) -> dict[str, Any]:
    """The size and the ratio of sides of images at 1024 pixels, which smaller ones are not told."""
    added: dict[str, Any] = {"resolution": None, "aspect_ratio": None}
    if told.config.get("use_additional_conditions") or (
        told.config.get("use_additional_conditions") is None and told.config.sample_size == 128
    ):
        height, width = (side * told.spatial for side in x.shape[-2:])
        added["resolution"] = x.new_tensor([[height, width]]).expand(len(x), -1)
        added["aspect_ratio"] = x.new_tensor([[height / width]]).expand(len(x), -1)
    return _masked_text(told, rows, x) | {"added_cond_kwargs": added}


def _flux(told: Told, rows: Rows, x: Tensor) -> dict[str, Any]:
    """Pooled text, a guidance embedding where there is one, and the places of all tokens."""
    height, width = (side // 2 for side in x.shape[-2:])
    places = x.new_zeros(height, width, 3)
    places[..., 1] = torch.arange(height, device=x.device)[:, None]
    places[..., 2] = torch.arange(width, device=x.device)
    words = x.new_zeros(rows["prompt_embeds"].shape[1], 3)
    guidance = None
    if told.config.get("guidance_embeds"):
        guidance = torch.full((len(x),), told.guidance, device=x.device)
    return _pooled_text(told, rows, x) | {
        "txt_ids": words,
        "img_ids": places.flatten(0, 1),
        "guidance": guidance,
    }


def pack_pairs(x: Tensor) -> Tensor:
    """(B, C, H, W) as tokens (B, H/2 · W/2, 4C), each of 2 × 2 pixels."""
    batch, channels, height, width = x.shape
    if height % 2 or width % 2:
        raise InputError(
            f"latents of {height} x {width} cannot be packed in tokens of 2 x 2: give images whose"
            " sides are multiples of 16 pixels"
        )
    cut = x.view(batch, channels, height // 2, 2, width // 2, 2)
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack_pairs(tokens: Tensor, shape: Shape) -> Tensor:
    """The inverse of `pack_pairs`; of another number of tokens a square state."""
    count = tokens.shape[1]
    height, width = shape[-2] // 2, shape[-1] // 2
    if height * width != count:
        height = width = int(count**0.5)
    if tokens.dim() != 3 or height * width != count:
        raise InputError(
            f"the loop's states are {tuple(tokens.shape[1:])}, which are no packed states of shape"
            f" {shape}: give their shape with model=eb.adapt(…, shape=(C, H, W))"
        )
    cut = tokens.view(len(tokens), height, width, -1, 2, 2)
    return cut.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, 2 * height, 2 * width)


def _ltx(told: Told, rows: Rows, x: Tensor) -> dict[str, Any]:
    """Where each token stands, in seconds and pixels."""
    frames, height, width = x.shape[-3:]
    scale = (told.temporal / told.frame_rate, told.spatial, told.spatial)
    return _masked_text(told, rows, x) | {
        "num_frames": frames,
        "height": height,
        "width": width,
        "rope_interpolation_scale": scale,
    }


def _unpack_tokens(tokens: Tensor, shape: Shape) -> Tensor:
    """(B, C, F, H, W) of tokens (B, F·H·W, C)."""
    if tokens.dim() != 3 or tokens.shape[1] != shape[1] * shape[2] * shape[3]:
        raise InputError(
            f"the loop's states are {tuple(tokens.shape[1:])}, which are no packed states of shape"
            f" {shape}: give their shape with model=eb.adapt(…, shape=(C, F, H, W))"
        )
    return tokens.transpose(1, 2).reshape(len(tokens), -1, *shape[1:])


def _cogvideox(told: Told, rows: Rows, x: Tensor) -> dict[str, Any]:
    config = told.config
    if not config.use_rotary_positional_embeddings:
        return _text(told, rows, x)
    names = ("patch_size", "patch_size_t", "sample_height", "sample_width", "attention_head_dim")
    places = _rotary(*(config.get(name) for name in names), tuple(x.shape[-3:]))
    return _text(told, rows, x) | {"image_rotary_emb": tuple(p.to(x.device) for p in places)}


@lru_cache(maxsize=4)
def _rotary(
    patch: int, patch_t: int | None, base_height: int, base_width: int, width: int, space: Shape
) -> tuple[Tensor, Tensor]:
    """CogVideoX's rotary embedding of places, of version 1.0 and of 1.5, whose frames are patched.

    Where the grid differs from the one of training, 1.0 crops it, and 1.5 does not."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    frames, grid = space[0], (space[1] // patch, space[2] // patch)
    base = base_height // patch, base_width // patch
    options: dict[str, Any] = {"crops_coords": _crop(grid, base), "temporal_size": frames}
    if patch_t is not None:
        options = {
            "crops_coords": None,
            "temporal_size": (frames + patch_t - 1) // patch_t,
            "grid_type": "slice",
            "max_size": base,
        }
    cos, sin = get_3d_rotary_pos_embed(embed_dim=width, grid_size=grid, **options)
    return cos, sin


def _crop(grid: tuple[int, int], base: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """The part of a base grid that has another grid's ratio of sides, in its middle."""
    (height, width), (base_height, base_width) = grid, base
    if height / width > base_height / base_width:
        inside = (base_height, round(base_height / height * width))
    else:
        inside = (round(base_width / width * height), base_width)
    top, left = (round((b - i) / 2.0) for b, i in zip(base, inside, strict=True))
    return (top, left), (top + inside[0], left + inside[1])


def _swap(x: Tensor) -> Tensor:
    """Frames and channels in each other's place."""
    return x.transpose(1, 2)


def _frames_as_batch(y: Tensor, shape: Shape) -> Tensor:
    """(B, C, F, H, W) of (B·F, C, H, W)."""
    frames = shape[1]
    if y.dim() != 4 or len(y) % frames:
        raise InputError(
            f"the loop's states are {tuple(y.shape)}, which are no videos of {frames} frames: give"
            " their shape with model=eb.adapt(…, shape=(C, F, H, W))"
        )
    return y.reshape(-1, frames, *y.shape[1:]).transpose(1, 2)


def _normalised(unconditional: Tensor, conditional: Tensor, scale: float) -> Tensor:
    """Lumina2's guidance: along the last axis as long as the conditional output."""
    guided = unconditional + scale * (conditional - unconditional)
    lengths = [y.norm(dim=-1, keepdim=True) for y in (conditional, guided)]
    return guided * (lengths[0] / lengths[1])


def _video(frames: int, height: int, width: int) -> Callable[[Any], Shape]:
    """The shape of states that a pipeline makes by default."""
    return lambda config: _checked((config.in_channels, frames, height, width), 4, config)


def _cogvideox_shape(config: Any) -> Shape:
    frames = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
    shape = (config.in_channels, frames, config.sample_height, config.sample_width)
    return _checked(shape, 4, config)


def _unet3d_shape(config: Any) -> Shape:
    channels, height, width = image_shape(config)
    return channels, 16, height, width


MASK = ("prompt_attention_mask",)
FAMILIES = {
    "UNet1DModel": Family(
        shape=lambda config: _checked((config.in_channels, config.sample_size), 2, config),
        rank=2,
        any_size=True,
    ),
    "UNet2DModel": Family(_labels),
    "UNet2DConditionModel": Family(_sdxl, ("prompt_embeds",), told_size=True),
    "UNet3DConditionModel": Family(
        _text,
        ("prompt_embeds",),
        rank=4,
        shape=_unet3d_shape,
        any_size=True,
        from_loop=_frames_as_batch,
    ),
    "DiTTransformer2DModel": Family(_labels),
    "PixArtTransformer2DModel": Family(_pixart, ("prompt_embeds",), MASK, told_size=True),
    "SD3Transformer2DModel": Family(_pooled_text, ("prompt_embeds", "pooled_prompt_embeds")),
    "SanaTransformer2DModel": Family(
        _masked_text,
        ("prompt_embeds",),
        MASK,
        time=lambda t, config: t * config.timestep_scale,
        spatial=32,
    ),
    "AuraFlowTransformer2DModel": Family(
        _text, ("prompt_embeds",), time=lambda t, config: t / FLUX_TIMES
    ),
    "Lumina2Transformer2DModel": Family(
        _masked_text,
        ("prompt_embeds",),
        MASK,
        time=lambda t, config: 1 - t / FLUX_TIMES,
        sign=-1,
        guide=_normalised,
    ),
    "FluxTransformer2DModel": Family(
        _flux,
        ("prompt_embeds", "pooled_prompt_embeds"),
        channels=lambda config: config.in_channels // 4,
        shape=lambda config: _checked((config.in_channels // 4, 128, 128), 3, config),
        any_size=True,
        time=lambda t, config: t / FLUX_TIMES,
        pack=pack_pairs,
        unpack=unpack_pairs,
        from_loop=unpack_pairs,
    ),
    "WanTransformer3DModel": Family(
        _text, ("prompt_embeds",), rank=4, shape=_video(21, 60, 104), any_size=True
    ),
    "CogVideoXTransformer3DModel": Family(
        _cogvideox,
        ("prompt_embeds",),
        rank=4,
        shape=_cogvideox_shape,
        any_size=True,
        pack=_swap,
        unpack=lambda y, shape: _swap(y),
        from_loop=lambda y, shape: _swap(y),
    ),
    "LTXVideoTransformer3DModel": Family(
        _ltx,
        ("prompt_embeds",),
        MASK,
        rank=4,
        shape=_video(21, 16, 22),
        any_size=True,
        pack=lambda x: x.flatten(2).transpose(1, 2),
        unpack=_unpack_tokens,
        from_loop=_unpack_tokens,
        spatial=32,
        told_size=True,
    ),
}
NETWORKS = tuple(FAMILIES)
# What the hub's folders call by its older name, by the kind of normalisation that tells them apart.
OLDER = {
    "ada_norm_zero": "DiTTransformer2DModel",
    "ada_norm_single": "PixArtTransformer2DModel",
}


def class_of(net: Any) -> str | None:
    """Which of `NETWORKS` a network is, or is a subclass of."""
    return class_among(net, NETWORKS)


def class_named(name: str, config: Mapping[str, Any]) -> str:
    """The class that a folder means, which may call it `Transformer2DModel` as of old."""
    if name != "Transformer2DModel":
        return name
    return OLDER.get(str(config.get("norm_type")), name)
