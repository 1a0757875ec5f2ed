"""Does drift_budget's interval hold the closed form? Autoregressions, two hundred seeds each.

    python benchmarks/drift.py coverage     # results/drift/coverage.csv, goes on where it stopped
    python benchmarks/drift.py values       # results/drift/values.csv: 20,000 sequences of 32
                                            # numbers each, copies of the case side by side
    python benchmarks/drift.py table        # both, in short

All seeds of a case are drawn together: seed s has the sequences s·n to s·n + n − 1, with paths of
their own, and its sums are kept apart.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import exposure_bias as eb
from exposure_bias.experiments import drift_chains
from exposure_bias.experiments.drift_result import DIMS, beyond, budget_terms
from exposure_bias.experiments.drift_setup import prepared, roll_of
from exposure_bias.experiments.drift_sums import Totals
from exposure_bias.jackknife import GROUPS, T_QUANTILE, jackknife
from exposure_bias.running.loop import Turn

FOLDER = Path(__file__).parents[1] / "results" / "drift"
SEEDS, N, FRAMES = 200, 256, 3
TWO_FRAMES = np.array([[[1.1]], [[-0.4]]])
ROTATED = np.array([[0.8, 0.5], [-0.4, 0.7]])
VECTOR_OF_TWO = np.stack([np.array([[0.9, 0.2], [-0.2, 0.8]]), -0.2 * np.eye(2)])
LINEAR = eb.schedules.linear()
# Name: coefficients, schedule, sampler, factor on the exact epsilon, context noise.
CASES: dict[str, tuple[Any, Any, str, float, float]] = {
    "scalar ddim": (0.9, LINEAR, "ddim", 1.0, 0.0),
    "scalar ddim x1.01": (0.9, LINEAR, "ddim", 1.01, 0.0),
    "scalar ddpm x1.01": (0.9, LINEAR, "ddpm", 1.01, 0.0),
    "vector ddim": (ROTATED, LINEAR, "ddim", 1.0, 0.0),
    "vector ddpm": (ROTATED, LINEAR, "ddpm", 1.0, 0.0),
    "two frames ddim": (TWO_FRAMES, LINEAR, "ddim", 1.0, 0.0),
    "two frames ddpm": (TWO_FRAMES, LINEAR, "ddpm", 1.0, 0.0),
    "vector of two frames heun": (VECTOR_OF_TWO, eb.schedules.edm(), "heun", 1.0, 0.0),
    "context noise ddim": (0.9, LINEAR, "ddim", 1.0, 0.5),
    "two frames, context noise ddim": (TWO_FRAMES, LINEAR, "ddim", 1.0, 0.5),
    "flow euler": (0.9, eb.schedules.flow(), "euler", 1.0, 0.0),
}
STEPS = 10


class Apart:
    """The groups of every seed's sequences, `SEEDS` times 16 of them."""

    def __init__(self, ids: Any) -> None:
        ids = np.asarray(ids)
        self.group = ids // N * GROUPS + ids % GROUPS

    @property
    def count(self) -> np.ndarray:
        return np.bincount(self.group, minlength=SEEDS * GROUPS).astype(float)

    def sum(self, values: np.ndarray) -> np.ndarray:
        total = np.zeros((SEEDS * GROUPS, *values.shape[1:]))
        np.add.at(total, self.group, values)
        return total


def side_by_side(a: Any, numbers: int) -> Any:
    """The coefficients of copies of an autoregression, `numbers` numbers together."""
    frames = np.array(a, dtype=float).reshape((-1, *np.shape(a)[-2:]) if np.ndim(a) else (1, 1, 1))
    return np.stack([np.kron(np.eye(numbers // len(f)), f) for f in frames])


def sums_of(
    name: str, n: int, frames: int, free_limit: bool, seed: int = 0, numbers: int = 0
) -> tuple[Any, Any, Any]:
    """The roll and sums of a case's n sequences, and its closed form."""
    a, schedule, sampler, factor, noise = CASES[name]
    a = side_by_side(a, numbers) if numbers else a
    oracle = eb.oracles.LinearAutoregression(a, schedule, context_noise=noise)
    law = oracle.law
    model = oracle if factor == 1 else eb.remedies.epsilon_scaled(oracle, 1 / factor)
    data = eb.Sequences(law.sample(n, law.context + frames, seed=seed + 1))
    setup = prepared(
        model,
        data,
        sampler=sampler,
        steps=STEPS,
        frames=frames,
        n=n,
        spacing="linspace",
        clip=False,
        seed=seed,
        batch_size=n,
        free_limit=free_limit,
    )
    roll = roll_of(setup, data, free_limit)
    sums = roll.layout.sums()
    for key, value in sums.state.items():
        if key == "shown":
            continue
        sums.state[key] = np.zeros((len(Apart([0]).count), *value.shape[1:]))
    drift_chains.Groups = Apart  # type: ignore[assignment,misc]
    drift_chains.add(roll, sums, slice(0, n), Turn(slice(0, n), lambda _: None))
    expected = law.drift(
        schedule, sampler, STEPS, frames, epsilon_factor=factor, context_noise=noise
    )
    return roll, sums, expected


def coverage(name: str) -> pd.DataFrame:
    """How often each term's interval holds the closed form, by statistic and frame."""
    roll, sums, expected = sums_of(name, SEEDS * N, FRAMES, free_limit=True)
    names = [key for key in sums.state if key != "shown"]
    labels = [str(v) for v in expected.data_vars]
    rows = []
    for seed in range(SEEDS):
        mine = slice(seed * GROUPS, (seed + 1) * GROUPS)
        arrays = [sums.state[key][mine] for key in names]

        def parts(_: float, *totals: Any) -> np.ndarray:
            found = budget_terms(
                Totals(roll.layout, dict(zip(names, totals, strict=True))), roll, False
            )
            return np.stack([found[label] for label in [*labels, "limit_error"]])

        estimate = jackknife(parts, arrays[0][:, 0, 0], *arrays)
        found = dict(zip([*labels, "limit_error"], estimate.value, strict=True))
        for k, label in enumerate(labels):
            error = np.hypot(estimate.error[k], beyond(label, found) / T_QUANTILE)
            truth = expected[label].values
            held = np.abs(estimate.value[k] - truth) <= T_QUANTILE * error
            zero = np.abs(estimate.value[k]) <= T_QUANTILE * error
            for i, statistic in enumerate(expected.statistic.values):
                for j in range(FRAMES):
                    if np.isfinite(truth[i, j]) and error[i, j] > 0:
                        rows.append((label, statistic, j + 1, held[i, j], zero[i, j]))
    table = pd.DataFrame(rows, columns=["term", *DIMS, "held", "zero"])
    shares = table.groupby(["term", *DIMS], sort=False).mean().reset_index()
    return shares.assign(case=name, seeds=SEEDS, n=N)


def values(name: str, n: int = 20_000) -> pd.DataFrame:
    """Each term at n sequences beside its closed form."""
    global SEEDS, N
    SEEDS, N = 1, n
    roll, sums, expected = sums_of(name, n, FRAMES, free_limit=False, seed=5, numbers=32)
    names = [key for key in sums.state if key != "shown"]
    arrays = [sums.state[key] for key in names]
    labels = ["total", "feedback", "discretisation", "initialisation", "score"]

    def parts(_: float, *totals: Any) -> np.ndarray:
        found = budget_terms(
            Totals(roll.layout, dict(zip(names, totals, strict=True))), roll, False
        )
        return np.stack([found[label] for label in labels])

    estimate = jackknife(parts, arrays[0][:, 0, 0], *arrays)
    rows = [
        (
            label,
            s,
            j + 1,
            estimate.value[k, i, j],
            estimate.error[k, i, j],
            expected[label].values[i, j],
        )
        for k, label in enumerate(labels)
        for i, s in enumerate(expected.statistic.values)
        for j in range(FRAMES)
    ]
    return pd.DataFrame(rows, columns=["term", *DIMS, "value", "se", "closed_form"]).assign(
        case=name, n=n
    )


def table() -> None:
    """Print both tables in short."""
    known = pd.read_csv(FOLDER / "coverage.csv")
    print(known.groupby(["case", "term"], sort=False).held.agg(["mean", "min", "max"]).round(3))
    print(known.groupby("term", sort=False)[["held", "zero"]].mean().round(3))
    print(f"all: {known.held.mean():.4f} of {len(known) * SEEDS} intervals")
    found = pd.read_csv(FOLDER / "values.csv").query("statistic == 'variance'")
    away = 100 * (found.value - found.closed_form)
    print(found.assign(away=away.abs()).groupby(["case", "term"], sort=False).away.max().round(3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["coverage", "values", "table"])
    what = parser.parse_args().what
    torch.set_num_threads(1)
    if what == "table":
        table()
        return
    path = FOLDER / f"{what}.csv"
    FOLDER.mkdir(parents=True, exist_ok=True)
    done = pd.read_csv(path) if path.exists() else pd.DataFrame({"case": []})
    for name in CASES:
        if name in set(done.case):
            continue
        began = time.process_time()
        found = coverage(name) if what == "coverage" else values(name)
        done = pd.concat([done, found]) if len(done) else found
        done.round(5).to_csv(path, index=False)
        print(f"{name}: {time.process_time() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
