"""Held-out losses of the studies' networks, from results/trainings-fashion14."""

import drawing
import matplotlib.pyplot as plt

STUDY = "trainings-fashion14"


def main() -> None:
    curves = drawing.read(STUDY, "curves.csv")
    if curves is None:
        return drawing.note_missing(STUDY)
    with drawing.style():
        figure, axis = plt.subplots(figsize=(drawing.COLUMN, 0.75 * drawing.COLUMN))
        for i, (objective, some) in enumerate(curves.groupby("objective")):
            for number, (_, one) in enumerate(some.groupby("seed")):
                axis.plot(
                    one["iteration"],
                    one["heldout_loss"],
                    color=f"C{i}",
                    linewidth=1,
                    linestyle=("-", "--", ":")[number % 3],
                    label=objective.upper() if number == 0 else None,
                )
        axis.set_xlabel("iteration")
        axis.set_ylabel("loss on held-out images")
        axis.legend(fontsize=7)
    drawing.save(
        figure,
        STUDY,
        "Mean squared error of the noise on images that no training saw, at inputs without"
        " perturbation, averaged weights; a line for each training seed. The learning rate falls to"
        " zero at the end.",
    )
    return None


if __name__ == "__main__":
    main()
