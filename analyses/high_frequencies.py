"""Why does IP work? High frequencies of samples in dB of the training images', by chain length.

DDPM, trained IP, IP without training (`ip:γ`) and epsilon scaling by 1 + γ², over training seeds,
on the same images and noise; beside them the Gaussian reference and the exact denoiser of the
training images.

Writes hf.csv: family, length, of ("value", or "difference" from DDPM), value, low, high, seeds.
"""

import common
import numpy as np
import pandas as pd

import exposure_bias as eb

STUDY = common.Study(
    name="high_frequencies",
    claim="IP keeps more high frequencies than DDPM, which would be why it works",
    source="slide 'Why DDPM-IP Works?'",
    published="a conjecture, no numbers",
)
DEFAULT = {
    "data": "digits",
    "seeds": 5,
    "iterations": 1500,
    "gamma": 0.1,
    "n": 512,
    "lengths": (10, 30, 100, 300),
    "seed": 0,
}
SMOKE = {"seeds": 2, "iterations": 2, "n": 256, "lengths": (3, 6)}


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    data, ddpm = common.images(s, "train"), common.trained(s, "ddpm")
    exact = common.oracle(common.unsplit(data), ddpm[0].schedule)
    families = {
        "DDPM": ddpm,
        "IP": common.trained(s, "ip", s.gamma),
        "IP without training": [eb.remedies.ip_equivalent(m, s.gamma) for m in ddpm],
        "ε / (1 + γ²)": [eb.remedies.epsilon_scaled(m, 1 + s.gamma**2) for m in ddpm],
    }
    hf = pd.concat(
        [
            table(families, data, s),
            table({"exact denoiser": [exact]}, data, s),
            gaussian(exact, data, s),
        ]
    )
    common.write(hf, out / "hf.csv")
    return answer(hf, s)


def table(families: dict[str, list], data: "eb.data.Data", s: common.Settings) -> pd.DataFrame:
    found = {
        name: [
            np.stack(
                [
                    high(eb.record(one, data, steps=k, n=s.n, seed=s.seed, streams=["chain"]))
                    for k in s.lengths
                ],
                -1,
            )
            for one in family
        ]
        for name, family in families.items()
    }
    first, rows = next(iter(found)), []
    for name, ours in found.items():
        for of, theirs in (
            {"value": None} | ({"difference": found[first]} if name != first else {})
        ).items():
            interval = common.with_interval(ours, theirs)
            rows += [
                {"family": name, "length": k, "of": of}
                | {"seeds": len(ours)}
                | {end: interval[end][i] for end in ("value", "low", "high")}
                for i, k in enumerate(s.lengths)
            ]
    return pd.DataFrame(rows)


def high(recording: eb.Recording) -> np.ndarray:
    """HF in dB, of all samples and without each group: (17,)."""
    ours, theirs = (
        recording[stream]["state_high"].isel(step=-1).sum("channel").values
        for stream in ("chain", "data")
    )
    ratio = np.append(ours.sum() / theirs.sum(), (ours.sum() - ours) / (theirs.sum() - theirs))
    return 10 * np.log10(ratio)


def gaussian(exact: "eb.Denoiser", data: "eb.data.Data", s: common.Settings) -> pd.DataFrame:
    """The reference does not look at the network: an oracle stands in, which is quicker."""
    values = [
        float(eb.spectrum(eb.record(exact, data, steps=k, n=32, seed=s.seed))["hf_gaussian"])
        for k in s.lengths
    ]
    return pd.DataFrame(
        {"family": "Gaussian reference", "length": s.lengths, "of": "value", "value": values}
    )


def answer(hf: pd.DataFrame, s: common.Settings) -> common.Answer:
    def row(family: str, of: str) -> str:
        here = hf[(hf["family"] == family) & (hf["of"] == of)]
        return ", ".join(f"{common.told(r)} at {r['length']}" for _, r in here.iterrows())

    less = "; ".join(
        f"{k}: {row(k, 'difference')}" for k in ("IP", "IP without training", "ε / (1 + γ²)")
    )
    text = (
        f"High frequencies in dB of the training images'. DDPM: {row('DDPM', 'value')} steps; exact"
        f" denoiser: {row('exact denoiser', 'value')}. Less DDPM's, {less}. This is the first half"
        " of the conjecture; that more high frequencies are why samples improve is not tested"
        " by it."
    )
    return common.Answer(common.verdict(common.signs(hf, "IP"), 1), text, common.trained_scale(s))


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
