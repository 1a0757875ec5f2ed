"""The strength of DCW that would pay for the solver, and for the network, from results/dcw.

python figures/dcw.py     # docs/findings/dcw.png
"""

from pathlib import Path

import drawing
import matplotlib.pyplot as plt
import pandas as pd

from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.plots.style import colour_of

ROOT = Path(__file__).parents[1]
SHOWN = ("digits", "fashion", "digits-ip")
PUBLISHED = 0.005


def main() -> None:
    table = pd.read_csv(ROOT / "results" / "dcw" / "dcw.csv")
    with drawing.style():
        figure, axes = plt.subplots(1, 2, figsize=(2.1 * drawing.COLUMN, 2.7))
        ddim = table[table["sampler"] == "ddim"]
        for k, name in enumerate(SHOWN):
            here = ddim[ddim["model"] == name]
            if here.empty:
                continue
            axes[0].errorbar(
                here["steps"],
                here["c_solver"],
                T_QUANTILE * here["c_solver_se"],
                marker=drawing.MARKERS[k],
                markersize=4,
                capsize=2,
                color=f"C{k}",
                label=name,
            )
        axes[0].axhline(PUBLISHED, **drawing.REFERENCE)
        axes[0].text(10, 1.15 * PUBLISHED, "published for another network", fontsize=7)
        axes[0].set(xscale="log", yscale="log", xlabel="DDIM steps")
        axes[0].set_ylabel("c that pays for the solver's share")
        axes[0].legend(fontsize=7)
        first = ddim[ddim["model"] == SHOWN[0]]
        for part, label in (("solver", "sampler"), ("network", "network")):
            axes[1].errorbar(
                first["steps"],
                100 * first[part],
                100 * T_QUANTILE * first[f"{part}_se"],
                marker="o",
                markersize=4,
                capsize=2,
                color=colour_of(label),
                label=f"{label}'s share",
            )
        axes[1].axhline(0, **drawing.REFERENCE)
        axes[1].set(xscale="log", xlabel="DDIM steps", ylabel="share of the variance gap (%)")
        axes[1].set_title(SHOWN[0], fontsize=8)
        axes[1].legend(fontsize=7)
        for axis in axes:
            axis.set_xticks([10, 20, 50], ["10", "20", "50"])
            axis.minorticks_off()
        figure.savefig(ROOT / "docs" / "findings" / "dcw.png", metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
