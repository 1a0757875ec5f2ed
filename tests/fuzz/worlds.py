"""Small honest things that hostile ones are made of: networks, images, runs and their files."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import exposure_bias as eb

SHAPE = (1, 4, 4)
NETWORK: dict[str, Any] = {
    "block_out_channels": [8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
}
BRIEF = {"batch_size": 8, "warmup": 2, "log_every": 2, "evaluate_every": 4, "sample_every": 0}


def model(scale: float = 0.1) -> eb.Denoiser:
    """The exact denoiser of a normal distribution."""
    return eb.oracles.GaussianOracle(np.zeros(SHAPE), scale, eb.schedules.linear(1000))


@cache
def pixels(count: int = 64) -> np.ndarray:
    """Draws of a normal distribution, as images."""
    drawn = np.random.default_rng(0).normal(0, 0.3, (count, *SHAPE))
    return drawn.clip(-1, 1).astype(np.float32)


def images(count: int = 64) -> Any:
    """The same as data."""
    return eb.load_data(pixels(count))


def recording(folder: Path, **options: Any) -> bytes:
    """A small recording's file."""
    streams = ("forward", "chain", "teacher")
    made = eb.record(model(), images(), steps=3, streams=streams, **options)
    made.save(folder / "honest.nc")
    return (folder / "honest.nc").read_bytes()


def saved_images(folder: Path) -> Path:
    """The images as a file, for command lines."""
    np.save(folder / "images.npy", pixels())
    return folder / "images.npy"


def pipeline(folder: Path) -> Path:
    """A small diffusers pipeline's folder."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    net = UNet2DModel(sample_size=4, in_channels=1, out_channels=1, **NETWORK)
    DDPMPipeline(net, DDPMScheduler(clip_sample=False)).save_pretrained(folder)
    return folder


def training(folder: Path, iterations: int = 8, **options: Any) -> Any:
    """A short training in a folder; `stop=` ends it early, as a kill would."""
    given = {**BRIEF, "checkpoint_every": 2, **options}
    return eb.train(pixels(), net=dict(NETWORK), out=folder, iterations=iterations, **given)


def json_of(path: Path) -> dict[str, Any]:
    """A JSON file's object."""
    known: dict[str, Any] = json.loads(path.read_text())
    return known
