"""Fig. 3 and Table 4 of the talk, from results/table4_speedup."""

import drawing
import matplotlib.pyplot as plt

STUDY = "table4_speedup"


def main() -> None:
    table = drawing.read(STUDY, "table.csv")
    if table is None:
        return drawing.note_missing(STUDY)
    values = table[table["of"] == "value"]
    panels = (
        ("iterations", values[values["length"] == table["length"].max()]),
        ("length", values[values["iterations"] == table["iterations"].max()]),
    )
    published = drawing.published()
    published = published[
        (published["where"] == "Figure 3") & (published["dataset"] == "CIFAR10-32")
    ]
    with drawing.style():
        figure, (*ours, theirs) = plt.subplots(1, 3, figsize=(2.4 * drawing.COLUMN, 2.5))
        for axis, (along, here) in zip(ours, panels, strict=True):
            for i, family in enumerate(here["family"].unique()):
                drawing.bars(axis, here[here["family"] == family], along, family, i)
        for i, model in enumerate(published["model"].unique()):
            drawing.curve(
                theirs, published[published["model"] == model], "training_kiter", model, i
            )
        ours[0].set(
            xlabel=f"training iterations ({table['length'].max()} steps)", ylabel="Fréchet distance"
        )
        drawing.log_lengths(
            ours[1], table["length"], f"steps ({table['iterations'].max()} iterations)"
        )
        theirs.set(xlabel="thousand iterations, published", ylabel="FID, CIFAR-10, 100 steps")
        for axis in (ours[0], theirs):
            axis.legend(fontsize=6)
    drawing.save(
        figure,
        STUDY,
        "Fréchet distance of classifier features against training iterations, each point a training"
        " that ends there (left), and against sampling steps (middle); means over seeds with 95 %"
        " intervals over images and seeds, shifted sideways for clarity. Right: Fig. 3 of the"
        " paper, one training each.",
    )
    return None


if __name__ == "__main__":
    main()
