"""What can a Fréchet distance see? Known corruptions, in units of the floor, for each feature set.

    python analyses/feature_sensitivity.py --data ../shared/data/fashion-mnist-train.zip
    python analyses/feature_sensitivity.py --data ../shared/data/cifar10-train.zip

Two disjoint sets of N images, of Fashion-MNIST averaged to 14×14 or of CIFAR-10 as JPEGs of 32×32,
have the distance `floor`; with the second set corrupted it is `distance`. Both are plug-in values.
The draws are repeated, and a cell is mean(distance) / mean(floor) with its 95 % interval over draws
(log of the ratio, delta method, t). Draws share 60,000 or 50,000 images, which counts: at N =
10,000 intervals are a little narrow. The classifier has seen these images; `training.json` beside
its weights says how many others it names rightly. Above 1 by more than its interval a corruption is
seen. `pixel` is left out where its d is 3072.

Writes sensitivity.csv and prints the table of docs/fidelity.md."""

import argparse
from collections.abc import Callable
from pathlib import Path

import common
import numpy as np
import pandas as pd
import torch
from box_average import box_average
from scipy.ndimage import gaussian_filter
from scipy.special import stdtrit

import exposure_bias as eb
from exposure_bias.fidelity.features import extracted, extractor
from exposure_bias.fidelity.frechet import distance, normal_of_features

FEATURES = ("classifier", "random-conv", "pixel")
COUNTS, DRAWS, SEED = (512, 2000, 10_000), 24, 0
MISSING = 0  # the class that is left out: T-shirts, aeroplanes
LARGEST = 1000  # pixels, beyond which their covariance has no room
Array = np.ndarray


def noise(images: Array, width: float) -> Array:
    """Gaussian noise of a standard deviation in grey levels of 255."""
    rng = np.random.default_rng(SEED)
    return bytes_of(images + width * rng.standard_normal(images.shape))


def blur(images: Array, width: float) -> Array:
    """A Gaussian of a standard deviation in pixels."""
    return bytes_of(gaussian_filter(images.astype(float), (0, 0, width, width)))


def contrast(images: Array, factor: float) -> Array:
    """Grey levels towards those of the mean image."""
    mean = images.mean(0)
    return bytes_of(mean + factor * (images - mean))


def bytes_of(images: Array) -> Array:
    return np.rint(images).clip(0, 255).astype(np.uint8)


CORRUPTIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "noise 5/255": lambda x: noise(x, 5),
    "noise 20/255": lambda x: noise(x, 20),
    "blur 0.4 px": lambda x: blur(x, 0.4),
    "blur 0.6 px": lambda x: blur(x, 0.6),
    "contrast 0.95": lambda x: contrast(x, 0.95),
    "contrast 0.85": lambda x: contrast(x, 0.85),
}
DROPPED = "a class missing"


def main() -> None:
    parser = argparse.ArgumentParser(description="what a Fréchet distance can see")
    parser.add_argument("--data", default="../shared/data/fashion-mnist-train.zip")
    parser.add_argument("--out", type=Path, help="default: results/feature_sensitivity, …-DATA")
    parser.add_argument("--draws", type=int, default=DRAWS)
    given = parser.parse_args()
    data = eb.load_data(given.data)
    grey = data.shape == (1, 28, 28)
    out = given.out or common.RESULTS / (
        "feature_sensitivity" if grey else f"feature_sensitivity-{Path(given.data).stem}"
    )
    table = measure(box_average(data.images, 2) if grey else data.images, data.labels, given.draws)
    out.mkdir(parents=True, exist_ok=True)
    common.write(table, out / "sensitivity.csv")
    print(markdown(table))


def measure(images: Array, labels: Array, draws: int) -> pd.DataFrame:
    """A row for each feature set, N and corruption: value, low, high."""
    rows = []
    for name in FEATURES if images[0].size <= LARGEST else FEATURES[:2]:
        found = {k: features(name, change(images)) for k, change in CORRUPTIONS.items()}
        for n in COUNTS:
            rng = np.random.default_rng([SEED, n])
            each = [one_draw(found, labels, n, rng) for _ in range(draws)]
            floors = np.array([d["none"] for d in each])
            for corruption in [*list(CORRUPTIONS)[1:], DROPPED]:
                far = np.array([d[corruption] for d in each])
                rows.append({"features": name, "n": n, "corruption": corruption})
                rows[-1] |= ratio(far, floors)
    return pd.DataFrame(rows)


def features(name: str, images: Array) -> Array:
    """Features (N, d) of uint8 images."""
    taken = extractor(name, images.shape[1:])
    parts = torch.from_numpy(images).split(1024)
    return np.concatenate([extracted(taken, part)[0] for part in parts])


def one_draw(
    found: dict[str, Array], labels: Array, n: int, rng: np.random.Generator
) -> dict[str, float]:
    """Distances of one set to each corruption of another."""
    order = rng.permutation(len(labels))
    first, second = order[:n], order[n : 2 * n]
    clean = normal_of_features(found["none"][first])
    result = {k: distance(clean, normal_of_features(values[second])) for k, values in found.items()}
    rest = order[n:]
    kept = rest[labels[rest] != MISSING][:n]
    result[DROPPED] = distance(clean, normal_of_features(found["none"][kept]))
    return result


def ratio(far: Array, floors: Array) -> dict[str, float]:
    """mean(far)/mean(floors) with an interval over draws, which are paired."""
    value = far.mean() / floors.mean()
    influence = far / far.mean() - floors / floors.mean()
    half = stdtrit(len(far) - 1, 0.975) * influence.std(ddof=1) / np.sqrt(len(far))
    return {"value": value, "low": value * np.exp(-half), "high": value * np.exp(half)}


def markdown(table: pd.DataFrame, counts: tuple[int, ...] = (COUNTS[0], COUNTS[-1])) -> str:
    """The table of docs/fidelity.md."""
    names = table["features"].unique()
    columns = [(name, n) for n in counts for name in names]
    head = [f"{name}, N = {n:,}" for name, n in columns]
    lines = [f"| | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for corruption, here in table.groupby("corruption", sort=False):
        rows = here.set_index(["features", "n"])
        cells = [common.told(row := rows.loc[c], digits(row["value"])) for c in columns]
        lines.append(f"| {corruption} | {' | '.join(cells)} |")
    return "\n".join(lines)


def digits(value: float) -> int:
    """After the point, of a ratio."""
    return 2 if value < 3 else 1 if value < 30 else 0


if __name__ == "__main__":
    main()
