"""Table 7: DDPM, DDPM-y and input perturbation at several numbers of steps.

DDPM-y sees the inputs of input perturbation and predicts all of their noise: the control that
isolates the target. Writes table.csv."""

import common
import table3_steps

STUDY = common.Study(
    name="table7_objectives",
    claim=(
        "Predicting the whole noise of perturbed inputs (DDPM-y) is worse than DDPM, IP is better"
    ),
    source="slide 'Comparison of Different Regularization Method' (Table 7 of arXiv 2301.11706)",
    published=(
        "CIFAR-10, FID at 80, 100, 300: DDPM 3.63, 3.37, 2.95; DDPM-y 4.24, 3.90, 3.21; IP 2.93,"
        " 2.70, 2.67"
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
    ("DDPM-y", 80): 4.24 / 3.63 - 1,
    ("DDPM-y", 100): 3.90 / 3.37 - 1,
    ("DDPM-y", 300): 3.21 / 2.95 - 1,
    **table3_steps.EFFECTS,
}
SMOKE = {"seeds": 2, "iterations": 2, "n": 384, "lengths": (3,)}
FAMILIES = {"DDPM": ("ddpm", None), "DDPM-y": ("ddpm-y", 0.1), "IP": ("ip", 0.1)}


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    models = {name: common.trained(s, *recipe) for name, recipe in FAMILIES.items()}
    table = common.compare_objectives(s, models, s.lengths)
    common.write(table, out / "table.csv")
    said = "; ".join(f"{name}: {common.differences(table, name)}" for name in ("DDPM-y", "IP"))
    text = f"Fréchet distance ({common.features(s)}) less DDPM's, by chain length. {said}."
    verdicts = {
        common.verdict(common.signs(table, k), sign) for k, sign in (("DDPM-y", 1), ("IP", -1))
    }
    verdict = verdicts.pop() if len(verdicts) == 1 else "undecided"
    return common.Answer(verdict, text, common.trained_scale(s))


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
