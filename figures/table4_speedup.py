"""Fig. 3 and Table 4 of the talk, from results/table4_speedup."""

import drawing
import matplotlib.pyplot as plt

STUDY = "table4_speedup"


def main() -> None:
    table = drawing.read(STUDY, "table.csv")
    if table is None:
        return drawing.note_missing(STUDY)
    values = table[(table["of"] == "value") & (table["length"] == table["length"].max())]
    published = drawing.published()
    published = published[(published["where"] == "Figure 3") & (published["dataset"] == "CIFAR10-32")]
    with drawing.style():
        figure, (ours, theirs) = plt.subplots(1, 2, figsize=(2 * drawing.COLUMN, 2.5))
        for i, family in enumerate(values["family"].unique()):
            drawing.curve(ours, values[values["family"] == family], "iterations", family, i)
        for i, model in enumerate(published["model"].unique()):
            drawing.curve(theirs, published[published["model"] == model], "training_kiter", model, i)
        ours.set(xlabel="training iterations", ylabel="Fréchet distance")
        theirs.set(xlabel="thousand iterations, published", ylabel="FID, CIFAR-10, 100 steps")
        for axis in (ours, theirs):
            axis.legend(fontsize=6)
    drawing.save(
        figure,
        STUDY,
        "Left: Fréchet distance of classifier features against training iterations, each point a training that ends "
        "there, means over seeds with 95 % bands over images and seeds. Right: Fig. 3 of the paper, one training each.",
    )
    return None


if __name__ == "__main__":
    main()
