"""e_t before and after input perturbation: is it any nearer to the isotropic Gaussian that IP
assumes?

For models trained with and without IP on the same draws, over seeds, and for the bundled pair (one
seed each): share of pixels at which Shapiro–Wilk rejects, correlation of neighbours, power of the
highest band over the mean, RMSE. Zero or one is not what a perfect sampler shows; only the
rejection rate of a Gaussian, α, is a null value.

Writes table.csv: pair, length, measure, of ("DDPM", "IP", "difference"), value, low, high, seeds.
"""

import common
import numpy as np
import pandas as pd
from scipy.special import stdtrit

import exposure_bias as eb

STUDY = common.Study(
    name="isotropy_before_after",
    claim="Assuming a Gaussian bias conflicts with how DDPM-IP behaves",
    source="slide 'Conclusion' (Doubts)",
    published="a doubt, no numbers",
)
DEFAULT = {
    "data": "digits",
    "model": None,
    "ip": None,
    "seeds": 5,
    "iterations": 1500,
    "n": 512,
    "lengths": (100, 300),
    "per_test": 50,
    "seed": 0,
}
SMOKE = {"seeds": 2, "iterations": 2, "n": 256, "lengths": (5, 10)}
MEASURES = ("rejection rate", "neighbour correlation", "highest band's power", "RMSE")


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    pairs = {"trained here": (common.trained(s, "ddpm"), common.trained(s, "ip", 0.1))}
    if common.has_models(s):
        pairs["bundled"] = ([common.model(s)], [common.model(s, "ip")])
    rows = []
    for pair, families in pairs.items():
        found = [
            np.stack([shape(one, s) for one in family]) for family in families
        ]  # (seed, value or se, measure, L)
        for of, values in {"DDPM": found[:1], "IP": found[1:], "difference": found[::-1]}.items():
            rows += table(pair, of, values, s)
    common.write(pd.DataFrame(rows), out / "table.csv")
    return answer(pd.DataFrame(rows), s)


def shape(model: "eb.Denoiser", s: common.Settings) -> np.ndarray:
    """(value, standard error) of every measure at every length, (2, 4, L)."""
    errors = eb.chain_errors(model, common.images(s), s.lengths, n=s.n, seed=s.seed)
    tests = common.quietly(eb.normality, errors, n=s.per_test)
    white = common.quietly(eb.isotropy, errors)
    square = np.square(errors["error"].values.astype(float)).mean((2, 3, 4))
    groups = errors["image"].values % common.GROUPS
    rmse = [common.jackknifed(common.deleted(np.sqrt, groups, each)) for each in square]
    neighbours = [white[f"autocorrelation_{k}"].values for k in "xy"]
    errors_of = [white[f"autocorrelation_{k}_se"].values for k in "xy"]
    values = [
        tests["rate"].values,
        np.mean(neighbours, 0),
        white["whiteness"].values[:, -1],
        [v for v, _ in rmse],
    ]
    # The two neighbours' errors are not independent: their mean is an upper bound of the mean's.
    ses = [
        tests["rate_se"].values,
        np.mean(errors_of, 0),
        white["whiteness_se"].values[:, -1],
        [e for _, e in rmse],
    ]
    return np.array([values, ses])


def table(pair: str, of: str, families: list[np.ndarray], s: common.Settings) -> list[dict]:
    """Mean over seeds of the one family, or of the first less the second.

    Images are taken as independent: wider.
    """
    each = families[0][:, 0] - (families[1][:, 0] if len(families) > 1 else 0.0)
    k = len(each)
    error = np.sqrt(sum(np.square(f[:, 1]).mean(0) for f in families))
    half = common.T_IMAGES * error
    if k > 1:
        half = np.hypot(half, stdtrit(k - 1, 0.975) * each.std(0, ddof=1) / np.sqrt(k))
    value = each.mean(0)
    return [
        {
            "pair": pair,
            "length": length,
            "measure": name,
            "of": of,
            "value": value[m, i],
            "seeds": k,
        }
        | {"low": value[m, i] - half[m, i], "high": value[m, i] + half[m, i]}
        for m, name in enumerate(MEASURES)
        for i, length in enumerate(s.lengths)
    ]


def answer(table: pd.DataFrame, s: common.Settings) -> common.Answer:
    here = table[(table["pair"] == "trained here") & (table["length"] == max(s.lengths))].set_index(
        ["measure", "of"]
    )
    said = "; ".join(
        f"{m} {common.told(here.loc[(m, 'DDPM')], 3)}, IP less DDPM"
        f" {common.told(here.loc[(m, 'difference')], 3)}"
        for m in MEASURES
    )
    text = (
        f"At length {max(s.lengths)}, DDPM over seeds: {said}. White Gaussian errors have rate 0.05"
        " and correlation 0, but a perfect sampler's e_t is as little Gaussian as the data: this"
        " shows that e_t is not what IP assumes, and not whether that matters to how IP behaves."
    )
    return common.Answer("undecided", text, common.trained_scale(s))


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
