"""Quality against chain length with four samplers: does the Fréchet distance rise again?

Lengths double, so that each is the refinement of the one before by the same model; the exact denoiser of the training
images goes through the same samplers. Sample i meets the same noise everywhere. A rise is called one where the longest
chain is worse than a shorter one by an interval that excludes zero after Bonferroni over the lengths.

Writes curve.csv and rise.csv. The samples are compared with the training images, the floor with the held-out ones.
"""

import common
import numpy as np
import pandas as pd
from scipy.special import stdtrit

import exposure_bias as eb

STUDY = common.Study(
    name="chain_length",
    claim="Beyond 100 to 300 steps quality declines, by accumulated error",
    source="slide 'Supporting Evidence in Improved-DDPM' (Fig. 11 of arXiv 2102.09672)",
    published="FID on LSUN-256, read off: DDIM 7.1 at 50, 8.5 at 1000 steps; β̃ 5.1 at 250, 5.6 at 1000",
)
SAMPLERS = ("ddpm", "ddpm:fixed_large", "ddim", "heun")
DEFAULT = {
    "data": "digits", "model": None, "n": 512, "lengths": (10, 20, 40, 80, 160, 320), "samplers": SAMPLERS, "seed": 0,
}  # fmt: skip
SMOKE = {"n": 384, "lengths": (5, 10), "samplers": ("ddpm",)}


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    data, model = common.images(s, "train"), common.model(s)
    exact = common.oracle(common.unsplit(data), model.schedule)
    exact.name = "exact denoiser"
    curve = common.quietly(
        eb.chain_length_fid, [model, exact], data, s.lengths, features=common.features(s), sampler=list(s.samplers),
        n=s.n, seed=s.seed, checkpoint=common.cells(s),
    )  # fmt: skip
    columns = [k for k in curve.data_vars if "jackknife" not in k]
    common.write(curve[columns].to_dataframe().reset_index(), out / "curve.csv")
    names = list(curve["model"].values)
    rows = []
    for name, label in zip(names, ("model", "exact denoiser"), strict=True):
        for sampler in curve["sampler"].values:
            values = curve["frechet_jackknife"].sel(model=name, sampler=sampler).transpose("length", "deleted").values
            rise, error = common.frechet(values[-1] - values[:-1])
            half = stdtrit(common.GROUPS - 1, 1 - 0.025 / len(rise)) * error
            rows += [
                {"model": label, "sampler": sampler, "length": length, "value": r, "low": r - h, "high": r + h}
                for length, r, h in zip(s.lengths, rise, half, strict=False)
            ]
    table = pd.DataFrame(rows)
    common.write(table, out / "rise.csv")
    return answer(curve, table, s)


def answer(curve: "eb.Dataset", rise: pd.DataFrame, s: common.Settings) -> common.Answer:
    said, risen, exact = [], {}, rise[rise["model"] == "exact denoiser"]
    for sampler in curve["sampler"].values:
        here = rise[(rise["model"] == "model") & (rise["sampler"] == sampler)]
        worst = here.loc[here["value"].idxmax()]
        risen[sampler] = worst["low"] > 0
        values = curve["frechet_corrected"].isel(model=0).sel(sampler=sampler).values
        change = "higher" if worst["value"] > 0 else "lower"
        said.append(
            f"{sampler}: {np.nanmin(values):.2f} at T′ = {s.lengths[int(np.nanargmin(values))]}, at {s.lengths[-1]} "
            f"{values[-1]:.2f}, {change} than at {worst['length']:.0f} by {common.told(worst, 2)}"
        )
    text = f"Fréchet distance ({common.features(s)}, bias-corrected). {'; '.join(said)}. "
    own = [k for k, v in risen.items() if v and not (exact[exact["sampler"] == k]["low"] > 0).any()]
    if any(risen.values()):
        text += f"It rises with {', '.join(k for k, v in risen.items() if v)}"
        text += f", where the exact denoiser's does not: {', '.join(own) or 'none'}."
    else:
        text += (
            f"No sampler's curve rises beyond its interval up to {max(s.lengths)} steps; the literature's go to 1000."
        )
    return common.Answer(
        "reproduced" if own else "undecided", text, f"{s.data}, n = {s.n}, T′ to {max(s.lengths)}, seed {s.seed}"
    )


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
