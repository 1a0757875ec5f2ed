"""δ_t and ε-norms of the literature beside the values of samplers and networks without error.

From results/delta_and_norms and results/published_delta."""

import drawing
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes

STUDY, LOG = "delta_and_norms", "published_delta"


def main() -> None:
    delta, norms = drawing.read(STUDY, "delta.csv"), drawing.read(STUDY, "norms.csv")
    if delta is None or norms is None:
        return drawing.note_missing(STUDY)
    steps = int(delta["steps"].min())
    with drawing.style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(2 * drawing.COLUMN, 2.6))
        draw_delta(left, delta[delta["steps"] == steps])
        draw_norms(right, norms[norms["steps"] == steps])
    drawing.save(
        figure,
        STUDY,
        f"Two published measures along a chain of {steps} steps; the noise is at the left. Left:"
        " the root of δ_t of the network (simultaneous 95 % band), of a perfect sampler of any"
        " data, and of the exact denoiser of the training images. None is zero. Right: the ratio of"
        " the predicted noise's norm, chain over forward stream (simultaneous 95 % band), at"
        " every level; dotted, the exact denoiser of the training images; dashed, a perfect"
        " network of Gaussian data. The network stands apart from both at the last level.",
    )
    log = drawing.read(LOG, "table.csv")
    if log is None:
        return drawing.note_missing(LOG)
    with drawing.style():
        figure, axis = plt.subplots(figsize=(drawing.COLUMN, 2.5))
        draw_log(axis, log)
    drawing.save(
        figure,
        LOG,
        "The author's own log of δ_t (ADM on CIFAR-10, 20 steps, no intervals), as its root. The"
        " line is what a perfect sampler has on JPEG copies of these images; grey is what a perfect"
        " network with 20 steps has on Gaussian data, with a variance between β̃ and β.",
    )
    return None


def draw_delta(axis: Axes, here: pd.DataFrame) -> None:
    band = here.rename(columns={"root": "value", "root_band_low": "low", "root_band_high": "high"})
    drawing.curve(axis, band, "timestep", "network", 0)
    axis.plot(here["timestep"], here["root_perfect"], "k", label="perfect sampler", linewidth=1)
    exact = here["delta_exact"].clip(lower=0) ** 0.5
    axis.plot(here["timestep"], exact, "k:", label="exact denoiser", linewidth=1)
    axis.axhline(0, **drawing.REFERENCE)
    axis.set(xlabel="timestep $t$", ylabel=r"$\sqrt{\delta_t}$ (data units)")
    axis.invert_xaxis()
    axis.legend(fontsize=7)


def draw_norms(axis: Axes, here: pd.DataFrame) -> None:
    band = here.rename(
        columns={"ratio": "value", "ratio_band_low": "low", "ratio_band_high": "high"}
    )
    drawing.curve(axis, band, "timestep", "network", 0)
    axis.plot(here["timestep"], here["ratio_exact"], "k:", label="exact denoiser", linewidth=1)
    axis.plot(here["timestep"], here["ratio_gaussian"], "k--", label="Gaussian data", linewidth=1)
    axis.set(xlabel="timestep $t$", ylabel="noise norm, chain / forward")
    axis.invert_xaxis()
    axis.legend(fontsize=7)


def draw_log(axis: Axes, log: pd.DataFrame) -> None:
    at = log["timestep"]
    axis.plot(at, log["published"] ** 0.5, "o", color="C3", markersize=3, label="published log")
    axis.plot(at, log["perfect"] ** 0.5, "k", linewidth=1, label="perfect sampler")
    small, large = log["small"] ** 0.5, log["large"] ** 0.5
    axis.fill_between(at, small, large, color="0.8", label="perfect network, 20 steps")
    axis.set(xlabel="timestep $t$", ylabel=r"$\sqrt{\delta_t}$ (data units)")
    axis.invert_xaxis()
    axis.legend(fontsize=7)


if __name__ == "__main__":
    main()
