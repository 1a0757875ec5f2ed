"""What of each gap is the solver's and what the network's, by number of steps, from
results/solver_share and results/solver_share-fashion."""

from typing import Any

import drawing
import matplotlib.pyplot as plt
import pandas as pd

STUDY = "solver_share"
PARTS = {"total": "whole gap", "discretisation": "solver's", "score": "network's"}
SAMPLERS = {"ddpm": "DDPM", "ddim": "DDIM"}
STUDIES = {"digits": STUDY, "fashion": f"{STUDY}-fashion"}
NOT_REACHED = "limit not reached"


def main() -> None:
    tables = {name: drawing.read(study, "budgets.csv") for name, study in STUDIES.items()}
    shown = {name: table for name, table in tables.items() if table is not None}
    if not shown:
        return drawing.note_missing(STUDY)
    with drawing.style():
        figure, axes = plt.subplots(
            1,
            len(SAMPLERS) * len(shown),
            figsize=(2.4 * drawing.COLUMN, 2.5),
            sharey=True,
            squeeze=False,
        )
        places = iter(axes[0])
        for name, table in shown.items():
            for sampler, label in SAMPLERS.items():
                axis = next(places)
                curves(axis, table, name, sampler)
                axis.set_title(f"{name}, {label}", fontsize=8)
        axes[0, 0].set_ylabel("variance gap (%)")
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=3,
            fontsize=7,
        )
    drawing.save(
        figure,
        STUDY,
        "Error budgets by number of steps: the gap of a chain's variance, what of it the solver's"
        " finite steps make, and what the network keeps with infinitely many steps. The network's"
        " part is one number for all steps of a kind of sampler. Bars are 95 % intervals"
        " (jackknife over images).",
    )
    return None


def curves(axis: Any, table: pd.DataFrame, model: str, sampler: str) -> None:
    """The parts of one model's gap with one sampler."""
    rows = table[
        (table["model"] == model) & (table["sampler"] == sampler) & (table["statistic"] == "gap")
    ].sort_values("steps")
    for i, (part, label) in enumerate(PARTS.items()):
        known = rows if part == "total" else rows[rows["answer"] != NOT_REACHED]
        middle = 100 * known[part].to_numpy()
        ends = 100 * known[[f"{part}_low", f"{part}_high"]].to_numpy().T
        axis.errorbar(
            known["steps"] * (1 + 0.06 * (i - 1)),
            middle,
            abs(ends - middle),
            fmt=drawing.MARKERS[i] + "-",
            markersize=3,
            linewidth=1,
            label=label,
        )
    axis.axhline(0, **drawing.REFERENCE)
    axis.set_xscale("log")
    axis.set_xticks(rows["steps"], rows["steps"].astype(str), fontsize=7)
    axis.minorticks_off()
    axis.set_xlabel("steps")


if __name__ == "__main__":
    main()
