"""Table 4 and Fig. 3: training iterations, and sampling steps, that input perturbation needs to
match DDPM's best.

Every point is a training of its own that ends at that budget, its learning rate decayed to zero, so
that a small budget is not a large one cut short. A speed-up is read off each training seed by
itself on the grid of budgets or lengths: DDPM's best point over the first at which IP is as good,
none where it never is; the range over seeds is printed.

Writes table.csv (against iterations) and speedup.csv (by seed).
"""

import common
import pandas as pd

STUDY = common.Study(
    name="table4_speedup",
    claim=(
        "IP reaches the baseline's best quality after fewer iterations and with fewer steps, γ ="
        " 0.1 best"
    ),
    source="slides 'Reduce Training Time', 'Conclusion' (Fig. 3 and Table 4 of arXiv 2301.11706)",
    published=(
        "CIFAR-10, 100 steps: 3.37 is DDPM's best, at 500k; γ = 0.05, 0.1, 0.2 reach it at 260k,"
        " 180k, 220k. On the slides CelebA trains 4 times, FFHQ 7 times faster. 80 steps match the"
        " baseline's 1000 (2.93, 2.99)"
    ),
)
DEFAULT = {
    "data": "digits",
    "seeds": 3,
    "budgets": (500, 1000, 1500),
    "gammas": (0.05, 0.1, 0.2),
    "n": 512,
    "lengths": (20, 50, 100),
    "seed": 0,
}
# What is published for 100 steps at the end of training, relative to ADM's FID.
EFFECTS = {("IP 0.1", 100): 2.70 / 3.37 - 1}
SMOKE = {"seeds": 2, "budgets": (1, 2), "gammas": (0.1,), "n": 384, "lengths": (3, 4)}


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    tables, by_seed = [], []
    for budget in s.budgets:
        models = {"DDPM": common.trained(s, "ddpm", None, budget)}
        models |= {f"IP {g:g}": common.trained(s, "ip", g, budget) for g in s.gammas}
        tables.append(common.compare_objectives(s, models, s.lengths).assign(iterations=budget))
        for seed in range(s.seeds):
            alone = common.compare_objectives(
                s, {k: [v[seed]] for k, v in models.items()}, s.lengths
            )
            by_seed.append(alone[alone["of"] == "value"].assign(iterations=budget, seed=seed))
    table = pd.concat(tables)
    common.write(table, out / "table.csv")
    speed = speedup(pd.concat(by_seed), s)
    common.write(speed, out / "speedup.csv")
    return answer(table, speed, s)


def speedup(values: pd.DataFrame, s: common.Settings) -> pd.DataFrame:
    """By family, seed and along ("iterations" or "length"): where DDPM is best, where this family
    is as good."""
    rows = []
    for along, fixed, at in (
        ("iterations", "length", max(s.lengths)),
        ("length", "iterations", max(s.budgets)),
    ):
        here = values[values[fixed] == at]
        for seed, one in here.groupby("seed"):
            curve = one.pivot(index=along, columns="family", values="value").sort_index()
            best = curve["DDPM"].min()
            for family in curve.columns.drop("DDPM"):
                reached = curve.index[curve[family] <= best]
                first = reached[0] if len(reached) else float("nan")
                rows.append(
                    {"family": family, "along": along, "seed": seed, "best": best, "at": first}
                )
                rows[-1]["factor"] = curve["DDPM"].idxmin() / first
    return pd.DataFrame(rows)


def answer(table: pd.DataFrame, speed: pd.DataFrame, s: common.Settings) -> common.Answer:
    last = table[table["length"] == max(s.lengths)]
    said, signs = [], set()
    for gamma in s.gammas:
        family = f"IP {gamma:g}"
        own = speed[speed["family"] == family]
        factors = [
            f"{factor_range(own[own['along'] == k]['factor'])} in {k}"
            for k in ("iterations", "length")
        ]
        full = last[last["iterations"] == max(s.budgets)]
        signs |= common.signs(last, family)
        said.append(
            f"γ = {gamma:g}: speed-up {' and '.join(factors)}; at {max(s.budgets)} iterations and"
            f" {max(s.lengths)} steps"
            f" {common.told(full[full['of'] == 'difference'].set_index('family').loc[family])} less"
            " DDPM's"
        )
    text = (
        f"Fréchet distance ({common.features(s)}). {'. '.join(said)}. Factors are ranges over"
        " training seeds on the grid tried; which γ is best is not tested."
    )
    scale = common.trained_scale(common.Settings(**vars(s), iterations=max(s.budgets)))
    return common.Answer(common.verdict(signs, -1), text, scale)


def factor_range(factors: pd.Series) -> str:
    """Of the seeds that match the baseline at all."""
    matched = factors.dropna()
    if matched.empty:
        return f"none ({len(factors)} seeds do not match it)"
    text = f"{matched.min():.2g} to {matched.max():.2g}"
    return (
        text
        if len(matched) == len(factors)
        else f"{text} ({len(matched)} of {len(factors)} seeds match it)"
    )


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
