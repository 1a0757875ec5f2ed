"""Quality against chain length, from results/chain_length."""

import drawing
import matplotlib.pyplot as plt

STUDY = "chain_length"


def main() -> None:
    table = drawing.read(STUDY, "curve.csv")
    if table is None:
        return drawing.note_missing(STUDY)
    table["value"] = table["frechet_corrected"]
    for side, sign in (("low", -1), ("high", 1)):
        table[side] = table["value"] + sign * drawing.T_QUANTILE * table["frechet_corrected_se"]
    models = list(table["model"].unique())
    with drawing.style():
        figure, axes = plt.subplots(
            1, len(models), figsize=(2 * drawing.COLUMN, 2.6), sharey=True, squeeze=False
        )
        for axis, model in zip(axes[0], models, strict=True):
            for i, sampler in enumerate(table["sampler"].unique()):
                here = table[(table["model"] == model) & (table["sampler"] == sampler)]
                drawing.bars(axis, here, "length", sampler, i)
            axis.axhline(
                table["floor_frechet_corrected"].iloc[0],
                label="real against real",
                **drawing.REFERENCE,
            )
            drawing.log_lengths(axis, table["length"])
            axis.set_title(model if model == "exact denoiser" else f"model ({model})", fontsize=8)
            axis.set_yscale("symlog", linthresh=1)
        axes[0, 0].set_ylabel("Fréchet distance,\nbias-corrected")
        figure.legend(
            *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=7
        )
    drawing.save(
        figure,
        STUDY,
        "Fréchet distance of classifier features between samples and the training images against"
        " the number of steps, bias-corrected, with 95 % intervals, shifted sideways for clarity;"
        " linear below 1, logarithmic above. T′ − 1 doubles, so that each chain is the refinement"
        " of the one before. The exact denoiser draws the training images themselves, which takes"
        " its corrected distance below zero: compare lengths, not the two panels. Dashed: held-out"
        " against training images. This is not FID.",
    )
    return None


if __name__ == "__main__":
    main()
