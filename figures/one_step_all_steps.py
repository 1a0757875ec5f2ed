"""One step against all steps, from results/one_step_all_steps."""

import drawing
import matplotlib.pyplot as plt
import numpy as np

STUDY = "one_step_all_steps"


def main() -> None:
    table = drawing.read(STUDY, "rollouts.csv")
    if table is None:
        return drawing.note_missing(STUDY)
    table = table[table["steps"] == table["steps"].max()]
    models = table["model"].unique()
    with drawing.style():
        figure, axes = plt.subplots(1, 3, figsize=(2.4 * drawing.COLUMN, 2.4))
        for i, model in enumerate(models):
            here = table[table["model"] == model]
            x = here["timestep"] + 8 * i
            for name, line in (("S", "-"), ("A", ":")):
                axes[0].errorbar(
                    x,
                    here[name],
                    yerr=drawing.T_QUANTILE * here[f"{name}_se"],
                    color=f"C{i}",
                    marker="os"[i],
                    markersize=3,
                    linestyle=line,
                    linewidth=1,
                    label=f"{name}, {called(model)}",
                )
            excess = here["U_minus_S"].where(here["bounded"] == 1)
            for axis, middle, low, high in (
                (axes[1], excess, here["U_minus_S_low"], here["U_minus_S_high"]),
                (axes[2], here["W_over_U"], here["W_over_U_low"], here["W_over_U_high"]),
            ):
                axis.errorbar(
                    x,
                    middle,
                    yerr=np.abs(np.stack([low, high]) - middle.to_numpy()),
                    fmt="os"[i],
                    markersize=3,
                    linewidth=1,
                    label=called(model),
                )
        first = table[table["model"] == models[0]]
        axes[0].plot(
            first["timestep"],
            first["S_gaussian"],
            label="V and 2V, Gaussian data",
            **drawing.REFERENCE,
        )
        axes[0].plot(first["timestep"], 2 * first["S_gaussian"], **drawing.REFERENCE)
        axes[0].set_yscale("log")
        axes[1].axhline(0, **drawing.REFERENCE)
        axes[2].axhline(1, **drawing.REFERENCE)
        axes[0].set(xlabel="start $t$", ylabel="squared error per pixel")
        axes[1].set(xlabel="start $t$", ylabel="$U - S$")
        axes[2].set(xlabel="start $t$", ylabel="$W/U$ (spread over skill)")
        figure.legend(
            *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=6
        )
    drawing.save(
        figure,
        STUDY,
        "Left: mean squared error of one prediction (S) and of a whole chain (A) from true x_t, in"
        " squared units of images in [−1, 1]; a perfect sampler has S = V, A = 2V (dashed: for"
        " Gaussian data). Middle: U − S, the mean error that the chain adds, zero for a perfect"
        " sampler; left out where one prediction is worse than the mean image. Right: W/U, spread"
        " over skill, one for a perfect sampler. Bars are 95 % intervals (jackknife over images),"
        " shifted sideways for clarity. The exact denoiser is that of the training images, run on"
        " them with the same steps.",
    )
    return None


def called(model: str) -> str:
    return {"empirical oracle": "exact denoiser"}.get(model, model)


if __name__ == "__main__":
    main()
