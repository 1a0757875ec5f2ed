"""Tables 2, 3 and 7 of the talk and few-step DDIM: our differences beside the published ones, a
figure for each."""

import drawing
import matplotlib.pyplot as plt
import pandas as pd

# study: the published table, what it calls the baseline, and what it calls each of our families
TABLES = {
    "table2_regularisers": ("Table 2", "ADM", {"GP": "ADM-GP", "WD": "ADM-WD", "IP": "ADM-IP"}),
    "table3_steps": ("Table 3", "ADM", {"IP": "ADM-IP"}),
    "table7_objectives": ("Table 7", "DDPM", {"DDPM-y": "DDPM-y", "IP": "DDPM-IP"}),
    "few_step_ddim": ("ADM backbone, DDIM", "ADM", {"IP": "ADM-IP", "IP, bundled": "ADM-IP"}),
}

NING, LI = "Ning et al. 2023 (arXiv 2301.11706)", "Li et al. 2023 (arXiv 2305.15583)"
SOURCES = dict.fromkeys(TABLES, NING) | {"few_step_ddim": LI}


def main() -> None:
    for study in TABLES:
        draw(study)


def draw(study: str) -> None:
    table = drawing.read(study, "table.csv")
    if table is None:
        return drawing.note_missing(study)
    where, baseline, names = TABLES[study]
    with drawing.style():
        figure, (values, differences, literature) = plt.subplots(
            1, 3, figsize=(2.4 * drawing.COLUMN, 2.5)
        )
        for axis, of in ((values, "value"), (differences, "difference")):
            families = [k for k in table["family"].unique() if " less " not in k]
            for family in families:
                here = table[(table["family"] == family) & (table["of"] == of)]
                if len(here):
                    drawing.bars(axis, here, "length", family, families.index(family))
        differences.axhline(0, **drawing.REFERENCE)
        for axis in (values, differences):
            drawing.log_lengths(axis, table["length"], "steps")
        values.set_ylabel("Fréchet distance")
        differences.set_ylabel("less DDPM's")
        literature.axhline(0, **drawing.REFERENCE)
        for name in dict.fromkeys(names.values()):
            change = published(where, baseline, name)
            family = next(k for k, v in names.items() if v == name)
            drawing.curve(literature, change, "length", name, families.index(family))
        literature.legend(fontsize=6)
        drawing.log_lengths(literature, change["length"], "steps")
        literature.set_ylabel(f"FID less {baseline}'s, published", fontsize=8)
        figure.legend(
            *values.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7
        )
    drawing.save(
        figure,
        study,
        "Fréchet distance of classifier features to the training images, bias-corrected (left),"
        " and differences on the same noise (middle), means over training seeds with 95 %"
        " intervals over images and seeds, shifted sideways for clarity; families called bundled"
        f" are one seed each. Right: {where} of {SOURCES[study]}: CIFAR-10, FID, no intervals.",
    )
    return None


def published(where: str, baseline: str, name: str) -> pd.DataFrame:
    """A model's published FID less the baseline's, by number of steps."""
    table = drawing.published()
    table = table[
        (table["where"] == where) & (table["dataset"] == "CIFAR10-32") & (table["metric"] == "FID")
    ]
    by = table.pivot_table(index="sampling_steps", columns="model", values="value")
    return pd.DataFrame(
        {"length": by.index.astype(int), "value": (by[name] - by[baseline]).to_numpy()}
    ).dropna()


if __name__ == "__main__":
    main()
