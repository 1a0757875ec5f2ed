"""Networks to train: diffusers' `UNet2DModel` by preset name, or by the path of a configuration."""

from pathlib import Path
from typing import Any

from exposure_bias.errors import InputError, reason
from exposure_bias.files.weights import read_json
from exposure_bias.states import State, described

# Widths by level, residual blocks at each, whether the levels below the first attend, groups of a
# normalisation. unet-ddpm is the network of Ho et al. 2020 (arXiv 2006.11239, appendix B) for 32×32
# images, 36 M parameters.
PRESETS: dict[str, dict[str, Any]] = {
    "unet-tiny": {"block_out_channels": (24, 32), "layers_per_block": 1, "norm_num_groups": 8},
    "unet-small": {"block_out_channels": (32, 64, 64), "layers_per_block": 1, "norm_num_groups": 8},
    "unet-ddpm": {
        "block_out_channels": (128, 256, 256, 256),
        "layers_per_block": 2,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        "add_attention": True,
        "dropout": 0.1,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
    },
}


def unet(net: str | dict[str, Any], shape: State, learned_variance: bool = False) -> Any:
    """A fresh `UNet2DModel` for images of shape (C, H, W).

    Given are a preset's name, a JSON file of its options, or the options.

    Raises InputError for an unknown preset, an unreadable file, or options that do not fit the
    images."""
    if len(shape) != 3:
        raise InputError(
            f"a UNet works on images (C, H, W), the data are {described(shape)}: give a network of"
            " your own"
        )
    channels, height, width = shape
    options = (
        dict(net) if isinstance(net, dict) else dict(PRESETS[net]) if net in PRESETS else _read(net)
    )
    name = "this network" if isinstance(net, dict) else net
    widths = options.setdefault("block_out_channels", (224, 448, 672, 896))
    options.setdefault("down_block_types", ("DownBlock2D",) * len(widths))
    options.setdefault("up_block_types", ("UpBlock2D",) * len(widths))
    options.setdefault("add_attention", False)
    sides = 2 ** (len(widths) - 1)
    if height % sides or width % sides:
        raise InputError(
            f"{name} halves images {sides}-fold, which {height}×{width} does not allow: use a"
            " shallower one"
        )
    size: Any = height if height == width else [height, width]
    fixed = {
        "sample_size": size,
        "in_channels": channels,
        "out_channels": channels * (2 if learned_variance else 1),
    }
    for key, value in fixed.items():
        if options.get(key, value) != value:
            raise InputError(
                f"{name} has {key} = {options[key]}, but these images need {value}: change or"
                " remove it"
            )
    from diffusers import UNet2DModel

    try:
        return UNet2DModel(**(options | fixed))
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name} does not configure a UNet2DModel: {reason(error)}") from error


def _read(path: str) -> dict[str, Any]:
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(
            f"there is no network {path!r}: give {', '.join(PRESETS)}, or a JSON file of"
            " UNet2DModel options"
        )
    return {key: value for key, value in read_json(file).items() if not key.startswith("_")}
