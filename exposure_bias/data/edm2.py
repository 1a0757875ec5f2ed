"""EDM2's archives of latents: the mean and standard deviation of an autoencoder's posterior.

`dataset_tool.py encode` of NVlabs/edm2 writes, in a folder or a .zip, for each image an array
(8, h, w) in numpy's format, and the classes in `dataset.json`. What its networks are trained on is

    z = (mean + std · ε − raw_mean) / raw_std / 2        raw_mean = 5.81, 3.25, 0.12, −2.15
                                                         raw_std  = 4.17, 4.62, 3.71,  3.28

(Karras et al. 2024, arXiv 2312.02696, and `StabilityVAEEncoder` of its code), with one draw ε for
each image here, by its number."""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from exposure_bias.data.arrays import array_in
from exposure_bias.errors import InputError
from exposure_bias.files.limits import Limit

NAME = re.compile(r"(.*/)?img-mean-std-\d+\.npy")
NOTE = "latents of EDM2 (posterior sample)"
MEAN = np.array([5.81, 3.25, 0.12, -2.15], dtype=np.float32)
STD = np.array([4.17, 4.62, 3.71, 3.28], dtype=np.float32)
FINAL = np.float32(0.5)


def is_latent(name: str) -> bool:
    """Whether a file is named as EDM2 names latents."""
    return NAME.fullmatch(name) is not None


def read(
    names: Sequence[str], content: Callable[[str], bytes], where: Path, limit: Limit
) -> NDArray[np.float32]:
    """Latents (N, 4, h, w) of the named files.

    Raises InputError for a file that is damaged, beyond the limit or unlike the others."""
    for i, name in enumerate(tqdm(names, f"reading {where.name}", delay=1, disable=None)):
        both = array_in(io.BytesIO(content(name)), where / name, limit)
        if both.ndim != 3 or len(both) != 2 * len(MEAN) or both.dtype.kind != "f":
            raise InputError(
                f"{name} in {where} holds {both.dtype} of shape {both.shape}: allowed are mean and"
                " standard deviation as EDM2 writes them, float32 (8, h, w)"
            )
        if i == 0:
            limit.check(len(names) * both.nbytes // 2, f"{len(names):,} latents", where)
            latents = np.empty((len(names), len(MEAN), *both.shape[1:]), dtype=np.float32)
        if both.shape[1:] != latents.shape[2:]:
            raise InputError(
                f"{name} in {where} is {both.shape} where the first is"
                f" {(8, *latents.shape[2:])}: all must be alike"
            )
        mean, std = both[: len(MEAN)], both[len(MEAN) :]
        draw = np.random.default_rng([0, i]).standard_normal(mean.shape, dtype=np.float32)
        scale = (FINAL / STD)[:, None, None]
        latents[i] = (mean + std * draw - MEAN[:, None, None]) * scale
    if not np.isfinite(latents).all():
        raise InputError(f"latents of {where} hold NaN or infinity: encode them again")
    return latents
