"""Does the budget decide, and rightly? Networks whose truth is known, by the hundred.

    python benchmarks/verdict.py run --minutes 45      # CPU minutes; goes on where it stopped
    python benchmarks/verdict.py table                 # docs/verdict.md, of what is there

A *problem* is a law, a schedule and a network: the exact denoiser, or one with a known error. Its
*cells* are data sets of 512 or 2,048 images of the law's own. In each cell the budget is taken with
ddpm (SDE) and ddim (ODE), in 5, 10, 20 and 50 steps. Problems come in a random order, so that
whatever has been run is a fair sample.

The *truth* is measured by brute force, on other images and other noise: a stochastic Heun sampler
(SDE) or Heun's (ODE) of 240 steps walks with the wrong network and with the exact one on the same
paths. The difference of their variances is the score error; that of an exact network is 0."""

import argparse
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from network_worlds import SHAPE, SIZE, Wrong, laws, scaled, wrong

import exposure_bias as eb
from exposure_bias.diagnostics.denoising import denoising_check
from exposure_bias.experiments.bench import Bench, Limits
from exposure_bias.experiments.budget import (
    MARGIN,
    RESTART_MARGIN,
    Candidate,
    judged,
    planned,
    restart_places,
    tail,
    unit_of_margin,
)
from exposure_bias.experiments.limits import limit_grid
from exposure_bias.experiments.split import split
from exposure_bias.jackknife import GROUPS, jackknife
from exposure_bias.paths import Paths
from exposure_bias.samplers import OneStep, Prediction, parse
from exposure_bias.schedules import Level, Schedule
from exposure_bias.streams import rollout

ROOT = Path(__file__).parents[1]
OUT = ROOT / "results" / "verdict"
PAGE = ROOT / "docs" / "verdict.md"

SCHEDULES = {
    "linear": eb.schedules.linear(),
    "cosine": eb.schedules.cosine(),
    "edm": eb.schedules.edm(),
    "flow": eb.schedules.flow(),
}
SAMPLERS = {"sde": "ddpm", "ode": "ddim"}
STEPS = (5, 10, 20, 50)
RESTARTED = 20  # the number of steps at which all rows of the table are taken
TRUTH_SAMPLES, TRUTH_STEPS, BATCH = 4096, 240, 2048
SEED_OF_TRUTH = 10**6


@dataclass(frozen=True)
class Heun(OneStep):
    """Heun's rule for the SDE or the ODE of a network; two calls a step.

    SDE, in y = αx/σ² and λ = SNR: dy = f dλ + dW. ODE, in u = x/α and r = σ/α: du = (u − f) dr/r.
    """

    limit: Any = "sde"

    @property
    def stochastic(self) -> bool:  # type: ignore[override]
        """Whether a step uses noise."""
        return self.limit == "sde"

    def step(self, x: Any, now: Prediction, s: Level, t: Level, z: Any, predict: Any) -> Any:
        """x_t from x_s."""
        if self.limit == "sde":
            y, length = s.alpha * x / s.sigma**2, t.snr - s.snr
            scale = t.sigma**2 / t.alpha
            noise = np.sqrt(length) * z
            after = predict(scale * (y + length * now.x0 + noise), t).x0
            return scale * (y + length * (now.x0 + after) / 2 + noise)
        if s.alpha == 0:
            return t.alpha * now.x0 + t.sigma / s.sigma * x
        u, change = x / s.alpha, t.ratio - s.ratio
        slope = (u - now.x0) / s.ratio
        v = u + change * slope
        after = (v - predict(t.alpha * v, t).x0) / t.ratio
        return t.alpha * (u + change * (slope + after) / 2)


def of_x0(factor: Any) -> Any:
    """x̂_0 times a number, a tensor of the state's shape, or a function of the level."""

    def change(m: torch.Tensor, x: torch.Tensor, level: Level) -> torch.Tensor:
        return m * (factor(level) if callable(factor) else factor)

    return change


def preconditioned(spread: float, factor: float) -> Any:
    """EDM's network, trained with σ_data = √spread and sampled with `factor` times that.

    Karras et al. 2022, arXiv 2206.00364, Table 1.
    """

    def scalings(ratio: float, data: float) -> tuple[float, float]:
        total = ratio**2 + data**2
        return data**2 / total, ratio * data / np.sqrt(total)

    def change(m: torch.Tensor, x: torch.Tensor, level: Level) -> torch.Tensor:
        skip, out = scalings(level.ratio, np.sqrt(spread))
        other_skip, other_out = scalings(level.ratio, factor * np.sqrt(spread))
        u = x / level.alpha
        return other_skip * u + other_out / out * (m - skip * u)

    return change


def in_region(amount: float) -> torch.Tensor:
    """`amount` in a quarter of the image, 1 elsewhere."""
    factor = torch.ones(SHAPE, dtype=torch.float64)
    factor[:, :2, :2] = amount
    return factor


OWN_ERRORS = ("x0 x 0.95", "x0 x 0.9", "far x0 x 0.9", "region x0 x 0.9", "sigma_data x 0.8")
OWN_ERRORS += ("last eps x 1.05", "clipped")
SHARED_ERRORS = ("eps x 1.01", "eps x 1.02", "eps x 0.98", "high x 1.03", "region x 1.03")
SHARED_ERRORS += ("bias 0.02", "level + 5 %", "spread x 0.95", "weights x 0.3", "dropped")
ERRORS = (*OWN_ERRORS, *SHARED_ERRORS)


def network(error: str, law: Any, schedule: Schedule, spread: float) -> eb.Denoiser | None:
    """The network with an error; None where the law has no such error."""
    if error not in OWN_ERRORS:
        return at_signal(wrong(error, law, schedule))
    bound = 1.5 * np.sqrt(spread)
    changes = {
        "x0 x 0.95": of_x0(0.95),
        "x0 x 0.9": of_x0(0.9),
        "far x0 x 0.9": of_x0(lambda level: 0.9 if level.ratio > 2 * np.sqrt(spread) else 1.0),
        "region x0 x 0.9": of_x0(in_region(0.9)),
        "sigma_data x 0.8": preconditioned(spread, 0.8),
        "last eps x 1.05": scaled(lambda level: 1.05 if level.ratio < 0.3 else 1.0),
        "clipped": lambda m, x, level: m.clamp(-bound, bound),
    }
    return at_signal(Wrong(law.denoiser(schedule), changes[error], error))


def at_signal(model: eb.Denoiser | None) -> eb.Denoiser | None:
    """The network, right where a state is pure noise: an error of ε̂ would be infinite there."""
    if isinstance(model, Wrong):
        change = model.change
        model.change = lambda m, x, level: m if level.alpha == 0 else change(m, x, level)
    return model


def problems() -> list[tuple[str, str, str]]:
    """(law, schedule, error) in a random order: a third are exact."""
    rng = np.random.default_rng(7)
    everything = list(product(laws(), SCHEDULES, ERRORS))
    bad = [everything[i] for i in rng.permutation(len(everything))]
    good = list(product(laws(), SCHEDULES, ["exact"]))
    good = [good[i] for i in rng.permutation(len(good))]
    found = []
    for k, problem in enumerate(bad):
        found.append(problem)
        if k % 3 == 2 and k // 3 < len(good):
            found.append(good[k // 3])
    return found


def cells(error: str, index: int) -> list[tuple[int, int]]:
    """(n, seed) of a problem: exact ones get more, for they tell the rate of false alarms."""
    if error == "exact":
        return [(512, seed) for seed in range(5)] + [(2048, seed) for seed in range(5, 7)]
    return [(512, 0), (512, 1)] if index % 4 else [(512, 0), (2048, 1)]


def budgets(
    model: eb.Denoiser, law: Any, where: dict[str, Any], n: int, seed: int
) -> Iterator[dict[str, Any]]:
    """The budget of one data set, by kind and number of steps."""
    rng = np.random.default_rng([seed, n, crc32(" ".join(where.values()).encode())])
    data = eb.load_data(law.draw(n, rng).astype(np.float32), value_range=None)
    limits = Limits(BATCH)
    for (kind, sampler), steps in product(SAMPLERS.items(), STEPS):
        setup = planned(model, data, MARGIN, sampler=sampler, steps=steps, n=n, seed=seed)
        bench = Bench(setup, BATCH, limits=limits)
        found = split(bench, setup, "chain")
        candidates = [
            Candidate(found, name, name, MARGIN * unit_of_margin(name, MARGIN))
            for name in found.names
        ]
        if steps == RESTARTED:
            for place in restart_places(setup, None)[0]:
                own = split(bench, tail(bench.paired, place), f"restart-{place}", own_images=True)
                candidates.append(Candidate(own, "gap", f"restart {place}", RESTART_MARGIN))
        rows = judged(candidates, setup)
        others = [row for row in rows[1:] if row.answer.startswith("score error")]
        head = rows[0]
        yield {
            **where,
            "n": n,
            "seed": seed,
            "kind": kind,
            "steps": steps,
            **{k: v[0] for k, v in head.parts.items()},
            **{f"{k}_se": v[1] for k, v in head.parts.items()},
            "slack": head.slack,
            "grid": found.steps,
            "answer": head.answer,
            "others": ";".join(row.name for row in others),
            "unreached": sum(row.answer == "limit not reached" for row in rows[1:]),
            "why": found.why,
            "denoises": denoising_check(bench.forward).attrs["passes"],
        }


def truths(
    model: eb.Denoiser, exact: eb.Denoiser, law: Any, where: dict[str, Any], spread: float
) -> Iterator[dict[str, Any]]:
    """The score error and each chain's discretisation error, by kind, by brute force."""
    largest = largest_variance(law)
    schedule = model.schedule
    for kind, sampler in SAMPLERS.items():
        start = schedule.levels(RESTARTED)[0]
        fine = limit_grid(schedule, start, largest, steps=TRUTH_STEPS)
        chains = {"wrong": (model, Heun(kind), fine)}
        if where["error"] != "exact":
            chains["right"] = (exact, Heun(kind), fine)
        for steps in STEPS:
            levels = schedule.levels(steps)[:-1]
            chains[str(steps)] = (model, parse(sampler), levels)
        ends = brute_force(chains, law, SEED_OF_TRUTH + (kind == "ode"))
        wanted = fine[-1].alpha ** 2 * spread * SIZE + fine[-1].sigma ** 2 * SIZE
        pairs = {"score": ("wrong", "right")} | {str(k): (str(k), "wrong") for k in STEPS}
        for name, (one, other) in pairs.items():
            value = error = 0.0
            if other in ends:
                value, error = difference(ends[one], ends[other], wanted)
            yield {**where, "kind": kind, "of": name, "true": value, "true_se": error}


def largest_variance(law: Any) -> float:
    """The law's largest variance along any direction."""
    states = law.draw(20000, np.random.default_rng(2)).reshape(-1, SIZE)
    return float(np.linalg.eigvalsh(np.cov(states.T))[-1])


def brute_force(chains: dict[str, Any], law: Any, seed: int) -> dict[str, np.ndarray]:
    """The states at the end of chains on common paths, (sample, D)."""
    rng = np.random.default_rng(seed)
    ends: dict[str, list[Any]] = {name: [] for name in chains}
    for first in range(0, TRUTH_SAMPLES, BATCH):
        x0 = torch.from_numpy(np.asarray(law.draw(BATCH, rng), np.float64))
        for name, (model, sampler, levels) in chains.items():
            paths = Paths(seed, range(first, first + BATCH), SHAPE).on(levels)
            x = levels[0].alpha * x0 + levels[0].sigma * paths.start(0)
            ends[name].append(rollout(model, x, levels, sampler, paths).flatten(1).numpy())
    return {name: np.concatenate(end) for name, end in ends.items()}


def difference(one: np.ndarray, other: np.ndarray, wanted: float) -> tuple[float, float]:
    """The difference of two relative variances, and its error."""
    groups = [part.reshape(GROUPS, -1, SIZE) for part in (one, other)]
    sums = [part for end in groups for part in (end.sum(1), np.square(end).sum(1))]

    def gap(n: float, *sums: Any) -> Any:
        variance = [
            (square / n - (total / n) ** 2).sum() * n / (n - 1)
            for total, square in zip(sums[::2], sums[1::2], strict=True)
        ]
        return np.asarray((variance[0] - variance[1]) / wanted)

    found = jackknife(gap, np.full(GROUPS, len(one) / GROUPS), *sums)
    return float(found.value), float(found.error)


def run(minutes: float, out: Path) -> None:
    """Measure problems until the CPU time is over; those that are in the files are passed over."""
    out.mkdir(parents=True, exist_ok=True)
    done = set()
    if (out / "problems.csv").exists():
        done = set(pd.read_csv(out / "problems.csv").itertuples(index=False, name=None))
    known, end = laws(), time.process_time() + 60 * minutes
    for index, (name, schedule, error) in enumerate(problems()):
        if time.process_time() > end:
            break
        if (name, schedule, error) in done:
            continue
        law, where = known[name], {"law": name, "schedule": schedule, "error": error}
        states = law.draw(400_000, np.random.default_rng(1)).reshape(-1, SIZE)
        spread = float(states.var(0).mean())
        model = network(error, law, SCHEDULES[schedule], spread)
        if model is None:
            continue
        exact = law.denoiser(SCHEDULES[schedule])
        true = list(truths(model, exact, law, where, spread))
        rows = [
            row for n, seed in cells(error, index) for row in budgets(model, law, where, n, seed)
        ]
        for table, file in ((true, "truth"), (rows, "cells"), ([where], "problems")):
            path = out / f"{file}.csv"
            pd.DataFrame(table).to_csv(
                path, mode="a", header=not path.exists(), index=False, float_format="%.6g"
            )
        print(f"{time.process_time():.0f} s", name, schedule, error, len(rows), flush=True)


def main() -> None:
    """Run problems, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("what", choices=("run", "table"))
    parser.add_argument("--minutes", type=float, default=10, help="CPU minutes")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "run":
        run(given.minutes, given.out)


if __name__ == "__main__":
    main()
