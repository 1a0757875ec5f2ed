"""What share of a network's gap is its solver's? Error budgets of the models at hand, by sampler
and number of steps.

The variance gap and the high frequencies (`hf`) of a chain, split into discretisation error and
score error by the network's own limit (`eb.solver_curve`). Where that limit is not reached, the
answer says so, and neither part is believed.

Writes budgets.csv: a row for each model, sampler, number of steps and statistic; chains and limits
are kept in runs/budgets/, from where it goes on."""

import common
import pandas as pd

import exposure_bias as eb
from exposure_bias.data import bundled

STUDY = common.Study(
    name="solver_share",
    claim="At few steps most of a network's gap is its solver's, not its own",
    source="our own question",
    published="none",
    uses_limit=True,
)
DEFAULT = {
    "data": "digits",
    "models": ("digits", "digits-ip"),
    "n": 512,
    "steps": (10, 20, 40, 80, 160),
    "margin": 0.05,
    "seed": 0,
}
SMOKE = {"models": ("digits",), "n": 256, "steps": (3, 4)}
STATISTICS = ("gap", "hf")
PARTS = ("total", "discretisation", "score")
COLUMNS = ["statistic", "answer", "needed_n", "order_ratio", "order_ratio_se"]
KEPT = [*COLUMNS, *(part + end for part in PARTS for end in ("", "_se", "_low", "_high"))]


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    rows = []
    for name in s.models:
        rows.append(budgets(name, s))
        common.write(pd.concat(rows), out / "budgets.csv")
    return answer(pd.concat(rows), s)


def budgets(name: str, s: common.Settings) -> pd.DataFrame:
    """The rows of one model: all chains are held against one limit for each kind of sampler."""
    data = eb.load_data(bundled.data_of(name), "test")
    n = min(s.n, len(data))
    found = common.quietly(
        eb.solver_curve,
        common.oracle(data) if s.smoke else eb.load_model(name),
        data,
        samplers=("ddpm", "ddim"),
        steps=s.steps,
        n=n,
        margin=s.margin,
        seed=s.seed,
        folder=None if s.smoke else common.RUNS / "budgets" / name,
    )
    table = found[KEPT[1:]].to_dataframe().reset_index()
    table["sampler"] = table["sampler"].str.partition(":")[0]
    table = table[table["statistic"].isin(STATISTICS)]
    return table[[*KEPT, "sampler", "steps"]].assign(model=name, n=n)


def decided(row: pd.Series) -> int:
    """1 where the solver's part is the larger, whatever the two intervals hold, −1 where the
    network's is, 0 where neither is certain."""
    if row["answer"] in ("limit not reached", "not a denoiser of these data"):
        return 0
    (low, high), (least, most) = (size(row, part) for part in ("discretisation", "score"))
    return 1 if low > most else -1 if least > high else 0


def size(row: pd.Series, part: str) -> tuple[float, float]:
    """The smallest and largest absolute value in an interval."""
    ends = sorted([abs(row[f"{part}_low"]), abs(row[f"{part}_high"])])
    holds_zero = row[f"{part}_low"] <= 0 <= row[f"{part}_high"]
    return (0.0 if holds_zero else ends[0]), ends[1]


def answer(table: pd.DataFrame, s: common.Settings) -> common.Answer:
    gaps = table[table["statistic"] == "gap"]
    said = [
        f"{r['model']}, {r['sampler']}, {r['steps']} steps: {percent(r, 'total')}, of it the"
        f" solver's {percent(r, 'discretisation')}, the network's {percent(r, 'score')}"
        f" ({r['answer']})"
        for _, r in gaps.iterrows()
    ]
    fewest = gaps[gaps["steps"] == gaps.groupby("sampler")["steps"].transform("min")]
    sides = [decided(row) for _, row in fewest.iterrows()]
    text = (
        f"Variance gap before the last step, in %. {'; '.join(said)}. At the fewest steps the"
        f" solver's part is the larger in {sides.count(1)} of {len(sides)} budgets, the network's"
        f" in {sides.count(-1)}, by intervals that do not overlap."
    )
    return common.Answer(
        common.verdict(set(sides), 1),
        text,
        f"{', '.join(s.models)}, n = {s.n}, margin {s.margin:.0%}, seed {s.seed}",
    )


def percent(row: pd.Series, part: str) -> str:
    """value [low, high] in per cent."""
    ends = {"value": 100 * row[part]} | {k: 100 * row[f"{part}_{k}"] for k in ("low", "high")}
    return common.told(ends, 1)


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
