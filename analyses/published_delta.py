"""The published CIFAR-10 δ_t log against what δ_t is without any exposure bias.

    python analyses/published_delta.py                        # ../shared/data/cifar10-train.zip
    python analyses/published_delta.py --data FOLDER_OR_ZIP   # any copy of those images

The log is the author's, in issue 4 of github.com/forever208/ADM-ES (2025-02-23): ADM on CIFAR-10,
20 steps of the ancestral sampler on the cosine schedule, x̂_0 clipped, learned variance. A value
logged under t belongs to the state one index below t (`published_delta`'s docstring). Beside it
stand

    perfect     a perfect ancestral sampler: Var_i = σ² + 2α²(1 − SNR_T/SNR_t)σ_i², any data
    small       a perfect denoiser with the same 20 steps and the variance β̃, on Gaussian data of
                CIFAR's covariance
    large       the same with β; the learned variance lies between the two

None of the three knows of clipping. Writes results/published_delta/: table.csv, conclusion.txt and
run.json."""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

import exposure_bias as eb

ROOT = Path(__file__).parents[1]
LOG = {
    19: 1.962e-5,
    18: 6.791e-5,
    17: 2.740e-4,
    16: 7.984e-4,
    15: 1.915e-3,
    14: 3.858e-3,
    13: 7.112e-3,
    12: 0.012104,
    11: 0.019259,
    10: 0.029546,
    9: 0.043356,
    8: 0.062254,
    7: 0.087213,
    6: 0.118949,
    5: 0.160355,
    4: 0.211780,
}
STEPS = 20
IMAGES = 8192
LATE = 15  # from here on sigma_t no longer hides the data
SCHEDULE = eb.schedules.cosine(1000)
NORMALISATION = (
    0.2470,
    0.2435,
    0.2616,
)  # the channels' standard deviations in [0, 1] that torchvision recipes use


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", default=str(ROOT.parent / "shared" / "data" / "cifar10-train.zip")
    )
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "published_delta")
    arguments = parser.parse_args()
    data = eb.load_data(arguments.data)
    table = compare(data)
    arguments.out.mkdir(parents=True, exist_ok=True)
    table.to_csv(arguments.out / "table.csv", index=False, float_format="%.6g")
    text = conclusion(table)
    (arguments.out / "conclusion.txt").write_text(text)
    run = {
        "log": (
            "github.com/forever208/ADM-ES/issues/4, comment of 2025-02-23; t = 3, 2, 1 are not"
            " available"
        ),
        "data": {
            "name": data.name,
            "hash": data.hash,
            "images": len(data),
            "used": IMAGES,
            "note": data.note,
        },
        "schedule": "cosine, T = 1000",
        "steps": STEPS,
        "grid": "linspace",
        "exposure_bias": eb.__version__,
    }
    (arguments.out / "run.json").write_text(json.dumps(run, indent=2) + "\n")
    print(table.to_string(index=False, float_format=lambda v: f"{v:.4g}"))
    print(text)


def compare(data: eb.data.Data) -> pd.DataFrame:
    """A row for each logged value: δ published and by each reference, and the ratios of the signed
    roots."""
    images = data.batch(np.linspace(0, len(data) - 1, IMAGES).astype(int)).reshape(IMAGES, -1)
    mean, centred = images.mean(0), images - images.mean(0)
    covariance = (centred.T @ centred / IMAGES).astype(np.float64)
    eigen = eb.references.eigendecomposition(covariance)
    solver = {
        name: eb.references.gaussian(
            mean.reshape(data.shape), eigen, SCHEDULE, f"ddpm:fixed_{name}", STEPS
        )
        for name in ("small", "large")
    }
    steps = [STEPS - t for t in LOG]  # step 0 is index 19; a value logged under t is of index t − 1
    here = solver["small"].isel(step=steps)
    start = solver["small"].isel(step=0)
    forgotten = 1 - (start["alpha"] / start["sigma"] * here["sigma"] / here["alpha"]) ** 2
    variance = covariance.diagonal()
    table = pd.DataFrame(
        {"logged_t": list(LOG), "timestep": here["timestep"], "published": list(LOG.values())}
    )
    alpha, sigma = here["alpha"].values, here["sigma"].values
    table["perfect"] = delta(alpha, sigma, forgotten.values, variance)
    table["perfect_lossless_channels"] = delta(
        alpha, sigma, forgotten.values, (2 * np.array(NORMALISATION)) ** 2
    )
    for name, reference in solver.items():
        table[name] = reference["published_delta"].isel(step=steps).values
    for name in ("perfect", "small", "large"):
        table[f"root_over_{name}"] = np.sqrt(table["published"] / table[name])
    # The one data standard deviation with which a perfect sampler would show the published value.
    root = np.sqrt(table["published"]) + sigma
    table["implied_std"] = np.sqrt((root**2 - sigma**2) / (2 * alpha**2 * forgotten.values))
    table["data_std"] = np.sqrt(variance).mean()
    return table


def delta(
    alpha: np.ndarray, sigma: np.ndarray, forgotten: np.ndarray, variance: np.ndarray
) -> np.ndarray:
    """(mean_i √(σ² + 2α²(1 − SNR_T/SNR_t)σ_i²) − σ)² for every level."""
    spread = np.sqrt(sigma[:, None] ** 2 + 2 * (alpha**2 * forgotten)[:, None] * variance)
    return (spread.mean(1) - sigma) ** 2


def conclusion(table: pd.DataFrame) -> str:
    """What the numbers say, and no more."""
    late, early = table[table["logged_t"] <= LATE], table[table["logged_t"] > LATE]
    root, std = late["root_over_perfect"], late["implied_std"]
    excess = np.sqrt(early["published"]) - np.sqrt(early["perfect"])
    low, high = (pair(table["small"], table["large"]) for pair in (np.minimum, np.maximum))
    inside = int(((low <= table["published"]) & (table["published"] <= high)).sum())
    return (
        f"At the {len(late)} logged levels t <= {LATE} the published root of delta is"
        f" {root.min():.3f} to {root.max():.3f} times that of a perfect ancestral sampler on these"
        f" images. Read the other way, the log implies a data standard deviation of {std.min():.3f}"
        f" to {std.max():.3f}, and these images have {late['data_std'].iloc[0]:.3f}. At t > {LATE}"
        f" the published root exceeds the perfect sampler's by {excess.min():.4f} to"
        f" {excess.max():.4f}, in units of which images span 2.\n{inside} of the {len(table)}"
        " values lie between those of a perfect denoiser with 20 steps of variance beta-tilde and"
        f" of beta, on Gaussian data.\nSo for t <= {LATE} the variance of the data alone gives the"
        f" published curve to within {100 * np.abs(root - 1).max():.1f} % of its root. The log"
        " neither shows nor excludes an exposure bias of that size: it has no standard errors and"
        " no number of samples, the run clipped x0 and learned its variance, which none of the"
        " lines does, and the images here are JPEG copies.\n"
    )


if __name__ == "__main__":
    main()
