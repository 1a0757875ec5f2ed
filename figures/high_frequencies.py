"""High frequencies against chain length, from results/high_frequencies."""

import drawing
import matplotlib.pyplot as plt

STUDY = "high_frequencies"


def main() -> None:
    table = drawing.read(STUDY, "hf.csv")
    if table is None:
        return drawing.note_missing(STUDY)
    with drawing.style():
        figure, axes = plt.subplots(1, 2, figsize=(2.2 * drawing.COLUMN, 3.2))
        families = list(table["family"].unique())
        for axis, of in zip(axes, ("value", "difference"), strict=True):
            for i, family in enumerate(families):
                here = table[(table["family"] == family) & (table["of"] == of)]
                if len(here):
                    plain = here["low"].isna().all()
                    (drawing.curve if plain else drawing.bars)(axis, here, "length", family, i)
            axis.axhline(0, **drawing.REFERENCE)
            drawing.log_lengths(axis, table["length"])
        axes[0].set_ylabel("high frequencies (dB of data's)")
        axes[1].set_ylabel("less DDPM's (dB)")
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=6.5
        )
    drawing.save(
        figure,
        STUDY,
        "Power of samples at f ≥ ¼ cycle per pixel against the data's, in dB, by number of"
        " ancestral steps, and differences from DDPM's on the same images and noise; means over"
        " training seeds, 95 % intervals over images and seeds, shifted sideways for clarity. The"
        " Gaussian reference is a perfect denoiser of Gaussian data of the same covariance; the"
        " exact denoiser is that of the training images.",
    )
    return None


if __name__ == "__main__":
    main()
