"""Why does IP work? High frequencies of samples in dB of the data's, by chain length.

DDPM, trained IP, IP without training (`ip:γ`) and epsilon scaling by 1 + γ² on the same images and noise; beside
them the Gaussian reference and the exact denoiser of the training images. Models trained here over seeds, the bundled
pair as one seed each.

Writes hf.csv: family, length, of ("value", or "difference" from its DDPM), value, low, high, seeds.
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
    "data": "digits", "model": None, "ip": None, "seeds": 3, "iterations": 1500, "gamma": 0.1, "n": 512,
    "lengths": (10, 30, 100, 300), "seed": 0,
}  # fmt: skip
SMOKE = {"seeds": 2, "iterations": 2, "n": 256, "lengths": (3, 6)}


def measure(s: common.Settings, out: common.Path) -> common.Answer:
    data, own = common.images(s), common.unsplit(common.images(s, "train"))
    model, scale = common.model(s), 1 + s.gamma**2
    bundled = {
        "DDPM, bundled": [model],
        "IP, bundled": [common.model(s, "ip")],
        "ip without training, bundled": [eb.remedies.ip_equivalent(model, s.gamma)],
        "es 1+γ², bundled": [eb.remedies.epsilon_scaled(model, scale)],
    }
    ddpm = common.trained(s, "ddpm")
    over_seeds = {"DDPM": ddpm, "IP": common.trained(s, "ip", s.gamma)}
    tables = [table(families, data, s) for families in (over_seeds, bundled)]
    tables.append(table({"exact denoiser": [common.oracle(own, model.schedule)]}, own, s))
    tables.append(gaussian(model, data, s))
    hf = pd.concat(tables)
    common.write(hf, out / "hf.csv")
    return answer(hf, s)


def table(families: dict[str, list], data: "eb.data.Data", s: common.Settings) -> pd.DataFrame:
    found = {
        name: [
            np.stack(
                [high(eb.record(one, data, steps=k, n=s.n, seed=s.seed, streams=["chain"])) for k in s.lengths], -1
            )
            for one in family
        ]
        for name, family in families.items()
    }
    first, rows = next(iter(found)), []
    for name, ours in found.items():
        for of, theirs in ({"value": None} | ({"difference": found[first]} if name != first else {})).items():
            interval = common.with_interval(ours, theirs)
            rows += [
                {"family": name, "length": k, "of": of} | {"seeds": len(ours)}
                | {end: interval[end][i] for end in ("value", "low", "high")}
                for i, k in enumerate(s.lengths)
            ]  # fmt: skip
    return pd.DataFrame(rows)


def high(recording: eb.Recording) -> np.ndarray:
    """HF in dB, of all samples and without each group: (17,)."""
    ours, theirs = (recording[stream]["state_high"].isel(step=-1).sum("channel").values for stream in ("chain", "data"))
    ratio = np.append(ours.sum() / theirs.sum(), (ours.sum() - ours) / (theirs.sum() - theirs))
    return 10 * np.log10(ratio)


def gaussian(model: "eb.Denoiser", data: "eb.data.Data", s: common.Settings) -> pd.DataFrame:
    """The reference does not look at the network: an oracle stands in, which is quicker."""
    exact = common.oracle(common.unsplit(data), model.schedule)
    values = [float(eb.spectrum(eb.record(exact, data, steps=k, n=32, seed=s.seed))["hf_gaussian"]) for k in s.lengths]
    return pd.DataFrame({"family": "Gaussian reference", "length": s.lengths, "of": "value", "value": values})


def answer(hf: pd.DataFrame, s: common.Settings) -> common.Answer:
    def row(family: str, of: str) -> str:
        here = hf[(hf["family"] == family) & (hf["of"] == of)]
        return ", ".join(f"{common.told(r)} at {r['length']}" for _, r in here.iterrows())

    exact = hf[hf["family"] == "exact denoiser"].set_index("length")["value"]
    text = (
        f"High frequencies in dB of the data's. DDPM over seeds: {row('DDPM', 'value')} steps; IP less DDPM: "
        f"{row('IP', 'difference')}. Bundled, one seed each, less DDPM: trained IP {row('IP, bundled', 'difference')}; "
        f"IP without training {row('ip without training, bundled', 'difference')}; ε / (1 + γ²) "
        f"{row('es 1+γ², bundled', 'difference')}. The exact denoiser has "
        f"{', '.join(f'{v:.2f} at {k}' for k, v in exact.items())}. That more high frequencies are why samples improve "
        "is not tested by this."
    )
    return common.Answer(common.verdict(common.signs(hf, "IP"), 1), text, common.trained_scale(s))


if __name__ == "__main__":
    common.main(STUDY, measure, DEFAULT, SMOKE)
