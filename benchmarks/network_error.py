"""How often is `eb.network_error` wrong? Networks whose truth is known, by the hundred.

    python benchmarks/network_error.py exact --minutes 20     # false alarms; goes on
    python benchmarks/network_error.py errors --minutes 20    # power, predicted against true shares
    python benchmarks/network_error.py truth --minutes 10     # of the errors that there are
    python benchmarks/network_error.py table

The truth of a share is a coupled limit: the wrong network's chain and the exact one's on the same
Brownian paths, extrapolated as in `experiments.limits`. The truth of strict exposure lets the exact
denoiser take over at the cut, from the wrong chain's states and from true ones."""

import argparse
import time
import warnings
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from network_worlds import ERRORS, SHAPE, laws, wrong

import exposure_bias as eb
from exposure_bias.experiments.limits import coefficients
from exposure_bias.jackknife import T_QUANTILE

OUT = Path(__file__).parents[1] / "results" / "network_error_rates"
SCHEDULES = {"linear": eb.schedules.linear(), "edm": eb.schedules.edm()}
SIX = ("white", "1/f", "mixture", "ring", "signs", "lumps")


def run(law: str, error: str, schedule: str, n: int, seed: int) -> dict[str, Any] | None:
    """One data set, one network: what `network_error` says."""
    network = wrong(error, laws()[law], SCHEDULES[schedule])
    if network is None:
        return None
    rng = np.random.default_rng([seed, len(law), n])
    x = laws()[law].draw(n, rng).astype(np.float32)
    data = eb.load_data(x, value_range=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = eb.network_error(
            network, data, n=n, restarts=min(n, 1024), seed=seed, batch_size=1024
        )
    row = {"law": law, "error": error, "schedule": schedule, "n": n, "seed": seed}
    row |= {"p": float(found["p_value"]), "first_order": int(found["first_order"][0])}
    row["share"] = float(found["first_order_sum"][0])
    row["share_se"] = float(found["first_order_sum_se"][0])
    for name in ("exposure", "exposure_se", "above", "restart", "said"):
        for c, value in enumerate(found[name].values):
            row[f"{name}{c}"] = float(value)
    row["total"], row["total_se"] = float(found["total"]), float(found["total_se"])
    return row


def campaign(path: Path, cells: Any, minutes: float) -> None:
    """Run cells until the time is over; those that are in the file are passed over."""
    path.parent.mkdir(parents=True, exist_ok=True)
    keys = ["law", "error", "schedule", "n", "seed"]
    known = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=keys)
    done = set(known[keys].itertuples(index=False, name=None))
    end = time.process_time() + 60 * minutes
    for cell in cells:
        if time.process_time() > end:
            return
        if cell in done:
            continue
        row = run(*cell)
        if row is not None:
            pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)


def exact_cells() -> Any:
    """Exact networks of all laws, n = 512 seven times for every n = 4096."""
    for seed in count():
        n = 4096 if seed % 8 == 7 else 512
        schedule = list(SCHEDULES)[seed % 2]
        for law in laws():
            yield (law, "exact", schedule, n, seed)


def error_cells() -> Any:
    """Wrong networks: a seed of n = 512 for all laws and errors, then one of 4096 on six laws."""
    for seed in count():
        for law, error in product(laws(), ERRORS):
            yield (law, error, "linear", 512, seed)
        if seed % 4 == 3:
            for law, error in product(SIX, ERRORS):
                yield (law, error, "linear", 4096, seed)


def walk(
    network: Any, x: torch.Tensor, levels: Any, noise: Any, first: int = 0, keep: Any = ()
) -> Any:
    """The end of a chain on a grid, and its states at some levels."""
    kept, before = {}, network(x, levels[first])
    for i in range(first, len(levels) - 1):
        if i in keep:
            kept[i] = x
        a, b, c, w = coefficients("sde", levels[i], levels[i + 1])
        moved = a * x + c * noise[i]
        now = network(moved + b * before, levels[i + 1])
        x = moved + b * ((1 - w) * before + w * now)
        before = now
    return x, kept


def truth(law: str, error: str, n: int = 8192, seed: int = 1) -> dict[str, Any] | None:
    """The coupled limit of a wrong network, and its strict exposure at the default cuts."""
    schedule = SCHEDULES["linear"]
    network, exact = wrong(error, laws()[law], schedule), wrong("exact", laws()[law], schedule)
    if network is None or exact is None:
        return None
    x0 = torch.from_numpy(laws()[law].draw(n, np.random.default_rng([seed, 77])))
    spread = float(laws()[law].draw(40000, np.random.default_rng(5)).var(0).mean())
    ratios = np.geomspace(schedule.level(999).ratio, schedule.level(0).ratio, 85)
    fine = [schedule.at_ratio(float(r)) for r in ratios]
    g = torch.Generator().manual_seed(seed)
    snr = np.array([level.snr for level in fine])
    steps = np.sqrt(np.diff(snr, prepend=0))
    paths = torch.stack(
        [s * torch.randn(n, *SHAPE, generator=g, dtype=torch.float64) for s in steps]
    )
    paths = paths.cumsum(0)
    cuts = sorted(
        4 * round(np.abs(np.log(ratios / (c * spread**0.5))).argmin() / 4) for c in (1.0, 0.3)
    )
    parts: dict[str, Any] = {}
    for stride, weight in ((1, 32 / 21), (2, -12 / 21), (4, 1 / 21)):
        levels = fine[::stride]
        at = paths[::stride]
        lam = snr[::stride]
        noise = [(at[i + 1] - at[i]) / np.sqrt(lam[i + 1] - lam[i]) for i in range(len(lam) - 1)]

        def true(i: int, levels: Any = levels, at: Any = at, lam: Any = lam) -> torch.Tensor:
            return levels[i].alpha * x0 + levels[i].sigma * at[i] / np.sqrt(lam[i])

        places = [c // stride for c in cuts]
        end, kept = walk(network, true(0), levels, noise, keep=places)
        end_exact, _ = walk(exact, true(0), levels, noise)
        values = {"end": end, "exact": end_exact, "truth": true(len(levels) - 1)}
        for c, place in enumerate(places):
            values[f"q_f{c}"] = walk(network, true(place), levels, noise, place)[0]
            values[f"q_m{c}"] = walk(exact, true(place), levels, noise, place)[0]
            values[f"p_m{c}"] = walk(exact, kept[place], levels, noise, place)[0]
        mean = levels[-1].alpha * x0.mean(0)
        for name, x in values.items():
            parts[name] = parts.get(name, 0) + weight * (x - mean).square().flatten(1).sum(1)
    scale = parts["truth"].mean()
    row = {"law": law, "error": error}

    def put(name: str, v: torch.Tensor) -> None:
        row[name], row[f"{name}_se"] = float(v.mean() / scale), float(v.std() / n**0.5 / scale)

    put("g", parts["end"] - parts["exact"])
    for c in range(len(cuts)):
        put(f"x{c}", (parts["end"] - parts[f"p_m{c}"]) - (parts[f"q_f{c}"] - parts[f"q_m{c}"]))
    return row


def truths(path: Path, minutes: float) -> None:
    """The truth of every error on every law, once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["law", "error"])
    done = set(known[["law", "error"]].itertuples(index=False, name=None))
    end = time.process_time() + 60 * minutes
    for law, error in product(laws(), ERRORS):
        if time.process_time() > end:
            return
        row = None if (law, error) in done else truth(law, error)
        if row is not None:
            pd.DataFrame([row]).to_csv(path, mode="a", header=not path.exists(), index=False)


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """By law, error and n: how often flagged, whether the share holds zero, how often exposed."""
    table = table.assign(
        flagged=table["p"] < 0.05,
        holds=(table["share"].abs() <= T_QUANTILE * table["share_se"]),
        exposed=table[["said0", "said1"]].max(axis=1) > 0,
    )
    by = table.groupby(["error", "law", "n"], sort=False)
    found = by[["flagged", "holds", "exposed", "first_order", "share", "share_se"]].mean()
    return found.assign(runs=by.size()).reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["exact", "errors", "truth", "table"])
    parser.add_argument("--minutes", type=float, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "exact":
        campaign(OUT / "exact.csv", exact_cells(), options.minutes)
    elif options.what == "errors":
        campaign(OUT / "errors.csv", error_cells(), options.minutes)
    elif options.what == "truth":
        truths(OUT / "truth.csv", options.minutes)
    else:
        for name in ("exact", "errors"):
            if (OUT / f"{name}.csv").exists():
                print(rates(pd.read_csv(OUT / f"{name}.csv")).to_string())


if __name__ == "__main__":
    main()
