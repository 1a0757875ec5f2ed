"""Fig. 5 of the talk, with its references, from results/fig5_reconstructions."""

import json

import drawing
import matplotlib.pyplot as plt
import numpy as np

STUDY = "fig5_reconstructions"


def main() -> None:
    table = drawing.read(STUDY, "hf.csv")
    if table is None:
        return drawing.note_missing(STUDY)
    images = {
        k: np.array(v) for k, v in json.loads((drawing.ROOT / "results" / STUDY / "images.json").read_text()).items()
    }
    original = images.pop("x0")
    lengths = sorted({key.rsplit(", ", 1)[1] for key in images}, key=int)
    rows = list(dict.fromkeys(key.rsplit(", ", 1)[0] for key in images))
    shown = min(2, len(original))
    with drawing.style():
        figure = plt.figure(figsize=(2.2 * drawing.COLUMN, 4.0))
        left, right = figure.subfigures(1, 2, width_ratios=[1.5, 1])
        grid = left.subplots(len(rows), shown * (len(lengths) + 1), squeeze=False)
        for r, row in enumerate(rows):
            for j, length in enumerate(["x0", *lengths]):
                for i in range(shown):
                    axis = grid[r, j * shown + i]
                    one = original[i] if length == "x0" else images[f"{row}, {length}"][i]
                    draw(axis, one)
                    if r == 0 and i == 0:
                        axis.set_title("$x_0$" if length == "x0" else length, fontsize=7, loc="left")
            grid[r, 0].set_ylabel(row.replace(", ", "\n"), fontsize=6, rotation=0, ha="right", va="center")
        axis = right.subplots()
        chains = list(table["chain"].unique())
        for i, model in enumerate(("model", "exact denoiser")):
            for k, chain in enumerate(chains):
                here = table[(table["model"] == model) & (table["chain"] == chain)]
                drawing.curve(axis, here, "length", f"{model}, {chain}", k, linestyle=("-", ":")[i])
        axis.axhline(0, **drawing.REFERENCE)
        axis.set(xlabel="chain length $L$", ylabel=r"high frequencies of $\hat x_0$ (dB of $x_0$)")
        right.legend(loc="outside lower center", fontsize=6, ncols=2)
    drawing.save(
        figure,
        STUDY,
        "Held-out images x_0 noised to the L-th of 1000 levels and brought back in L steps by the means of ancestral "
        "sampling alone (as the paper's Fig. 5), by ancestral sampling and by DDIM, with the model and with the exact "
        "denoiser of these images. Right: power at f ≥ ¼ cycle per pixel against x_0's, 95 % bands (jackknife over "
        "images).",
    )
    return None


def draw(axis: plt.Axes, image: np.ndarray) -> None:
    """(C, H, W) in [−1, 1]; grey or colour."""
    axis.imshow(np.clip((np.moveaxis(image, 0, -1) + 1) / 2, 0, 1).squeeze(), cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])


if __name__ == "__main__":
    main()
