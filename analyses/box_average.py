"""Average images over blocks of pixels, as an .npz that --data takes.

    python analyses/box_average.py cifar10-train.zip cifar16.npz   # 2×2 blocks: 32×32 to 16×16
    python analyses/box_average.py cifar10-train.zip cifar8.npz --factor 4

JPEGs with halved chroma hold no colour finer than 2×2 pixels; what the average leaves is whole in
all channels. The quantisation of the luminance stays."""

import argparse
from pathlib import Path

import numpy as np

import exposure_bias as eb


def box_average(images: np.ndarray, factor: int) -> np.ndarray:
    """uint8 (N, C, H, W) to uint8 (N, C, H/factor, W/factor): the rounded mean of each block."""
    n, channels, height, width = images.shape
    blocks = images.reshape(n, channels, height // factor, factor, width // factor, factor)
    return np.rint(blocks.mean((3, 5), dtype=np.float32)).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description="average images over blocks of pixels")
    parser.add_argument("source")
    parser.add_argument("out")
    parser.add_argument("--factor", type=int, default=2)
    given = parser.parse_args()
    data = eb.load_data(given.source)
    if data.images.dtype != np.uint8 or any(side % given.factor for side in data.shape[1:]):
        parser.error(
            f"{data.name} holds {data.images.dtype} images of shape {data.shape}: 8-bit and"
            " divisible ones"
        )
    averaged = box_average(data.images, given.factor).transpose(0, 2, 3, 1)
    Path(given.out).parent.mkdir(parents=True, exist_ok=True)
    labels = {} if data.labels is None else {"arr_1": data.labels}
    np.savez(given.out, arr_0=averaged, **labels)
    print(f"wrote {given.out}: {averaged.shape}")


if __name__ == "__main__":
    main()
