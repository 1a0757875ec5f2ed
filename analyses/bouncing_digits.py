"""Bouncing digits: sequences of 16×16 images in which one digit of MNIST moves and bounces.

A digit of 10×10 pixels moves with a constant velocity of 0.6 to 1.6 pixels a frame, at positions
between pixels. At a wall its velocity is reflected and turned by a random angle, so that the next
frame is a draw and not a function of the two before it.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE, DIGIT = 16, 10
TURN = 0.6  # standard deviation of the angle at a wall
SPEED = (0.6, 1.6)


def digits(archive: Path, most: int) -> np.ndarray:
    """The first `most` digits of an archive, (N, 10, 10) in [0, 1]."""
    with zipfile.ZipFile(archive) as pictures:
        names = sorted(n for n in pictures.namelist() if n.endswith(".png"))[:most]
        found = [np.asarray(Image.open(io.BytesIO(pictures.read(n))).convert("L")) for n in names]
    middle = np.stack(found)[:, 4:24, 4:24].astype(np.float32) / 255
    return middle.reshape(-1, DIGIT, 2, DIGIT, 2).mean((2, 4))


def sequences(shapes: np.ndarray, n: int, frames: int, seed: int) -> np.ndarray:
    """n sequences, (n, frames, 1, 16, 16) uint8."""
    random = np.random.default_rng(seed)
    room = SIDE - DIGIT
    chosen = shapes[random.integers(len(shapes), size=n)]
    place = random.uniform(0, room, (n, 2))
    angle = random.uniform(0, 2 * np.pi, n)
    velocity = random.uniform(*SPEED, n)[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    drawn = []
    for _ in range(frames):
        drawn.append(placed(chosen, place))
        place = place + velocity
        hit = (place < 0) | (place > room)
        place = np.where(place < 0, -place, np.where(place > room, 2 * room - place, place))
        velocity = np.where(hit, -velocity, velocity)
        turn = np.where(hit.any(1), TURN * random.normal(size=n), 0.0)
        c, s = np.cos(turn), np.sin(turn)
        velocity = np.stack(
            [c * velocity[:, 0] - s * velocity[:, 1], s * velocity[:, 0] + c * velocity[:, 1]], 1
        )
    return np.stack(drawn, axis=1)


def placed(shapes: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Digits at places between pixels, bilinear, (n, 1, 16, 16) uint8."""
    low = np.floor(place).astype(int)
    part = place - low
    canvas = np.zeros((len(shapes), SIDE + 1, SIDE + 1), np.float32)
    rows = np.arange(len(shapes))[:, None, None]
    grid = np.arange(DIGIT)
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dy - part[:, 0]) * np.abs(1 - dx - part[:, 1])
            y = (low[:, 0, None] + grid + dy)[:, :, None]
            x = (low[:, 1, None] + grid + dx)[:, None, :]
            canvas[rows, y, x] += weight[:, None, None] * shapes
    return np.round(255 * canvas[:, None, :SIDE, :SIDE]).astype(np.uint8)


class Block(torch.nn.Module):
    """A residual block of two convolutions, scaled and shifted by the noise level."""

    def __init__(self, inward: int, outward: int, features: int) -> None:
        super().__init__()
        self.one = torch.nn.Conv2d(inward, outward, 3, padding=1)
        self.two = torch.nn.Conv2d(outward, outward, 3, padding=1)
        self.norm = torch.nn.GroupNorm(4, outward)
        self.told = torch.nn.Linear(features, 2 * outward)
        same = inward == outward
        self.past = torch.nn.Identity() if same else torch.nn.Conv2d(inward, outward, 1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        scale, shift = self.told(features)[:, :, None, None].chunk(2, dim=1)
        h = self.norm(self.one(torch.nn.functional.silu(x))) * (1 + scale) + shift
        return self.past(x) + self.two(torch.nn.functional.silu(h))


def doubled(x: Tensor) -> Tensor:
    return torch.nn.functional.interpolate(x, scale_factor=2)


class SmallUNet(torch.nn.Module):
    """A UNet of two resolutions for (1, 16, 16) given two frames; D as in `sequence_network`."""

    def __init__(self, width: int = 16, spread: float = 0.4, context: int = 2) -> None:
        super().__init__()
        self.spread = spread
        self.features = torch.nn.Sequential(torch.nn.Linear(17, 64), torch.nn.SiLU())
        self.enter = torch.nn.Conv2d(1 + context, width, 3, padding=1)
        self.fine = Block(width, width, 64)
        self.down = torch.nn.Conv2d(width, 2 * width, 2, stride=2)
        self.coarse = torch.nn.ModuleList(Block(2 * width, 2 * width, 64) for _ in range(2))
        self.further = torch.nn.Conv2d(2 * width, 2 * width, 2, stride=2)
        self.coarsest = Block(2 * width, 2 * width, 64)
        self.up = Block(4 * width, 2 * width, 64)
        self.last = Block(3 * width, width, 64)
        self.leave = torch.nn.Conv2d(width, 1, 3, padding=1)
        torch.nn.init.zeros_(self.leave.weight)
        torch.nn.init.zeros_(self.leave.bias)

    def forward(self, x: Tensor, sigma: Tensor, frames: Tensor, tau: Tensor) -> Tensor:
        sigma = sigma.to(x)
        angle = sigma[:, None].log() / 4 * torch.arange(1, 9).to(x)
        told = self.features(torch.cat([angle.sin(), angle.cos(), tau.to(x)[:, None]], dim=1))
        sigma = sigma.view(-1, 1, 1, 1)
        total = sigma.square() + self.spread**2
        fine = self.fine(self.enter(torch.cat([x / total.sqrt(), frames.flatten(1, 2)], 1)), told)
        coarse = self.down(fine)
        for block in self.coarse:
            coarse = block(coarse, told)
        low = self.coarsest(self.further(coarse), told)
        h = self.up(torch.cat([doubled(low), coarse], 1), told)
        h = self.last(torch.cat([doubled(h), fine], 1), told)
        out = self.leave(torch.nn.functional.silu(h))
        return self.spread**2 / total * x + sigma * self.spread / total.sqrt() * out
