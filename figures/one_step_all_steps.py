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
            for name, style in (("S", "-"), ("A", ":")):
                axes[0].plot(
                    here["timestep"], here[name], style, color=f"C{i}", marker="os"[i], markersize=3,
                    label=f"{name}, {model}",
                )  # fmt: skip
            excess = here["U_minus_S"].where(here["bounded"] == 1)
            for axis, middle, low, high in (
                (axes[1], excess, here["U_minus_S_low"], here["U_minus_S_high"]),
                (axes[2], here["W_over_U"], here["W_over_U_low"], here["W_over_U_high"]),
            ):
                axis.errorbar(
                    here["timestep"] + 8 * i, middle, yerr=np.abs(np.stack([low, high]) - middle.to_numpy()),
                    fmt="os"[i], markersize=3, linewidth=1, label=model,
                )  # fmt: skip
        first = table[table["model"] == models[0]]
        axes[0].plot(first["timestep"], first["S_gaussian"], label="V, Gaussian data", **drawing.REFERENCE)
        axes[1].axhline(0, **drawing.REFERENCE)
        axes[2].axhline(1, **drawing.REFERENCE)
        axes[0].set(xlabel="start $t$", ylabel="squared error per pixel")
        axes[1].set(xlabel="start $t$", ylabel="$U - S$")
        axes[2].set(xlabel="start $t$", ylabel="$W/U$ (spread over skill)")
        axes[0].legend(fontsize=6)
        axes[1].legend(fontsize=6, loc="lower right")
    drawing.save(
        figure,
        STUDY,
        "Error of one prediction (S) and of a whole chain (A) from true x_t, in squared units of images in [−1, 1]; a "
        "perfect sampler has S = V, A = 2V. Middle: U − S, the mean error that the chain adds, 95 % intervals; "
        "zero for a perfect sampler (dashed). Right: W/U, one for a perfect sampler. The oracle is the exact denoiser "
        "of the training images, run on them with the same steps. Points are shifted sideways for clarity.",
    )
    return None


if __name__ == "__main__":
    main()
