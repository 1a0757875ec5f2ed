"""Do the bundled networks show exposure bias in the strict sense, and what is it instead?

For each network, on held-out images: the network's share of the variance as its limit says it, the
share predicted from errors on true states alone, where these errors cost most, and strict exposure
with its floor (`eb.network_error`).

    python analyses/exposure.py              # four networks; goes on where it stopped
    python analyses/exposure.py --smoke      # seconds, prints and writes nothing

Writes results/exposure/shares.csv (a row for each network), costs.csv (level and
band) and exposure.csv (cut)."""

import argparse
import warnings
from pathlib import Path

import pandas as pd
import torch
import xarray as xr

import exposure_bias as eb
from exposure_bias.data import bundled

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "exposure"
MODELS, SAMPLES = ("digits", "fashion", "digits-ip", "fashion-ip"), 1024


def found(name: str, n: int, folder: Path | None) -> xr.Dataset:
    """What `network_error` says of a network."""
    data = eb.load_data(bundled.data_of(name), "test")
    return eb.network_error(name, data, n=n, restarts=n, folder=folder)


def tables(result: xr.Dataset, name: str) -> dict[str, pd.DataFrame]:
    """The three tables of a network."""
    exposure = [k for k in result.data_vars if result[k].dims == ("cut",)]
    whole = [k for k in result.data_vars if result[k].dims == () and result[k].dtype.kind in "fi"]
    said = pd.DataFrame([{str(k): float(result[k]) for k in whole}])
    known = [k for k in ("cost", "cost_se") if k in result]
    costs = result[known].to_dataframe().reset_index() if known else pd.DataFrame()
    cuts = result[exposure].to_dataframe().reset_index()
    every = {"shares": said, "costs": costs, "exposure": cuts}
    return {k: t.assign(model=name, n=result.attrs["n"]) for k, t in every.items()}


def main(argv: list[str] | None = None) -> None:
    """Run the study, or go on with it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--models", nargs="+", default=MODELS)
    given = parser.parse_args(argv)
    smoke = given.smoke
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if smoke:
        print(tables(found("digits", 32, None), "digits"))
        return
    OUT.mkdir(parents=True, exist_ok=True)
    for name in given.models:
        path = OUT / "shares.csv"
        if path.exists() and name in set(pd.read_csv(path)["model"]):
            continue
        made = tables(found(name, SAMPLES, ROOT / "runs" / "exposure" / name), name)
        for kind in ("costs", "exposure", "shares"):
            file = OUT / f"{kind}.csv"
            made[kind].to_csv(
                file, mode="a", header=not file.exists(), index=False, float_format="%.6g"
            )


if __name__ == "__main__":
    main()
