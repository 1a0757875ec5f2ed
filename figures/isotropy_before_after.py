"""e_t before and after input perturbation, from results/isotropy_before_after."""

import drawing
import matplotlib.pyplot as plt

STUDY = "isotropy_before_after"
NULL = {"rejection rate": 0.05, "neighbour correlation": 0.0, "highest band's power": 1.0}


def main() -> None:
    table = drawing.read(STUDY, "table.csv")
    if table is None:
        return drawing.note_missing(STUDY)
    measures = table["measure"].unique()
    with drawing.style():
        figure, axes = plt.subplots(1, len(measures), figsize=(2.4 * drawing.COLUMN, 2.4))
        for axis, measure in zip(axes, measures, strict=True):
            place = 0
            for pair in table["pair"].unique():
                for of in ("DDPM", "IP"):
                    here = table[
                        (table["measure"] == measure)
                        & (table["pair"] == pair)
                        & (table["of"] == of)
                    ]
                    half = [here["value"] - here["low"], here["high"] - here["value"]]
                    x = here["length"] * (1 + 0.04 * place)
                    axis.errorbar(
                        x,
                        here["value"],
                        yerr=half,
                        fmt=drawing.MARKERS[place],
                        markersize=3,
                        label=f"{of}, {pair}",
                    )
                    place += 1
            if measure in NULL:
                axis.axhline(NULL[measure], **drawing.REFERENCE)
            drawing.log_lengths(axis, table["length"], "length")
            axis.set_ylabel(measure)
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7
        )
    drawing.save(
        figure,
        STUDY,
        "e_t of ancestral chains from true x_t, for models trained with and without input"
        " perturbation on the same draws (means over seeds) and for the bundled pair (one seed"
        " each), 95 % intervals. Dashed: what white Gaussian errors show, which is not what a"
        " perfect sampler shows. Points are shifted sideways for clarity.",
    )
    return None


if __name__ == "__main__":
    main()
