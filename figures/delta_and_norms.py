"""δ_t and ε-norms beside their references, and the published log, from results/delta_and_norms and
published_delta."""

import drawing
import matplotlib.pyplot as plt
import pandas as pd

STUDY = "delta_and_norms"


def main() -> None:
    delta, norms = drawing.read(STUDY, "delta.csv"), drawing.read(STUDY, "norms.csv")
    if delta is None or norms is None:
        return drawing.note_missing(STUDY)
    log = drawing.read("published_delta", "table.csv")
    all_steps = list(delta["steps"].unique())
    with drawing.style():
        figure, axes = plt.subplots(1, len(all_steps) + 2, figsize=(2.4 * drawing.COLUMN, 2.5))
        for axis, steps in zip(axes, all_steps, strict=False):
            here = delta[delta["steps"] == steps]
            perfect = here["root_perfect"]
            band = pd.DataFrame(
                {"timestep": here["timestep"], "value": here["root"] - perfect}
                | {end: here[f"root_band_{end}"] - perfect for end in ("low", "high")}
            )
            drawing.curve(axis, band, "timestep", "model", 0)
            axis.axhline(0, color="k", linewidth=1, label="perfect sampler")
            axis.plot(
                here["timestep"],
                here["root_gaussian"] - perfect,
                label="same solver, Gaussian",
                **drawing.REFERENCE,
            )
            axis.set(xlabel="$t$", title=f"{steps} steps")
            axis.set_ylabel(
                r"$\sqrt{\delta_t}$ less a perfect sampler's" if steps == all_steps[0] else ""
            )
            axis.invert_xaxis()
        last = axes[-2]
        for i, steps in enumerate(all_steps):
            here = norms[norms["steps"] == steps]
            band = here.rename(
                columns={"ratio": "value", "ratio_band_low": "low", "ratio_band_high": "high"}
            )
            drawing.curve(last, band, "timestep", f"{steps} steps", i)
            for reference, line in (("ratio_gaussian", "--"), ("ratio_exact", ":")):
                last.plot(
                    here["timestep"], here[reference], color=f"C{i}", linestyle=line, linewidth=1
                )
        last.plot([], [], "k--", linewidth=1, label="Gaussian data")
        last.plot([], [], "k:", linewidth=1, label="exact denoiser")
        last.set(xlabel="$t$", ylabel=r"$\epsilon$-norm, chain / forward", title="")
        last.invert_xaxis()
        published = axes[-1]
        published.plot(
            log["timestep"],
            log["published"] ** 0.5,
            "o",
            color="C3",
            markersize=3,
            label="published log",
        )
        published.plot(
            log["timestep"], log["perfect"] ** 0.5, color="k", linewidth=1, label="perfect sampler"
        )
        published.fill_between(
            log["timestep"],
            log["small"] ** 0.5,
            log["large"] ** 0.5,
            color="0.8",
            label="same solver",
        )
        published.set(xlabel="$t$", title="CIFAR-10, published")
        published.invert_xaxis()
        for axis in (axes[0], last, published):
            axis.legend(fontsize=5.5)
        for axis in axes:
            axis.set_title(axis.get_title(), fontsize=7)
    drawing.save(
        figure,
        STUDY,
        "First two: the signed root of the published δ_t along the chain (noise at the left) less a"
        " perfect sampler's, with its simultaneous 95 % band; dashed, a perfect denoiser of"
        " Gaussian data with the same steps. Third: ratio of ε-norms, chain over forward; dashed"
        " for a perfect denoiser of Gaussian data, dotted for the exact denoiser of the training"
        " images. Right: the author's log for ADM on CIFAR-10 at 20 steps, signed root of δ_t"
        " without intervals, and the same two references on JPEG copies of those images; grey spans"
        " the variances β̃ and β.",
    )
    return None


if __name__ == "__main__":
    main()
