"""Fig. 5: x_0 and x̂_0 for chains of 100, 300, 600 and 900 steps: how much of the blur is the
chain's own?

The same held-out images, noised to the L-th level of 1000 and brought back by three chains: the
means alone (ancestral without its noise, as the paper's figure), ancestral sampling, and DDIM.
Beside the model stands the exact denoiser of
these very images: what it blurs, no model error blurs.

Writes hf.csv: high frequencies (f ≥ ¼ cycle per pixel) of x̂_0 against x_0 in dB, and RMSE;
images.json: the grid."""

import json

import common
import numpy as np
import pandas as pd
from scipy.fft import dctn

import exposure_bias as eb

STUDY = common.Study(
    name="fig5_reconstructions",
    claim="Reconstructions x̂_0 lose high frequencies, the more the longer the chain",
    source="slide 'Discussions' (Fig. 5 of arXiv 2301.11706)",
    published="a grid of images, no numbers",
)
DEFAULT = {
    "data": "digits",
    "model": None,
    "n": 256,
    "lengths": (100, 300, 600, 900),
    "shown": 4,
    "seed": 0,
}
SMOKE = {"n": 256, "lengths": (100, 200)}


class MeanOnly(eb.samplers.DDPM):
    """Ancestral sampling without its noise: no draw of p(x_0 | x_t), and no limit that is known."""

    stochastic = ancestral = exact_teacher = False
    limit = None

    def __str__(self) -> str:
        return "ddpm without noise"

    def step(self, x, now, s, t, z, predict):
        return super().step(x, now, s, t, 0.0, predict)


CHAINS = {"means alone": MeanOnly(), "ancestral": "ddpm", "DDIM": "ddim"}


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    data, model = common.images(s), common.model(s)
    exact = common.oracle(common.unsplit(data), model.schedule)
    mean, rows, grid, powers = data.batch(np.arange(len(data))).mean(0), [], {}, {}
    for name, one in {"model": model, "exact denoiser": exact}.items():
        for chain, sampler in CHAINS.items():
            errors = eb.chain_errors(one, data, s.lengths, n=s.n, sampler=sampler, seed=s.seed)
            x0, groups = errors["x0"].values.astype(float), errors["image"].values % common.GROUPS
            for length in s.lengths:
                end = x0 - errors["error"].sel(length=length).values
                high, original = high_power(end - mean), high_power(x0 - mean)
                powers[name, chain, length] = common.deleted(decibel, groups, high, original)
                rows.append(
                    {"model": name, "chain": chain, "length": length}
                    | common.with_interval([powers[name, chain, length]])
                    | {"rmse": float(np.sqrt(np.square(end - x0).mean()))}
                )
                grid[f"{name}, {chain}, {length}"] = end[: s.shown].round(3).tolist()
    for chain in CHAINS:
        for length in s.lengths:
            both = [[powers[name, chain, length]] for name in ("model", "exact denoiser")]
            rows.append(
                {"model": "difference", "chain": chain, "length": length}
                | common.with_interval(*both)
            )
        both = [[powers["model", chain, length]] for length in (max(s.lengths), min(s.lengths))]
        longest = {"model": "longest less shortest", "chain": chain, "length": max(s.lengths)}
        rows.append(longest | common.with_interval(*both))
    table = pd.DataFrame(rows)
    common.write(table, out / "hf.csv")
    (out / "images.json").write_text(json.dumps({"x0": x0[: s.shown].round(3).tolist()} | grid))
    return answer(table, s)


def high_power(images: np.ndarray) -> np.ndarray:
    """Power at f ≥ ¼ cycle per pixel of each image, (N,)."""
    height, width = images.shape[-2:]
    f = np.hypot(np.arange(height)[:, None] / (2 * height), np.arange(width)[None] / (2 * width))
    return np.square(dctn(images, axes=(-2, -1), norm="ortho"))[..., f >= 0.25 - 1e-12].sum((1, 2))


def decibel(ours: float, theirs: float) -> float:
    return 10 * np.log10(ours / theirs)


def answer(table: pd.DataFrame, s: common.Settings) -> common.Answer:
    last = table[table["length"] == max(s.lengths)].set_index(["model", "chain"])
    said = "; ".join(
        f"{chain}: model {common.told(last.loc[('model', chain)])}, exact denoiser"
        f" {common.told(last.loc[('exact denoiser', chain)])}, difference"
        f" {common.told(last.loc[('difference', chain)])}"
        for chain in CHAINS
    )
    growth = table[table["model"] == "longest less shortest"].set_index("chain")
    shown, cause = last.loc[("model", "means alone")], last.loc[("difference", "means alone")]
    own = 1 - cause["value"] / shown["value"]
    text = (
        f"High frequencies of x̂_0 after {max(s.lengths)} steps, in dB of x_0's. {said}. The"
        f" model's after {max(s.lengths)} steps less those after {min(s.lengths)}:"
        f" {'; '.join(f'{chain} {common.told(growth.loc[chain])}' for chain in CHAINS)}."
    )
    if shown["high"] < 0:
        text += (
            " What the paper's figure shows is there with the chain of means alone, and"
            f" {100 * own:.0f} % of it with a perfect denoiser too: that blur is the chain's own."
        )
    seen = {
        int(np.sign(r["value"])) * common.excludes_zero(r)
        for r in (shown, growth.loc["means alone"])
    }
    return common.Answer(
        common.verdict(seen, -1),
        text,
        f"{s.data}, n = {s.n}, chains of means, ddpm and ddim, seed {s.seed}",
    )


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
