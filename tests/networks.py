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


def flux(**options: Any) -> diffusers.FluxTransformer2DModel:
    torch.manual_seed(7)
    return diffusers.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=8,
        pooled_projection_dim=6,
        axes_dims_rope=(4, 4, 8),
        **options,
    )


def pixart(**options: Any) -> diffusers.PixArtTransformer2DModel:
    torch.manual_seed(8)
    return diffusers.PixArtTransformer2DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 4,
            "out_channels": 8,
            "num_layers": 1,
            "cross_attention_dim": 16,
            "sample_size": 8,
            "caption_channels": 8,
        }
        | options
    )


def sana(**options: Any) -> diffusers.SanaTransformer2DModel:
    torch.manual_seed(9)
    return diffusers.SanaTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=8,
        sample_size=8,
        **options,
    )


def auraflow() -> diffusers.AuraFlowTransformer2DModel:
    torch.manual_seed(10)
    return diffusers.AuraFlowTransformer2DModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=16,
        pos_embed_max_size=64,
    )


def lumina() -> diffusers.Lumina2Transformer2DModel:
    torch.manual_seed(11)
    return diffusers.Lumina2Transformer2DModel(
        sample_size=8,
        in_channels=4,
        hidden_size=24,
        num_layers=1,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=8,
        axes_dim_rope=(4, 4, 4),
        axes_lens=(300, 16, 16),
        cap_feat_dim=8,
    )


def wan() -> diffusers.WanTransformer3DModel:
    torch.manual_seed(12)
    return diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=8,
        ffn_dim=16,
        num_layers=1,
        rope_max_seq_len=16,
    )


def cogvideox(**options: Any) -> diffusers.CogVideoXTransformer3DModel:
    torch.manual_seed(13)
    return diffusers.CogVideoXTransformer3DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 16,
            "in_channels": 4,
            "out_channels": 4,
            "time_embed_dim": 4,
            "text_embed_dim": 8,
            "num_layers": 1,
            "sample_width": 8,
            "sample_height": 6,
            "sample_frames": 9,
            "max_text_seq_length": 3,
        }
        | options
    )


def ltx() -> diffusers.LTXVideoTransformer3DModel:
    torch.manual_seed(14)
    return diffusers.LTXVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=8,
    )


def unet1d() -> diffusers.UNet1DModel:
    torch.manual_seed(15)
    return diffusers.UNet1DModel(
        sample_size=32,
        sample_rate=1,
        in_channels=2,
        out_channels=2,
        extra_in_channels=64,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock1DNoSkip", "DownBlock1D"),
        up_block_types=("UpBlock1D", "UpBlock1DNoSkip"),
        use_timestep_embedding=False,
    )


def unet3d() -> diffusers.UNet3DConditionModel:
    torch.manual_seed(16)
    return diffusers.UNet3DConditionModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
    )


def vae(**options: Any) -> diffusers.AutoencoderKL:
    torch.manual_seed(5)
    return diffusers.AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **{"latent_channels": 4} | options,
    ).eval()


def video_vae(kind: str, **options: Any) -> Any:
    """The autoencoder of Sana, Wan, CogVideoX or LTX."""
    torch.manual_seed(6)
    sizes: dict[str, dict[str, Any]] = {
        "AutoencoderDC": {
            "latent_channels": 4,
            "attention_head_dim": 2,
            "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
            "encoder_block_out_channels": (8, 8),
            "decoder_block_out_channels": (8, 8),
            "encoder_qkv_multiscales": ((), (5,)),
            "decoder_qkv_multiscales": ((), (5,)),
            "encoder_layers_per_block": (1, 1),
            "decoder_layers_per_block": (1, 1),
            "downsample_block_type": "conv",
            "upsample_block_type": "interpolate",
            "decoder_norm_types": "rms_norm",
            "decoder_act_fns": "silu",
            "scaling_factor": 0.4,
        },
        "AutoencoderKLWan": {
            "base_dim": 3,
            "z_dim": 4,
            "dim_mult": [1, 1, 1, 1],
            "num_res_blocks": 1,
            "temperal_downsample": [False, True, True],
            "latents_mean": [0.1, 0.2, -0.3, 0.0],
            "latents_std": [1.5, 2.0, 0.5, 1.0],
        },
        "AutoencoderKLCogVideoX": {
            "down_block_types": ("CogVideoXDownBlock3D",) * 4,
            "up_block_types": ("CogVideoXUpBlock3D",) * 4,
            "block_out_channels": (8, 8, 8, 8),
            "latent_channels": 4,
            "layers_per_block": 1,
            "norm_num_groups": 2,
            "temporal_compression_ratio": 4,
            "scaling_factor": 0.7,
        },
        "AutoencoderKLLTXVideo": {
            "latent_channels": 4,
            "block_out_channels": (8, 8, 8, 8),
            "decoder_block_out_channels": (8, 8, 8, 8),
            "layers_per_block": (1, 1, 1, 1, 1),
            "decoder_layers_per_block": (1, 1, 1, 1, 1),
            "spatio_temporal_scaling": (True, True, False, False),
            "decoder_spatio_temporal_scaling": (True, True, False, False),
            "decoder_inject_noise": (False,) * 5,
            "upsample_residual": (False,) * 4,
            "upsample_factor": (1,) * 4,
            "timestep_conditioning": False,
            "patch_size": 1,
            "patch_size_t": 1,
            "encoder_causal": True,
            "decoder_causal": False,
        },
    }
    made = getattr(diffusers, kind)(**sizes[kind] | options).eval()
    if kind == "AutoencoderKLLTXVideo":
        made.latents_mean += torch.tensor([0.1, 0.2, -0.3, 0.0])
        made.latents_std *= torch.tensor([1.5, 2.0, 0.5, 1.0])
    return made


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


PROMPT = {"prompt_embeds": random(1, 3, 8), "negative_prompt_embeds": random(1, 3, 8, seed=1)}
POOLED = {
    "pooled_prompt_embeds": random(1, 6, seed=2),
    "negative_pooled_prompt_embeds": random(1, 6, seed=3),
}
