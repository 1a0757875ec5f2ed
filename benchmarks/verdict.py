"""Does the budget decide, and rightly? Models whose truth is known, by the hundred.

    python benchmarks/verdict.py cells --minutes 60       # goes on where it stopped
    python benchmarks/verdict.py coverage --minutes 30
    python benchmarks/verdict.py table                    # docs/verdict.md, of what is there

A *cell* is a law, a schedule, a number of steps and a model: the exact denoiser, or one with a
known error. Cells are drawn at random, so that whatever has been run is a fair sample.

*Coverage* repeats a few cells with new images and noise each time and asks how often an interval
holds the truth. That is measured by brute force: 16,384 other samples on other paths, and for the
limit 32 small steps in place of each."""

import argparse
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import exposure_bias as eb
from exposure_bias.experiments.bench import Bench
from exposure_bias.experiments.budget import fixed_answer
from exposure_bias.experiments.limits import ode
from exposure_bias.experiments.split import split
from exposure_bias.jackknife import T_QUANTILE
from exposure_bias.paths import Paths
from exposure_bias.run import Stream
from exposure_bias.samplers import DDPM, OneStep, parse
from exposure_bias.schedules import Level
from exposure_bias.setup import prepare
from exposure_bias.streams import rollout

ROOT = Path(__file__).parents[1]
CELLS, COVERAGE = (ROOT / "results" / "verdict" / f"{name}.csv" for name in ("cells", "coverage"))
PAGE = ROOT / "docs" / "verdict.md"

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


def law(name: str, schedule: eb.schedules.Schedule, spread: float = 1.0) -> tuple[Any, Any, Any]:
    """The exact denoiser of a law, a function that draws n of its samples with a generator, and its
    variance by pixel. spread: a factor of the (components') covariance."""
    rng = np.random.default_rng(1)
    if name == "gaussian":
        root = rng.normal(size=(64, 64)) / 8
        covariance = spread * (0.25 * root @ root.T + 0.005 * np.eye(64))
        mean = rng.normal(0, 0.3, SHAPE)
        oracle: eb.Denoiser = eb.oracles.GaussianOracle(mean, covariance, schedule)
        factor = np.linalg.cholesky(covariance)
        return (
            oracle,
            lambda n, g: mean + (g.normal(size=(n, 64)) @ factor.T).reshape(n, *SHAPE),
            np.diag(covariance),
        )
    if name == "mixture":
        means, variance = rng.normal(0, 0.4, (5, *SHAPE)), 0.02 * spread
    else:
        digits = eb.load_data("digits", "train")
        means = digits.batch(np.arange(0, 1280, 8)).astype(np.float64)
        variance = 0.01 * spread
    oracle = eb.oracles.MixtureOracle(np.ones(len(means)), means, variance, schedule)
    return (
        oracle,
        lambda n, g: (
            means[g.integers(len(means), size=n)] + np.sqrt(variance) * g.normal(size=(n, *SHAPE))
        ),
        means.var(0).ravel() + variance,
    )


class Wrong(eb.Denoiser):
    """An exact denoiser with a known error of its ε̂: multiplied, shifted in level, or biased, at
    some levels or modes; or the exact one of a law of other spread."""

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
        if self.kind in ("exact", "spread") or level.alpha == 0:
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
    "spread 0.9",
    "spread 1.3",
)
# Law, schedule, steps and model of the cells that coverage is of.
REPEATED = (
    ("mixture", "linear", 20, "exact"),
    ("mixture", "edm", 20, "scale 1.02"),
    ("digits", "linear", 20, "shift 0.1"),
    ("gaussian", "cosine", 20, "scale 0.98"),
    ("mixture", "flow", 20, "high 1.03"),
    ("digits", "edm", 20, "exact"),
    ("gaussian", "linear", 20, "spread 1.3"),
    ("mixture", "linear", 50, "scale 1.01"),
)
ONE_STEP = ("ddpm", "ddpm:fixed_large", "ddim:1", "ddim:0", "euler", "heun")


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


def model_and_law(cell: dict[str, Any]) -> tuple[eb.Denoiser, Any, Any]:
    """The cell's model, and its law's draws and variances."""
    schedule, error = SCHEDULES[cell["schedule"]], cell["error"]
    oracle, draw, variance = law(cell["law"], schedule)
    if error.startswith("spread"):
        oracle, _, _ = law(cell["law"], schedule, float(error.split()[1]))
    return Wrong(oracle, error), draw, variance


def budgets(cell: dict[str, Any], samplers: tuple[str, ...] = SAMPLERS) -> Iterator[dict[str, Any]]:
    """The budget's row of the gap for every sampler that fits the cell; limits are shared."""
    model, draw, _ = model_and_law(cell)
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
        yield {
            **cell,
            "sampler": sampler,
            "limit": setup.sampler.limit,
            **{k: v[0] for k, v in here.items()},
            **{f"{k}_se": v[1] for k, v in here.items()},
        }


def answered(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose limit is known, with the budget's answer to each."""
    rows = rows[np.isfinite(rows["score_se"])]
    numbers = rows[["score", "score_se", "bias", "bias_se"]].itertuples(index=False)
    return rows.assign(
        answer=[fixed_answer(score, se, bias, MARGIN) for score, se, *bias in numbers]
    )


@cache
def truth(name: str, schedule: str, steps: int, error: str, sampler: str) -> tuple[float, float]:
    """The gap at the last noisy level, of the chain and of its limit, by brute force."""
    cell = {"law": name, "schedule": schedule, "error": error}
    model, draw, variance = model_and_law(cell)
    chain = parse(sampler)
    levels = chain.levels(model.schedule, steps)
    total = _walked(chain, levels[:-1], model, draw, variance)
    return total, _limit(name, schedule, steps, error, chain.limit == "sde")


@cache
def _limit(name: str, schedule: str, steps: int, error: str, sde: bool) -> float:
    model, draw, variance = model_and_law({"law": name, "schedule": schedule, "error": error})
    levels = model.schedule.levels(steps)
    fine, places = model.schedule.refined(levels, 32 if sde else 8, True)
    end: OneStep = DDPM() if sde else ode(model.schedule, levels)
    return _walked(end, fine[: int(places[-2]) + 1], model, draw, variance)


def _walked(
    sampler: OneStep,
    levels: tuple[Level, ...],
    model: eb.Denoiser,
    draw: Any,
    variance: Any,
    n: int = 16_384,
    batch: int = 4096,
) -> float:
    """The gap at the end of chains of fresh samples."""
    rng, ends = np.random.default_rng(10**6), []
    for first in range(0, n, batch):
        paths = Paths(10**6, range(first, first + batch), SHAPE).on(levels)
        x0 = torch.from_numpy(draw(batch, rng))
        start = levels[0].alpha * x0 + levels[0].sigma * paths.start(0)
        ends.append(rollout(model, start, levels, sampler, paths).flatten(1))
    last = levels[-1]
    expected = (last.alpha**2 * variance + last.sigma**2).sum()
    return float(torch.cat(ends).var(0).sum() / expected) - 1


def repeats(seed: int) -> Iterator[dict[str, Any]]:
    """The cells of `REPEATED` in turn, each time with other images and noise."""
    rng = np.random.default_rng(seed)
    while True:
        for name, schedule, steps, error in REPEATED:
            yield {
                "law": name,
                "schedule": schedule,
                "steps": steps,
                "n": 512,
                "error": error,
                "seed": int(rng.integers(2**31)),
            }


def covered(cell: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Budgets of a cell with what they should have found."""
    where = tuple(cell[k] for k in ("law", "schedule", "steps", "error"))
    for row in budgets(cell, ONE_STEP):
        total, score = truth(*where, row["sampler"])
        yield row | {"true_score": score, "true_discretisation": total - score}


def table(rows: pd.DataFrame, repeated: pd.DataFrame) -> str:
    """What was answered of exact and of wrong models, and how well the intervals hold."""
    rows, repeated = answered(rows), answered(repeated)
    exact, wrong = rows[rows["error"] == "exact"], rows[rows["error"] != "exact"]
    # Samplers of one limit differ in what is the solver's alone.
    limits = exact.drop_duplicates(["seed", "limit"])
    accused = limits["answer"].str.startswith("score error")
    z = limits["score"] / limits["score_se"]
    total = f"{rows['seed'].nunique()} cells, {len(rows)} budgets"
    coarse, open_ = (rows["answer"] == answer for answer in ("steps too coarse", "not decided"))
    lines = [
        "# How often the budget is right",
        "",
        "Made by `python benchmarks/verdict.py table`; do not edit. The rows are in",
        "`results/verdict/`.",
        "",
        f"{total}: a law (Gaussian, mixture, resampled digits), a schedule (linear, cosine, edm,",
        "flow), 20, 50 or 100 steps, 512 or 2048 images, and a model, drawn at random; each with",
        f"every sampler that fits. The row `gap` of the budget, margin {MARGIN:g}. Of all budgets,",
        f"{100 * coarse.mean():.1f} % are `steps too coarse` and {100 * open_.mean():.1f} % `not",
        "decided`.",
        "",
        "## Exact models",
        "",
        "Their limit has no score error; a false alarm is an answer `score error` (nominal 5 %).",
        "Samplers of one cell that tend to one limit get the same score error, so that they count",
        f"once: {accused.sum()} of {len(limits)} cells and limits ({share(accused)}); standard",
        f"deviation of score/se {z.std():.2f} (t with 15 degrees of freedom: 1.07). Limits of one",
        "cell share its images. The tables below count budgets.",
        "",
        *_answers(exact, "sampler"),
        *_answers(exact, "schedule"),
        *_answers(exact, "law"),
        *_answers(exact, "steps"),
        *_answers(exact, "n"),
        "",
        "## Wrong models",
        "",
        "Errors of ε̂: a factor at all levels, at the last (σ/α < 0.3) or at high frequencies, a",
        "bias, or the level it is asked at; `spread` is the exact denoiser of a law with that many",
        "times the (components') covariance. How large the gap is that they make differs by law",
        "and sampler; an answer within the margin may be right.",
        "",
        *_answers(wrong, "error"),
        "",
        "## Coverage",
        "",
        "How often 95 % intervals hold the truth: the same cells again and again with other images",
        "and noise, n = 512, against 16,384 samples of other images and other noise, the limit",
        "from 32 steps (ODE: 8) in place of each. Cells whose answer is `steps too coarse` count",
        "too.",
        "",
        *_coverage(repeated),
        "",
    ]
    return "\n".join(lines)


def _coverage(rows: pd.DataFrame) -> list[str]:
    """The share of intervals that hold the truth, and wrong signs, by cell."""
    held = pd.DataFrame(
        {
            part: (rows[part] - rows[f"true_{part}"]).abs() <= T_QUANTILE * rows[f"{part}_se"]
            for part in ("score", "discretisation")
        }
    )
    said = rows["answer"].map({"score error +": 1, "score error -": -1}).fillna(0)
    real = rows["true_score"].abs() > 0.003  # below that the brute force itself has no sign
    wrong = (said * np.sign(rows["true_score"]) < 0) & real
    lines = [
        "| cell | budgets | true score error | score held | discretisation held | wrong signs |",
        "|" + "---|" * 6,
    ]
    names = ["law", "schedule", "steps", "error"]
    for cell, here in rows.groupby(names, sort=False):
        lines.append(
            f"| {', '.join(map(str, cell))} | {len(here)}"
            f" | {here['true_score'].min():+.3f} to {here['true_score'].max():+.3f}"
            f" | {100 * held.loc[here.index, 'score'].mean():.1f} %"
            f" | {100 * held.loc[here.index, 'discretisation'].mean():.1f} %"
            f" | {wrong[here.index].sum()} |"
        )
    return [
        *lines,
        "",
        f"Over all: the score error's {share(held['score'])}; the discretisation error's",
        f"{share(held['discretisation'])}; wrong signs {wrong.sum()} of {len(rows)}.",
    ]


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
    parser.add_argument("what", choices=("cells", "coverage", "table"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "cells":
        run(cells(given.seed), budgets, CELLS, given.minutes)
    elif given.what == "coverage":
        run(repeats(given.seed), covered, COVERAGE, given.minutes)
    else:
        PAGE.write_text(table(pd.read_csv(CELLS), pd.read_csv(COVERAGE)))


def run(todo: Iterator[dict[str, Any]], measure: Any, out: Path, minutes: float) -> None:
    """Measure cells for some minutes, those that `out` has not got; a row is added at a time."""
    since, done = time.monotonic(), 0
    out.parent.mkdir(parents=True, exist_ok=True)
    seen = set(pd.read_csv(out)["seed"]) if out.exists() else set()
    for cell in todo:
        if time.monotonic() - since > 60 * minutes:
            break
        if cell["seed"] in seen:
            continue
        rows = pd.DataFrame(list(measure(cell)))
        rows.to_csv(out, mode="a", header=not out.exists(), index=False, float_format="%.6g")
        done += 1
        print(cell, " ".join(rows["sampler"]), flush=True)
    print(f"{done} cells in {time.monotonic() - since:.0f} s")


if __name__ == "__main__":
    main()
