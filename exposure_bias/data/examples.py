"""The bundled data: digits, patches of photographs, and clothes.

scikit-learn's digits and its two photographs, and Fashion-MNIST."""

from collections.abc import Callable

import numpy as np

from exposure_bias.data.bundled import FASHION
from exposure_bias.data.dataset import Data

DIGITS_TEST = 512
PATCH = 16


def digits(split: str) -> Data:
    """(1, 8, 8): 1285 train, 512 test."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(0).permutation(len(digits.images))
    ids = np.sort(order[:DIGITS_TEST] if split == "test" else order[DIGITS_TEST:])
    images = (digits.images[ids, None] / 8 - 1).astype(np.float32)
    return Data(images, "digits", split, digits.target[ids].astype(np.int64), "17 grey values")


def patches(split: str) -> Data:
    """Patches (3, 16, 16): left three quarters of each photograph train, right quarter test.

    No patch of one touches the other's pixels."""
    from sklearn.datasets import load_sample_images

    photos = np.stack(load_sample_images().images)  # (2, 427, 640, 3) uint8
    rows, columns = photos.shape[1] // PATCH, photos.shape[2] // PATCH
    border = 3 * columns // 4
    grid = photos[:, : rows * PATCH, : columns * PATCH].reshape(
        len(photos), rows, PATCH, columns, PATCH, 3
    )
    grid = grid[:, :, :, :border] if split == "train" else grid[:, :, :, border:]
    images = grid.transpose(0, 1, 3, 5, 2, 4).reshape(-1, 3, PATCH, PATCH)
    return Data(
        images,
        "patches",
        split,
        note="patches of JPEG photographs: their high frequencies are those of JPEG",
    )


def fashion(split: str) -> Data:
    """Clothes (1, 14, 14): 2000 of Fashion-MNIST's train images and 2000 of its test images.

    Of 60,000 and 10,000, averaged over blocks of 2×2 (Zalando, Expat licence:
    models/fashion-data/LICENSE)."""
    with np.load(FASHION, allow_pickle=False) as arrays:
        images, labels = arrays[split], arrays[f"{split}_labels"]
    return Data(images[:, None], "fashion", split, labels.astype(np.int64))


BUNDLED: dict[str, Callable[[str], Data]] = {
    "digits": digits,
    "patches": patches,
    "fashion": fashion,
}
