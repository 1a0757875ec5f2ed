"""Table 3: DDPM and DDPM-IP at several numbers of sampling steps.

Writes table.csv. 1000 steps, as in the talk, by option: --lengths 80 100 300 1000.
"""

import common

STUDY = common.Study(
    name="table3_steps",
    claim="Input perturbation improves quality at every number of steps",
    source="slide 'The Power of Input Perturbation' (Table 3 of arXiv 2301.11706)",
    published=(
        "CIFAR-10, FID at 80, 100, 300, 1000 steps: ADM 3.63, 3.37, 2.95, 2.99; IP 2.93, 2.70,"
        " 2.67, 2.76"
    ),
)
DEFAULT = {
    "data": "digits",
    "seeds": 5,
    "iterations": 1500,
    "n": 512,
    "lengths": (80, 100, 300),
    "seed": 0,
}
# Published FIDs relative to ADM's (figures/reference/published.csv), by family and number of steps.
EFFECTS = {
    ("IP", 80): 2.93 / 3.63 - 1,
    ("IP", 100): 2.70 / 3.37 - 1,
    ("IP", 300): 2.67 / 2.95 - 1,
}
SMOKE = {"seeds": 2, "iterations": 2, "n": 384, "lengths": (3, 4)}


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    models = {"DDPM": common.trained(s, "ddpm"), "IP": common.trained(s, "ip", 0.1)}
    table = common.compare_objectives(s, models, s.lengths)
    common.write(table, out / "table.csv")
    text = (
        f"Fréchet distance ({common.features(s)}) of IP less DDPM's:"
        f" {common.differences(table, 'IP')} steps."
    )
    return common.Answer(
        common.verdict(common.signs(table, "IP"), -1), text, common.trained_scale(s)
    )


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
