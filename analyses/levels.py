"""Do chosen levels beat fixed rules? At 6, 8, 10 and 20 DDPM calls, on the bundled networks.

Levels are chosen on one half of the held-out images, and measured on the other half with other
noise (`eb.level_curve`). `advantage` is by how much the chosen levels' error is smaller than a
rule's on the same images and noise, with its 95 % interval.

    python analyses/levels.py                # both networks
    python analyses/levels.py --smoke        # seconds, prints and writes nothing

Writes results/levels/levels.csv, a row for each network, number of calls and rule. Chains are kept
in runs/levels, from where the same call goes on."""

import argparse
from pathlib import Path

import pandas as pd
import torch

import exposure_bias as eb
from exposure_bias.data import bundled

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "levels"
MODELS, CALLS, SAMPLES = ("digits", "fashion"), (6, 8, 10, 20), 256


def curve(name: str, n: int, calls: tuple[int, ...], folder: Path | None) -> pd.DataFrame:
    """The rows of one network."""
    data = eb.load_data(bundled.data_of(name), "test")
    found = eb.level_curve(name, data, calls=calls, n=n, folder=folder)
    return found.to_dataframe().reset_index().assign(model=name, n=n)


def main(argv: list[str] | None = None) -> None:
    """Run the study."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true")
    smoke = parser.parse_args(argv).smoke
    torch.set_num_threads(1)
    if smoke:
        print(curve("digits", 32, (4,), None))
        return
    OUT.mkdir(parents=True, exist_ok=True)
    tables = []
    for name in MODELS:
        tables.append(curve(name, SAMPLES, CALLS, ROOT / "runs" / "levels" / name))
        pd.concat(tables).to_csv(OUT / "levels.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
