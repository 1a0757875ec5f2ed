"""Does DCW mend the network or pay for the solver?

DCW moves the low frequencies of each state by c times what a step left out
(`remedies.steps`). For each bundled network, sampler and number of steps we measure the variance
gap's two parts, the solver's share and the network's, and how much a unit of c moves the gap
(a chain with c = PROBE on the same images and noise). By proportion,

    c_whole     closes the whole gap
    c_solver    pays for the solver's share alone
    c_network   pays for the network's share alone

A remedy of the network would need the same strength at every number of steps. A remedy that pays
for the solver needs less the more steps there are, and what is left where the solver makes no error
is the network's.

    python analyses/dcw.py                   # all networks; goes on where it stopped
    python analyses/dcw.py --smoke           # seconds, prints and writes nothing

Writes results/dcw/dcw.csv."""

import argparse
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import exposure_bias as eb
from exposure_bias.data import bundled
from exposure_bias.experiments.bench import Bench, Limits
from exposure_bias.experiments.split import PARTS, Split, split
from exposure_bias.jackknife import GROUPS, jackknife
from exposure_bias.run import Stream
from exposure_bias.running.setup import prepare, varied

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "dcw"
MODELS = ("digits", "fashion", "digits-ip", "fashion-ip")
SAMPLERS, CALLS, SAMPLES, PROBE = ("ddim", "ddpm", "heun"), (10, 20, 50), 256, 0.05
PUBLISHED = 0.005


def rows(name: str, n: int, cells: Any, limits: Limits) -> Any:
    """A row for each sampler and number of steps of one network."""
    data = eb.load_data(bundled.data_of(name), "test")
    for sampler, steps in cells:
        plain, probed = (
            budget(name, data, s, steps, n, limits) for s in (sampler, f"{sampler} + dcw:{PROBE}")
        )
        yield {"model": name, "sampler": sampler, "steps": steps, "n": n} | measured(plain, probed)


def chains() -> list[tuple[str, int]]:
    """Samplers and steps of 10, 20 and 50 network calls; a step of heun takes two."""
    return [(s, calls // (1 + (s == "heun"))) for s, calls in product(SAMPLERS, CALLS)]


def budget(name: str, data: Any, sampler: str, steps: int, n: int, limits: Limits) -> Split:
    """The budget of a chain, without restarts."""
    setup = prepare(
        name,
        data,
        kind="recording",
        sampler=sampler,
        steps=steps,
        n=min(n, len(data)),
        streams=(Stream.CHAIN,),
    )
    setup = varied(setup)
    return split(Bench(setup, 256, limits=limits), setup, "chain", doubled=False)


def measured(plain: Split, probed: Split) -> dict[str, float]:
    """The parts of the gap, what c moves, and the strengths that would pay, with their errors."""
    row, images = plain.names.index("gap"), np.full(GROUPS, 1.0)
    whole, solver, network = (PARTS.index(p) for p in ("total", "discretisation", "score"))

    def numbers(_: float, kept: Any) -> Any:
        before, after = (s.estimate(kept)[:, row, -1] for s in (plain, probed))
        moved = (after[whole] - before[whole]) / PROBE
        parts = before[[whole, solver, network]]
        return np.array([*parts, moved, *(-parts / moved)])

    found = jackknife(numbers, images, np.eye(GROUPS), least=1)
    names = ("total", "solver", "network", "per_c", "c_whole", "c_solver", "c_network")
    values = {k: float(v) for k, v in zip(names, found.value, strict=True)}
    return values | {f"{k}_se": float(e) for k, e in zip(names, found.error, strict=True)}


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
        print(pd.DataFrame(rows("digits", 32, [("ddim", 4)], Limits())))
        return
    path = OUT / "dcw.csv"
    OUT.mkdir(parents=True, exist_ok=True)
    keys = ["model", "sampler", "steps"]
    known = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=keys)
    done = set(known[keys].itertuples(index=False, name=None))
    for name in given.models:
        cells = [c for c in chains() if (name, *c) not in done]
        for row in rows(name, SAMPLES, cells, Limits(256, ROOT / "runs" / "dcw" / name)):
            pd.DataFrame([row]).to_csv(
                path, mode="a", header=not path.exists(), index=False, float_format="%.6g"
            )


if __name__ == "__main__":
    main()
