"""Networks to train: diffusers' `UNet2DModel` by preset name, or by the path of a configuration."""

import os
from pathlib import Path
from typing import Any

import torch

from exposure_bias.adapters.pipelines import check_depth, quiet
from exposure_bias.errors import InputError, reason
from exposure_bias.files.weights import check_memory, read_json
from exposure_bias.states import State, described

COPIES = 5  # of the weights that training keeps: their gradients, averages and two moments besides
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


def unet(net: Any, shape: State, learned_variance: bool = False) -> Any:
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
    if not isinstance(net, str | os.PathLike | dict):
        raise InputError(
            f"a network is a preset ({', '.join(PRESETS)}), a JSON file, options or a module, got"
            f" {type(net).__name__}"
        )
    name = "this network" if isinstance(net, dict) else os.fspath(net)
    options = dict(net) if isinstance(net, dict) else dict(PRESETS.get(name) or _read(name))
    widths = options.setdefault("block_out_channels", (224, 448, 672, 896))
    if not isinstance(widths, list | tuple) or not widths or not all(map(_is_width, widths)):
        raise InputError(
            f"{name} has block_out_channels = {widths!r:.60}: a list of whole numbers of at least 1"
            " is needed"
        )
    check_depth(options, name)
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
    return _built(options | fixed, name)


def _is_width(value: Any) -> bool:
    return type(value) is int and value >= 1


def _built(options: dict[str, Any], name: str) -> Any:
    """A network of these options, built first without memory, to see how much it takes.

    Raises InputError for options of which diffusers makes none."""
    from diffusers import UNet2DModel

    try:
        with quiet(), torch.device("meta"):
            weightless = UNet2DModel(**options)
        check_memory(weightless, name, COPIES)
        size = weightless.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        x = torch.zeros(2, weightless.config.in_channels, height, width, device="meta")
        weightless(x, torch.zeros(2, dtype=torch.long, device="meta"))
        with quiet():
            return UNet2DModel(**options)
    except InputError:
        raise
    except Exception as error:  # whatever a constructor says to its numbers
        raise InputError(f"{name} does not configure a UNet2DModel: {reason(error)}") from error


def _read(path: str) -> dict[str, Any]:
    file = Path(os.path.expanduser(path))
    if not os.path.exists(file):
        raise InputError(
            f"there is no network {path!r}: give {', '.join(PRESETS)}, or a JSON file of"
            " UNet2DModel options"
        )
    return {key: value for key, value in read_json(file).items() if not key.startswith("_")}
