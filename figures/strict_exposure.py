"""The network's share, predicted from true states and measured, and strict exposure with its floor.

python figures/strict_exposure.py     # docs/findings/strict_exposure.png
"""

from pathlib import Path

import drawing
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from exposure_bias.jackknife import T_QUANTILE

ROOT = Path(__file__).parents[1]


def main() -> None:
    folder = ROOT / "results" / "exposure"
    shares, cuts = pd.read_csv(folder / "shares.csv"), pd.read_csv(folder / "exposure.csv")
    places = np.arange(len(shares))
    with drawing.style():
        figure, (left, right) = plt.subplots(1, 2, figsize=(2.1 * drawing.COLUMN, 2.6), sharey=True)
        for k, (name, label) in enumerate(
            (("total", "the network's limit"), ("predicted_share", "predicted from true states"))
        ):
            left.errorbar(
                100 * shares[name],
                places + 0.2 * (k - 0.5),
                xerr=100 * T_QUANTILE * shares[f"{name}_se"],
                fmt=drawing.MARKERS[k],
                markersize=4,
                capsize=2,
                label=label,
            )
        left.axvline(0, **drawing.REFERENCE)
        left.set_yticks(places, shares["model"])
        left.invert_yaxis()
        left.set_xlabel("network's share of the variance (%)")
        floor = 100 * float(cuts["floor"].max())
        right.axvspan(-floor, floor, color="0.85", label="floor")
        for k, (_, cut) in enumerate(cuts.groupby(cuts.groupby("model").cumcount())):
            ordered = cut.set_index("model").loc[shares["model"]]
            right.errorbar(
                100 * ordered["exposure"],
                places + 0.2 * (k - 0.5),
                xerr=100 * T_QUANTILE * ordered["exposure_se"],
                fmt=drawing.MARKERS[k],
                markersize=4,
                capsize=2,
                color=f"C{k + 2}",
                label=f"cut at σ/α ≈ {ordered['cut'].mean():.2g}",
            )
        right.axvline(0, **drawing.REFERENCE)
        right.set_xlabel("strict exposure (% of the variance)")
        for axis, place in ((left, "outside lower left"), (right, "outside lower right")):
            figure.legend(*axis.get_legend_handles_labels(), loc=place, ncols=3, fontsize=6)
        figure.savefig(
            ROOT / "docs" / "findings" / "strict_exposure.png", metadata={"Software": None}
        )
    plt.close(figure)


if __name__ == "__main__":
    main()
