"""Table 4 and Fig. 3: training iterations, and sampling steps, that input perturbation needs to match DDPM's best.

Every point is a training of its own that ends at that budget, its learning rate decayed to zero, so that a small budget
is not a large one cut short. The speed-up is that of the mean over seeds at the budgets tried: a grid, no interval.

Writes table.csv (against iterations) and speedup.csv.
"""

import common
import pandas as pd

STUDY = common.Study(
    name="table4_speedup",
    claim="IP reaches the baseline's best quality after fewer iterations and with fewer steps, γ = 0.1 best",
    source="slides 'Reduce Training Time', 'Conclusion' (Fig. 3 and Table 4 of arXiv 2301.11706)",
    published="CIFAR-10, 100 steps: 3.37 is DDPM's best, at 500k; γ = 0.05, 0.1, 0.2 reach it at 260k, 180k, 220k",
)
DEFAULT = {
    "data": "digits", "seeds": 3, "budgets": (500, 1000, 1500), "gammas": (0.05, 0.1, 0.2), "n": 512,
    "lengths": (20, 50, 100), "seed": 0,
}  # fmt: skip
SMOKE = {"seeds": 2, "budgets": (1, 2), "gammas": (0.1,), "n": 384, "lengths": (3, 4)}


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    tables = []
    for budget in s.budgets:
        models = {"DDPM": common.trained(s, "ddpm", None, budget)}
        models |= {f"IP {g:g}": common.trained(s, "ip", g, budget) for g in s.gammas}
        tables.append(common.compare_objectives(s, models, s.lengths).assign(iterations=budget))
    table = pd.concat(tables)
    common.write(table, out / "table.csv")
    values = table[(table["of"] == "value")]
    rows = []
    for family in table["family"].unique():
        for along, fixed in (("iterations", ("length", max(s.lengths))), ("length", ("iterations", max(s.budgets)))):
            curve = values[values[fixed[0]] == fixed[1]].set_index(["family", along])["value"].unstack(0).sort_index()
            best = curve["DDPM"].min()
            reached = curve.index[curve[family] <= best]
            at = reached[0] if len(reached) else float("nan")
            rows.append(
                {"family": family, "along": along, "best": best, "baseline_at": curve["DDPM"].idxmin(), "at": at}
            )
    speed = pd.DataFrame(rows).assign(factor=lambda t: t["baseline_at"] / t["at"])
    common.write(speed, out / "speedup.csv")
    return answer(table, speed, s)


def answer(table: pd.DataFrame, speed: pd.DataFrame, s: common.Settings) -> common.Answer:
    last = table[table["length"] == max(s.lengths)]
    said, signs = [], set()
    for gamma in s.gammas:
        family = f"IP {gamma:g}"
        factors = speed[speed["family"] == family].set_index("along")["factor"]
        full = last[last["iterations"] == max(s.budgets)]
        signs |= common.signs(last, family)
        said.append(
            f"γ = {gamma:g}: speed-up {factors['iterations']:.2g} in iterations and {factors['length']:.2g} in steps "
            f"(nan: not reached), at {max(s.budgets)} iterations {common.differences(full, family)} steps less DDPM's"
        )
    text = f"Fréchet distance ({common.features(s)}). {'; '.join(said)}. Factors are point values on the grid tried."
    scale = common.trained_scale(common.Settings(**vars(s), iterations=max(s.budgets)))
    return common.Answer(common.verdict(signs, -1), text, scale)


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
