"""Training error (one step) against generation error (all steps), with what both are for a perfect
sampler.

From true x_s run chains to the clean end. S is the error of one prediction, A that of the chain's
end; a perfect ancestral sampler has S = V and A = 2V, V the posterior variance, so that A − S is no
exposure bias. U − S is (V cancels), read beside W/U, which is 1 for a perfect sampler
(`eb.rollouts`). The empirical oracle stands for a perfect
denoiser with the same steps: it is run on draws of its own law, the training images.

Writes rollouts.csv (a row for each model, number of steps and start) and ranks.csv.
"""

import common
import numpy as np
import pandas as pd

import exposure_bias as eb

STUDY = common.Study(
    name="one_step_all_steps",
    claim="Errors accumulate over the steps of a chain: generation error exceeds training error",
    source="slides 'Exposure Bias', 'Exposure Bias in DPM' (the diagram)",
    published="a diagram, no numbers",
)
DEFAULT = {
    "data": "digits",
    "model": None,
    "n": 512,
    "steps": (100,),
    "starts": (0.1, 0.3, 0.5, 0.7, 0.9, 1.0),
    "seed": 0,
}
SMOKE = {"n": 256, "steps": (10,), "starts": (0.3, 1.0)}
COLUMNS = ("S", "A", "U", "W", "U_minus_S", "U_minus_S_relative")


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    heldout, own = common.images(s), common.unsplit(common.images(s, "train"))
    model = common.model(s)
    runs = {
        model.name: (model, heldout),
        "empirical oracle": (common.oracle(own, model.schedule), own),
    }
    tables, ranks = [], []
    for name, (one, data) in runs.items():
        for steps in s.steps:
            grid = [level.timestep for level in one.schedule.levels(steps)[:-1]]
            starts = [grid[round((1 - share) * (steps - 1))] for share in s.starts]
            found = common.quietly(
                eb.rollouts, one, data, steps=steps, starts=starts, n=s.n, seed=s.seed
            )
            for variables, rows in ((COLUMNS, tables), (("ranks",), ranks)):
                kept = found[
                    [
                        k
                        for k in found.data_vars
                        if k.split("_se")[0].split("_gaussian")[0] in variables
                    ]
                ]
                if variables == COLUMNS:
                    kept = kept.assign(
                        {
                            k: found[k]
                            for k in ("W_over_U", "W_over_U_low", "W_over_U_high", "bounded")
                        }
                    )
                rows.append(kept.to_dataframe().reset_index().assign(model=name, steps=steps))
    table = pd.concat(tables)
    for side, sign in (("low", -1), ("high", 1)):
        table[f"U_minus_S_{side}"] = (
            table["U_minus_S"] + sign * common.T_IMAGES * table["U_minus_S_se"]
        )
    common.write(table, out / "rollouts.csv")
    common.write(pd.concat(ranks), out / "ranks.csv")
    return answer(table[table["steps"] == max(s.steps)], model.name, s)


def answer(table: pd.DataFrame, name: str, s: common.Settings) -> common.Answer:
    ours, exact = (
        table[(table["model"] == m) & (table["bounded"] == 1)] for m in (name, "empirical oracle")
    )
    worse = ours["U_minus_S_low"] > 0
    share = ours["U_minus_S"] / ours["S"]
    worst = ours.loc[share.idxmax()]
    early = exact.iloc[0]
    dropped = table[(table["model"] == name) & (table["bounded"] == 0)]
    text = (
        f"A/S is {(ours['A'] / ours['S']).min():.2f} to {(ours['A'] / ours['S']).max():.2f} for"
        f" {name} and {(exact['A'] / exact['S']).min():.2f} to"
        f" {(exact['A'] / exact['S']).max():.2f} for the exact denoiser, where a perfect sampler"
        " has 2: twice the error is no exposure bias. What is left, U − S, is above zero at"
        f" {int(worse.sum())} of {len(ours)} starts (intervals), at most {100 * share.max():.1f} %"
        f" of S (t = {worst['timestep']:.0f}); for the exact denoiser with the same steps it is"
        f" {100 * (exact['U_minus_S'] / exact['S']).min():.1f} to"
        f" {100 * (exact['U_minus_S'] / exact['S']).max():.1f} %. Spread over skill W/U is"
        f" {ours['W_over_U'].min():.3f} to {ours['W_over_U'].max():.3f} ({early['model']}:"
        f" {exact['W_over_U'].min():.3f} to {exact['W_over_U'].max():.3f})."
    )
    if len(dropped):
        starts = ", ".join(f"{t:.0f}" for t in dropped["timestep"])
        text += (
            f" Left out are the starts t = {starts}, where one prediction is worse than the mean"
            f" image (S to {dropped['S'].max():.2f}, A to {dropped['A'].max():.2f}): there a chain"
            " hardly depends on the network."
        )
    own = (
        exact.set_index("timestep")["U_minus_S_high"].reindex(ours["timestep"]).to_numpy()
    )  # what these steps cost
    more = bool((ours["U_minus_S_low"].to_numpy() > np.fmax(own, 0)).any())
    return common.Answer(
        "reproduced" if more else "undecided",
        text,
        f"{s.data}, n = {s.n}, {max(s.steps)} steps, ddpm, 2 chains, seed {s.seed}",
    )


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
