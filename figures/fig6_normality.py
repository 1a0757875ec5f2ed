"""Fig. 6 of the talk: histograms of e_t at three pixels, and what the tests say; from
results/fig6_normality."""

import drawing
import matplotlib.pyplot as plt
import numpy as np

STUDY = "fig6_normality"


def main() -> None:
    errors, rates = drawing.read(STUDY, "pixels.csv"), drawing.read(STUDY, "rates.csv")
    if errors is None or rates is None:
        return drawing.note_missing(STUDY)
    power = drawing.read(STUDY, "power.csv")
    lengths, pixels = errors["length"].unique(), errors["pixel"].unique()
    with drawing.style():
        figure = plt.figure(figsize=(2.4 * drawing.COLUMN, 3.6))
        left, right = figure.subfigures(1, 2, width_ratios=[1.6, 1])
        axes = left.subplots(len(lengths), len(pixels), squeeze=False, sharex="row")
        for r, length in enumerate(lengths):
            for c, pixel in enumerate(pixels):
                e = errors[(errors["length"] == length) & (errors["pixel"] == pixel)][
                    "error"
                ].to_numpy()
                axes[r, c].hist(e, bins=25, density=True, color="C0", alpha=0.6)
                grid = np.linspace(e.min(), e.max(), 200)
                density = np.exp(-0.5 * ((grid - e.mean()) / e.std()) ** 2) / (
                    e.std() * np.sqrt(2 * np.pi)
                )
                axes[r, c].plot(grid, density, **drawing.REFERENCE)
                axes[r, c].set_yticks([])
                if r == 0:
                    axes[r, c].set_title(f"pixel {pixel}", fontsize=7)
                if r == len(lengths) - 1:
                    axes[r, c].set_xlabel("$e_t$", fontsize=8)
            axes[r, 0].set_ylabel(f"length {length}", fontsize=7)
        axis = right.subplots()
        place = 0
        for mode in rates["mode"].unique():
            for n in rates["n_per_test"].unique():
                here = rates[(rates["mode"] == mode) & (rates["n_per_test"] == n)]
                band = here.rename(
                    columns={"rate": "value", "rate_low": "low", "rate_high": "high"}
                )
                drawing.curve(axis, band, "length", f"{mode}, {n} values a test", place)
                place += 1
        axis.axhline(0.05, label="Gaussian errors", **drawing.REFERENCE)
        sizes = ", ".join(
            f"{r['rate']:.2f} at {r['n']:.0f}"
            for _, r in power[power["alternative"] == "laplace"].iterrows()
        )
        axis.set(
            xlabel="length",
            ylabel="share of pixels rejected at 5 %",
            ylim=(0, 1.02),
            xticks=lengths,
        )
        right.legend(loc="outside lower center", fontsize=6, ncols=2)
    drawing.save(
        figure,
        STUDY,
        "Left: e_t = x_0 − x̂_0 of whole ancestral chains at three pixels; dashed, the Gaussian of"
        " the same mean and standard deviation. Right: share of pixels at which Shapiro–Wilk"
        " rejects at 5 %, 95 % bands from disjoint blocks of images, for chains and for single"
        " predictions; pixels with constant x_0, atoms or values at a bound are left out. Power"
        f" against a Laplace distribution: {sizes} values a test.",
    )
    return None


if __name__ == "__main__":
    main()
