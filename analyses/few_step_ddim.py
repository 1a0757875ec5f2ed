"""Input perturbation under few-step DDIM.

Writes table.csv: models trained here, over seeds, and the bundled pair, which is one seed each.
"""

import common
import pandas as pd

STUDY = common.Study(
    name="few_step_ddim",
    claim=(
        "Under DDIM with 5 or 10 steps a model trained with IP is worse than DDPM, at 50 steps"
        " better"
    ),
    source="arXiv 2305.15583 (time shift), Table 2; opposed by DDPM-IP's own DDIM table",
    published=(
        "CIFAR-10, FID at 5, 10, 20, 50 steps: ADM 28.98, 12.11, 7.14, 4.45; ADM-IP 50.58, 20.95,"
        " 7.01, 2.86"
    ),
)
DEFAULT = {
    "data": "digits",
    "model": None,
    "ip": None,
    "seeds": 5,
    "iterations": 1500,
    "n": 512,
    "lengths": (5, 10, 20, 50),
    "seed": 0,
}
# Published FIDs of ADM-IP relative to ADM's, by number of steps: worse at 5 and 10, better at 50.
EFFECTS = {
    ("IP", 5): 50.58 / 28.98 - 1,
    ("IP", 10): 20.95 / 12.11 - 1,
    ("IP", 50): 2.86 / 4.45 - 1,
}
SMOKE = {"seeds": 2, "iterations": 2, "n": 384, "lengths": (5, 10)}


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    families = {"DDPM": common.trained(s, "ddpm"), "IP": common.trained(s, "ip", 0.1)}
    tables = [common.compare_objectives(s, families, s.lengths, "ddim")]
    if common.has_models(s):
        bundled = {"DDPM, bundled": [common.model(s)], "IP, bundled": [common.model(s, "ip")]}
        tables.append(common.compare_objectives(s, bundled, s.lengths, "ddim"))
    table = pd.concat(tables)
    common.write(table, out / "table.csv")
    text = (
        f"Fréchet distance ({common.features(s)}) of IP less DDPM's with DDIM, over seeds: "
        f"{common.differences(table, 'IP')} steps. The bundled pair is one training seed each."
    )
    few, many = (
        common.signs(table[part], "IP") for part in (table["length"] <= 10, table["length"] >= 50)
    )
    verdicts = {common.verdict(few, 1), common.verdict(many, -1)}
    return common.Answer(
        verdicts.pop() if len(verdicts) == 1 else "undecided", text, common.trained_scale(s, "ddim")
    )


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
