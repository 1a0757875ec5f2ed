"""Does the budget decide, and rightly? Models whose truth is known, by the hundred.

    python benchmarks/verdict.py --out verdict.csv --minutes 60      # goes on where it stopped
    python benchmarks/verdict.py --out verdict.csv --table docs/verdict.md

A cell is a law, a schedule, a sampler, a number of steps and a model: the exact denoiser, or one
with a known error. Cells are drawn at random, so that whatever has been run is a fair sample. The
truth of a wrong model's score error is not known in closed form; it is measured by brute force on
independent samples."""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import exposure_bias as eb
from exposure_bias.experiments.budget import Bench, fixed_answer, needed, split
from exposure_bias.run import Stream
from exposure_bias.schedules import Level
from exposure_bias.setup import prepare

SHAPE = (1, 8, 8)
SCHEDULES = {
    "linear": eb.schedules.linear(),
    "cosine": eb.schedules.cosine(),
    "edm": eb.schedules.edm(),
    "flow": eb.schedules.flow(),
}
SAMPLERS = (
    "ddpm",
    "ddpm:fixed_large",
    "ddim:1",
    "ddim:0",
    "euler",
    "heun",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerDiscreteScheduler",
)
STEPS = (20, 50, 100)
LAWS = ("gaussian", "mixture", "digits")
MARGIN = 0.05


def law(name: str, schedule: eb.schedules.Schedule) -> tuple[eb.Denoiser, Any]:
    """The exact denoiser of a law, and a function that draws n of its samples with a generator."""
    rng = np.random.default_rng(1)
    if name == "gaussian":
        root = rng.normal(size=(64, 64)) / 8
        covariance = 0.25 * root @ root.T + 0.005 * np.eye(64)
        mean = rng.normal(0, 0.3, SHAPE)
        oracle: eb.Denoiser = eb.oracles.GaussianOracle(mean, covariance, schedule)
        factor = np.linalg.cholesky(covariance)
        return oracle, lambda n, g: mean + (g.normal(size=(n, 64)) @ factor.T).reshape(n, *SHAPE)
    if name == "mixture":
        means, variance = rng.normal(0, 0.4, (5, *SHAPE)), 0.02
    else:
        digits = eb.load_data("digits", "train")
        means, variance = digits.batch(np.arange(0, 1280, 8)).astype(np.float64), 0.01
    oracle = eb.oracles.MixtureOracle(np.ones(len(means)), means, variance, schedule)
    return (
        oracle,
        lambda n, g: (
            means[g.integers(len(means), size=n)] + np.sqrt(variance) * g.normal(size=(n, *SHAPE))
        ),
    )


class Wrong(eb.Denoiser):
    """An exact denoiser with a known error of its ε̂: multiplied, shifted in level, or biased, at
    some levels or modes."""

    def __init__(self, exact: eb.Denoiser, error: str) -> None:
        self.__dict__.update(exact.__dict__)
        self.exact, self.error, self.name = exact, error, f"{exact.name}, {error}"
        kind, _, value = error.partition(" ")
        self.kind, self.value = kind, float(value or 0)
        self._modes = eb.experiments.limits.Modes(SHAPE)

    @property
    def weight_hash(self) -> str:
        return f"{self.exact.weight_hash} {self.error}"

    def __call__(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        if self.kind == "shift":
            ratio = level.ratio * (1 + self.value)
            moved = self.schedule.at_ratio(ratio)
            total = moved.alpha / level.alpha if level.alpha else 1.0
            return self.exact(x * total, moved)
        x0 = self.exact(x, level)
        if self.kind == "exact" or level.alpha == 0:
            return x0
        epsilon = (x - level.alpha * x0) / level.sigma
        return (x - level.sigma * self._changed(epsilon, level)) / level.alpha

    def _changed(self, epsilon: torch.Tensor, level: Level) -> torch.Tensor:
        if self.kind == "scale":
            return self.value * epsilon
        if self.kind == "last":
            return self.value * epsilon if level.ratio < 0.3 else epsilon
        if self.kind == "high":
            c = self._modes(epsilon)
            high = torch.from_numpy(eb.statistics.bands.radial_frequency(*SHAPE[1:]) >= 0.25)
            return self._modes.inverse(torch.where(high, self.value * c, c))
        if self.kind == "bias":
            return epsilon + self.value
        raise ValueError(self.error)


ERRORS = (
    "exact",
    "scale 0.98",
    "scale 0.99",
    "scale 1.005",
    "scale 1.01",
    "scale 1.02",
    "scale 1.05",
    "last 1.05",
    "high 1.03",
    "bias 0.02",
    "shift 0.1",
    "shift 0.2",
)


def cells(seed: int) -> Iterator[dict[str, Any]]:
    """Cells at random; half of them are of exact denoisers."""
    rng = np.random.default_rng(seed)
    while True:
        yield {
            "law": str(rng.choice(LAWS)),
            "schedule": str(rng.choice(list(SCHEDULES))),
            "steps": int(rng.choice(STEPS, p=[0.45, 0.35, 0.2])),
            "n": int(rng.choice([512, 2048], p=[0.8, 0.2])),
            "error": "exact" if rng.random() < 0.5 else str(rng.choice(ERRORS[1:])),
            "seed": int(rng.integers(2**31)),
        }


def budgets(cell: dict[str, Any], samplers: tuple[str, ...] = SAMPLERS) -> Iterator[dict[str, Any]]:
    """The budget's row of the gap for every sampler that fits the cell; limits are shared."""
    oracle, draw = law(cell["law"], SCHEDULES[cell["schedule"]])
    model = Wrong(oracle, cell["error"])
    x = draw(cell["n"], np.random.default_rng(cell["seed"])).astype(np.float32)
    data, limits = eb.load_data(x, value_range=None), {}
    for sampler in samplers:
        try:
            setup = prepare(
                model,
                data,
                kind="recording",
                sampler=sampler,
                steps=cell["steps"],
                n=cell["n"],
                seed=cell["seed"] % 1000,
                streams=(Stream.CHAIN,),
            )
        except eb.InputError:  # a class that does not sample from this parameterisation
            continue
        if sampler == "heun" and setup.levels[0].ratio > 1e3 and cell["schedule"] != "flow":
            continue  # it explodes there, and says so
        bench = Bench(setup, 512, limits=limits)
        here = split(bench, setup, "chain").at("gap")
        score, error = here["score"]
        yield {
            **cell,
            "sampler": sampler,
            "limit": setup.sampler.limit,
            **{k: v[0] for k, v in here.items()},
            **{f"{k}_se": v[1] for k, v in here.items()},
            "answer": fixed_answer(score, error, here["bias"], MARGIN),
            "needed": needed(cell["n"], score, error, MARGIN),
        }


def table(rows: pd.DataFrame) -> str:
    """What was answered of exact and of wrong models, and how well the intervals hold."""
    rows = rows[np.isfinite(rows["score_se"])]
    exact, wrong = rows[rows["error"] == "exact"], rows[rows["error"] != "exact"]
    accused = exact["answer"].str.startswith("score error")
    z = exact["score"] / exact["score_se"]
    total = f"{rows['seed'].nunique()} cells, {len(rows)} budgets"
    lines = [
        "# How often the budget is right",
        "",
        "Made by `python benchmarks/verdict.py --out FILE --table docs/verdict.md`; do not edit.",
        "",
        f"{total}: a law (Gaussian, mixture, resampled digits), a schedule (linear, cosine, edm,",
        "flow), 20, 50 or 100 steps, 512 or 2048 images, and a model, drawn at random; each with",
        f"every sampler that fits. The row `gap` of the budget, margin {MARGIN:g}.",
        "",
        "## Exact models",
        "",
        "Their limit has no score error; a false alarm is an answer `score error` (nominal 5 %).",
        f"Over all: {accused.sum()} of {len(exact)} ({share(accused)}); standard deviation of",
        f"score/se {z.std():.2f} (1 where the standard errors are right).",
        "",
        *_answers(exact, "sampler"),
        "",
        *_answers(exact, "schedule"),
        "",
        "## Wrong models",
        "",
        "Errors of ε̂: a factor at all levels, at the last (σ/α < 0.3) or at high frequencies, a",
        "bias, or the level it is asked at. How large the gap is that they make differs by law and",
        "sampler; an answer within the margin may be right.",
        "",
        *_answers(wrong, "error"),
        "",
    ]
    return "\n".join(lines)


def share(flags: "pd.Series[bool]") -> str:
    """A share with its 95 % interval (Wilson)."""
    n, p, z = max(len(flags), 1), float(flags.mean()) if len(flags) else 0.0, 1.96
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = 100 * max(middle - half, 0), 100 * (middle + half)
    return f"{100 * p:.1f} %, 95 % interval {low:.1f} to {high:.1f} %"


def _answers(rows: pd.DataFrame, by: str) -> list[str]:
    answers = sorted(rows["answer"].unique())
    head = ["", f"| {by} | budgets | {' | '.join(answers)} |", "|" + "---|" * (len(answers) + 2)]
    for name, here in rows.groupby(by):
        counts = " | ".join(str((here["answer"] == a).sum()) for a in answers)
        head.append(f"| {name} | {len(here)} | {counts} |")
    return head


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="write the table of what is there, and stop")
    given = parser.parse_args()
    if given.table:
        given.table.write_text(table(pd.read_csv(given.out)))
        return
    torch.set_num_threads(1)
    since, done = time.monotonic(), 0
    kept = pd.read_csv(given.out) if given.out.exists() else pd.DataFrame()
    seen = set(kept["seed"]) if len(kept) else set()
    for cell in cells(given.seed):
        if time.monotonic() - since > 60 * given.minutes:
            break
        if cell["seed"] in seen:
            continue
        rows = pd.DataFrame(list(budgets(cell)))
        rows.to_csv(given.out, mode="a", header=not given.out.exists(), index=False)
        done += 1
        print(
            cell, " ".join(f"{r['sampler']}: {r['answer']}" for _, r in rows.iterrows()), flush=True
        )
    print(f"{done} cells in {time.monotonic() - since:.0f} s")


if __name__ == "__main__":
    main()
