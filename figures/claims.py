"""One picture for each claim of the talk: every part with its interval and the size that counts.

Drawn from results/decisions.csv, which `analyses/results_table.py` writes. A part is a difference
between paired runs on the same images and noise, so that the picture shows the difference itself.
"""

import drawing
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

# Each claim's study, and what its differences are.
CLAIMS = {
    "table2_regularisers": "Fréchet distance less DDPM's",
    "table3_steps": "Fréchet distance, IP less DDPM",
    "table7_objectives": "Fréchet distance less DDPM's",
    "table4_speedup": "Fréchet distance, IP less DDPM",
    "few_step_ddim": "Fréchet distance, IP less DDPM, DDIM",
    "high_frequencies": "high frequencies, IP less DDPM (dB)",
    "isotropy_before_after": "IP less DDPM (units of each measure)",
    "chain_length": "rise of the Fréchet distance up to 289 steps",
}
COLOURS = {"shown": 2, "sign only": 2, "opposite": 3, "absent": 0, "open": 7}
LINE, MARGINS = 0.19, 1.1  # inches: of a row, and of axis and legend together


def main() -> None:
    for study, label in CLAIMS.items():
        table = rows_of(study)
        if len(table):
            draw(study, table, label)
        else:
            drawing.note_missing(study)


def rows_of(study: str) -> pd.DataFrame:
    """The parts of a claim on all data; `name` says which part on which data."""
    table = drawing.decisions()
    mine = table["study"].eq(study) | table["study"].str.startswith(f"{study}-")
    table = table[mine].copy()
    data = table["study"].str.removeprefix(study).str.removeprefix("-")
    usual = drawing.run_of(study)["settings"]["data"] if len(table) else ""
    several = data.nunique() > 1
    table["name"] = table["what"] + (", " + data.where(data != "", usual) if several else "")
    return table.reset_index(drop=True)


def draw(study: str, table: pd.DataFrame, label: str) -> None:
    with drawing.style():
        height = LINE * len(table) + MARGINS
        figure, axis = plt.subplots(figsize=(1.35 * drawing.COLUMN, height))
        colours = [c["color"] for c in plt.rcParams["axes.prop_cycle"]]
        for place, row in enumerate(table.itertuples()):
            least = abs(row.least)
            if np.isfinite(least):
                ends = (-least, least) if row.either else (0, row.least)
                axis.fill_betweenx([place - 0.4, place + 0.4], *ends, color="0.9", linewidth=0)
            axis.errorbar(
                row.value,
                place,
                xerr=[[row.value - row.low], [row.high - row.value]],
                fmt=drawing.MARKERS[0],
                markersize=3.5,
                color=colours[COLOURS[row.outcome]],
            )
        axis.axvline(0, **drawing.REFERENCE)
        axis.set_yticks(range(len(table)), table["name"], fontsize=7)
        axis.invert_yaxis()
        axis.set_xlabel(label, fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
        for outcome in [k for k in COLOURS if k in set(table["outcome"])]:
            colour = colours[COLOURS[outcome]]
            axis.plot([], [], drawing.MARKERS[0], color=colour, markersize=3.5, label=outcome)
        if np.isfinite(table["least"]).any():
            axis.fill_betweenx([], [], [], color="0.9", label="smaller than counts")
        figure.legend(
            *axis.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7
        )
    drawing.save(
        figure,
        study,
        "Every part of the claim: the difference between paired runs on the same images and noise,"
        " with its 95 % interval over images and, where networks were trained, over training seeds."
        " Grey: effects that are smaller than the least size that counts, which was fixed before"
        " the study; there is none where networks were not trained to their end, and then only"
        " the sign is judged. This is not FID.",
    )


if __name__ == "__main__":
    main()
