"""Input perturbation without training, from results/ip_without_training."""

import drawing
import matplotlib.pyplot as plt

STUDY = "ip_without_training"


def main() -> None:
    slopes, samples = drawing.read(STUDY, "slopes.csv"), drawing.read(STUDY, "samples.csv")
    if slopes is None or samples is None:
        return drawing.note_missing(STUDY)
    slopes = slopes[slopes["of"] == "value"]
    bands = sorted(slopes["band_from"].unique())
    families = list(slopes["family"].unique())
    with drawing.style():
        figure = plt.figure(figsize=(2.4 * drawing.COLUMN, 4.2))
        above, below = figure.subfigures(2, 1, height_ratios=[1.1, 1])
        axes = above.subplots(1, len(bands), sharey=True)
        for axis, band in zip(axes, bands, strict=True):
            for i, family in enumerate(families):
                here = slopes[(slopes["family"] == family) & (slopes["band_from"] == band)]
                drawing.curve(axis, here, "timestep", family, i)
            axis.plot(
                here["timestep"], here["gaussian"], label="Gaussian data", **drawing.REFERENCE
            )
            axis.set(xlabel="$t$", title=f"f ≥ {band:g}")
        axes[0].set(ylabel=r"slope of $\epsilon$")
        above.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=6.5
        )
        panels = below.subplots(1, 2)
        for axis, (measure, label) in zip(
            panels, (("distance", "Fréchet distance"), ("hf", "high frequencies (dB)")), strict=True
        ):
            here = samples[
                (samples["of"] == "difference") & (samples["measure"] == measure)
            ].reset_index()
            half = [here["value"] - here["low"], here["high"] - here["value"]]
            axis.errorbar(here["value"], range(len(here)), xerr=half, fmt="o", markersize=4)
            axis.axvline(0, **drawing.REFERENCE)
            axis.set_yticks(range(len(here)), here["family"], fontsize=7)
            axis.set(xlabel=f"{label}, less trained IP", ylim=(len(here) - 0.5, -0.5))
    drawing.save(
        figure,
        STUDY,
        "Above: slope of a candidate's ε̂ on that of a DDPM of another training seed, per frequency"
        " band (cycles per pixel, from the number given to the next) and level, on the same noised"
        " held-out images; DDPM itself is the control, and the dashed line what Gaussian data would"
        " show for input perturbation if the slope of DDPM were one. Below: samples against those"
        " of trained IP. Means over training seeds, 95 % intervals over images and seeds.",
    )
    return None


if __name__ == "__main__":
    main()
