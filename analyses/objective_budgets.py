"""Does input perturbation lower the network's own error, or pay for the solver's?

Every objective's networks are budgeted on the same held-out images and paths (`eb.compare`): the
variance gap and the high frequencies before the last step, each split into the solver's and the
network's part, and their differences from DDPM's, paired by image and by training seed.

Reproduced where IP's score error is smaller than DDPM's in both statistics, not reproduced where in
neither it is by more than the margin: 5 % of the variance, 0.2 dB.

Writes parts.csv: family, statistic, part, of ("value" or "difference"), value, low, high, seeds."""

import common
import numpy as np
import pandas as pd
from scipy.special import stdtrit

import exposure_bias as eb

STUDY = common.Study(
    name="objective_budgets",
    claim="Input perturbation lowers the network's own error, and does not only pay for the solver",
    source="our own question",
    published="none",
    uses_limit=True,
)
DEFAULT = {
    "data": "digits",
    "seeds": 5,
    "iterations": 1500,
    "gamma": 0.1,
    "n": 512,
    "steps": 20,
    "seed": 0,
}
SMOKE = {"seeds": 2, "iterations": 2, "n": 256, "steps": 3}
MARGIN = {"gap": 0.05, "hf": 0.2}
UNITS = {"gap": (100, "%"), "hf": (1, "dB")}
PARTS = ("discretisation", "score")


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    families = {"DDPM": ("ddpm", None), "IP": ("ip", s.gamma)}
    if s.data not in common.BUNDLED:
        families |= {"DDPM-y": ("ddpm-y", s.gamma), "GP": ("gp", None), "WD": ("wd", None)}
    if s.smoke:  # networks of two iterations denoise nothing
        exact = common.oracle(common.images(s))
        models = {"DDPM": [exact], "IP": [eb.remedies.ip_equivalent(exact, s.gamma)]}
    else:
        models = {name: common.trained(s, *recipe) for name, recipe in families.items()}
    table = parts(models, s)
    common.write(table, out / "parts.csv")
    return answer(table, s)


def parts(models: dict[str, list[eb.Denoiser]], s: common.Settings) -> pd.DataFrame:
    """The parts of every family and their differences from the first."""
    size = 1 if s.smoke else s.seeds
    found = [
        common.quietly(
            eb.compare,
            [family[k] for family in models.values()],
            common.images(s),
            steps=s.steps,
            n=s.n,
            lengths=(),
            seed=s.seed,
            folder=None if s.smoke else common.RUNS / "budgets" / common.Path(s.data).stem,
        )
        for k in range(size)
    ]
    rows = []
    for place, name in enumerate(models):
        for statistic in MARGIN:
            for part in PARTS:
                for of, suffix in {"value": "", "difference": "_difference"}.items():
                    if of == "difference" and not place:
                        continue
                    each = [one.isel(entry=place) for one in found]
                    values, errors = (
                        np.array([float(one[f"{statistic}_{part}{suffix}{end}"]) for one in each])
                        for end in ("", "_se")
                    )
                    rows.append(
                        {"family": name, "statistic": statistic, "part": part, "of": of}
                        | interval(values, errors)
                    )
    return pd.DataFrame(rows)


def interval(values: np.ndarray, errors: np.ndarray) -> dict[str, float]:
    """The mean over seeds with its error over images, which all seeds share, and over seeds."""
    half, k = common.T_IMAGES * errors.mean(), len(values)
    if k > 1:
        half = np.hypot(half, stdtrit(k - 1, 0.975) * values.std(ddof=1) / np.sqrt(k))
    mean = values.mean()
    return {"value": mean, "low": mean - half, "high": mean + half, "seeds": k}


def answer(table: pd.DataFrame, s: common.Settings) -> common.Answer:
    said, lower = [], []
    for family in table["family"].unique()[1:]:
        for statistic in MARGIN:
            told = [_told(table, family, statistic, part) for part in ("score", "discretisation")]
            said.append(f"{family}, {statistic}: network's {told[0]}, solver's {told[1]}")
    for statistic, margin in MARGIN.items():
        rows = table[(table["statistic"] == statistic) & (table["part"] == "score")]
        ddpm = rows[(rows["family"] == "DDPM") & (rows["of"] == "value")].iloc[0]
        change = rows[(rows["family"] == "IP") & (rows["of"] == "difference")].iloc[0]
        towards = -np.sign(ddpm["value"])  # what makes DDPM's error smaller
        ends = sorted(towards * change[["low", "high"]].to_numpy(dtype=float))
        lower.append(1 if ends[0] > 0 else -1 if ends[1] < margin / 2 else 0)
    text = (
        f"Less DDPM's, {s.steps} ddpm steps, before the last one: {'; '.join(said)}."
        f" DDPM's own: {'; '.join(_own(table, k) for k in MARGIN)}."
    )
    scale = "exact denoisers" if s.smoke else common.trained_scale(s)
    return common.Answer(common.verdict(set(lower), 1), text, scale)


def _told(
    table: pd.DataFrame, family: str, statistic: str, part: str, of: str = "difference"
) -> str:
    chosen = (table[["family", "statistic", "part", "of"]] == [family, statistic, part, of]).all(
        axis=1
    )
    factor, unit = UNITS[statistic]
    row = {k: factor * float(table[chosen].iloc[0][k]) for k in ("value", "low", "high")}
    return f"{common.told(row)} {unit}"


def _own(table: pd.DataFrame, statistic: str) -> str:
    network, solver = (
        _told(table, "DDPM", statistic, part, "value") for part in ("score", "discretisation")
    )
    return f"{statistic}: network's {network}, solver's {solver}"


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
