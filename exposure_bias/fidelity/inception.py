"""The Inception-v3 of FID: the TensorFlow graph of 2015-12-05 as its PyTorch port names it.

    uint8 images → bilinear to 299 × 299 as TensorFlow 1 resizes → (x − 128)/128 → network of
    Szegedy et al. 2016 (arXiv 1512.00567) → features (2048 averages), spatial (7 channels of 17 ×
    17), 1008 logits

It is not torchvision's Inception: average pooling leaves the padding out of its mean, the last
block pools by maximum, and there are 1008 classes. TensorFlow 1 resizes by sampling at i · in/out,
without half-pixel centres and without antialiasing; another resize moves FID by tenths (Parmar et
al. 2022, arXiv 2104.11222).

The parameters carry the names of `pt_inception-2015-12-05-6726825d.pth`, the public port of the
weights (https://github.com/mseitzer/pytorch-fid, release fid_weights). Its file name ends in the
start of its SHA-256."""

import hashlib
import os
import pickle
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from exposure_bias.errors import InputError
from exposure_bias.files.reading import content

FILE = "pt_inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/{FILE}"
SHA256 = "6726825d"
VARIABLE = "EXPOSURE_BIAS_INCEPTION"
SIZE = 299
SPATIAL_CHANNELS = 7
LARGEST = 2**28  # bytes of a file of weights; the public one has 96 million


class Activations(NamedTuple):
    """What Inception says of B images.

    features (B, 2048), spatial (B, 7, 17, 17), logits (B, 1008)."""

    features: Tensor
    spatial: Tensor
    logits: Tensor


def resize(images: Tensor, size: int = SIZE) -> Tensor:
    """Images (B, C, H, W) at size × size, float32.

    It is TensorFlow 1's `resize_bilinear` (align_corners=False)."""
    x = images.float()
    for axis in (2, 3):
        length = x.shape[axis]
        place = torch.arange(size, dtype=torch.float32, device=x.device) * torch.tensor(
            length / size
        )
        low = place.long()
        weight = (place - low).view(-1, 1) if axis == 2 else place - low
        below = x.index_select(axis, low)
        x = below + (x.index_select(axis, (low + 1).clamp(max=length - 1)) - below) * weight
    return x


class Convolution(nn.Module):
    """Convolution without bias, batch normalisation, ReLU.

    The padding keeps the size at stride 1 unless it is 0."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        stride: int = 1,
        pad: bool = True,
    ):
        super().__init__()
        height, width = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (height // 2, width // 2) if pad else (0, 0)
        self.conv = nn.Conv2d(inputs, outputs, (height, width), stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, outputs, H', W')."""
        return F.relu(self.bn(self.conv(x)))


def _average(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class BlockA(nn.Module):
    """35 × 35: 1×1, 5×5, double 3×3 and pooling branches."""

    def __init__(self, inputs: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 64, 1)
        self.branch5x5_1, self.branch5x5_2 = Convolution(inputs, 48, 1), Convolution(48, 64, 5)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = (
            Convolution(inputs, 64, 1),
            Convolution(64, 96, 3),
        )
        self.branch3x3dbl_3 = Convolution(96, 96, 3)
        self.branch_pool = Convolution(inputs, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 224 + pool, H, W)."""
        five = self.branch5x5_2(self.branch5x5_1(x))
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch1x1(x), five, double, self.branch_pool(_average(x))], 1)


class BlockB(nn.Module):
    """35 × 35 → 17 × 17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(inputs, 384, 3, 2, pad=False)
        self.branch3x3dbl_1, self.branch3x3dbl_2 = (
            Convolution(inputs, 64, 1),
            Convolution(64, 96, 3),
        )
        self.branch3x3dbl_3 = Convolution(96, 96, 3, 2, pad=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs + 480, H', W')."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """17 × 17: 7×7 convolutions in rows and columns."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = Convolution(inputs, 192, 1)
        self.branch7x7_1, self.branch7x7_2 = (
            Convolution(inputs, width, 1),
            Convolution(width, width, row),
        )
        self.branch7x7_3 = Convolution(width, 192, column)
        self.branch7x7dbl_1, self.branch7x7dbl_2 = (
            Convolution(inputs, width, 1),
            Convolution(width, width, column),
        )
        self.branch7x7dbl_3, self.branch7x7dbl_4 = (
            Convolution(width, width, row),
            Convolution(width, width, column),
        )
        self.branch7x7dbl_5 = Convolution(width, 192, row)
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 768, H, W)."""
        seven = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), seven, double, self.branch_pool(_average(x))], 1)


class BlockD(nn.Module):
    """17 × 17 → 8 × 8."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3_1, self.branch3x3_2 = (
            Convolution(inputs, 192, 1),
            Convolution(192, 320, 3, 2, pad=False),
        )
        self.branch7x7x3_1, self.branch7x7x3_2 = (
            Convolution(inputs, 192, 1),
            Convolution(192, 192, (1, 7)),
        )
        self.branch7x7x3_3, self.branch7x7x3_4 = (
            Convolution(192, 192, (7, 1)),
            Convolution(192, 192, 3, 2, pad=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs + 512, H', W')."""
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, F.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """8 × 8: branches that fork at their ends.

    The graph's last block pools by maximum, the one before by average."""

    def __init__(self, inputs: int, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = Convolution(inputs, 320, 1)
        self.branch3x3_1 = Convolution(inputs, 384, 1)
        self.branch3x3_2a, self.branch3x3_2b = (
            Convolution(384, 384, (1, 3)),
            Convolution(384, 384, (3, 1)),
        )
        self.branch3x3dbl_1, self.branch3x3dbl_2 = (
            Convolution(inputs, 448, 1),
            Convolution(448, 384, 3),
        )
        self.branch3x3dbl_3a, self.branch3x3dbl_3b = (
            Convolution(384, 384, (1, 3)),
            Convolution(384, 384, (3, 1)),
        )
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 2048, H, W)."""
        three, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        forks = [self.branch3x3_2a(three), self.branch3x3_2b(three)]
        forks += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        pooled = F.max_pool2d(x, 3, 1, 1) if self.maximum else _average(x)
        return torch.cat([self.branch1x1(x), *forks, self.branch_pool(pooled)], 1)


class Inception(nn.Module):
    """FID's Inception-v3 with random weights; `load` gives it the public ones.

    Use it in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, 2, pad=False)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3, pad=False)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3, pad=False)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = (
            BlockA(192, 32),
            BlockA(256, 64),
            BlockA(288, 64),
        )
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c = BlockC(768, 128), BlockC(768, 160)
        self.Mixed_6d, self.Mixed_6e = BlockC(768, 160), BlockC(768, 192)
        self.Mixed_7a = BlockD(768)
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, maximum=False), BlockE(2048, maximum=True)
        self.fc = nn.Linear(2048, 1008)
        self.eval()

    def forward(self, images: Tensor) -> Activations:
        """Activations of images (B, 3, H, W) of any size, uint8 or float, in 0…255.

        spatial is what OpenAI's evaluator takes for sFID: the first 7 channels of `mixed_6/conv`,
        which is the 1×1 branch of Mixed_6d."""
        x = (resize(images) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(F.max_pool2d(x, 3, 2))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        spatial = self.Mixed_6d.branch1x1(x)[:, :SPATIAL_CHANNELS]
        x = self.Mixed_7c(self.Mixed_7b(self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x)))))
        features = x.mean((2, 3))
        return Activations(features, spatial, self.fc(features))


def find(weights: str | os.PathLike[str] | None = None) -> Path:
    """The weight file.

    `weights`, else the environment variable's, else the torch hub cache's, else downloaded there.

    Raises InputError if there is none and it cannot be had.
    """
    named = weights or os.environ.get(VARIABLE)
    if named:
        path = Path(os.path.expanduser(named))
        if not os.path.isfile(path):  # unlike Path.is_file, never raises
            raise InputError(f"there is no weight file {path}: give the path of {FILE}")
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL, str(path), hash_prefix=SHA256)
        except Exception as error:  # urllib, ssl, sockets and the hash check raise as many kinds
            raise InputError(
                f"Inception features need {FILE}, and {URL} cannot be downloaded"
                f" ({type(error).__name__}): fetch it and give --weights PATH or {VARIABLE}, or"
                " choose other features"
            ) from error
    return path


def load(weights: str | os.PathLike[str] | None = None) -> tuple[Inception, str]:
    """Inception with the weights of a file (see `find`), and the file's SHA-256.

    Never unpickles more than tensors.

    Raises InputError for another checksum and for a file that does not hold this network's
    parameters."""
    path = find(weights)
    digest = hashlib.sha256(content(path, LARGEST)).hexdigest()
    if not digest.startswith(SHA256):
        raise InputError(
            f"{path} is not {FILE}: its SHA-256 starts with {digest[:8]}, not {SHA256}; fetch {URL}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about the pickle protocol of files that are refused below
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise InputError(
            f"{path} is no file of tensors ({type(error).__name__}): give {FILE}"
        ) from error
    net = Inception()
    expected = net.state_dict()
    # Older files have no counters of batches, which evaluation does not use.
    needed = {key for key in expected if not key.endswith("num_batches_tracked")}
    shapes = (
        {key: getattr(value, "shape", None) for key, value in state.items()}
        if isinstance(state, dict)
        else {}
    )
    if not needed <= shapes.keys() <= expected.keys() or any(
        shapes[key] != expected[key].shape for key in needed
    ):
        raise InputError(f"{path} does not hold the parameters of FID's Inception-v3: give {FILE}")
    net.load_state_dict(state, strict=False)
    return net.eval(), digest
