"""How far a perfect network drifts (closed form), and what trained ones do, from results/drift.

python figures/drift.py     # docs/findings/perfect_drift.png, and trained_drift.png if measured
"""

from pathlib import Path

import drawing
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import exposure_bias as eb
from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.plots.style import colour_of

FOLDER = Path(__file__).parents[1] / "docs" / "findings"
FRAMES = 64
STEPS = (10, 20, 50, 100)
PARTS = {
    "feedback": "feedback",
    "discretisation": "sampler",
    "initialisation": "start",
    "score": "network",
}


def perfect() -> None:
    """The drift of exact networks over frames, and what a memory does to it."""
    schedule = eb.schedules.linear()
    with drawing.style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(2.1 * drawing.COLUMN, 2.6))
        law = eb.autoregression.Autoregression.of(0.9)
        for steps in STEPS:
            drift = law.drift(schedule, "ddim", steps, FRAMES, free_limit=False)
            total = 100 * drift["total"].sel(statistic="variance")
            left.plot(drift["frame"], total, label=f"{steps} steps")
            left.plot(1, total[0], "k.", markersize=3)
        left.axhline(0, **drawing.REFERENCE)
        left.set(xlabel="frame", ylabel="variance, difference in %")
        left.set_title("x_k = 0.9 x_(k−1) + noise, DDIM", fontsize=8)
        left.legend(fontsize=7, loc="center right", bbox_to_anchor=(1, 0.25), ncols=2)
        memory = np.linspace(0.05, 0.99, 48)
        for frame in (1, 4, 16, 64):
            totals = [
                100
                * float(
                    eb.autoregression.Autoregression.of(a)
                    .drift(schedule, "ddim", 10, frame, free_limit=False)["total"]
                    .sel(statistic="variance", frame=frame)
                )
                for a in memory
            ]
            right.plot(memory, totals, label=f"frame {frame}")
        right.axhline(0, **drawing.REFERENCE)
        right.set(xlabel="memory a of x_k = a x_(k−1) + noise", ylabel="variance, difference in %")
        right.set_title("DDIM, 10 steps", fontsize=8)
        right.legend(fontsize=7)
        figure.savefig(FOLDER / "perfect_drift.png", metadata={"Software": None})
    plt.close(figure)


def trained() -> None:
    """The drift of trained networks with each remedy, the mean over three seeds."""
    worlds = [w for w in ("lorenz96", "digits") if (_path(w)).exists()]
    if not worlds:
        return
    with drawing.style():
        size = (2.1 * drawing.COLUMN, 2.5 * len(worlds))
        figure, places = plt.subplots(len(worlds), 2, figsize=size, squeeze=False)
        for (left, right), world in zip(places, worlds, strict=True):
            table = pd.read_csv(_path(world)).query("statistic == 'variance'")
            entries = [e for e in table["entry"].unique() if e != "free limit"]
            for k, entry in enumerate(entries):
                here = table[(table["entry"] == entry) & (table["term"] == "total")]
                mean, half = over_seeds(here, "frame", "value", "se")
                left.plot(mean.index, 100 * mean, color=f"C{k}", label=entry)
                ends = 100 * (mean - half), 100 * (mean + half)
                left.fill_between(mean.index, *ends, color=f"C{k}", alpha=0.2, linewidth=0)
            left.axhline(0, **drawing.REFERENCE)
            left.set(xlabel="frame", ylabel="variance, difference in %")
            left.set_title(world, fontsize=8)
            left.legend(fontsize=7, loc="center right", bbox_to_anchor=(1, 0.35), ncols=2)
            last = table["frame"].max()
            for place, (term, label) in enumerate(PARTS.items()):
                here = table[(table["frame"] == last) & (table["term"] == term)]
                mean, half = over_seeds(here, "entry", "value", "se")
                height = np.arange(len(entries)) + 0.17 * (place - 1.5)
                right.errorbar(
                    100 * mean[entries],
                    height,
                    xerr=100 * half[entries],
                    fmt="o",
                    markersize=3,
                    color=colour_of(label),
                    label=label,
                )
            right.axvline(0, **drawing.REFERENCE)
            right.set_yticks(range(len(entries)), entries, fontsize=7)
            right.invert_yaxis()
            right.set_xlabel(f"terms at frame {last} (%)")
            right.legend(fontsize=7)
        figure.savefig(FOLDER / "trained_drift.png", metadata={"Software": None})
    plt.close(figure)


def over_seeds(table: pd.DataFrame, by: str, value: str, error: str) -> tuple[pd.Series, pd.Series]:
    """The mean over seeds, and half of its 95 % interval over sequences and seeds.

    Seeds share their sequences, so that the mean of their errors stands for that of the mean.
    """
    groups = table.groupby(by)
    mean, sequences = groups[value].mean(), groups[error].mean()
    seeds = groups[value].std(ddof=1) / np.sqrt(groups[value].count())
    return mean, T_QUANTILE * np.hypot(sequences, seeds)


def _path(world: str) -> Path:
    return drawing.RESULTS / "drift" / f"{world}.csv"


if __name__ == "__main__":
    perfect()
    trained()
