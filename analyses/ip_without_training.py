"""Input perturbation without training: is what IP learns the plain model at a shifted level?

By theory ε_IP(x, t) = ε*(x at noise σ√(1+γ²)) / √(1+γ²) for any data (`ip_equivalent`), DDPM-y is
the same without the division, and near that is ε*/(1+γ²). All are made from models trained here on
the same draws, over seeds.

    slope     Σ c c* / Σ c*², c and c* the DCT coefficients of ε̂ of a candidate and of a DDPM of
              another training seed on the same x_t, per level and band of frequency. Noise in c*
              pulls all slopes below 1 alike, since no candidate shares its seed: the control, DDPM
              itself, shows by how much. For Gaussian data, and without such noise, the slope of IP
              is (α²S + σ²)/(α²S + σ²(1+γ²)), S the data's power.
    distance  of samples, Fréchet; hf: their high frequencies against the data's in dB

Two things are near each other where one lies within half of the difference of DDPM from trained IP,
interval and all. Reproduced where IP without training is near trained IP at every level and band
and in every measure of samples in which DDPM and trained IP differ at all; not reproduced where it
lies wholly outside in a measure of samples.

Writes slopes.csv and samples.csv (values, and differences from trained IP).
"""

import common
import numpy as np
import pandas as pd
import torch
from high_frequencies import high
from scipy.fft import dctn

import exposure_bias as eb

STUDY = common.Study(
    name="ip_without_training",
    claim="Input perturbation is a level shift: a plain DDPM gives the same without training",
    source="our own claim",
    published="none",
)
DEFAULT = {
    "data": "digits",
    "seeds": 5,
    "iterations": 1500,
    "gamma": 0.1,
    "n": 512,
    "length": 100,
    "timesteps": (50, 150, 300, 500, 700, 900),
    "edges": (0.0, 0.125, 0.25, 0.5),
    "seed": 0,
}
SMOKE = {"seeds": 2, "iterations": 2, "n": 384, "length": 3, "timesteps": (100, 500)}
RIVAL = "ε / (1 + γ²)"
FIRST = "IP, trained"


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    ddpm = common.trained(s, "ddpm")
    families = {
        FIRST: common.trained(s, "ip", s.gamma),
        "IP without training": [eb.remedies.ip_equivalent(m, s.gamma) for m in ddpm],
        "ε / (1 + γ²)": [eb.remedies.epsilon_scaled(m, 1 + s.gamma**2) for m in ddpm],
        "DDPM": ddpm,
    }
    if s.data in common.BUNDLED:  # beside the claim; other data take longer to train on
        families["DDPM-y, trained"] = common.trained(s, "ddpm-y", s.gamma)
    data = common.images(s)
    slope = slopes(families, ddpm[1:] + ddpm[:1], data, s)
    common.write(slope, out / "slopes.csv")
    samples = common.compare_objectives(s, families, (s.length,)).assign(measure="distance")
    samples = pd.concat([samples, spectra(families, data, s)])
    common.write(samples, out / "samples.csv")
    return answer(slope, samples, s)


def slopes(
    candidates: dict[str, list], others: list, data: "eb.data.Data", s: common.Settings
) -> pd.DataFrame:
    ids = np.arange(s.n) % len(data)
    x0, groups = torch.from_numpy(data.batch(ids)).double(), ids % common.GROUPS
    height, width = data.shape[1:]
    f = np.hypot(np.arange(height)[:, None] / (2 * height), np.arange(width)[None] / (2 * width))
    band = np.digitize(f, s.edges) - 1
    power = np.square(coefficients(x0 - x0.mean(0))).mean((0, 1))
    schedule, rows = others[0].schedule, []
    noise = eb.paths.Noise(s.seed, "slopes", range(s.n), data.shape)
    for i, timestep in enumerate(s.timesteps):
        level = schedule.level(timestep)
        x = eb.streams.noised(x0, level, noise(i))
        plain = [coefficients(m.predict(x, level).epsilon) for m in others]
        total = level.alpha**2 * power + level.sigma**2
        shrunk = total / (total + level.sigma**2 * s.gamma**2)
        weight = level.sigma**2 / total  # the power of ε* of Gaussian data
        first: dict[int, list] = {}
        for name, family in candidates.items():
            ours = [coefficients(m.predict(x, level).epsilon) for m in family]
            for b, edge in enumerate(s.edges):
                each = [
                    common.deleted(
                        np.divide,
                        groups,
                        *((v * theirs)[..., band == b].sum((1, 2)) for v in (one, theirs)),
                    )
                    for one, theirs in zip(ours, plain, strict=True)
                ]
                here = {"family": name, "timestep": timestep, "band_from": edge}
                theory = float(np.average(shrunk[band == b], weights=weight[band == b]))
                rows.append(
                    here | {"of": "value"} | common.with_interval(each) | {"gaussian": theory}
                )
                if first.setdefault(b, each) is not each:
                    rows.append(here | {"of": "difference"} | common.with_interval(each, first[b]))
    return pd.DataFrame(rows)


def coefficients(images: torch.Tensor) -> np.ndarray:
    return dctn(images.double().numpy(), axes=(-2, -1), norm="ortho")


def spectra(families: dict[str, list], data: "eb.data.Data", s: common.Settings) -> pd.DataFrame:
    found = {
        name: [
            high(eb.record(m, data, steps=s.length, n=s.n, seed=s.seed, streams=["chain"]))
            for m in family
        ]
        for name, family in families.items()
    }
    rows = []
    for name, ours in found.items():
        for of, theirs in (
            {"value": None} | ({"difference": found[FIRST]} if name != FIRST else {})
        ).items():
            rows.append({"family": name, "length": s.length, "of": of, "measure": "hf"})
            rows[-1] |= common.with_interval(ours, theirs)
    return pd.DataFrame(rows)


def answer(slope: pd.DataFrame, samples: pd.DataFrame, s: common.Settings) -> common.Answer:
    differences = samples[samples["of"] == "difference"]
    said = [
        f"{name}: {', '.join(f'{r.measure} {common.told(r._asdict())}' for r in rows.itertuples())}"
        for name, rows in differences.groupby("family", sort=False)
    ]
    apart = slope[slope["of"] == "difference"].set_index(["timestep", "band_from"])
    parts = []
    for family in slope["family"].unique():
        here = slope[(slope["family"] == family) & (slope["of"] == "value")]["value"]
        parts.append(f"{family} {here.min():.3f} to {here.max():.3f}")
    told_apart, close = near(apart)
    rival = near(apart, RIVAL)[1]
    seen, alike = near(differences.set_index("measure"))
    text = (
        f"Slope of ε on that of another seed's DDPM: {'; '.join(parts)}. DDPM differs from trained"
        f" IP at {sum(told_apart)} of {len(told_apart)} levels and bands, and IP without training"
        f" is near trained IP at {close.count('near')} of these, apart from it at"
        f" {close.count('outside')}; the rival {RIVAL}, a constant scaling, is near at"
        f" {rival.count('near')} and apart at {rival.count('outside')}. Samples of {s.length} steps"
        f" less those of trained IP (Fréchet distance; hf in dB): {'; '.join(said)}."
    )
    if not any(seen):
        text += (
            " Samples of trained IP are not told from DDPM's, so that agreement there says little."
        )
    every = {*close, *alike}
    verdict = (
        "not reproduced"
        if "outside" in alike
        else "reproduced"
        if every == {"near"}
        else "undecided"
    )
    return common.Answer(verdict, text, common.trained_scale(s))


def near(
    differences: pd.DataFrame, family: str = "IP without training"
) -> tuple[list[bool], list[str]]:
    """Where DDPM differs from trained IP; and there whether a family without training is "near" it,
    "outside", or neither."""
    effects, ours = (differences[differences["family"] == k] for k in ("DDPM", family))
    resolved = [common.excludes_zero(effect) for _, effect in effects.iterrows()]
    said = []
    for place, effect in effects[resolved].iterrows():
        own, bound = ours.loc[place], abs(effect["value"]) / 2
        inside, outside = (
            max(-own["low"], own["high"]) <= bound,
            max(own["low"], -own["high"]) > bound,
        )
        said.append("near" if inside else "outside" if outside else "open")
    return resolved, said


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
