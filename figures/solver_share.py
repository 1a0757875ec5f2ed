"""What of each gap is the solver's and what the network's, from results/solver_share."""

import drawing
import matplotlib.pyplot as plt
import numpy as np

STUDY = "solver_share"
PARTS = {"total": "gap", "discretisation": "solver's", "score": "network's"}
NOT_REACHED = "limit not reached"


def main() -> None:
    table = drawing.read(STUDY, "budgets.csv")
    if table is None:
        return drawing.note_missing(STUDY)
    table = table.sort_values(["model", "sampler", "steps"], kind="stable")
    labels = (table["model"] + ", " + table["sampler"] + " " + table["steps"].astype(str)).unique()
    with drawing.style():
        figure, axes = plt.subplots(
            1, 2, figsize=(2.4 * drawing.COLUMN, 0.8 + 0.28 * len(labels)), sharey=True
        )
        for axis, (statistic, unit, scale) in zip(
            axes,
            (("gap", "variance gap (%)", 100), ("hf", "high frequencies (dB)", 1)),
            strict=True,
        ):
            here = table[table["statistic"] == statistic]
            for i, (part, label) in enumerate(PARTS.items()):
                middle = scale * here[part].to_numpy()
                ends = scale * here[[f"{part}_low", f"{part}_high"]].to_numpy().T
                believed = (here["answer"] != NOT_REACHED).to_numpy() | (part == "total")
                axis.errorbar(
                    np.where(believed, middle, np.nan),
                    np.arange(len(here)) + 0.22 * (i - 1),
                    xerr=np.abs(ends - middle),
                    fmt=drawing.MARKERS[i],
                    markersize=3,
                    linewidth=1,
                    label=label,
                )
            axis.axvline(0, **drawing.REFERENCE)
            axis.set_xlabel(unit)
        axes[0].set_yticks(range(len(labels)), labels, fontsize=7)
        axes[0].invert_yaxis()
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7
        )
    drawing.save(
        figure,
        STUDY,
        "Error budgets before the last step: the gap of a chain less its target, what of it the"
        " solver's finite steps make, and what the network keeps as its steps shrink. Parts are"
        " left out where the steps are too coarse to extrapolate. Bars are 95 % intervals"
        " (jackknife over images).",
    )
    return None


if __name__ == "__main__":
    main()
