"""Latents of images and of videos, and images of latents: a pipeline's autoencoder at work.

A latent model was trained on z = (E(x) − shift) / spread · scale, with the mean or a draw of the
autoencoder's posterior for E(x). shift, spread and scale stand in the autoencoder's configuration,
as diffusers' training scripts and pipelines use them:

    AutoencoderKL (SD, SDXL, SD3, Flux, PixArt, AuraFlow, Lumina2)  scaling_factor, shift_factor
    AutoencoderDC (Sana)                                            scaling_factor
    AutoencoderKLWan                                                latents_mean, latents_std
    AutoencoderKLCogVideoX                                          scaling_factor
    AutoencoderKLLTXVideo                                           its own buffers, scaling_factor
    VQModel                                                         scaling_factor

An autoencoder of videos takes an image as a video of one frame.

What was encoded once is kept in the cache folder (`files.cache`) under a hash of the images, of the
autoencoder's weights and of how they were encoded, and read from there as it is needed."""

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from exposure_bias.adapters.unwrap import unwrapped
from exposure_bias.data import Data, load_data
from exposure_bias.denoisers import evaluating, weight_hash
from exposure_bias.errors import InputError
from exposure_bias.files import cache
from exposure_bias.paths import Noise

ORDER = "1"  # of how latents are made: part of the name under which they are kept


def encode(
    vae: Any,
    images: Any,
    *,
    sample: bool = False,
    seed: int = 0,
    batch_size: int = 16,
    labels: Any = None,
    keep: bool = False,
) -> Data:
    """Encode images as a latent model was trained on them.

    Parameters
    ----------
    vae
        An autoencoder of diffusers (see the module's table).
    images, labels
        As for `load_data`. Videos are (N, C, F, H, W).
    sample
        A draw of the posterior, seeded by image number, instead of its mean.
    keep
        Whether latents are kept in the cache folder, and read again from there.

    Returns
    -------
    Data
        Latents (N, c, h, w) or (N, c, f, h, w), without a value range. The note says what they are.
        `decode` is set, so that pictures can be made of them.

    Raises
    ------
    InputError
        For images that the autoencoder does not take, for a batch_size that is no whole number of
        at least 1, and for latents that are not finite, as half precision makes of some
        autoencoders."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size is a whole number of at least 1, got {batch_size!r}")
    vae = unwrapped(vae)
    data = _fitting(load_data(images, labels=labels), vae)
    batches = _batches(vae, data, sample, seed, batch_size)
    if keep:
        path = cache.folder() / f"latents-{_key(vae, data, sample, seed)}.npy"
        latents = _kept(path, len(data), batches)
    else:
        latents = np.concatenate([z for _, z in batches])
    kind = "posterior sample" if sample else "posterior mean"
    kind = f"latents ({kind})" if has_posterior(vae) else "latents"
    note = "; ".join(filter(None, (kind, data.note)))
    made = replace(data, images=latents, note=note, value_range=None)
    return replace(made, decode=lambda z: decode(vae, z))


def decode(vae: Any, latents: NDArray[Any], batch_size: int = 4) -> NDArray[np.uint8]:
    """Decode latents into 8-bit pictures, of a video its frame in the middle.

    Returns (N, C, H, W), without what lies beyond [−1, 1]."""
    parameter = next(vae.parameters())
    pictures = []
    for start in range(0, len(latents), batch_size):
        z = torch.from_numpy(np.asarray(latents[start : start + batch_size], dtype=np.float32))
        with torch.no_grad(), evaluating(vae):
            z = _unscaled(z.to(parameter.device), vae).to(parameter.dtype)
            x = vae.decode(z, return_dict=False)[0].float()
        x = x[:, :, x.shape[2] // 2] if x.dim() == 5 else x
        pictures.append(((x.clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy())
    return np.concatenate(pictures)


def factors(vae: Any) -> dict[str, int]:
    """How many pixels and frames one number of a latent stands for; empty where nobody knows."""
    if vae is None:
        return {}
    known = {name: vars(vae).get(f"{name}_compression_ratio") for name in ("spatial", "temporal")}
    blocks = vae.config.get("block_out_channels") or vae.config.get("encoder_block_out_channels")
    if known["spatial"] is None and blocks:
        known["spatial"] = 2 ** (len(blocks) - 1)
    return {name: int(value) for name, value in known.items() if isinstance(value, int | float)}


def of_video(vae: Any) -> bool:
    """Whether an autoencoder works on videos (B, C, F, H, W)."""
    return any(isinstance(module, torch.nn.Conv3d) for module in vae.modules())


def _fitting(data: Data, vae: Any) -> Data:
    """The images as the autoencoder takes them, an image for a video of one frame."""
    channels = int(vae.config.get("in_channels", 3))
    if data.shape[0] != channels:
        raise InputError(
            f"the autoencoder takes {channels} channels, but {data.name} has {data.shape[0]}"
        )
    rank = 4 if of_video(vae) else 3
    if rank == 4 and len(data.shape) == 3:
        frame = (len(data), channels, 1, *data.shape[1:])
        data = replace(data, images=data.images.reshape(frame))
    if len(data.shape) != rank:
        kind = "videos (C, F, H, W)" if rank == 4 else "images (C, H, W)"
        raise InputError(
            f"the autoencoder takes {kind}, but {data.name} holds states {data.shape}: give those"
        )
    return data


def _batches(
    vae: Any, data: Data, sample: bool, seed: int, size: int
) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """The latents of one batch of images after the other, and which images these are."""
    parameter = next(vae.parameters())
    starts = range(0, len(data), size)
    for start in tqdm(starts, "encoding", unit="batch", delay=5, disable=None):
        ids = np.arange(start, min(start + size, len(data)))
        x = torch.from_numpy(data.batch(ids)).to(parameter.device, parameter.dtype)
        with torch.no_grad(), evaluating(vae):
            try:
                encoded = vae.encode(x)
            except RuntimeError as error:
                raise InputError(
                    f"the autoencoder cannot encode {data.name}, states {data.shape}: their sides"
                    f" are to be multiples of {factors(vae).get('spatial', 8)} pixels"
                ) from error
        z = _scaled(_mean_or_draw(encoded, vae, sample, seed, ids), vae)
        if not torch.isfinite(z).all():
            raise InputError(
                f"the autoencoder, in {str(parameter.dtype).removeprefix('torch.')}, made NaN or"
                f" Inf of some of images {ids[0]} to {ids[-1]}: encode in float32,"
                " encode(vae.float(), ...)"
            )
        yield slice(start, start + len(ids)), z.cpu().numpy()


def _mean_or_draw(
    encoded: Any, vae: Any, sample: bool, seed: int, ids: NDArray[np.int64]
) -> Tensor:
    posterior = getattr(encoded, "latent_dist", None)
    if posterior is None:
        if sample:
            raise InputError(
                f"the latents of a {type(vae).__name__} are no distribution to sample from:"
                " sample=False"
            )
        latents: Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent
        return latents.float()
    z: Tensor = posterior.mean.float()
    if sample:
        noise = Noise(seed, "latents", ids.tolist(), tuple(z.shape[1:]), z.device)(0)
        z = z + posterior.std.float() * noise
    return z


def has_posterior(vae: Any) -> bool:
    """Whether an autoencoder makes a distribution of latents, of which models see draws."""
    return not any(word in type(vae).__name__ for word in ("VQ", "AutoencoderDC", "Tiny"))


def _scaled(z: Tensor, vae: Any) -> Tensor:
    shift, spread, scale = _numbers(vae, z)
    return (z - shift) / spread * scale


def _unscaled(z: Tensor, vae: Any) -> Tensor:
    shift, spread, scale = _numbers(vae, z)
    return z / scale * spread + shift


def _numbers(vae: Any, z: Tensor) -> tuple[Tensor, Tensor, float]:
    """shift, spread and scale, of each channel (1, c, 1, …)."""
    config, buffers = vae.config, dict(vae.named_buffers())
    mean, std = (
        buffers.get(name) if config.get(name) is None else config.get(name)
        for name in ("latents_mean", "latents_std")
    )
    shift = config.get("shift_factor") or 0.0
    scale = config.get("scaling_factor")
    one = [1, -1] + [1] * (z.dim() - 2)
    tensors = [
        torch.as_tensor(default if value is None else value, device=z.device).float().view(one)
        for value, default in ((mean, [shift]), (std, [1.0]))
    ]
    return tensors[0], tensors[1], 1.0 if scale is None else float(scale)


def _key(vae: Any, data: Data, sample: bool, seed: int) -> str:
    """A name for latents by all that they depend on."""
    dtype = str(next(vae.parameters()).dtype)
    how = [ORDER, type(vae).__name__, dtype, weight_hash(vae), data.hash, sample, seed]
    numbers = [t.flatten().tolist() for t in _numbers(vae, torch.zeros(1, 1))[:2]]
    text = json.dumps([how, numbers, vae.config.get("scaling_factor")])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _kept(
    path: Path, count: int, batches: Iterator[tuple[slice, NDArray[np.float32]]]
) -> NDArray[np.float32]:
    """The latents in a file, which is made where it is not there yet."""
    with suppress(OSError, ValueError):
        return _mapped(path, count)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    first, z = next(batches)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (count, *z.shape[1:])
        kept = np.lib.format.open_memmap(temporary, "w+", np.float32, shape)
    except OSError as error:  # a cache saves time and decides nothing
        warnings.warn(f"latents are not kept for the next time: {error}", stacklevel=3)
        return np.concatenate([z, *(z for _, z in batches)])
    try:
        kept[first] = z
        for rows, z in batches:
            kept[rows] = z
        kept.flush()
        os.replace(temporary, path)
    finally:
        with suppress(OSError):
            temporary.unlink()
    return _mapped(path, count)


def _mapped(path: Path, count: int) -> NDArray[np.float32]:
    latents: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    if latents.dtype != np.float32 or len(latents) != count:
        raise ValueError(f"{path} holds {latents.dtype} of shape {latents.shape}")
    return latents
