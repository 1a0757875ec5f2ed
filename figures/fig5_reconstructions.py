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
        k: np.array(v)
        for k, v in json.loads(
            (drawing.ROOT / "results" / STUDY / "images.json").read_text()
        ).items()
    }
    original = images.pop("x0")
    lengths = sorted({key.rsplit(", ", 1)[1] for key in images}, key=int)
    rows = list(dict.fromkeys(key.rsplit(", ", 1)[0] for key in images))
    with drawing.style():
        figure = plt.figure(figsize=(2.2 * drawing.COLUMN, 4.4))
        left, right = figure.subfigures(1, 2, width_ratios=[1.3, 1])
        grid = left.subplots(len(rows), len(lengths) + 1, squeeze=False)
        for r, row in enumerate(rows):
            for axis, length in zip(grid[r], ["x0", *lengths], strict=True):
                draw(axis, original if length == "x0" else images[f"{row}, {length}"])
                if r == 0:
                    axis.set_title("$x_0$" if length == "x0" else f"$L$ = {length}", fontsize=7)
            grid[r, 0].set_ylabel(
                row.replace(", ", "\n"), fontsize=6, rotation=0, ha="right", va="center"
            )
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
        "Held-out images x_0 noised to the L-th of 1000 levels and brought back in L steps by the"
        " means of ancestral sampling alone (as the paper's Fig. 5), by ancestral sampling and by"
        " DDIM, with the model and with the exact denoiser of these images. Right: power at f ≥ ¼"
        " cycle per pixel against x_0's, 95 % bands (jackknife over images).",
    )
    return None


def draw(axis: plt.Axes, images: np.ndarray) -> None:
    """Four images (N, C, H, W) in [−1, 1], grey or colour, as a square of two by two."""
    pixels = np.clip((np.moveaxis(images[:4], 1, -1) + 1) / 2, 0, 1)
    framed = np.pad(pixels, ((0, 0), (0, 1), (0, 1), (0, 0)), constant_values=1)
    square = np.concatenate([np.concatenate(list(pair), 1) for pair in (framed[:2], framed[2:])])
    axis.imshow(square[:-1, :-1].squeeze(), cmap="gray", vmin=0, vmax=1)
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


if __name__ == "__main__":
    main()
