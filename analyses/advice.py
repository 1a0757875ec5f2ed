"""Does the sampler that `diagnose` advises keep its promise?

Repetitions of the advice on a bundled network, each with noise of its own. What was advised is
walked again with the noise of the next repetition, and with the two halves of the images in each
other's place; it keeps its promise if the sampler's share is below the margin there.

    python analyses/advice.py                # 40 repetitions; goes on where it stopped
    python analyses/advice.py --smoke        # one repetition of an exact denoiser, writes nothing

Writes results/advice/advice.csv, a row for each repetition."""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import exposure_bias as eb
from exposure_bias.data import bundled
from exposure_bias.experiments.advice import advice
from exposure_bias.experiments.bench import Bench, Limits
from exposure_bias.experiments.split import PARTS, split
from exposure_bias.run import Stream
from exposure_bias.running.setup import prepare, varied

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "advice"
MODELS, REPETITIONS, SAMPLES, MARGIN = ("digits", "fashion"), 40, 256, 0.05
ASKED = ("ddpm", 20)
OTHER_NOISE = 1000


def setup_of(model: Any, data: Any, sampler: str, steps: int, n: int, seed: int) -> Any:
    """A chain from the data."""
    made = prepare(
        model,
        data,
        kind="recording",
        sampler=sampler,
        steps=steps,
        n=n,
        seed=seed,
        streams=(Stream.CHAIN,),
    )
    return varied(made)


def shuffled(data: Any, seed: int) -> Any:
    """The same images in another order, so that other ones choose."""
    order = np.random.default_rng(seed).permutation(len(data))
    return eb.load_data(data.batch(order))


def repetition(name: str, seed: int, n: int) -> dict[str, Any]:
    """One advice, and what its chain leaves on other noise and a fresh draw of the images."""
    model, images = eb.load_model(name), eb.load_data(bundled.data_of(name), "test")
    data = shuffled(images, seed)
    bench = Bench(setup_of(model, data, *ASKED, n, seed), 256, limits=Limits())
    tried, why = advice(bench, MARGIN)
    attrs = tried.attrs
    row: dict[str, Any] = {"model": name, "seed": seed, "n": n, "why_not": why}
    if "advice_sampler" not in attrs:
        return row | {"advised": "", "calls": np.nan}
    row |= {"advised": attrs["advice_sampler"], "calls": attrs["advice_calls"]}
    row |= {k: attrs[f"advice_{k}"] for k in ("share", "share_low", "share_high")}
    again = shuffled(images, seed + OTHER_NOISE)
    chain = (attrs["advice_sampler"], attrs["advice_steps"], n, seed + OTHER_NOISE)
    found = split(check := Bench(setup_of(model, again, *chain), 256), check.setup, "chain")
    place = PARTS.index("discretisation"), found.names.index("gap"), -1
    value = float(found.estimate(np.ones(16))[place])
    error = float(found.parts["discretisation"].error[place[1:]])
    return row | {"again": value, "again_se": error, "kept": int(abs(value) < MARGIN)}


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
        print(repetition("digits", 0, 64))
        return
    path = OUT / "advice.csv"
    OUT.mkdir(parents=True, exist_ok=True)
    known = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["model", "seed"])
    done = set(known[["model", "seed"]].itertuples(index=False, name=None))
    for seed in range(REPETITIONS):
        for name in given.models:
            if (name, seed) in done:
                continue
            row = repetition(name, seed, SAMPLES)
            pd.DataFrame([row]).to_csv(
                path, mode="a", header=not path.exists(), index=False, float_format="%.6g"
            )


if __name__ == "__main__":
    main()
