"""The ADM UNet: its checkpoints loaded into our own network.

Those of guided-diffusion, improved-diffusion, DDPM-IP and ADM-ES.

With t the timestep and y the class, every block sees one embedding

    e = W₂ silu(W₁ γ(t)) + E_y, γ(t) = [cos(t ω), sin(t ω)], ω_i = 10000^(−i/half), i = 0 … half − 1

and the three blocks are, with norm a group normalisation over 32 groups,

    residual   r(x) + conv(silu(norm(h)·(1 + a) + b)), h = conv(r(silu(norm(x)))),
               (a, b) = W silu(e),
               where r halves, keeps or doubles the image; without scale-shift norm(h + W silu(e))
               takes its place
    attention  x + W softmax(qᵀk/√d) v over pixels, (q, k, v) = W norm(x)
    resampling a convolution, in networks that do not resample in residual blocks

The names of the parameters are the original's, so that its state dicts load. Images lie in [−1, 1],
timesteps are whole numbers from 0 to T − 1. Tensors in the state dict are all that is ever read:
nothing is unpickled.

Sources: Dhariwal & Nichol 2021 (arXiv 2105.05233, §3 and appendix), Nichol & Dhariwal 2021 (arXiv
2102.09672); the presets are the command lines in the README files of openai/guided-diffusion and
forever208/DDPM-IP."""

import os
from collections import OrderedDict
from dataclasses import dataclass, replace
from math import log
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from exposure_bias import schedules
from exposure_bias.adapters.guided_diffusion import rescaled
from exposure_bias.denoisers import Denoiser
from exposure_bias.errors import InputError, reason
from exposure_bias.files import weights

CHANNEL_MULT: dict[int, tuple[float, ...]] = {
    32: (1, 2, 2, 2),
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}
MOST, MOST_OTHERS = {"num_res_blocks": 100, "steps": 100_000}, 65_536
SUFFIXES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")


@dataclass(frozen=True)
class Preset:
    """A network and its schedule in the words of the original's command-line flags.

    image_size: height and width. num_channels: width of the first level. num_res_blocks: per level.
    attention_resolutions: image sizes at which there is attention. channel_mult: width of each
    level in units of num_channels; by default what the original takes for the image size.
    num_head_channels: channels of an attention head; None divides into num_heads.
    new_attention_order: q, k, v are split before the heads rather than after.
    classes: number of classes, None where unconditional. learn_sigma: the output has 6 channels, ε
    and the learned variance, instead of 3. noise_schedule with `steps` levels; rescale_timesteps:
    the network sees t·1000/T."""

    image_size: int
    num_channels: int
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    channel_mult: tuple[float, ...] | None = None
    num_head_channels: int | None = None
    num_heads: int = 4
    new_attention_order: bool = False
    scale_shift_norm: bool = True
    resblock_updown: bool = True
    classes: int | None = None
    learn_sigma: bool = True
    noise_schedule: Literal["linear", "cosine"] = "cosine"
    steps: int = 1000
    rescale_timesteps: bool = False

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels at each level, the finest first."""
        if self.channel_mult is None and self.image_size not in CHANNEL_MULT:
            sizes = ", ".join(map(str, CHANNEL_MULT))
            raise InputError(
                f"image size {self.image_size} has no usual channel_mult (those of {sizes} have):"
                " give it"
            )
        return tuple(
            int(m * self.num_channels) for m in self.channel_mult or CHANNEL_MULT[self.image_size]
        )

    @property
    def schedule(self) -> schedules.Schedule:
        """The levels, with the labels that the network sees.

        A linear β keeps its integral when T is not 1000."""
        cosine = self.noise_schedule == "cosine"
        levels = (
            schedules.cosine(self.steps)
            if cosine
            else schedules.linear(self.steps, 0.1 / self.steps, 20 / self.steps)
        )
        labels = (
            rescaled(levels.timestep, self.steps) if self.rescale_timesteps else levels.timestep
        )
        return replace(levels, timestep=labels)


_SMALL = Preset(32, 128, 3, (16, 8), num_head_channels=32, new_attention_order=True)
_MIDDLE = Preset(64, 192, 3, (32, 16, 8), num_head_channels=64, new_attention_order=True)

PRESETS: dict[str, Preset] = {
    "adm-cifar10": _SMALL,
    "adm-imagenet32": _SMALL,
    "adm-lsun-tower64": _MIDDLE,
    "adm-celeba64": _MIDDLE,
    "adm-ffhq128": Preset(128, 256, 3, (32, 16, 8), num_head_channels=64, new_attention_order=True),
    "adm-imagenet64": replace(_MIDDLE, classes=1000),
    "adm-imagenet128": Preset(
        128, 256, 2, (32, 16, 8), num_heads=4, classes=1000, noise_schedule="linear"
    ),
}


class GroupNorm32(nn.GroupNorm):
    """Group normalisation over 32 groups, in float32 whatever comes in."""

    def __init__(self, channels: int) -> None:
        super().__init__(32, channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class ResBlock(nn.Module):
    """The residual block of the module docstring; `resample` halves, keeps or doubles the image."""

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        scale_shift_norm: bool,
        resample: nn.Module,
    ) -> None:
        super().__init__()
        self.scale_shift_norm, self.resample = scale_shift_norm, resample
        self.in_layers = nn.Sequential(
            GroupNorm32(channels), nn.SiLU(), _conv3(channels, out_channels)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(embedding, out_channels * (2 if scale_shift_norm else 1))
        )
        # The third was dropout: we evaluate only, but the fourth must keep its number.
        self.out_layers = nn.Sequential(
            GroupNorm32(out_channels),
            nn.SiLU(),
            nn.Identity(),
            _zeroed(_conv3(out_channels, out_channels)),
        )
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        norm, silu, conv = self.in_layers
        h = conv(self.resample(silu(norm(x))))
        shift = self.emb_layers(embedding).to(h.dtype)[:, :, None, None]
        norm, silu, _, conv = self.out_layers
        if self.scale_shift_norm:
            scale, shift = shift.chunk(2, dim=1)
            h = norm(h) * (1 + scale) + shift
        else:
            h = norm(h + shift)
        skip: Tensor = self.skip_connection(self.resample(x))
        return skip + conv(silu(h))


class Attention(nn.Module):
    """Self-attention over the pixels of (B, C, H, W)."""

    def __init__(self, channels: int, heads: int, new_order: bool) -> None:
        super().__init__()
        self.heads, self.new_order = heads, new_order
        self.norm = GroupNorm32(channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zeroed(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(2)
        qkv = self.qkv(self.norm(flat))
        if self.new_order:
            qkv = qkv.unflatten(1, (3, self.heads, -1))
        else:
            qkv = qkv.unflatten(1, (self.heads, 3, -1)).transpose(1, 2)
        q, k, v = qkv.unbind(1)
        # The scale on both sides, and softmax in float32: the original's arithmetic, which float16
        # survives.
        scale = q.shape[2] ** -0.25
        weight = (
            torch.einsum("bhct,bhcs->bhts", q * scale, k * scale)
            .float()
            .softmax(dim=-1)
            .to(v.dtype)
        )
        flat = flat + self.proj_out(torch.einsum("bhts,bhcs->bhct", weight, v).flatten(1, 2))
        return flat.view_as(x)


class Block(nn.ModuleList):
    """Layers in a row; residual blocks see the embedding."""

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, embedding) if isinstance(layer, ResBlock) else layer(x)
        return x


class UNet(nn.Module):
    """The network of a preset; `build` makes one by name.

    Called as net(x, timesteps, y) with x (B, 3, H, W) in [−1, 1], timesteps (B,) whole or
    fractional, y (B,) int64 class labels exactly if the preset has classes; returns (B, 3, H, W),
    or (B, 6, H, W) with a learned variance. Raises InputError where labels are missing or too many.
    """

    def __init__(self, preset: Preset) -> None:
        super().__init__()
        self.image_size, self.in_channels, self.num_classes = preset.image_size, 3, preset.classes
        self.num_channels = preset.num_channels
        widths, embedding = preset.widths, 4 * preset.num_channels

        def residual(
            channels: int, out_channels: int, resample: nn.Module | None = None
        ) -> ResBlock:
            return ResBlock(
                channels,
                out_channels,
                embedding,
                preset.scale_shift_norm,
                resample or nn.Identity(),
            )

        def attention(channels: int) -> Attention:
            heads = (
                channels // preset.num_head_channels
                if preset.num_head_channels
                else preset.num_heads
            )
            return Attention(channels, heads, preset.new_attention_order)

        def stage(level: int, channels: int) -> list[nn.Module]:
            layers: list[nn.Module] = [residual(channels, widths[level])]
            if preset.image_size >> level in preset.attention_resolutions:
                layers.append(attention(widths[level]))
            return layers

        self.time_embed = nn.Sequential(
            nn.Linear(preset.num_channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        if preset.classes is not None:
            self.label_emb = nn.Embedding(preset.classes, embedding)

        channels = widths[0]
        self.input_blocks = nn.ModuleList([Block([_conv3(self.in_channels, channels)])])
        skips = [channels]
        for level, width in enumerate(widths):
            for _ in range(preset.num_res_blocks):
                self.input_blocks.append(Block(stage(level, channels)))
                channels = width
                skips.append(channels)
            if level < len(widths) - 1:
                down = (
                    residual(width, width, nn.AvgPool2d(2))
                    if preset.resblock_updown
                    else _strided(width)
                )
                self.input_blocks.append(Block([down]))
                skips.append(channels)

        self.middle_block = Block(
            [residual(channels, channels), attention(channels), residual(channels, channels)]
        )

        self.output_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            for i in range(preset.num_res_blocks + 1):
                layers = stage(level, channels + skips.pop())
                channels = width
                if level > 0 and i == preset.num_res_blocks:
                    double = nn.Upsample(scale_factor=2)
                    layers.append(
                        residual(width, width, double)
                        if preset.resblock_updown
                        else _doubled(width, double)
                    )
                self.output_blocks.append(Block(layers))

        out_channels = self.in_channels * (2 if preset.learn_sigma else 1)
        self.out = nn.Sequential(
            GroupNorm32(channels), nn.SiLU(), _zeroed(_conv3(widths[0], out_channels))
        )

    def half_torso(self) -> Self:
        """Turn the convolutions between the first and the output layer to float16.

        The rest stays float32."""
        for part in (self.input_blocks, self.middle_block, self.output_blocks):
            for module in part.modules():
                if isinstance(module, nn.Conv1d | nn.Conv2d):
                    module.half()
        return self

    def forward(self, x: Tensor, timesteps: Tensor, y: Tensor | None = None) -> Tensor:
        if y is None and self.num_classes is not None:
            raise InputError(
                f"this model is conditional on {self.num_classes} classes: give each image its"
                " label"
            )
        if y is not None and self.num_classes is None:
            raise InputError("this model is unconditional, but labels were given: leave them out")
        embedding = self.time_embed(_sinusoids(timesteps, self.num_channels))
        if y is not None:
            embedding = embedding + self.label_emb(y)
        h, skips = x.to(next(self.input_blocks.parameters()).dtype), []
        for block in self.input_blocks:
            h = block(h, embedding)
            skips.append(h)
        h = self.middle_block(h, embedding)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        out: Tensor = self.out(h.to(x.dtype))
        return out


def _conv3(channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out_channels, 3, padding=1)


def _strided(channels: int) -> nn.Module:
    return nn.Sequential(OrderedDict(op=nn.Conv2d(channels, channels, 3, stride=2, padding=1)))


def _doubled(channels: int, double: nn.Module) -> nn.Module:
    return nn.Sequential(OrderedDict(up=double, conv=_conv3(channels, channels)))


def _zeroed(module: nn.Module) -> nn.Module:
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def _sinusoids(timesteps: Tensor, channels: int) -> Tensor:
    half = channels // 2
    # The order of operations is the original's: an ulp in ω is a thousand in the angle.
    omega = torch.exp(
        -log(10000) * torch.arange(half, device=timesteps.device, dtype=torch.float32) / half
    )
    angle = timesteps[:, None].float() * omega
    return torch.cat([angle.cos(), angle.sin()], dim=1)


def build(preset: str | Preset) -> UNet:
    """The untrained network of a preset, in float32.

    The last layers of its blocks are zero, as the original's are.

    preset: a name of `PRESETS`, or a `Preset`. Raises InputError for another name, and for a preset
    that makes no network or one beyond this machine's memory."""
    chosen = _preset(preset)
    _without_memory(chosen)
    return UNet(chosen)


def _without_memory(preset: Preset) -> UNet:
    """The network of a preset on torch's meta device, where it has names and shapes only."""
    numbers = ("image_size", "num_channels", "num_res_blocks", "num_heads", "steps")
    for name in numbers:
        value, most = getattr(preset, name), MOST.get(name, MOST_OTHERS)
        if type(value) is not int or not 0 < value <= most:
            raise InputError(
                f"{name} of a preset is a whole number from 1 to {most:,}, got {value!r}"
            )
    try:
        with torch.device("meta"):
            net = UNet(preset)
    except InputError:
        raise
    except Exception as error:  # whatever torch says to widths that do not divide
        raise InputError(f"this preset makes no network: {reason(error)}") from error
    weights.check_memory(net, "the preset")
    return net


def load(path: str | os.PathLike[str], preset: str | Preset | None) -> Denoiser:
    """A Denoiser of a checkpoint, a flat state dict in one of the files of `SUFFIXES`.

    It computes in float32.

    preset: see `build`. It cannot be read off the file, in which schedule and attention heads leave
    no trace. Names of weights may bear the marks of torch.compile and DataParallel.

    Raises InputError, naming the nearest preset, where the preset is missing or the file's keys or
    shapes are not its own; and for a file that is damaged or would have to be unpickled."""
    path = Path(path)
    state = _read(path)
    came = weights.shapes_of(state)
    if preset is None:
        raise InputError(
            f"{path} needs a preset, because a state dict says neither schedule nor attention"
            f" heads: give preset= or --preset, one of {', '.join(PRESETS)} ({_nearest(came)})"
        )
    chosen = _preset(preset)
    net = _without_memory(chosen)
    problems = weights.differences(came, weights.shapes_of(net.state_dict()))
    if problems:
        name = preset if isinstance(preset, str) else "the preset"
        raise InputError(f"{path} does not fit {name}: {problems} ({_nearest(came)})")
    in_memory = {key: value.to(torch.float32, copy=True) for key, value in state.items()}
    net.load_state_dict(in_memory, assign=True)
    net.eval()
    return Denoiser(
        net,
        schedule=chosen.schedule,
        prediction_type="epsilon",
        shape=(3, chosen.image_size, chosen.image_size),
        learned_variance=chosen.learn_sigma,
        classes=chosen.classes,
        name=path.stem,
    )


def _preset(preset: str | Preset) -> Preset:
    if isinstance(preset, Preset):
        return preset
    if preset not in PRESETS:
        raise InputError(f"unknown preset {preset!r}: allowed are {', '.join(PRESETS)}")
    return PRESETS[preset]


def _read(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, on the CPU, under plain names."""
    if path.suffix == ".safetensors":
        return weights.plain_state(weights.read_safetensors(path))
    state: Any = weights.read_torch(path)
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(v, Tensor) for v in state.values())
        or not all(isinstance(k, str) for k in state)
    ):
        kinds = (
            [f"{k!s:.60} ({type(v).__name__})" for k, v in state.items()]
            if isinstance(state, dict)
            else []
        )
        what = weights.few(kinds) if kinds else f"a {type(state).__name__}"
        raise InputError(
            f"{path} is no state dict of name and tensor: it holds {what}; {_cure(path, state)}"
        )
    odd = [f"{k} ({v.dtype}, {v.layout})" for k, v in state.items() if not _is_plain(v)]
    if odd:
        raise InputError(
            f"{path} holds weights that are no plain numbers, {weights.few(odd)}: save them as"
            " float32"
        )
    return weights.plain_state(state)


def _is_plain(value: Tensor) -> bool:
    plain = value.layout is torch.strided and value.device.type == "cpu"
    return plain and (value.is_floating_point() or value.dim() == 0)


def _cure(path: Path, state: Any) -> str:
    """How to get the weights alone out of a training checkpoint.

    One of its entries is a state dict."""
    entries = state.items() if isinstance(state, dict) else ()
    inside = [
        k
        for k, v in entries
        if isinstance(v, dict) and v and all(isinstance(w, Tensor) for w in v.values())
    ]
    if not inside:
        return "save the state dict alone"
    return (
        f"save the state dict alone, torch.save(torch.load({path.name!r},"
        f" weights_only=True)[{inside[0]!r}], 'weights.pt'), and give that"
    )


def _nearest(came: weights.Shapes) -> str:
    """The presets whose network shares the most tensors with a state dict, in words."""
    pairs = came.items()
    with torch.device("meta"):
        shared = {
            name: len(pairs & weights.shapes_of(UNet(preset).state_dict()).items())
            for name, preset in PRESETS.items()
        }
    best = max(shared.values())
    names = " or ".join(name for name, count in shared.items() if count == best)
    if best:
        return f"nearest: {names}, {best} of the file's {len(came)} tensors fit"
    prefix = weights.common_prefix(came)
    inner = {key.removeprefix(prefix): shape for key, shape in came.items()}
    return _nearest(inner) + f" without {prefix!r}" if prefix else "it fits no preset at all"
