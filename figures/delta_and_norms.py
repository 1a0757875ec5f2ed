"""δ_t and ε-norms beside their references, and the published log, from results/delta_and_norms and published_delta."""

import drawing
import matplotlib.pyplot as plt

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
            here = delta[(delta["steps"] == steps)]
            band = here.rename(columns={"root": "value", "root_band_low": "low", "root_band_high": "high"})
            drawing.curve(axis, band, "timestep", "model", 0)
            axis.plot(here["timestep"], here["root_perfect"], color="k", linewidth=1, label="perfect sampler")
            axis.plot(here["timestep"], here["root_gaussian"], label="same solver, Gaussian", **drawing.REFERENCE)
            axis.set(xlabel="$t$", title=f"{steps} steps")
            axis.set_ylabel(r"$\sqrt{\delta_t}$, signed" if steps == all_steps[0] else "")
            axis.invert_xaxis()
        last = axes[-2]
        for i, steps in enumerate(all_steps):
            here = norms[norms["steps"] == steps]
            band = here.rename(columns={"ratio": "value", "ratio_band_low": "low", "ratio_band_high": "high"})
            drawing.curve(last, band, "timestep", f"{steps} steps", i)
            last.plot(here["timestep"], here["ratio_gaussian"], **(drawing.REFERENCE | {"color": f"C{i}"}))
        last.set(xlabel="$t$", ylabel=r"$\epsilon$-norm, chain / forward", title="")
        last.invert_xaxis()
        published = axes[-1]
        published.plot(log["timestep"], log["published"] ** 0.5, "o", color="C3", markersize=3, label="published log")
        published.plot(log["timestep"], log["perfect"] ** 0.5, color="k", linewidth=1, label="perfect sampler")
        published.fill_between(
            log["timestep"], log["small"] ** 0.5, log["large"] ** 0.5, color="0.8", label="same solver"
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
        "The signed root of the published δ_t along the chain (noise at the left) with its simultaneous 95 % band, a "
        "perfect sampler's (black) and a perfect denoiser's of Gaussian data with the same steps (dashed). Third: "
        "ratio of ε-norms, chain over forward, with its references dashed. Right: the author's log for ADM on CIFAR-10 "
        "at 20 steps, without intervals, and the same two references on JPEG copies of those images; grey spans "
        "the variances "
        "β̃ and β.",
    )
    return None


if __name__ == "__main__":
    main()
