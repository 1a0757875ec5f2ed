"""What other objectives change of the network's and of the solver's part of a gap, from
results/objective_budgets-fashion14."""

import drawing
import matplotlib.pyplot as plt
import numpy as np

STUDY = "objective_budgets-fashion14"
PARTS = {"score": "network's part", "discretisation": "solver's part"}
STATISTICS = (("gap", "variance gap (%)", 100), ("hf", "high frequencies (dB)", 1))


def main() -> None:
    table = drawing.read(STUDY, "parts.csv")
    if table is None:
        return drawing.note_missing(STUDY)
    table = table[table["of"] == "difference"]
    families = table["family"].unique()
    with drawing.style():
        figure, axes = plt.subplots(
            1, 2, figsize=(2.2 * drawing.COLUMN, 0.9 + 0.28 * len(families)), sharey=True
        )
        for axis, (statistic, unit, scale) in zip(axes, STATISTICS, strict=True):
            for i, (part, label) in enumerate(PARTS.items()):
                here = table[(table["statistic"] == statistic) & (table["part"] == part)]
                middle = scale * here["value"].to_numpy()
                ends = scale * here[["low", "high"]].to_numpy().T
                axis.errorbar(
                    middle,
                    np.arange(len(here)) + 0.2 * (i - 0.5),
                    xerr=np.abs(ends - middle),
                    fmt=drawing.MARKERS[i],
                    markersize=3,
                    linewidth=1,
                    label=label,
                )
            axis.axvline(0, **drawing.REFERENCE)
            axis.set_xlabel(f"{unit} less DDPM's")
        axes[0].set_yticks(range(len(families)), families, fontsize=7)
        axes[0].invert_yaxis()
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7
        )
    drawing.save(
        figure,
        STUDY,
        "Networks trained with other objectives, less DDPM's: the network's and the solver's part"
        " of the gaps before the last step, 20 ancestral steps on Fashion-MNIST averaged to 14×14,"
        " paired by image and by training seed. Bars are 95 % intervals over both.",
    )
    return None


if __name__ == "__main__":
    main()
