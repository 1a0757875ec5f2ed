"""Input perturbation without training: is what IP learns the plain model at a shifted level?

By theory ε_IP(x, t) = ε*(x at noise σ√(1+γ²)) / √(1+γ²) for any data (`ip_equivalent`), DDPM-y is the same without the
division, and near that is ε*/(1+γ²). All are made from models trained here on the same draws, over seeds.

    slope     Σ c c* / Σ c*², c and c* the DCT coefficients of ε̂ of a candidate and of DDPM on the same x_t, per level
              and band of frequency; for Gaussian data (α²S + σ²)/(α²S + σ²(1+γ²)), S the data's power. Another seed of
              DDPM is the control: noise in c* pulls its slope below 1.
    distance  of samples, Fréchet; hf: their high frequencies against the data's in dB

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
    source="our own claim (design §4.5)",
    published="none",
)
DEFAULT = {
    "data": "digits", "seeds": 3, "iterations": 1500, "gamma": 0.1, "n": 512, "length": 100,
    "timesteps": (50, 150, 300, 500, 700, 900), "edges": (0.0, 0.125, 0.25, 0.5), "seed": 0,
}  # fmt: skip
SMOKE = {"seeds": 2, "iterations": 2, "n": 384, "length": 3, "timesteps": (100, 500)}
FIRST = "IP, trained"


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    ddpm = common.trained(s, "ddpm")
    families = {
        FIRST: common.trained(s, "ip", s.gamma),
        "IP without training": [eb.remedies.ip_equivalent(m, s.gamma) for m in ddpm],
        "ε / (1 + γ²)": [eb.remedies.epsilon_scaled(m, 1 + s.gamma**2) for m in ddpm],
        "DDPM-y, trained": common.trained(s, "ddpm-y", s.gamma),
        "DDPM": ddpm,
    }
    data = common.images(s)
    candidates = families | {"another seed of DDPM": ddpm[1:] + ddpm[:1]}
    del candidates["DDPM"]
    slope = slopes(candidates, ddpm, data, s)
    common.write(slope, out / "slopes.csv")
    samples = common.compare_objectives(s, families, (s.length,)).assign(measure="distance")
    samples = pd.concat([samples, spectra(families, data, s)])
    common.write(samples, out / "samples.csv")
    return answer(slope, samples, s)


def slopes(candidates: dict[str, list], ddpm: list, data: "eb.data.Data", s: common.Settings) -> pd.DataFrame:
    ids = np.arange(s.n) % len(data)
    x0, groups = torch.from_numpy(data.batch(ids)).double(), ids % common.GROUPS
    height, width = data.shape[1:]
    f = np.hypot(np.arange(height)[:, None] / (2 * height), np.arange(width)[None] / (2 * width))
    band = np.digitize(f, s.edges) - 1
    power = np.square(coefficients(x0 - x0.mean(0))).mean((0, 1))
    schedule, rows = ddpm[0].schedule, []
    noise = eb.noise.Noise(s.seed, "slopes", range(s.n), data.shape)
    for i, timestep in enumerate(s.timesteps):
        level = schedule.level(timestep)
        x = eb.streams.noised(x0, level, noise(i))
        plain = [coefficients(m.predict(x, level).epsilon) for m in ddpm]
        total = level.alpha**2 * power + level.sigma**2
        shrunk = total / (total + level.sigma**2 * s.gamma**2)
        weight = level.sigma**2 / total  # the power of ε* of Gaussian data
        for name, family in candidates.items():
            ours = [coefficients(m.predict(x, level).epsilon) for m in family]
            for b, edge in enumerate(s.edges):
                each = [
                    common.deleted(
                        np.divide, groups, *((v * theirs)[..., band == b].sum((1, 2)) for v in (one, theirs))
                    )
                    for one, theirs in zip(ours, plain, strict=True)
                ]
                rows.append(
                    {"family": name, "timestep": timestep, "band_from": edge} | common.with_interval(each)
                    | {"gaussian": float(np.average(shrunk[band == b], weights=weight[band == b]))}
                )  # fmt: skip
    return pd.DataFrame(rows)


def coefficients(images: torch.Tensor) -> np.ndarray:
    return dctn(images.double().numpy(), axes=(-2, -1), norm="ortho")


def spectra(families: dict[str, list], data: "eb.data.Data", s: common.Settings) -> pd.DataFrame:
    found = {
        name: [high(eb.record(m, data, steps=s.length, n=s.n, seed=s.seed, streams=["chain"])) for m in family]
        for name, family in families.items()
    }
    rows = []
    for name, ours in found.items():
        for of, theirs in ({"value": None} | ({"difference": found[FIRST]} if name != FIRST else {})).items():
            rows.append({"family": name, "length": s.length, "of": of, "measure": "hf"})
            rows[-1] |= common.with_interval(ours, theirs)
    return pd.DataFrame(rows)


def answer(slope: pd.DataFrame, samples: pd.DataFrame, s: common.Settings) -> common.Answer:
    differences = samples[samples["of"] == "difference"]
    said = [
        f"{name}: {', '.join(f'{r.measure} {common.told(r._asdict())}' for r in rows.itertuples())}"
        for name, rows in differences.groupby("family", sort=False)
    ]
    trained, shifted, control = (
        slope[slope["family"] == k].set_index(["timestep", "band_from"])
        for k in (FIRST, "IP without training", "another seed of DDPM")
    )
    held = (trained["low"] <= shifted["value"]) & (shifted["value"] <= trained["high"])
    own = differences[differences["family"] == "IP without training"]
    apart = bool(own.apply(common.excludes_zero, axis=1).any())
    resolved = bool(differences[differences["family"] == "DDPM"].apply(common.excludes_zero, axis=1).any())
    text = (
        f"Less trained IP, at {s.length} steps (Fréchet distance; hf in dB): {'; '.join(said)}. Slope of ε on DDPM's, "
        f"{len(trained)} levels and bands: trained IP {trained['value'].min():.3f} to {trained['value'].max():.3f}, IP "
        f"without training {shifted['value'].min():.3f} to {shifted['value'].max():.3f}, inside the trained one's "
        f"interval at {int(held.sum())}; another seed of DDPM {control['value'].min():.3f} to "
        f"{control['value'].max():.3f}."
    )
    if not resolved:
        text += " Trained IP is not told from DDPM itself here, so that agreement says little."
    verdict = "not reproduced" if apart else "reproduced" if resolved else "undecided"
    return common.Answer(verdict, text, common.trained_scale(s))


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
