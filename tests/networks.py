"""Tiny diffusers networks with random weights, and what text-conditioned ones are called with."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

import exposure_bias as eb


@contextmanager
def told(message: str) -> Iterator[None]:
    """What `observe` cannot record is told while the loop goes on."""
    with pytest.warns(UserWarning, match=f"not recorded, and the loop goes on: .*{message}"):
        yield


def fails(message: str) -> Any:
    return pytest.raises(eb.InputError, match=message)


def unet(
    channels: int = 1, out_channels: int | None = None, **options: Any
) -> diffusers.UNet2DModel:
    torch.manual_seed(1)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=channels,
        out_channels=out_channels or channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        mid_block_type=None,
        **options,
    )


def text_unet(**options: Any) -> diffusers.UNet2DConditionModel:
    torch.manual_seed(2)
    shape: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 8}
    return diffusers.UNet2DConditionModel(
        **shape
        | {
            "sample_size": 8,
            "layers_per_block": 1,
            "block_out_channels": (8, 16),
            "norm_num_groups": 4,
            "attention_head_dim": 4,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        }
        | options
    )


def dit(classes: int = 1000, **options: Any) -> diffusers.DiTTransformer2DModel:
    torch.manual_seed(3)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        num_layers=1,
        sample_size=8,
        norm_num_groups=4,
        num_embeds_ada_norm=classes,
        **{"out_channels": 8} | options,
    )


def sd3(**options: Any) -> diffusers.SD3Transformer2DModel:
    torch.manual_seed(4)
    return diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pooled_projection_dim=6,
        out_channels=4,
        pos_embed_max_size=8,
        **options,
    )


def vae(**options: Any) -> diffusers.AutoencoderKL:
    torch.manual_seed(5)
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **options,
    ).eval()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PROMPT = {"prompt_embeds": random(1, 3, 8), "negative_prompt_embeds": random(1, 3, 8, seed=1)}
POOLED = {
    "pooled_prompt_embeds": random(1, 6, seed=2),
    "negative_pooled_prompt_embeds": random(1, 6, seed=3),
}
