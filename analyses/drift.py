"""Where does the drift of trained networks come from, and which remedy moves which term?

    python analyses/drift.py train lorenz96    # three seeds, runs/drift/; goes on where it stopped
    python analyses/drift.py train digits --data ../shared/data
    python analyses/drift.py measure lorenz96  # results/drift/lorenz96.csv, goes on likewise
    python analyses/drift.py measure digits --data ../shared/data
    python analyses/drift.py bundle            # seed 0 of lorenz96 as the bundled model
    python analyses/drift.py --smoke           # all of it in seconds, in a temporary folder

Two worlds: stochastic Lorenz-96 with a multilayer perceptron (`lorenz96`), and digits that bounce
with a small UNet (`bouncing_digits`). Each network is trained on true frames, with noise on half of
its contexts, which it is told.
"""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import bouncing_digits
import lorenz96
import numpy as np
import pandas as pd
import torch
import xarray as xr
from sequence_training import trained
from torch import Tensor

import exposure_bias as eb
from exposure_bias.adapters import sequence_network
from exposure_bias.contexts import Context
from exposure_bias.data import bundled

ROOT = Path(__file__).parents[1]
SEEDS = (0, 1, 2)
SIGMAS = (0.02, 20.0)
ITERATIONS = {"lorenz96": 8_000, "digits": 5_000}
BATCH = {"lorenz96": 512, "digits": 64}
TRAINING = {"lorenz96": (6144, 34), "digits": (20_000, 12)}  # sequences and frames
HELD_OUT = {"lorenz96": (512, 65), "digits": (256, 10)}
SAMPLER = {"lorenz96": ("heun", 4), "digits": ("ddim", 6)}
CONTEXT = {"lorenz96": 1, "digits": 2}
CONTEXT_NOISE = 0.1  # τ, told to the network
FREE_LIMIT = ("lorenz96",)  # where the limit also runs on its own frames
KEPT = ("variance", "mean", "change", "lag 1", "lag 2", "tails", "hf")
KEPT_FRAMES = (1, 2, 4, 8, 16, 24, 32, 64)
SMOKE = 20


def network(world: str) -> torch.nn.Module:
    if world == "lorenz96":
        return sequence_network.SequenceNetwork(lorenz96.SIZE, 1)
    return bouncing_digits.SmallUNet()


def frames_of(world: str, split: str, data: Path, size: tuple[int, int]) -> np.ndarray:
    """The sequences of a world: uint8 images, or float32 vectors."""
    if world == "lorenz96":
        return lorenz96.sequences(*size, seed=1 if split == "train" else 2)
    digits = bouncing_digits.digits(data / f"mnist-{split}.zip", 10_000)
    return bouncing_digits.sequences(digits, *size, seed=1 if split == "train" else 2)


def train(world: str, seed: int, data: Path, runs: Path, smoke: bool) -> Path:
    """Train one network; returns where its weights are."""
    path = runs / f"{world}-{seed}.pt"
    if path.exists():
        return path
    size = (64, 6) if smoke else TRAINING[world]
    frames = torch.from_numpy(frames_of(world, "train", data, size))
    count = CONTEXT[world]

    def batch(random: np.random.Generator) -> tuple[Tensor, Tensor]:
        i = random.integers(len(frames), size=BATCH[world])
        k = random.integers(count, frames.shape[1], size=BATCH[world])
        context = torch.stack([frames[i, k - j] for j in range(count, 0, -1)], dim=1)
        return as_float(context), as_float(frames[i, k])

    torch.manual_seed(seed)
    began = time.process_time()
    made = trained(
        network(world),
        batch,
        SMOKE if smoke else ITERATIONS[world],
        seed,
        checkpoint=runs / f"{world}-{seed}.checkpoint",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(made.state_dict(), path)
    print(f"{world} {seed}: trained in {time.process_time() - began:.0f} s of CPU", flush=True)
    return path


def as_float(frames: Tensor) -> Tensor:
    return frames / 127.5 - 1 if frames.dtype == torch.uint8 else frames


def model(world: str, weights: Path, tau: float = 0.0) -> eb.Denoiser:
    """A trained network. tau: noise on its contexts."""
    net = network(world)
    net.load_state_dict(torch.load(weights, weights_only=True))

    def call(net: torch.nn.Module, x: Tensor, sigma: Tensor, c: Context) -> Tensor:
        frames = c.frames + tau * c.noise() if tau else c.frames
        return net(x, sigma, frames, torch.full_like(sigma, tau))

    return eb.Denoiser(
        net.eval(),
        schedule=eb.schedules.edm(*SIGMAS),
        prediction_type="sample",
        shape=(lorenz96.SIZE,) if world == "lorenz96" else (1, 16, 16),
        context=CONTEXT[world],
        call=call,
        name=weights.stem,
    )


def entries_of(world: str, weights: Path) -> dict[str, object]:
    """What is compared: the sampler as it is, more steps, a start of one call, context noise."""
    plain, steps = model(world, weights), SAMPLER[world][1]
    return {
        f"{steps} steps": plain,
        f"{2 * steps} steps": (plain, {"steps": 2 * steps}),
        "one call": (plain, {"start": "one call"}),
        "context noise": model(world, weights, CONTEXT_NOISE),
    }


def measure(world: str, data: Path, runs: Path, out: Path, smoke: bool) -> pd.DataFrame:
    """The drift of every seed's network with every remedy, tidy; written seed by seed."""
    n, frames = (32, 4) if smoke else HELD_OUT[world]
    sequences = eb.Sequences(frames_of(world, "test", data, (n, frames)), name=world)
    sampler, steps = SAMPLER[world]
    common = {"sampler": sampler, "steps": steps, "batch_size": BATCH[world], "n": n}
    tables = []
    for seed in SEEDS:
        began, weights = time.process_time(), runs / f"{world}-{seed}.pt"
        desk = runs / f"measured-{world}-{seed}"
        compared = eb.compare_drift(
            entries_of(world, weights), sequences, stationary=True, folder=desk, **common
        )
        tables += [tidy(compared.sel(entry=e), e, seed) for e in compared["entry"].values]
        if world in FREE_LIMIT:
            checkpoint = desk / "limit.nc"
            limit = eb.drift_budget(
                model(world, weights),
                sequences,
                stationary=True,
                free_limit=True,
                checkpoint=checkpoint,
                **common,
            )
            tables.append(tidy(limit, "free limit", seed))
        found = pd.concat(tables).assign(world=world, n=n)
        found.round(5).to_csv(out / f"{world}.csv", index=False)
        print(f"{world} {seed}: {time.process_time() - began:.0f} s of CPU", flush=True)
    return found


def tidy(result: xr.Dataset, entry: str, seed: int) -> pd.DataFrame:
    """A row for each term, statistic and frame: the total at all frames, other terms at some."""
    rows = []
    for term in (v for v in result.data_vars if f"{v}_se" in result and "error" not in str(v)):
        if str(term).endswith("_difference"):
            continue
        parts = {"value": str(term), "se": f"{term}_se"}
        if f"{term}_difference" in result:
            parts |= {"change": f"{term}_difference", "change_se": f"{term}_difference_se"}
        table = xr.Dataset(
            {k: result[v].drop_vars("entry", errors="ignore") for k, v in parts.items()}
        )
        rows.append(table.to_dataframe().reset_index().assign(term=str(term)))
    found = pd.concat(rows).assign(entry=entry, seed=seed).dropna(subset=["value"])
    some = found.frame.isin(KEPT_FRAMES) & found.statistic.isin(KEPT)
    return found[some | ((found.statistic == "variance") & (found.term == "total"))]


def bundle(runs: Path) -> None:
    """Write seed 0 of lorenz96 to the package, weights in float16."""
    net = network("lorenz96")
    net.load_state_dict(torch.load(runs / "lorenz96-0.pt", weights_only=True))
    sequence_network.save(bundled.FOLDER / "lorenz96", net, CONTEXT["lorenz96"], SIGMAS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="?", choices=["train", "measure", "bundle"])
    parser.add_argument("world", nargs="?", choices=sorted(ITERATIONS))
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "drift")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "bundle":
        bundle(options.runs)
    elif options.what == "train":
        for seed in SEEDS:
            train(options.world, seed, options.data, options.runs, options.smoke)
    elif options.what == "measure":
        out = ROOT / "results" / "drift"
        measure(options.world, options.data, options.runs, out, options.smoke)
    elif options.smoke:
        with TemporaryDirectory() as folder:
            for world in ("lorenz96", "digits"):
                for seed in SEEDS:
                    train(world, seed, options.data, Path(folder), smoke=True)
                out = Path(folder)
                print(measure(world, options.data, out, out, smoke=True).tail(3))
    else:
        parser.error("say train, measure or bundle, or --smoke")
