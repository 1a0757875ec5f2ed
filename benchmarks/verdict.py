"""Does the budget decide, and rightly? Models whose truth is known, by the hundred.

    python benchmarks/verdict.py cells --minutes 60       # goes on where it stopped
    python benchmarks/verdict.py truth --minutes 60       # of the cells that there are
    python benchmarks/verdict.py remedies --minutes 10    # the scaling that diagnose suggests
    python benchmarks/verdict.py table                    # docs/verdict.md, of what is there

A *cell* is a law, a schedule, a number of steps and a model: the exact denoiser, or one with a
known error. Cells are drawn at random, so that whatever has been run is a fair sample.

The *truth* is measured by brute force: 4,096 other images and other paths, for the SDE's limit
ancestral sampling in 640 steps and more, extrapolated from half of them, for the ODE's in 160 and
more. An exact denoiser's limit has no error."""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

import exposure_bias as eb
from exposure_bias.diagnostics.denoising import denoising_check
from exposure_bias.experiments.bench import Bench
from exposure_bias.experiments.budget import fixed_answer
from exposure_bias.experiments.limits import ode
from exposure_bias.experiments.split import split
from exposure_bias.jackknife import GROUPS, T_QUANTILE, jackknife
from exposure_bias.paths import Paths
from exposure_bias.run import Stream
from exposure_bias.running.setup import prepare
from exposure_bias.samplers import DDPM, OneStep, parse
from exposure_bias.schedules import Level
from exposure_bias.streams import rollout

ROOT = Path(__file__).parents[1]
CELLS, TRUTH, REMEDIES = (
    ROOT / "results" / "verdict" / f"{name}.csv" for name in ("cells", "truth", "remedies")
)
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
WHERE = ["law", "schedule", "steps", "error"]
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
        passes = denoising_check(bench.forward).attrs["passes"]
        found = split(bench, setup, "chain")
        here = found.at("gap")
        yield {
            **cell,
            "sampler": sampler,
            "limit": setup.sampler.limit,
            **{k: v[0] for k, v in here.items()},
            **{f"{k}_se": v[1] for k, v in here.items()},
            "beyond": found.beyond_at("gap"),
            "denoises": passes,
        }


def answered(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows whose limit is known, with the budget's answer to each."""
    rows = rows[np.isfinite(rows["score_se"])]
    numbers = rows[["score", "score_se", "beyond"]].to_numpy()
    return rows.assign(answer=[fixed_answer(x, se, own, MARGIN) for x, se, own in numbers])


def cells_without_truth(seed: int) -> Iterator[dict[str, Any]]:
    """Those that have been run, once each, in their order; `seed` is of no account."""
    names = [*WHERE, "seed"]
    rows = pd.read_csv(CELLS)[names].drop_duplicates(WHERE)
    yield from ({k: getattr(row, k) for k in names} for row in rows.itertuples())


def truth(cell: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The gap at the last noisy level, of every chain and of both limits, by brute force."""
    model, draw, variance = model_and_law(cell)
    levels = model.schedule.levels(cell["steps"])

    def row(of: str, gap: tuple[float, float]) -> dict[str, Any]:
        return {**cell, "of": of, "true": gap[0], "true_se": gap[1]}

    for name in ONE_STEP:
        chain = cast(OneStep, parse(name))
        yield row(name, _gap([(1.0, chain, levels[:-1])], model, draw, variance))
    small = -(-640 // cell["steps"])
    limits: dict[str, list[tuple[float, OneStep, int]]] = {
        "sde": [(2.0, DDPM(), small), (-1.0, DDPM(), small // 2)],
        "ode": [(1.0, ode(model.schedule, levels), small // 4)],
    }
    for limit, weighted in limits.items():
        if cell["error"] == "exact":
            yield row(limit, (0.0, 0.0))
            continue
        chains = [(weight, chain, _fine(model, levels, k)) for weight, chain, k in weighted]
        yield row(limit, _gap(chains, model, draw, variance))


SCALES = ("exact", "scale 0.98", "scale 1.01", "scale 1.03")


def scaled(seed: int) -> Iterator[dict[str, Any]]:
    """Cells of models whose ε̂ is too large by a factor that epsilon scaling by it would mend."""
    rng = np.random.default_rng([seed, 1])
    while True:
        yield {
            "law": str(rng.choice(LAWS)),
            "schedule": str(rng.choice(list(SCHEDULES))),
            "steps": 20,
            "n": 512,
            "error": str(rng.choice(SCALES)),
            "seed": int(rng.integers(2**31)),
        }


def remedy(cell: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What `diagnose` says of a cell's network, and the scaling that it suggests for it."""
    model, draw, _ = model_and_law(cell)
    x = draw(cell["n"], np.random.default_rng(cell["seed"])).astype(np.float32)
    found = eb.diagnose(
        model,
        eb.load_data(x, value_range=None),
        steps=cell["steps"],
        n=cell["n"],
        seed=cell["seed"] % 1000,
        restarts=(),
    )
    gap = found.sel(statistic="gap")
    scale, error = (float(found.get(f"es_scale_score{k}", np.nan)) for k in ("", "_se"))
    reason = found["es_scale"].attrs.get("reason", "") if "es_scale" in found else "no remedy"
    yield {**cell, "answer": gap["answer"].item(), "scale": scale, "se": error, "reason": reason}


def _remedies(rows: pd.DataFrame) -> list[str]:
    """How near the suggested scaling comes to the one that mends the network."""
    lines = [
        "## The scaling that `diagnose` suggests",
        "",
        "Models whose ε̂ is too large by a factor at all levels, which epsilon scaling by that",
        "factor mends; ddpm, 20 steps, n = 512, every law and schedule. A scaling of the network's",
        "share is *suggested* where the answer is a score error and the effect of the probe is",
        "proportional; it *holds* where its 95 % interval does.",
        "",
        "| factor | models | suggested | holds | suggested less true: mean, sd | wrong direction |",
        "|" + "---|" * 6,
    ]
    for name, here in rows.groupby("error"):
        true = 1.0 if name == "exact" else float(str(name).split()[1])
        named = here["answer"].str.startswith("score error") & np.isfinite(here["scale"])
        said = here[named]
        off = said["scale"] - true
        holds = (off.abs() <= T_QUANTILE * said["se"]).sum()
        wrong = ((said["scale"] - 1) * (true - 1) < 0).sum()
        spread = f"{off.mean():+.4f}, {off.std():.4f}" if len(said) > 1 else "-"
        lines.append(f"| {true:g} | {len(here)} | {len(said)} | {holds} | {spread} | {wrong} |")
    return lines


def _fine(model: eb.Denoiser, levels: tuple[Level, ...], factor: int) -> tuple[Level, ...]:
    """Smaller steps, up to the last noisy level."""
    fine, places = model.schedule.refined(levels, factor, True)
    return fine[: int(places[-2]) + 1]


def _gap(
    chains: Sequence[tuple[float, OneStep, tuple[Level, ...]]],
    model: eb.Denoiser,
    draw: Any,
    variance: Any,
    n: int = 4096,
    batch: int = 1024,
) -> tuple[float, float]:
    """The weighted gap at the end of chains of fresh samples, with its error."""
    rng = np.random.default_rng(10**6)
    ends: list[list[Any]] = [[] for _ in chains]
    for first in range(0, n, batch):
        x0 = torch.from_numpy(draw(batch, rng))
        for (_, sampler, levels), end in zip(chains, ends, strict=True):
            paths = Paths(10**6, range(first, first + batch), SHAPE).on(levels)
            start = levels[0].alpha * x0 + levels[0].sigma * paths.start(0)
            end.append(rollout(model, start, levels, sampler, paths).flatten(1).numpy())
    last = chains[0][2][-1]
    expected = (last.alpha**2 * variance + last.sigma**2).sum()

    def gap(count: float, *sums: Any) -> Any:
        spread = [
            (square / count - (total / count) ** 2).sum() * count / (count - 1) / expected - 1
            for total, square in zip(sums[::2], sums[1::2], strict=True)
        ]
        return np.asarray(sum(w * g for (w, _, _), g in zip(chains, spread, strict=True)))

    groups = [np.concatenate(end).reshape(GROUPS, -1, end[0].shape[1]) for end in ends]
    sums = [part for end in groups for part in (end.sum(1), np.square(end).sum(1))]
    found = jackknife(gap, np.full(GROUPS, n / GROUPS), *sums)
    return float(found.value), float(found.error)


def table(rows: pd.DataFrame, truths: pd.DataFrame, suggested: pd.DataFrame) -> str:
    """What was answered of exact and of wrong models, and how well the intervals hold."""
    rows = answered(rows)
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
        f"decided`. The denoising check refuses {(rows['denoises'] == 'no').sum()}; none of these",
        "models should be.",
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
        *_held(rows, truths),
        "",
        *_remedies(suggested),
        "",
    ]
    return "\n".join(lines)


def _held(rows: pd.DataFrame, truths: pd.DataFrame) -> list[str]:
    """How often 95 % intervals hold what was measured by brute force, and what was found of it."""
    true = truths.set_index([*WHERE, "of"])[["true", "true_se"]]
    score = rows.drop_duplicates(["seed", "limit"]).join(true, [*WHERE, "limit"], how="inner")
    solver = rows.join(true, [*WHERE, "limit"], how="inner")
    solver = solver.join(true, [*WHERE, "sampler"], how="inner", suffixes=("", "_total"))
    score = score.assign(held=_within(score, "score", score["true"], score["true_se"]))
    solver = solver.assign(
        held=_within(
            solver,
            "discretisation",
            solver["true_total"] - solver["true"],
            np.hypot(solver["true_se"], solver["true_se_total"]),
        )
    )
    said = score["answer"].map({"score error +": 1, "score error -": -1}).fillna(0)
    known = score["true"].abs() > T_QUANTILE * score["true_se"]
    opposite = (said * np.sign(score["true"]) < 0) & known
    lines = [
        "## Against brute force",
        "",
        "4,096 samples of other images and other noise; the limits from 640 steps and more (SDE,",
        "extrapolated from half of them) or 160 and more (ODE). A 95 % interval holds where the",
        "two differ by less than 2.13 of their errors together. Cells whose answer is `steps too",
        "coarse` count too. Samplers of one limit count once for the score error.",
        "",
        f"The score error's interval: {share(score['held'])} of {len(score)}.",
        f"The discretisation error's: {share(solver['held'])} of {len(solver)} budgets.",
        "A sign opposite to the truth's was given",
        f"{opposite.sum()} times in {len(score)} ({share(opposite)}).",
        "",
        "| | limits | score held | budgets | discretisation held | opposite signs |",
        "|" + "---|" * 6,
    ]
    for by in ("schedule", "law", "steps", "n"):
        for name, here in score.groupby(by):
            theirs = solver[solver[by] == name]
            lines.append(
                f"| {by} {name} | {len(here)} | {100 * here['held'].mean():.1f} %"
                f" | {len(theirs)} | {100 * theirs['held'].mean():.1f} %"
                f" | {opposite[here.index].sum()} |"
            )
    size = pd.cut(
        score["true"].abs(),
        [-1, 0.005, 0.01, 0.02, 0.05, 0.1, np.inf],
        labels=["below 0.5 %", "0.5-1 %", "1-2 %", "2-5 %", "5-10 %", "above 10 %"],
    )
    answers = sorted(score["answer"].unique())
    lines += [
        "",
        "What was answered, by the true size of the score error (wrong models):",
        "",
        f"| true score error | n | limits | {' | '.join(answers)} |",
        "|" + "---|" * (len(answers) + 3),
    ]
    wrong = score[score["error"] != "exact"]
    for (name, n), here in wrong.groupby([size[wrong.index], "n"], observed=True):
        counts = " | ".join(str((here["answer"] == a).sum()) for a in answers)
        lines.append(f"| {name} | {n} | {len(here)} | {counts} |")
    return lines


def _within(rows: pd.DataFrame, part: str, true: Any, error: Any) -> "pd.Series[bool]":
    """Whether the interval of a part holds the truth, itself known to ± error."""
    return (rows[part] - true).abs() <= T_QUANTILE * np.hypot(rows[f"{part}_se"], error)


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
    parser.add_argument("what", choices=("cells", "truth", "remedies", "table"))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.what == "cells":
        run(cells(given.seed), budgets, CELLS, given.minutes)
    elif given.what == "truth":
        run(cells_without_truth(given.seed), truth, TRUTH, given.minutes)
    elif given.what == "remedies":
        run(scaled(given.seed), remedy, REMEDIES, given.minutes)
    else:
        PAGE.write_text(table(*map(pd.read_csv, (CELLS, TRUTH, REMEDIES))))


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
        print(cell, len(rows), flush=True)
    print(f"{done} cells in {time.monotonic() - since:.0f} s")


if __name__ == "__main__":
    main()
